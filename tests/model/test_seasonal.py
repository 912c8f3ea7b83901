from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from interlock.errors import StoreFault
from interlock.model.forms import load_form
from interlock.model.seasonal import fit_seasonal
from interlock.records import Column, Signature


def stored(form, folder, **types):
    for name, content in form.files().items():
        (folder / name).write_bytes(content)
    inputs = tuple(Column(name=name, type=kind, nullable=True) for name, kind in types.items())
    return load_form(folder, form.name, Signature(inputs=inputs))


class TestSeasonal:
    def test_week_is_found_in_daily_data_and_survives_storage(self, tmp_path):
        start = date(2025, 1, 1)
        days = [start + timedelta(days=i) for i in range(70)]
        pattern = [1.0, 2.0, 9.0, 4.0, 5.0, 20.0, 7.0]
        frame = pl.DataFrame({"day": days, "y": [pattern[i % 7] for i in range(70)]})
        form = stored(fit_seasonal(frame, "day", "y"), tmp_path, day="date")
        assert form.season == 7
        assert form.season_error["7"] == 0.0
        future = pl.DataFrame({"day": [start + timedelta(days=i) for i in (70, 76, 80, 200)]})
        assert form.answer(future)["prediction"].to_list() == [pattern[i % 7] for i in (70, 76, 80, 200)]

    def test_without_a_season_the_last_value_answers(self):
        frame = pl.DataFrame({"day": [date(2025, 1, 1) + timedelta(days=i) for i in range(30)], "y": np.arange(30.0)})
        form = fit_seasonal(frame, "day", "y")
        assert form.season == 1
        assert form.answer(pl.DataFrame({"day": [date(2025, 2, 15)]}))["prediction"].to_list() == [29.0]

    def test_months_are_calendar_months(self):
        months = [date(2020 + i // 12, i % 12 + 1, 1) for i in range(48)]
        frame = pl.DataFrame({"m": months, "y": [float(i % 12) ** 2 for i in range(48)]})
        form = fit_seasonal(frame, "m", "y")
        assert (form.unit, form.season) == ("month", 12)
        assert form.answer(pl.DataFrame({"m": [date(2024, 3, 1), date(2025, 12, 1)]}))["prediction"].to_list() == [
            4.0,
            121.0,
        ]

    def test_several_series_gaps_early_and_missing_times(self):
        frame = pl.DataFrame({"t": [1, 1, 2, 4, 5], "y": [1.0, 3.0, 5.0, 7.0, 9.0]})
        form = fit_seasonal(frame, "t", "y")
        assert form.values == (2.0, 5.0, 5.0, 7.0, 9.0)
        answer = form.answer(pl.DataFrame({"t": [6, 4, 0, None]}))["prediction"].to_list()
        assert answer == [9.0, 5.0, 5.0, 5.0]

    def test_no_rows(self):
        with pytest.raises(StoreFault, match="no series"):
            fit_seasonal(pl.DataFrame({"t": [None], "y": [1.0]}, schema={"t": pl.Date, "y": pl.Float64}), "t", "y")
