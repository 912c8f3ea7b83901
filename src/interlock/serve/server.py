"""``interlock serve``: one project behind its doors, until it is told to stop."""

import asyncio
import importlib.util
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from threading import Lock
from typing import Any, Final, TypeAlias

import msgspec

from interlock.answer.guard import Limits
from interlock.answer.live import Loader
from interlock.errors import Misuse, SettingsError
from interlock.model.contract import read_contract
from interlock.model.runner import Runner
from interlock.ports import Parts
from interlock.records import Release, short
from interlock.serve.access import STDERR, AccessLog
from interlock.serve.admin import Admin, Here
from interlock.serve.app import App, Page
from interlock.serve.board import Board, shared_folder
from interlock.serve.canary import Canary, voter
from interlock.serve.door import Door, Reply, Room, Served
from interlock.serve.duty import Duty, terms_of
from interlock.serve.keyfile import KeyFile
from interlock.serve.keys import SCOPES, Key, Keyring, key_of, new_key, presented, read_keys
from interlock.serve.last_known import last_known_of
from interlock.serve.metrics import Metrics, require_prometheus
from interlock.serve.oidc import Issuer, is_loopback, reader_of
from interlock.serve.openapi import Described, document
from interlock.serve.pages import docs_page, greeting, protocol_pages
from interlock.serve.quota import Shared
from interlock.serve.recording import Recording
from interlock.serve.reload import Follower
from interlock.serve.shedding import Shedder
from interlock.serve.tracing import Tracer
from interlock.serve.workers import Crew, Inherited, Lifeline, inherited, open_port, own_command
from interlock.settings import Settings
from interlock.units import seconds

_encode = msgspec.json.Encoder().encode
_SWITCH_S: Final = 0.0005
"""So long may a thread that loads a model, or writes, keep the loop waiting; with Python's 5 ms a release is felt."""
_HEAR_EVERY_S: Final = 0.1
"""How often a server looks whether another one of this host took the champion off duty."""
Watcher: TypeAlias = Callable[[Served], None]


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
    require_prometheus()
    given = inherited()
    if settings.serve.workers > 1 and given is None:
        _lead(settings, orders)
        return
    sys.setswitchinterval(_SWITCH_S)
    house: list[_House] = []
    keyring = Keyring(())
    file = _key_file(settings, orders, lambda keys: house[0].soon(keyring.replace, keys))  # looks before it is read
    keyring = _keyring(settings, orders, given)
    with ExitStack() as stack:
        runner = _Lazy(settings)
        stack.callback(runner.close)
        last_known = last_known_of(settings, parts.clock)
        limits = Limits(reach=settings.serve.reach)
        loader = Loader(parts, runner.get, limits=limits, workers=settings.serve.runners, spare=last_known.open)
        stack.callback(loader.close)
        duty = Duty(parts, terms_of(settings), orders.say, last_known)
        stack.callback(duty.close)
        canary = Canary(parts, orders.say)
        stack.callback(canary.close)

        def show(room: Room, release: Release) -> None:
            house[0].show(room, release)

        follower = Follower(parts, loader, show, orders.say, last_known=last_known)
        follower.on_back = lambda release: house[0].soon(duty.back, release)
        room, release = follower.first()
        recording = Recording(parts, room, orders.say, last_known)
        stack.callback(recording.close)
        metrics = Metrics(parts.clock, lambda: door.room, duty, board=_board(given))
        metrics.source, metrics.log = (lambda: follower.source), recording.tally
        metrics.challenged = lambda: canary.count
        watchers = [*recording.watchers, metrics.saw, _voting(duty), canary.saw, *_outward(parts, orders, stack)]
        door = Door(room, _telling(watchers), settled=recording.settled)
        duty.enter(room.live, release)
        canary.enter(room.live)
        pages = _pages(door, settings, keyring, metrics)
        most = int(settings.serve.max_body_mb * 1e6)
        app = App(door, keyring, pages, recording.intakes(door), max_body=most)
        house.append(_House(door, duty, canary, follower, recording))
        house[0].each_second.append(metrics.post)
        if given is not None:
            house[0].each_second.append(Lifeline(given.parent, orders.say).look)
        if file is not None:
            house[0].also.append(file)
        house[0].also += _issuers(settings, orders, keyring)
        here = Here(lambda: follower.source, lambda: duty.state, metrics.page)
        _run(app, Admin(parts, keyring, here), settings, orders, house[0], metrics, given)


def _board(given: Inherited | None) -> Board | None:
    """Where this worker and its siblings show their counts; None for a server of one process."""
    return Board(Path(given.folder), given.place) if given is not None and given.folder else None


def _issuers(settings: Settings, orders: Orders, keyring: Keyring) -> list[Issuer]:
    """Whose tokens open doors beside the keys, at most one."""
    if not settings.serve.oidc.issuer or orders.insecure:
        return []
    read, refresh_s = reader_of(settings.serve.oidc, settings.path)
    issuer = Issuer(settings.serve.oidc, read, orders.say, refresh_s=refresh_s)
    keyring.tokens = issuer.find
    return [issuer]


def _lead(settings: Settings, orders: Orders) -> None:
    """Keep the workers; each is this program again, with the open port."""
    key = ""
    if not orders.insecure and not settings.serve.keys_file:
        key, _ = new_key("printed-at-start", SCOPES)
        orders.say(_PRINTED.format(key=key))
    _keyring(settings, orders, Inherited(listening=-1, ready=-1, key=key))  # what is wrong is told once, and not by all
    with ExitStack() as stack:
        port = stack.enter_context(open_port(settings.serve.host, settings.serve.port))
        admin = _admin_port(settings)
        if admin is not None:
            stack.enter_context(admin)
        address = _address(port, settings)
        count = settings.serve.workers

        def all_ready() -> None:
            _tell_admin(admin, settings, orders)
            orders.say(f"{settings.model.name}, with {count} workers, answers at {address}")

        folder = stack.enter_context(shared_folder())
        Crew(own_command(), count, port, key=key, admin=admin, folder=folder).run(all_ready, orders.say)


def _address(port: socket, settings: Settings) -> str:
    scheme = "https" if settings.serve.tls_cert else "http"
    return f"{scheme}://{settings.serve.host}:{port.getsockname()[1]}"


def _tell_admin(port: socket | None, settings: Settings, orders: Orders) -> None:
    if port is not None:
        orders.say(f"the admin routes are at {_address(port, settings)}")


def _admin_port(settings: Settings) -> socket | None:
    """The admin port, open; None where the settings have none."""
    return open_port(settings.serve.host, settings.serve.admin_port) if settings.serve.admin_port else None


_PRINTED: Final = "No serve.keys_file: this key opens every door until the server stops: {key}"


def _telling(watchers: list[Watcher]) -> Watcher:
    def tell(served: Served) -> None:
        for watcher in watchers:
            watcher(served)

    return tell


def _voting(duty: Duty) -> Watcher:
    def saw(served: Served) -> None:
        if served.answered is not None:
            duty.saw(voter(served.client), served.rows, served.answered)

    return saw


def _outward(parts: Parts, orders: Orders, stack: ExitStack) -> Iterator[Watcher]:
    """What else is told of each request, where the settings ask for it."""
    settings = parts.settings.serve
    if settings.access_log:
        to = None if settings.access_log == STDERR else Path(parts.settings.path(settings.access_log))
        log = AccessLog(to, parts.clock, orders.say)
        stack.callback(log.close)
        yield log.saw
    if settings.traces:
        tracer = Tracer(settings.traces, parts.settings.model.name, settings.traces_sample, orders.say)
        stack.callback(tracer.close)
        yield tracer.saw


class _House:
    """What changes while the server runs, all of it in the thread of the loop."""

    def __init__(self, door: Door, duty: Duty, canary: Canary, follower: Follower, recording: Recording) -> None:
        self.door = door
        self._recording = recording
        self._duty = duty
        self._canary = canary
        self.on_room: Callable[[], None] = lambda: None
        self._follower = follower
        self.also: list[KeyFile | Issuer] = []
        self.each_second: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._hearing: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin to follow releases, and time."""
        self._loop = asyncio.get_running_loop()
        self._follower.start()
        self._recording.open(self._loop)
        for each in self.also:
            each.start()
        self._tick()
        self._hear()

    def close(self) -> None:
        """Stop following."""
        for timer in (self._ticking, self._hearing):
            if timer is not None:
                timer.cancel()
        self._follower.close()
        for each in self.also:
            each.close()

    def show(self, room: Room, release: Release) -> None:
        """Show a release into the room; called in the thread of the follower."""
        self.soon(self._enter, room, release)

    def soon(self, act: Callable[..., None], *given: object) -> None:
        """Let something happen in the thread of the loop."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(act, *given)

    def _enter(self, room: Room, release: Release) -> None:
        self._duty.enter(room.live, release)
        self._canary.enter(room.live)
        self.door.room = room  # one assignment: a request that began with the old room ends in it
        self.on_room()

    def _hear(self) -> None:
        assert self._loop is not None
        self._duty.hear()
        self._hearing = self._loop.call_later(_HEAR_EVERY_S, self._hear)

    def _tick(self) -> None:
        assert self._loop is not None
        self._duty.tick()
        self._canary.tick()
        self._recording.tick(self._loop)
        for act in self.each_second:
            act()
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


def _key_file(settings: Settings, orders: Orders, show: Callable[[tuple[Key, ...]], None]) -> KeyFile | None:
    if orders.insecure or not settings.serve.keys_file:
        return None
    return KeyFile(Path(settings.path(settings.serve.keys_file)), show, orders.say)


def _keyring(settings: Settings, orders: Orders, given: Inherited | None = None) -> Keyring:
    if orders.insecure:
        if not is_loopback(settings.serve.host):
            raise Misuse(
                f"Without keys the server may listen on loopback only, and serve.host is {settings.serve.host}.",
                next_step="Make keys with 'interlock keys NAME', or listen on 127.0.0.1.",
            )
        return Keyring(None)
    if settings.serve.keys_file:
        shared = Shared(Path(given.folder) / "quotas") if given is not None and given.folder else None
        return Keyring(read_keys(Path(settings.path(settings.serve.keys_file))), shared=shared)
    if given is not None:
        return Keyring((key_of("printed-at-start", given.key, SCOPES),))
    text, key = new_key("printed-at-start", SCOPES)
    orders.say(_PRINTED.format(key=text))
    return Keyring((key,))


def _pages(door: Door, settings: Settings, keyring: Keyring, metrics: Metrics) -> dict[str, Page]:
    def text(body: bytes, kind: bytes = b"text/plain; charset=utf-8") -> Reply:
        return Reply(200, body, content_type=kind)

    def root(headers: Mapping[bytes, bytes]) -> Reply:
        live = door.room.live
        if b"text/html" in headers.get(b"accept", b""):
            key = keyring.find(presented(headers))
            may_predict = key is not None and "predict" in key.scopes
            return greeting(settings.model.name, live, headers, metrics.source(), may_predict=may_predict)
        facts = {
            "message": f"Hello from {settings.model.name}",
            "release": live.generation,
            "source": metrics.source(),
            "model": short(live.seats[0].model),
            "tiers": [seat.tier for seat in live.everybody],
        }
        return Reply(200, _encode(facts))

    def ready(headers: object) -> Reply:
        del headers
        return Reply(503, b"closing", content_type=b"text/plain") if door.is_closing else text(b"ready")

    described: list[tuple[Room, dict[str, Any]]] = []

    def told() -> dict[str, Any]:
        room = door.room
        if not described or described[0][0] is not room:
            about = Described(
                name=settings.model.name,
                generation=room.live.generation,
                signature=room.live.seats[0].signature,
                bodies={path: tuple(forms) for path, forms in room.forms.routes.items()},
                pages={path: (says, pages[path].scope is not None) for path, says in _SAYS.items()},
            )
            described[:] = [(room, document(about))]
        return described[0][1]

    pages = {
        "/": Page(root, None),
        "/ping": Page(lambda _: text(b"pong"), None),
        "/healthz": Page(lambda _: text(b"ok"), None),
        "/readyz": Page(ready, None),
        "/openapi.json": Page(lambda _: Reply(200, _encode(told())), "predict"),
        "/docs": Page(lambda _: docs_page(told()), "predict"),
        "/metrics": Page(metrics.page, "read"),
        **protocol_pages(door),
    }
    return pages


_SAYS: Final = {
    "/": "Who answers here: for programs as JSON, for people as a page.",
    "/ping": "Is there anybody?",
    "/healthz": "The server runs.",
    "/readyz": "A release is loaded and answers.",
    "/docs": "This document as a page.",
    "/v2": "Open Inference Protocol: the server.",
    "/v2/health/live": "Open Inference Protocol: the server runs.",
    "/v2/health/ready": "Open Inference Protocol: a release is loaded and answers.",
    "/v2/models/{name}": "Open Inference Protocol: the model, its inputs and outputs.",
    "/v2/models/{name}/ready": "Open Inference Protocol: the model answers.",
    "/v2/models/{name}/versions/{version}": "The model, by the generation of its release.",
    "/v2/models/{name}/versions/{version}/ready": "This release answers.",
}


def _run(
    app: App,
    admin: Admin,
    settings: Settings,
    orders: Orders,
    house: _House,
    metrics: Metrics,
    given: Inherited | None,
) -> None:
    from interlock.serve.lane import Lane
    from interlock.serve.listening import Beside, Way, listen

    lane = Lane(house.door, app)
    metrics.in_fast_lane = lambda: lane.answered
    app.keyring.on_change = house.on_room = lane.forget
    live = house.door.room.live

    def ready(address: str) -> None:
        house.open()
        soon = asyncio.get_running_loop().call_soon
        house.door.shedder = Shedder(seconds(settings.serve.shed_after), soon, time.monotonic)
        if given is not None:
            given.tell_ready()
            return
        _tell_admin(aside, settings, orders)
        orders.say(f"{settings.model.name}, release {live.generation}, answers at {address}")

    def end() -> None:
        house.door.is_closing = True
        lane.forget()

    aside = _admin_port(settings) if given is None else given.admin_socket()
    beside = None if aside is None else Beside(admin, aside)
    try:
        listen(app, lane, settings, Way(ready, end), None if given is None else given.socket(), beside)
    finally:
        house.close()
