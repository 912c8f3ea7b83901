"""Immutable bytes by key: files under a folder.

Published by put-if-absent: a reader sees all bytes of a key or none, and nobody's bytes are written over.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from interlock.errors import NotFound, StoreFault
from interlock.ports import BlobInfo
from interlock.records import timestamp
from interlock.store.disk import (
    TEMPORARY,
    durable_write,
    make_folder,
    sync_file,
    sync_folder,
    temporary_beside,
    write_synced,
)

__all__ = ["LocalBlobs", "absence", "appearing", "check_key", "disk_faults", "durable_write"]

_CHUNK_BYTES = 1 << 20
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV}
_STALE_S = 86_400.0


def check_key(key: str) -> str:
    """Give ``key`` back when it is a plain relative name; raises StoreFault for anything that could leave the root."""
    parts = key.split("/")
    plain = (
        key.isprintable()
        and "\\" not in key
        and len(key.encode("utf-8", "replace")) <= 1_000
        and all(part not in ("", ".", "..") and len(part.encode("utf-8", "replace")) <= 255 for part in parts)
        and not any(part.startswith(TEMPORARY) for part in parts)
    )
    if plain:
        return key
    raise StoreFault(
        f"{key[:200]!r} is not a valid blob key.",
        next_step="A key has plain names between single '/': no '..', no leading '/', no control characters.",
        key=key[:200],
    )


def _absent(key: str) -> NotFound:
    return NotFound(f"There is no blob '{key}'.", next_step="Run 'interlock doctor'.", key=key)


# ---- files -------------------------------------------------------------------------------------------------------


class LocalBlobs:
    """Files under ``root`` (implements :class:`interlock.ports.Blobs`). Methods raise StoreFault when the disk fails.

    A key that leads out of the root through a symbolic link is refused.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    def put(self, key: str, source: bytes | Path) -> bool:
        """Store durably if absent: temporary name, fsync, link, fsync of the folders. False when the key was there."""
        path = self._locate(key)
        with disk_faults(path):
            make_folder(path.parent)
            if path.exists():
                _make_durable(path)
                return False
            # In the root, not beside the key: a folder of keys that is verified as a whole (a bundle) stays clean
            # when a writer is killed.
            temporary = temporary_beside(self._root / "any")
            try:
                _fill(temporary, source)
                written = _publish(temporary, path)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    temporary.unlink()
            _make_durable(path)
            return written

    def get(self, key: str) -> bytes:
        """All bytes; raises NotFound."""
        path = self._locate(key)
        with disk_faults(path), absence(key):
            return path.read_bytes()

    def fetch(self, key: str, to: Path) -> None:
        """Copy to a local file, which appears whole or not at all; raises NotFound."""
        path = self._locate(key)
        with disk_faults(path), absence(key), path.open("rb") as source, appearing(to) as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)

    def exists(self, key: str) -> bool:
        """Tell whether it is there."""
        path = self._locate(key)
        with disk_faults(path):
            return path.is_file()

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """Blobs whose key starts with ``prefix``, in key order; temporary names and symbolic links are left out."""
        folder = prefix.rpartition("/")[0]
        start = self._locate(folder) if folder else self._root
        with disk_faults(start):
            found = {
                key: status
                for path, status in _files(start)
                if (key := path.relative_to(self._root).as_posix()).startswith(prefix)
            }
        return (_info(key, found[key]) for key in sorted(found))

    def delete(self, key: str) -> None:
        """Remove; harmless when absent."""
        path = self._locate(key)
        with disk_faults(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            sync_folder(path.parent)

    def local(self, key: str) -> Path | None:
        """Give the file itself (read only), or None when there is none."""
        path = self._locate(key)
        with disk_faults(path):
            return path if path.is_file() else None

    def sweep(self, now: datetime, *, older_than_s: float = _STALE_S) -> int:
        """Remove temporary files that a killed writer left; gives back how many. Looks at one folder only: cheap."""
        swept = 0
        with disk_faults(self._root):
            for path in self._root.glob(f"{TEMPORARY}*"):
                if now.timestamp() - path.lstat().st_mtime > older_than_s:
                    path.unlink(missing_ok=True)
                    swept += 1
        return swept

    def _locate(self, key: str) -> Path:
        path = self._root / check_key(key)
        with disk_faults(path):
            root, real = os.path.realpath(self._root), os.path.realpath(path)
        if not real.startswith(root.rstrip("/") + "/"):
            raise StoreFault(
                f"The blob '{key}' leads out of {self._root} through a symbolic link.",
                next_step="Remove the link: nothing outside the store is read or written.",
                key=key,
            )
        return path


def _fill(temporary: Path, source: bytes | Path) -> None:
    if isinstance(source, bytes):
        write_synced(temporary, source)
        return
    with source.open("rb") as reader, temporary.open("xb") as writer:
        shutil.copyfileobj(reader, writer, _CHUNK_BYTES)
        writer.flush()
        os.fsync(writer.fileno())


def _publish(temporary: Path, path: Path) -> bool:
    """Give a complete file its name unless the name is taken; a link does this atomically."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename_if_absent(temporary, path)
    return True


def _rename_if_absent(temporary: Path, path: Path) -> bool:
    """For file systems without hard links: look and rename under a lock on the folder, which all writers here take."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if path.exists():
            return False
        temporary.rename(path)
    finally:
        os.close(folder)
    return True


def _make_durable(path: Path) -> None:
    """Sync also what another writer published: it may have died before it came to that."""
    sync_file(path)
    sync_folder(path.parent)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Regular files below ``folder``; what vanishes meanwhile is skipped."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            elif entry.is_file(follow_symlinks=False) and not entry.name.startswith(TEMPORARY):
                yield Path(entry.path), entry.stat(follow_symlinks=False)


def _info(key: str, status: os.stat_result) -> BlobInfo:
    return BlobInfo(
        key=key,
        size_bytes=status.st_size,
        modified=timestamp(datetime.fromtimestamp(status.st_mtime, UTC)),
        version=f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}",
    )


@contextmanager
def appearing(to: Path) -> Iterator[Any]:
    """Open a file for writing that gets its name only when the block ends well."""
    to.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(to)
    try:
        with temporary.open("xb") as target:
            yield target
        temporary.replace(to)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def absence(key: str) -> Iterator[None]:
    """Map what is raised for a file or object that is not there to NotFound."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _absent(key) from error


# ---- foreign errors ----------------------------------------------------------------------------------------------

_DISK_STEPS = {
    errno.ENOSPC: "Free some space and run again.",
    errno.EDQUOT: "Free some space and run again.",
    errno.EACCES: "Check who may read and write there.",
    errno.EPERM: "Check who may read and write there.",
    errno.EROFS: "Choose a store on a disk that can be written.",
    errno.EIO: "Check the disk, then run again.",
    errno.ENAMETOOLONG: "Use a shorter name or a shorter root.",
}


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Map :class:`OSError` to :class:`~interlock.errors.StoreFault`."""
    try:
        yield
    except OSError as error:
        raise StoreFault(
            f"The disk failed at {path}: {error.strerror or error}.",
            next_step=_DISK_STEPS.get(error.errno or 0, "Run 'interlock doctor', then run again."),
            path=str(path),
            cause=errno.errorcode.get(error.errno or 0, type(error).__name__),
        ) from error
