"""Stop a process at its N-th system call that changes files below a folder: kill it there, or let the call fail.

The kernel hands such calls of a forked child and of all its threads to this process before they happen (seccomp user
notification, see seccomp_unotify(2)), so that they are counted exactly, in one order. Calls of its own children, the
workers, are let through and not counted. Linux on x86-64 only; needs no package and no tracer.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

_FD, _PATH, _AT = "fd", "path", "at"
# name: number on x86-64, where the changed file is named, and the argument that names it
_CALLS = {
    "write": (1, _FD, 0),
    "pwrite64": (18, _FD, 0),
    "writev": (20, _FD, 0),
    "sendfile": (40, _FD, 0),
    "fsync": (74, _FD, 0),
    "fdatasync": (75, _FD, 0),
    "ftruncate": (77, _FD, 0),
    "rename": (82, _PATH, 1),
    "mkdir": (83, _PATH, 0),
    "rmdir": (84, _PATH, 0),
    "link": (86, _PATH, 1),
    "unlink": (87, _PATH, 0),
    "mkdirat": (258, _AT, 0),
    "unlinkat": (263, _AT, 0),
    "renameat": (264, _AT, 2),
    "linkat": (265, _AT, 2),
    "fallocate": (285, _FD, 0),
    "renameat2": (316, _AT, 2),
    "copy_file_range": (326, _FD, 2),
}
WRITES = frozenset({"write", "pwrite64", "writev", "sendfile", "ftruncate", "fallocate", "copy_file_range"})
SYNCS = frozenset({"fsync", "fdatasync"})
NAMES = frozenset(_CALLS) - WRITES - SYNCS
ALL = frozenset(_CALLS)
KILL = -1

_NAME = {number: (name, how, argument) for name, (number, how, argument) in _CALLS.items()}
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTICE, _REPLY = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_CONTINUE = 1


class Call(NamedTuple):
    """One counted call: its name, and the file relative to the folder."""

    name: str
    path: str


@dataclass
class Fault:
    """What befalls the ``at``-th call (from 1) of ``kinds`` below ``folder``: ``KILL`` or an error number.

    ``lasting``: the calls after it as well (a disk that is full stays full). ``spare``: prefixes of relative paths
    that do not count. ``at`` None: nothing befalls, calls are counted.
    """

    folder: Path
    kinds: frozenset[str] = ALL
    at: int | None = None
    what: int = KILL
    lasting: bool = False
    spare: tuple[str, ...] = ()
    calls: list[Call] = field(default_factory=list)

    def meets(self, call: Call) -> bool:
        """Count a call and say whether it is hit."""
        if call.name not in self.kinds or call.path.startswith(self.spare or ("\0",)):
            return False
        self.calls.append(call)
        number = len(self.calls)
        return self.at is not None and (number == self.at or (self.lasting and number > self.at))


class Ended(NamedTuple):
    """How a child ended: wait status, what its work returned (None when it did not come to that), whether it hung."""

    status: int
    result: Any
    hung: bool = False

    @property
    def killed(self) -> bool:
        """By SIGKILL, and not because it hung."""
        return not self.hung and os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL


def available() -> bool:
    """Whether this machine can do it."""
    return platform.machine() == "x86_64" and Path("/proc/sys/kernel/seccomp/actions_avail").exists()


def under(fault: Fault | None, work: Callable[[], Any], *, limit_s: float = 120.0) -> Ended:
    """Run ``work`` in a forked child, under a fault; its result must be JSON. After the limit the child is killed."""
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        _in_child(fault, work, reader, writer, theirs)
    theirs.close()
    os.close(writer)
    told, hung = bytearray(), False
    try:
        listener = None
        if fault is not None:
            _, (listener,), _, _ = socket.recv_fds(ours, 1, 1)
        hung = not _attend(child, reader, told, listener, fault, limit_s)
    finally:
        ours.close()
        os.close(reader)
        _, status = os.waitpid(child, 0)
    return Ended(status, json.loads(told) if status == 0 else None, hung)


def _in_child(fault: Fault | None, work: Callable[[], Any], reader: int, writer: int, door: socket.socket) -> None:
    status = 1
    try:
        os.close(reader)
        if fault is not None:
            listener = _install()
            socket.send_fds(door, [b"x"], [listener])
            os.close(listener)
        door.close()
        with os.fdopen(writer, "w") as pipe:
            json.dump(work(), pipe)
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def _install() -> int:
    """Filter this process and its children; gives the descriptor that the notices come from."""
    libc = ctypes.CDLL(None, use_errno=True)
    load, equal, back = 0x20, 0x15, 0x06
    program = [(load, 0, 0, 0)]
    for place, (number, _, _) in enumerate(_CALLS.values()):
        program.append((equal, len(_CALLS) - place, 0, number))
    program += [(back, 0, 0, 0x7FFF0000), (back, 0, 0, 0x7FC00000)]
    array = (_Instruction * len(program))(*(_Instruction(*each) for each in program))
    if libc.prctl(38, 1, 0, 0, 0) != 0:  # no new privileges
        raise OSError(ctypes.get_errno(), "prctl")
    listener = libc.syscall(317, 1, 8, ctypes.byref(_Program(len(program), array)))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(listener)


def _attend(
    child: int, reader: int, told: bytearray, listener: int | None, fault: Fault | None, limit_s: float
) -> bool:
    """Answer notices and take in the result until the child is dead; False when it had to be killed for it."""
    process = os.pidfd_open(child)
    poll = select.poll()
    for each in (process, reader, *(() if listener is None else (listener,))):
        poll.register(each, select.POLLIN)
    folder = "" if fault is None else os.path.realpath(fault.folder) + "/"
    threads: dict[int, int] = {}
    end = time.monotonic() + limit_s
    try:
        while True:
            ready = dict(poll.poll(max(0.0, end - time.monotonic()) * 1000))
            if not ready:
                os.kill(child, signal.SIGKILL)
                return False
            if reader in ready:
                content = os.read(reader, 1 << 16)
                told += content
                if not content:
                    poll.unregister(reader)
            elif process in ready:
                return True
            if listener is not None and fault is not None and listener in ready:
                _answer(listener, child, fault, folder, threads)
    finally:
        if listener is not None:
            os.close(listener)  # a worker that the child forked meets ENOSYS then, and ends
        os.close(process)


def _answer(listener: int, child: int, fault: Fault, folder: str, threads: dict[int, int]) -> None:
    buffer = bytearray(_NOTICE.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError:
        return  # the caller has died meanwhile
    notice, thread, _, number, _, _, *arguments = _NOTICE.unpack(buffer)
    error, flags = 0, _CONTINUE
    if threads.setdefault(thread, _process_of(thread)) == child:
        name, how, argument = _NAME[number]
        path = _path(thread, how, arguments, argument)
        if path.startswith(folder) and fault.meets(Call(name, path.removeprefix(folder))):
            if fault.what == KILL:
                os.kill(child, signal.SIGKILL)
                return
            error, flags = -fault.what, 0
    with contextlib.suppress(OSError):
        fcntl.ioctl(listener, _SEND, _REPLY.pack(notice, 0, error, flags))


def _process_of(thread: int) -> int:
    try:
        for line in Path(f"/proc/{thread}/status").read_text().splitlines():
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _path(thread: int, how: str, arguments: list[int], argument: int) -> str:
    try:
        if how == _FD:
            return str(Path(f"/proc/{thread}/fd/{arguments[argument] & 0xFFFFFFFF}").readlink())
        name = _text(thread, arguments[argument + (how == _AT)])
        if name.startswith("/"):
            return name
        folder = ctypes.c_int(arguments[argument] & 0xFFFFFFFF).value if how == _AT else -100
        base = f"/proc/{thread}/cwd" if folder == -100 else f"/proc/{thread}/fd/{folder}"
        return f"{Path(base).readlink()}/{name}"
    except OSError:
        return ""


def _text(thread: int, address: int) -> str:
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        try:
            raw = memory.read(4096)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            memory.seek(address)
            raw = memory.read(4096 - address % 4096)
    return os.fsdecode(raw.split(b"\0", 1)[0])
