"""What a connection may cost: time to send a request, time to take its reply, size and number of headers, connections.

Without it a client that sends a byte now and then holds a connection for ever, and one that never reads holds memory.
What a connection holds is bounded by what was read at once, a few requests that wait, and what is written until the
transport says that it piles up: then nothing more is answered or read until the client takes it, or is let go.
"""

from asyncio import TimerHandle, Transport
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from interlock.serve.door import Reply

MOST_HEADERS: Final = 100
MOST_HEAD_BYTES: Final = 32_768
MOST_QUEUED: Final = 32
"""Requests of one connection that wait behind another one; what comes behind them stays bytes."""
_PIECE_BYTES: Final = 8_192


class Bounds(NamedTuple):
    """The bounds of one server. ``timeout_s``: for a whole request to arrive, and for a stuck reply to move on."""

    timeout_s: float = 30.0
    connections: int = 10_000


class _Flow(FlowControl):
    """Reads on only where there is room: each request that is begun and each that ends asks for it."""

    def __init__(self, transport: Transport, is_full: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._is_full = is_full

    def resume_reading(self) -> None:
        """Read on, unless there is enough."""
        if not self._is_full():
            super().resume_reading()


class Bounded(HttpToolsProtocol):
    """A connection within bounds; what is beyond them is told, where the client may still listen, and closed."""

    bounds: Bounds = Bounds()
    _arriving: TimerHandle | None = None
    _leaving: TimerHandle | None = None
    _in_head = False
    _head_bytes = 0
    _told_bytes = 0
    _is_over = False
    _held = b""
    """What was read and is not looked at yet: too much waits to be answered, or to be taken by the client."""

    def refusal(self, code: str, message: str, next_step: str, status: int) -> bytes:
        """The bytes of a reply that ends the connection."""
        raise NotImplementedError

    def written(self, reply: Reply) -> bytes:
        """The bytes of a reply, as the ordinary lane would write them."""
        of_the_second = self.server_state.default_headers  # uvicorn makes a new list with each date
        made_for, heads = reply.fixed.heads
        if made_for is not of_the_second:
            heads = {}
            reply.fixed.heads = (of_the_second, heads)
        kind = (reply.status, reply.content_type, len(reply.body))
        head = heads.get(kind)
        if head is None:
            head = heads[kind] = b"%s%scontent-type: %s\r\ncontent-length: %d\r\n%sinterlock-prediction-id: " % (
                STATUS_LINE[reply.status],
                b"".join(b"%s: %s\r\n" % pair for pair in of_the_second),
                *kind[1:],
                reply.fixed.block,
            )
        return b"".join((head, reply.name, b"\r\n\r\n", reply.body))

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Take a client in, or say that there are too many."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self._is_full)
        if len(self.connections) > self.bounds.connections:
            self._end("TooManyConnections", "Too many clients are connected.", "Ask again later.", 503)
        else:
            self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a client."""
        self._arrived()
        self._held = b""
        if self._leaving is not None:
            self._leaving.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what arrived, piece by piece, until enough requests wait; the rest is held.

        A piece of a head, whose end is not there yet, counts towards its size.
        """
        data = self._with_held(data)
        if data:
            self._begin()
        for start in range(0, len(data), _PIECE_BYTES):
            if len(self.pipeline) >= MOST_QUEUED:
                self._hold(data[start:])
                return
            piece = data[start : start + _PIECE_BYTES]
            super().data_received(piece)
            if self._in_head:
                self._head_bytes += len(piece)
                if self._head_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
                    self._is_over = True
                    self.send_400_response("")
            if self.transport.is_closing():
                return

    # ---- what is too much for now --------------------------------------------------------------------------------

    def _is_full(self) -> bool:
        return bool(self._held) or self.flow.write_paused

    def _hold(self, data: bytes) -> None:
        """Look at this later, and read nothing more until then."""
        self._held = data
        self.flow.pause_reading()

    def _with_held(self, data: bytes) -> bytes:
        held, self._held = self._held, b""
        return held + data if held else data

    def on_response_complete(self) -> None:
        """A reply was written; what is held waits no more for it."""
        super().on_response_complete()
        if self._held and not self.flow.write_paused:
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._held and not self.flow.write_paused and not self.transport.is_closing():
            self.data_received(b"")
            if not self._held and not self.flow.write_paused and not self.pipeline:
                self.flow.resume_reading()

    # ---- a request arrives ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._begin()
        self._in_head, self._head_bytes, self._told_bytes = True, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the address, unless it is too long."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One more header, unless it is one too many."""
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def _count(self, more: int) -> None:
        self._told_bytes += more
        if len(self.headers) > MOST_HEADERS or self._told_bytes > MOST_HEAD_BYTES:
            self._is_over = True
            raise ValueError("too many headers")  # ends the parser, which asks for the reply below

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there."""
        self._arrived()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Tell what was wrong with the bytes of a request, and close."""
        if self._is_over:
            self._end("HeadTooLarge", "The head of the request is too large.", "Send fewer or shorter headers.", 431)
        else:
            super().send_400_response(msg)

    def _begin(self) -> None:
        if self._arriving is None:
            self._arriving = self.loop.call_later(self.bounds.timeout_s, self._too_slow)

    def _arrived(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _too_slow(self) -> None:
        self._arriving = None
        cycle = self.cycle
        if self.pipeline or (cycle is not None and not cycle.response_complete and not cycle.more_body):
            self._begin()  # it waits for us
            return
        self._end("TooSlow", "The request took too long to arrive.", "Send it at once.", 408)

    def _end(self, *told: Any) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(self.refusal(*told))
        self.transport.close()
        self._leave()

    # ---- a reply leaves ------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """What was written piles up: take in nothing more, and wait for so long."""
        super().pause_writing()
        self.flow.pause_reading()
        self._leave()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._held:
            self.loop.call_soon(self._go_on)
        else:
            self.flow.resume_reading()
        if self._leaving is not None and not self.transport.is_closing():
            self._leaving.cancel()
            self._leaving = None

    def _leave(self) -> None:
        if self._leaving is None:
            self._leaving = self.loop.call_later(self.bounds.timeout_s, self.transport.abort)
