"""Delimited text: find the delimiter, parse with Polars, and say which row is at fault when that fails."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from interlock.data.casting import DTYPES
from interlock.data.opening import Unreadable, check_names, shown
from interlock.data.raw import FAILED, ROW, Expected, Raw
from interlock.records import ColumnType

if TYPE_CHECKING:
    import numpy as np

_HEAD_BYTES = 2**20
_DELIMITERS = ",;\t|"
_SPAN_BYTES = 8 * 2**20


class Shape(NamedTuple):
    """How a file is delimited, and the names of its columns."""

    delimiter: str
    names: tuple[str, ...]


def csv_shape(path: Path, name: str, delimiter: str | None, layout: Expected) -> Shape:
    """Delimiter and column names, from the first records. Raises :class:`Unreadable` for an impossible header."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        whole = len(head) < _HEAD_BYTES
    text = head.decode("utf-8-sig", errors="ignore")
    if "\r" in text and "\n" not in text:
        raise Unreadable(
            f"{shown(name)} ends its lines with carriage returns only.",
            next_step="Write line ends as LF or CRLF.",
            file=name,
        )
    if not text.strip("\r\n"):
        raise Unreadable(
            f"{shown(name)} holds no header.", next_step="Send the file again, with its header.", file=name
        )
    lines = text.splitlines(keepends=True)[: None if whole else -1][:200]
    if text.startswith(("\n", "\r\n")):
        raise Unreadable(f"{shown(name)} begins with an empty line.", next_step="Put the header first.", file=name)
    choices = [delimiter] if delimiter else ["\t"] if name.lower().removesuffix(".gz").endswith(".tsv") else _DELIMITERS
    heads = {choice: _records(lines, choice) for choice in choices}
    best = max(heads, key=lambda choice: _plausible(heads[choice], layout)) if len(heads) > 1 else next(iter(heads))
    names = tuple(heads[best][0]) if heads[best] else ()
    check_names(names, name)
    return Shape(best, names)


def _records(lines: list[str], delimiter: str) -> list[list[str]]:
    records: list[list[str]] = []
    try:
        for record in csv.reader(lines, delimiter=delimiter):
            if len(records) == 50:
                break
            records.append(record)
    except csv.Error:
        pass
    return records


def _plausible(records: list[list[str]], layout: Expected) -> tuple[int, bool, int]:
    """How much these records look like a table: known names found, as many fields in each row, number of fields."""
    if not records:
        return (0, False, 0)
    header = records[0]
    even = len(header) > 1 and all(len(record) in (0, len(header)) for record in records[:-1])
    return (sum(name in layout.known or name in layout.types for name in header), even, len(header))


def read_csv(source: Path | bytes, name: str, shape: Shape, layout: Expected, *, before: int = 0) -> Raw:
    """Parse: with the known types where they fit, else as text. Raises :class:`Unreadable`.

    ``source``: the file, or a slice of whole records of it with the header in front; ``before`` records came before it.
    """
    frame = None
    if layout.known or layout.inferred:
        frame = _parse(source, shape, {column: _parser_type(layout.type_of(column)) for column in shape.names})
    if frame is None:
        frame = read_text(source, shape)
    blank = frame is not None and frame.null_count().min_horizontal().item() > 0
    if frame is None or (len(shape.names) > 1 and not _surely_even(source, shape, frame, blank=blank)):
        _refuse_ragged(source, name, shape, certain=frame is None, before=before)
    assert frame is not None
    total = frame.height
    frame = frame.with_row_index(ROW, offset=before + 1).with_columns(pl.col(ROW).cast(pl.Int64))
    if blank:
        frame = frame.filter(~pl.all_horizontal(pl.exclude(ROW).is_null()))
    return Raw(frame, shape.names, frame.height, [], [], total - frame.height)


def read_text(source: Path | bytes, shape: Shape) -> pl.DataFrame | None:
    """All columns as text; None for what is malformed."""
    return _parse(source, shape, dict.fromkeys(shape.names, pl.String()))


def _surely_even(source: Path | bytes, shape: Shape, frame: pl.DataFrame, *, blank: bool) -> bool:
    """Say whether no record is shorter than the header, where that can be told at a glance.

    The parser refuses longer records and fills shorter ones up, so one without an empty last field is whole. Otherwise
    the delimiters are counted, where each of them is one (no quotes) and there are no empty lines. After the last line
    end the parser lets one more empty field pass.
    """
    if _last_byte(source) == shape.delimiter.encode():
        return False
    if frame[:, -1].null_count() == 0:
        return True
    if blank or not isinstance(source, bytes) or b'"' in source:
        return False
    return source.count(shape.delimiter.encode()) == (len(shape.names) - 1) * (frame.height + 1)


def _last_byte(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[-1:]
    with source.open("rb") as file:
        file.seek(-1, io.SEEK_END)  # a file with a header is not empty
        return file.read()


def _parser_type(type_: ColumnType | None) -> pl.DataType:
    return DTYPES[type_] if type_ in ("int", "float") else pl.String()


def _parse(source: Path | bytes, shape: Shape, schema: Mapping[str, pl.DataType]) -> pl.DataFrame | None:
    # without quotes every empty field is null by itself, and to look for them costs a fifth of the parsing
    quoted = isinstance(source, Path) or b'"' in source
    try:
        frame = pl.read_csv(
            source,
            # Polars keeps the doubled quotes of a name as they are written
            schema={column.replace('"', '""'): dtype for column, dtype in schema.items()},
            separator=shape.delimiter,
            null_values=[""] if quoted else None,
            glob=False,
        )
    except FAILED:
        return None
    frame.columns = list(schema)
    return frame


def _refuse_ragged(source: Path | bytes, name: str, shape: Shape, *, certain: bool, before: int) -> None:
    """Raise :class:`Unreadable` for a record with more or fewer fields than the header, or another malformation."""
    found = first_ragged(source, shape.delimiter, len(shape.names))
    if found is not None:
        record, fields = found[0] + before, found[1]
        raise Unreadable(
            f"Row {record:,} of {shown(name)} has {fields} fields; its header has {len(shape.names)}.",
            next_step="Quote fields that hold the delimiter or a line end, or send the file again if it is cut short.",
            file=name,
            row=record,
            fields=fields,
        )
    if certain:
        raise malformed(name)


def malformed(name: str) -> Unreadable:
    """The failure of a file whose quotes do not match."""
    return Unreadable(
        f"{shown(name)} is malformed CSV (a quoted field without end, or a quote inside an unquoted field).",
        next_step='Quote fields with " and double the quotes inside them.',
        file=name,
    )


def first_ragged(source: Path | bytes, delimiter: str, width: int) -> tuple[int, int] | None:
    """The first record (from 1, header not counted) with another number of fields than ``width``, and that number.

    Empty lines are no records of fields, but are counted. Works on spans of bytes with NumPy: quotes toggle.
    """
    import numpy as np  # 0.1 s that a turn with nothing new need not pay

    mark, record, carry = ord(delimiter.encode()[:1]), -1, b""
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        while span := file.read(_SPAN_BYTES):
            data = np.frombuffer(carry + span, dtype=np.uint8)
            outside = np.cumsum(data == 34, dtype=np.uint32) % 2 == 0
            ends = np.flatnonzero((data == 10) & outside)
            found, record = _odd_one(data, outside, ends, (mark, width, record))
            if found is not None:
                return record, found
            carry = data[ends[-1] + 1 :].tobytes() if ends.size else data.tobytes()
    data = np.frombuffer(carry + b"\n", dtype=np.uint8)
    if data.size > 1:
        outside = np.cumsum(data == 34, dtype=np.uint32) % 2 == 0
        found, record = _odd_one(data, outside, np.array([data.size - 1]), (mark, width, record))
        if found is not None:
            return record, found
    return None


def _odd_one(
    data: "np.ndarray[Any, Any]",
    outside: "np.ndarray[Any, Any]",
    ends: "np.ndarray[Any, Any]",
    want: tuple[int, int, int],
) -> tuple[int | None, int]:
    """Fields of the first odd record that ends in ``data`` and its number, or None and the number of records so far."""
    import numpy as np

    mark, width, record = want
    if not ends.size:
        return None, record
    marks = np.flatnonzero((data == mark) & outside)
    fields = np.diff(np.searchsorted(marks, ends), prepend=0) + 1
    lengths = np.diff(ends, prepend=-1) - 1
    blank = (lengths == 0) | ((lengths == 1) & (data[ends - 1] == 13))
    odd = np.flatnonzero((fields != width) & ~blank)
    if odd.size:
        return int(fields[odd[0]]), record + int(odd[0]) + 1
    return None, record + int(ends.size)
