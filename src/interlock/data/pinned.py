"""The rows of a snapshot as they lie in the lake: where to read them, and whether they are those that were pinned."""

import tempfile
from pathlib import Path
from typing import Literal

import polars as pl

from interlock.data.content import rows_digest
from interlock.errors import NotFound, StoreFault
from interlock.ports import Parts
from interlock.records import Snapshot
from interlock.store.places import cache_of


def snapshot_frame(parts: Parts, key: str) -> pl.LazyFrame:
    """Rows of a snapshot's ``training_key`` or ``holdout_key``, lazily; fetched once when blobs are not local."""
    return pl.scan_parquet(snapshot_path(parts, key), glob=False)


def snapshot_path(parts: Parts, key: str) -> Path:
    """The file of a snapshot's key on this machine: the blob itself, or its copy in the cache. Read only."""
    path = parts.blobs.local(key)
    if path is not None:
        return path
    return cache_of(parts.settings).file(key, lambda to: parts.blobs.fetch(key, to))


def require_intact(
    parts: Parts, snapshot: Snapshot, part: Literal["training", "holdout"], *, stored: bool = False
) -> None:
    """Compare the rows that will be read with those that were pinned; with ``stored``, those that lie in the lake.

    A local copy of a lake that is elsewhere is thrown away when it differs, and fetched once more. Raises
    :class:`StoreFault` when the file cannot be read or holds other rows: user code or a person may have written to it
    since.
    """
    pinned = {snapshot.holdout_key: snapshot.holdout_digest}
    if part == "training":
        pinned = {snapshot.training_key: snapshot.training_digest}
        pinned |= {reference.key: reference.digest for reference in snapshot.references}
    for key, expected in pinned.items():
        if not _intact(parts, key, expected, stored=stored):
            raise StoreFault(
                f"The {part} rows in {key} are not those that were pinned.",
                next_step="Delete that file from the lake and run again: it is made again from the tables.",
                key=key,
            )


def _intact(parts: Parts, key: str, pinned: str, *, stored: bool) -> bool:
    if parts.blobs.local(key) is not None:
        return _holds(snapshot_path(parts, key), pinned)
    return _stored_holds(parts, key, pinned) if stored else _copy_holds(parts, key, pinned)


def _holds(path: Path, pinned: str) -> bool:
    try:
        return rows_digest(pl.scan_parquet(path, glob=False)) == pinned
    except (pl.exceptions.PolarsError, OSError):
        return False


def _stored_holds(parts: Parts, key: str, pinned: str) -> bool:
    """Look at the bytes in the lake, and leave the local copy alone."""
    with tempfile.TemporaryDirectory(prefix="interlock-") as scratch:
        path = Path(scratch) / "rows.parquet"
        try:
            parts.blobs.fetch(key, path)
        except NotFound:
            return False
        return _holds(path, pinned)


def _copy_holds(parts: Parts, key: str, pinned: str) -> bool:
    """Look at the local copy; one that differs is thrown away and fetched once more."""
    try:
        if _holds(snapshot_path(parts, key), pinned):
            return True
        cache_of(parts.settings).drop(key)
        return _holds(snapshot_path(parts, key), pinned)
    except NotFound:
        return False
