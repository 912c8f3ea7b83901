"""The breaker: a pure state machine that takes a model off duty, and lets it back when it has shown itself well.

Events in, a new state and *acts* out; nothing here keeps time, waits, writes or calls anybody. Time is in seconds of a
clock that never runs backwards, and comes with each event.

::

              alarm (evidence), trip (a person)
    closed ───────────────────────────────────────▶ open ──────▶ pinned (too many trips in a day)
      ▲                                             │  ▲
      │ all probes passed                   retry_s │  │ a probe failed
      └──────────────────── half-open ◀─────────────┘  │
                                └──────────────────────┘

*Closed*: the champion answers. *Open*: last good answers; where the cause lies in the model (a wrong answer) it is
quarantined, until another version is released or a person resets; where it lies in the environment (time, memory) it
is probed after a while. *Half-open*: last good answers everybody, and the champion is asked in the shadow, with a few
permits at a time. *Pinned*: last good answers until a person resets.

Traps that others fell into, and what holds here. A permit that is never given back: it is a lease, and ends by itself.
A probe that is cancelled: it tells nothing. A herd upon half-open: nobody is answered by a probe. A late success after
a newer trip: every outcome carries the epoch that it was begun in, and counts in that alone. Flapping: each failed
probe doubles the wait, and the third trip of a day pins. Both models bad: what last good cannot answer either is no
evidence, and never reaches this machine. No last good: people are called, and nothing flips.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from interlock.records import Record
from interlock.release.evidence import Reading

Mode: TypeAlias = Literal["closed", "open", "half-open", "pinned"]
Kind: TypeAlias = Literal["model", "environment", "person"]
DAY_S: Final = 86_400.0


class BreakerPolicy(Record, frozen=True, kw_only=True):
    """The owner's rules.

    ``retry_s``: first wait before probing, doubled by each failed probe up to ``most_retry_s``. ``probes`` must pass in
    a row, ``probes_at_once`` run together, each with a lease of ``lease_s``. ``trips_a_day``: automatic ones; the next
    one pins. ``observe``: say what would have been done, and do nothing.
    """

    retry_s: float = 60.0
    most_retry_s: float = 3_600.0
    probes: int = 100
    probes_at_once: int = 4
    lease_s: float = 10.0
    trips_a_day: int = 2
    observe: bool = False


class Permit(Record, frozen=True, kw_only=True):
    """Leave to ask the champion once in the shadow, until ``ends_s``."""

    number: int
    epoch: int
    ends_s: float


class State(Record, frozen=True, kw_only=True):
    """Where the breaker stands. ``epoch`` grows with every change of mode, model or force, and never comes again.

    ``forced``: a person's word for the mode, whatever the evidence. ``trips``: when it tripped by itself, of late.
    ``said``: the people were called for the state that it is in.
    """

    model: str
    has_last_good: bool = True
    mode: Mode = "closed"
    epoch: int = 0
    kind: Kind | None = None
    cause: str = ""
    forced: Literal["closed", "open"] | None = None
    trips: tuple[float, ...] = ()
    wait_s: float = 0.0
    retry_at_s: float | None = None
    permits: tuple[Permit, ...] = ()
    given: int = 0
    passed: int = 0
    said: bool = False

    @property
    def route(self) -> Literal["champion", "last-good"]:
        """Who is asked first."""
        mode = self.forced or self.mode
        return "champion" if mode == "closed" or not self.has_last_good else "last-good"


# ---- events ------------------------------------------------------------------------------------------------------


class Alarm(NamedTuple):
    """The evidence of ``epoch`` is enough: the model fails more than is tolerated."""

    now_s: float
    epoch: int
    kind: Literal["model", "environment"]
    cause: str
    reading: Reading


class Tick(NamedTuple):
    """Time has passed."""

    now_s: float


class Probed(NamedTuple):
    """A probe came back: well, or not; None when it was cancelled."""

    now_s: float
    permit: Permit
    well: bool | None


class Released(NamedTuple):
    """A release is in force, made by whomever but this breaker."""

    now_s: float
    model: str
    has_last_good: bool


class Tripped(NamedTuple):
    """A person takes the champion off duty."""

    now_s: float
    because: str


class Reset(NamedTuple):
    """A person puts the champion back on duty; old trips are forgotten."""

    now_s: float
    because: str


class Forced(NamedTuple):
    """A person sets the mode, or lets the evidence decide again (None)."""

    now_s: float
    mode: Literal["closed", "open"] | None
    because: str


Event: TypeAlias = Alarm | Tick | Probed | Released | Tripped | Reset | Forced

# ---- acts --------------------------------------------------------------------------------------------------------


class Flip(NamedTuple):
    """Ask this tier first from now on; tell the other workers; then record it."""

    to: Literal["champion", "last-good"]
    epoch: int


class Write(NamedTuple):
    """Put this into the ledger: kind and facts of an event."""

    kind: str
    facts: dict[str, object]


class Call(NamedTuple):
    """Call people."""

    message: str


Act: TypeAlias = Flip | Write | Call


class Step(NamedTuple):
    """What an event led to."""

    state: State
    acts: tuple[Act, ...] = ()


# ---- the machine -------------------------------------------------------------------------------------------------


def advance(state: State, event: Event, policy: BreakerPolicy) -> Step:
    """Give the state after an event, and what is to be done."""
    before = _lapsed(state, event.now_s)
    match event:
        case Alarm():
            after, acts = _alarmed(before, event, policy)
        case Tick():
            after, acts = _ticked(before, event)
        case Probed():
            after, acts = _probed(before, event, policy)
        case Released():
            after, acts = _released(before, event)
        case Tripped():
            after, acts = _tripped(before, event)
        case Reset():
            after, acts = _reset(before, event)
        case Forced():
            after, acts = _forced(before, event)
    if after.route != before.route:
        acts = (Flip(after.route, after.epoch), *acts)
    return Step(after, tuple(acts))


def permit(state: State, now_s: float, policy: BreakerPolicy) -> tuple[State, Permit | None]:
    """Ask for leave to probe: a permit while it is half-open and fewer are out than may be."""
    state = _lapsed(state, now_s)
    wanted = policy.probes - state.passed - len(state.permits)
    if state.mode != "half-open" or len(state.permits) >= policy.probes_at_once or wanted <= 0:
        return state, None
    made = Permit(number=state.given + 1, epoch=state.epoch, ends_s=now_s + policy.lease_s)
    return _with(state, given=made.number, permits=(*state.permits, made)), made


def _with(state: State, **fields: object) -> State:
    return msgspec.structs.replace(state, **fields)


def _lapsed(state: State, now_s: float) -> State:
    """Take back permits whose lease has ended, and forget trips of more than a day ago."""
    permits = tuple(each for each in state.permits if each.ends_s > now_s)
    trips = tuple(at for at in state.trips if at > now_s - DAY_S)
    return state if permits == state.permits and trips == state.trips else _with(state, permits=permits, trips=trips)


def _entered(state: State, mode: Mode, **fields: object) -> State:
    """The state after a change of mode: a new epoch, and nothing of the old one's probes."""
    return _with(state, mode=mode, epoch=state.epoch + 1, permits=(), passed=0, said=False, **fields)


def _facts(state: State, **more: object) -> dict[str, object]:
    return {"model": state.model, "mode": state.mode, "epoch": state.epoch, "route": state.route, **more}


def _alarmed(state: State, event: Alarm, policy: BreakerPolicy) -> Step:
    if event.epoch != state.epoch or state.mode != "closed":
        return Step(state)
    facts = {"kind": event.kind, "cause": event.cause, "reading": msgspec.to_builtins(event.reading)}
    if policy.observe or state.forced == "closed" or not state.has_last_good:
        if state.said:
            return Step(state)
        why = (
            "the breaker only observes"
            if policy.observe
            else "it is forced to stay"
            if state.forced == "closed"
            else "there is no last good model"
        )
        told = _with(state, said=True)
        message = f"The champion fails ({event.cause}) and stays on duty: {why}."
        return Step(told, (Write("breaker.would_trip", _facts(told, why=why, **facts)), Call(message)))
    pins = len(state.trips) >= policy.trips_a_day
    fields: dict[str, object] = {"kind": event.kind, "cause": event.cause, "trips": (*state.trips, event.now_s)}
    if pins:
        after = _entered(state, "pinned", retry_at_s=None, **fields)
    elif event.kind == "environment":
        wait_s = min(max(state.wait_s, policy.retry_s), policy.most_retry_s)
        after = _entered(state, "open", wait_s=wait_s, retry_at_s=event.now_s + wait_s, **fields)
    else:
        after = _entered(state, "open", retry_at_s=None, **fields)
    message = f"The champion was taken off duty ({event.cause}); last good answers."
    if pins:
        message = (
            f"The champion was taken off duty for the {len(after.trips)}. time in a day ({event.cause}); "
            "last good is pinned until a person resets the breaker."
        )
    return Step(after, (Write("breaker.tripped", _facts(after, **facts)), Call(message)))


def _ticked(state: State, event: Tick) -> Step:
    if state.mode == "open" and state.retry_at_s is not None and event.now_s >= state.retry_at_s:
        after = _entered(state, "half-open", retry_at_s=None)
        return Step(after, (Write("breaker.probing", _facts(after)),))
    return Step(state)


def _probed(state: State, event: Probed, policy: BreakerPolicy) -> Step:
    if event.permit not in state.permits or event.permit.epoch != state.epoch or state.mode != "half-open":
        return Step(state)
    state = _with(state, permits=tuple(each for each in state.permits if each != event.permit))
    if event.well is None:
        return Step(state)
    if not event.well:
        wait_s = min(2.0 * max(state.wait_s, policy.retry_s), policy.most_retry_s)
        after = _entered(state, "open", wait_s=wait_s, retry_at_s=event.now_s + wait_s)
        return Step(after, (Write("breaker.probe_failed", _facts(after, wait_s=wait_s)),))
    state = _with(state, passed=state.passed + 1)
    if state.passed < policy.probes:
        return Step(state)
    after = _entered(state, "closed", kind=None, cause="", wait_s=state.wait_s)
    return Step(after, (Write("breaker.healed", _facts(after, probes=state.passed)),))


def _released(state: State, event: Released) -> Step:
    if event.model == state.model:
        return Step(_with(state, has_last_good=event.has_last_good))
    if state.mode == "pinned":
        return Step(_entered(_with(state, model=event.model, has_last_good=event.has_last_good), "pinned"))
    fresh = _with(state, model=event.model, has_last_good=event.has_last_good, kind=None, cause="", wait_s=0.0)
    return Step(_entered(fresh, "closed", retry_at_s=None))


def _tripped(state: State, event: Tripped) -> Step:
    if state.mode == "pinned":
        return Step(state)
    after = _entered(state, "open", kind="person", cause=event.because, retry_at_s=None)
    return Step(after, (Write("breaker.tripped", _facts(after, kind="person", because=event.because)),))


def _reset(state: State, event: Reset) -> Step:
    fresh = _with(state, kind=None, cause="", trips=(), wait_s=0.0, forced=None)
    after = _entered(fresh, "closed", retry_at_s=None)
    return Step(after, (Write("breaker.reset", _facts(after, because=event.because)),))


def _forced(state: State, event: Forced) -> Step:
    after = _with(state, forced=event.mode, epoch=state.epoch + 1, permits=(), passed=0, said=False)
    return Step(after, (Write("breaker.forced", _facts(after, forced=event.mode, because=event.because)),))


def told(acts: Sequence[Act]) -> list[str]:
    """What people are told."""
    return [act.message for act in acts if isinstance(act, Call)]
