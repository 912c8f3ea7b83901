# ruff: noqa: DTZ001  times of data have no zone
from datetime import date, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.data.casting import DTYPES, convert, fractional, infer_text, logical


def text(*values: str | None) -> pl.Series:
    return pl.Series("a", values, dtype=pl.String)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (("1", "-2", None), "int"),
        (("0", "10"), "int"),
        (("007", "1"), "str"),
        (("00.5", "1"), "str"),
        (("1", "2.5"), "float"),
        (("1e5", ".5", "-3."), "float"),
        (("NaN", "1.5"), "float"),
        (("nan", "NaN"), "str"),
        (("9223372036854775807",), "int"),
        (("9223372036854775808",), "str"),
        (("12345678901234567890", "1.5"), "str"),
        (("true", "False", "TRUE"), "bool"),
        (("true", "1"), "str"),
        (("2024-02-29",), "date"),
        (("2024-02-30",), "str"),
        (("2024-01-02T03:04", "2024-01-02 03:04:05.123456Z"), "datetime"),
        (("2024-01-02T25:00:00",), "str"),
        (("2024-01-02", "2024-01-02T03:04:05"), "str"),
        (("1", "x"), "str"),
        ((None,), "str"),
    ],
)
def test_text_is_of_a_type_only_when_all_of_it_is(values: tuple[str | None, ...], kind: str) -> None:
    assert infer_text(text(*values)) == kind


def test_inference_looks_at_every_row() -> None:
    assert infer_text(text(*["1"] * 5_000, "x")) == "str"
    assert infer_text(text(*["1"] * 5_000, "1.5")) == "float"
    assert infer_text(text(*["1"] * 5_000, "01")) == "str"


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_whole_numbers_come_back(values: list[int]) -> None:
    series = text(*map(str, values))
    assert infer_text(series) == "int"
    result, failed = convert(series, "int")
    assert result.to_list() == values
    assert failed is None


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_floats_come_back(values: list[float]) -> None:
    result, failed = convert(text(*map(repr, values)), "float")
    assert result.to_list() == values
    assert failed is None


@given(st.lists(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1)), min_size=1))
def test_times_come_back(values: list[datetime]) -> None:
    series = text(*(value.isoformat() for value in values))
    assert infer_text(series) == "datetime"
    assert convert(series, "datetime")[0].to_list() == values
    assert convert(text(*(value.isoformat(sep=" ") for value in values)), "datetime")[0].to_list() == values


@given(st.lists(st.one_of(st.none(), st.text(max_size=5), st.integers().map(str), st.floats().map(str)), max_size=20))
def test_every_cell_is_a_value_or_null_or_told(values: list[str | None]) -> None:
    series = text(*values)
    for kind, dtype in DTYPES.items():
        result, failed = convert(series, kind)
        assert result.dtype == dtype
        assert len(result) == len(values)
        told = failed.to_list() if failed is not None else [False] * len(values)
        for value, cell, bad in zip(values, result.to_list(), told, strict=True):
            assert (cell is None) == (value is None or not value.strip() or bad) or kind == "str"


def test_cells_that_do_not_fit_are_null_and_told() -> None:
    result, failed = convert(text("1", "2.0", "2.5", " 7 ", "x", "", None), "int")
    assert result.to_list() == [1, 2, None, 7, None, None, None]
    assert failed is not None
    assert failed.to_list() == [False, False, True, False, True, False, False]


def test_zones_are_moved_to_utc() -> None:
    result, failed = convert(text("2024-01-02T03:04:05+02:00", "2024-01-02 03:04Z", "2024-01-02"), "datetime")
    assert result.to_list() == [datetime(2024, 1, 2, 1, 4, 5), datetime(2024, 1, 2, 3, 4), datetime(2024, 1, 2)]
    assert failed is None
    zoned = pl.Series("a", [datetime(2024, 1, 2, 3)]).dt.replace_time_zone("Europe/Berlin")
    assert convert(zoned, "datetime")[0].to_list() == [datetime(2024, 1, 2, 2)]


def test_typed_columns_are_never_rounded() -> None:
    result, failed = convert(pl.Series("a", [1.0, 2.5, None, float("nan"), 1e300]), "int")
    assert result.to_list() == [1, None, None, None, None]
    assert failed is not None
    assert failed.to_list() == [False, True, False, True, True]
    times = pl.Series("a", [datetime(2024, 1, 2), datetime(2024, 1, 2, 5)])
    result, failed = convert(times, "date")
    assert result.to_list() == [date(2024, 1, 2), None]
    assert convert(pl.Series("a", [True]), "int")[1].to_list() == [True]  # type: ignore[union-attr]
    assert convert(pl.Series("a", [3, None]), "str")[0].to_list() == ["3", None]


def test_fractions_widen_and_words_do_not() -> None:
    for values, wide in (
        (("1.5",), True),
        (("x",), False),
        (("inf",), False),
        (("9" * 25,), False),
        (("x", "2.5"), True),
    ):
        series = text(*values)
        assert fractional(series, pl.Series([True] * len(values))) is wide


def test_only_plain_types_are_logical() -> None:
    assert logical(pl.List(pl.Int64)) is None
    assert logical(pl.Binary()) == "bytes"
    assert logical(pl.Decimal(10, 2)) == "float"
    assert logical(pl.Categorical()) == "str"
    assert logical(pl.UInt8()) == "int"


def test_bytes_become_text_only_where_they_are_text_and_nothing_else_becomes_bytes() -> None:
    cells = pl.Series("x", [b"\xff", "größe".encode(), None, b""])
    same, failed = convert(cells, "bytes")
    assert failed is None
    assert same.to_list() == cells.to_list()
    text, failed = convert(cells, "str")
    assert text.to_list() == [None, "größe", None, ""]
    assert failed is not None
    assert failed.to_list() == [True, False, False, False]
    for other in (pl.Series(["a"]), pl.Series([1]), pl.Series([0.5]), pl.Series([True])):
        none, failed = convert(other, "bytes")
        assert (none.dtype, none.to_list()) == (pl.Binary, [None])
        assert failed is not None
        assert failed.all()
    for kind in ("int", "float", "bool", "date", "datetime"):
        none, failed = convert(pl.Series([b"1"]), kind)
        assert none.null_count() == 1
        assert failed is not None
