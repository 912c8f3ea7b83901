import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from interlock.data.spool import Spool

heights = st.lists(st.integers(0, 5), min_size=1, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(heights, st.integers(0, 100), st.randoms(use_true_random=False))
def test_a_spool_gives_back_what_it_was_given(tmp_path: Path, parts: list[int], budget: int, random: object) -> None:
    total = sum(parts)
    rows = pl.DataFrame({"a": range(total), "b": [f"row {place}" for place in range(total)]})
    rows = rows.cast({"a": pl.Int64, "b": pl.String})
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    spool, start = Spool(folder, "x", budget_bytes=budget), 0
    for height in parts:
        spool.add(rows.slice(start, height))
        start += height
    assert spool.height == total
    assert_frame_equal(spool.lazy().collect(), rows)
    assert_frame_equal(pl.concat(spool.frames()), rows)
    mask = np.array([random.random() < 0.5 for _ in range(total)], dtype=bool)  # type: ignore[attr-defined]
    assert_frame_equal(spool.gather(np.flatnonzero(mask), ["b"]), rows.filter(pl.Series(mask)).select("b"))
    spool.keep(mask)
    assert spool.height == mask.sum()
    assert_frame_equal(spool.lazy().collect(), rows.filter(pl.Series(mask)))
    again = mask[mask].copy()
    again[::2] = False
    spool.keep(again)
    left = rows.filter(pl.Series(mask)).filter(pl.Series(again))
    assert_frame_equal(spool.lazy().collect(), left)
    assert_frame_equal(pl.concat(spool.frames(["a"])), left.select("a"))
    spool.clear()
    assert not list(folder.iterdir())


def test_beyond_the_budget_rows_are_on_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "x", budget_bytes=1_000)
    for _ in range(5):
        spool.add(pl.DataFrame({"a": range(100)}))
    assert spool.spilled
    assert list(tmp_path.iterdir())


def test_what_is_on_disk_comes_back_in_the_pieces_it_came_in(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "x", budget_bytes=1_000)
    for _ in range(5):
        spool.add(pl.DataFrame({"a": range(100)}))
    assert [frame.height for frame in spool.frames()] == [100] * 5
