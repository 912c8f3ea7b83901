r"""Which rows are kept for judging, so that no row is ever trained on before it is judged.

**By key** (``holdout = { fraction = 0.2 }``): a row is in the holdout when the first 60 bits of the MD5 of its key's
canonical text, as a whole number, are below ``round(fraction * 2**60)``. The rule looks at nothing but the key, so a
row stays where it is however the data grows, and anybody can recompute it with any tool.

The canonical text of a key is the line that PostgreSQL's ``COPY ... TO`` would write: the columns in order, joined by a
tab; null is ``\N``; in text a backslash, tab, line feed and carriage return are written ``\\``, ``\t``, ``\n`` and
``\r``. Whole numbers are decimal (a float without a fraction too: ``5.0`` is ``5``, so that a column may become float
without moving a row); other floats are the shortest decimal that reads back the same; ``true`` and ``false``; dates are
``2026-11-21``, times ``2026-11-21T02:30:52.000000``; bytes are ``\\x`` and hexadecimal digits. UTF-8. Example: the
key (``a b``, null, 7) is ``a b<TAB>\N<TAB>7``.

**By time** (``{ last = "28d", time = "date" }``): rows at or after the newest time minus the duration are judged. The
window rolls forward with the data: a row is first judged, and trained on only when it has become old. It does not stay
in the holdout for ever, because a model of something that changes over time must learn from the recent past and be
judged on the newer one; and every model judged on a row was trained before it.

**By inbox** (``{ inbox = "data/test" }``): rows that arrived there. A row whose key is there too never trains.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import polars as pl

from interlock.data.casting import logical
from interlock.records import ColumnType
from interlock.settings import HoldoutSpec, Settings
from interlock.units import seconds

BITS = 60
MARK = "_mark"
"""Column with the first 60 bits of the hash (Int64): decides the split, and orders the rows within it."""
_ESCAPES = (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"))


def key_names(settings: Settings, columns: Sequence[str]) -> tuple[str, ...]:
    """Columns that the split hashes: ``holdout.key``, else the first source's key where all of it is in ``columns``.

    For images it is the digest of their bytes, so that an image under two names lies on one side. Empty: the whole row
    is hashed.
    """
    first = next(iter(settings.row_sources.values()))
    by_bytes = first.files == "images" and "digest" in columns
    wanted = settings.data.holdout.key or (("digest",) if by_bytes else first.key)
    return tuple(wanted) if set(wanted) <= set(columns) else ()


def feature_names(settings: Settings, snapshot_columns: Sequence[str]) -> tuple[str, ...]:
    """Columns that the model may see, in order.

    ``model.features`` where they are listed; else all but the target, the key of the split, the key of the first
    source, the digest of images, and, unless the task is forecast, the time column of a split by time (every judged
    time is later than all of training, so nothing can be learnt from it).
    """
    if settings.model.features:
        return tuple(settings.model.features)
    first = next(iter(settings.row_sources.values()))
    hidden = {settings.model.target, *key_names(settings, snapshot_columns), *first.key}
    if any(source.files == "images" for source in settings.row_sources.values()):
        hidden |= {"digest"}
    spec = settings.data.holdout
    if spec.last is not None and spec.time is not None:
        hidden = hidden - {spec.time} if settings.model.task == "forecast" else hidden | {spec.time}
    return tuple(name for name in snapshot_columns if name not in hidden)


def key_text(types: Mapping[str, ColumnType]) -> pl.Expr:
    """Canonical text of the columns ``types`` names, in its order (String, never null)."""
    return pl.concat_str([_cell(name, kind) for name, kind in types.items()], separator="\t")


def _cell(name: str, kind: ColumnType) -> pl.Expr:
    cell = pl.col(name)
    text = cell.bin.encode("hex") if kind == "bytes" else cell.cast(pl.String)
    if kind == "float":
        whole = (cell == cell.round()) & (cell.abs() < 2**53)
        text = pl.when(whole).then(cell.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(text)
    elif kind == "datetime":
        text = cell.cast(pl.Datetime("us")).dt.strftime("%Y-%m-%dT%H:%M:%S%.6f")
    elif kind == "bytes":
        text = pl.lit("\\\\x") + text
    elif kind == "str":
        for plain, escaped in _ESCAPES:
            text = text.str.replace_all(plain, escaped, literal=True)
    return text.fill_null("\\N")


def key_types(schema: Mapping[str, pl.DataType], key: Sequence[str]) -> dict[str, ColumnType]:
    """Logical types of the key columns (all columns for an empty key), in order."""
    return {name: logical(schema[name]) or "str" for name in key or schema}


def mark(types: Mapping[str, ColumnType]) -> pl.Expr:
    """First 60 bits of the MD5 of the canonical text, as Int64 from 0."""
    import numpy as np

    # Polars finds NumPy at its first use, and not safely when that happens in several of its threads at once.
    pl.Series(np.zeros(0, dtype=np.int64))
    return key_text(types).map_batches(_hashed, return_dtype=pl.Int64, is_elementwise=True).alias(MARK)


def _hashed(text: pl.Series) -> pl.Series:
    import numpy as np  # 0.1 s that a turn with nothing new need not pay

    md5 = hashlib.md5
    digests = b"".join([md5(value.encode(), usedforsecurity=False).digest() for value in text.to_list()])
    bits = np.frombuffer(digests, dtype=">u8")[::2] >> (64 - BITS)
    return pl.Series(text.name, bits.astype(np.int64))


def in_holdout_by_key(fraction: float) -> pl.Expr:
    """Boolean expression: the mark falls into the holdout's share."""
    return pl.col(MARK).lt(round(fraction * 2**BITS))


def window_start(newest: datetime, duration: str) -> datetime:
    """First moment that is judged when the newest row is of ``newest``."""
    return newest - timedelta(seconds=seconds(duration))


def in_holdout_by_time(column: str, start: datetime) -> pl.Expr:
    """Boolean expression: the row is at or after the start of the window."""
    return pl.col(column).cast(pl.Datetime("us")).ge(pl.lit(start, pl.Datetime("us")))


def described(spec: HoldoutSpec, key: Sequence[str]) -> str:
    """Explain the split in one line, for people and for the digest."""
    by = f"key {', '.join(key)}" if key else "the whole row"
    if spec.inbox is not None:
        return f"rows of {spec.inbox}; training without their {by}"
    if spec.last is not None:
        return f"last {spec.last} by {spec.time}"
    return f"fraction {spec.fraction} by MD5 of {by}"
