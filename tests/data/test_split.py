# ruff: noqa: DTZ001  times of data have no zone
import hashlib
from datetime import datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.data.split import (
    MARK,
    described,
    feature_names,
    in_holdout_by_key,
    in_holdout_by_time,
    key_names,
    key_text,
    key_types,
    mark,
    window_start,
)
from interlock.settings import Data, HoldoutSpec, Model, Settings, Source


def marks(frame: pl.DataFrame, key: list[str]) -> list[int]:
    return frame.lazy().with_columns(mark(key_types(frame.schema, key))).collect(engine="streaming")[MARK].to_list()


cell = st.one_of(
    st.none(), st.text(st.characters(codec="utf-8"), max_size=6), st.sampled_from(["\\N", "\t", "\\", "a\tb"])
)
rows = st.lists(st.tuples(cell, cell), min_size=1, max_size=20)


@given(rows)
def test_another_key_has_another_text(values: list[tuple[Any, ...]]) -> None:
    frame = pl.DataFrame(values, schema={"a": pl.String, "b": pl.String}, orient="row")
    texts = frame.select(key_text({"a": "str", "b": "str"})).to_series().to_list()
    assert len(set(texts)) == len(set(values))


@given(rows, rows)
def test_a_row_stays_where_it_is_whatever_comes(first: list[tuple[Any, ...]], later: list[tuple[Any, ...]]) -> None:
    schema = {"a": pl.String, "b": pl.String}
    alone = marks(pl.DataFrame(first, schema=schema, orient="row"), ["a", "b"])
    together = marks(pl.DataFrame([*later, *first], schema=schema, orient="row"), ["a", "b"])
    assert together[len(later) :] == alone


def test_anybody_can_recompute_it() -> None:
    frame = pl.DataFrame({"a": ["a b"], "b": [None], "c": [7.0], "t": [datetime(2026, 11, 21, 2, 30, 52)], "x": [True]})
    frame = frame.cast({"b": pl.String})
    by_hand = "a b\t\\N\t7\t2026-11-21T02:30:52.000000\ttrue"
    assert marks(frame, []) == [int(hashlib.md5(by_hand.encode()).hexdigest()[:15], 16)]


def test_a_column_that_becomes_float_moves_no_row() -> None:
    ints = pl.DataFrame({"a": [5, -3, None, 2**40]})
    assert marks(ints, ["a"]) == marks(ints.cast(pl.Float64), ["a"])


def test_the_share_is_as_asked() -> None:
    frame = pl.DataFrame({"a": range(20_000)}).with_columns(mark({"a": "int"}))
    for fraction in (0.05, 0.2, 0.5):
        share = frame.select(in_holdout_by_key(fraction).mean()).item()
        assert share == pytest.approx(fraction, abs=0.01)


def test_a_smaller_share_lies_within_a_larger() -> None:
    frame = pl.DataFrame({"a": range(2_000)}).with_columns(mark({"a": "int"}))
    small, large = (frame.filter(in_holdout_by_key(share))["a"].to_list() for share in (0.1, 0.3))
    assert set(small) <= set(large)


def test_the_window_ends_at_the_newest_row() -> None:
    assert window_start(datetime(2026, 1, 29), "28d") == datetime(2026, 1, 1)


def settings(holdout: HoldoutSpec, task: str = "classification", **data: Any) -> Settings:
    model = Model(name="m", task=task, target="y", features=data.pop("features", ()))  # type: ignore[arg-type]
    return Settings(model=model, data=Data(inbox="in", holdout=holdout, **data))


def test_the_key_of_the_split() -> None:
    columns = ["id", "who", "t", "x", "y"]
    by = HoldoutSpec(fraction=0.2)
    assert key_names(settings(by), columns) == ()
    assert key_names(settings(by, key=("id",)), columns) == ("id",)
    assert key_names(settings(HoldoutSpec(fraction=0.2, key=("who",)), key=("id",)), columns) == ("who",)
    several = settings(by, sources={"a": Source(inbox="a", key=("gone",)), "b": Source(inbox="b", key=("id",))})
    assert key_names(several, columns) == ()


def test_features_are_what_is_left() -> None:
    columns = ["id", "who", "t", "x", "y"]
    assert feature_names(settings(HoldoutSpec(fraction=0.2), key=("id",)), columns) == ("who", "t", "x")
    assert feature_names(settings(HoldoutSpec(fraction=0.2, key=("who",)), key=("id",)), columns) == ("t", "x")
    by_time = HoldoutSpec(last="7d", time="t")
    assert feature_names(settings(by_time, key=("id",)), columns) == ("who", "x")
    assert feature_names(settings(by_time, "forecast", key=("id",)), columns) == ("who", "t", "x")
    assert feature_names(settings(by_time, features=("t", "id")), columns) == ("t", "id")


def test_a_split_can_be_told() -> None:
    assert described(HoldoutSpec(fraction=0.2), ["id"]) == "fraction 0.2 by MD5 of key id"
    assert described(HoldoutSpec(last="7d", time="t"), []) == "last 7d by t"
    assert "the whole row" in described(HoldoutSpec(inbox="data/test"), [])
    assert described(HoldoutSpec(fraction=0.2), ["id", "day"]) == "fraction 0.2 by MD5 of key id, day"
    assert described(HoldoutSpec(fraction=0.2), []) == "fraction 0.2 by MD5 of the whole row"


def texts(values: list[float | None]) -> list[str]:
    return pl.DataFrame({"a": values}, schema={"a": pl.Float64}).select(key_text({"a": "float"})).to_series().to_list()


def test_numbers_with_a_fraction_and_beyond_what_a_float_counts_keep_their_text() -> None:
    """Whole up to 2 ** 53, where every whole number is a float; above, the shortest decimal. Never null for a value."""
    assert texts([0.5, -2.25, 3.0, None]) == ["0.5", "-2.25", "3", "\\N"]
    assert texts([2.0**53 - 1]) == [str(2**53 - 1)]
    assert texts([2.0**53]) == ["9007199254740992.0"]
    assert float(texts([1e300])[0]) == 1e300
    assert texts([float("inf")]) == ["inf"]


def test_the_first_moment_of_the_window_is_judged() -> None:
    start = datetime(2026, 1, 1)
    frame = pl.DataFrame({"t": [datetime(2025, 12, 31, 23, 59, 59), start, datetime(2026, 1, 2), None]})
    assert frame.select(in_holdout_by_time("t", start)).to_series().to_list() == [False, True, True, None]
    days = frame.select(pl.col("t").dt.date())
    assert days.select(in_holdout_by_time("t", start)).to_series().to_list() == [False, True, True, None]


def test_a_key_may_be_all_of_the_columns() -> None:
    assert key_names(settings(HoldoutSpec(fraction=0.2), key=("id", "day")), ["day", "id"]) == ("id", "day")


def test_the_text_of_bytes_is_that_of_postgres() -> None:
    frame = pl.DataFrame({"x": [b"hi\x00", b"", None]})
    assert frame.select(key_text({"x": "bytes"})).to_series().to_list() == ["\\\\x686900", "\\\\x", "\\N"]


def test_an_image_is_held_out_by_its_bytes_and_the_digest_is_no_feature() -> None:
    by, columns = HoldoutSpec(fraction=0.2), ["file", "image", "digest", "y"]
    images = settings(by, files="images")
    assert key_names(images, columns) == ("digest",)
    assert key_names(images, ["file", "image", "y"]) == ("file",)
    assert feature_names(images, columns) == ("image",)
    assert feature_names(settings(HoldoutSpec(fraction=0.2, key=("file",)), files="images"), columns) == ("image",)
    assert key_names(settings(by), columns) == ()
    assert feature_names(settings(by), columns) == ("file", "image", "digest")
    second = settings(by, sources={"a": Source(inbox="a", key=("file",)), "b": Source(inbox="b", files="images")})
    assert key_names(second, columns) == ("file",)
    assert feature_names(second, columns) == ("image",)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_the_text_of_a_time_has_microseconds_whatever_its_unit(unit: Any) -> None:
    frame = pl.DataFrame({"t": [datetime(2026, 1, 2, 3, 4, 5, 6000), None]}).cast({"t": pl.Datetime(unit)})
    texts = frame.select(key_text({"t": "datetime"})).to_series().to_list()
    assert texts == ["2026-01-02T03:04:05.006000", "\\N"]


def test_the_kinds_of_a_key_are_those_of_its_columns() -> None:
    schema = {"a": pl.Int8(), "b": pl.Boolean(), "c": pl.Date(), "d": pl.Binary(), "e": pl.Null(), "f": pl.Float32()}
    assert key_types(schema, ["d", "a"]) == {"d": "bytes", "a": "int"}
    assert list(key_types(schema, [])) == list("abcdef")
    assert key_types(schema, ["e"]) == {"e": "str"}
    assert key_types({"g": pl.Duration()}, ["g"]) == {"g": "str"}
    frame = pl.DataFrame({"b": [True, None], "c": [datetime(2026, 1, 2).date(), None], "a": [-3, 0]})
    texts = frame.select(key_text({"b": "bool", "c": "date", "a": "int"})).to_series().to_list()
    assert texts == ["true\t2026-01-02\t-3", "\\N\t\\N\t0"]


def test_text_is_escaped_as_copy_does() -> None:
    frame = pl.DataFrame({"a": ["a\tb\nc\rd\\e", "\\N", "\\t", ""]})
    texts = frame.select(key_text({"a": "str"})).to_series().to_list()
    assert texts == ["a\\tb\\nc\\rd\\\\e", "\\\\N", "\\\\t", ""]


def test_the_share_is_cut_at_a_whole_number_of_marks() -> None:
    """A mark below a quarter of 2 ** 60 is held out, and none at it."""
    cut = 1 << 58
    frame = pl.DataFrame({MARK: [0, cut - 1, cut, (1 << 60) - 1]})
    assert frame.select(in_holdout_by_key(0.25)).to_series().to_list() == [True, True, False, False]
    third = round(2**60 / 3)
    near = pl.DataFrame({MARK: [third - 1, third]})
    assert near.select(in_holdout_by_key(1 / 3)).to_series().to_list() == [True, False]
