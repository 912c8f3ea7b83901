"""CSV, Arrow, text and bytes: bodies that are a table or one bare value, and replies that are a table."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from interlock.answer.predict import Answered, Live
from interlock.answer.reading import Reader, bad_field
from interlock.answer.tabular import rows_of_arrow, rows_of_csv, text_of
from interlock.model.rows import FramedAnswers, Row
from interlock.records import Column
from interlock.serve.forms import (
    ARROW,
    CSV,
    Asked,
    Form,
    How,
    Pen,
    Records,
    Shape,
    Write,
    Written,
    class_names,
    encode,
    share_columns,
    shares_of,
    values_of,
)

IMAGE: Final = "image/*"
BYTES: Final = "application/octet-stream"
TEXT: Final = "text/plain"


def writer_of(pen: Pen, shape: Shape, how: How, *, header: bool) -> Write:
    """What writes many answers as the request accepts them; ``header``: whether CSV gets one."""
    if how.accept == CSV:
        return lambda answered, live: _csv(_columns(answered, live, shares=pen.tells(how)), header=header)
    if how.accept == ARROW:
        return lambda answered, live: _plain_arrow(answered, live, shares=pen.tells(how))
    return pen.of(shape, how)


def table_forms(records: Records, pen: Pen, shape: Shape, *, header: bool) -> Mapping[str, Form]:
    """The forms of one route for bodies that are tables."""
    columns: Sequence[Column] = records.reader.columns

    def of_csv(body: bytes, how: How) -> Asked:
        rows = rows_of_csv(body, columns, records.most_rows, how.header)
        return Asked(rows, writer_of(pen, shape, how, header=header))

    def of_arrow(body: bytes, how: How) -> Asked:
        rows = rows_of_arrow(body, columns, records.most_rows)
        return Asked(rows, writer_of(pen, shape, how, header=header))

    return {CSV: of_csv, ARROW: of_arrow}


def accepting(form: Form, pen: Pen, shape: Shape, *, header: bool) -> Form:
    """A JSON form of many records, whose reply may be a table."""

    def read(body: bytes, how: How) -> Asked:
        asked = form(body, how)
        if how.accept not in (CSV, ARROW):
            return asked
        return Asked(asked.rows, writer_of(pen, shape, how, header=header))

    return read


def bare_forms(reader: Reader, pen: Pen, shape: Shape) -> Mapping[str, Form]:
    """The forms of one route for a body that is the value of the only column; none when there are several columns."""
    if len(reader.columns) != 1:
        return {}
    (column,) = reader.columns

    def of_bytes(body: bytes, how: How) -> Asked:
        return Asked((_present(column, body),), writer_of(pen, shape, how, header=False))

    def of_text(body: bytes, how: How) -> Asked:
        return Asked((_present(column, text_of(body)),), writer_of(pen, shape, how, header=False))

    if column.type == "bytes":
        return {IMAGE: of_bytes, BYTES: of_bytes}
    return {TEXT: of_text} if column.type == "str" else {}


def _present(column: Column, value: bytes | str) -> Row:
    """The row of one value; an empty one is missing."""
    if not value and not column.nullable:
        raise bad_field(column.name, "is empty, and no row of training was")
    return (value or None,)


# ---- replies -----------------------------------------------------------------------------------------------------


def _columns(answered: Answered, live: Live, *, shares: bool) -> dict[str, Sequence[Any]]:
    """Answers by columns: ``prediction``, and ``probability_0 …`` in the order of the classes, as in a batch."""
    columns: dict[str, Sequence[Any]] = {"prediction": values_of(answered)}
    names = class_names(live, live.seats[0].tier) if shares else None
    if names is not None:
        told = shares_of(answered, live)
        for place, name in enumerate(names):
            columns[f"probability_{place}"] = [None if each is None else each.get(name) for each in told]
    return columns


def _csv(columns: Mapping[str, Sequence[Any]], *, header: bool) -> Written:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows(zip(*map(_cells, columns.values()), strict=True))
    return Written(lines.getvalue().encode(), b"text/csv; charset=utf-8")


def _cells(values: Sequence[Any]) -> Sequence[Any]:
    """The values of a column as CSV has them; of plain text and numbers the writer of CSV says the same."""
    return values if {*map(type, values)} <= {str, int, float} else [_cell(value) for value in values]


def _cell(value: Any) -> Any:
    """A value as CSV has it: floats by their shortest decimal, truth in lower case, what is no text as JSON."""
    if value is None or isinstance(value, str):
        return value
    return encode(value).decode() if not isinstance(value, float) else repr(value)


_PLAIN: Final = (pl.Boolean, pl.Int64, pl.Float64, pl.String)


def _plain_arrow(answered: Answered, live: Live, *, shares: bool) -> Written:
    """Answers as an Arrow stream: from the frame that they came as, where they did."""
    answers = answered.answers
    if isinstance(answers, FramedAnswers) and answers.spelled["prediction"].dtype in _PLAIN:
        columns = share_columns(answered, live) if shares else []
        if columns is not None:
            return _stream(pl.DataFrame([answers.spelled["prediction"], *columns]))
    return _arrow(_columns(answered, live, shares=shares))


def _stream(frame: pl.DataFrame) -> Written:
    body = io.BytesIO()
    frame.write_ipc_stream(body)
    return Written(body.getvalue(), ARROW.encode())


def _arrow(columns: Mapping[str, Sequence[Any]]) -> Written:
    values = columns["prediction"]
    if not all(isinstance(value, bool | int | float | str | list) for value in values):
        columns = {**columns, "prediction": [encode(value).decode() for value in values]}
    types = {name: pl.Float64() for name in columns if name != "prediction"}
    return _stream(pl.DataFrame(columns, schema_overrides=types))
