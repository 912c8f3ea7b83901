"""A client that reads every answer: many connections on one event loop, each with one request at a time."""

import asyncio
import time
from typing import NamedTuple


class Answer(NamedTuple):
    """What came back. ``headers`` are in lower case; times in seconds of ``time.perf_counter``."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    began_s: float
    ended_s: float


class Connection(asyncio.Protocol):
    """One kept connection. A lost one fails the request that was on it, and is opened again with the next."""

    def __init__(self, port: int, source: str = "") -> None:
        self._port = port
        self._source = source
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[tuple[int, dict[bytes, bytes], bytes]] | None = None
        self._bytes = b""

    async def ask(self, request: bytes) -> Answer:
        """Send a request and wait for its reply; raises :class:`ConnectionError` when it is cut off."""
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            local = (self._source, 0) if self._source else None
            await loop.create_connection(lambda: self, "127.0.0.1", self._port, local_addr=local)
        assert self._transport is not None
        self._waiting = loop.create_future()
        self._bytes = b""
        self._transport.write(request)
        status, headers, body = await self._waiting
        return Answer(status, headers, body, began, time.perf_counter())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("the connection was lost before the reply was whole"))

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        head, end, body = self._bytes.partition(b"\r\n\r\n")
        if not end or self._waiting is None or self._waiting.done():
            return
        first, *lines = head.split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in headers.items()}
        if len(body) >= int(headers[b"content-length"]):
            self._waiting.set_result((int(first.split(b" ", 2)[1]), headers, body))
