"""An HTTP gateway on loopback that can do to a server's clients what servers do: refuse, hang, lose the reply."""

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Act = Literal["pass", "500", "hang", "lose", "drop"]
_HOP = {"connection", "transfer-encoding", "content-length", "host"}


class Gateway:
    """Passes requests on to ``port``; ``act`` says for each (its number, method, path) what becomes of it.

    ``lose``: the server gets it and its reply is thrown away. ``drop``: nobody gets it. ``hang``: nothing, until
    closed. Without a ``port`` it answers 200 itself. ``taken`` are the bodies that were answered well.
    """

    def __init__(self, port: int = 0, *, listen: int = 0) -> None:
        self.target = port
        self.act: Callable[[int, str, str], Act] = lambda *_: "pass"
        self.requests: list[tuple[str, str]] = []
        self.taken: list[bytes] = []
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", listen), self._handler())
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stop, and let go of what hangs."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                gateway._serve(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self._lock:
            self.requests.append((handler.command, handler.path))
            number = len(self.requests)
            act = self.act(number, handler.command, handler.path)
        if act == "hang":
            self._closed.wait()
        if act in ("hang", "drop"):
            handler.close_connection = True
            return
        try:
            status, headers, content = (500, [], b"{}") if act == "500" else self._forward(handler, body)
        except OSError:
            status, headers, content = 502, [], b"{}"
        if act == "lose":
            handler.close_connection = True
            return
        if status < 400:
            with self._lock:
                self.taken.append(body)
        handler.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP:
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        if not self.target:
            return 200, [], b"{}"
        connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=30)
        headers = {name: value for name, value in handler.headers.items() if name.lower() not in _HOP}
        headers["Host"] = f"127.0.0.1:{self.target}"
        connection.request(handler.command, handler.path, body, headers)
        reply = connection.getresponse()
        content = reply.read()
        connection.close()
        return reply.status, reply.getheaders(), content
