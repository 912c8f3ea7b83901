"""The name of rows: a digest of their columns, types and values, however they are stored."""

import hashlib
from collections.abc import Iterator

import msgspec
import polars as pl

from interlock.data.casting import logical

_BATCH = 262_144


def rows_digest(rows: pl.LazyFrame) -> str:
    """SHA-256 of names, types and values of rows in their order; how they are stored does not matter.

    The JSON of names and types; then for each 262,144 rows and each column: the nulls as bits, and the
    values with nulls as zero: numbers as 8 bytes (dates as days, times as microseconds), booleans as bits, text as the
    length of each in 4 bytes and then all of it as UTF-8, bytes alike. Little-endian.
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
    elif series.dtype == pl.Binary:
        yield series.bin.size().fill_null(0).to_numpy().astype("<u4").tobytes()
        yield from (cell for cell in series if cell is not None)
    elif series.dtype == pl.Boolean:
        yield np.packbits(series.fill_null(value=False).to_numpy()).tobytes()
    elif series.dtype == pl.Float64:
        yield (series.fill_null(0.0) + 0.0).to_numpy().astype("<f8").tobytes()
    else:
        yield series.to_physical().cast(pl.Int64).fill_null(0).to_numpy().astype("<i8").tobytes()
