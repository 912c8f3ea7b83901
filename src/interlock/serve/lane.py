"""The fast lane: prediction requests answered where the bytes arrive, before anything of HTTP is taken apart again.

A client sends the same request head over and over: path, headers, key. A head that the ordinary lane has taken apart
once, and found to be one of a plain prediction request, is remembered by its bytes; when the same bytes come again
and the whole body behind them, the door is asked at once and the reply is written, with no task, no scope and no
parser. The same bytes mean the same, so nothing is decided anew but what the body says; heads are forgotten when the
keys change.

A model that answers many rows together much cheaper than one after the other is asked once in a turn of the loop, about
all that arrived in it: no timer, and nobody waits for a request that is not there yet.

Everything else takes the ordinary lane: heads not seen before or in pieces, bodies in chunks, other routes and methods,
odd headers, and whatever arrives while an answer of the ordinary lane is still on its way.
"""

import asyncio
from typing import Final, NamedTuple

from interlock.serve.app import App
from interlock.serve.bounds import Bounded, Bounds
from interlock.serve.door import Call, Door, Reply, Served
from interlock.serve.quota import Bucket

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


class Lane:
    """What the connections of one server share."""

    def __init__(self, door: Door, app: App) -> None:
        self.door = door
        self.app = app
        self.heads: dict[bytes, Head] = {}
        self.answered = 0
        self._gathered: list[tuple[Call, _Connection]] = []

    def gather(self, call: Call, connection: "_Connection") -> None:
        """Answer a request together with all that come in this turn of the loop."""
        self._gathered.append((call, connection))
        if len(self._gathered) == 1:
            asyncio.get_running_loop().call_soon(self.settle)

    def settle(self) -> None:
        """Answer what was gathered."""
        gathered, self._gathered = self._gathered, []
        for start in range(0, len(gathered), MOST_TOGETHER):
            some = gathered[start : start + MOST_TOGETHER]
            replies = self.door.together([call for call, _ in some])
            for (_, connection), reply in zip(some, replies, strict=True):
                connection.settled(reply)

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

    def data_received(self, data: bytes) -> None:
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
            last = end + known.length
            if len(data) < last:  # of a large body the rest is on its way
                self._begin()
                self._is_active = True
                self._pieces, self._missing = [data], last - len(data)
                return
            bucket = known.bucket
            if bucket is not None and bucket.take() > 0.0:
                self._head = b""
                super().data_received(data)  # which says so
                return
            door = self.shared.door
            if bucket is None and door.gathers:
                self._gathered, self._following = data[:last], data[last:]
                self.shared.gather(Call(known.route, data[end:last], known.client), self)
                return
            reply = door.now(known.route, data[end:last], known.client)
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
        if self.transport.is_closing():
            return
        if reply is None:
            self._head = b""
            super().data_received(data)
        else:
            self._reply(reply)
        if following:
            self.data_received(following)

    def shutdown(self) -> None:
        """Close when the requests that came are answered."""
        if self._gathered is not None:
            self.shared.settle()
        if self._pieces:  # the ordinary lane waits for the rest of it
            data, self._pieces = b"".join(self._pieces), None
            super().data_received(data)
        super().shutdown()

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
