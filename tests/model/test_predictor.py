from datetime import date

import polars as pl
import pytest

from interlock.errors import DataRefused
from interlock.model.predictor import fitting
from interlock.records import Column, Signature


def fit(frame, encoded=False, **types):
    inputs = tuple(Column(name=name, type=kind, nullable=True) for name, kind in types.items())
    return fitting(pl.DataFrame(frame), Signature(inputs=inputs), encoded=encoded)


def test_order_and_extra_columns():
    assert fit({"b": [1], "extra": [0], "a": [2]}, a="int", b="int").columns == ["a", "b"]


def test_missing_column_is_named():
    with pytest.raises(DataRefused, match="'a' is missing"):
        fit({"b": [1]}, a="int")


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None], "float", [1.0, None]),
        ([1.0, None], "int", [1, None]),
        ([True, None], "int", [1, None]),
        ([0, 1], "bool", [False, True]),
        ([date(2026, 1, 2)], "datetime", None),
        ([None, None], "str", [None, None]),
    ],
)
def test_lossless_casts(values, kind, expected):
    result = fit({"a": values}, a=kind)["a"]
    assert expected is None or result.to_list() == expected


@pytest.mark.parametrize(
    ("values", "kind"), [([1.5], "int"), (["1"], "bool"), (["x"], "float"), ([2], "bool"), ([float("nan")], "int")]
)
def test_lossy_casts_are_refused(values, kind):
    with pytest.raises(DataRefused, match=f"'a' is .* cannot be read as {kind}"):
        fit({"a": values}, a=kind)


def test_encoded_text_stays_encoded_only_when_asked():
    text = pl.Series(["x", "y"], dtype=pl.Categorical)
    assert fit({"a": text}, a="str")["a"].dtype == pl.String
    assert isinstance(fit({"a": text}, encoded=True, a="str")["a"].dtype, pl.Categorical)
