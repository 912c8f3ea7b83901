"""Read a file as a typed table: CSV, Parquet or JSON lines, with the cells that do not fit told one by one.

The fast path hands the known types to Polars' parser. Only when that fails is the file read as text and converted
column by column, so that the reason can name row and column. Reasons never hold the cell's value.
A row's number is its place in the file, from 1, the header not counted (JSON lines: the number of the line).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import polars as pl

from interlock.data.casting import NOT_A, convert, fractional, infer_text, logical
from interlock.data.delimited import csv_shape, read_csv
from interlock.data.jsonlines import read_json
from interlock.data.opening import MAX_BYTES, Kind, Unreadable, check_names, inspect_text, kind_of, plain, shown
from interlock.data.raw import FAILED, ROW, Expected, Raw
from interlock.errors import DataRefused
from interlock.records import Column, ColumnType

__all__ = ["BAD_SCHEMA", "ROW", "Reading", "Unreadable", "read_file"]

BAD_SCHEMA = {"row": pl.Int64(), "column": pl.String(), "reason": pl.String()}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a file holds.

    ``frame``: one typed row for each row of the file that is not wholly empty, with ``_row``; a cell that does not fit
    is null there and listed in ``bad`` (row, column, reason). ``raw`` (row, raw) has the text of rows in ``bad`` as
    JSON where it was at hand. ``widened``: columns expected to be int that hold fractions, read as float. ``empty``
    rows are not counted in ``rows``. ``valued``: columns with a value anywhere in the file, when this is a slice of it.
    """

    frame: pl.DataFrame
    bad: pl.DataFrame
    raw: pl.DataFrame
    rows: int
    columns: tuple[str, ...]
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    widened: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    empty: int = 0
    valued: frozenset[str] | None = None


def read_file(
    path: Path,
    *,
    name: str,
    delimiter: str | None = None,
    columns: Sequence[Column] | None = None,
    types: Mapping[str, ColumnType] | None = None,
    scratch: Path | None = None,
) -> Reading:
    """Read ``path``; its format follows from the suffix of ``name`` (which is also what messages say).

    ``columns`` is the known layout (None: the first file, whose types are inferred over all of its rows), ``types``
    overrides single columns. Gzip is unfolded into ``scratch``. Raises :class:`Unreadable`.
    """
    kind, gz = format_of(path, name)
    layout = Expected({column.name: column.type for column in columns or ()}, types or {})
    with plain(path, name, gz=gz, scratch=scratch) as file:
        if kind == "parquet":
            return told_empty(finish(read_parquet(file, name, layout), layout))
        inspect_text(file, name)
        if kind == "json":
            return told_empty(finish(read_json(file, name), layout))
        return told_empty(finish(read_csv(file, name, csv_shape(file, name, delimiter, layout), layout), layout))


def format_of(path: Path, name: str) -> tuple[Kind, bool]:
    """Format of a file that is not empty, and whether it is gzip. Raises :class:`Unreadable`."""
    found = kind_of(name)
    if found is None:
        raise Unreadable(
            f"{shown(name)} has no known suffix.",
            next_step="Name files .csv, .tsv, .parquet, .jsonl, .ndjson or .json; all but Parquet may add .gz.",
            file=name,
        )
    if path.stat().st_size == 0:
        raise Unreadable(
            f"{shown(name)} is empty (0 bytes).", next_step="Send the file again, with its header.", file=name
        )
    return found


# ---- from any format to a reading ------------------------------------------------------------------------------------


def finish(raw: Raw, layout: Expected) -> Reading:
    """Type the columns that the parser has not typed, and gather the cells that do not fit.

    Raises :class:`DataRefused` for text where bytes are to be.
    """
    frame, rows = raw.frame, raw.frame[ROW]
    bad = [pl.DataFrame(raw.bad, schema=BAD_SCHEMA, orient="row")]
    typed, notes = [rows], list(raw.notes)
    widened = [name for name in raw.names if name in layout.widened]
    names = [name for name in raw.names if name in frame.columns]
    for name in names:
        series = frame[name]
        expected = layout.type_of(name)
        if expected == "bytes" and series.dtype == pl.String:
            raise DataRefused(
                f"Column '{shown(name)}' is to hold bytes, and it holds text: CSV and JSON cannot carry bytes.",
                next_step="Send Parquet with a binary column, or image files with files = 'images'.",
                column=name,
            )
        to = expected or _infer(series)
        result, failed = convert(series, to)
        if failed is not None and to == "int" and name not in layout.types and fractional(series, failed):
            widened.append(name)
            result, failed = convert(series, "float")
        if failed is not None:
            reason = NOT_A["float" if name in widened else to]
            bad.append(_cells(rows.filter(failed), name, reason))
        if expected == "str" and logical(series.dtype) not in ("str", None) and series.null_count() < series.len():
            notes.append(f"column '{name}' came as {logical(series.dtype)} and was read as text")
        typed.append(result)
    cells = pl.concat(bad)
    known = tuple(layout.known)
    return Reading(
        frame=pl.DataFrame(typed),
        bad=cells,
        raw=_raw_text(frame, cells, raw.raw),
        rows=raw.rows,
        columns=raw.names,
        missing=tuple(name for name in known if name not in raw.names),
        extra=tuple(name for name in raw.names if name not in layout.known) if known else (),
        widened=tuple(widened),
        notes=tuple(notes),
        empty=raw.empty,
    )


def told_empty(reading: Reading) -> Reading:
    """The reading of a whole file, with a note of its empty rows."""
    if not reading.empty:
        return reading
    return replace(reading, notes=(f"{reading.empty:,} empty rows were skipped", *reading.notes))


def _infer(series: pl.Series) -> ColumnType:
    have = logical(series.dtype)
    if have is None:
        raise AssertionError(f"no logical type for {series.dtype}")
    return infer_text(series.cast(pl.String)) if have == "str" and series.dtype == pl.String else have


def _cells(rows: pl.Series, column: str, reason: str) -> pl.DataFrame:
    """Bad cells of one column, all for one reason."""
    return pl.DataFrame(
        {"row": rows, "column": [column] * len(rows), "reason": [reason] * len(rows)}, schema=BAD_SCHEMA
    )


def _raw_text(frame: pl.DataFrame, bad: pl.DataFrame, known: list[tuple[int, str]]) -> pl.DataFrame:
    """JSON text of the rows that ``bad`` names."""
    unparsed = pl.DataFrame(known, schema={"row": pl.Int64(), "raw": pl.String()}, orient="row")
    rows = frame.filter(pl.col(ROW).is_in(bad["row"].unique().implode()))
    return pl.concat([unparsed, rows_as_json(rows)])


def rows_as_json(rows: pl.DataFrame) -> pl.DataFrame:
    """Frame (row, raw): each row's values as a JSON object of text, for the quarantine."""
    sizes = pl.selectors.binary().bin.size().cast(pl.String) + " bytes"
    text = rows.select(sizes, (~pl.selectors.binary() - pl.selectors.by_name(ROW)).cast(pl.String, strict=False))
    if text.width == 0:
        return pl.DataFrame(
            {"row": rows[ROW], "raw": ["{}"] * rows.height}, schema={"row": pl.Int64(), "raw": pl.String()}
        )
    return pl.DataFrame({"row": rows[ROW], "raw": text.to_struct("raw").struct.json_encode()})


# ---- Parquet ---------------------------------------------------------------------------------------------------------


class ParquetRows(NamedTuple):
    """A Parquet file whose schema is one that can be read: the columns taken, all names, and how many rows."""

    rows: pl.LazyFrame
    names: tuple[str, ...]
    height: int
    notes: tuple[str, ...]


def open_parquet(path: Path, name: str, layout: Expected) -> ParquetRows:
    """Look at the schema and the footer only. Raises :class:`Unreadable`."""
    with parquet_faults(path, name):
        lazy = pl.scan_parquet(path, glob=False)
        schema = lazy.collect_schema()
        rows = int(lazy.select(pl.len()).collect().item())
        check_names(schema.names(), name)
        taken = [column for column, dtype in schema.items() if logical(dtype) is not None]
        other = [column for column in schema.names() if column not in taken]
        needed = [column for column in other if not layout.known or layout.type_of(column)]
        if needed:
            raise Unreadable(
                f"Column '{shown(needed[0])}' of {shown(name)} holds {schema[needed[0]]}, which is no plain value.",
                next_step="Write numbers, text, true/false, dates, times or bytes; unnest lists and structs first.",
                file=name,
                columns=needed,
            )
        if rows * max(len(taken), 1) * 8 > MAX_BYTES:
            raise Unreadable(
                f"{shown(name)} unfolds to {rows:,} rows, more than one file may hold here.",
                next_step="Send it in several files.",
                file=name,
                rows=rows,
            )
    notes = tuple(f"column '{column}' holds {schema[column]} and was left out" for column in other)
    return ParquetRows(lazy.select(taken), tuple(schema.names()), rows, notes)


def read_parquet(path: Path, name: str, layout: Expected) -> Raw:
    """Read the whole file. Raises :class:`Unreadable`."""
    opened = open_parquet(path, name, layout)
    with parquet_faults(path, name):
        return numbered(opened, opened.rows.collect(), 0)


def numbered(opened: ParquetRows, frame: pl.DataFrame, before: int) -> Raw:
    """Rows of a Parquet file that come after ``before`` others, with their numbers."""
    frame = frame.with_row_index(ROW, offset=before + 1).with_columns(pl.col(ROW).cast(pl.Int64))
    return Raw(frame, opened.names, frame.height, [], [], notes=opened.notes)


@contextmanager
def parquet_faults(path: Path, name: str) -> Iterator[None]:
    """Map what Polars raises on a damaged file to :class:`Unreadable`."""
    try:
        yield
    except FAILED as error:
        raise Unreadable(
            f"{shown(name)} is not a whole Parquet file ({path.stat().st_size:,} bytes; {type(error).__name__}).",
            next_step="It was cut short or is damaged: send it again, whole, under a new name.",
            file=name,
        ) from error
