"""Keep user code from files that it was not given, with Landlock: the kernel refuses, whatever the code tries.

Everything may be read but what is hidden (inboxes, the lake, the state), and nothing written but scratch and temporary
folders. Landlock only knows what is allowed, so that "all but" is spelled out: each folder above a hidden place is
opened up entry by entry. Names can still be listed, and the network is not looked at. Linux 5.13 and newer; the calls
are those of the kernel's documentation (userspace-api/landlock), whose numbers are the same on every architecture.
"""

import ctypes
import os
import struct
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from interlock.errors import Fault

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_NO_NEW_PRIVILEGES: Final = 38
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_CHANGE_FOLDER: Final = sum(1 << bit for bit in range(4, 13))
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_OF_FILES: Final = _WRITE_FILE | _READ_FILE | _TRUNCATE
_SIGNALS_WITHIN: Final = 1 << 1
_SCOPED_SINCE: Final = 6
_DEVICES: Final = ("/dev", "/proc")
"""Where code writes to what is no file: terminals, accelerators, names of threads."""
OPEN_UP: Final = (
    "model.confined keeps your code from inboxes and from writing into the project: use the rows that are handed over, "
    "write into model_dir or a temporary folder, or take model.confined out."
)
"""The next step for code that was denied something while it was confined."""
_TEMPORARY: Final = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - granted to user code, not used by us


@cache
def landlock_version() -> int:
    """Version of Landlock that this kernel offers; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    found = int(ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION))
    return max(found, 0)


def confine(hidden: Sequence[str], reads: Sequence[str], writes: Sequence[str]) -> None:
    """Restrict this process and what it starts, for good; to be called while it has one thread.

    ``hidden`` can be neither read nor written, except for ``reads`` and ``writes`` below it; the latter may also be
    written. All are resolved, absolute paths. Raises :class:`Fault` when the kernel does not do it.
    """
    version = landlock_version()
    if not version:
        raise Fault("This kernel has no Landlock.", next_step="Take model.confined out.")
    written = _WRITE_FILE | _CHANGE_FOLDER | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    room = _Room(hidden, _READ_FILE | written, version)
    try:
        room.spread("/", _READ_FILE)
        for folder in (*_TEMPORARY, tempfile.gettempdir()):
            room.spread(os.path.realpath(folder), _READ_FILE | written)
        for folder in _DEVICES:
            room.spread(folder, _READ_FILE | (written & _OF_FILES))
        for path in reads:
            room.allow(path, _READ_FILE)
        for path in writes:
            room.allow(path, _READ_FILE | written)
        room.shut()
    finally:
        os.close(room.ruleset)


class _Room:
    """One set of rules in the making."""

    def __init__(self, hidden: Sequence[str], handled: int, version: int) -> None:
        self._kernel = ctypes.CDLL(None, use_errno=True)
        self._hidden = tuple(hidden)
        scoped = _SIGNALS_WITHIN if version >= _SCOPED_SINCE else 0
        rules = struct.pack("=QQQ", handled, 0, scoped) if scoped else struct.pack("=Q", handled)
        self.ruleset = self._call(_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)

    def spread(self, path: str, rights: int) -> None:
        """Allow ``rights`` below ``path``, around what is hidden."""
        if any(_above(place, path) for place in self._hidden):
            return
        if not any(_above(path, place) for place in self._hidden):
            self.allow(path, rights)
            return
        try:
            entries = list(os.scandir(path))
        except OSError:
            return
        for entry in entries:
            if not entry.is_symlink():  # a link is judged by where it leads
                self.spread(entry.path, rights)

    def allow(self, path: str, rights: int) -> None:
        """Allow ``rights`` on a file, or on a folder and what is below it; nothing where neither is there."""
        try:
            handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        try:
            kept = rights if Path(path).is_dir() else rights & _OF_FILES
            self._call(_ADD_RULE, self.ruleset, _PATH_BENEATH, struct.pack("=Qi", kept, handle), 0)
        finally:
            os.close(handle)

    def shut(self) -> None:
        """Let the rules hold."""
        self._kernel.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        self._call(_RESTRICT_SELF, self.ruleset, 0)

    def _call(self, number: int, *arguments: Any) -> int:
        result = int(self._kernel.syscall(number, *arguments))
        if result < 0:
            why = os.strerror(ctypes.get_errno())
            raise Fault(f"Landlock could not be set up: {why}.", next_step="Take model.confined out.")
        return result


def _above(folder: str, path: str) -> bool:
    """Tell whether ``path`` is that folder, or below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
