"""Run locust in a process of its own, follow what it counts, and see that it ends."""

import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from interlock.errors import Fault
from interlock.load.plan import PLAN_FILE, TALLY_FILE, Plan
from interlock.load.tally import Interval
from interlock.load.target import end

_LOCUSTFILE: Final = "locustfile.py"
_LOOK_EVERY_S: Final = 0.1
_SLACK_S: Final = 30.0
_SPARE_S: Final = 5
"""The users stop by themselves; locust ends them so many seconds after the last of them may still wait."""
_WEB_PORT: Final = 8089


@dataclass(frozen=True)
class Watching:
    """Who is told during a run: ``saw`` of each interval, ``web`` of the address of locust's page when there is one."""

    saw: Callable[[Interval], None]
    web: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Driven:
    """What came of a run. ``stopped``: by a person, before its time."""

    intervals: tuple[Interval, ...]
    stopped: bool


def drive(plan: Plan, scratch: Path, watching: Watching) -> Driven:
    """Run the plan. Bounded: locust stops by itself, and is ended when it does not. Raises :class:`Fault`.

    Ctrl-C stops the run early; what was counted until then is given all the same.
    """
    (scratch / PLAN_FILE).touch(mode=0o600)
    (scratch / PLAN_FILE).write_bytes(msgspec.json.encode(plan))
    (scratch / _LOCUSTFILE).write_text("from interlock.load.users import Caller\n\n__all__ = ['Caller']\n")
    tally = _Tail(scratch / TALLY_FILE, watching.saw)
    port = None if watching.web is None else _free_port()
    said = scratch / "locust.log"
    with said.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own arguments
            _command(plan, port),
            cwd=scratch,
            env={name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    stopped = False
    try:
        if watching.web is not None:
            watching.web(f"http://127.0.0.1:{port}")
        _follow(process, tally, plan.duration_s + plan.timeout_s + _SLACK_S)
    except KeyboardInterrupt:
        stopped = True
    finally:
        end(process, plan.timeout_s + _SLACK_S)
    tally.look()
    if not tally.intervals and not stopped:
        lines = said.read_text("utf-8", errors="replace").strip().splitlines()[-5:]
        raise Fault("locust counted nothing: " + " ".join(lines)[:1_000], next_step="See that locust works by itself.")
    return Driven(tuple(tally.intervals), stopped)


def _command(plan: Plan, port: int | None) -> list[str]:
    told = [sys.executable, "-m", "locust", "-f", _LOCUSTFILE, "--only-summary", "--loglevel", "WARNING"]
    told += ["--users", str(plan.users), "--spawn-rate", str(plan.users), "--exit-code-on-error", "0"]
    told += ["--run-time", f"{math.ceil(plan.duration_s + plan.timeout_s) + _SPARE_S}s"]
    told += ["--stop-timeout", f"{math.ceil(plan.timeout_s)}"]
    if port is None:
        return [*told, "--headless"]
    return [*told, "--autostart", "--autoquit", "0", "--web-host", "127.0.0.1", "--web-port", str(port)]


def _free_port() -> int:
    """The port that locust's page usually has, or else any that is free."""
    for port in (_WEB_PORT, 0):
        with socket.socket() as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(found.getsockname()[1])
    raise Fault("No port of this machine is free.", next_step="Try again later.")


def _follow(process: "subprocess.Popen[bytes]", tally: "_Tail", within_s: float) -> None:
    until_s = time.monotonic() + within_s
    while process.poll() is None and time.monotonic() < until_s:
        tally.look()
        time.sleep(_LOOK_EVERY_S)


class _Tail:
    """Reads the intervals of a file that grows; those of a run that began anew are forgotten."""

    def __init__(self, path: Path, saw: Callable[[Interval], None]) -> None:
        self._path = path
        self._saw = saw
        self._read = 0
        self.intervals: list[Interval] = []

    def look(self) -> None:
        """Read the lines that are whole by now."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            found = msgspec.json.decode(line, type=Interval | None)
            if found is None:
                self.intervals.clear()
            else:
                self.intervals.append(found)
                self._saw(found)
