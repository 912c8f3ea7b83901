"""What the breaker decided, in the ledger: the state of the machine, and a release for each flip of the route.

The record follows the flip and never leads it: a server has changed its route in memory before it writes. Whoever
starts reads what is recorded here; where that is unknown, last good answers.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from interlock.errors import NothingToServe
from interlock.ports import Clock, Ledger, Turn
from interlock.records import Release, facts_of, short, timestamp
from interlock.release.breaker import Act, BreakerPolicy, Event, Forced, State, Tripped, Write, advance
from interlock.release.standing import current, generation_key

COLLECTION: Final = "breaker"
_KEY: Final = "state"


def state_of(ledger: Ledger, release: Release) -> State:
    """The state of the breaker for the release in force: as recorded, or a fresh one for a model that is new to it."""
    recorded = ledger.read(COLLECTION, _KEY, State)
    has_last_good = release.last_good is not None
    if recorded is None:
        fresh = State(model=release.champion, has_last_good=has_last_good)
        return fresh if release.route == "champion" else msgspec.structs.replace(fresh, mode="open", kind="person")
    if recorded.model != release.champion and recorded.mode != "pinned":
        return msgspec.structs.replace(
            State(model=release.champion, has_last_good=has_last_good), epoch=recorded.epoch + 1, trips=recorded.trips
        )
    return msgspec.structs.replace(recorded, model=release.champion, has_last_good=has_last_good, permits=())


def record(
    ledger: Ledger, clock: Clock, state: State, acts: Sequence[Act], *, turn: Turn | None = None
) -> Release | None:
    """Write down a state and what led to it, in one transaction; the release that it makes, where the route flips.

    Nothing is written for a model that is not the champion any more: another release has overtaken the decision. Where
    a later state is recorded already, only what happened is written. Raises :class:`Conflict` when a release is made at
    the same time.
    """
    in_force = current(ledger)
    if in_force is None or in_force.champion != state.model:
        return None
    recorded = ledger.read(COLLECTION, _KEY, State)
    is_late = recorded is not None and recorded.model == state.model and recorded.epoch > state.epoch
    made: Release | None = None
    if state.route != in_force.route and not is_late:
        made = msgspec.structs.replace(
            in_force,
            generation=in_force.generation + 1,
            cause="breaker",
            because=_because(state),
            route=state.route,
            at=timestamp(clock.now()),
        )
    with turn.transaction(ledger) if turn is not None else ledger.transaction() as transaction:
        for act in acts:
            if isinstance(act, Write):
                transaction.append(act.kind, state.model, facts_of(act.facts))
        if made is not None:
            transaction.insert("release", generation_key(made.generation), made)
            transaction.append("release.made", str(made.generation), facts_of(made))
        if not is_late:
            transaction.put(COLLECTION, _KEY, state)
    return made


def _because(state: State) -> str:
    if state.route == "last-good":
        return f"The breaker took {short(state.model)} off duty: {state.cause or 'forced'}."
    return f"The breaker put {short(state.model)} back on duty."


def by_person(
    ledger: Ledger, clock: Clock, turn: Turn, event: Event, policy: BreakerPolicy
) -> tuple[State, Release | None]:
    """Let a person's word (trip, reset, force) advance the recorded state.

    Raises :class:`NothingToServe` without a release, or without a last good model to answer instead of the champion,
    and :class:`Conflict` when a release is made at the same time.
    """
    release = current(ledger)
    if release is None:
        raise NothingToServe("Nothing is live, so there is nothing to take off duty.", next_step="Run 'interlock run'.")
    before = state_of(ledger, release)
    away = isinstance(event, Tripped) or (isinstance(event, Forced) and event.mode == "open")
    if away and not before.has_last_good:
        raise NothingToServe(
            f"Release {release.generation} has no last good model that could answer instead.",
            next_step="Release another model: new rows or other code, and 'interlock run'.",
        )
    state, acts = advance(before, event, policy)
    return state, record(ledger, clock, state, acts, turn=turn)
