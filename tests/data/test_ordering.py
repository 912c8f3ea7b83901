import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from interlock.data import ordering
from interlock.data.ordering import write_sorted

SCHEMA = {"day": pl.Date(), "mark": pl.Int64(), "text": pl.String(), "number": pl.Float64()}
ORDERS = [["mark"], ["day", "mark"], ["mark", "text"], ["text", "number"], ["number", "day", "mark", "text"]]
rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.dates(date(2026, 1, 1), date(2026, 1, 3))),
        st.integers(0, 2**60),
        st.one_of(st.none(), st.sampled_from(["", "a", "b", "\u00e9"])),
        st.one_of(st.none(), st.sampled_from([0.0, -1.5, 2.0, float("inf"), float("nan")])),
    ),
    max_size=30,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(rows, st.sampled_from(ORDERS), st.integers(1, 400))
def test_ranges_give_the_order_of_one_sort(
    tmp_path: Path, values: list[tuple[Any, ...]], order: list[str], at_once: int
) -> None:
    frame = pl.DataFrame(values, schema=SCHEMA, orient="row")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        patch.setattr(ordering, "RANGE_BYTES", at_once)
        patch.setattr(ordering, "BATCH_ROWS", 7)
        path, scratch = Path(folder) / "sorted.parquet", Path(folder) / "scratch"
        scratch.mkdir()
        every = [*order, *(name for name in SCHEMA if name not in order)]  # so that equal rows are equal throughout
        assert write_sorted(frame.lazy(), every, path, scratch=scratch) == frame.height
        assert_frame_equal(pl.read_parquet(path), frame.sort(every))
        assert not list(scratch.iterdir())


def test_a_column_may_sort_and_be_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "RANGE_BYTES", 100)
    frame = pl.DataFrame({"mark": [(7 * place) % 100 for place in range(100)], "v": range(100)})
    write_sorted(frame.lazy(), ["mark"], tmp_path / "x.parquet", scratch=tmp_path, drop=["mark"])
    assert_frame_equal(pl.read_parquet(tmp_path / "x.parquet"), frame.sort("mark").select("v"))


def test_no_range_is_much_larger_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pl.DataFrame({"mark": [(7919 * place) % 100_003 for place in range(50_000)]})
    monkeypatch.setattr(ordering, "RANGE_BYTES", 80_000)
    heights, sort = list[int](), pl.DataFrame.sort

    def watched(self: pl.DataFrame, *by: Any, **how: Any) -> pl.DataFrame:
        heights.append(self.height)
        return sort(self, *by, **how)

    monkeypatch.setattr(pl.DataFrame, "sort", watched)
    write_sorted(frame.lazy(), ["mark"], tmp_path / "x.parquet", scratch=tmp_path)
    assert len(heights) > 5
    assert max(heights[1:]) < 20_000  # the first is of the sample
