"""A disk that forgets what was not fsynced: a file system in memory (FUSE) that logs every change, and power cuts.

The log of one run gives every power cut: :func:`cuts` replays it and stops wherever the state of the disk differs. What
survives a cut follows POSIX at its least: the content of a file as of its last fsync, the names in a folder as of the
last fsync of the folder. Disks may keep more; four kinds of what may be left:

==========  ==============================  ==============================
kind        names in folders                content of files
==========  ==============================  ==============================
``strict``  as of the last fsync            as of the last fsync
``names``   as they were                    as of the last fsync (else empty)
``bytes``   as of the last fsync            as it was
``mixed``   either, for each folder         either, or cut short, for each file (seeded)
==========  ==============================  ==============================

A rename or an unlink is atomic.
"""

import contextlib
import errno
import hashlib
import os
import pickle
import random
import shutil
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Tree = dict[str, bytes | None]
"""Relative path to content; None for a folder."""
Log = list[tuple[Any, ...]]
KINDS = ("strict", "names", "bytes", "mixed")
_ROOT = 0
_HIDDEN = ".fuse_hidden"


def available() -> bool:
    """Whether this machine can mount it."""
    return os.access("/dev/fuse", os.R_OK | os.W_OK) and shutil.which("fusermount3") is not None


# ---- the disk ----------------------------------------------------------------------------------------------------


@dataclass
class Disk:
    """What is there (``files``, ``folders``) and what would survive (``safe_…``), by node number."""

    files: dict[int, bytearray] = field(default_factory=dict)
    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {_ROOT: {}})
    safe_files: dict[int, bytes] = field(default_factory=dict)
    safe_folders: dict[int, dict[str, int]] = field(default_factory=lambda: {_ROOT: {}})

    def apply(self, change: tuple[Any, ...]) -> bool:
        """Make one logged change; tells whether what is there or what would survive has changed."""
        what, *given = change
        changed: bool = getattr(self, f"_{what}")(*given)
        return changed

    def _file(self, node: int) -> bool:
        self.files[node], self.safe_files[node] = bytearray(), b""
        return False

    def _folder(self, node: int) -> bool:
        self.folders[node], self.safe_folders[node] = {}, {}
        return False

    def _names(self, *changes: tuple[int, str, int | None]) -> bool:
        for folder, name, node in changes:
            if node is None:
                self.folders[folder].pop(name, None)
            else:
                self.folders[folder][name] = node
        return True

    def _write(self, node: int, offset: int, data: bytes) -> bool:
        content = self.files[node]
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        return True

    def _size(self, node: int, size: int) -> bool:
        content = self.files[node]
        del content[size:]
        content.extend(bytes(size - len(content)))
        return True

    def _sync(self, node: int) -> bool:
        if node in self.files:
            now: Any = bytes(self.files[node])
            before: Any = self.safe_files.get(node)
            self.safe_files[node] = now
        else:
            now, before = dict(self.folders[node]), self.safe_folders.get(node)
            self.safe_folders[node] = now
        return bool(now != before)

    def keep(self) -> None:
        """Everything that is there is durable."""
        self.safe_files = {node: bytes(content) for node, content in self.files.items()}
        self.safe_folders = {node: dict(names) for node, names in self.folders.items()}

    def after(self, kind: str, seed: int = 0) -> Tree:
        """What is found after a power cut."""
        draw = random.Random(seed)
        tree: Tree = {}

        def walk(folder: int, path: str) -> None:
            live = kind == "names" or (kind == "mixed" and draw.random() < 0.5)
            for name, node in sorted((self.folders if live else self.safe_folders)[folder].items()):
                if name.startswith(_HIDDEN):
                    continue
                if node in self.folders:
                    tree[path + name] = None
                    walk(node, f"{path}{name}/")
                else:
                    tree[path + name] = self._content(node, kind, draw)

        walk(_ROOT, "")
        return tree

    def _content(self, node: int, kind: str, draw: random.Random) -> bytes:
        safe, there = self.safe_files[node], bytes(self.files[node])
        if kind == "bytes":
            return there
        if kind != "mixed" or safe == there:
            return safe
        if not there.startswith(safe):  # written over in place: each page may have come through or not
            return draw.choice((safe, there))
        return there[: draw.choice((len(safe), len(there), draw.randint(len(safe), len(there))))]


class Cut(NamedTuple):
    """A power cut after the change number ``at`` of the log."""

    at: int
    kind: str
    tree: Tree


def cuts(start: Tree, log: Log, *, ignore: str, kinds: tuple[str, ...] = KINDS) -> Iterator[Cut]:
    """Every power cut that leaves another disk: after each change of names or fsync, and right before each fsync.

    Disks that differ only below ``ignore`` count as one.
    """
    disk = load(start)
    known = set()
    for at, change in enumerate(log):
        before_sync = change[0] == "sync"
        asked = [kind for kind in kinds if before_sync and kind in ("bytes", "mixed")]
        for kind in asked:
            yield from _new(disk, kind, at, known, ignore)
        if disk.apply(change) and change[0] in ("names", "sync"):
            for kind in kinds:
                if kind in ("strict", "names"):
                    yield from _new(disk, kind, at + 1, known, ignore)


def _new(disk: Disk, kind: str, at: int, known: set[bytes], ignore: str) -> Iterator[Cut]:
    tree = disk.after(kind, seed=at)
    name = hashlib.sha256()
    for path, content in sorted(tree.items()):
        if not path.startswith(ignore):
            name.update(repr((path, content)).encode())
    if name.digest() not in known:
        known.add(name.digest())
        yield Cut(at, kind, tree)


def load(tree: Tree) -> Disk:
    """A disk on which ``tree`` is durable."""
    disk = Disk()
    fs = Recorder(disk)
    for path, content in sorted(tree.items()):
        if content is None:
            fs.mkdir(f"/{path}", 0o755)
        else:
            handle = fs.create(f"/{path}", 0o644)
            fs.write(f"/{path}", content, 0, handle)
    disk.keep()
    return disk


def read_tree(folder: Path) -> Tree:
    """A folder of a real disk as a tree."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def write_tree(tree: Tree, folder: Path) -> None:
    """Put a tree on a real disk."""
    folder.mkdir()
    for path, content in sorted(tree.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


# ---- the file system ---------------------------------------------------------------------------------------------


class Recorder:
    """File operations on a :class:`Disk`, by path; every change is logged. Handles are node numbers."""

    use_ns = True

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.log: Log = []
        self._next = 1 + max([*disk.files, *disk.folders])
        self._times: dict[int, int] = {}

    def _change(self, *change: Any) -> None:
        self.disk.apply(change)
        self.log.append(change)

    def _node(self, path: str) -> int:
        node = _ROOT
        for name in path.strip("/").split("/"):
            if name:
                try:
                    node = self.disk.folders[node][name]
                except KeyError:
                    raise OSError(errno.ENOENT, path) from None
        return node

    def _parent(self, path: str) -> tuple[int, str]:
        folder, _, name = path.rstrip("/").rpartition("/")
        return self._node(folder), name

    def _new(self, kind: str, path: str) -> int:
        node = self._next
        self._next += 1
        self._times[node] = time.time_ns()
        folder, name = self._parent(path)
        self._change(kind, node)
        self._change("names", (folder, name, node))
        return node

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        node = self._node(path)
        changed = self._times.get(node, 0)
        times = {"st_mtime": changed, "st_ctime": changed, "st_atime": changed, "st_ino": node + 2}
        owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        if node in self.disk.folders:
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2, **times, **owner}
        size = len(self.disk.files[node])
        return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": size, **times, **owner}

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        there = {".": fh, "..": _ROOT, **self.disk.folders[fh]}
        kinds = {name: stat.S_IFDIR if node in self.disk.folders else stat.S_IFREG for name, node in there.items()}
        return [(name, {"st_ino": node + 2, "st_mode": kinds[name]}, 0) for name, node in there.items()]

    def mkdir(self, path: str, mode: int) -> int:
        self._new("folder", path)
        return 0

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return self._new("file", path)

    def open(self, path: str, flags: int) -> int:
        node = self._node(path)
        if flags & os.O_TRUNC:
            self.truncate(path, 0, node)
        return node

    def opendir(self, path: str) -> int:
        return self._node(path)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return bytes(self.disk.files[fh][offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._times[fh] = time.time_ns()
        self._change("write", fh, offset, bytes(data))
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        node = self._node(path) if fh is None else fh
        self._times[node] = time.time_ns()
        self._change("size", node, length)
        return 0

    def link(self, target: str, source: str) -> int:
        folder, name = self._parent(target)
        self._change("names", (folder, name, self._node(source)))
        return 0

    def rename(self, old: str, new: str) -> int:
        (old_folder, old_name), (folder, name) = self._parent(old), self._parent(new)
        self._change("names", (old_folder, old_name, None), (folder, name, self._node(old)))
        return 0

    def unlink(self, path: str) -> int:
        folder, name = self._parent(path)
        self._node(path)
        self._change("names", (folder, name, None))
        return 0

    def rmdir(self, path: str) -> int:
        if self.disk.folders[self._node(path)]:
            raise OSError(errno.ENOTEMPTY, path)
        return self.unlink(path)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._change("sync", fh)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._change("sync", fh)
        return 0

    def chmod(self, path: str, mode: int) -> int:
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        self._times[self._node(path)] = times[1] if times else time.time_ns()
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": 1 << 20, "f_bfree": 1 << 19, "f_bavail": 1 << 19}


_PROGRAM = """import pickle, sys
from pathlib import Path
from infra.forgetful import serve
given, folder, told, ready = sys.argv[1:]
serve(pickle.loads(Path(given).read_bytes()), Path(folder), Path(told), int(ready))
"""


@contextlib.contextmanager
def mounted(tree: Tree, folder: Path) -> Iterator[Log]:
    """Mount a disk that holds ``tree`` at ``folder``; the log is complete when the block has ended."""
    folder.mkdir()
    told = folder.with_suffix(".log")
    given = folder.with_suffix(".tree")
    given.write_bytes(pickle.dumps(tree))
    reader, writer = os.pipe()
    # A program of its own: a fork of a test process with threads would never come to answer.
    child = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(given), str(folder), str(told), str(writer)],
        pass_fds=[writer],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    os.close(writer)
    log: Log = []
    try:
        with os.fdopen(reader, "rb") as pipe:
            if not pipe.read(1):
                raise OSError(errno.EIO, "the file system could not be mounted")
        try:
            yield log
        finally:
            subprocess.run(["fusermount3", "-u", str(folder)], check=True)
    finally:
        child.wait()
    log.extend(pickle.loads(told.read_bytes()))


def serve(tree: Tree, folder: Path, told: Path, ready: int) -> None:
    status = 1
    try:
        warnings.simplefilter("ignore")
        import mfusepy

        recorder = Recorder(load(tree))

        class Served(Recorder, mfusepy.Operations):  # type: ignore[misc]
            def init(self, path: str) -> None:
                os.write(ready, b"x")
                os.close(ready)

        served = Served(recorder.disk)
        mfusepy.FUSE(served, str(folder), foreground=True, nothreads=True, use_ino=True)
        told.write_bytes(pickle.dumps(served.log))
        status = 0
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
    finally:
        os._exit(status)
