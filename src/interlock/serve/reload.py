"""The release in force is followed: a new one is loaded, verified and warmed, and only then shown into the room.

Where the state cannot be read, the release in memory goes on answering; a server that starts then begins with the one
that this host remembers. What answers is kept on the local disk for that.
"""

import threading
from collections.abc import Callable
from math import inf
from typing import Final, Literal, TypeAlias

from interlock.answer.live import Loader
from interlock.errors import InterlockError, NothingToServe, StoreFault
from interlock.ports import Parts
from interlock.records import Release
from interlock.release.standing import current
from interlock.serve.door import Room, room_of
from interlock.serve.last_known import LastKnown

Source: TypeAlias = Literal["state", "memory"]
LOOK_EVERY_S: Final = 0.1
"""How often the ledger is asked for a newer release."""
_KEEP_AGAIN_S: Final = 60.0
_LOAD_AGAIN_S: Final = 5.0
"""What the store did not give is asked for again after so long."""


class Follower:
    """Looks for a newer release in a thread of its own. ``show`` is called in that thread with each and its room."""

    def __init__(
        self,
        parts: Parts,
        loader: Loader,
        show: Callable[[Room, Release], None],
        say: Callable[[str], None],
        *,
        last_known: LastKnown | None = None,
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
        self._last_known = last_known
        self._kept: Release | None = None
        self._keep_at_s = 0.0
        self._seats = 0
        self._load_at_s = inf
        self._told_once: set[str] = set()
        self.on_back: Callable[[Release], None] = lambda _: None
        """Called in the thread when the state can be read again, and the release that answers is still in force."""
        self.source: Source = "state"
        """Whether the release that answers is the one in force, or the one in force when the state was last read."""
        self.problem = ""
        """Why the state could not be read the last time, or a release not loaded; empty when all is well."""

    def first(self) -> tuple[Room, Release]:
        """Load the release in force, be it only its baseline; or the last one known here, where the state is away.

        Raises :class:`NothingToServe`, :class:`StoreFault` when the state is away and nothing is remembered, or why
        nothing loads.
        """
        nothing = NothingToServe("Nothing is live, so there is nothing to serve.", next_step="Run 'interlock run'.")
        try:
            release = current(self._parts.ledger) or self._remembered(nothing)
        except (StoreFault, NothingToServe) as error:
            if error is nothing:
                raise
            release = self._remembered(error)
        room = self._room(release, at_any_rate=True)
        self._shown, self._seats = release, len(room.live.everybody)
        return room, release

    def _remembered(self, error: InterlockError) -> Release:
        """The release that was kept here last; raises ``error`` when there is none that can be trusted."""
        try:
            kept = self._last_known.release() if self._last_known is not None else None
        except InterlockError as problem:
            self._say(problem.message)
            raise error from problem
        if kept is None:
            raise error
        self.source, self._kept = "memory", kept.release
        self._told(f"the state cannot be read: {error.message}")
        self._say(
            f"ANSWERS FROM MEMORY: release {kept.release.generation} of {kept.release.at}, read from {kept.state} and "
            f"kept on this disk at {kept.at}; it follows the state again as soon as that is back"
        )
        return kept.release

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)

    def _room(self, release: Release, *, at_any_rate: bool = False) -> Room:
        try:
            live = self._loader.load(release, self._say_once, at_any_rate=at_any_rate)
        finally:
            self._load_at_s = self._parts.clock.monotonic() + _LOAD_AGAIN_S if self._loader.is_away else inf
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
        self._keep()
        try:
            release = current(self._parts.ledger)
        except InterlockError as error:
            self.source = "memory"
            self._told(f"the state cannot be read, the release in memory goes on answering: {error.message}")
            return
        if release is None:
            return
        was, self.source = self.source, "state"
        if release == self._shown:
            self.problem = ""
            if was == "memory":
                self._say(f"the state can be read again: release {release.generation} is in force")
                self.on_back(release)
        if release in (self._shown, self._failed) and self._parts.clock.monotonic() < self._load_at_s:
            return
        try:
            room = self._room(release)
        except InterlockError as error:
            self._failed = release
            self._told(
                f"release {release.generation} cannot be loaded, the one before goes on answering: {error.message}"
            )
            return
        if release == self._shown and len(room.live.everybody) <= self._seats:
            return
        self._shown, self._failed, self.problem = release, None, ""
        self._seats, self._kept = len(room.live.everybody), None
        if not self._loader.is_away:
            self._told_once.clear()
        self._show(room, release)
        self._say(f"release {release.generation} answers now")
        self._keep()
        self._loader.keep(room.live)

    def _keep(self) -> None:
        """Keep what answers on the disk of this host, once; what fails is told, and tried again after a while."""
        now_s = self._parts.clock.monotonic()
        if self._last_known is None or self._shown is None or self._shown == self._kept or now_s < self._keep_at_s:
            return
        try:
            self._last_known.keep_release(self._shown, self._loader.opened())
        except InterlockError as error:
            self._keep_at_s = now_s + _KEEP_AGAIN_S
            self._say(f"release {self._shown.generation} is not kept on this disk: {error.message}")
        else:
            self._kept, self._keep_at_s = self._shown, 0.0

    def _say_once(self, message: str) -> None:
        """Say what is said at each try, until one goes well."""
        if message not in self._told_once:
            self._told_once.add(message)
            self._say(message)

    def _told(self, problem: str) -> None:
        if problem != self.problem:
            self._say(problem)
        self.problem = problem
