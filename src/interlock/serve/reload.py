"""The release in force is followed: a new one is loaded, verified and warmed, and only then shown into the room."""

import threading
from collections.abc import Callable
from typing import Final

from interlock.answer.live import Loader
from interlock.errors import InterlockError, NothingToServe
from interlock.ports import Parts
from interlock.records import Release
from interlock.release.standing import current
from interlock.serve.door import Room, room_of

LOOK_EVERY_S: Final = 0.1
"""How often the ledger is asked for a newer release."""


class Follower:
    """Looks for a newer release in a thread of its own. ``show`` is called in that thread with each and its room."""

    def __init__(
        self,
        parts: Parts,
        loader: Loader,
        show: Callable[[Room, Release], None],
        say: Callable[[str], None],
        *,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._parts = parts
        self._loader = loader
        self._show = show
        self._say = say
        self._look_every_s = look_every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="interlock-reload", daemon=True)
        self._shown: Release | None = None
        self._failed: Release | None = None
        self.problem = ""
        """Why the state could not be read the last time, or a release not loaded; empty when all is well."""

    def first(self) -> tuple[Room, Release]:
        """Load the release in force, be it only its baseline; raises :class:`NothingToServe`, or why nothing loads."""
        release = current(self._parts.ledger)
        if release is None:
            raise NothingToServe("Nothing is live, so there is nothing to serve.", next_step="Run 'interlock run'.")
        room = self._room(release, at_any_rate=True)
        self._shown = release
        return room, release

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)

    def _room(self, release: Release, *, at_any_rate: bool = False) -> Room:
        live = self._loader.load(release, self._say, at_any_rate=at_any_rate)
        settings = self._parts.settings
        return room_of(
            live,
            most_rows=settings.serve.max_rows,
            name=settings.model.name,
            probabilities=settings.serve.probabilities,
        )

    def _follow(self) -> None:
        while not self._stop.wait(self._look_every_s):
            self.look()

    def look(self) -> None:
        """Look once, and show a newer release."""
        try:
            release = current(self._parts.ledger)
        except InterlockError as error:
            self._told(f"the state cannot be read, the release in memory goes on answering: {error.message}")
            return
        if release is None or release in (self._shown, self._failed):
            if release == self._shown:
                self.problem = ""
            return
        try:
            room = self._room(release)
        except InterlockError as error:
            self._failed = release
            self._told(
                f"release {release.generation} cannot be loaded, the one before goes on answering: {error.message}"
            )
            return
        self._shown, self._failed, self.problem = release, None, ""
        self._show(room, release)
        self._say(f"release {release.generation} answers now")
        self._loader.keep(room.live)

    def _told(self, problem: str) -> None:
        if problem != self.problem:
            self._say(problem)
        self.problem = problem
