"""The challenger in one server: what it answered, who votes, and how its trial ends.

What the door saw is counted in the thread of the event loop. A thread of its own writes the tally down every second,
reads those of the other servers, and lets :mod:`interlock.release.canary` say what follows. A challenger that this
server has seen enough of is not asked any more at once; the record follows.

In the shadow the challenger is asked after the reply was made, by a task of its own, a few records at a time; what
comes faster than it can answer is skipped, and counted. Its time is judged in duels with the champion, once a second,
after the reply too.
"""

import asyncio
import queue
import secrets
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from interlock.answer.guard import Cause
from interlock.answer.predict import Answered, Challenge, Live, Seat, taken
from interlock.errors import InterlockError
from interlock.model.rows import Answer, Row
from interlock.ports import Parts
from interlock.records import Tier, moment, short
from interlock.release.canary import Call, End, Refused, Seen, Shown, State, Step, Tally, Trial, advance
from interlock.release.challenge import conclude, note_tally
from interlock.release.evidence import Ballot, Detector
from interlock.release.latency import EVEN, RATES, cell_of, is_slower
from interlock.release.standing import tallies_of
from interlock.serve.door import Served
from interlock.serve.duel import Duel, Duels
from interlock.serve.duty import ENVIRONMENT, Wall

MOST_WAITING: Final = 64
"""Requests that wait for their shadow; more are skipped."""
MOST_ROWS: Final = 64
"""Records of one request that are asked for in the shadow."""
_SAME: Final = 0.01
"""Numbers that differ by less than this share of the larger one agree."""


class _Shadow(NamedTuple):
    """Records to be asked for unseen, and how they were answered, by whom. ``champion``: None when it is off duty."""

    challenge: Challenge
    champion: Seat | None
    client: object
    rows: Sequence[Row]
    answers: Sequence[Answer | None]
    tiers: list[Tier]

    def places(self) -> list[int]:
        """Places of the records that the challenger has drawn."""
        return list(self.challenge.lots.drawn(self.rows, self.client))


def _shadow_of(served: Served, challenge: Challenge, answered: Answered) -> _Shadow:
    """What is to be asked for unseen of a request, which the release that the trial belongs to has answered."""
    assert served.live is not None
    first = served.live.first
    champion = first if first.tier == "champion" else None
    return _Shadow(challenge, champion, served.client, served.rows, answered.answers, answered.tiers)


class Count:
    """What this server saw of one trial."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.asked = self.answered = self.failed = self.votes = self.compared = self.agreed = self.skipped = 0
        self.duels = self.slower = 0
        self.times: dict[str, Counter[str]] = {"challenger": Counter(), "champion": Counter()}
        self._causes: Counter[str] = Counter()
        self._detectors = {kind: Detector(trial.tolerated, trial.alarm) for kind in ("model", "environment")}
        self._latency = Detector(EVEN, trial.alarm, RATES)

    def take(self, faults: Sequence[tuple[Cause, bool | None]], answered: int) -> None:
        """Take in answers that could leave, and faults with whether another model had an answer."""
        rescued = [cause for cause, other in faults if other]
        self.asked += answered + len(faults)
        self.answered += answered
        self.failed += len(rescued)
        self._causes.update(rescued)

    def vote(self, faults: Sequence[tuple[Cause, bool | None]]) -> bool:
        """Let a client vote; whether the evidence is enough now. What nobody could answer is no evidence."""
        rescued = [cause for cause, other in faults if other]
        if faults and not rescued:
            return False
        self.votes += 1
        kind = None if not rescued else "environment" if rescued[0] in ENVIRONMENT else "model"
        alarms = [detector.vote(failed=name == kind) for name, detector in self._detectors.items()]
        return any(alarms)

    def take_duel(self, duel: Duel) -> bool:
        """Take in how long both took; whether the evidence is enough now."""
        is_slow = is_slower(duel.challenger_s, duel.champion_s, self.trial.slower)
        self.duels += 1
        self.slower += is_slow
        self.times["challenger"][cell_of(duel.challenger_s)] += 1
        self.times["champion"][cell_of(duel.champion_s)] += 1
        return self._latency.vote(failed=is_slow)

    def compare(self, pairs: Iterable[tuple[Answer, Answer]]) -> None:
        """Take in answers of both models to the same records."""
        for one, other in pairs:
            self.compared += 1
            self.agreed += _agree(one[0], other[0])

    def levels(self) -> dict[str, float]:
        """The evidence against it by its kind."""
        return {**{kind: each.level for kind, each in self._detectors.items()}, "latency": self._latency.level}

    def level(self) -> float:
        """The evidence against it as a share of what drops it."""
        return max(self.levels().values()) / self.trial.alarm

    def tally(self, worker: str) -> Tally:
        """All of it as a record."""
        return Tally(
            worker=worker,
            asked=self.asked,
            answered=self.answered,
            failed=self.failed,
            votes=self.votes,
            levels=self.levels(),
            causes=dict(sorted(self._causes.items())),
            compared=self.compared,
            agreed=self.agreed,
            skipped=self.skipped,
            duels=self.duels,
            slower=self.slower,
            times={who: dict(sorted(cells.items())) for who, cells in self.times.items()},
        )


class Canary:
    """Watches the challenger of one release after another."""

    def __init__(self, parts: Parts, say: Callable[[str], None]) -> None:
        self._clerk = _Clerk(parts, say, self._silence)
        self._wall = Wall(parts.clock)
        self._worker = secrets.token_hex(6)
        self._ballot = Ballot(parts.settings.breaker.rated_load)
        self._clock = parts.clock.monotonic
        self._duels: Duels | None = None
        self._challenge: Challenge | None = None
        self._dropped: int | None = None
        self.count: Count | None = None
        """What was seen of the trial that runs."""
        self._waiting: deque[_Shadow] = deque()
        self._asking: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Write down what was seen last."""
        self.tick()
        self._clerk.close()

    def enter(self, live: Live) -> None:
        """A release is in the room."""
        self._challenge = challenge = live.challenge
        if challenge is None:
            self.count = None
        elif self.count is None or self.count.trial.began != challenge.trial.began:
            self.count = Count(challenge.trial)
            self._duels = Duels(self._clock, bytes.fromhex(challenge.trial.challenger))
        elif self._dropped == challenge.trial.began:
            challenge.is_on = False
        self._clerk.show(None if challenge is None else challenge.trial)

    def saw(self, served: Served) -> None:
        """Take in what became of a request."""
        challenge, answered, count = self._challenge, served.answered, self.count
        if challenge is None or answered is None or count is None or not challenge.is_on:
            return
        then = None if served.live is None else served.live.challenge
        if then is None or then.trial.began != count.trial.began:
            return  # it began before the trial did
        if challenge.trial.shadow:
            self._follow(_shadow_of(served, challenge, answered))
            return
        well = answered.tiers.count("challenger")
        faults = [
            (fault.cause, fault.rescued and not fault.bystander)  # a bystander's failure is counted where it happened
            for fault in answered.faults
            if fault.tier == "challenger"
        ]
        if (well or faults) and self._counted(count, challenge, served.client, faults, well):
            shadow = _shadow_of(served, challenge, answered)
            if self._duels_now(shadow):
                self._follow(shadow)

    def tick(self) -> None:
        """Let what was seen be written down, and judged."""
        if self.count is not None:
            self._clerk.note(self.count.trial, self.count.tally(self._worker), self._wall.now_s())

    def _counted(
        self,
        count: Count,
        challenge: Challenge,
        client: object,
        faults: Sequence[tuple[Cause, bool | None]],
        well: int,
    ) -> bool:
        """Take in what became of records; whether they were the vote of a client."""
        count.take(faults, well)
        if not self._ballot.admits(voter(client), self._wall.now_s()):
            return False
        if count.vote(faults):
            self._silence(challenge.trial)
            self.tick()
        return True

    def _duels_now(self, shadow: _Shadow) -> bool:
        """Whether there is to be a duel about these records. Nothing of them but their time may decide it."""
        return (
            shadow.challenge.trial.slower > 0.0
            and shadow.champion is not None
            and self._duels is not None
            and self._duels.is_due()
        )

    def _silence(self, trial: Trial) -> None:
        """Ask the challenger of a trial no more. Called in the thread of the clerk, too: it only sets what is read."""
        self._dropped = trial.began
        challenge = self._challenge
        if challenge is not None and challenge.trial.began == trial.began:
            challenge.is_on = False

    # ---- shadow --------------------------------------------------------------------------------------------------

    def _follow(self, shadow: _Shadow) -> None:
        """Ask for the records of a request later, when the reply is out."""
        if len(self._waiting) >= MOST_WAITING:
            assert self.count is not None
            self.count.skipped += len(shadow.rows)
            return
        self._waiting.append(shadow)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # requests that have come meanwhile are answered first
            shadow = self._waiting.popleft()
            count, trial = self.count, shadow.challenge.trial
            if count is not None and count.trial.began == trial.began and shadow.challenge.is_on:
                await (self._shadowed(shadow, count) if trial.shadow else self._duel(shadow, count))

    async def _shadowed(self, shadow: _Shadow, count: Count) -> None:
        places = shadow.places()
        count.skipped += len(places[MOST_ROWS:])
        places = places[:MOST_ROWS]
        if not places:
            return
        seat = shadow.challenge.seat
        asked = seat.picked(taken(shadow.rows, places))
        given = seat.asked_here(asked) if seat.here is not None else await seat.asked_elsewhere(asked)
        faults: list[tuple[Cause, bool | None]] = []
        answers = shadow.answers[: places[-1] + 1]
        for place, each, cause in zip(places, given, seat.judged(asked, given), strict=True):
            learnt = shadow.tiers[place] in ("champion", "last-good")
            if cause is not None:
                faults.append((cause, learnt))
            elif shadow.tiers[place] == "champion":
                count.compare([(each, answers[place])])  # type: ignore[list-item]
        voted = self._counted(count, shadow.challenge, shadow.client, faults, len(places) - len(faults))
        if voted and self._duels_now(shadow):
            await self._duel(shadow, count)

    async def _duel(self, shadow: _Shadow, count: Count) -> None:
        """See which of the two takes longer."""
        challenge, champion = shadow.challenge, shadow.champion
        assert champion is not None
        assert self._duels is not None
        rows = taken(shadow.rows, shadow.places()[:MOST_ROWS])
        duel = await self._duels.fight(challenge.seat, champion, rows)
        if duel is None:
            return
        if not challenge.trial.shadow:
            count.compare(duel.answers)
        if count.take_duel(duel):
            self._silence(challenge.trial)
            self.tick()


def voter(client: object) -> object:
    """Who votes: the key and the address, whatever else a request says of itself."""
    return client[:2] if isinstance(client, tuple) else client


def _agree(one: Any, other: Any) -> bool:
    """Whether two predictions say the same; numbers by and large."""
    if isinstance(one, float) and isinstance(other, float | int):
        return abs(one - other) <= _SAME * max(abs(one), abs(other))
    return bool(one == other)


# ---- the record --------------------------------------------------------------------------------------------------


class _Noted(NamedTuple):
    trial: Trial
    tally: Tally
    now_s: float


class _Clerk:
    """Writes tallies down and ends trials, in a thread of its own."""

    def __init__(self, parts: Parts, say: Callable[[str], None], silence: Callable[[Trial], None]) -> None:
        self._parts = parts
        self._say = say
        self._silence = silence
        self._state = State()
        self._written: tuple[int, Tally] | None = None
        self._problem = ""
        self._inbox: queue.SimpleQueue[Shown | _Noted | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="interlock-canary", daemon=True)
        self._thread.start()

    def show(self, trial: Trial | None) -> None:
        """A release came into the room."""
        self._inbox.put(Shown(trial))

    def note(self, trial: Trial, tally: Tally, now_s: float) -> None:
        """Write down what was seen, and see what follows."""
        self._inbox.put(_Noted(trial, tally, now_s))

    def close(self) -> None:
        """Do what is left to do."""
        self._inbox.put(None)
        self._thread.join(timeout=30.0)

    def _work(self) -> None:
        while True:
            message = self._inbox.get()
            if message is None:
                return
            if isinstance(message, Shown):
                self._step(message)
            elif self._state.trial is not None and self._state.trial.began == message.trial.began:
                self._noted(message)

    def _noted(self, noted: _Noted) -> None:
        ledger, trial = self._parts.ledger, noted.trial
        try:
            if self._written != (trial.began, noted.tally):
                note_tally(ledger, trial, noted.tally)
                self._written = (trial.began, noted.tally)
            tallies = tallies_of(ledger, trial)
        except InterlockError as error:
            self._told(f"what is seen of the challenger is not recorded: {error.message}")
            return
        self._problem = ""
        self._step(Seen(tallies, noted.now_s - moment(trial.since).timestamp()))

    def _step(self, event: Shown | Seen | Refused) -> None:
        step: Step = advance(self._state, event)
        self._state = step.state
        if self._state.mode == "dropping" and self._state.trial is not None:
            self._silence(self._state.trial)
        if isinstance(step.act, Call):
            self._say(step.act.message)
        elif isinstance(step.act, End) and self._state.trial is not None:
            self._end(self._state.trial, step.act)

    def _end(self, trial: Trial, end: End) -> None:
        try:
            made = conclude(self._parts.ledger, self._parts.clock, trial, end)
        except InterlockError as error:
            self._told(f"the end of the trial of {short(trial.challenger)} is not recorded: {error.message}")
            self._step(Refused())
            return
        if made is not None:
            done = "is the champion now" if end.verdict == "promote" else "is not tried any more"
            self._say(f"release {made.generation}: {short(trial.challenger)} {done}. {end.because}")

    def _told(self, problem: str) -> None:
        """Say what does not work, once."""
        if problem != self._problem:
            self._say(problem)
        self._problem = problem
