"""One request for predictions, from body to reply: what every lane does, so that all of them answer alike."""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import count
from typing import Final, NamedTuple

import msgspec

from interlock.answer.guard import FAULTS
from interlock.answer.pool import Overloaded
from interlock.answer.predict import Answered, Live
from interlock.answer.reading import Reader
from interlock.errors import DataRefused, Fault, InterlockError
from interlock.model.rows import Framed, Row
from interlock.records import Tier, short
from interlock.serve.forms import PLAIN, Asked, Forms, How
from interlock.serve.protocols import forms_of, status_in
from interlock.serve.shedding import Shedder

JSON = b"application/json"
ID = b"interlock-prediction-id"
Headers = tuple[tuple[bytes, bytes], ...]

_encode = msgspec.json.Encoder().encode
_log = logging.getLogger(__name__)


class NotKept(Fault):
    """What must be on the disk before it is acknowledged cannot be written."""


class Fixed:
    """Headers that many replies share, as pairs and as the bytes that are sent.

    ``heads``: what a connection has made of them for the replies of one second, by status, type and length of the body.
    """

    __slots__ = ("block", "heads", "pairs")

    def __init__(self, pairs: Headers) -> None:
        self.pairs = pairs
        self.block = b"".join(b"%s: %s\r\n" % pair for pair in pairs)
        self.heads: tuple[object, dict[tuple[int, bytes, int], bytes]] = (None, {})


NOTHING = Fixed(())


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What goes back: ``fixed`` headers, and the id. Without type and length, which the lanes add."""

    status: int
    body: bytes
    name: bytes = b""
    fixed: Fixed = NOTHING
    content_type: bytes = JSON

    @property
    def headers(self) -> Headers:
        """All headers but type and length, in the order in which they are sent."""
        return (*self.fixed.pairs, *(((ID, self.name),) if self.name else ()))


class Served(msgspec.Struct, frozen=True, gc=False):
    """What is told of each request. ``answered`` is None where no rows were read, and of pages and refusals."""

    route: str
    status: int
    client: object
    rows: Sequence[Row]
    tier: Tier
    seconds: float
    answered: Answered | None
    name: bytes = b""
    live: Live | None = None


class Call(msgspec.Struct, frozen=True, gc=False):
    """A plain prediction request."""

    route: str
    body: bytes
    client: object


class Room(NamedTuple):
    """A release behind the door: what answers, what reads its records, the headers that name it, the model's name."""

    live: Live
    reader: Reader
    forms: Forms
    fixed: dict[str, Fixed]
    name: str


def room_of(live: Live, *, most_rows: int, name: str = "model", probabilities: bool = False) -> Room:
    """Make ready what belongs to one release."""
    reader = Reader(live.columns)
    forms = forms_of(reader, live, most_rows=most_rows, name=name, probabilities=probabilities)
    return Room(live, reader, forms, {}, name)


class Ids:
    """Prediction ids: 16 hexadecimal digits of the process's start and chance, 10 of a counter. Unique, not secret.

    ``next`` gives a new one; one thread at a time may ask.
    """

    def __init__(self) -> None:
        self.next: Final[Callable[[], bytes]] = _counted().__next__


_DIGITS: Final = tuple(b"%03x" % number for number in range(0x1000))


def _counted() -> Iterator[bytes]:
    """A table of the last digits costs a tenth of writing a number each time."""
    prefix = b"%08x%s" % (int(time.time()) & 0xFFFFFFFF, os.urandom(4).hex().encode())
    for thousands in count():
        stem = b"%s%07x" % (prefix, thousands)
        for digits in _DIGITS:
            yield stem + digits


class Door:
    """Answers prediction requests by the release that is in the room.

    With ``settled``, a reply with an answer waits for it: whether what was told of the id is kept.
    """

    def __init__(
        self,
        room: Room,
        tell: Callable[[Served], None],
        clock: Callable[[], float] = time.monotonic,
        settled: Callable[[bytes], Awaitable[bool]] | None = None,
    ) -> None:
        self.room = room
        self.tell = tell
        self._settled = settled
        self._clock = clock
        self.is_closing = False
        """The server ends: every reply says that its connection closes."""
        self.shedder: Shedder | None = None
        self._ids = Ids()

    @property
    def routes(self) -> tuple[str, ...]:
        """Paths of the prediction routes."""
        return tuple(self.room.forms.routes)

    def name(self) -> bytes:
        """A new prediction id."""
        return self._ids.next()

    def takes(self, route: str, kind: str) -> bool:
        """Whether a route takes bodies of this type."""
        return kind in self.room.forms.routes[route]

    def now(self, route: str, body: bytes, client: object = None, how: How = PLAIN) -> Reply | None:
        """The reply, where nothing has to be waited for; else None."""
        if self.shedder is not None and self.shedder.refuses():
            return self.too_much(route, client)
        return self.admitted(route, body, client, how)

    def admitted(self, route: str, body: bytes, client: object = None, how: How = PLAIN) -> Reply | None:
        """As :meth:`now`, of a request that is not to be refused."""
        started, room = self._clock(), self.room
        live = room.live
        if self._settled is not None or live.first.here is None:
            return None  # the body is read by who waits, and only once
        try:
            asked = room.forms.read(route, body, how)
            rows = asked.rows
            answered = live.answer_here(rows, () if live.challenge is None else live.drawn(rows, client))
        except Exception as error:  # noqa: BLE001 - a fault of ours has an id too, and ends nothing but the request
            return self._failed(route, error, started, client)
        return None if answered is None else self._reply(room, route, asked, answered, started, client)

    @property
    def gathers(self) -> bool:
        """Whether requests of one moment are better answered together."""
        return self._settled is None and self.room.live.gathers

    @property
    def line(self) -> Shedder | None:
        """Who keeps the line, where requests may wait for their turn to be answered here."""
        shedder = self.shedder
        is_on = shedder is not None and shedder.is_on
        return shedder if is_on and self._settled is None and self.room.live.first.here is not None else None

    def too_much(self, route: str, client: object = None) -> Reply:
        """The reply to a request that is refused because there is too much to do."""
        return self._failed(route, _TOO_MUCH, self._clock(), client)

    def together(self, calls: Sequence[Call]) -> list[Reply | None]:
        """The replies to several requests of one moment, by one question to the model; as :meth:`admitted` has each."""
        started, room = self._clock(), self.room
        asked = [self._read(room, call, started) for call in calls]
        few = [one.rows for one in asked if isinstance(one, Asked) and not isinstance(one.rows, Framed)]
        try:
            answered = room.live.answer_here([row for rows in few for row in rows], self._drawn(room, calls, asked))
        except Exception:  # noqa: BLE001 - whose fault it was is found out one by one
            answered = None
        parts = iter(() if answered is None else answered.parts([len(rows) for rows in few]))
        replies: list[Reply | None] = []
        for call, one in zip(calls, asked, strict=True):
            if isinstance(one, Reply):
                replies.append(one)
            elif answered is None or isinstance(one.rows, Framed):
                replies.append(self.admitted(call.route, call.body, call.client))
            else:
                replies.append(self._reply(room, call.route, one, next(parts), started, call.client))
        return replies

    @staticmethod
    def _drawn(room: Room, calls: Sequence[Call], asked: Sequence[Asked | Reply]) -> list[int]:
        """Places that the challenger has drawn among the rows of several requests; each by its own client."""
        drawn: list[int] = []
        if room.live.challenge is None:
            return drawn
        start = 0
        for call, one in zip(calls, asked, strict=True):
            if isinstance(one, Asked) and not isinstance(one.rows, Framed):
                drawn += [start + place for place in room.live.drawn(one.rows, call.client)]
                start += len(one.rows)
        return drawn

    def _read(self, room: Room, call: Call, started: float) -> Asked | Reply:
        try:
            return room.forms.read(call.route, call.body, PLAIN)
        except Exception as error:  # noqa: BLE001 - as above
            return self._failed(call.route, error, started, call.client)

    async def later(self, route: str, body: bytes, client: object = None, how: How = PLAIN) -> Reply:
        """The reply, waiting for models in other processes."""
        started, room = self._clock(), self.room
        try:
            asked = room.forms.read(route, body, how)
            answered = await room.live.answer(asked.rows, room.live.drawn(asked.rows, client))
        except Exception as error:  # noqa: BLE001 - as above
            return self._failed(route, error, started, client)
        reply = self._reply(room, route, asked, answered, started, client)
        if self._settled is not None and not await self._settled(reply.name):
            return failure(NotKept("The answer cannot be recorded, so it is not given.", next_step=_LATER), reply.name)
        return reply

    async def reply(self, route: str, body: bytes, client: object = None, how: How = PLAIN) -> Reply:
        """The reply, by whichever way."""
        return self.now(route, body, client, how) or await self.later(route, body, client, how)

    def _reply(self, room: Room, route: str, asked: Asked, answered: Answered, started: float, client: object) -> Reply:
        name, live = self._ids.next(), room.live
        tier: Tier = answered.lowest if answered.faults or live.challenge is not None else live.first.tier
        if tier == "abstain":
            reply = _abstained(answered, name, route)
        else:
            try:
                written = asked.write(answered, live)
            except InterlockError as error:  # what was asked for is not among the answers
                return self._failed(route, error, started, client)
            fixed = room.fixed.get(tier) or _fixed(room, tier)
            if written.headers:
                fixed = Fixed((*fixed.pairs, *written.headers))
            reply = Reply(200, written.body, name, fixed, written.kind)
        seconds = self._clock() - started
        self.tell(Served(route, reply.status, client, asked.rows, tier, seconds, answered, name, live))
        return reply

    def _failed(self, route: str, error: Exception, started: float, client: object) -> Reply:
        name = self.name()
        reply = failure(error, name, route) if isinstance(error, InterlockError) else fault(error, name)
        self.tell(Served(route, reply.status, client, (), "abstain", self._clock() - started, None, name))
        return reply


_TOO_MUCH = Overloaded(
    "More requests arrive than can be answered in time.", next_step="Ask again later, or run more workers."
)
_LATER = "Ask again later; the server says why its log does not take it."
_RETRY = Fixed(((b"retry-after", b"1"),))
_ABSTAINED = Fixed(((b"interlock-tier", b"abstain"),))
_NOBODY = Fixed(((b"retry-after", b"1"), (b"interlock-tier", b"abstain")))


def _fixed(room: Room, tier: Tier) -> Fixed:
    """Headers that name who answered."""
    seat = room.live.seat_of(tier)
    named = Fixed(
        (
            (b"interlock-tier", tier.encode()),
            (b"interlock-release", str(room.live.generation).encode()),
            (b"interlock-model", short(seat.model).encode()),
        )
    )
    room.fixed[tier] = named
    return named


def failure(error: InterlockError, name: bytes, route: str = "") -> Reply:
    """The reply to a request that could not be read, or that nobody could answer."""
    status = 503
    if isinstance(error, DataRefused):
        status = 413 if error.facts.get("too_large") else 400 if error.facts.get("malformed") else 422
        status = status_in(route, status)
    body = {"code": error.code, "message": error.message, "next_step": error.next_step, "id": name.decode()}
    for fact in ("field", "row"):
        if error.facts.get(fact) is not None:
            body[fact] = error.facts[fact]  # type: ignore[assignment]
    return Reply(status, _encode({"error": body}), name, _RETRY if isinstance(error, Overloaded | NotKept) else NOTHING)


def fault(error: Exception, name: bytes) -> Reply:
    """The reply to a request that met a fault of ours: an id, and nothing of the request or of the fault."""
    _log.error("request %s: %s", name.decode(), type(error).__name__, exc_info=error)
    told = "Report it with the lines that the server wrote under this id."
    body = {"code": "Fault", "message": "Something broke inside the server.", "next_step": told, "id": name.decode()}
    return Reply(500, _encode({"error": body}), name)


def _abstained(answered: Answered, name: bytes, route: str) -> Reply:
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
    status = status_in(route, 422) if bad else 503
    return Reply(status, _encode({"error": error}), name, _ABSTAINED if bad else _NOBODY)
