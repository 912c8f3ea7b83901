"""How much memory a session of user code takes, with everything that it started. Linux only: it is read from /proc."""

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_LOOK_FOR_MORE_S: Final = 0.5
_RSS_FIELDS: Final = (b"RssAnon:", b"RssShmem:")


def can_watch() -> bool:
    """Tell whether the memory of a session can be watched on this system."""
    return sys.platform == "linux" and (_PROC / "self" / "status").is_file()


class Watch:
    """Memory of the processes of one session (``setsid``); ``limit_bytes`` is what they may take together.

    Pages that a fork shares with its parent are counted once for each, which is cheap to read and too much; so the
    exact sum (PSS, proportional set size) is read only when the cheap one is above the limit.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._members: list[int] = []
        self._looked_s = -_LOOK_FOR_MORE_S

    def excess(self, session: int) -> int:
        """Bytes taken when that is more than the limit, else 0."""
        now = time.monotonic()
        if now - self._looked_s >= _LOOK_FOR_MORE_S:
            self._looked_s, self._members = now, members(session)
        if sum(map(_resident, self._members)) <= self.limit_bytes:
            return 0
        taken = sum(map(_proportional, self._members))
        return taken if taken > self.limit_bytes else 0


def members(session: int) -> list[int]:
    """Processes of a session."""
    found = []
    for entry in os.scandir(_PROC):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # the name in parentheses may hold anything; behind it: state, parent, group, session
                fields = (_PROC / entry.name / "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[3]) == session:
                    found.append(int(entry.name))
    return found


def _resident(process: int) -> int:
    return _sum(_PROC / str(process) / "status", _RSS_FIELDS)


def _proportional(process: int) -> int:
    return _sum(_PROC / str(process) / "smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:"))


def _sum(path: Path, fields: tuple[bytes, ...]) -> int:
    """Bytes in these fields of a file that gives them in kB; 0 for a process that has ended."""
    total = 0
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_bytes().splitlines():
            if line.startswith(fields):
                total += int(line.split()[1]) * 1024
    return total
