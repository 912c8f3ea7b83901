"""Rows of a snapshot whose lake is elsewhere: copied once, and held against the digest that was pinned."""

import msgspec
import polars as pl
import pytest

from interlock.data.content import rows_digest
from interlock.data.pinned import require_intact, snapshot_frame, snapshot_path
from interlock.errors import StoreFault
from interlock.ports import Parts
from interlock.records import Snapshot
from interlock.settings import Model, Settings
from interlock.testing.clock import ManualClock
from interlock.testing.fakes import MemoryBlobs, MemoryLedger, MemoryTables

ROWS = pl.DataFrame({"a": [1, 2, 3], "b": ["x", None, "z"]})


@pytest.fixture
def far(tmp_path):
    """Parts whose blobs are no local files, and a snapshot in them."""
    clock = ManualClock()
    blobs = MemoryBlobs(clock)
    ROWS.write_parquet(tmp_path / "rows.parquet")
    for part in ("training", "holdout"):
        blobs.put(f"snapshots/s/{part}.parquet", tmp_path / "rows.parquet")
    pinned = rows_digest(ROWS.lazy())
    snapshot = msgspec.convert(
        {
            "digest": "s",
            "sources": [],
            "query": "",
            "columns": ["a", "b"],
            "rows": 6,
            "training_rows": 3,
            "holdout_rows": 3,
            "training_key": "snapshots/s/training.parquet",
            "holdout_key": "snapshots/s/holdout.parquet",
            "training_digest": pinned,
            "holdout_digest": pinned,
            "split": "",
            "join_notes": [],
            "at": "",
        },
        Snapshot,
    )
    settings = Settings(model=Model(name="m", task="regression"), root=tmp_path)
    parts = Parts(
        settings=settings, clock=clock, ledger=MemoryLedger(clock), blobs=blobs, tables=MemoryTables(tmp_path / "t")
    )
    return parts, snapshot


def test_rows_are_copied_once(far):
    parts, snapshot = far
    path = snapshot_path(parts, snapshot.training_key)
    assert path.is_relative_to(parts.settings.home / "cache")
    parts.blobs.delete(snapshot.training_key)
    assert snapshot_frame(parts, snapshot.training_key).collect().equals(ROWS)
    require_intact(parts, snapshot, "training")
    with pytest.raises(StoreFault, match="not those that were pinned"):
        require_intact(parts, snapshot, "training", stored=True)  # the copy is well, but the lake has lost it


def test_a_copy_that_was_changed_is_fetched_again(far):
    parts, snapshot = far
    path = snapshot_path(parts, snapshot.holdout_key)
    ROWS.head(2).write_parquet(path)
    require_intact(parts, snapshot, "holdout")
    assert snapshot_frame(parts, snapshot.holdout_key).collect().equals(ROWS)
    path.write_bytes(b"no rows at all")
    require_intact(parts, snapshot, "holdout")


def test_rows_that_were_changed_in_the_lake_are_refused(far, tmp_path):
    parts, snapshot = far
    ROWS.reverse().write_parquet(tmp_path / "other.parquet")
    for key in (snapshot.training_key, snapshot.holdout_key):
        parts.blobs.delete(key)
    parts.blobs.put(snapshot.training_key, tmp_path / "other.parquet")
    with pytest.raises(StoreFault, match=r"training\.parquet"):
        require_intact(parts, snapshot, "training")
    with pytest.raises(StoreFault, match=r"holdout\.parquet"):
        require_intact(parts, snapshot, "holdout")
