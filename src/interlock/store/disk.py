"""Bytes that are still there after the power fails: files and folders written so that an acknowledgement is true.

A file's content and its name are two things: the content is durable after ``fsync`` of the file, the name after
``fsync`` of its folder. What is created here is fsynced in that order, up to the first folder that was there before.
Raises :class:`OSError`; the adapters above map it.
"""

import contextlib
import os
import secrets
from pathlib import Path

TEMPORARY = ".interlock-tmp-"
"""Prefix of every temporary name: never a published file, safe to sweep when old."""


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_made: set[Path] = set()
"""Folders whose names this process has made durable."""


def make_folder(path: Path) -> None:
    """Create a folder and those above it, durably; harmless when it is there.

    One that is there may have been made by a process that died before it came to the fsync, so its name is made durable
    once by each process.
    """
    missing = []
    folder = path
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    if folder not in _made and folder != folder.parent:
        with contextlib.suppress(PermissionError):  # who may not read the folder above did not make this one
            sync_folder(folder.parent)
            _made.add(folder)
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
        _made.add(folder)


def temporary_beside(path: Path) -> Path:
    """Return a fresh temporary name in the folder of ``path``: same file system, so that a rename is atomic."""
    return path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"


def durable_write(path: Path, content: bytes) -> None:
    """Write or replace a file, so that a reader or a crash sees the old bytes or the new, never a part."""
    make_folder(path.parent)
    temporary = temporary_beside(path)
    try:
        write_synced(temporary, content)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and fsync its content (its name is not durable yet)."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
