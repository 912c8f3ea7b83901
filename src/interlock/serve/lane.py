"""The fast lane: prediction requests answered where the bytes arrive, before anything of HTTP is taken apart again.

A client sends the same request head over and over: path, headers, key. A head that the ordinary lane has taken apart
once, and found to be one of a plain prediction request, is remembered by its bytes; when the same bytes come again
and the whole body behind them, the door is asked at once and the reply is written, with no task, no scope and no
parser. The same bytes mean the same, so nothing is decided anew but what the body says; heads are forgotten when the
keys change.

A model that answers many rows together much cheaper than one after the other is asked once in a turn of the loop, about
all that arrived in it: no timer, and nobody waits for a request that is not there yet.

Where more arrives than a short turn can answer, requests wait in a line (:mod:`interlock.serve.shedding`).
Of a large body the head is enough to be refused: the reply is written, and the rest of the body is read and dropped:
a connection that is closed on bytes that nobody read takes the reply down with it (RFC 9112, section 9.6).

Everything else takes the ordinary lane: heads not seen before or in pieces, bodies in chunks, other routes and methods,
odd headers, and whatever arrives while an answer of the ordinary lane is still on its way.
"""

import asyncio
import math
import time
from collections import deque
from typing import Final, NamedTuple

from msgspec.structs import replace

from interlock.serve.app import App
from interlock.serve.bounds import Bounded, Bounds
from interlock.serve.door import Call, Door, Fixed, Reply, Served
from interlock.serve.quota import Bucket
from interlock.serve.shedding import SLICE_S

MOST_HEADS: Final = 4_096
"""Heads remembered; then all are forgotten and learnt again."""
LONGEST_HEAD: Final = 4_096
_END: Final = b"\r\n\r\n"
_ITS_OWN: Final = (b"transfer-encoding", b"expect", b"upgrade", b"connection", b"traceparent")
"""Headers that the ordinary lane follows; a trace has a head of its own for each request."""


class Head(NamedTuple):
    """What a remembered head asks for."""

    route: str
    length: int
    client: object
    bucket: Bucket | None = None


MOST_TOGETHER: Final = 256
"""Requests that are answered by one question to the model."""
MOST_DROPPED: Final = 262_144
"""Bytes of a refused body that are read for the connection to live on; where more is to come, it closes behind it."""
LINGER_S: Final = 5.0
"""So long the rest of a refused body may take."""


class Lane:
    """What the connections of one server share."""

    def __init__(self, door: Door, app: App) -> None:
        self.door = door
        self.app = app
        self.heads: dict[bytes, Head] = {}
        self.answered = 0
        self._gathered: deque[tuple[Call, _Connection]] = deque()
        self._settled_s: float | None = None
        self._is_due = False

    def gather(self, call: Call, connection: "_Connection") -> None:
        """Answer a request together with all that come in this turn of the loop, or when it is its turn."""
        self._gathered.append((call, connection))
        self._soon()

    def _soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._due)

    def _due(self) -> None:
        self._is_due = False
        self.settle()

    def must_wait(self) -> bool:
        """Whether others wait already, or this turn of the loop has answered for long enough."""
        line = self.door.line
        return line is not None and (bool(self._gathered) or line.is_late())

    def settle(self, *, everything: bool = False) -> None:
        """Answer those who wait, or some of them: then it looks who has come. In a turn of the loop, or at the end."""
        shedder = self.door.shedder
        clock = time.monotonic if shedder is None else shedder.clock
        began_s = now_s = clock()
        until_s = began_s + max(SLICE_S, 0.0 if self._settled_s is None else began_s - self._settled_s)
        if everything or shedder is None or not shedder.is_on:
            until_s = math.inf
        count, self._settled_s = 0, None
        try:
            while self._gathered and now_s < until_s:
                count += self._answer() if self.door.gathers else self._answer_one()
                now_s = clock()
        finally:
            if shedder is not None:
                shedder.answered(count, now_s - began_s)
            if self._gathered:
                self._settled_s = now_s
                self._soon()

    def _answer_one(self) -> int:
        """Answer the first that waits, unless it has left meanwhile."""
        call, connection = self._gathered.popleft()
        if not connection.transport.is_closing():
            connection.settled(self.door.admitted(call.route, call.body, call.client))
        return 1

    def _answer(self) -> int:
        """Answer the first that wait by one question, but for those who have left; how many they were."""
        taken = [self._gathered.popleft() for _ in range(min(MOST_TOGETHER, len(self._gathered)))]
        some = [each for each in taken if not each[1].transport.is_closing()]
        if some:
            replies = self.door.together([call for call, _ in some])
            for (_, connection), reply in zip(some, replies, strict=True):
                connection.settled(reply)
        return len(taken)

    def learn(self, head: bytes, found: Head) -> None:
        """Remember a head, but not at the end, when each reply says that the connection closes."""
        if self.door.is_closing:
            return
        if len(self.heads) >= MOST_HEADS:
            self.heads.clear()
        self.heads[head] = found

    def forget(self) -> None:
        """Forget all heads: what they may do has changed."""
        self.heads.clear()


def protocol_of(lane: Lane, within: Bounds | None = None) -> type[Bounded]:
    """The protocol of a server with this lane, for uvicorn's option ``http``."""

    class Connection(_Connection):
        shared = lane
        bounds = within or Bounds()

    return Connection


class _Connection(Bounded):
    shared: Lane
    _head: bytes = b""
    _is_parsing = False
    _is_active = False
    _gathered: bytes | None = None
    _following: bytes = b""
    _pieces: list[bytes] | None = None
    _missing = 0
    _is_promised = False
    _bucket: Bucket | None = None
    _dropping = 0
    _closes = False

    def data_received(self, data: bytes) -> None:
        if self._dropping:
            data = self._drop(data)
            if not data:
                return
        if self._gathered is not None:
            self._following += data
            return
        if self._held:
            data = self._with_held(data)
        if self._pieces:
            self._pieces.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data, self._pieces = b"".join(self._pieces), None
            self._kept()
        cycle = self.cycle
        if self._is_parsing or (cycle is not None and not cycle.response_complete):
            super().data_received(data)
        else:
            self._look_through(data)

    def _look_through(self, data: bytes) -> None:
        """Answer the requests in what arrived, as far as they are known; the rest takes the ordinary lane."""
        while data:
            if self.flow.write_paused:
                self._hold(data)
                return
            end = data.find(_END, 0, LONGEST_HEAD) + 4
            head = data[:end]
            known = self.shared.heads.get(head)
            if known is None:
                self._head = head if end > 4 else b""
                super().data_received(data)
                return
            door, last = self.shared.door, end + known.length
            if len(data) < last:  # of a large body the rest is on its way
                self._expect(known, data, last - len(data))
                return
            bucket = known.bucket
            if bucket is not None and bucket.take() > 0.0:
                self._head = b""
                super().data_received(data)  # which says so
                return
            if self.shared.must_wait() or (bucket is None and door.gathers):
                if self._is_refused(known, bucket):
                    data = data[last:]
                    continue
                self._bucket = bucket
                self._gathered, self._following = data[:last], data[last:]
                self.shared.gather(Call(known.route, data[end:last], known.client), self)
                return
            self._is_promised = False
            reply = door.admitted(known.route, data[end:last], known.client)
            if reply is None:
                if bucket is not None:
                    bucket.give_back()  # the ordinary lane counts it
                self._head = b""
                super().data_received(data)
                return
            self._reply(reply)
            data = data[last:]

    def settled(self, reply: Reply | None) -> None:
        """Send the reply to what was gathered, or let the ordinary lane see to it; then go on with what followed."""
        data, self._gathered = self._gathered or b"", None
        following, self._following = self._following, b""
        bucket, self._bucket = self._bucket, None
        if self.transport.is_closing():
            return
        if reply is None:
            if bucket is not None:
                bucket.give_back()  # the ordinary lane counts it
            self._head = b""
            super().data_received(data)
        else:
            self._reply(reply)
        if following:
            self.data_received(following)

    def shutdown(self) -> None:
        """Close when the requests that came are answered."""
        if self._dropping:
            self._closes = True
            return
        if self._gathered is not None:
            self.shared.settle(everything=True)
        if self._pieces:  # the ordinary lane waits for the rest of it
            data, self._pieces = b"".join(self._pieces), None
            super().data_received(data)
        super().shutdown()

    # ---- more than can be answered -------------------------------------------------------------------------------

    def _expect(self, head: Head, data: bytes, rest: int) -> None:
        """Let the rest of a body come, unless it is known already that there is no time for it."""
        line = self.shared.door.line
        if line is not None:
            self._is_promised = line.promises()
            if not self._is_promised:
                self._turn_away(head, rest)
                return
        self._begin()
        self._is_active = True
        self._pieces, self._missing = [data], rest

    def _kept(self) -> None:
        """The body that was promised is there, or the client has left."""
        shedder = self.shared.door.shedder
        if self._is_promised and shedder is not None:
            shedder.kept()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a client, and of its place in the line."""
        if self._pieces:
            self._kept()
        super().connection_lost(exc)

    def _is_refused(self, head: Head, bucket: Bucket | None) -> bool:
        """Refuse a request that is all there, unless there is time for it."""
        shedder, promised = self.shared.door.shedder, self._is_promised
        self._is_promised = False
        if shedder is None or shedder.admits(promised=promised):
            return False
        if bucket is not None:
            bucket.give_back()
        self._reply(self.shared.door.too_much(head.route, head.client))
        return True

    def _turn_away(self, head: Head, rest: int) -> None:
        """Refuse a request by its head; of the body, ``rest`` bytes are still to come."""
        reply = self.shared.door.too_much(head.route, head.client)
        self._closes = rest > MOST_DROPPED
        if self._closes:
            reply = replace(reply, fixed=Fixed((*reply.fixed.pairs, (b"connection", b"close"))))
        self._reply(reply)
        self._dropping = rest
        self._arriving = self.loop.call_later(min(LINGER_S, self.bounds.timeout_s), self._too_slow)

    def _drop(self, data: bytes) -> bytes:
        """What follows a body that is not wanted; nothing while it has not all come."""
        rest = data[self._dropping :]
        self._dropping -= len(data) - len(rest)
        if self._dropping:
            return b""
        self._arrived()
        if self._closes:
            self.transport.close()
            return b""
        return rest

    def _too_slow(self) -> None:
        if self._dropping:  # the reply is written
            self._arriving = None
            self.transport.close()
            return
        super()._too_slow()

    def _reply(self, reply: Reply) -> None:
        if self._arriving is not None:
            self._arrived()
        self.shared.answered += 1
        self._is_active = True
        self.server_state.total_requests += 1
        self.transport.write(self.written(reply))

    def refusal(self, code: str, message: str, next_step: str, status: int) -> bytes:
        """The bytes of a reply that ends the connection, and that is told like any other."""
        app = self.shared.app
        reply = app.refusal(code, message, next_step, status, ((b"connection", b"close"),))
        self.shared.door.tell(Served("other", status, ("", ""), (), "abstain", 0.0, None, reply.name))
        return self.written(reply)

    # ---- what the ordinary lane takes apart ----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._is_parsing = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        head, self._head = self._head, b""
        if head:
            found = self._plain()
            if found is not None:
                self.shared.learn(head, found)

    def on_message_complete(self) -> None:
        self._is_parsing = False
        super().on_message_complete()

    def _plain(self) -> Head | None:
        """What the head just taken apart asks for, when it is that of a plain prediction request that may pass."""
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"")
        if (
            len(headers) != len(self.headers)
            or not length.isdigit()
            or self.parser.get_http_version() != "1.1"
            or not self.parser.should_keep_alive()
            or any(name in headers for name in _ITS_OWN)
            or self.url != self.scope["raw_path"]
        ):
            return None
        path = self.scope["path"]
        if not self.shared.app.passes(self.scope["method"], path, headers):
            return None
        app = self.shared.app
        return Head(path, int(length), app.client_of(headers, self.client), app.bucket_of(headers))

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was idle since the timer was set, and only then."""
        if self._is_active and not self.transport.is_closing():
            self._is_active = False
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            return
        super().timeout_keep_alive_handler()
