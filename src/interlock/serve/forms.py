"""What a body asks for, and what a reply says, for every protocol alike; and the JSON of our own routes. No HTTP here.

A *form* reads a body as rows and knows how their answers are to be written. A route has a form for each type of body
that it takes. The protocols of others have modules of their own: tables, ``/invocations``, and the Open Inference
Protocol.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
import polars as pl

from interlock.answer.predict import Answered, Live
from interlock.answer.reading import Reader, malformed
from interlock.answer.tabular import too_many
from interlock.data.casting import DTYPES
from interlock.model.horizon import steps_ahead
from interlock.model.rows import MANY, Answer, Framed, FramedAnswers, Row
from interlock.records import Tier

JSON: Final = "application/json"
CSV: Final = "text/csv"
ARROW: Final = "application/vnd.apache.arrow.stream"

_SEND_ROWS: Final = "Send 'instances': a record for each step."
_NAMED: Final = 20
Shape: TypeAlias = Literal["prediction", "predictions", "array"]
"""How answers are written: ``{"prediction": …}``, ``{"predictions": […]}`` or a bare array."""

encode = msgspec.json.Encoder().encode


class How(NamedTuple):
    """What the head of a request says about body and reply: media types, and what was asked for beside the answers.

    ``header``: whether CSV has one; None: look. ``json_bytes``: length of the JSON before binary tensors.
    ``k``: at most so many of each ranking.
    """

    kind: str = JSON
    accept: str = JSON
    probabilities: bool | None = None
    header: bool | None = None
    json_bytes: int | None = None
    k: int | None = None


PLAIN: Final = How()


class Written(msgspec.Struct, frozen=True, gc=False):
    """The body of a reply, its type, and headers of its own."""

    body: bytes
    kind: bytes = JSON.encode()
    headers: tuple[tuple[bytes, bytes], ...] = ()


Write: TypeAlias = Callable[[Answered, Live], Written]


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What a body asks for, and what writes the answers."""

    rows: Sequence[Row]
    write: Write


Form: TypeAlias = Callable[[bytes, How], Asked]


@dataclass(frozen=True)
class Forms:
    """The forms of each route by the type of the body. ``ranks``: the model answers with rankings."""

    routes: Mapping[str, Mapping[str, Form]]
    ranks: bool = False

    def read(self, route: str, body: bytes, how: How) -> Asked:
        """Read a body; raises :class:`DataRefused`."""
        asked = self.routes[route][how.kind](body, how)
        if how.k is None:
            return asked
        if not self.ranks:
            raise malformed("'k' is for models that answer with a ranking.", "Ask without it.")
        return Asked(asked.rows, _cut(asked.write, how.k))


def _cut(write: Write, k: int) -> Write:
    """What writes the first ``k`` of each ranking."""

    def written(answered: Answered, live: Live) -> Written:
        answers = [
            (answer[0][:k], answer[1]) if answer is not None and isinstance(answer[0], list) else answer
            for answer in answered.answers
        ]
        return write(Answered(answers, answered.tiers, answered.faults), live)

    return written


# ---- answers -----------------------------------------------------------------------------------------------------


def values_of(answered: Answered) -> list[Any]:
    """The predictions."""
    if isinstance(answered.answers, FramedAnswers):
        return answered.answers.spelled["prediction"].to_list()
    answers: Sequence[Answer] = answered.answers  # type: ignore[assignment]  # rows without an answer have no reply
    return [answer[0] for answer in answers]


def class_names(live: Live, tier: Tier) -> list[str] | None:
    """The classes of a tier as names in JSON, in the order of its probabilities; None when it gives no labels."""
    output = live.seat_of(tier).signature.output
    if output is None or output.kind != "label" or output.classes is None:
        return None
    return [str(each).lower() if isinstance(each, bool) else str(each) for each in output.classes]


def shares_of(answered: Answered, live: Live) -> list[dict[str, float] | None]:
    """For each answer the probability of each class by its name; None where the model gave none."""
    named = {tier: class_names(live, tier) for tier in set(answered.tiers)}
    found: list[dict[str, float] | None] = []
    for answer, tier in zip(answered.answers, answered.tiers, strict=True):
        names, shares = named[tier], None if answer is None else answer[1]
        found.append(None if names is None or not isinstance(shares, tuple) else dict(zip(names, shares, strict=True)))
    return found


def share_columns(answered: Answered, live: Live) -> list[pl.Series] | None:
    """Probabilities by the classes of the first tier, where one model gave those of all records as columns."""
    answers, tiers = answered.answers, answered.tiers
    if not isinstance(answers, FramedAnswers) or tiers.count(tiers[0]) < len(tiers):
        return None
    names = class_names(live, live.seats[0].tier)
    if names is None or len(set(names)) < len(names) or names != class_names(live, tiers[0]):
        return None
    if answers.frame.columns[1:] != [f"probability_{place}" for place in range(len(names))]:
        return None
    return answers.frame.get_columns()[1:]


def _single(answered: Answered, live: Live) -> Written:
    del live
    return Written(encode({"prediction": answered.answers[0][0]}))  # type: ignore[index]


def _several(answered: Answered, live: Live) -> Written:
    del live
    return Written(encode({"predictions": values_of(answered)}))


def _array(answered: Answered, live: Live) -> Written:
    del live
    return Written(encode(values_of(answered)))


def _single_shares(answered: Answered, live: Live) -> Written:
    return Written(encode({"prediction": values_of(answered)[0], "probabilities": shares_of(answered, live)[0]}))


def _several_shares(answered: Answered, live: Live) -> Written:
    return Written(encode({"predictions": values_of(answered), "probabilities": shares_of(answered, live)}))


def _array_shares(answered: Answered, live: Live) -> Written:
    pairs = zip(values_of(answered), shares_of(answered, live), strict=True)
    return Written(encode([{"prediction": value, "probabilities": shares} for value, shares in pairs]))


_PLAIN_WRITERS: Final[Mapping[Shape, Write]] = {"prediction": _single, "predictions": _several, "array": _array}
_SHARE_WRITERS: Final[Mapping[Shape, Write]] = {
    "prediction": _single_shares,
    "predictions": _several_shares,
    "array": _array_shares,
}


@dataclass(frozen=True)
class Pen:
    """What writes JSON. ``labels``: the model gives some; ``probabilities``: they are told where nothing is said."""

    labels: bool
    probabilities: bool

    def tells(self, how: How) -> bool:
        """Whether probabilities are to be told."""
        return self.labels and (self.probabilities if how.probabilities is None else how.probabilities)

    def of(self, shape: Shape, how: How) -> Write:
        """The writer of a reply."""
        return (_SHARE_WRITERS if self.tells(how) else _PLAIN_WRITERS)[shape]


# ---- JSON --------------------------------------------------------------------------------------------------------


class Records:
    """Decoded JSON values become rows: records, lists of values, and the value of the only column."""

    def __init__(self, reader: Reader, most_rows: int) -> None:
        self.reader = reader
        self.most_rows = most_rows
        self.width = len(reader.names)
        self.one: Any = reader.record | list[Any] | str | int | float | bool
        self.several: Any = list[self.one]  # type: ignore[name-defined]
        self._schema = {column.name: DTYPES[column.type] for column in reader.columns}

    def row(self, value: Any, number: int | None = None) -> Row:
        """The row of one value."""
        if isinstance(value, msgspec.Struct):
            return self.reader.row(value, number)
        if isinstance(value, list):
            return self.reader.listed(value, None, number)
        if self.width != 1:
            raise malformed(
                f"A record is one value, the model takes {self.width}.", "Send an object with a member for each field."
            )
        return self.reader.listed([value], None, number)

    def rows(self, values: Sequence[Any]) -> Sequence[Row]:
        """The rows of many values; raises :class:`DataRefused`, also when there are more than are allowed."""
        self.bound(len(values))
        if set(map(type, values)) == {self.reader.record}:
            return self.together(self.reader.rows(values))
        return self.together([self.row(value, number) for number, value in enumerate(values)])

    def bound(self, rows: int) -> None:
        """Raise :class:`DataRefused` for more rows than are allowed."""
        if rows > self.most_rows:
            raise too_many(rows, self.most_rows)

    def together(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Rows as they are, and with a frame of them when they are many."""
        return Framed.of(rows, self._schema) if len(rows) >= MANY and self.width else rows

    def ahead(self, horizon: int, after: Any = None) -> list[Any]:
        """The times of the next steps after training, or after a later one, for a model that takes only time."""
        columns = self.reader.columns
        time = next((column for column in columns if column.step is not None), None)
        if time is None:
            raise malformed("'horizon' is for forecasts whose times in training had a regular step.", _SEND_ROWS)
        others = ", ".join(f"'{column.name}'" for column in columns[:_NAMED] if column is not time)
        if others:
            raise malformed(
                f"What comes does not follow from '{time.name}' alone: the model takes {others}.", _SEND_ROWS
            )
        self.bound(horizon)
        try:
            return steps_ahead(time, horizon, None if after is None else self.row([after])[0])
        except ValueError:
            raise malformed(f"'after' is before the end of training, {time.high}.", "Send a later time.") from None
        except OverflowError:
            raise malformed(
                f"'{time.name}' has no {horizon:,} steps before the calendar ends.", "Ask for fewer."
            ) from None

    def names(self, values: Sequence[Any]) -> int:
        """How many names the records among ``values`` have that are known."""
        return sum(self.width for value in values if isinstance(value, msgspec.Struct))


def json_forms(records: Records, pen: Pen) -> dict[str, Form]:
    """The forms of our own routes; each raises :class:`DataRefused`."""
    reader = records.reader
    single = decoder_of("Stream", instance=records.one)
    together = msgspec.json.Decoder(_batch_of(records.several))
    bare = msgspec.json.Decoder(records.several)

    def stream(body: bytes, how: How) -> Asked:
        value = reader.decode(single, body).instance
        reader.once(body, 1 + records.names((value,)))
        return Asked((records.row(value),), pen.of("prediction", how))

    def batch(body: bytes, how: How) -> Asked:
        asked = reader.decode(together, body)
        values = asked.instances
        if values is msgspec.UNSET or asked.horizon is not msgspec.UNSET or asked.after is not None:
            return ahead(asked, body)
        reader.once(body, 1 + records.names(values))
        return Asked(records.rows(values), pen.of("predictions", how))

    def ahead(asked: Any, body: bytes) -> Asked:
        if asked.horizon is msgspec.UNSET:
            lacking = "instances" if asked.after is None else "horizon"
            raise malformed(f"The body lacks '{lacking}'.", "Send what the route takes: GET /openapi.json.")
        if asked.instances is not msgspec.UNSET:
            raise malformed("The body has 'instances' and 'horizon'.", "Send one of them.")
        reader.once(body, 1 if asked.after is None else 2)
        times = records.ahead(asked.horizon, asked.after)
        return Asked(records.together([(time,) for time in times]), _timed(times))

    def predict(body: bytes, how: How) -> Asked:
        return Asked((reader.one(body),), pen.of("prediction", how))

    def score(body: bytes, how: How) -> Asked:
        values = reader.decode(bare, body)
        reader.once(body, records.names(values))
        return Asked(records.rows(values), pen.of("array", how))

    return {"/stream": stream, "/batch": batch, "/predict": predict, "/score": score}


def _batch_of(several: Any) -> type[msgspec.Struct]:
    """What ``/batch`` takes: records, or how many steps to look ahead."""
    horizon = Annotated[int, msgspec.Meta(ge=1)] | msgspec.UnsetType
    members: list[tuple[str, Any, Any]] = [
        ("instances", several | msgspec.UnsetType, msgspec.UNSET),
        ("horizon", horizon, msgspec.UNSET),
        ("after", Any, None),
    ]
    return msgspec.defstruct("Batch", members, forbid_unknown_fields=True)


def _timed(times: Sequence[Any]) -> Write:
    """What writes answers with the times that they are for."""

    def written(answered: Answered, live: Live) -> Written:
        del live
        return Written(encode({"times": times, "predictions": values_of(answered)}))

    return written


def decoder_of(name: str, **members: Any) -> msgspec.json.Decoder[Any]:
    """What decodes an object with these members and no others."""
    return msgspec.json.Decoder(msgspec.defstruct(name, list(members.items()), forbid_unknown_fields=True))
