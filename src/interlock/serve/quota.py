"""How often a key may ask: a token bucket for each, that holds what the quota allows and fills evenly.

The burst is the quota itself: ``1000 per minute`` lets 1,000 requests through at once, and then one each 60 ms. Several
processes keep their buckets in one file that is mapped into the memory of all of them, so that the quota holds for the
server and not for each. A bucket is read and written under a lock of its bytes, which ends with its process.
"""

import fcntl
import hashlib
import mmap
import os
import re
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from interlock.errors import SettingsError

QUOTA_PATTERN: Final = r"^([1-9]\d{0,8}) per (second|minute|hour|day)$"
_S: Final = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0}
_EPSILON: Final = 1e-9
"""Of a token: what is lost by adding up parts of it."""
_SLOTS: Final = 4_096
_SLOT_BYTES: Final = 32
_NAME_BYTES: Final = 16
_PATIENCE_S: Final = 0.2
"""A lock is held for a microsecond, or until its owner is scheduled again. Who does not get it by then goes on without
for a while: its owner is stopped, and a token too many is better than a server that waits."""
_ALONE_S: Final = 10.0


class Cell(NamedTuple):
    """Where a bucket is: two numbers, tokens and time; ``file`` and ``start`` where others write them too."""

    values: "array[float] | memoryview[float]"
    file: int = -1
    start: int = 0


class Bucket:
    """The tokens of one key, by a clock in seconds that never runs backwards and is the same for all processes.

    Raises :class:`SettingsError` for a quota that is none.
    """

    __slots__ = ("_alone_until_s", "_cell", "_clock", "_most", "_per_s", "quota")

    def __init__(self, quota: str, clock: Callable[[], float], cell: Cell | None = None) -> None:
        found = re.match(QUOTA_PATTERN, quota)
        if found is None:
            raise SettingsError(f"'{quota}' is not a quota.", next_step="Write it as 1000 per minute.")
        self.quota = quota
        self._clock = clock
        self._most = float(found[1])
        self._per_s = self._most / _S[found[2]]
        self._alone_until_s = 0.0
        self._cell = cell or Cell(array("d", (0.0, 0.0)))

    def take(self) -> float:
        """Count a request and give 0; or, when it may not come now, count none and give the seconds until it may."""
        return self._moved(1.0)

    def give_back(self) -> None:
        """Take back the count of a request that was not answered after all."""
        self._moved(-1.0)

    def _moved(self, tokens: float) -> float:
        values, file, start = self._cell
        is_locked = file >= 0 and self._is_locked(file, start)
        try:
            now, used = self._clock(), max(0.0, values[0])
            if values[1] > 0.0:
                used = max(0.0, used - max(0.0, now - values[1]) * self._per_s)
            wait_s = (used + tokens - self._most) / self._per_s if used + tokens > self._most + _EPSILON else 0.0
            values[0], values[1] = (used if wait_s > 0.0 else used + tokens), now
            return wait_s
        finally:
            if is_locked:
                fcntl.lockf(file, fcntl.LOCK_UN, _SLOT_BYTES, start)

    def _is_locked(self, file: int, start: int) -> bool:
        """Whether the bytes of the bucket are ours now."""
        end_s = 0.0
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SLOT_BYTES, start)
            except OSError:
                now_s = time.monotonic()
                end_s = end_s or now_s + _PATIENCE_S
                if now_s < self._alone_until_s:
                    return False
                if now_s >= end_s:
                    self._alone_until_s = now_s + _ALONE_S
                    return False
                os.sched_yield()
            else:
                return True


class Shared:
    """The file of buckets that several processes use; each opens it by its path, and keeps it open. It has 4,096."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, _SLOTS * _SLOT_BYTES)
        self._map = mmap.mmap(self._file, _SLOTS * _SLOT_BYTES)
        self._numbers = memoryview(self._map).cast("d")

    def cell(self, key: str, quota: str) -> Cell | None:
        """The place of a key with this quota, the same for all; None when there is no room."""
        name = hashlib.sha256(f"{key} {quota}".encode()).digest()[:_NAME_BYTES]
        first, file = int.from_bytes(name[:4], "big") % _SLOTS, self._file
        fcntl.lockf(file, fcntl.LOCK_EX, _NAME_BYTES, _SLOTS * _SLOT_BYTES)
        try:
            for step in range(_SLOTS):
                slot = (first + step) % _SLOTS
                start = slot * _SLOT_BYTES
                found = self._map[start : start + _NAME_BYTES]
                if found == bytes(_NAME_BYTES):
                    self._map[start : start + _NAME_BYTES] = name
                if found in (name, bytes(_NAME_BYTES)):
                    number = (start + _NAME_BYTES) // 8
                    return Cell(self._numbers[number : number + 2], file, start)
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN, _NAME_BYTES, _SLOTS * _SLOT_BYTES)
        return None
