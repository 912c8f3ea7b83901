"""Records become rows: strictly, by the signature, and the same whichever way they came.

A *record* is a JSON object with a member for each input column. Every column must be there; null stands for missing
where the signature allows it; further members are left alone, for a model need not know all that its caller knows.
What is refused is told by the name of the field and never by its value. Types are read as :mod:`interlock.data.casting`
reads those of a file: an empty text is missing, a whole number may be written ``3.0``, a time with an offset is moved
to UTC, and nothing is rounded.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, NoReturn

import msgspec

from interlock.data.casting import NOT_A
from interlock.errors import DataRefused
from interlock.model.rows import Row, taker
from interlock.records import Column

_EXACT: Final = 2**53
_INT64: Final = 2**63
_DATETIME = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})?)?")
_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*"(\s*:)?')
_PLACE = re.compile(r"`\$(.*)`$")
_INDEX = re.compile(r"\[(\d+)\]")
_FIELD = re.compile(r"\.(f\d+)|\.([^.\[\]]+)$")
_MISSING = re.compile(r"missing required field `(.*)`")
_READ_AS: Mapping[str, Any] = {
    "bool": bool,
    "int": int | float,
    "float": float,
    "str": str,
    "date": date,
    "datetime": str,
    "bytes": bytes,
}


def malformed(
    message: str, next_step: str = "Send JSON (RFC 8259): one object, and every name in it once."
) -> DataRefused:
    """A body that is no such thing at all, whatever the model takes."""
    return DataRefused(message, next_step=next_step, malformed=True)


def bad_field(column: str, why: str, row: int | None = None) -> DataRefused:
    """A record that the signature does not allow; ``row`` counts from 0."""
    where = "" if row is None else f" of record {row}"
    return DataRefused(
        f"Field '{column}'{where} {why}.",
        next_step="GET /openapi.json describes each field.",
        field=column,
        row=row,
    )


class Reader:
    """Reads records of some columns. ``record`` is the type to decode one as, for msgspec."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = tuple(columns)
        self.names = tuple(column.name for column in columns)
        self.record: type[msgspec.Struct] = msgspec.defstruct(
            "Record",
            [(f"f{place}", _type_of(column)) for place, column in enumerate(columns)],
            rename={f"f{place}": column.name for place, column in enumerate(columns)},
            gc=False,
        )
        self._finish = [(place, _FINISH[column.type]) for place, column in enumerate(columns) if column.type in _FINISH]
        self._texts_alone = all(finish is _text for _, finish in self._finish)
        self._texts = taker([place for place, _ in self._finish])
        self._one = msgspec.json.Decoder(self.record)
        self._many = msgspec.json.Decoder(list[self.record])  # type: ignore[name-defined]

    # ---- JSON ----------------------------------------------------------------------------------------------------

    def decode(self, decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
        """What ``decoder``, whose type holds :attr:`record`, reads from ``body``; raises :class:`DataRefused`."""
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            self._refuse(str(error))
        except msgspec.DecodeError as error:
            raise malformed(f"The body is no JSON: {_shortened(error)}.") from None
        except UnicodeDecodeError as error:
            raise malformed(f"The body is not UTF-8: the first wrong byte is at offset {error.start}.") from None
        except RecursionError:
            raise malformed("The body is nested too deeply.") from None

    def _refuse(self, text: str) -> NoReturn:
        """Say in our words what msgspec found."""
        what, _, where = text.partition(" - at ")
        found = _PLACE.search(where)
        path = found[1] if found else ""
        indices = _INDEX.findall(path)
        row = int(indices[-1]) if indices else None
        missing = _MISSING.search(what)
        if missing and missing[1] in self.names:
            raise bad_field(missing[1], "is missing", row)
        if missing:
            raise malformed(f"The body lacks '{missing[1][:60]}'.", "Send what the route takes: GET /openapi.json.")
        column = next((name for name in sorted(self.names, key=len, reverse=True) if path.endswith(f".{name}")), None)
        if column is None:
            raise malformed(f"The body is not what this route takes: {what[:200]}.", "GET /openapi.json describes it.")
        at = self.columns[self.names.index(column)]
        if "got `null`" in what:
            raise bad_field(column, "is null, and no row of training was", row)
        raise bad_field(column, NOT_A[at.type], row)

    def once(self, body: bytes, names: int) -> None:
        """Raise :class:`DataRefused` when an object of ``body``, which was decoded, has a name twice.

        ``names`` is how many names it has when each that is known is there once. A colon for each and no more
        means that there is no other; else the names are counted; and where there are more, all are compared.
        """
        if body.count(b":") == names:
            return
        if sum(map(bool, _TEXTS.findall(body))) == names:
            return
        try:
            json.loads(body, object_pairs_hook=_each_once)
        except RecursionError:
            raise malformed("The body is nested too deeply.") from None
        except ValueError:  # of thousands of digits
            raise malformed("The body holds a number that is too long.") from None

    def one(self, body: bytes) -> Row:
        """The row of a bare record."""
        found = self.decode(self._one, body)
        self.once(body, len(self.names))
        return self.row(found)

    def many(self, body: bytes) -> list[Row]:
        """The rows of a bare array of records."""
        found = self.decode(self._many, body)
        self.once(body, len(self.names) * len(found))
        return self.rows(found)

    # ---- values --------------------------------------------------------------------------------------------------

    def row(self, record: Any, number: int | None = None) -> Row:
        """The values of a decoded record, in the order of the columns."""
        values = msgspec.structs.astuple(record)
        if self._texts_alone and all(self._texts(values)):
            return values
        finished = list(values)
        for place, finish in self._finish:
            value = finished[place]
            if value is not None:
                try:
                    finished[place] = value = finish(value)
                except ValueError:
                    raise bad_field(self.names[place], NOT_A[self.columns[place].type], number) from None
                if value is None and not self.columns[place].nullable:
                    raise bad_field(self.names[place], "is empty, and no row of training was", number)
        return tuple(finished)

    def rows(self, records: Sequence[Any]) -> list[Row]:
        """The rows of decoded records."""
        found: list[Row] = list(map(msgspec.structs.astuple, records))
        if all(_FINISHED[self.columns[place].type]([row[place] for row in found]) for place, _ in self._finish):
            return found
        return [self.row(record, number) for number, record in enumerate(records)]

    def listed(self, values: Sequence[Any], names: Sequence[str] | None = None, number: int | None = None) -> Row:
        """The row of plain values in the order of ``names`` (default: of the columns)."""
        if names is None and len(values) != len(self.names):
            raise malformed(
                f"A record has {len(values)} values, the model takes {len(self.names)}.",
                "Send one for each column, in the order of the signature, or an object with their names.",
            )
        plain = dict(zip(names or self.names, values, strict=False))
        try:
            return self.row(msgspec.convert(plain, self.record), number)
        except msgspec.ValidationError as error:
            try:
                self._refuse(str(error))
            except DataRefused as refusal:
                if number is None or "field" not in refusal.facts:
                    raise
                field = str(refusal.facts["field"])
                raise bad_field(field, refusal.message.partition(f"'{field}' ")[2].rstrip("."), number) from None


def _type_of(column: Column) -> Any:
    kind = _READ_AS[column.type]
    return kind | None if column.nullable else kind


def _each_once(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise malformed(f"The name '{twice[:60]}' is there twice in one object.")


def _shortened(error: Exception) -> str:
    return str(error).removeprefix("JSON is malformed: ").rstrip(".")


def _whole(value: float) -> int:
    """A whole number of 64 bits; raises ValueError. ``3.0`` is whole."""
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise ValueError
        return value
    if not math.isfinite(value) or abs(value) > _EXACT or value != round(value):
        raise ValueError
    return int(value)


def _moment(text: str) -> datetime | None:
    """A time in UTC without a zone; raises ValueError."""
    text = text.strip()
    if not text:
        return None
    if not _DATETIME.fullmatch(text):
        raise ValueError
    found = datetime.fromisoformat(text)
    try:
        return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found
    except OverflowError as error:  # in UTC it is before the year 1, or after 9999
        raise ValueError from error


def _text(value: str) -> str | None:
    return value or None


_FINISH: Mapping[str, Callable[[Any], Any]] = {"int": _whole, "str": _text, "datetime": _moment}


def _are_whole(values: list[Any]) -> bool:
    return set(map(type, values)) == {int} and min(values) >= -_INT64 and max(values) < _INT64


_FINISHED: Mapping[str, Callable[[list[Any]], bool]] = {"int": _are_whole, "str": all, "datetime": lambda _: False}
"""Whether all values of a column are what finishing would make of them; when in doubt, no."""
