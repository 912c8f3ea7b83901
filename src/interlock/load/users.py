"""What locust runs: users that send the bodies of a plan and count what becomes of them.

Imported by locust's own process only, which finds the plan in its working folder: locust replaces the sockets and locks
of the standard library when it is imported. It draws its own page and statistics from the same requests.
"""

import random
import ssl
import time
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import msgspec
from geventhttpclient.client import HTTPClientPool
from locust import FastHttpUser, constant, events, task
from locust.contrib.fasthttp import insecure_ssl_context_factory
from locust.exception import StopUser

from interlock.load.plan import PLAN_FILE, TALLY_FILE, Plan, Schedule
from interlock.load.tally import NO_END, NOT_SENT, Recorder

_LOOK_EVERY_S = 0.2
_MOST_USERS = 10_000
_PLAN = msgspec.json.decode(Path(PLAN_FILE).read_bytes(), type=Plan)
_HEADERS = {"content-type": "application/json", **({"authorization": f"Bearer {_PLAN.key}"} if _PLAN.key else {})}


class _Run:
    """One run: its beginning, what is due, what is on its way."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.flying: dict[int, float] = {}
        self.schedule = None if _PLAN.rate is None else Schedule(_PLAN.rate, _PLAN.duration_s)
        self.users = 0
        self._begun = gevent.event.Event()
        self._taken_s = 0.0
        self.begin()
        self._begun.clear()

    def begin(self) -> None:
        """The clock starts, when all users are there: making many of them takes its time."""
        if not self._begun.is_set():
            self._began_s = time.perf_counter()
            self._worked_s = time.process_time()
            self._begun.set()

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began_s

    def due(self) -> float:
        """When the next request of a user is due; it has waited until then. Raises ``StopUser`` at the end."""
        self._begun.wait()
        now_s = self.now_s
        due_s = now_s if self.schedule is None else self.schedule.next()
        if due_s is None or due_s >= _PLAN.duration_s:
            raise StopUser
        while (wait_s := due_s - self.now_s) > 0:  # a timer of gevent may be early by how long its loop was busy
            gevent.sleep(wait_s)
        return due_s

    @property
    def is_over(self) -> bool:
        """Nothing more is to be sent, and nothing waited for."""
        late_s = self.now_s - _PLAN.duration_s
        return self._begun.is_set() and late_s >= 0 and (not self.flying or late_s >= _PLAN.timeout_s)

    def write(self, *, last: bool = False) -> None:
        """Append the interval that ended, if it has."""
        now_s = self.now_s
        if last:
            self._give_up(now_s)
        if not last and (not self._begun.is_set() or now_s - self._taken_s < _PLAN.interval_s):
            return
        worked_s = time.process_time()
        busy = (worked_s - self._worked_s) / max(now_s - self._taken_s, 1e-6)
        interval = self.recorder.take(now_s, busy)
        self._taken_s, self._worked_s = now_s, worked_s
        if not last or interval.answered or interval.failed:
            _append(msgspec.json.encode(interval))

    def _give_up(self, now_s: float) -> None:
        for due_s in self.flying.values():
            self.recorder.failure(NO_END, now_s - due_s)
        self.flying.clear()
        for due_s in () if self.schedule is None else self.schedule.rest(now_s):
            self.recorder.failure(NOT_SENT, now_s - due_s)


def _append(line: bytes) -> None:
    with Path(TALLY_FILE).open("ab") as file:
        file.write(line + b"\n")


_current: list[_Run] = []


def _begin(environment: Any, **_: Any) -> None:
    if _current:
        _append(b"null")
    run = _Run()
    _current.append(run)
    gevent.spawn(_keep_writing, run, environment)


def _keep_writing(run: _Run, environment: Any) -> None:
    while _current[-1] is run:
        due_s = run.now_s + _LOOK_EVERY_S
        gevent.sleep(_LOOK_EVERY_S)
        run.recorder.late(run.now_s - due_s)
        run.write()
        if run.is_over:
            environment.runner.quit()
            if environment.web_ui is not None:
                environment.web_ui.stop()
            return


def _end(**_: Any) -> None:
    if _current:
        _current[-1].write(last=True)


def _everybody_is_there(**_: Any) -> None:
    _current[-1].begin()


events.test_start.add_listener(_begin)
events.spawning_complete.add_listener(_everybody_is_there)
events.test_stop.add_listener(_end)


class Caller(FastHttpUser):
    """One user: it asks, again and again, over whichever connection is free."""

    host = _PLAN.url
    wait_time = constant(0)
    max_redirects = 0
    client_pool = HTTPClientPool(  # one for all: each reads the certificates of this machine, which takes long
        concurrency=_MOST_USERS,
        network_timeout=_PLAN.timeout_s,
        connection_timeout=_PLAN.timeout_s,
        insecure=_PLAN.unverified,
        ssl_context_factory=insecure_ssl_context_factory if _PLAN.unverified else ssl.create_default_context,
    )

    def __init__(self, environment: Any) -> None:
        environment.host = _PLAN.url  # locust's page could name another; who may be asked was settled before
        self.host = _PLAN.url
        super().__init__(environment)
        self._run = _current[-1]
        self._run.users += 1
        self._number = self._run.users
        self._random = random.Random(f"{_PLAN.seed}/{self._number}")  # noqa: S311 - which body comes next

    @task
    def ask(self) -> None:
        """Send one body, and count what comes of it."""
        run = self._run
        due_s = run.due()
        body: Any = _PLAN.bodies[self._random.randrange(len(_PLAN.bodies))]
        run.flying[self._number] = due_s
        with self.client.request(
            "POST", _PLAN.route, data=body, headers=_HEADERS, catch_response=True, allow_redirects=False
        ) as reply:
            took_s = run.now_s - due_s
            reply.request_meta["response_time"] = took_s * 1e3
            if run.flying.pop(self._number, None) is None:
                return
            if reply.status_code == 200:
                headers = reply.headers or {}
                run.recorder.answer(
                    took_s, headers.get("interlock-tier", "unknown"), headers.get("interlock-release", "unknown")
                )
                return
            kind, in_vain = _kind(reply)
            run.recorder.failure(kind, took_s if in_vain else None)
            reply.failure(kind)


def _kind(reply: Any) -> tuple[str, bool]:
    """What a request that has no answer is counted as, and whether it was waited for in vain."""
    if reply.status_code:
        return f"status {reply.status_code}", False
    error = reply.request_meta["exception"] or getattr(reply, "error", None)
    if isinstance(error, TimeoutError | gevent.Timeout):
        return "timed out", True
    named = {ConnectionRefusedError: "connection refused", ConnectionResetError: "connection reset"}
    return next((told for kind, told in named.items() if isinstance(error, kind)), type(error).__name__), False
