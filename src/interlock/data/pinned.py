"""The rows of a snapshot as they lie in the lake: where to read them, and whether they are those that were pinned."""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import polars as pl

from interlock.data.casting import logical
from interlock.errors import NotFound, StoreFault
from interlock.ports import Parts
from interlock.records import Snapshot
from interlock.store.places import cache_of

_BATCH = 262_144


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
    training = part == "training"
    key, pinned = (
        (snapshot.training_key, snapshot.training_digest)
        if training
        else (snapshot.holdout_key, snapshot.holdout_digest)
    )
    if parts.blobs.local(key) is not None:
        intact = _holds(snapshot_path(parts, key), pinned)
    elif stored:
        intact = _stored_holds(parts, key, pinned)
    else:
        intact = _copy_holds(parts, key, pinned)
    if not intact:
        raise StoreFault(
            f"The {part} rows in {key} are not those that were pinned.",
            next_step="Delete that file from the lake and run again: it is made again from the tables.",
            key=key,
        )


def _holds(path: Path, pinned: str) -> bool:
    try:
        return content_digest(pl.scan_parquet(path, glob=False)) == pinned
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


def content_digest(rows: pl.LazyFrame) -> str:
    """SHA-256 of names, types and values of rows in their order; how they are stored does not matter.

    The JSON of names and types; then for each 262,144 rows and each column: the nulls as bits, and the
    values with nulls as zero: numbers as 8 bytes (dates as days, times as microseconds), booleans as bits, text as the
    length of each in 4 bytes and then all of it as UTF-8. Little-endian.
    """
    schema = rows.collect_schema()
    sha = hashlib.sha256(msgspec.json.encode([[name, logical(dtype)] for name, dtype in schema.items()]))
    for offset in range(0, int(rows.select(pl.len()).collect(engine="streaming").item()), _BATCH):
        for series in rows.slice(offset, _BATCH).collect().iter_columns():
            for part in _bytes(series):
                sha.update(part)
    return sha.hexdigest()


def _bytes(series: pl.Series) -> Iterator[bytes]:
    """The canonical bytes of one column of a batch."""
    import numpy as np  # 0.1 s that a turn with nothing new need not pay

    yield np.packbits(series.is_null().to_numpy()).tobytes()
    if series.dtype == pl.String:
        text = series.fill_null("")
        yield text.str.len_bytes().to_numpy().astype("<u4").tobytes()
        yield str(text.str.join("").item()).encode()
    elif series.dtype == pl.Boolean:
        yield np.packbits(series.fill_null(value=False).to_numpy()).tobytes()
    elif series.dtype == pl.Float64:
        yield (series.fill_null(0.0) + 0.0).to_numpy().astype("<f8").tobytes()
    else:
        yield series.to_physical().cast(pl.Int64).fill_null(0).to_numpy().astype("<i8").tobytes()
