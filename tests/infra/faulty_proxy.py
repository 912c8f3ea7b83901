"""An HTTP proxy in front of a server on this machine that does harm to chosen requests, counted from 1.

``plan`` gives the harm for a number, or None. The kinds:

======================  ==============================================================================
``500``, ``503``        the error as a reply; the server never hears of the request
``409``                 S3's "a conflicting conditional operation is in progress", likewise
``reset-before``        the connection is reset; the server never hears of the request
``reset-after``         the server carries it out, and the connection is reset instead of a reply
``hang``                nothing happens until the client gives up; the server never hears of the request
``hang-after``          the server carries it out, and no reply comes until the client gives up
``truncated``           the server carries it out, and the connection ends in the middle of the reply
``ignore-conditions``   the server is asked without ``If-None-Match``, as by a store that does not know it
======================  ==============================================================================
"""

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

KINDS = ("500", "503", "reset-before", "reset-after", "hang", "hang-after", "truncated")

Plan = Callable[[int], str | None]


class Seen(NamedTuple):
    """One request: its number, and what was asked."""

    number: int
    method: str
    path: str
    conditional: bool


class FaultyProxy:
    """Counts requests, and does harm by plan. ``url`` is where clients find it."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.plan: Plan = lambda _number: None
        self.seen: list[Seen] = []
        self.harmed: list[tuple[Seen, str]] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def reset(self, plan: Plan | None = None) -> None:
        """Count from 1 again, under another plan."""
        with self._lock:
            self.seen, self.harmed = [], []
            self.plan = plan or (lambda _number: None)

    def arrived(self, method: str, path: str, *, conditional: bool) -> str | None:
        """Count one request, and say what harm is to be done to it."""
        with self._lock:
            seen = Seen(len(self.seen) + 1, method, unquote(path), conditional)
            self.seen.append(seen)
            harm = self.plan(seen.number)
            if harm is not None:
                self.harmed.append((seen, harm))
            return harm

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any, bytes]:
        """Ask the server; returns status, headers and body."""
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            connection.request(method, path, body=body, headers=headers)
            reply = connection.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            connection.close()

    @contextmanager
    def running(self) -> Iterator["FaultyProxy"]:
        """Listen until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    proxy: FaultyProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = dict(self.headers.items())
        conditional = "if-none-match" in {name.lower() for name in headers}
        proxy = self.server.proxy
        harm = proxy.arrived(self.command, self.path, conditional=conditional)
        if harm == "ignore-conditions":
            headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
        if harm in ("500", "503", "409"):
            code = {"500": "InternalError", "503": "SlowDown", "409": "ConditionalRequestConflict"}[harm]
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Harm.</Message></Error>"
            self._reply(int(harm), [("Content-Type", "application/xml")], text.encode())
            return
        if harm in ("reset-before", "hang"):
            self._leave(harm)
            return
        status, told, content = proxy.forward(self.command, self.path, headers, body)
        if harm in ("reset-after", "hang-after"):
            self._leave(harm)
        elif harm == "truncated":
            self._cut(status, told, content)
        else:
            self._reply(status, told, content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815  the names that the library asks for

    def _reply(self, status: int, headers: Any, content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                self.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(content)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _cut(self, status: int, headers: Any, content: bytes) -> None:
        """Half of the reply: of its body, or of its head where there is none."""
        head = f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(content)}\r\n"
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                head += f"{name}: {value}\r\n"
        half = content[: len(content) // 2]
        whole = f"{head}\r\n".encode() + half
        self.wfile.write(whole if half and self.command != "HEAD" else head.encode()[: len(head) // 2])
        self.wfile.flush()
        self.close_connection = True

    def _leave(self, harm: str) -> None:
        """Reset the connection, or say nothing until the client has gone."""
        self.close_connection = True
        if harm.startswith("hang"):
            self.connection.settimeout(60)
            while self.connection.recv(4096):
                pass
            return
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
