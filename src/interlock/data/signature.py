"""What a table looks like, and whether rows look the same: types, nullability, categories and ranges.

:func:`check` finds cells that must not pass (hard findings); :func:`drift_notes` counts what is new but possible
(soft findings: categories never seen, numbers outside of the range seen). Ingest and batch scoring use the same code.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from interlock.data.casting import logical
from interlock.data.opening import shown
from interlock.data.readers import BAD_SCHEMA, ROW, read_file
from interlock.errors import DataRefused
from interlock.records import Column, ColumnType, Record
from interlock.settings import CATEGORY_CAP

CELL_SCHEMA = {"row": pl.UInt64(), "column": pl.String(), "reason": pl.String()}
INTERNAL = ("_file", "_row", "_seq")
"""Lineage columns that Interlock adds to stored rows; they are no part of a signature."""


class Drift(Record, frozen=True, kw_only=True):
    """Soft findings in one column: rows with a category never seen, and rows outside of the range seen."""

    column: str
    rows: int
    unseen: int = 0
    outside: int = 0


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A file held against a signature.

    ``frame``: the good rows, in order, with ``_row`` (place in the file, from 1), the inputs in the order and types of
    the signature, then ``extra`` columns. ``bad``: (row, column, reason) of cells that do not fit, ``rows_bad`` rows.
    """

    frame: pl.DataFrame
    bad: pl.DataFrame
    rows: int
    rows_bad: int
    extra: tuple[str, ...]
    notes: tuple[str, ...]


def infer(frame: pl.DataFrame | pl.LazyFrame, *, types: Mapping[str, ColumnType] | None = None) -> tuple[Column, ...]:
    """Columns of a frame as a signature: type, whether nulls occur, categories (up to the cap) and range.

    ``types`` overrides the type that is written down. Raises :class:`DataRefused` for a column of no plain type.
    """
    lazy = frame.lazy()
    schema = {name: dtype for name, dtype in lazy.collect_schema().items() if name not in INTERNAL}
    kinds = {name: (types or {}).get(name) or _plain(name, dtype) for name, dtype in schema.items()}
    facts = _facts(lazy, kinds)
    return tuple(
        Column(
            name=name,
            type=kind,
            nullable=facts[f"{place}:nulls"] > 0,
            categories=_categories(lazy, name) if kind in ("str", "bool") else None,
            low=_bound(facts.get(f"{place}:low")),
            high=_bound(facts.get(f"{place}:high")),
        )
        for place, (name, kind) in enumerate(kinds.items())
    )


def _plain(name: str, dtype: pl.DataType) -> ColumnType:
    kind = logical(dtype)
    if kind is None:
        raise DataRefused(
            f"Column '{shown(name)}' holds {dtype}, which is no plain value.",
            next_step="Make it a number, text, true/false, a date or a time.",
            column=name,
        )
    return kind


def _facts(lazy: pl.LazyFrame, kinds: Mapping[str, ColumnType]) -> dict[str, Any]:
    """Null counts and ranges of all columns in one pass."""
    wanted: list[pl.Expr] = []
    for place, (name, kind) in enumerate(kinds.items()):
        column = pl.col(name)
        wanted.append(column.null_count().alias(f"{place}:nulls"))
        if kind not in ("str", "bool", "bytes"):
            wanted += [column.min().alias(f"{place}:low"), column.max().alias(f"{place}:high")]
    return lazy.select(wanted).collect(engine="streaming").row(0, named=True) if wanted else {}


def _bound(value: Any) -> float | str | None:
    if value is None or isinstance(value, str):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else float(value)


def _categories(lazy: pl.LazyFrame, name: str) -> tuple[str, ...] | None:
    column = pl.col(name).cast(pl.String).drop_nulls()
    # most columns with too many categories show it at once, and need not be looked at whole
    if lazy.select(column.head(10 * CATEGORY_CAP).n_unique()).collect().item() > CATEGORY_CAP:
        return None
    values = lazy.select(column.unique().head(CATEGORY_CAP + 1)).collect(engine="streaming")
    found = values.to_series().to_list()
    return tuple(sorted(found)) if len(found) <= CATEGORY_CAP else None


def widen(before: Sequence[Column], seen: Sequence[Column]) -> tuple[Column, ...]:
    """``before`` grown by what a new file showed: nullability, categories and ranges only ever grow."""
    new = {column.name: column for column in seen}
    return tuple(_grown(column, new[column.name]) if column.name in new else column for column in before)


def _grown(old: Column, new: Column) -> Column:
    lows = [value for value in (old.low, new.low) if value is not None]
    highs = [value for value in (old.high, new.high) if value is not None]
    categories = None
    if old.categories is not None and new.categories is not None:
        union = sorted({*old.categories, *new.categories})
        categories = tuple(union) if len(union) <= CATEGORY_CAP else None
    return Column(
        name=old.name,
        type=new.type,
        nullable=old.nullable or new.nullable,
        categories=categories,
        low=min(lows, default=None),
        high=max(highs, default=None),
    )


# ---- hard findings ---------------------------------------------------------------------------------------------------


def check(frame: pl.DataFrame, columns: Sequence[Column], *, nullable: Collection[str] = ()) -> pl.DataFrame:
    """Cells of ``frame`` that break the signature: frame (row UInt64 from 0, column, reason), by column.

    A null where none was before (unless ``nullable`` names the column or ``*``), a value of another type, a number that
    is not finite. Whole floats pass for int and ints for float. Raises :class:`DataRefused` when a column is missing.
    """
    require(frame.columns, columns, "the frame")
    counts = _counts(frame, columns)
    found: list[pl.DataFrame] = []
    for column in columns:
        series = frame[column.name]
        may_be_null = column.nullable or column.name in nullable or "*" in nullable
        if not may_be_null and series.null_count():
            found.append(_where(series.is_null(), column.name, "is empty, and never was before"))
        if counts.get(column.name):
            found.append(_where(~series.is_finite(), column.name, "is not a finite number"))
        mask = _mistyped(series, column.type)
        if mask is not None:
            found.append(_where(mask, column.name, f"is {logical(series.dtype)} where {column.type} is expected"))
    return pl.concat(found) if found else pl.DataFrame(schema=CELL_SCHEMA)


def suspicious(columns: Sequence[Column], values: Sequence[pl.Series], *, nullable: Collection[str] = ()) -> bool:
    """May a cell break the signature? A quick look at null counts and sums (a sum is finite only when every value is).

    ``values``: those of each column, in the order and of the types of ``columns``. Where not, :func:`check` finds none.
    """
    for column, series in zip(columns, values, strict=True):
        if series.null_count() and not (column.nullable or column.name in nullable or "*" in nullable):
            return True
        if column.type == "float" and not math.isfinite(series.sum()):
            return True
    return False


def _counts(frame: pl.DataFrame, columns: Sequence[Column]) -> dict[str, int]:
    """How many values of each float column are not finite."""
    floats = [column.name for column in columns if frame.schema[column.name].is_float()]
    if not floats or not frame.height:
        return {}
    return frame.select((~pl.col(name).is_finite()).sum() for name in floats).row(0, named=True)


def _mistyped(series: pl.Series, want: ColumnType) -> pl.Series | None:
    """Cells of another type than ``want``, or None."""
    have = logical(series.dtype)
    if have == want or (have, want) in {("int", "float"), ("date", "datetime")} or series.null_count() == series.len():
        return None
    if (have, want) == ("float", "int"):
        fraction = series.is_finite() & (series != series.round())
        return fraction if fraction.any() else None
    return series.is_not_null()


def _where(mask: pl.Series, column: str, reason: str) -> pl.DataFrame:
    rows = mask.fill_null(value=False).arg_true().cast(pl.UInt64)
    return pl.DataFrame(
        {"row": rows, "column": [column] * len(rows), "reason": [reason] * len(rows)}, schema=CELL_SCHEMA
    )


def require(have: Collection[str], columns: Sequence[Column], where: str) -> None:
    """Raise :class:`DataRefused` naming the columns that ``where`` lacks."""
    missing = [column.name for column in columns if column.name not in have]
    if missing:
        raise DataRefused(
            f"Column '{shown(missing[0])}' is missing from {where}"
            f" (it has {len(columns) - len(missing)} of the {len(columns)} columns of the signature"
            + (f"; {len(missing)} are missing)." if len(missing) > 1 else ")."),
            next_step="Send the file with all of its columns.",
            missing=missing,
        )


# ---- soft findings ---------------------------------------------------------------------------------------------------


def drift_notes(frame: pl.DataFrame, columns: Sequence[Column]) -> list[Drift]:
    """Count, column by column, rows with a category never seen or outside of the range seen; no entry for none."""
    wanted: list[pl.Expr] = []
    compared = [
        column for column in columns if judged(column) and _comparable(frame.schema.get(column.name), column.type)
    ]
    for place, column in enumerate(compared):
        cell = pl.col(column.name)
        if column.categories is not None:
            unseen = ~cell.cast(pl.String).is_in(list(column.categories))
            wanted.append(unseen.sum().alias(f"{place}:unseen"))
        elif column.low is not None and column.high is not None:
            low, high = (_as_literal(bound, column.type) for bound in (column.low, column.high))
            wanted.append(((cell < low) | (cell > high)).sum().alias(f"{place}:outside"))
    counts = frame.select(wanted).row(0, named=True) if wanted and frame.height else {}
    drifts = [
        Drift(
            column=column.name,
            rows=frame.height,
            unseen=counts.get(f"{place}:unseen") or 0,
            outside=counts.get(f"{place}:outside") or 0,
        )
        for place, column in enumerate(compared)
    ]
    return [drift for drift in drifts if drift.unseen or drift.outside]


def judged(column: Column) -> bool:
    """Say whether the signature knows which values of the column were seen: categories, or a range."""
    ranged = column.low is not None and column.high is not None and column.type not in ("str", "bool")
    return column.categories is not None or ranged


def _comparable(dtype: pl.DataType | None, type_: ColumnType) -> bool:
    have = logical(dtype) if dtype is not None else None
    return have == type_ or {have, type_} == {"int", "float"}


def _as_literal(bound: float | str, type_: ColumnType) -> pl.Expr:
    if isinstance(bound, str):
        text = pl.lit(bound)
        return text.str.to_date() if type_ == "date" else text.str.to_datetime(time_unit="us")
    return pl.lit(bound)


# ---- files to score --------------------------------------------------------------------------------------------------


def read_and_check(
    path: Path,
    *,
    name: str,
    columns: Sequence[Column],
    nullable: Collection[str] = (),
    delimiter: str | None = None,
    scratch: Path | None = None,
) -> Checked:
    """Read a file against a signature; columns beyond it are kept.

    Raises :class:`~interlock.data.readers.Unreadable`, or :class:`DataRefused` when a column is missing.
    """
    types: dict[str, ColumnType] = {column.name: column.type for column in columns}
    reading = read_file(path, name=name, delimiter=delimiter, columns=columns, types=types, scratch=scratch)
    require(reading.columns, columns, shown(name))
    frame = reading.frame.select(ROW, *types, *(extra for extra in reading.extra if extra in reading.frame.columns))
    bad = merge_bad(reading.bad, check(frame, columns, nullable=nullable), frame[ROW])
    rows_bad = bad["row"].n_unique() if bad.height else 0
    return Checked(
        frame=without(frame, bad),
        bad=bad,
        rows=reading.rows,
        rows_bad=rows_bad,
        extra=reading.extra,
        notes=reading.notes,
    )


def merge_bad(read: pl.DataFrame, checked: pl.DataFrame, rows: pl.Series) -> pl.DataFrame:
    """Bad cells of the reader and of :func:`check` as one frame (row from 1, column, reason), one finding a cell."""
    if not read.height and not checked.height:
        return read.select(*BAD_SCHEMA)
    numbered = checked.with_columns(rows.gather(checked["row"]).alias("row")).select(*BAD_SCHEMA)
    known = pl.concat([read, numbered])
    return known.unique(subset=["row", "column"], keep="first", maintain_order=True).sort("row", maintain_order=True)


def without(frame: pl.DataFrame, bad: pl.DataFrame) -> pl.DataFrame:
    """Rows of ``frame`` that ``bad`` does not name, in order."""
    return frame.filter(~pl.col(ROW).is_in(bad["row"].unique().implode())) if bad.height else frame
