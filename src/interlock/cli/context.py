"""What every verb needs: the project that was named, its settings, and one way to leave with an exit code."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interlock.ports import Parts
    from interlock.settings import Settings


@dataclass
class Invocation:
    """The options that stand before the verb, and whether the verb was asked for JSON."""

    project: Path | None = None
    environment: str = ""
    overrides: list[str] = field(default_factory=list)
    json: bool = False

    def settings(self) -> "Settings":
        """Read the project's settings; raises :class:`~interlock.errors.Misuse`."""
        from interlock.configuration import find_project, load_settings

        root = self.project.resolve() if self.project else find_project(Path.cwd())
        return load_settings(
            root,
            environment=self.environment or os.environ.get("INTERLOCK_ENV", ""),
            variables=os.environ,
            overrides=self.overrides,
        )

    @contextmanager
    def parts(self, *, late: bool = False) -> "Iterator[Parts]":
        """Open the project for the length of the block; ``late``: its state may be away."""
        from interlock.app import open_parts

        gc.freeze()
        gc.enable()
        with open_parts(self.settings(), late=late) as parts:
            yield parts


current = Invocation()
"""The one invocation of this process; the callback of the program fills it before a verb runs."""
