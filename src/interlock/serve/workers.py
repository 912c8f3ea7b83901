"""Several processes behind one port: the parent opens it, the children answer, and one that dies is started again.

Each child is the same program with the same arguments, and finds the open socket and what else it must share in
:data:`INHERITED`, a variable of its environment. The parent opens nothing of the project; it tells when all are ready,
passes on the signal to stop, and waits for them.
"""

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from interlock.errors import Fault
from interlock.records import Record

INHERITED: Final = "ILK_SERVE_INHERITED"  # not INTERLOCK_…: that would be a setting
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 30.0
_LIVED_S: Final = 10.0
"""A child that lived so long had started well: the next one is started at once."""
_LOOK_EVERY_S: Final = 0.2


class Inherited(Record, frozen=True, kw_only=True):
    """What a child is given: descriptors of the listening socket and of the pipe that it tells on, and the key.

    ``admin``: that of the admin port, for the first child alone; -1 for the others. ``place``: which child it is, from
    0; its successor has the same. ``folder``: what the children share. ``parent``: the process that keeps them.
    """

    listening: int
    ready: int
    key: str = ""
    admin: int = -1
    place: int = 0
    folder: str = ""
    parent: int = 0

    def admin_socket(self) -> socket.socket | None:
        """The socket of the admin port, where this child answers there."""
        return None if self.admin < 0 else socket.socket(fileno=os.dup(self.admin))

    def socket(self) -> socket.socket:
        """The listening socket."""
        return socket.socket(fileno=os.dup(self.listening))

    def tell_ready(self) -> None:
        """Say that this child answers."""
        os.write(self.ready, b"+")


class Lifeline:
    """Ends this child, as SIGTERM would, once its parent is gone: nobody else would ever stop it, or follow it."""

    def __init__(self, parent: int, say: Callable[[str], None]) -> None:
        self._parent = parent
        self._say = say
        self._is_cut = False

    def look(self) -> None:
        """Look whether the parent lives."""
        if not self._is_cut and os.getppid() != self._parent:
            self._is_cut = True
            self._say("the process that kept this worker is gone, so it ends")
            os.kill(os.getpid(), signal.SIGTERM)


def inherited(environment: dict[str, str] | None = None) -> Inherited | None:
    """What this process was given, if it is a child."""
    told = (os.environ if environment is None else environment).get(INHERITED)
    return msgspec.json.decode(told, type=Inherited) if told else None


def open_port(host: str, port: int) -> socket.socket:
    """Listen; raises :class:`Fault` when that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(2_048)
    except OSError as error:
        made.close()
        raise Fault(
            f"The server cannot listen on {host}:{port}: {error.strerror}.",
            next_step="Choose another with serve.port or serve.host, or stop who listens there.",
        ) from error
    return made


class Crew:
    """The children. ``command`` starts one. The first answers at the ``admin`` port too, and so does who follows it."""

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        port: socket.socket,
        *,
        key: str = "",
        admin: socket.socket | None = None,
        folder: Path | None = None,
    ) -> None:
        self._command = list(command)
        self._port = port
        self._admin = admin
        self._folder = "" if folder is None else str(folder)
        self._key = key
        self._reading, self._writing = os.pipe()
        self._children: list[_Child] = [_Child() for _ in range(count)]
        self._stopping = False
        self.ready = 0
        """How often a child said that it answers."""

    def run(self, all_ready: Callable[[], None], say: Callable[[str], None]) -> None:
        """Start the children, start again those that die, and return when they were told to stop and have ended.

        Raises :class:`Fault` when the first ones end before they answer: the next ones would do the same.
        """
        with _signals(self._stop), selectors.DefaultSelector() as selector:
            selector.register(self._reading, selectors.EVENT_READ)
            try:
                self._watch(selector, all_ready, say)
            finally:
                self._end()

    def _watch(
        self, selector: selectors.BaseSelector, all_ready: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        told = False
        for place, child in enumerate(self._children):
            child.start(self._started(place))
        while not self._stopping or any(child.is_alive for child in self._children):
            if selector.select(_LOOK_EVERY_S):
                self.ready += len(os.read(self._reading, 64))
            if not told and self.ready >= len(self._children):
                told = True
                all_ready()
            for place, child in enumerate(self._children):
                if self._stopping or child.is_alive:
                    continue
                code = child.code
                if code is not None:
                    if not told:
                        raise Fault(
                            f"A worker of the server ended with {code} before it answered.",
                            next_step="What it said is above.",
                        )
                    say(f"a worker ended with {code}; another is started")
                    child.buried()
                if child.is_due:
                    child.start(self._started(place))

    def _started(self, place: int) -> "subprocess.Popen[bytes]":
        admin = -1 if self._admin is None or place > 0 else self._admin.fileno()
        shared = Inherited(
            listening=self._port.fileno(),
            ready=self._writing,
            key=self._key,
            admin=admin,
            place=place,
            folder=self._folder,
            parent=os.getpid(),
        )
        return subprocess.Popen(  # noqa: S603 - our own program, with the arguments that it was given
            self._command,
            pass_fds=(shared.listening, shared.ready, *((admin,) if admin >= 0 else ())),
            env={**os.environ, INHERITED: msgspec.json.encode(shared).decode()},
        )

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._stopping = True
        for child in self._children:
            child.signal(number)

    def _end(self) -> None:
        for child in self._children:
            child.signal(signal.SIGTERM)
        for child in self._children:
            child.wait()
        os.close(self._reading)
        os.close(self._writing)


class _Child:
    """One place in the crew, and who fills it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._began_s = 0.0
        self._wait_s = _FIRST_WAIT_S
        self._due_s = 0.0

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int | None:
        """How it ended."""
        return None if self._process is None else self._process.poll()

    @property
    def is_due(self) -> bool:
        """Whether the next one may be started."""
        return time.monotonic() >= self._due_s

    def start(self, process: "subprocess.Popen[bytes]") -> None:
        """A new one fills the place."""
        self._process, self._began_s = process, time.monotonic()

    def buried(self) -> None:
        """It is gone; one that had hardly lived is followed after a longer wait."""
        now_s = time.monotonic()
        quick = now_s - self._began_s < _LIVED_S
        self._due_s = now_s + (self._wait_s if quick else 0.0)
        self._wait_s = min(2.0 * self._wait_s, _LONGEST_WAIT_S) if quick else _FIRST_WAIT_S
        self._process = None

    def signal(self, number: int) -> None:
        """Pass on a signal."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self) -> None:
        """Wait until it has ended."""
        if self._process is not None:
            self._process.wait()


@contextmanager
def _signals(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def own_command() -> list[str]:
    """The command that started this program."""
    return [sys.executable, "-m", "interlock", *sys.argv[1:]]
