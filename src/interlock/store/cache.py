"""Local copies of immutable objects, so that a host fetches each once; bounded in size, safe to delete at any time.

What is used again is worth keeping: the copies that were not used for the longest time go first, but none that was
used within the last hour, because another process may be about to open it.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from interlock.ports import Clock
from interlock.store.blobs import disk_faults
from interlock.store.clock import SystemClock

_IN_USE_S = 3600.0
_FOLDERS = "bundles"
"""Below this name a copy is a folder; everywhere else it is a file."""


class Cache:
    """Copies under ``folder``, together at most ``limit_bytes`` but for those of the last hour."""

    def __init__(self, folder: Path, limit_bytes: int, clock: Clock | None = None) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._clock = clock or SystemClock()
        self._since_trim: int | None = None

    def path(self, key: str) -> Path:
        """Where the copy of ``key`` is or would be."""
        return self._folder / key

    def file(self, key: str, fetch: Callable[[Path], None], *, size_bytes: int | None = None) -> Path:
        """The copy of ``key``, made by ``fetch`` (whole or not at all) unless it is there and has that size."""
        path = self.path(key)
        with disk_faults(path):
            if not self._is_there(path, size_bytes):
                path.parent.mkdir(parents=True, exist_ok=True)
                fetch(path)
                self._grown(path.stat().st_size)
            self.used(key)
        return path

    def _is_there(self, path: Path, size_bytes: int | None) -> bool:
        try:
            found = path.stat().st_size
        except FileNotFoundError:
            return False
        return size_bytes is None or found == size_bytes

    def used(self, key: str) -> None:
        """Note that a copy is in use."""
        now = self._clock.now().timestamp()
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path(key), (now, now))

    def drop(self, key: str) -> None:
        """Forget a copy; harmless when there is none."""
        self.path(key).unlink(missing_ok=True)

    def _grown(self, size_bytes: int) -> None:
        """Look at all copies at the first fetch, and again when a fiftieth of the limit has been added."""
        self._since_trim = self._limit_bytes if self._since_trim is None else self._since_trim + size_bytes
        if self._since_trim >= self._limit_bytes / 50:
            self._since_trim = 0
            self.trim()

    def trim(self) -> None:
        """Remove what was not used for the longest time, until the rest is within the limit."""
        copies = sorted((_last_use(path), _size(path), path) for path in self._copies())
        total = sum(size for _, size, _ in copies)
        before = self._clock.now().timestamp() - _IN_USE_S
        for last_use, size, path in copies:
            if total <= self._limit_bytes or last_use > before:
                return
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            total -= size

    def _copies(self) -> list[Path]:
        folders = [path for path in (self._folder / _FOLDERS).glob("*") if path.is_dir()]
        kept = self._folder / _FOLDERS
        files = [path for path in self._folder.rglob("*") if path.is_file() and not path.is_relative_to(kept)]
        return folders + files


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return path.stat().st_size
    except FileNotFoundError:
        return 0
