"""Where answers are published: a folder or an object-store prefix; a final name appears whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from interlock.ports import Blobs
from interlock.settings import Settings
from interlock.store.blobs import disk_faults
from interlock.store.disk import TEMPORARY, make_folder, sync_folder
from interlock.store.places import open_blobs

_STAGING = f"{TEMPORARY}batch-"


class Outlet(Protocol):
    """A place for finished files. ``staging`` names are temporary and never look published."""

    def staging(self, name: str) -> Path:
        """Where the file that will be called ``name`` is to be made, on this machine."""
        ...

    def publish(self, staged: Path, name: str) -> bool:
        """Give a complete, durable file its final name unless that is taken (False); ``staged`` is gone afterwards."""
        ...

    def published(self, prefix: str) -> Iterator[tuple[str, Path]]:
        """Published files whose name starts with ``prefix``: name, and a file of this machine to read."""
        ...

    def shown(self, name: str) -> str:
        """The published file, for people and records: relative to the project where it is inside."""
        ...

    def sweep(self) -> None:
        """Remove what a killed turn was still making."""
        ...


def open_outlet(settings: Settings, location: str, turn: str, scratch: Path) -> Outlet:
    """The outlet at a folder (relative to the project) or URL, for one turn."""
    if "://" in location:
        return ObjectOutlet(open_blobs(location, settings), location, scratch)
    return FolderOutlet(settings.path(location), settings.root, turn)


class FolderOutlet:
    """A folder of this machine: staged in it (so that a link is atomic), linked, and the folder made durable.

    Methods raise :class:`StoreFault` when the disk fails.
    """

    def __init__(self, folder: Path, root: Path, turn: str) -> None:
        self._folder, self._root, self._turn = folder, root, turn

    def staging(self, name: str) -> Path:
        """A temporary name in the folder itself."""
        with disk_faults(self._folder):
            make_folder(self._folder)
        return self._folder / f"{_STAGING}{self._turn}-{name}"

    def publish(self, staged: Path, name: str) -> bool:
        """Link, which fails when the name is taken; rename where the file system has no links."""
        final = self._folder / name
        with disk_faults(final):
            taken = not _link(staged, final)
            sync_folder(self._folder)
            staged.unlink(missing_ok=True)
        return not taken

    def published(self, prefix: str) -> Iterator[tuple[str, Path]]:
        """Files of the folder, in name order."""
        if self._folder.is_dir():
            with disk_faults(self._folder):
                names = sorted(entry.name for entry in os.scandir(self._folder) if entry.name.startswith(prefix))
            yield from ((name, self._folder / name) for name in names)

    def shown(self, name: str) -> str:
        """Path relative to the project, or absolute outside of it."""
        path, root = (self._folder / name).resolve(), self._root.resolve()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)

    def sweep(self) -> None:
        """Remove the temporary names of other turns: this one holds the lease, so their makers are dead."""
        for name, path in self.published(_STAGING):
            if not name.startswith(f"{_STAGING}{self._turn}-"):
                with disk_faults(path):
                    path.unlink(missing_ok=True)


def _link(staged: Path, final: Path) -> bool:
    try:
        final.hardlink_to(staged)
    except FileExistsError:
        return False
    except OSError:
        if final.exists():
            return False
        staged.rename(final)
    return True


class ObjectOutlet:
    """A prefix of an object store: staged on this machine, published by one conditional put."""

    def __init__(self, blobs: Blobs, location: str, scratch: Path) -> None:
        self._blobs, self._location, self._scratch = blobs, location.rstrip("/"), scratch

    def staging(self, name: str) -> Path:
        """A file in this turn's scratch folder."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch / f"{_STAGING}{name}"

    def publish(self, staged: Path, name: str) -> bool:
        """Put if absent."""
        written = self._blobs.put(name, staged)
        staged.unlink(missing_ok=True)
        return written

    def published(self, prefix: str) -> Iterator[tuple[str, Path]]:
        """Objects by name order, each fetched when it is asked for."""
        for info in self._blobs.list(prefix):
            local = self._scratch / "published.parquet"
            self._scratch.mkdir(parents=True, exist_ok=True)
            self._blobs.fetch(info.key, local)
            yield info.key, local

    def shown(self, name: str) -> str:
        """URL of the object."""
        return f"{self._location}/{name}"

    def sweep(self) -> None:
        """Nothing: scratch folders of dead turns are not the outlet's."""


def set_aside(staged: Path, folder: Path, name: str) -> Path:
    """Move a refused file out of the outlet into ``folder``, over an older one of that name; raises StoreFault."""
    target = folder / name
    with disk_faults(target):
        make_folder(folder)
        shutil.move(staged, target)
    return target
