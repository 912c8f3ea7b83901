"""Files of packed records on the local disk, from the moment they are written until they are rows of the lake.

A *segment* is a file of blocks, each with its length and check sum, so that a reader knows where a crash cut it. Its
writer holds a lock on it and calls it ``NAME.open``; when it is full or old enough it becomes ``NAME.sealed``. A
``.open`` file that nobody holds was left by a process that died: it is sealed as it is. Names are never used twice.
"""

import contextlib
import fcntl
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from interlock.store.disk import TEMPORARY, sync_folder

OPEN: Final = ".open"
SEALED: Final = ".sealed"
_HEAD: Final = struct.Struct("<4sII")
_MAGIC: Final = b"ILK1"
Content: TypeAlias = bytes | bytearray


class Segment:
    """A segment that is being written, by this process alone. Methods raise :class:`OSError`."""

    def __init__(self, folder: Path, stamp_s: float) -> None:
        name = f"{int(stamp_s * 1e6):020d}-{secrets.token_hex(8)}"
        self.size_bytes = 0
        self._path = folder / f"{name}{OPEN}"
        temporary = folder / f"{TEMPORARY}{name}"
        self._descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # held before anybody can see the name
            temporary.rename(self._path)
            sync_folder(folder)
        except BaseException:
            os.close(self._descriptor)
            raise

    def write(self, *parts: Content) -> None:
        """Add a block; it is on the disk when this returns. After an error the segment has what it had before."""
        length = sum(memoryview(part).nbytes for part in parts)
        check = 0
        for part in parts:
            check = zlib.crc32(part, check)
        try:
            for part in (_HEAD.pack(_MAGIC, length, check), *parts):
                _write(self._descriptor, part)
            os.fdatasync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size_bytes)
            raise
        self.size_bytes += _HEAD.size + length

    def seal(self) -> None:
        """Give it to whoever takes segments away; one without a block is removed."""
        try:
            if self.size_bytes:
                self._path.rename(self._path.with_suffix(SEALED))
            else:
                self._path.unlink()
            sync_folder(self._path.parent)
        finally:
            os.close(self._descriptor)


def _write(descriptor: int, part: Content) -> None:
    left = memoryview(part)
    while left:
        left = left[os.write(descriptor, left) :]


def adopt(folder: Path) -> list[Path]:
    """Seal what dead writers left, and list all sealed segments, oldest first."""
    for path in folder.glob(f"*{OPEN}"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.rename(path.with_suffix(SEALED))
            finally:
                os.close(descriptor)
    return sorted(folder.glob(f"*{SEALED}"))


def blocks(path: Path) -> Iterator[bytes]:
    """The blocks of a segment, up to where it was cut off or damaged; :func:`cut_off` tells how much that leaves."""
    with path.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            magic, length, check = _HEAD.unpack(head)
            block = file.read(length) if magic == _MAGIC else b""
            if len(block) < length or magic != _MAGIC or zlib.crc32(block) != check:
                return
            yield block


def cut_off(path: Path) -> int:
    """Bytes at the end of a segment that are no whole block."""
    return path.stat().st_size - sum(_HEAD.size + len(block) for block in blocks(path))
