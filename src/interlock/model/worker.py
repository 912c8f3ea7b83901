"""The other side of :mod:`interlock.model.runner`: a host process that runs each session of user code in a child.

The host imports the project's third-party libraries once and then forks a fresh child for every session, so that a
session starts in milliseconds and yet shares nothing with the one before. Where forking is not safe, the host starts a
new interpreter for every session instead; the child's side is the same. The host is single-threaded.

A child gets its work and gives its result over a socket of its own; what it prints goes into a pipe. The host reaps
it, and kills whatever its process group leaves behind. The host ends, with all children, when its parent does.
"""

import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import importlib
import io
import json
import os
import random
import resource
import select
import selectors
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from interlock.errors import InterlockError, bounded
from interlock.model.confine import confine

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "import interlock.model.worker as worker; worker.main(sys.argv[2], int(sys.argv[3]))"
)
"""What ``python -P -c`` runs: arguments are the module search path as JSON, ``host`` or ``child``, and the socket."""
TRACEBACK_CHARS = 8_000
MESSAGE_BYTES = 256 * 1024 * 1024
_SUMMARY_CHARS = 400
_DENIED = "permission denied"
_FRAMES = 40
CANNOT_ANSWER = 70
"""Exit status of a child that failed outside of user code, mostly by what that code did to its process."""
_GENERATIONS = 100
_LENGTH = struct.Struct("!Q")
OURS = str(Path(__file__).resolve().parent.parent) + os.sep
_NOT_THEIRS = (OURS, "<frozen importlib", str(importlib.__file__))
_SET_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux' ``prctl``."""
_SET_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER: what a session leaves behind becomes the host's child, not that of process 1."""
_FIRST_TO_GO = b"500"
"""When memory runs out, the system shall end user code rather than the loop or somebody's database."""


# ---- messages ----------------------------------------------------------------------------------------------------


class Channel:
    """JSON messages, each behind its length, over a stream socket; file descriptors may come along.

    Raises :class:`EOFError` when the other side is gone and :class:`ValueError` when what arrives is not a message.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.descriptors: list[int] = []
        self._buffer = bytearray()
        self._messages: list[dict[str, Any]] = []

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send one message; raises :class:`OSError`, and :class:`ValueError` when it is not plain data."""
        body = json.dumps(message).encode()
        content = memoryview(_LENGTH.pack(len(body)) + body)
        if descriptors:
            content = content[socket.send_fds(self.socket, [content], list(descriptors)) :]
        if content:
            self.socket.sendall(content)

    def receive(self) -> dict[str, Any]:
        """Wait for one message."""
        while not self._messages:
            self.read()
        return self._messages.pop(0)

    def read(self) -> None:
        """Take in what has arrived; waits when nothing has."""
        try:
            content, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 18, 16)
        except ConnectionError as error:
            raise EOFError from error
        self.descriptors += descriptors
        if not content:
            raise EOFError
        self._buffer += content
        while len(self._buffer) >= _LENGTH.size:
            length = _LENGTH.unpack_from(self._buffer)[0]
            if length > MESSAGE_BYTES:
                raise ValueError(f"a message of {length} bytes")
            if len(self._buffer) < _LENGTH.size + length:
                return
            body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
            del self._buffer[: _LENGTH.size + length]
            message = json.loads(body)
            if not isinstance(message, dict):
                raise ValueError("not a message")  # noqa: TRY004 - what arrived is wrong, not our call
            self._messages.append(message)

    def ready(self) -> Iterator[dict[str, Any]]:
        """Messages that are complete, without waiting."""
        while self._messages:
            yield self._messages.pop(0)


# ---- the host ----------------------------------------------------------------------------------------------------


def main(role: str, descriptor: int) -> None:
    """Be the host, or the child of one session, on the socket with that number."""
    connection = socket.socket(fileno=descriptor)
    if role == "host":
        _Host(Channel(connection)).run()
    else:
        os.setsid()
        die_with(os.getppid())
        _be_child(connection)


class _Host:
    """Starts, reaps and kills children, as its parent says."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.children: dict[int, int] = {}
        self.forks = False
        self.search: list[str] = []
        self.private: list[int] = []
        self.selector = selectors.DefaultSelector()

    def run(self) -> None:
        hello = self.channel.receive()
        self.forks = hello["fork"]
        self.search = hello["search"]
        if self.forks:
            self._preload(hello["preload"])
        self.forks = self.forks and threading.active_count() == 1
        wakeup = self._watch_children()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_SET_SUBREAPER, 1)
        self.channel.send({"ready": True, "fork": self.forks})
        selector = self.selector
        selector.register(self.channel.socket, selectors.EVENT_READ)
        selector.register(wakeup, selectors.EVENT_READ)
        self.private = [self.channel.socket.fileno(), wakeup.fileno()]
        try:
            while True:
                for key, _ in selector.select():
                    if key.fileobj is wakeup:
                        wakeup.recv(4096)
                    else:
                        self.channel.read()
                for message in self.channel.ready():
                    self._obey(message)
                self._reap()
        except EOFError:
            pass
        finally:
            for pid in self.children.values():
                _kill(pid)
            self.children.clear()
            self._end_orphans()
            os._exit(0)

    def _preload(self, modules: Sequence[str]) -> None:
        """Import the user's libraries. Nothing is read meanwhile, so the parent's end must end us by a signal."""
        descriptor = self.channel.socket.fileno()
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
        if select.select([descriptor], [], [], 0)[0]:
            os._exit(0)
        for module in modules:
            self.channel.send({"importing": module})
            with contextlib.suppress(BaseException):
                importlib.import_module(module)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)  # of numpy's idle threads
        gc.collect()
        gc.freeze()

    def _watch_children(self) -> socket.socket:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(far.detach(), warn_on_full_buffer=False)
        return near

    def _obey(self, message: dict[str, Any]) -> None:
        number = int(message["id"])
        if message["do"] == "start":
            connection, output = self.channel.descriptors[:2]
            del self.channel.descriptors[:2]
            start = self._fork if self.forks else self._spawn
            try:
                self.children[number] = start(connection, output)
            except OSError as error:
                self.channel.send({"id": number, "failed": str(error)})
            else:
                self.channel.send({"id": number, "pid": self.children[number]})
            finally:
                os.close(connection)
                os.close(output)
        elif number in self.children:
            pid = self.children[number]
            if message["do"] == "tell":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR1)
            else:
                _kill(pid)

    def _fork(self, connection: int, output: int) -> int:
        host = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            die_with(host)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            self.selector.close()
            for private in self.private:
                os.close(private)
            sys.path[:] = self.search
            _be_child(socket.socket(fileno=connection))
        except BaseException:  # noqa: BLE001 - a fault of ours: told in the output, never back into the host's loop
            traceback.print_exc()
        finally:
            os._exit(CANNOT_ANSWER)

    def _spawn(self, connection: int, output: int) -> int:
        os.set_inheritable(connection, True)
        command = [sys.executable, "-P", "-c", BOOT, json.dumps(self.search), "child", str(connection)]
        actions = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
        return os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)

    def _reap(self) -> None:
        """Report children that have ended, after killing what is left of their process groups."""
        for number, pid in list(self.children.items()):
            if hasattr(os, "waitid"):
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                    continue
                _kill(pid)  # the zombie still holds the number, so this cannot hit anybody else
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if not ended:
                continue
            del self.children[number]
            code = os.waitstatus_to_exitcode(status)
            if not self.children:
                self._end_orphans()
            self.channel.send({"id": number, "exit": code, "peak": _bytes(usage.ru_maxrss)})

    def _end_orphans(self) -> None:
        """Kill what sessions left behind in groups of their own. Whose they are is known when no session lives."""
        with contextlib.suppress(OSError, ValueError):
            for _ in range(_GENERATIONS):
                left = [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
                for pid in left:
                    _kill(pid)
                    os.waitpid(pid, 0)
                if not left:
                    return


def _kill(pid: int) -> None:
    """Kill a session's process and its group. It leads a group of its own as soon as it runs."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends; elsewhere the host's own end does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def _bytes(maxrss: int) -> int:
    return maxrss if sys.platform == "darwin" else maxrss * 1024


# ---- the child ---------------------------------------------------------------------------------------------------


def _be_child(connection: socket.socket) -> None:
    """Serve one session and leave without running the host's own exit handlers."""
    sys.stdout = _line_by_line(1)  # a crash must not take along what was printed before it
    sys.stderr = _line_by_line(2)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(_FIRST_TO_GO)
    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGUSR1, file=2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[:] = ["interlock"]
    with contextlib.suppress(EOFError, OSError):
        _serve(Channel(connection))
    os._exit(0)


def _line_by_line(descriptor: int) -> io.TextIOWrapper:
    binary = open(descriptor, "wb", closefd=False)  # noqa: SIM115 - lives as long as the process
    return io.TextIOWrapper(binary, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _serve(channel: Channel) -> None:
    """Answer requests until the other side goes; the first one names the function, its result may be the next one."""
    own = os.getpid()
    request = channel.receive()
    spec = request["session"]
    folders = [str(folder) for folder in spec["folders"]]

    def first(arguments: Any) -> Any:
        if spec.get("confined"):
            _shut_in(spec["confined"])
        prepare(folders, spec["seed"])
        module, _, name = spec["function"].partition(":")
        return getattr(importlib.import_module(module), name)(arguments)

    serve: Callable[[Any], Any] = first
    keeps = bool(spec["keeps"])
    while True:
        reply, result = _answer(serve, request["arguments"], folders, wants_callable=keeps and serve is first)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        if os.getpid() != own:
            os._exit(0)  # the user's code forked, and the copy came back through our frames
        channel.send(reply)
        request = channel.receive()
        if serve is first:
            serve = result


def _answer(
    serve: Callable[[Any], Any], arguments: Any, folders: Sequence[str], *, wants_callable: bool
) -> tuple[dict[str, Any], Any]:
    started = time.perf_counter()
    result: Any = None
    reply: dict[str, Any]
    try:
        result = serve(arguments)
    except SystemExit as error:
        reply = {
            "failure": "exited",
            "summary": f"sys.exit({error.code!r})",
            "traceback": user_traceback(error, folders),
        }
    except InterlockError as error:
        reply = {"failure": "told", "kind": error.code, "message": error.message, "next_step": error.next_step}
        reply["traceback"] = getattr(error, "traceback", "")
        reply["cause"] = error.facts.get("cause", "nonsense")
        reply["recorded"] = error.recorded
        reply["frames"] = getattr(error, "recorded_traceback", "")
    except BaseException as error:  # noqa: BLE001 - whatever the user's code raises is told, not suffered
        said = summary(error) + place(error, folders)
        reply = {"failure": "raised", "summary": said, "traceback": user_traceback(error, folders)}
        reply["denied"] = _DENIED in str(error).lower()
        reply["kind"] = type(error).__name__ + place(error, folders)
        reply["frames"] = user_traceback(error, folders, words=False)
    else:
        reply = _value(None if wants_callable else result)
    reply["seconds"] = time.perf_counter() - started
    reply["peak"] = _peak()
    return reply, result


def _shut_in(rules: Mapping[str, Any]) -> None:
    """Confine this process, with a temporary folder of its own."""
    os.environ["TMPDIR"] = tempfile.tempdir = str(rules["temporary"])
    confine(rules["hidden"], rules["reads"], rules["writes"])


def _value(result: Any) -> dict[str, Any]:
    try:
        json.dumps(result, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return {"failure": "nonsense", "summary": f"its answer is not plain data: {bounded(str(error), 200)}"}
    return {"value": result}


def _peak() -> int:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return _bytes(max(own, children))


def prepare(folders: Sequence[str], seed: int | None) -> None:
    """Make the user's folders importable, ahead of everything, and reseed what the host's copy would share."""
    finder = FileFinder.path_hook((ExtensionFileLoader, EXTENSION_SUFFIXES), (_SourceLoader, SOURCE_SUFFIXES))

    def hook(path: str) -> Any:
        if not any(path == folder or path.startswith(folder + os.sep) for folder in folders):
            raise ImportError(path)
        return finder(path)

    if folders:
        sys.path_hooks.insert(0, hook)
        sys.path[:] = [*folders, *(entry for entry in sys.path if entry not in folders)]
        sys.path_importer_cache.clear()
    random.seed(seed)
    if seed is not None or "numpy" in sys.modules:
        importlib.import_module("numpy").random.seed(seed)


class _SourceLoader(SourceFileLoader):
    """Compiles the user's files from their verified source: byte code beside them is neither trusted nor written."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


# ---- what went wrong ---------------------------------------------------------------------------------------------


def summary(error: BaseException) -> str:
    """Type and first line of an exception, bounded."""
    lines = "".join(traceback.TracebackException.from_exception(error).format_exception_only()).strip().splitlines()
    if isinstance(error, SyntaxError):
        return bounded(lines[-1], _SUMMARY_CHARS)
    return bounded(lines[0] if lines else type(error).__name__, _SUMMARY_CHARS)


def place(error: BaseException, folders: Sequence[str]) -> str:
    """Where in the user's files an exception came from, as `` (train.py, line 7)``; empty when it did not."""
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        for folder in folders:
            if frame.filename.startswith(folder + os.sep):
                found = f" ({frame.filename.removeprefix(folder + os.sep)}, line {frame.lineno})"
    return found


def user_traceback(error: BaseException, folders: Sequence[str], *, words: bool = True) -> str:
    """The traceback of ``error`` and of its causes, bounded, without our frames and with the user's paths shortened.

    Without ``words`` exceptions are named by their type only: what they say may hold values of the data.
    """
    try:
        shown = traceback.TracebackException.from_exception(error, compact=True)
    except Exception:  # noqa: BLE001 - an exception object may be hostile to being looked at
        return type(error).__name__
    _keep_user_frames(shown, folders)
    text = "".join(shown.format() if words else _frames_of(error, shown))
    if len(text) <= TRACEBACK_CHARS:
        return text
    half = TRACEBACK_CHARS // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def _frames_of(error: BaseException, shown: traceback.TracebackException) -> Iterator[str]:
    yield "Traceback (most recent call last):\n"
    yield from shown.stack.format()
    yield f"{type(error).__name__}\n"


def _keep_user_frames(shown: traceback.TracebackException, folders: Sequence[str]) -> None:
    kept = [frame for frame in shown.stack if not frame.filename.startswith(_NOT_THEIRS)]
    if len(kept) > _FRAMES:
        kept = kept[: _FRAMES // 2] + kept[-_FRAMES // 2 :]
    named: list[Any] = [*kept, shown]  # the file of a syntax error is not in a frame
    for item in named:
        for folder in folders if getattr(item, "filename", None) else ():
            item.filename = item.filename.removeprefix(folder + os.sep)
    shown.stack[:] = kept
    for inner in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        if inner is not None:
            _keep_user_frames(inner, folders)
