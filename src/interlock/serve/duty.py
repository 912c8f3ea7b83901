"""The fast half of the breaker, in one server: votes from what the door saw, the machine, and what it orders.

Everything here runs in the thread of the event loop, but for the record, which is written in a thread of its own: the
route flips in memory first, and the ledger is told after. Time is wall time at the start, carried on by a clock that
never runs backwards, so that a recorded state means the same to the next process.
"""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from interlock.answer.guard import Cause
from interlock.answer.predict import Answered, Live, Seat
from interlock.errors import Conflict, InterlockError
from interlock.model.rows import Row
from interlock.ports import Clock, Parts
from interlock.records import Record, Release
from interlock.release.breaker import (
    Act,
    Alarm,
    BreakerPolicy,
    Event,
    Permit,
    Probed,
    Released,
    State,
    Tick,
    advance,
    permit,
    told,
)
from interlock.release.duty import record, state_of
from interlock.release.evidence import Ballot, Detector, threshold
from interlock.release.standing import current
from interlock.settings import Settings
from interlock.units import per_year, seconds

ENVIRONMENT: Final[frozenset[Cause]] = frozenset({"deadline", "died", "memory"})
"""Causes that may pass: time and memory. The others lie in the model."""


class Terms(Record, frozen=True, kw_only=True):
    """What the owner allows: false trips a year, and a share of failures ``tolerated``, at ``votes_per_s`` at most.

    ``shadow_every``: of so many answers of the champion, one is asked of last good too, so that it is known to be good.
    """

    policy: BreakerPolicy = BreakerPolicy()
    false_trips_per_year: float = 1.0
    tolerated: float = 0.001
    votes_per_s: float = 100.0
    shadow_every: int = 100


def terms_of(settings: Settings) -> Terms:
    """The terms that a project sets in ``[breaker]``."""
    breaker = settings.breaker
    policy = BreakerPolicy(
        retry_s=seconds(breaker.retry),
        probes=breaker.probes,
        trips_a_day=breaker.trips_a_day,
        observe=breaker.observe,
    )
    return Terms(
        policy=policy,
        false_trips_per_year=per_year(breaker.false_trips),
        tolerated=breaker.tolerated,
        votes_per_s=breaker.rated_load,
    )


class Wall:
    """Wall time that never runs backwards: seconds since 1970 at the start, and since then by the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.now().timestamp() - clock.monotonic()

    def now_s(self) -> float:
        """Seconds."""
        return self._start + self._clock.monotonic()


def _was_asked(answered: Answered) -> bool:
    """Whether the champion was asked for any of the records."""
    return "champion" in answered.tiers or any(fault.tier == "champion" for fault in answered.faults)


class Duty:
    """Watches the answers of one room after another."""

    def __init__(
        self,
        parts: Parts,
        terms: Terms,
        say: Callable[[str], None],
    ) -> None:
        self._parts = parts
        self._terms = terms
        self._say = say
        self._running: set[asyncio.Task[None]] = set()
        self._wall = Wall(parts.clock)
        # two detectors share the budget of false trips
        alarm = 2.0 * threshold(terms.false_trips_per_year, terms.votes_per_s)
        self._detectors = {kind: Detector(terms.tolerated, alarm) for kind in ("model", "environment")}
        self._ballot = Ballot(terms.votes_per_s)
        self._live: Live | None = None
        self._since_shadow = 0
        self.last_good: dict[bool, int] = {True: 0, False: 0}
        """How often last good was asked in the shadow, and had an acceptable answer, or not."""
        self.state = State(model="")
        self.trips = 0
        """How often the champion went off duty while this server looked on."""
        self._off: bool | None = None
        self._records: queue.SimpleQueue[tuple[State, tuple[Act, ...]] | None] = queue.SimpleQueue()
        self._recorder = threading.Thread(target=self._write, name="interlock-duty", daemon=True)
        self._recorder.start()

    def close(self) -> None:
        """Write what is left to write."""
        self._records.put(None)
        self._recorder.join(timeout=30.0)

    # ---- what happens --------------------------------------------------------------------------------------------

    def enter(self, live: Live, release: Release) -> None:
        """A release is in the room. What is recorded decides where the route begins; our own flip is there already."""
        before = self._live
        self._live = live
        if before is None:
            self.state = state_of(self._parts.ledger, release)
        else:
            has_last_good = any(seat.tier == "last-good" for seat in live.seats)
            if release.cause == "breaker" and release.champion == self.state.model:
                if release.route != self.state.route:  # another process decided
                    self.state = state_of(self._parts.ledger, release)
            elif release.champion == self.state.model and release.route != self.state.route:
                recorded = state_of(self._parts.ledger, release)  # it may have decided just before this release
                self.state = recorded if recorded.epoch > self.state.epoch else self.state
            else:
                self._step(Released(self._wall.now_s(), release.champion, has_last_good))
        for detector in self._detectors.values():
            detector.reset()
        self._route()

    def saw(self, client: object, rows: Sequence[Row], answered: Answered) -> None:
        """Take in what became of a request."""
        live = self._live
        if live is None:
            return
        if live.route == 0 and live.seats[0].tier == "champion":
            if live.challenge is not None and not _was_asked(answered):
                return  # the challenger answered, which says nothing of the champion
            if self._ballot.admits(client, self._wall.now_s()):
                self._vote(answered)
            self._since_shadow += 1
            if self._since_shadow >= self._terms.shadow_every:
                self._since_shadow = 0
                self._shadow_last_good(live, rows[:1])
        elif self.state.mode == "half-open":
            self._probe(live, rows[:1])

    def tick(self) -> None:
        """Let time pass."""
        self._step(Tick(self._wall.now_s()))

    # ---- votes ---------------------------------------------------------------------------------------------------

    def _vote(self, answered: Answered) -> None:
        """One vote of a client: a failure only where last good had an answer to the very record."""
        faults = [fault for fault in answered.faults if fault.tier == "champion"]
        if not faults:
            for detector in self._detectors.values():
                detector.vote(failed=False)
            return
        counted = [fault for fault in faults if fault.rescued and not fault.bystander]
        if not counted:
            return  # both models fail, there is nobody to compare with, or it is counted for another request
        cause = counted[0].cause
        kind: Any = "environment" if cause in ENVIRONMENT else "model"
        alarms = [detector.vote(failed=name == kind) for name, detector in self._detectors.items()]
        if any(alarms):
            reading = self._detectors[kind].reading()
            self._step(Alarm(self._wall.now_s(), self.state.epoch, kind, cause, reading))
            for detector in self._detectors.values():
                detector.reset()

    # ---- shadow --------------------------------------------------------------------------------------------------

    def _shadow_last_good(self, live: Live, rows: Sequence[Row]) -> None:
        for seat in live.seats:
            if seat.tier == "last-good" and rows:
                self._spawn(self._shadow(seat, rows))

    async def _shadow(self, seat: Seat, rows: Sequence[Row]) -> None:
        self.last_good[await self._asked(seat, rows)] += 1

    def _probe(self, live: Live, rows: Sequence[Row]) -> None:
        if not rows:
            return
        self.state, leave = permit(self.state, self._wall.now_s(), self._terms.policy)
        if leave is not None:
            self._spawn(self._probed(live.seats[0], rows, leave))

    async def _probed(self, seat: Seat, rows: Sequence[Row], leave: Permit) -> None:
        well: bool | None = None
        try:
            well = await self._asked(seat, rows)
        finally:
            self._step(Probed(self._wall.now_s(), leave, well))

    @staticmethod
    async def _asked(seat: Seat, rows: Sequence[Row]) -> bool:
        """Ask one seat in the shadow; whether its answer could have left."""
        picked = seat.picked(rows)
        if seat.here is not None:
            given = seat.here.answers(picked)
        else:
            assert seat.elsewhere is not None
            asked: Awaitable[Any] = seat.elsewhere.ask(picked)
            given = await asked
        return all(seat.check(each) is None for each in given)

    def _spawn(self, asking: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(asking)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    # ---- what the machine orders ---------------------------------------------------------------------------------

    def _step(self, event: Event) -> None:
        before = self.state
        self.state, acts = advance(before, event, self._terms.policy)
        self._route()
        for message in told(acts):
            self._say(message)
        if acts:
            self._records.put((self.state, acts))

    def _route(self) -> None:
        """Let the route of the room be what the state says, where that seat is there."""
        off = (self.state.forced or self.state.mode) != "closed"
        self.trips += off and self._off is False
        self._off = off
        if self._live is None:
            return
        tiers = [seat.tier for seat in self._live.seats]
        wanted = self.state.route
        self._live.route = tiers.index(wanted) if wanted in tiers else 0

    # ---- the record ----------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Record each step, in order. What cannot be written is told, and the next step writes the newer state."""
        while True:
            found = self._records.get()
            if found is None:
                return
            state, acts = found
            for attempt in range(3):
                try:
                    record(self._parts.ledger, self._parts.clock, state, acts)
                    break
                except Conflict:
                    if attempt == 2 or current(self._parts.ledger) is None:
                        self._say("a step of the breaker was not recorded: another release was made at the same time")
                except InterlockError as error:
                    self._say(f"a step of the breaker was not recorded: {error.message}")
                    break
