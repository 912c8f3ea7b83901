"""What lies around user code and is not its own, and whether it changed while the code ran."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from interlock.settings import FILE_NAME, Settings

_MOST_FILES: Final = 10_000
_SHOWN: Final = 5


class Surroundings:
    """The settings, the project's own files and those of its inboxes, as they were when this was made.

    Somebody else may have changed them as well, so that a change is told and nobody is blamed.
    """

    def __init__(self, settings: Settings, files: Sequence[str]) -> None:
        self._root = settings.root
        inboxes = [source.inbox for source in settings.sources.values()]
        inboxes += [settings.data.holdout.inbox or "", settings.batch.inbox]
        arrived = (
            Path(folder) / name
            for place in inboxes
            if place and "://" not in place
            for folder, _, names in os.walk(settings.path(place))
            for name in names
        )
        own = [settings.root / name for name in (FILE_NAME, *files)]
        self._before = {path: _looks(path) for path in (*own, *itertools.islice(arrived, _MOST_FILES))}

    def changes(self) -> str:
        """Words for what is gone or has changed since; empty when nothing has. New files are nobody's concern."""
        found = []
        for path, before in self._before.items():
            now = _looks(path)
            if before is not None and now != before:
                name = path.relative_to(self._root) if path.is_relative_to(self._root) else path
                found.append(f"{name} ({'gone' if now is None else 'changed'})")
        return ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else "")


def _looks(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = path.lstat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
