"""The socket, its TLS, and how a server ends: uvicorn, told what it is to do."""

import asyncio
import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket
from types import FrameType
from typing import NamedTuple

import uvicorn

from interlock.errors import SettingsError
from interlock.serve.admin import Admin
from interlock.serve.app import App
from interlock.serve.bounds import Bounded, Bounds
from interlock.serve.lane import Lane, protocol_of
from interlock.settings import Settings
from interlock.units import seconds


class Way(NamedTuple):
    """What happens on the way: ``ready`` is told the address, ``end`` is called when the server is told to stop."""

    ready: Callable[[str], None]
    end: Callable[[], None]


class Beside(NamedTuple):
    """The admin port: its application, and its socket, open."""

    app: Admin
    socket: socket


def listen(
    app: App,
    lane: Lane,
    settings: Settings,
    way: Way,
    given: socket | None = None,
    beside: Beside | None = None,
) -> None:
    """Answer at the port of the settings, or at one that is ``given`` open, until SIGTERM or SIGINT.

    The admin port, where there is one ``beside`` it, is answered by the same loop for as long. Raises
    :class:`SettingsError` for a certificate that cannot be used.
    """
    bounds = Bounds(seconds(settings.serve.request_timeout), settings.serve.max_connections)
    config = _config(app, protocol_of(lane, bounds), settings)
    server = _Server(config, settings, way)

    async def answer() -> None:
        sockets = None if given is None else [given]
        if beside is None:
            await server.serve(sockets=sockets)
            return
        admin = _Aside(_config(beside.app, admin_protocol_of(beside.app, bounds), settings))
        running = asyncio.create_task(admin.serve(sockets=[beside.socket]))
        try:
            await server.serve(sockets=sockets)
        finally:
            admin.should_exit = True
            await running

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as loops:
        loops.run(answer())


def admin_protocol_of(admin: Admin, within: Bounds) -> type[Bounded]:
    """The protocol of the admin port: the ordinary lane, within the same bounds."""

    class Connection(Bounded):
        bounds = within

        def refusal(self, code: str, message: str, next_step: str, status: int) -> bytes:
            return self.written(admin.refusal(code, message, next_step, status, ((b"connection", b"close"),)))

    return Connection


class _Aside(uvicorn.Server):
    """A second server in a loop: it ends with the first, which has the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to the first."""
        yield


def _config(app: App | Admin, protocol: type[Bounded], settings: Settings) -> uvicorn.Config:
    serve = settings.serve
    config = uvicorn.Config(
        app,
        http=protocol,
        host=serve.host,
        port=serve.port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on" if isinstance(app, App) else "off",
        timeout_graceful_shutdown=max(1, round(seconds(serve.drain))),
        timeout_keep_alive=75,
        ssl_certfile=settings.path(serve.tls_cert) if serve.tls_cert else None,
        ssl_keyfile=settings.path(serve.tls_key) if serve.tls_key else None,
    )
    if bool(serve.tls_cert) != bool(serve.tls_key):
        raise SettingsError(
            "serve.tls_cert and serve.tls_key come together, and one is not set.", next_step="Set both, or neither."
        )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or type(error).__name__
        raise SettingsError(
            f"The certificate {serve.tls_cert} with the key {serve.tls_key} cannot be used: {why}.",
            next_step="Give two files in PEM that belong together, and that this user may read.",
        ) from error
    return config


class _Server(uvicorn.Server):
    """Tells where it listens, and ends as an ordinary program when it is told to."""

    def __init__(self, config: uvicorn.Config, settings: Settings, way: Way) -> None:
        super().__init__(config)
        self._settings = settings.serve
        self._way = way
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_told = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM and SIGINT; uvicorn itself would raise them again, before we let go of workers."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Say that we end; take requests for as long as we linger, unless told once more."""
        linger_s = seconds(self._settings.linger)
        if self._loop is None or self._is_told or sig != signal.SIGTERM or linger_s == 0.0:
            self._way.end()
            super().handle_exit(sig, frame)
            return
        self._is_told = True
        self._loop.call_soon_threadsafe(self._way.end)
        self._loop.call_soon_threadsafe(self._loop.call_later, linger_s, super().handle_exit, sig, None)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets=sockets)
        if self.started:
            self._loop = asyncio.get_running_loop()
            port = self.servers[0].sockets[0].getsockname()[1]
            scheme = "https" if self.config.is_ssl else "http"
            self._way.ready(f"{scheme}://{self._settings.host}:{port}")
