"""A challenger on trial beside the champion: what was seen of it, and what follows. Values in, values out.

A *trial* names the challenger and the terms that it was begun under. Each server keeps a *tally* of what it saw, and
the record holds them all. Levels of evidence are those of :class:`~interlock.release.evidence.Detector`, a failure
being a record that the challenger could not answer and another model that learnt could. The sum of the detectors of
several servers is an e-detector again, in all their votes together (each level is at most the number of its votes in
the mean, so the sum is at most the number of all), so levels are added and held against the one alarm level, however
many servers there are. So with the evidence that it is slower than the champion, which comes from *duels*.

::

    off ──(a release with a challenger)──▶ running ◀──────────────┐
                                           │  │  │ all done, but it failed too often: waiting, a person is called
              the alarm level was reached  │  │  └──────────────▶─┘
                     dropping ◀────────────┘  └──▶ promoting   (rows and time reached, failures tolerated)

*Dropping* is done in memory first: nobody is asked any more, whatever becomes of the record, until a release with
another trial is shown. *Promoting* is done by the record alone. A record that cannot be made is made the next time.
"""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from interlock.records import Record, short
from interlock.release.latency import in_words, median_s

Kind: TypeAlias = Literal["model", "environment", "latency"]
Mode: TypeAlias = Literal["off", "running", "waiting", "dropping", "promoting"]
Verdict: TypeAlias = Literal["go-on", "wait", "promote", "drop"]
Outcome: TypeAlias = Literal["promoted", "dropped", "replaced"]
KINDS: tuple[Kind, ...] = ("model", "environment", "latency")
PATIENCE: Final = 2.0
"""A trial may take so many times its duration before a newer candidate replaces it."""


class Trial(Record, frozen=True, kw_only=True):
    """A challenger beside a champion. ``began`` is the generation of the release that began it, and names it.

    ``receipt`` is the entry of the gate's decision on the challenger, ``alarm`` the level of evidence that drops it,
    ``tolerated`` the share of records that it may fail where another model does not, ``slower`` so many times as long
    as the champion it may take; 0: its time is not judged.
    """

    began: int
    challenger: str
    champion: str
    baseline: str
    receipt: int
    share: float
    shadow: bool
    key: str
    rows: int
    duration_s: float
    tolerated: float
    alarm: float
    since: str
    slower: float = 0.0

    @property
    def way(self) -> str:
        """How it is tried, in words."""
        return f"{'in shadow' if self.shadow else 'in canary'} at {self.share * 100:g} %"


class Tally(Record, frozen=True, kw_only=True):
    """What one server saw of a trial; nothing in it ever falls but ``levels``.

    ``asked`` records the challenger was asked for, ``answered`` acceptably, ``failed`` where another model that learnt
    had an answer, by ``causes``. ``votes`` were counted as evidence. ``compared`` answers, in the shadow and in duels,
    were held against the champion's and ``agreed`` were the same; ``skipped`` were not asked, for it was busy. In
    ``duels`` both models were asked for the same records, and it was ``slower`` than it may be; ``times`` are those of
    challenger and champion, in cells of :mod:`interlock.release.latency`.
    """

    worker: str
    asked: int = 0
    answered: int = 0
    failed: int = 0
    votes: int = 0
    levels: dict[str, float] = msgspec.field(default_factory=dict)
    causes: dict[str, int] = msgspec.field(default_factory=dict)
    compared: int = 0
    agreed: int = 0
    skipped: int = 0
    duels: int = 0
    slower: int = 0
    times: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)


class Judgement(NamedTuple):
    """What follows from all that was seen, and why."""

    verdict: Verdict
    because: str


class Ended(Record, frozen=True, kw_only=True):
    """The receipt of a trial's end, with all that it takes to judge it again.

    ``by`` says who ended it: the evidence of ``tallies`` after ``elapsed_s`` seconds, or a person, or another release.
    """

    outcome: Outcome
    by: Literal["evidence", "person", "release"]
    because: str
    trial: Trial
    tallies: tuple[Tally, ...]
    elapsed_s: float


def summed(tallies: Iterable[Tally]) -> Tally:
    """All that was seen, as one tally."""
    found = list(tallies)
    causes: Counter[str] = Counter()
    for each in found:
        causes.update(each.causes)
    return Tally(
        worker="all",
        asked=sum(each.asked for each in found),
        answered=sum(each.answered for each in found),
        failed=sum(each.failed for each in found),
        votes=sum(each.votes for each in found),
        levels={kind: min(math.fsum(each.levels.get(kind, 0.0) for each in found), 1e300) for kind in KINDS},
        causes=dict(sorted(causes.items())),
        compared=sum(each.compared for each in found),
        agreed=sum(each.agreed for each in found),
        skipped=sum(each.skipped for each in found),
        duels=sum(each.duels for each in found),
        slower=sum(each.slower for each in found),
        times={who: _added(each.times.get(who, {}) for each in found) for who in ("challenger", "champion")},
    )


def _added(times: Iterable[dict[str, int]]) -> dict[str, int]:
    cells: Counter[str] = Counter()
    for each in times:
        cells.update(each)
    return dict(sorted(cells.items()))


def judged(trial: Trial, tallies: Iterable[Tally], elapsed_s: float) -> Judgement:
    """What follows ``elapsed_s`` seconds after the trial began."""
    seen = summed(tallies)
    failed = f"it failed {seen.failed:,} of {seen.asked:,} records that another model answered{_told(seen.causes)}"
    alarms = {kind for kind in KINDS if seen.levels[kind] >= trial.alarm}
    why = [
        told for told, kinds in ((failed, {"model", "environment"}), (took(trial, seen), {"latency"})) if kinds & alarms
    ]
    if alarms:
        return Judgement("drop", f"{short(trial.challenger)} was dropped: {'; '.join(why)}.")
    done = f"{short(trial.challenger)} answered {seen.answered:,} records {trial.way}"
    if seen.answered < trial.rows or elapsed_s < trial.duration_s:
        return Judgement("go-on", f"{done} so far.")
    if seen.failed > trial.tolerated * seen.asked:
        return Judgement("wait", f"{done}, but {failed}; {trial.tolerated:.2%} are tolerated.")
    if 2 * seen.slower > seen.duels:
        return Judgement("wait", f"{done}, but {took(trial, seen)}.")
    return Judgement("promote", f"{done}; {failed}{f'; {took(trial, seen)}' if seen.duels else ''}.")


def took(trial: Trial, seen: Tally) -> str:
    """How long a challenger takes beside the champion, in words."""
    its, the_champions = (in_words(median_s(seen.times.get(who, {}))) for who in ("challenger", "champion"))
    beyond = f"in {seen.slower:,} of {seen.duels:,} duels it took more than {trial.slower:g} times as long"
    return f"for the same records it took {its} in the median, the champion {the_champions}, and {beyond}"


def keeps_its_place(trial: Trial, tallies: Iterable[Tally], elapsed_s: float) -> bool:
    """Whether newer candidates wait for the end of a trial.

    Else a loop that trains more often than a trial takes would never end one. One that waits for a person, or has not
    come to an end in :data:`PATIENCE` times its duration for want of traffic, makes room.
    """
    return elapsed_s < PATIENCE * trial.duration_s and judged(trial, tallies, elapsed_s).verdict != "wait"


def contradictions(ended: Ended) -> tuple[str, ...]:
    """What does not agree when the end is judged again by its receipt; a person's word is not judged."""
    if ended.by != "evidence":
        return ()
    verdict, because = judged(ended.trial, ended.tallies, ended.elapsed_s)
    wanted = "promote" if ended.outcome == "promoted" else "drop"
    found = [] if verdict == wanted else [f"verdict: recorded {wanted}, now {verdict}"]
    return (*found, *([] if because == ended.because else [f"because: recorded {ended.because}, now {because}"]))


def _told(causes: dict[str, int]) -> str:
    return f" ({', '.join(f'{cause} {count:,}' for cause, count in sorted(causes.items()))})" if causes else ""


# ---- the machine -------------------------------------------------------------------------------------------------


class End(NamedTuple):
    """Record the end of the trial, by what was seen after so many seconds."""

    verdict: Literal["promote", "drop"]
    because: str
    tallies: tuple[Tally, ...]
    elapsed_s: float


class State(Record, frozen=True, kw_only=True):
    """Where a server stands with the trial that was shown last. ``is_ordered``: its ``end`` is being recorded."""

    trial: Trial | None = None
    mode: Mode = "off"
    end: End | None = None
    is_ordered: bool = False

    @property
    def asks(self) -> bool:
        """Whether the challenger is asked at all."""
        return self.mode in ("running", "waiting", "promoting")


class Shown(NamedTuple):
    """A release came into force, with a trial or without."""

    trial: Trial | None


class Seen(NamedTuple):
    """What the record tells of all servers, ``elapsed_s`` after the trial began."""

    tallies: tuple[Tally, ...]
    elapsed_s: float


class Refused(NamedTuple):
    """The end could not be recorded."""


class Call(NamedTuple):
    """Call people."""

    message: str


class Step(NamedTuple):
    """What an event led to."""

    state: State
    act: End | Call | None = None


def advance(state: State, event: Shown | Seen | Refused) -> Step:
    """Give the state after an event, and what is to be done."""
    match event:
        case Shown(trial):
            return Step(_shown(state, trial))
        case Refused():
            return Step(_refused(state))
        case Seen():
            return _seen(state, event)


def _shown(state: State, trial: Trial | None) -> State:
    if trial is None:
        return State()
    if state.trial is not None and state.trial.began == trial.began:
        return state  # another release of the same trial: what was dropped stays so
    return State(trial=trial, mode="running")


def _refused(state: State) -> State:
    if state.mode == "promoting":
        return State(trial=state.trial, mode="running")  # judged anew by what is seen then
    return msgspec.structs.replace(state, is_ordered=False)


def _seen(state: State, event: Seen) -> Step:
    if state.trial is None or state.is_ordered:
        return Step(state)
    if state.mode == "dropping":
        return Step(msgspec.structs.replace(state, is_ordered=True), state.end)
    verdict, because = judged(state.trial, event.tallies, event.elapsed_s)
    if verdict in ("drop", "promote"):
        end = End(verdict, because, event.tallies, event.elapsed_s)
        mode: Mode = "dropping" if verdict == "drop" else "promoting"
        return Step(State(trial=state.trial, mode=mode, end=end, is_ordered=True), end)
    if verdict == "go-on":
        return Step(State(trial=state.trial, mode="running"))
    call = Call(f"{because} A person must promote {short(state.trial.challenger)}, or roll it back.")
    return Step(State(trial=state.trial, mode="waiting"), None if state.mode == "waiting" else call)
