"""Hosts of user code from one warm process, for drivers that run hundreds of turns.

A turn starts a host (:mod:`interlock.model.host`), a fresh interpreter that imports the project's libraries: that is
most of what a small turn costs. Here one program imports them once and forks such a host for each turn. From there on
all is as in life: the host is a process of its own, in a session of its own, which ends when its turn does.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

from interlock.model import host, worker

IMPORTS = (
    "interlock.model.calls",
    "interlock.model.fit",
    "interlock.model.compile",
    "interlock.model.native",
    "interlock.model.forms",
    "numpy",
    "pandas",
    "pyarrow.parquet",
)
_MESSAGE_BYTES = 1 << 18


class WarmHosts:
    """Starts the program; within the block, turns of this process and its forks take their hosts from it."""

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _MESSAGE_BYTES)
        self._program = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", f"from infra.warm_hosts import serve; serve({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0", "MPLBACKEND": "Agg"},
        )
        theirs.close()
        self._socket = ours
        self._original = host.start_process
        host.start_process = self.start
        return self

    def __exit__(self, *_: object) -> None:
        host.start_process = self._original
        self._socket.close()
        self._program.wait(30)

    def start(self, root: Path, search: Sequence[str], environment: Mapping[str, str], descriptor: int) -> Any:
        """In place of :func:`interlock.model.host.start_process`."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            message = {"root": str(root), "search": list(search), "environment": dict(environment)}
            socket.send_fds(self._socket, [json.dumps(message).encode()], [descriptor, theirs.fileno()])
            theirs.close()
            content, (process,), _, _ = socket.recv_fds(ours, 64, 1)
        return _Process(int(content), process)


class _Process:
    """What a turn asks of its host's process; it is no child of ours, and tells no status."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid, self._descriptor = pid, descriptor

    def poll(self) -> int | None:
        return 0 if select.select([self._descriptor], [], [], 0)[0] else None

    def wait(self, timeout: float | None = None) -> int:
        if not select.select([self._descriptor], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("host", timeout or 0)
        return 0

    def __del__(self) -> None:
        os.close(self._descriptor)


def serve(descriptor: int) -> None:
    """Fork hosts until nobody can ask for one any more."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # with whoever started us
    for name in IMPORTS:
        __import__(name)
    assert threading.active_count() == 1
    warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)  # of idle threads of libraries
    door = socket.socket(fileno=descriptor)
    while True:
        content, descriptors, _, _ = socket.recv_fds(door, _MESSAGE_BYTES, 2)
        if not content:
            return
        asked, (connection, answer) = json.loads(content), descriptors
        child = os.fork()
        if child == 0:
            _be_host(asked, connection, [descriptor, answer])
        process = os.pidfd_open(child)
        with socket.socket(fileno=answer) as reply, contextlib.suppress(OSError):  # who asked may be dead meanwhile
            socket.send_fds(reply, [str(child).encode()], [process])
        os.close(process)
        os.close(connection)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _be_host(asked: dict[str, Any], connection: int, private: list[int]) -> NoReturn:
    try:
        os.setsid()
        for each in private:
            os.close(each)
        nothing = os.open(os.devnull, os.O_RDWR)
        for each in (0, 1, 2):
            os.dup2(nothing, each)
        os.chdir(asked["root"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.path[:] = asked["search"]
        worker.main("host", connection)
    finally:
        os._exit(1)
