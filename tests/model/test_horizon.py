"""Steps of a forecast: found in the times of training, and counted on."""

from datetime import date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.model.horizon import step_of, steps_ahead
from interlock.records import Column


def dates(first, last, every):
    return pl.date_range(first, last, every, eager=True)


def ends(first, last, every="1mo"):
    return dates(first, last, every).dt.month_end()


def column(times, step="found"):
    kind = {pl.Date: "date", pl.Int64: "int"}.get(type(times.dtype), "datetime")
    last = times.max()
    high = last if isinstance(last, int) else last.isoformat()
    return Column(name="t", type=kind, nullable=False, high=high, step=step_of(times) if step == "found" else step)


@pytest.mark.parametrize(
    ("times", "step", "ahead"),
    [
        (dates(date(2020, 1, 1), date(2021, 11, 1), "1mo"), "1mo", [date(2021, 12, 1), date(2022, 1, 1)]),
        (dates(date(2020, 1, 15), date(2021, 3, 15), "1mo"), "1mo", [date(2021, 4, 15), date(2021, 5, 15)]),
        (ends(date(2020, 1, 1), date(2021, 2, 1)), "1mo end", [date(2021, 3, 31), date(2021, 4, 30)]),
        (ends(date(2019, 3, 1), date(2021, 12, 1), "3mo"), "3mo end", [date(2022, 3, 31), date(2022, 6, 30)]),
        (dates(date(2000, 1, 1), date(2020, 1, 1), "1y"), "12mo", [date(2021, 1, 1), date(2022, 1, 1)]),
        (dates(date(2020, 1, 1), date(2020, 2, 28), "1d"), "86400000000us", [date(2020, 2, 29), date(2020, 3, 1)]),
        (dates(date(2020, 1, 6), date(2020, 3, 2), "1w"), "604800000000us", [date(2020, 3, 9), date(2020, 3, 16)]),
        (
            pl.datetime_range(
                datetime.fromisoformat("2020-01-01T00:00"),
                datetime.fromisoformat("2020-01-02T00:00"),
                "15m",
                eager=True,
            ),
            "900000000us",
            [datetime.fromisoformat("2020-01-02T00:15"), datetime.fromisoformat("2020-01-02T00:30")],
        ),
        (pl.Series([10, 20, 30, 40]), "10", [50, 60]),
    ],
)
def test_the_step_is_found_and_goes_on(times, step, ahead):
    assert step_of(times) == step
    assert steps_ahead(column(times), 2) == ahead


def test_series_of_the_same_times_out_of_order_with_gaps_and_missing_ones_have_the_same_step():
    times = dates(date(2020, 1, 1), date(2029, 12, 1), "1mo").to_list()
    del times[40], times[70]
    assert step_of(pl.Series([*times[::-1], *times, None])) == "1mo"


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([date(2020, 1, 1), date(2020, 1, 2)]),
        pl.Series([], dtype=pl.Date),
        pl.Series([day for day in dates(date(2020, 1, 1), date(2020, 6, 1), "1d") if day.weekday() < 5]),
        pl.Series([date(2020, 1, 1), date(2020, 1, 3), date(2020, 1, 4), date(2020, 2, 9), date(2020, 2, 10)]),
        pl.Series([date(2020, 1, 1), date(2020, 2, 3), date(2020, 3, 5), date(2020, 4, 2)]),
        pl.Series([1.0, 2.0, 3.0, 4.0]),
        pl.Series(["a", "b", "c"]),
    ],
)
def test_times_without_a_regular_step_have_none(times):
    assert step_of(times) is None


@given(st.dates(date(1950, 1, 1), date(2050, 1, 1)), st.sampled_from([1, 3, 12]), st.booleans())
def test_months_go_on_as_a_longer_series_would_have(first, months, at_end):
    start = first.replace(day=1 if at_end else min(first.day, 28))
    times = (
        pl.Series([start])
        .dt.offset_by("0mo")
        .append(
            pl.Series([start])
            .repeat_by(40)
            .explode()
            .dt.offset_by(pl.Series([f"{months * n}mo" for n in range(1, 41)]))
        )
    )
    times = times.dt.month_end() if at_end else times
    known, ahead = times[:28], times[28:].to_list()
    assert steps_ahead(column(known), len(ahead)) == ahead
    for place in (0, 3, 7):
        for after in (ahead[place], ahead[place] + timedelta(days=1), ahead[place + 1] - timedelta(days=1)):
            assert steps_ahead(column(known), 2, after) == ahead[place + 1 : place + 3]


@pytest.mark.parametrize(
    ("times", "after", "ahead"),
    [
        (dates(date(2020, 1, 6), date(2020, 3, 2), "1w"), date(2020, 3, 17), date(2020, 3, 23)),
        (dates(date(2020, 1, 6), date(2020, 3, 2), "1w"), date(2020, 3, 2), date(2020, 3, 9)),
        (pl.Series([10, 20, 30]), 45, 50),
        (pl.Series([10, 20, 30]), 50, 60),
    ],
)
def test_steps_after_a_later_time_are_those_of_the_same_grid(times, after, ahead):
    assert steps_ahead(column(times), 1, after) == [ahead]


def test_what_training_saw_is_not_ahead():
    with pytest.raises(ValueError, match="before"):
        steps_ahead(column(pl.Series([10, 20, 30])), 1, 29)


@pytest.mark.parametrize(
    "last",
    [Column(name="t", type="date", nullable=False, high="9999-06-01", step=step) for step in ("12mo", "1mo end")]
    + [
        Column(name="t", type="date", nullable=False, high="9999-06-01", step="86400000000us"),
        Column(name="t", type="int", nullable=False, high=9.2e18, step=str(10**17)),
    ],
)  # fmt: skip
def test_no_time_is_made_that_no_calendar_has(last):
    with pytest.raises(OverflowError):
        steps_ahead(last, 1_000)


def test_a_day_is_a_day_whatever_the_type_holds():
    month = Column(name="t", type="datetime", nullable=False, high="2020-01-01T06:00:00", step="1mo")
    found = steps_ahead(month, 1)
    assert found == [datetime.fromisoformat("2020-02-01T06:00")]
    assert found[0] - timedelta(days=31) == datetime.fromisoformat("2020-01-01T06:00")
