"""Tables that come with a request become rows: by the same rules of types as files, so that answers are the same.

CSV has a header with the names of the columns, or none and the columns in the order of the signature. Arrow is the IPC
stream format, uncompressed (a compressed one could unfold to any size).
"""

import csv
import io
import struct
from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from interlock.answer.reading import bad_field, malformed
from interlock.data.casting import DTYPES, NOT_A, convert, empty_as_null, logical
from interlock.data.delimited import Shape, read_csv
from interlock.data.opening import Unreadable
from interlock.data.raw import FAILED, Expected
from interlock.data.readers import finish
from interlock.data.signature import check, suspicious
from interlock.errors import DataRefused
from interlock.model.rows import Framed
from interlock.records import Column

_NAME: Final = "the body"
_DESCRIBED: Final = "GET /openapi.json describes each column."
_COMPRESSION: Final = 3
"""Place of the field ``compression`` in the table RecordBatch of Arrow's Message.fbs."""


def too_many(rows: int, most: int) -> DataRefused:
    """A request with more records than are allowed."""
    return DataRefused(
        f"The request has {rows:,} records, {most:,} are allowed.",
        next_step="Send fewer at a time, or raise serve.max_rows.",
        too_large=True,
    )


def rows_of_frame(frame: pl.DataFrame, columns: Sequence[Column]) -> Framed:
    """The rows of a table by ``columns``; further columns are left alone. Raises :class:`DataRefused`."""
    found = {values.name: values for values in frame.get_columns()}
    typed = []
    for column in columns:
        if column.name not in found:
            raise bad_field(column.name, "is missing")
        typed.append(_typed(found[column.name], column))
    return _checked(typed, columns)


def _typed(values: pl.Series, column: Column) -> pl.Series:
    """The values of a column by its type; raises :class:`DataRefused`."""
    have = values.dtype
    if have == DTYPES[column.type]:
        return empty_as_null(values) if column.type == "str" else values
    if logical(have) is None:
        raise bad_field(column.name, "holds lists or structs, which are no plain values")
    values, failed = convert(values, column.type)
    if failed is not None:
        raise bad_field(column.name, NOT_A[column.type], failed.arg_true()[0])
    return values


def _checked(typed: Sequence[pl.Series], columns: Sequence[Column]) -> Framed:
    """The rows, when the signature allows every cell. ``typed``: the values of each column, by its type."""
    frame = pl.DataFrame(typed)
    if not suspicious(columns, typed):
        return Framed(frame)
    bad = check(frame, columns)
    if bad.height:
        row, column, reason = bad.sort("row", maintain_order=True).row(0)
        raise bad_field(column, reason, row)
    return Framed(frame)


# ---- CSV ---------------------------------------------------------------------------------------------------------


def rows_of_csv(body: bytes, columns: Sequence[Column], most: int, header: bool | None = None) -> Framed:
    """The rows of comma-separated text. ``header``: is there one? None: when the first record names all columns.

    Raises :class:`DataRefused`.
    """
    text = _text(body.removeprefix(b"\xef\xbb\xbf"))
    names = [column.name for column in columns]
    first = _first_record(text)
    if header is None:
        header = set(names) <= set(first)
    if not header:
        if len(first) != len(names):
            raise malformed(
                f"The first record has {len(first)} fields, the model takes {len(names)}.",
                "Send a header with the names of the columns, or one field for each in the order of the signature.",
            )
        text, first = f"{_line(names)}{text}", names
    if len(set(first)) != len(first):
        raise malformed("The header names a column twice.", _DESCRIBED)
    for name in names:
        if name not in first:
            raise bad_field(name, "is missing")
    layout = Expected({column.name: column.type for column in columns}, {})
    try:
        reading = finish(read_csv(text.encode(), _NAME, Shape(",", tuple(first)), layout), layout)
    except Unreadable as error:
        raise malformed(error.message, error.next_step) from None
    if reading.empty:
        raise malformed("A record is empty.", "Send a value for every column.")
    if reading.rows > most:
        raise too_many(reading.rows, most)
    bad = reading.bad.filter(pl.col("column").is_in(names)).sort("row", maintain_order=True)
    if bad.height:
        row, column, reason = bad.row(0)
        raise bad_field(column, reason, row - 1)
    return _checked([reading.frame[name] for name in names], columns)


def text_of(body: bytes) -> str:
    """The body as text; raises :class:`DataRefused` where it is not UTF-8."""
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise malformed(
            f"The body is not UTF-8: the first wrong byte is at offset {error.start}.", "Send UTF-8."
        ) from None


def _text(body: bytes) -> str:
    text = text_of(body)
    if "\0" in text:
        raise malformed("The body holds a NUL character, which no text has.", "Send text.")
    if not text.strip() or text[0] in "\r\n":
        raise malformed("The body begins with an empty line, or holds nothing.", "Send CSV (RFC 4180).")
    return text


def _first_record(text: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        raise malformed("The first record is malformed CSV.", "Send CSV (RFC 4180).") from None


def _line(values: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


# ---- Arrow -------------------------------------------------------------------------------------------------------


def rows_of_arrow(body: bytes, columns: Sequence[Column], most: int) -> Framed:
    """The rows of an Arrow IPC stream. Raises :class:`DataRefused`."""
    import pyarrow as pa

    try:
        if any(map(_is_compressed, pa.ipc.MessageReader.open_stream(body))):
            raise malformed("The Arrow stream is compressed.", "Write it without compression.")
        with pa.ipc.open_stream(body) as stream:
            table: Any = stream.read_all()
        if table.num_rows > most:
            raise too_many(table.num_rows, most)
        table.validate(full=True)
        have = table.column_names
        wanted = [name for name in dict.fromkeys(column.name for column in columns) if name in have]
        frame = _framed(table if wanted == have else table.select(wanted)) if wanted else pl.DataFrame()
    except (pa.ArrowException, ValueError, TypeError, KeyError, *FAILED) as error:
        raise malformed(
            f"The body is no Arrow IPC stream that can be read ({type(error).__name__}).",
            "Write it with pyarrow.ipc.new_stream, or Polars' write_ipc_stream.",
        ) from None
    return rows_of_frame(frame, columns)


def _framed(table: Any) -> pl.DataFrame:
    """An Arrow table as a frame; one batch, as most tables have, is a third of the work."""
    batches = table.to_batches()
    return pl.DataFrame(batches[0] if len(batches) == 1 else table)


def _is_compressed(message: Any) -> bool:
    """Whether the buffers of a message are compressed, by the flat buffer of its head (Arrow's Message.fbs)."""
    head = message.metadata.to_pybytes()
    if message.type not in ("record batch", "dictionary"):
        return False
    try:
        batch = _field(head, struct.unpack_from("<I", head)[0], 2)  # Message.header
        assert batch is not None
        batch += struct.unpack_from("<I", head, batch)[0]
        if message.type == "dictionary":
            data = _field(head, batch, 1)  # DictionaryBatch.data
            assert data is not None
            batch = data + struct.unpack_from("<I", head, data)[0]
        return _field(head, batch, _COMPRESSION) is not None
    except (struct.error, AssertionError):
        raise malformed("The head of an Arrow message cannot be read.", "Send an Arrow IPC stream.") from None


def _field(buffer: bytes, table: int, place: int) -> int | None:
    """Where a field of a flat buffer's table is; None when it is left out."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    size = struct.unpack_from("<H", buffer, vtable)[0]
    offset = struct.unpack_from("<H", buffer, vtable + 4 + 2 * place)[0] if 4 + 2 * place < size else 0
    return table + offset if offset else None
