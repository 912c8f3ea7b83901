"""The JSON forms of the prediction routes: a body becomes rows, answers become a body. No HTTP here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from interlock.answer.reading import Reader, malformed
from interlock.errors import DataRefused
from interlock.model.rows import Answer, Row

Shape: TypeAlias = Literal["prediction", "predictions", "array"]
"""How answers are written: ``{"prediction": …}``, ``{"predictions": […]}`` or a bare array."""

_encode = msgspec.json.Encoder().encode


class Asked(NamedTuple):
    """What a body asks for."""

    rows: Sequence[Row]
    shape: Shape


Form: TypeAlias = Callable[[bytes], Asked]


@dataclass(frozen=True)
class JsonForms:
    """What reads the bodies of each route, for records of one reader; ``most_rows`` in one request."""

    routes: Mapping[str, Form]


def json_forms(reader: Reader, most_rows: int) -> JsonForms:
    """Make the forms for ``reader``; each raises :class:`DataRefused`."""
    width = len(reader.names)
    either: Any = reader.record | list[Any] | str | int | float | bool
    several: Any = list[either]
    single = _decoder("Stream", "instance", either)
    together = _decoder("Batch", "instances", several)
    bare = msgspec.json.Decoder(several)

    def row_of(value: Any, number: int | None = None) -> Row:
        if isinstance(value, msgspec.Struct):
            return reader.row(value, number)
        if isinstance(value, list):
            return reader.listed(value, None, number)
        if width != 1:
            raise malformed(
                f"A record is one value, the model takes {width}.", "Send an object with a member for each field."
            )
        return reader.listed([value], None, number)

    def names(values: Sequence[Any]) -> int:
        return sum(width for value in values if isinstance(value, msgspec.Struct))

    def counted(values: Sequence[Any]) -> list[Row]:
        if len(values) > most_rows:
            raise DataRefused(
                f"The request has {len(values):,} records, {most_rows:,} are allowed.",
                next_step="Send fewer at a time, or raise serve.max_rows.",
                too_large=True,
            )
        return [row_of(value, number) for number, value in enumerate(values)]

    def stream(body: bytes) -> Asked:
        value = reader.decode(single, body).instance
        reader.once(body, 1 + names((value,)))
        return Asked((row_of(value),), "prediction")

    def batch(body: bytes) -> Asked:
        values = reader.decode(together, body).instances
        reader.once(body, 1 + names(values))
        return Asked(counted(values), "predictions")

    def predict(body: bytes) -> Asked:
        return Asked((reader.one(body),), "prediction")

    def score(body: bytes) -> Asked:
        values = reader.decode(bare, body)
        reader.once(body, names(values))
        return Asked(counted(values), "array")

    return JsonForms({"/stream": stream, "/batch": batch, "/predict": predict, "/score": score})


def _decoder(name: str, member: str, kind: Any) -> msgspec.json.Decoder[Any]:
    """What decodes an object with one member."""
    return msgspec.json.Decoder(msgspec.defstruct(name, [(member, kind)], forbid_unknown_fields=True))


def written(answers: Sequence[Answer], shape: Shape) -> bytes:
    """The body of a reply."""
    if shape == "prediction":
        return _encode({"prediction": answers[0][0]})
    values = [answer[0] for answer in answers]
    return _encode(values if shape == "array" else {"predictions": values})
