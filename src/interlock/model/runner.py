"""User code in its own process: started warm, held to a deadline, survived whatever it does.

The user's functions run in children of a host process (see :mod:`interlock.model.worker`). A crash, ``sys.exit``, an
endless loop, a flood of output or an answer that cannot be read ends that child only, and is told as
:class:`~interlock.errors.UserCodeFailed`; the next session works.
"""

import os
import select
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from interlock.errors import Fault, UserCodeFailed
from interlock.model.host import Child, Host, Outcome
from interlock.model.limits import Limits, limits_of
from interlock.model.memory import Watch
from interlock.ports import Job
from interlock.settings import Settings

STARTUP_ALLOWANCE_S: Final = 60.0
"""How much longer than its deadline a session may wait for the host to import the project's libraries."""
_SAY_EVERY_S: Final = 0.25
_WATCH_EVERY_S: Final = 0.05
_UNLIMITED: Final = Limits()


class _Hungry(Exception):
    """A session took more memory than it may."""

    def __init__(self, taken: int, limit: int) -> None:
        super().__init__(taken, limit)
        self.taken, self.limit = taken, limit


def _silent(message: str) -> None:
    del message


class Runner:
    """Runs user code in processes that can be lost.

    ``root`` is the working folder of user code, ``preload`` the modules to import once, ``scratch`` a folder that may
    be deleted at any time. ``fork`` False starts a new interpreter for every session, where forking is not safe. Safe
    to use from several threads; each session serves one call at a time.
    """

    def __init__(
        self,
        root: Path,
        preload: Sequence[str],
        scratch: Path,
        *,
        limits: Limits = _UNLIMITED,
        fork: bool | None = None,
    ) -> None:
        self.root = root
        self.scratch = scratch
        self.limits = limits
        self._temporary: str = ""
        self._preload = tuple(preload)
        self._fork = sys.platform != "darwin" if fork is None else fork
        self._host: Host | None = None
        self._lock = threading.Lock()
        self._notice = ""

    @classmethod
    def of(cls, settings: Settings, preload: Sequence[str], scratch: Path) -> "Runner":
        """The runner of a project, with its limits; raises :class:`~interlock.errors.SettingsError`."""
        return cls(settings.root, preload, scratch, limits=limits_of(settings))

    def start(self) -> None:
        """Start the host; returns at once, while the imports go on in the background."""
        with self._lock:
            self._living_host()

    def close(self) -> None:
        """End every session and the host. A closed runner starts again when it is used again."""
        with self._lock:
            host, self._host = self._host, None
            temporary, self._temporary = self._temporary, ""
        if host is not None:
            host.close()
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        deadline_s: float,
        say: Callable[[str], None] = _silent,
        stop: threading.Event | None = None,
    ) -> Outcome:
        """Call ``function`` once, in a fresh child; see :meth:`session`. ``stop`` ends the child when it is set.

        A call that was stopped raises :class:`UserCodeFailed` with the cause ``killed``.
        """
        session, outcome = self._open(function, arguments, deadline_s, say, keeps=False, stop=stop)
        session.close()
        return outcome

    def run_job(self, function: str, job: Job, stop: threading.Event) -> Any:
        """Call ``function`` for one job of an engine: what :class:`interlock.store.engine.LocalEngine` takes."""
        return self.call(function, job.arguments, deadline_s=job.deadline_s, stop=stop).value

    def session(
        self, function: str, arguments: Mapping[str, Any], *, deadline_s: float, say: Callable[[str], None] = _silent
    ) -> "Session":
        """Call ``function`` (``package.module:name``) in a fresh child; its result then answers the session's calls.

        Both take a dictionary of plain data and give plain data. Three keys of ``arguments`` are also read here:
        ``folders``, put in front of ``sys.path`` (only source is loaded from them, never byte code); ``seed``, for
        ``random`` and numpy; ``label``, what to call the user's code in messages. ``say`` is given the last line
        printed, now and then, in the caller's thread.

        Raises :class:`UserCodeFailed` with the fact ``cause``: ``raised``, ``exited``, ``killed``, ``deadline`` or
        ``memory`` or
        ``nonsense``; and whatever :class:`InterlockError` the function raised on its own account.
        """
        session, _ = self._open(function, arguments, deadline_s, say, keeps=True)
        return session

    def _open(
        self,
        function: str,
        arguments: Mapping[str, Any],
        deadline_s: float,
        say: Callable[[str], None],
        *,
        keeps: bool,
        stop: threading.Event | None = None,
    ) -> tuple["Session", Outcome]:
        label = str(arguments.get("label") or function)
        host = self._ready_host(deadline_s, say, label)
        spec = {
            "function": function,
            "folders": list(arguments.get("folders") or ()),
            "seed": arguments.get("seed"),
            "keeps": keeps,
            "confined": self._confined(arguments),
        }
        child = host.start_child(label)
        child.confined = bool(spec["confined"])
        if self.limits.memory_bytes is not None:
            child.watch = Watch(self.limits.memory_bytes)
        session = Session(child, say, stop)
        try:
            outcome = session.exchange({"session": spec, "arguments": dict(arguments)}, deadline_s)
        except BaseException:
            session.close()
            raise
        return session, outcome

    def _confined(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a session may read and write, where there are rules for it."""
        if self.limits.hidden is None:
            return None
        with self._lock:
            self._temporary = self._temporary or os.path.realpath(tempfile.mkdtemp(prefix="interlock-"))
        reads = [*(arguments.get("reads") or ()), *(arguments.get("folders") or ())]
        writes = arguments.get("writes") or [self.scratch]
        for folder in writes:
            Path(folder).mkdir(parents=True, exist_ok=True)
        return {
            "hidden": list(self.limits.hidden),
            "reads": [os.path.realpath(path) for path in reads],
            "writes": [self._temporary, *(os.path.realpath(path) for path in writes)],
            "temporary": self._temporary,
        }

    def _living_host(self) -> Host:
        if self._host is not None and self._host.lost:
            self._host.close()
            if self._fork:
                self._fork = False
                self._notice = f"{self._host.loss()}; libraries are now loaded anew for each run."
            self._host = None
        if self._host is None:
            self._host = Host(self.root, self._preload, fork=self._fork)
        return self._host

    def _ready_host(self, deadline_s: float, say: Callable[[str], None], label: str) -> Host:
        limit = time.monotonic() + deadline_s + STARTUP_ALLOWANCE_S
        for _ in range(3):
            with self._lock:
                host = self._living_host()
                notice, self._notice = self._notice, ""
            if notice:
                say(notice)
            if not host.ready.wait(max(0.0, limit - time.monotonic())):
                host.kill()
                raise UserCodeFailed(
                    f"The libraries of the project were not loaded in time for {label}"
                    + (f": still importing {host.importing}." if host.importing else "."),
                    next_step="Import that library inside the function, or raise the deadline.",
                    cause="deadline",
                    importing=host.importing,
                )
            if not host.lost:
                return host
        raise Fault("The process that runs user code does not start.", next_step="Run 'interlock doctor'.")


class Session:
    """One child that answers calls until it is closed or dies."""

    def __init__(self, child: Child, say: Callable[[str], None], stop: threading.Event | None = None) -> None:
        self._child = child
        self._say = say
        self._stop = stop
        self._lock = threading.Lock()

    def call(self, arguments: Mapping[str, Any], *, deadline_s: float) -> Outcome:
        """Ask for one answer; raises :class:`UserCodeFailed`, on every call once the child is dead.

        A function that raises leaves the session alive; one that is late does not.
        """
        return self.exchange({"arguments": dict(arguments)}, deadline_s)

    def close(self) -> None:
        """End the child and what it left running."""
        self._child.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def exchange(self, message: Mapping[str, Any], deadline_s: float) -> Outcome:
        """Send one message and wait for the reply to it; what :meth:`call` and the runner are made of."""
        child = self._child
        with self._lock:
            if child.ended.is_set():
                raise child.died(0.0)
            child.output.drain()
            child.output.forget()
            started = time.monotonic()
            try:
                child.channel.socket.settimeout(max(deadline_s, 0.001))
                child.channel.send(message)
                reply = self._await(started + deadline_s)
            except _Hungry as error:
                child.end()
                raise child.hungry(error.taken, error.limit, time.monotonic() - started) from None
            except TimeoutError:
                child.tell_where_and_kill()
                raise child.late(deadline_s) from None
            except (OSError, EOFError):
                child.lost_touch()
                raise child.died(time.monotonic() - started) from None
            except ValueError as error:
                child.end()
                raise child.nonsense(str(error)) from None
            except BaseException:
                child.end()  # a reply on its way would be taken for that of the next call
                raise
            child.output.drain()
            return child.outcome(reply)

    def _await(self, limit: float) -> dict[str, Any]:
        """Wait for the reply, and say meanwhile what the user's code prints."""
        channel = self._child.channel
        said = ""
        while True:
            for reply in channel.ready():
                return reply
            if self._stop is not None and self._stop.is_set():
                self._child.end("was stopped before it answered")
                raise EOFError
            left = limit - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if self._child.watch is not None and self._child.pid:
                taken = self._child.watch.excess(self._child.pid)
                if taken:
                    raise _Hungry(taken, self._child.watch.limit_bytes)
            wait_s = _SAY_EVERY_S if self._child.watch is None else _WATCH_EVERY_S
            if select.select([channel.socket], [], [], min(left, wait_s))[0]:
                channel.read()
                continue
            line = self._child.output.last_line()
            if line and line != said:
                said = line
                self._say(line)
