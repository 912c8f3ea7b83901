"""The fast half of the breaker, in one server: votes from what the door saw, the machine, and what it orders.

Everything here runs in the thread of the event loop, but for the record, which is written in a thread of its own: the
route flips in memory first, and the ledger is told after. What it cannot be told waits, on the disk of this host too,
so that no champion comes back on duty by a lost database. Time is wall time at the start, carried on by a clock that
never runs backwards, so that a recorded state means the same to the next process.
"""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

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
    Write,
    advance,
    permit,
    told,
)
from interlock.release.duty import record, state_of
from interlock.release.evidence import Ballot, Detector, threshold
from interlock.serve.last_known import KeptDuty, LastKnown, Unrecorded
from interlock.settings import Settings
from interlock.units import per_year, seconds

ENVIRONMENT: Final[frozenset[Cause]] = frozenset({"deadline", "died", "memory"})
"""Causes that may pass: time and memory. The others lie in the model."""
MOST_WAITING: Final = 100
"""Entries that wait for the ledger; beyond it the oldest are lost, and where the breaker stands is not."""


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
        last_known: LastKnown | None = None,
        *,
        retry_s: float = 1.0,
    ) -> None:
        self._parts = parts
        self._last_known = last_known
        self._retry_s = retry_s
        self._is_guess = False
        self._problem = ""
        self._heard: tuple[int, int] | None = None
        self._terms = terms
        self._say = say
        self._running: set[asyncio.Task[None]] = set()
        self._wall = Wall(parts.clock)
        self._monotonic = parts.clock.monotonic
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
        self._records: queue.SimpleQueue[tuple[State, tuple[Act, ...] | None] | None] = queue.SimpleQueue()
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
        if before is None or self._is_guess:
            self._begin(release)
        else:
            has_last_good = any(seat.tier == "last-good" for seat in live.seats)
            if release.cause == "breaker" and release.champion == self.state.model:
                if release.route != self.state.route:  # another process decided
                    self._begin(release)
            elif release.champion == self.state.model and release.route != self.state.route:
                recorded = self._recorded(release)  # it may have decided just before this release
                if recorded is not None and recorded.epoch > self.state.epoch:
                    self.state = recorded
            else:
                self._step(Released(self._wall.now_s(), release.champion, has_last_good))
        if not self._is_guess:
            self._records.put((self.state, ()))
        self._forget_votes()
        self._route()

    def back(self, release: Release) -> None:
        """The state can be read again, and the release is still in force: what was guessed of it is known now."""
        if self._is_guess:
            self._begin(release)
            self._route()

    def hear(self) -> None:
        """Follow another process of this host, where it decided while the ledger could not be told."""
        if self._last_known is None or (mark := self._last_known.duty_mark()) == self._heard:
            return
        self._heard = mark
        try:
            kept = self._last_known.duty()
        except InterlockError:
            return  # whoever starts with it says so
        if kept is None or not kept.unrecorded or self._live is None or self._is_guess:
            return
        if kept.state.model == self.state.model and kept.state.epoch > self.state.epoch:
            self.state = msgspec.structs.replace(kept.state, permits=())
            self._records.put((self.state, None))
            self._forget_votes()
            self._route()

    def _begin(self, release: Release) -> None:
        """Stand where the record says; where it cannot be read, where this host remembers; else off duty."""
        kept, recorded = self._remembered(release), self._recorded(release)
        self._is_guess = recorded is None and kept is None
        if recorded is None:
            has_last_good = release.last_good is not None
            unknown = State(model=release.champion, mode="open", kind="person", cause="its duty is not known")
            found = unknown if kept is None else kept.state
            self.state = msgspec.structs.replace(found, has_last_good=has_last_good, permits=())
            if kept is None:
                self._say("whether the champion is on duty is not known: last good answers until the state is back")
        elif kept is not None and _overrides(kept, recorded):
            self.state = msgspec.structs.replace(kept.state, permits=())
            self._say(f"the champion stays off duty ({kept.state.cause}): so it was when the state was away")
        else:
            self.state = recorded
            return
        if kept is not None and kept.unrecorded:
            self._records.put((self.state, tuple(Write(each.kind, each.facts) for each in kept.unrecorded)))

    def _recorded(self, release: Release) -> State | None:
        """Where the ledger says that it stands; None where that cannot be read."""
        try:
            return state_of(self._parts.ledger, release)
        except InterlockError:
            return None

    def _remembered(self, release: Release) -> KeptDuty | None:
        try:
            kept = None if self._last_known is None else self._last_known.duty()
        except InterlockError as error:
            self._say(error.message)
            return None
        return kept if kept is not None and kept.state.model == release.champion else None

    def saw(self, client: object, rows: Sequence[Row], answered: Answered) -> None:
        """Take in what became of a request."""
        live = self._live
        if live is None:
            return
        if live.first.tier == "champion":
            if live.challenge is not None and not _was_asked(answered):
                return  # the challenger answered, which says nothing of the champion
            if self._ballot.admits(client, self._monotonic()):
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
            self._forget_votes()

    def _forget_votes(self) -> None:
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
        self._live.turn(tiers.index(wanted) if wanted in tiers else 0)

    # ---- the record ----------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Record each step, in order: on this disk, then in the ledger. What cannot be recorded there is tried again.

        A step that follows one that waits carries its entries with it, and the newer state; so does a state that was
        heard of (None), which is kept already, by whoever has to record it.
        """
        state, is_over = self.state, False
        waiting: tuple[Act, ...] = ()
        while not is_over:
            try:
                found = self._records.get(timeout=self._retry_s if waiting else None)
            except queue.Empty:
                pass
            else:
                is_over = found is None
                if found is not None:
                    state, waiting = found[0], (*waiting, *(found[1] or ()))[-MOST_WAITING:]
                    if waiting or found[1] is not None:
                        self._keep(state, waiting)
            if waiting and self._is_recorded(state, waiting):
                waiting = ()
                self._keep(state, waiting)

    def _is_recorded(self, state: State, acts: tuple[Act, ...]) -> bool:
        """Whether there is nothing more to record: it is done, or another release has overtaken it."""
        for attempt in range(3):
            try:
                record(self._parts.ledger, self._parts.clock, state, acts)
                break
            except Conflict:
                if attempt == 2:
                    self._say("a step of the breaker was not recorded: another release was made at the same time")
            except InterlockError as error:
                self._told(f"a step of the breaker is not recorded yet: {error.message}")
                return False
        self._told("")
        return True

    def _keep(self, state: State, waiting: tuple[Act, ...]) -> None:
        if self._last_known is None:
            return
        try:
            writes = (Unrecorded(kind=act.kind, facts=act.facts) for act in waiting if isinstance(act, Write))
            self._last_known.keep_duty(state, tuple(writes))
        except InterlockError as error:
            self._say(f"where the breaker stands is not kept on this disk: {error.message}")

    def _told(self, problem: str) -> None:
        if problem and problem != self._problem:
            self._say(problem)
        self._problem = problem


def _overrides(kept: KeptDuty, recorded: State) -> bool:
    """Whether the breaker took the champion off duty after what is recorded, and could not say so."""
    return bool(kept.unrecorded) and kept.state.route == "last-good" and kept.state.epoch > recorded.epoch
