"""What the trivial model is, by the task and the rows."""

from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest

from interlock.errors import StoreFault
from interlock.model.baseline import RANKED, baseline_form
from interlock.model.forms import Constant, Ranked
from interlock.records import Column, ColumnType, Output, Signature
from interlock.settings import Data, Model, Settings


def made(task: Any, rows: dict[str, list[Any]], output: Output, inputs: dict[str, ColumnType] | None = None) -> Any:
    settings = Settings(model=Model(name="m", task=task, target="y"), data=Data(inbox="in"))
    columns = tuple(Column(name=name, type=kind, nullable=False) for name, kind in (inputs or {}).items())
    return baseline_form(settings, Signature(inputs=columns, output=output), pl.LazyFrame(rows))


def test_labels_get_the_commonest_one_and_the_shares() -> None:
    output = Output(kind="label", type="str", classes=("a", "b", "c"))
    form = made("classification", {"y": ["b", "a", "b", None]}, output)
    assert form == Constant(value="b", shares=(1 / 3, 2 / 3, 0.0))


def test_of_equally_common_labels_the_smallest() -> None:
    output = Output(kind="label", type="str", classes=("a", "b"))
    assert made("classification", {"y": ["b", "a"]}, output).value == "a"


def test_numbers_get_their_mean() -> None:
    assert made("regression", {"y": [1.0, 2.0, 6.0, None]}, Output(kind="number", type="float")) == Constant(value=3.0)


def test_rankings_get_the_most_frequent_values_first() -> None:
    values = [f"v{number:03}" for number in range(RANKED + 20)]
    form = made("ranking", {"y": [*values, "v050", "v050", "v007"]}, Output(kind="ranking", type="str"))
    assert isinstance(form, Ranked)
    assert (form.values[:3], len(form.values)) == (("v050", "v007", "v000"), RANKED)


def test_texts_get_the_commonest_one() -> None:
    assert made("text", {"y": ["x", "y", "y"]}, Output(kind="text", type="str")) == Constant(value="y")


def test_a_forecast_with_one_time_column_is_seasonal() -> None:
    days = [date(2026, 1, 1) + timedelta(days=number) for number in range(60)]
    rows = {"day": days, "y": [float(number % 7) for number in range(60)]}
    output = Output(kind="number", type="float")
    assert made("forecast", rows, output, {"day": "date"}).name == "seasonal"
    assert made("forecast", {**rows, "other": days}, output, {"day": "date", "other": "date"}).name == "constant"


def test_a_target_that_is_missing_everywhere_is_told() -> None:
    with pytest.raises(StoreFault, match="'y' is missing in every training row"):
        made("regression", {"y": [None, None]}, Output(kind="number", type="float"))
