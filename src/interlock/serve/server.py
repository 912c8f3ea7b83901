"""``interlock serve``: one project behind its doors, until it is told to stop."""

import asyncio
import importlib.util
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from socket import socket
from threading import Lock
from typing import Final

import msgspec

from interlock.answer.guard import Limits
from interlock.answer.live import loading
from interlock.errors import Misuse, SettingsError
from interlock.model.contract import read_contract
from interlock.model.runner import Runner
from interlock.ports import Parts
from interlock.records import Release, short
from interlock.serve.app import App, Page
from interlock.serve.door import Door, Reply, Room, Served
from interlock.serve.duty import Duty, terms_of
from interlock.serve.keys import SCOPES, Keyring, key_of, new_key, read_keys
from interlock.serve.openapi import document
from interlock.serve.reload import Follower
from interlock.serve.workers import Crew, Inherited, inherited, open_port, own_command
from interlock.settings import Settings
from interlock.units import seconds

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What the person who starts the server says beyond the settings."""

    insecure: bool = False
    say: Callable[[str], None] = print


def serve(parts: Parts, orders: Orders) -> None:
    """Serve until SIGTERM or SIGINT, then let what runs end.

    Raises :class:`NothingToServe` without a release, :class:`Misuse` for an open door to the network, and
    :class:`SettingsError` for a file of keys that cannot be read.
    """
    settings = parts.settings
    _require_uvicorn()
    given = inherited()
    if settings.serve.workers > 1 and given is None:
        _lead(settings, orders)
        return
    keyring = _keyring(settings, orders, given)
    with ExitStack() as stack:
        runner = _Lazy(settings)
        stack.callback(runner.close)
        loader = stack.enter_context(
            loading(parts, runner.get, limits=Limits(reach=settings.serve.reach), workers=settings.serve.runners)
        )
        duty = Duty(parts, terms_of(settings), orders.say)
        stack.callback(duty.close)
        house: list[_House] = []

        def show(room: Room, release: Release) -> None:
            house[0].show(room, release)

        follower = Follower(parts, loader, show, orders.say)
        room, release = follower.first()
        door = Door(room, lambda served: _tell(duty, served))
        duty.enter(room.live, release)
        app = App(door, keyring, _pages(door, settings), max_body=int(settings.serve.max_body_mb * 1e6))
        house.append(_House(door, duty, follower))
        _run(app, settings, orders, house[0], given)


def _lead(settings: Settings, orders: Orders) -> None:
    """Keep the workers; each is this program again, with the open port."""
    key = ""
    if not orders.insecure and not settings.serve.keys_file:
        key, _ = new_key("printed-at-start", SCOPES)
        orders.say(_PRINTED.format(key=key))
    _keyring(settings, orders, Inherited(listening=-1, ready=-1, key=key))  # what is wrong is told once, and not by all
    with open_port(settings.serve.host, settings.serve.port) as port:
        address = f"http://{settings.serve.host}:{port.getsockname()[1]}"
        count = settings.serve.workers

        def all_ready() -> None:
            orders.say(f"{settings.model.name}, with {count} workers, answers at {address}")

        Crew(own_command(), count, port, key=key).run(all_ready, orders.say)


_PRINTED: Final = "No serve.keys_file: this key opens every door until the server stops: {key}"


def _tell(duty: Duty, served: Served) -> None:
    if served.answered is not None:
        duty.saw(served.client, served.rows, served.answered)


class _House:
    """What changes while the server runs, all of it in the thread of the loop."""

    def __init__(self, door: Door, duty: Duty, follower: Follower) -> None:
        self.door = door
        self._duty = duty
        self._follower = follower
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin to follow releases, and time."""
        self._loop = asyncio.get_running_loop()
        self._follower.start()
        self._tick()

    def close(self) -> None:
        """Stop following."""
        if self._ticking is not None:
            self._ticking.cancel()
        self._follower.close()

    def show(self, room: Room, release: Release) -> None:
        """Show a release into the room; called in the thread of the follower."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._enter, room, release)

    def _enter(self, room: Room, release: Release) -> None:
        self._duty.enter(room.live, release)
        self.door.room = room  # one assignment: a request that began with the old room ends in it

    def _tick(self) -> None:
        assert self._loop is not None
        self._duty.tick()
        self._ticking = self._loop.call_later(1.0, self._tick)


def _require_uvicorn() -> None:
    if importlib.util.find_spec("uvicorn") is None:
        raise SettingsError("Serving needs uvicorn.", next_step="pip install 'interlock[serve]'")


class _Lazy:
    """A runner that is started when a model first needs it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runner: Runner | None = None
        self._scratch = settings.home / "work" / f"serve-{secrets.token_hex(4)}"
        self._lock = Lock()

    def get(self) -> Runner:
        with self._lock:
            if self._runner is None:
                contract = read_contract(self._settings)
                self._runner = Runner.of(self._settings, contract.preload, self._scratch)
                self._runner.start()
            return self._runner

    def close(self) -> None:
        with self._lock:
            if self._runner is not None:
                self._runner.close()
            shutil.rmtree(self._scratch, ignore_errors=True)


def _keyring(settings: Settings, orders: Orders, given: Inherited | None = None) -> Keyring:
    if orders.insecure:
        if not _is_loopback(settings.serve.host):
            raise Misuse(
                f"Without keys the server may listen on loopback only, and serve.host is {settings.serve.host}.",
                next_step="Make keys with 'interlock keys NAME', or listen on 127.0.0.1.",
            )
        return Keyring(None)
    if settings.serve.keys_file:
        return Keyring(read_keys(Path(settings.path(settings.serve.keys_file))))
    if given is not None:
        return Keyring((key_of("printed-at-start", given.key, SCOPES),))
    text, key = new_key("printed-at-start", SCOPES)
    orders.say(_PRINTED.format(key=text))
    return Keyring((key,))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _pages(door: Door, settings: Settings) -> dict[str, Page]:
    def text(body: bytes, kind: bytes = b"text/plain; charset=utf-8") -> Reply:
        return Reply(200, body, content_type=kind)

    def root(headers: object) -> Reply:
        del headers
        live = door.room.live
        facts = {
            "message": f"Hello from {settings.model.name}",
            "release": live.generation,
            "model": short(live.seats[0].model),
            "tiers": [seat.tier for seat in live.seats],
        }
        return Reply(200, _encode(facts))

    described: list[tuple[Room, bytes]] = []

    def openapi(headers: object) -> Reply:
        del headers
        room = door.room
        if not described or described[0][0] is not room:
            signature = room.live.seats[0].signature
            described[:] = [(room, _encode(document(settings.model.name, signature, open_routes=_OPEN)))]
        return Reply(200, described[0][1])

    return {
        "/": Page(root, None),
        "/ping": Page(lambda _: text(b"pong"), None),
        "/healthz": Page(lambda _: text(b"ok"), None),
        "/readyz": Page(lambda _: text(b"ready"), None),
        "/openapi.json": Page(openapi, "predict"),
    }


_OPEN: Final = {
    "/": "Who answers here.",
    "/ping": "Is there anybody?",
    "/healthz": "The server runs.",
    "/readyz": "A release is loaded and answers.",
}


def _run(app: App, settings: Settings, orders: Orders, house: _House, given: Inherited | None) -> None:
    import uvicorn

    from interlock.serve.lane import Lane, protocol_of

    config = uvicorn.Config(
        app,
        http=protocol_of(Lane(house.door, app)),
        host=settings.serve.host,
        port=settings.serve.port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(seconds(settings.serve.drain))),
        timeout_keep_alive=75,
    )
    live = house.door.room.live

    class _Server(uvicorn.Server):
        """Tells where it listens, and ends as an ordinary program when it is told to."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Stop at SIGTERM and SIGINT; uvicorn itself would raise them again, before we let go of workers."""
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                yield
            finally:
                for number, action in before.items():
                    signal.signal(number, action)

        async def startup(self, sockets: list[socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                house.open()
                if given is not None:
                    given.tell_ready()
                    return
                port = self.servers[0].sockets[0].getsockname()[1]
                orders.say(
                    f"{settings.model.name}, release {live.generation}, answers at http://{settings.serve.host}:{port}"
                )

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as loops:
        try:
            loops.run(_Server(config).serve(sockets=None if given is None else [given.socket()]))
        finally:
            house.close()
