# ruff: noqa: DTZ001  times of data have no zone
import math
from datetime import date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.data.profile import Profile, merge, profile, psi
from interlock.errors import DataRefused


def numbers(seed: int, rows: int, shift: float = 0.0) -> pl.DataFrame:
    return pl.DataFrame({"x": np.random.default_rng(seed).normal(shift, 1, rows)})


def distance(reference: pl.DataFrame, other: pl.DataFrame) -> float:
    first = profile(reference)
    return psi(first.columns[0], profile(other, reference=first).columns[0])


def test_a_profile_tells_the_column() -> None:
    frame = pl.DataFrame({"x": [1.0, 2.0, None, 4.0, math.inf], "s": ["a", "b", "b", None, "b"], "_row": range(5)})
    x, s = profile(frame).columns
    assert (x.count, x.nulls, x.strange, x.low, x.high, x.distinct) == (5, 1, 1, 1.0, 4.0, 3)
    assert x.mean == pytest.approx(7 / 3)
    assert x.std == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert sum(x.bins) == 3
    assert (s.categories, s.other, s.nulls) == ({"b": 3, "a": 1}, 0, 1)


def test_dates_and_times_are_numbers() -> None:
    frame = pl.DataFrame({"d": [date(1970, 1, 2)], "t": [datetime(1970, 1, 1, 0, 0, 2)]})
    assert [column.low for column in profile(frame).columns] == [1.0, 2.0]


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=2, max_size=60),
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=60),
    st.integers(0, 60),
)
def test_profiles_of_parts_add_up_to_the_profile_of_the_whole(
    reference: list[float | None], values: list[float | None], cut: int
) -> None:
    schema = {"x": pl.Float64}
    first = profile(pl.DataFrame({"x": reference}, schema=schema))
    frame = pl.DataFrame({"x": values}, schema=schema)
    parts = [profile(part, reference=first) for part in (frame[:cut], frame[cut:])]
    whole, added = profile(frame, reference=first).columns[0], merge(*parts).columns[0]
    assert (added.bins, added.nulls, added.count, added.low, added.high) == (
        whole.bins, whole.nulls, whole.count, whole.low, whole.high,
    )  # fmt: skip
    assert added.mean == (None if whole.mean is None else pytest.approx(whole.mean, rel=1e-9, abs=1e-6))
    assert added.spread == pytest.approx(whole.spread, rel=1e-6, abs=1e-3)
    assert sum(whole.bins) + whole.nulls == len(values)


def test_names_add_up_too() -> None:
    a = profile(pl.DataFrame({"s": ["x", "y", "y"]}))
    b = profile(pl.DataFrame({"s": ["y", "new", None]}), reference=a)
    assert b.columns[0].categories == {"y": 1, "x": 0}
    assert b.columns[0].other == 1
    both = merge(a, b).columns[0]
    assert (both.categories, both.other, both.nulls, both.count) == ({"y": 3, "x": 1}, 1, 1, 6)


def test_other_bins_do_not_merge() -> None:
    with pytest.raises(DataRefused, match="different bins"):
        merge(profile(numbers(1, 100)), profile(numbers(2, 100)))
    with pytest.raises(DataRefused, match="different columns"):
        merge(profile(numbers(1, 9)), Profile(rows=0, columns=()))


def test_psi_has_no_bias_without_drift() -> None:
    found = [distance(numbers(seed, 2_000), numbers(1_000 + seed, 500)) for seed in range(40)]
    raw_bias = 63 * (1 / 2_000 + 1 / 500)
    assert np.mean(found) < raw_bias / 5


def test_psi_grows_with_drift() -> None:
    reference = numbers(0, 5_000)
    none, some, much = (distance(reference, numbers(1, 5_000, shift)) for shift in (0.0, 0.3, 1.0))
    assert none < 0.01 < some < much
    # two normals one standard deviation apart: PSI is the symmetric Kullback-Leibler divergence, here 1
    assert much == pytest.approx(1.0, abs=0.25)


def test_what_a_constant_reference_never_saw_is_seen() -> None:
    reference = pl.DataFrame({"x": [5.0] * 1_000})
    assert distance(reference, reference) == 0.0
    for value in (4.0, 6.0):
        assert distance(reference, pl.DataFrame({"x": [5.0] * 500 + [value] * 500})) > 1
    assert distance(reference, pl.DataFrame({"x": [5.0] * 500 + [None] * 500})) > 1


def test_unseen_names_and_missing_data_are_drift() -> None:
    reference = pl.DataFrame({"s": ["a", "b"] * 500})
    assert distance(reference, reference) == 0.0
    assert distance(reference, pl.DataFrame({"s": ["a", "b", "c", "c"] * 250})) > 0.5
    assert distance(reference, pl.DataFrame({"s": ["a", "b", None, None] * 250})) > 0.5


def test_of_bytes_the_sizes_are_counted() -> None:
    frame = pl.DataFrame({"image": [b"x" * size for size in range(1, 101)] + [None]})
    (column,) = profile(frame).columns
    assert (column.type, column.count, column.nulls, column.low, column.high) == ("bytes", 101, 1, 1.0, 100.0)
    assert column.categories is None
    larger = profile(pl.DataFrame({"image": [b"x" * 900] * 50}), reference=profile(frame))
    assert psi(column, larger.columns[0]) > 1.0
