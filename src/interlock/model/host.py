"""The host of user code and its children, as the parent process sees them: orders, output, and how each one ended."""

import contextlib
import fcntl
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from interlock import errors
from interlock.errors import Fault, InterlockError, UserCodeFailed, bounded
from interlock.model.confine import OPEN_UP
from interlock.model.memory import Watch
from interlock.model.worker import BOOT, CANNOT_ANSWER, OURS, Channel
from interlock.records import Record

KEPT_BYTES: Final = 64 * 1024
"""How much of the beginning, and of the end, of what a call prints is kept."""
TAIL_CHARS: Final = 4_000
_LINE_CHARS: Final = 200
_PIPE_BYTES: Final = 1024 * 1024
_READ_BYTES: Final = 256 * 1024
_SETTLE_S: Final = 10.0
_STATUS_S: Final = 2.0
_LAST_WORDS_S: Final = 0.1
_OURS_FIRST: Final = "interlock.model.calls"
"""What nearly every session needs, imported before the libraries of the project."""
_CRASH_NOISE: Final = re.compile(
    rf'^(Extension modules: .*|  File "{re.escape(OURS)}.*|  File "<string>".*)\n', re.MULTILINE
)
"""Lines of a crash report that are about us, or longer than all the rest."""
_SET_PIPE_SIZE: Final = 1031
"""F_SETPIPE_SZ of Linux."""


class Outcome(Record, frozen=True, kw_only=True):
    """What a call gave.

    ``seconds`` is wall time inside the child. ``peak_memory_bytes`` is the largest resident size that the child, or any
    process it waited for, had since the session began, imported libraries included. ``output_tail`` is the end of what
    the call printed.
    """

    value: Any
    seconds: float
    peak_memory_bytes: int
    output_tail: str


class Output:
    """What one child prints: always taken in, the beginning and the end kept."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._lock = threading.Lock()
        self._open = True
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def drain(self) -> bool:
        """Take in what is in the pipe now; False when its other end is closed."""
        with self._lock:
            for _ in range(2 * _PIPE_BYTES // _READ_BYTES):
                if not self._open:
                    return False
                try:
                    content = os.read(self.descriptor, _READ_BYTES)
                except BlockingIOError:
                    return True
                if not content:
                    return False
                self._take(content)
            return True

    def _take(self, content: bytes) -> None:
        room = KEPT_BYTES - len(self._head)
        if room > 0:
            self._head += content[:room]
            content = content[room:]
        self._tail += content
        excess = len(self._tail) - KEPT_BYTES
        if excess > 0:
            del self._tail[:excess]
            self._dropped += excess

    def forget(self) -> None:
        """Begin anew, for the next call."""
        with self._lock:
            self._head.clear()
            self._tail.clear()
            self._dropped = 0

    def close(self) -> None:
        """Let go of the pipe."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self.descriptor)

    def text(self, limit: int = TAIL_CHARS) -> str:
        """The end of the output, in ``limit`` characters."""
        with self._lock:
            gap = f"\n… {self._dropped} bytes left out …\n".encode() if self._dropped else b""
            text = bytes(self._head + gap + self._tail).decode("utf-8", "replace")
        text = _CRASH_NOISE.sub("", text)
        return text if len(text) <= limit else f"…{text[1 - limit :]}"

    def last_line(self) -> str:
        """The last complete line that is not empty; a progress bar's carriage return ends a line as well."""
        with self._lock:
            recent = bytes((self._tail or self._head)[-4096:])
        lines = recent.replace(b"\r", b"\n").split(b"\n")[:-1]
        text = next((line for line in reversed(lines) if line.strip()), b"").decode("utf-8", "replace").strip()
        return "".join(letter for letter in text[:_LINE_CHARS] if letter.isprintable())


class Child:
    """One child as the parent sees it: its channel, its output, and how it ended."""

    def __init__(self, host: "Host", number: int, label: str, connection: socket.socket, output: Output) -> None:
        self.host = host
        self.number = number
        self.label = label
        self.channel = Channel(connection)
        self.output = output
        self.pid = 0
        self.status: int | None = None
        self.peak = 0
        self.by_us = ""
        self.confined = False
        self.watch: Watch | None = None
        self.ended = threading.Event()

    def end(self, why: str = "was closed earlier") -> None:
        """Kill the child and its group, and wait until the host has reaped it."""
        if not self.ended.is_set():
            self.by_us = self.by_us or why
            with contextlib.suppress(OSError):
                self.channel.socket.shutdown(socket.SHUT_WR)
            self.host.order("kill", self.number)
            if not self.ended.wait(_SETTLE_S):
                self.host.kill()
                self.ended.wait(_SETTLE_S)
        with contextlib.suppress(OSError):
            self.channel.socket.close()

    def lost_touch(self) -> None:
        """The channel is closed: mostly because the child has ended, whose status is on its way."""
        self.ended.wait(_STATUS_S)
        self.end("closed its result channel")

    def tell_where_and_kill(self) -> None:
        """Have the child print where it is, in C so that a busy interpreter cannot refuse, then kill it."""
        self.by_us = "ran into its deadline earlier"
        self.host.order("tell", self.number)
        self.ended.wait(_LAST_WORDS_S)
        self.end()

    def outcome(self, reply: Mapping[str, Any]) -> Outcome:
        """The result of a reply; raises what the reply tells."""
        try:
            seconds, peak = float(reply["seconds"]), int(reply["peak"])
            if "failure" not in reply:
                value = reply["value"]
                return Outcome(value=value, seconds=seconds, peak_memory_bytes=peak, output_tail=self.output.text())
            failure, trace = _plain(reply["failure"]), _plain(reply.get("traceback", ""))
            if failure == "told":
                raise self._told(reply, trace, seconds, peak)
            said = _plain(reply["summary"])
            kind, frames = _plain(reply.get("kind", said)), _plain(reply.get("frames", trace))
            denied = bool(reply.get("denied"))
        except (KeyError, TypeError, ValueError):
            self.end()
            raise self.nonsense("the reply has the wrong shape") from None
        self.peak = max(self.peak, peak)
        words, next_step = _TOLD[failure]
        error = self._failed(
            words.format(label=self.label, said=said),
            OPEN_UP if self._was_kept_out(said, denied=denied) else next_step,
            failure,
            seconds=seconds,
            traceback=trace,
        )
        error.recorded = words.format(label=self.label, said=kind)
        error.recorded_traceback = frames
        raise error

    def _told(self, reply: Mapping[str, Any], trace: str, seconds: float, peak: int) -> InterlockError:
        kind = getattr(errors, str(reply["kind"]), Fault)
        facts: dict[str, Any] = {"output_tail": self.output.text(), "seconds": seconds, "peak_memory_bytes": peak}
        if issubclass(kind, UserCodeFailed):
            facts |= {"cause": _plain(reply.get("cause", "nonsense")), "traceback": trace}
        message, next_step = _plain(reply["message"]), _plain(reply["next_step"])
        if issubclass(kind, UserCodeFailed) and self._was_kept_out(message + trace):
            next_step = OPEN_UP
        error: InterlockError = kind(message, next_step=next_step, **facts)
        error.recorded = _plain(reply.get("recorded", error.message))
        if isinstance(error, UserCodeFailed):
            error.recorded_traceback = _plain(reply.get("frames", trace))
        return error

    def _was_kept_out(self, said: str, *, denied: bool = False) -> bool:
        """Tell whether a failure looks like one of ``model.confined``: something was denied, here or in its output."""
        return self.confined and (denied or _DENIED in said.lower() or _DENIED in self.output.text().lower())

    def _failed(self, message: str, next_step: str, cause: str, *, seconds: float, **more: Any) -> UserCodeFailed:
        tail = self.output.text()
        return UserCodeFailed(
            message,
            next_step=next_step,
            cause=cause,
            label=self.label,
            seconds=seconds,
            peak_memory_bytes=self.peak,
            output_tail=tail,
            **more,
        )

    def late(self, deadline_s: float) -> UserCodeFailed:
        """The error for a call that took too long."""
        return self._failed(
            f"{self.label} was stopped after its deadline of {deadline_s:g} s.",
            "Make it faster, or raise model.deadline (training) or model.predict_deadline (inference).",
            "deadline",
            seconds=deadline_s,
        )

    def hungry(self, taken: int, limit: int, seconds: float) -> UserCodeFailed:
        """The error for a child that took more memory than it may."""
        self.peak = max(self.peak, taken)
        return self._failed(
            f"{self.label} was stopped: it had taken {taken / 1e9:.2f} GB of memory, and model.memory allows "
            f"{limit / 1e9:.2f} GB.",
            "Use fewer rows or a smaller model, or raise model.memory.",
            "memory",
            seconds=seconds,
        )

    def nonsense(self, what: str) -> UserCodeFailed:
        """The error for an answer that cannot be read."""
        return self._failed(
            f"The answer of {self.label} cannot be read: {bounded(what, 200)}.",
            "Leave file descriptors that your code did not open alone.",
            "nonsense",
            seconds=0.0,
        )

    def died(self, seconds: float) -> UserCodeFailed:
        """The error for a child that ended without an answer."""
        if self.by_us:
            message, next_step = f"The process of {self.label} {self.by_us}.", "Start a new session."
            return self._failed(message, next_step, "killed", seconds=seconds)
        if self.status is None:
            message = f"The process of {self.label} was lost: {self.host.loss()}."
            return self._failed(message, "Run again.", "killed", seconds=seconds)
        if self.status >= 0:
            message = f"{self.label} ended its process with exit status {self.status} before it answered."
            next_step = "Return the result instead of calling os._exit or exit."
            if self.status == CANNOT_ANSWER:
                message = f"{self.label} changed its process so that its answer could not be sent (exit status 70)."
                next_step = "Leave modules of the standard library and file descriptors as they are."
            return self._failed(message, next_step, "exited", seconds=seconds, status=self.status)
        name = _signal_name(-self.status)
        took = f" It had taken {self.peak / 1e9:.2f} GB." if name == "SIGKILL" and self.peak else ""
        message = f"{self.label} was killed by {name}{_MEANING.get(name, '')}.{took}"
        next_step = _AFTER_SIGNAL.get(name, "See the end of its output.")
        return self._failed(message, next_step, "killed", seconds=seconds, status=self.status, signal=name)


_TOLD: Final = {
    "raised": ("{label} raised {said}.", "Mend it, and run again."),
    "exited": ("{label} called {said}.", "Return the result instead of leaving the process."),
    "nonsense": ("{label} cannot be used: {said}.", "Return plain data."),
}
_DENIED: Final = "permission denied"
_MEANING: Final = {
    "SIGKILL": ", which is what the system does when memory runs out",
    "SIGSEGV": ", a fault inside a library written in C",
}
_AFTER_SIGNAL: Final = {
    "SIGKILL": "Use fewer rows or a smaller model, or give the machine more memory; model.memory sets a limit.",
    "SIGSEGV": "The end of its output shows where it was; check the versions of the library named there.",
}


def _plain(value: Any) -> str:
    """Text that can be written down: user code may raise with half of a surrogate pair in its words."""
    return str(value).encode("utf-8", "replace").decode()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Host:
    """The host process as the parent sees it, with the thread that listens to it and to all output."""

    def __init__(self, root: Path, preload: Sequence[str], *, fork: bool) -> None:
        self.ready = threading.Event()
        self.lost = False
        self.importing = ""
        self._children: dict[int, Child] = {}
        self._counter = 0
        self._lock = threading.Lock()
        search = _search_path(root)
        near, far = socket.socketpair()
        with far:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-c", BOOT, json.dumps(search), "host", str(far.fileno())],
                cwd=root,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[far.fileno()],
                start_new_session=True,
            )
        self._channel = Channel(near)
        self._channel.send({"fork": fork, "preload": [_OURS_FIRST, *preload], "search": search})
        self._wake_near, self._wake_far = socket.socketpair()
        self._new: deque[Child] = deque()
        self._thread = threading.Thread(target=self._listen, name="interlock-runner", daemon=True)
        self._thread.start()

    def loss(self) -> str:
        """How the host was lost, in words."""
        code = self._process.poll()
        how = "was stopped" if code is None else f"ended by {_signal_name(-code) if code < 0 else f'status {code}'}"
        return f"The process that runs user code {how}" + (
            f" while importing {self.importing}" if self.importing else ""
        )

    def start_child(self, label: str) -> Child:
        """Have a child started; raises :class:`Fault` when the system refuses another process."""
        near, far = socket.socketpair()
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        with contextlib.suppress(OSError):  # not Linux, or over the user's limit: a smaller pipe is only slower
            fcntl.fcntl(reading, _SET_PIPE_SIZE, _PIPE_BYTES)
        with self._lock:
            self._counter += 1
            child = Child(self, self._counter, label, near, Output(reading))
            self._children[child.number] = child
        with far:
            self._new.append(child)
            self._wake_near.send(b"n")
            self.order("start", child.number, [far.fileno(), writing])
        os.close(writing)
        if self.lost:
            self._finish(child)
        return child

    def order(self, do: str, number: int, descriptors: Sequence[int] = ()) -> None:
        """Tell the host what to do; one that is gone has no children left."""
        with self._lock, contextlib.suppress(OSError):
            self._channel.send({"do": do, "id": number}, descriptors)

    def kill(self) -> None:
        """End the host and all children at once."""
        with self._lock:
            children = list(self._children.values())
        for child in children:
            if child.pid and not child.ended.is_set():
                _kill_group(child.pid)
        _kill_group(self._process.pid)

    def close(self) -> None:
        """End everything and wait for it: the host ends its children when our end of the channel closes."""
        with contextlib.suppress(OSError):
            self._channel.socket.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(_SETTLE_S if self.ready.is_set() else 0)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._thread.join()
        for connection in (self._channel.socket, self._wake_near, self._wake_far):
            connection.close()

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel.socket, selectors.EVENT_READ)
            selector.register(self._wake_far, selectors.EVENT_READ)
            try:
                while True:
                    for key, _ in selector.select():
                        self._handle(key, selector)
            except (EOFError, OSError, ValueError):
                pass
            self._give_up()

    def _handle(self, key: selectors.SelectorKey, selector: selectors.BaseSelector) -> None:
        if key.fileobj is self._wake_far:
            self._wake_far.recv(4096)
            while self._new:
                new = self._new.popleft()
                if not new.ended.is_set():
                    selector.register(new.output.descriptor, selectors.EVENT_READ, new)
        elif isinstance(key.data, Child):
            if not key.data.output.drain() and not key.data.ended.is_set():
                selector.unregister(key.fileobj)
        else:
            self._channel.read()
            for message in self._channel.ready():
                child = self._note(message)
                if child is not None:
                    with contextlib.suppress(KeyError, ValueError):
                        selector.unregister(child.output.descriptor)
                    self._finish(child)

    def _note(self, message: Mapping[str, Any]) -> Child | None:
        """Remember what the host reports; the child when it is one that has ended."""
        if "id" not in message:
            self.importing = str(message.get("importing", ""))
            if message.get("ready"):
                self.ready.set()
            return None
        child = self._children.get(int(message["id"]))
        if child is None:
            return None
        if "pid" in message:
            child.pid = int(message["pid"])
            return None
        child.status = message.get("exit")
        child.peak = max(child.peak, int(message.get("peak", 0)))
        return child

    def _finish(self, child: Child) -> None:
        """Take the rest of its output, and wake whoever waits for its answer."""
        with self._lock:
            self._children.pop(child.number, None)
        child.output.drain()
        child.output.close()
        child.ended.set()
        with contextlib.suppress(OSError):
            child.channel.socket.shutdown(socket.SHUT_RDWR)

    def _give_up(self) -> None:
        """The host is gone: nobody else will end or report its children."""
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SETTLE_S)
        self.lost = True
        for child in list(self._children.values()):
            self._finish(child)
        self.ready.set()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _search_path(root: Path) -> list[str]:
    """Our own module search path, without the project: its files are imported from the copy that is packed."""
    project = root.resolve()
    return [str(Path(entry).absolute()) for entry in sys.path if entry and Path(entry).resolve() != project]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": "0", "MPLBACKEND": "Agg"}
