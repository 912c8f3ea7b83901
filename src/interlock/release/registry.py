"""What is live, how it came to be, and the way back.

A *release* is a document; the newest generation is in force. Making one is a compare-and-swap: a transaction inserts
``generation + 1``, which fails when somebody else was first. The receipt of the decision, the release, and the events
that tell of both are written in that one transaction, so that nothing is live without its reason.

==============  ======================================================================================================
``release``     zero-padded generation -> :class:`~interlock.records.Release`
``served``      zero-padded generation -> :class:`Served`: it really published an audited batch
``evaluation``  candidate/champion/holdout -> :class:`~interlock.release.judge.Judged`: where the receipt is
``ask``         holdout/number -> :class:`~interlock.release.judge.Ask`: what the holdout was asked
``approval``    zero-padded entry of the receipt -> :class:`Approval`: a person released what was held
``trial``       zero-padded generation -> :class:`~interlock.release.canary.Trial`: it began a challenger's trial
==============  ======================================================================================================

A champion that was rolled back is *taken back*, and so is a challenger that was dropped or rolled back: neither another
rollback nor the loop releases it again. Only a person may, by name and with a reason.

With ``[canary]``, what the gate or an approval lets through is the *challenger* of the champion in force first. A
person who promotes by name makes a champion at once.
"""

from typing import Literal

import msgspec

from interlock.errors import BundleCorrupt, Conflict, GateHeld, Misuse, NotFound, NothingToServe
from interlock.model.bundle import open_bundle
from interlock.ports import Ledger, Parts, Transaction, Turn
from interlock.records import Event, Receipt, Record, Release, canonical, facts_of, moment, short, timestamp
from interlock.release.canary import Ended, Outcome, Trial, contradictions
from interlock.release.evidence import threshold
from interlock.release.gate import decide, policy_of
from interlock.release.judge import Ask, Judged, ask_key, evaluation_key, reassess
from interlock.release.standing import (
    TRIAL,
    Served,
    current,
    end_trial,
    ended_at,
    generation_key,
    make_release,
    mark_served,
    receipt_at,
    release_at,
    releases,
    taken_back,
    tallies_of,
    that_served,
    trial_of,
)
from interlock.units import per_year, seconds

__all__ = [
    "Approval",
    "Chapter",
    "Replay",
    "Served",
    "approve",
    "current",
    "generation_key",
    "history",
    "mark_served",
    "policy_of",
    "promote_person",
    "receipt_at",
    "record_decision",
    "release_at",
    "releases",
    "replay",
    "roll_back",
    "taken_back",
]


class Approval(Record, frozen=True, kw_only=True):
    """A person released what the gate had held."""

    generation: int
    because: str


class Chapter(Record, frozen=True, kw_only=True):
    """A release with the receipt that led to it and whether it really served."""

    release: Release
    receipt: Receipt | None
    served: bool


class Replay(Record, frozen=True, kw_only=True):
    """A decision, recomputed. ``differences`` says what does not agree; none means the same, byte for byte."""

    sequence: int
    candidate: str
    differences: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether both the evaluation and the decision came out the same."""
        return not self.differences


# ---- reading -----------------------------------------------------------------------------------------------------


def history(ledger: Ledger) -> list[Chapter]:
    """Tell every release, newest first, with its receipt and whether it served."""
    served = that_served(ledger)
    return [
        Chapter(
            release=release,
            receipt=None if release.receipt is None else receipt_at(ledger, release.receipt),
            served=release.generation in served,
        )
        for release in releases(ledger)
    ]


# ---- deciding ----------------------------------------------------------------------------------------------------


def record_decision(parts: Parts, turn: Turn, receipt: Receipt, baseline: str) -> tuple[Event, Release | None]:
    """Record a decision and, on ``promote``, make its candidate champion or challenger, in one transaction.

    Recorded before with the same bytes, it changes nothing: that entry is returned, and the release while it is in
    force. Raises :class:`Conflict` when a promotion was judged against another champion than the one in force.
    """
    ledger, evaluation, decision = parts.ledger, receipt.evaluation, receipt.decision
    key = evaluation_key(evaluation.candidate, evaluation.champion, evaluation.holdout_digest)
    before, in_force = _recorded(ledger, key), current(ledger)
    if before is not None and canonical(before[1]) == canonical(receipt):
        event, trial = before[0], trial_of(ledger, in_force)
        made_by = (in_force.receipt if in_force else None, trial.receipt if trial else None)
        return event, in_force if event.sequence in made_by else None
    is_new = before is None or canonical(before[1].evaluation) != canonical(evaluation)
    number = len(ledger.scan("ask", Ask, prefix=f"{evaluation.holdout_digest}/")) + 1
    release = None
    if decision.verdict == "promote":
        _judged_against(in_force, evaluation.champion)
        release = _next(parts, in_force, evaluation.candidate, baseline, because=decision.reason)
    with turn.transaction(ledger) as transaction:
        event = transaction.append("gate.decided", evaluation.candidate, facts_of(receipt))
        transaction.put("evaluation", key, Judged(receipt=event.sequence))
        if is_new:
            ask = Ask(
                candidate=evaluation.candidate,
                champion=evaluation.champion,
                evidence_key=evaluation.evidence_key,
                receipt=event.sequence,
            )
            transaction.insert("ask", ask_key(evaluation.holdout_digest, number), ask)
        if release is not None:
            release = _let_through(parts, transaction, in_force, release, event.sequence)
    return event, release


def _recorded(ledger: Ledger, key: str) -> tuple[Event, Receipt] | None:
    judged = ledger.read("evaluation", key, Judged)
    if judged is None:
        return None
    event = ledger.events(kinds=["gate.decided"], after=judged.receipt - 1, limit=1)[0]
    return event, msgspec.convert(event.facts, Receipt)


def _judged_against(in_force: Release | None, champion: str | None) -> None:
    live = in_force.champion if in_force else None
    if live != champion:
        raise Conflict(
            f"It was judged against {_name(champion)}, and {_name(live)} is in force now.",
            next_step="Run 'interlock run' again: it is judged against the champion in force.",
            judged_against=champion,
            in_force=live,
        )


def _name(champion: str | None) -> str:
    return "no champion" if champion is None else f"champion {short(champion)}"


def _next(parts: Parts, in_force: Release | None, champion: str, baseline: str, *, because: str) -> Release:
    """Describe the generation that would follow the one in force, with its last good model."""
    return Release(
        generation=in_force.generation + 1 if in_force else 1,
        champion=champion,
        last_good=_last_good(parts.ledger, in_force, champion),
        baseline=baseline,
        cause="gate",
        because=because,
        at=timestamp(parts.clock.now()),
    )


def _last_good(ledger: Ledger, in_force: Release | None, champion: str) -> str | None:
    """Name the champion in force if it ever really served, else its own last good; never the new champion itself."""
    if in_force is None:
        return None
    if in_force.route == "last-good":  # the champion in force was taken off duty: it is no model to fall back on
        return None if in_force.last_good == champion else in_force.last_good
    served = that_served(ledger)
    proven = any(r.champion == in_force.champion and r.generation in served for r in releases(ledger))
    found = in_force.champion if proven else in_force.last_good
    return None if found == champion else found


def _let_through(
    parts: Parts, transaction: Transaction, in_force: Release | None, made: Release, receipt: int
) -> Release:
    """Make the release of what passed the gate: with ``[canary]`` it is tried beside the champion, else live at once.

    The first champion of all is live at once: there is none beside which it could be tried.
    """
    canary, breaker = parts.settings.canary, parts.settings.breaker
    _replace_challenger(parts, transaction, in_force, "replaced", "release", f"Release {made.generation} follows.")
    if in_force is None or canary.share == 0.0:
        made = msgspec.structs.replace(made, receipt=receipt)
        make_release(transaction, made)
        return made
    trial = Trial(
        began=made.generation,
        challenger=made.champion,
        champion=in_force.champion,
        baseline=made.baseline,
        receipt=receipt,
        share=canary.share,
        shadow=canary.shadow,
        key=canary.key,
        rows=canary.rows,
        duration_s=seconds(canary.duration),
        tolerated=breaker.tolerated,
        # detectors share the budget of false alarms, as in the breaker
        alarm=(3.0 if canary.slower else 2.0) * threshold(per_year(breaker.false_trips), breaker.rated_load),
        since=made.at,
        slower=canary.slower,
    )
    tried = msgspec.structs.replace(
        in_force,
        generation=made.generation,
        cause=made.cause,
        because=f"{short(trial.challenger)} is challenger {trial.way}: {made.because}",
        at=made.at,
        challenger=trial.challenger,
    )
    transaction.insert(TRIAL, generation_key(trial.began), trial)
    transaction.append("canary.began", trial.challenger, facts_of(trial))
    make_release(transaction, tried)
    return tried


def _replace_challenger(
    parts: Parts,
    transaction: Transaction,
    in_force: Release | None,
    outcome: Outcome,
    by: Literal["person", "release"],
    because: str,
) -> None:
    """Write the receipt of the trial that another decision ends, if there is one."""
    trial = trial_of(parts.ledger, in_force)
    if trial is None:
        return
    end_trial(
        transaction,
        Ended(
            outcome=outcome,
            by=by,
            because=because,
            trial=trial,
            tallies=tallies_of(parts.ledger, trial),
            elapsed_s=(parts.clock.now() - moment(trial.since)).total_seconds(),
        ),
    )


# ---- a person decides --------------------------------------------------------------------------------------------


def approve(parts: Parts, turn: Turn, decision: int | str, because: str) -> Release:
    """Release the candidate of a held decision, named by its ledger entry or by the candidate's digest.

    What the gate let through and is on trial, or was taken back, is champion at once, by the person's word. Raises
    :class:`NotFound` when there is no such decision, :class:`GateHeld` when it was not held but refused,
    :class:`Misuse` when there was nothing to approve or no reason is given, :class:`Conflict` when another champion is
    in force than it was judged against, or it was approved before, and :class:`BundleCorrupt`.
    """
    _reasoned(because)
    ledger = parts.ledger
    sequence = decision if isinstance(decision, int) else _newest_decision(ledger, decision).sequence
    receipt, in_force = receipt_at(ledger, sequence), current(ledger)
    candidate = receipt.evaluation.candidate
    tried = in_force is not None and in_force.challenger == candidate
    if tried or (receipt.decision.verdict == "promote" and candidate in taken_back(ledger)):
        return promote_person(parts, turn, candidate, because)
    _approvable(receipt, sequence)
    _judged_against(in_force, receipt.evaluation.champion)
    open_bundle(parts, receipt.evaluation.candidate)
    made = msgspec.structs.replace(
        _next(parts, in_force, receipt.evaluation.candidate, receipt.evaluation.baseline, because=because),
        cause="approval",
    )
    with turn.transaction(ledger) as transaction:
        approval = Approval(generation=made.generation, because=because)
        transaction.insert("approval", f"{sequence:010d}", approval)
        return _let_through(parts, transaction, in_force, made, sequence)


def _approvable(receipt: Receipt, sequence: int) -> None:
    decision = receipt.decision
    if decision.verdict == "keep":
        raise GateHeld(
            f"Entry {sequence} was not held for approval but refused: {decision.reason}",
            next_step="Improve the model and run again. Only a held decision can be approved.",
            sequence=sequence,
        )
    if decision.verdict == "promote":
        raise Misuse(
            f"Entry {sequence} needs no approval: the gate released it.",
            next_step="'interlock history' lists the releases.",
            sequence=sequence,
        )


def promote_person(parts: Parts, turn: Turn, digest: str, because: str) -> Release:
    """Make a bundle the champion by a person's word, whatever the gate had said; it must have been judged.

    Raises :class:`NotFound` when it never was, :class:`Misuse` when it is live already or no reason is given,
    :class:`Conflict` when somebody else was first, and :class:`BundleCorrupt`.
    """
    _reasoned(because)
    event = _newest_decision(parts.ledger, digest)
    in_force = current(parts.ledger)
    if in_force is not None and in_force.champion == digest:
        raise Misuse(f"{short(digest)} is the champion already (release {in_force.generation}).")
    open_bundle(parts, digest)
    baseline = msgspec.convert(event.facts, Receipt).evaluation.baseline
    made = msgspec.structs.replace(
        _next(parts, in_force, digest, baseline, because=because), cause="person", receipt=event.sequence
    )
    outcome: Outcome = "promoted" if in_force is not None and in_force.challenger == digest else "replaced"
    with turn.transaction(parts.ledger) as transaction:
        _replace_challenger(parts, transaction, in_force, outcome, "person", because)
        make_release(transaction, made)
    return made


def _newest_decision(ledger: Ledger, digest: str) -> Event:
    found = ledger.events(kinds=["gate.decided"], subject=digest, newest_first=True, limit=1)
    if not found:
        raise NotFound(
            f"Bundle {short(digest)} was never judged.",
            next_step="Give the full digest of a candidate of 'interlock history --events'.",
            digest=digest,
        )
    return found[0]


def _reasoned(because: str) -> None:
    if not because.strip():
        raise Misuse("A person's decision needs a reason.", next_step="Say why with --because.")


# ---- the way back ------------------------------------------------------------------------------------------------


def roll_back(parts: Parts, turn: Turn, because: str, to: int | None = None) -> Release:
    """Release again the newest earlier champion that really served, was not taken back, and still verifies.

    While there is a challenger, it is what is taken back, and the champion stays. With ``to``, the champion of that
    generation, and without a challenger. Never the champion in force. Raises :class:`NothingToServe` when there
    is none to go back to, :class:`NotFound` or :class:`Misuse` for an impossible ``to``, :class:`BundleCorrupt` when
    the bundle of ``to`` is damaged, and :class:`Conflict` when somebody else was first.
    """
    _reasoned(because)
    in_force = current(parts.ledger)
    if in_force is None:
        raise NothingToServe("Nothing is live, so there is nothing to go back from.", next_step="Run 'interlock run'.")
    if to is None and in_force.challenger is not None:
        return _take_back_challenger(parts, turn, in_force, because)
    target = _proven(parts, turn, in_force) if to is None else _named(parts, in_force, to)
    bad = taken_back(parts.ledger) | {in_force.champion, target.champion}
    made = Release(
        generation=in_force.generation + 1,
        champion=target.champion,
        last_good=None if target.last_good in bad else target.last_good,
        baseline=target.baseline,
        cause="rollback",
        because=because,
        receipt=target.receipt,
        at=timestamp(parts.clock.now()),
    )
    with turn.transaction(parts.ledger) as transaction:
        _replace_challenger(parts, transaction, in_force, "dropped", "person", because)
        make_release(transaction, made)
    return made


def _take_back_challenger(parts: Parts, turn: Turn, in_force: Release, because: str) -> Release:
    made = msgspec.structs.replace(
        in_force,
        generation=in_force.generation + 1,
        cause="rollback",
        because=because,
        at=timestamp(parts.clock.now()),
        challenger=None,
    )
    with turn.transaction(parts.ledger) as transaction:
        _replace_challenger(parts, transaction, in_force, "dropped", "person", because)
        make_release(transaction, made)
    return made


def _proven(parts: Parts, turn: Turn, in_force: Release) -> Release:
    """Find the newest earlier release that served, other than the one in force and those taken back."""
    served = that_served(parts.ledger)
    never = taken_back(parts.ledger) | {in_force.champion}
    for release in releases(parts.ledger):
        if release.generation not in served or release.champion in never:
            continue
        try:
            open_bundle(parts, release.champion)
        except (BundleCorrupt, NotFound) as problem:
            turn.say(f"release {release.generation} cannot be gone back to: {problem.message}")
            continue
        return release
    raise NothingToServe(
        f"No earlier release than {in_force.generation} has another champion that really served and is intact.",
        next_step="Name a generation with --to, or add data or change the code and run 'interlock run'.",
        in_force=in_force.generation,
    )


def _named(parts: Parts, in_force: Release, generation: int) -> Release:
    release = parts.ledger.read("release", generation_key(generation), Release)
    if release is None:
        raise NotFound(f"There is no release {generation}.", next_step="'interlock history' lists the releases.")
    if release.champion == in_force.champion:
        raise Misuse(
            f"Release {generation} has the champion that is in force ({short(release.champion)}).",
            next_step="Name a generation with another champion; 'interlock history' lists them.",
        )
    open_bundle(parts, release.champion)
    return release


# ---- replay ------------------------------------------------------------------------------------------------------


def replay(parts: Parts, sequence: int) -> Replay:
    """Recompute a decision: the evaluation from the evidence, and the verdict from the evaluation and the rules.

    The end of a challenger's trial is judged again by its tallies. Raises :class:`NotFound` when the entry is neither.
    What does not agree, byte for byte, is in the answer.
    """
    ended = ended_at(parts.ledger, sequence)
    if ended is not None:
        return Replay(sequence=sequence, candidate=ended.trial.challenger, differences=contradictions(ended))
    receipt = receipt_at(parts.ledger, sequence)
    differences = []
    try:
        again = reassess(parts, receipt)
    except (NotFound, BundleCorrupt) as problem:
        differences.append(f"evidence: {problem.message}")
    else:
        differences += _differences("evaluation", receipt.evaluation, again)
    differences += _differences("decision", receipt.decision, decide(receipt.evaluation, receipt.policy))
    return Replay(sequence=sequence, candidate=receipt.evaluation.candidate, differences=tuple(differences))


def _differences(name: str, recorded: Record, again: Record) -> list[str]:
    fields = recorded.__struct_fields__
    return [
        f"{name}.{field}: recorded {_shown(getattr(recorded, field))}, now {_shown(getattr(again, field))}"
        for field in fields
        if canonical(getattr(recorded, field)) != canonical(getattr(again, field))
    ]


def _shown(value: object) -> str:
    text = canonical(value).decode()
    return text if len(text) <= 200 else f"{text[:200]}…"
