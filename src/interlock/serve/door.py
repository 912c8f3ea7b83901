"""One request for predictions, from body to reply: what every lane does, so that all of them answer alike."""

import os
import time
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

import msgspec

from interlock.answer.guard import FAULTS
from interlock.answer.pool import Overloaded
from interlock.answer.predict import Answered, Live
from interlock.answer.reading import Reader
from interlock.errors import DataRefused, InterlockError
from interlock.records import short
from interlock.serve.forms import Asked, JsonForms, json_forms, written

JSON = b"application/json"
Headers = tuple[tuple[bytes, bytes], ...]

_encode = msgspec.json.Encoder().encode


class Reply(NamedTuple):
    """What goes back. ``headers`` without type and length."""

    status: int
    body: bytes
    headers: Headers = ()
    content_type: bytes = JSON


class Served(NamedTuple):
    """What the door tells of each request: route, status, rows, lowest tier, seconds."""

    route: str
    status: int
    rows: int
    tier: str
    seconds: float
    answered: Answered | None


class Room(NamedTuple):
    """A release behind the door: what answers, what reads its records, and the headers that name it."""

    live: Live
    reader: Reader
    forms: JsonForms
    headers: dict[tuple[str, int], Headers]


def room_of(live: Live, *, most_rows: int) -> Room:
    """Make ready what belongs to one release."""
    reader = Reader(live.columns)
    return Room(live, reader, json_forms(reader, most_rows), {})


class Ids:
    """Prediction ids: 16 hexadecimal digits of the process's start and chance, 10 of a counter. Unique, not secret."""

    def __init__(self) -> None:
        self._prefix = f"{int(time.time()) & 0xFFFFFFFF:08x}{os.urandom(4).hex()}"
        self._count = count(1)

    def next(self) -> bytes:
        """A new id."""
        return b"%s%010x" % (self._prefix.encode(), next(self._count))


class Door:
    """Answers prediction requests by the release that is in the room."""

    def __init__(
        self, room: Room, observe: Callable[[Served], None], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.room = room
        self._observe = observe
        self._clock = clock
        self._ids = Ids()

    @property
    def routes(self) -> tuple[str, ...]:
        """Paths of the prediction routes."""
        return tuple(self.room.forms.routes)

    def name(self) -> bytes:
        """A new prediction id."""
        return self._ids.next()

    def now(self, route: str, body: bytes) -> Reply | None:
        """The reply, where nothing has to be waited for; else None."""
        started, room = self._clock(), self.room
        try:
            asked = room.forms.routes[route](body)
            answered = room.live.answer_here(asked.rows)
        except InterlockError as error:
            return self._failed(route, error, started)
        return None if answered is None else self._reply(room, route, asked, answered, started)

    async def later(self, route: str, body: bytes) -> Reply:
        """The reply, waiting for models in other processes."""
        started, room = self._clock(), self.room
        try:
            asked = room.forms.routes[route](body)
            answered = await room.live.answer(asked.rows)
        except InterlockError as error:
            return self._failed(route, error, started)
        return self._reply(room, route, asked, answered, started)

    async def reply(self, route: str, body: bytes) -> Reply:
        """The reply, by whichever way."""
        return self.now(route, body) or await self.later(route, body)

    def _reply(self, room: Room, route: str, asked: Asked, answered: Answered, started: float) -> Reply:
        name = self.name()
        if answered.faults and None in answered.answers:
            reply = _abstained(answered, name)
        else:
            body = written(answered.answers, asked.shape)  # type: ignore[arg-type]
            reply = Reply(200, body, (*self._named(room, answered), (b"interlock-prediction-id", name)))
        tier = answered.lowest
        self._observe(Served(route, reply.status, len(asked.rows), tier, self._clock() - started, answered))
        return reply

    def _named(self, room: Room, answered: Answered) -> Headers:
        tier = answered.lowest
        seat = next((place for place, seat in enumerate(room.live.seats) if seat.tier == tier), 0)
        key = (tier, seat)
        found = room.headers.get(key)
        if found is None:
            found = room.headers[key] = (
                (b"interlock-tier", tier.encode()),
                (b"interlock-release", str(room.live.generation).encode()),
                (b"interlock-model", short(room.live.seats[seat].model).encode()),
            )
        return found

    def _failed(self, route: str, error: InterlockError, started: float) -> Reply:
        reply = failure(error, self.name())
        self._observe(Served(route, reply.status, 0, "abstain", self._clock() - started, None))
        return reply


def failure(error: InterlockError, name: bytes) -> Reply:
    """The reply to a request that could not be read, or that nobody could answer."""
    status = 503
    if isinstance(error, DataRefused):
        status = 413 if error.facts.get("too_large") else 400 if error.facts.get("malformed") else 422
    body = {"code": error.code, "message": error.message, "next_step": error.next_step, "id": name.decode()}
    for fact in ("field", "row"):
        if error.facts.get(fact) is not None:
            body[fact] = error.facts[fact]  # type: ignore[assignment]
    retry: Headers = ((b"retry-after", b"1"),) if isinstance(error, Overloaded) else ()
    return Reply(status, _encode({"error": body}), (*retry, (b"interlock-prediction-id", name)))


def _abstained(answered: Answered, name: bytes) -> Reply:
    """The reply where some row has no acceptable answer: a bad record (422), or nobody fit to answer (503)."""
    refused = answered.refused()
    open_ = answered.open()
    bad = all(place in refused for place in open_)
    cause = next(fault.cause for fault in answered.faults if fault.place == open_[0])
    error = {
        "code": "RecordRefused" if bad else "NoAnswer",
        "message": f"No model has an answer for {len(open_)} of {len(answered.answers)} records: {FAULTS[cause]}.",
        "next_step": "Look at the record: every model that learnt refused it." if bad else "Ask again later.",
        "row": open_[0],
        "id": name.decode(),
    }
    headers: Headers = ((b"interlock-tier", b"abstain"), (b"interlock-prediction-id", name))
    return Reply(422 if bad else 503, _encode({"error": error}), headers if bad else ((b"retry-after", b"1"), *headers))
