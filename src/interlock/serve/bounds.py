"""What a connection may cost: time to send a request, time to take its reply, size and number of headers, connections.

Without it a client that sends a byte now and then holds a connection for ever, and one that never reads holds memory.
"""

from asyncio import TimerHandle, Transport
from typing import Any, Final, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from interlock.serve.door import Reply

MOST_HEADERS: Final = 100
MOST_HEAD_BYTES: Final = 32_768


class Bounds(NamedTuple):
    """The bounds of one server. ``timeout_s``: for a whole request to arrive, and for a stuck reply to move on."""

    timeout_s: float = 30.0
    connections: int = 10_000


class Bounded(HttpToolsProtocol):
    """A connection within bounds; what is beyond them is told, where the client may still listen, and closed."""

    bounds: Bounds = Bounds()
    _arriving: TimerHandle | None = None
    _leaving: TimerHandle | None = None
    _in_head = False
    _head_bytes = 0
    _told_bytes = 0
    _is_over = False

    def refusal(self, code: str, message: str, next_step: str, status: int) -> bytes:
        """The bytes of a reply that ends the connection."""
        raise NotImplementedError

    def written(self, reply: Reply) -> bytes:
        """The bytes of a reply, as the ordinary lane would write them."""
        parts = [STATUS_LINE[reply.status]]
        for name, value in self.server_state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (
            b"content-type: %s\r\ncontent-length: %d\r\n" % (reply.content_type, len(reply.body)),
            reply.fixed.block,
            b"interlock-prediction-id: %s\r\n\r\n" % reply.name,
            reply.body,
        )
        return b"".join(parts)

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Take a client in, or say that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections:
            self._end("TooManyConnections", "Too many clients are connected.", "Ask again later.", 503)
        else:
            self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a client."""
        self._arrived()
        if self._leaving is not None:
            self._leaving.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in a piece; one of a head, whose end is not there yet, counts towards its size."""
        self._begin()
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
                self._is_over = True
                self.send_400_response("")

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
        self.flow.resume_reading()
        if self._leaving is not None and not self.transport.is_closing():
            self._leaving.cancel()
            self._leaving = None

    def _leave(self) -> None:
        if self._leaving is None:
            self._leaving = self.loop.call_later(self.bounds.timeout_s, self.transport.abort)
