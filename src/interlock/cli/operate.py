"""What the verbs around a release do, beyond calling one function of a stage."""

import hashlib
import secrets
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from msgspec import convert

from interlock.answer.batch import score_file
from interlock.cli import render
from interlock.data.snapshot import require_intact
from interlock.errors import InterlockError, Misuse, NotFound, SettingsError, StoreFault
from interlock.model.bundle import open_bundle
from interlock.model.contract import read_contract
from interlock.model.runner import Runner
from interlock.ports import Parts
from interlock.records import BatchResult, Bundle, Decision, Record, Release, Snapshot, moment, short
from interlock.release.canary import Tally, Trial, Verdict, judged, summed
from interlock.release.operation import OnDuty, operator_turn
from interlock.release.registry import Replay, current, release_at, releases
from interlock.release.standing import TRIAL, Damage, damage_of, tallies_of, trial_of
from interlock.report.followers import tell
from interlock.report.following import Told
from interlock.settings import Settings
from interlock.store.address import state_address
from interlock.tuning.standing import InForce, in_force, params_text
from interlock.units import seconds


def score_one(parts: Parts, file: Path, output: Path | None) -> BatchResult:
    """Score ``file`` into the Parquet file ``output``; raises :class:`NotFound` when there is no such file."""
    target = output or Path(f"{file.name.partition('.')[0]}-predictions.parquet")
    if target.suffix != ".parquet" or not target.resolve().parent.is_dir():
        raise Misuse(
            f"Predictions cannot be written to {target}.", next_step="Name a .parquet file in a folder that is there."
        )
    if not file.is_file():
        raise NotFound(f"There is no file {file}.", next_step="Name a CSV, Parquet or JSON lines file.")
    contract = read_contract(parts.settings)
    with operator_turn(parts, f"predict/{secrets.token_hex(6)}") as turn:
        scratch = parts.settings.home / "work" / turn.id
        try:
            with Runner.of(parts.settings, contract.preload, scratch) as runner:
                return score_file(parts, turn, file.resolve(), target.resolve(), lambda: _started(runner))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _started(runner: Runner) -> Runner:
    runner.start()
    return runner


def make_key(settings: Settings, name: str, scopes: Sequence[str], quota: str | None = None) -> tuple[str, Path]:
    """Add a key to ``serve.keys_file`` and give its text; raises :class:`Misuse`."""
    from interlock.serve.keys import SCOPES, add_key

    if not settings.serve.keys_file:
        raise SettingsError("serve.keys_file is not set.", next_step="Name a file of the project, as keys.toml.")
    chosen = tuple(scope for scope in SCOPES if scope in scopes)
    if len(chosen) != len(set(scopes)):
        raise Misuse(f"A scope is one of {', '.join(SCOPES)}.")
    path = settings.path(settings.serve.keys_file)
    return add_key(path, name, chosen, quota), path


# ---- duty --------------------------------------------------------------------------------------------------------


def duty_lines(found: OnDuty) -> list[str]:
    """Where the breaker stands, for people."""
    who = "The champion answers" if found.state.route == "champion" else "Last good answers"
    told = [f"{who}; the breaker is {found.state.mode}."]
    return told + (render.release(found.release) if found.release is not None else ["Nothing changed."])


# ---- followers ---------------------------------------------------------------------------------------------------


class Synced(Record, frozen=True, kw_only=True):
    """What was told to the systems that follow the ledger."""

    told: tuple[Told, ...]

    @property
    def is_complete(self) -> bool:
        """Nothing waits any more."""
        return not any(one.problem for one in self.told)

    def lines(self) -> list[str]:
        """The outcome for people."""
        return [one.note for one in self.told] or ["Everything was told before."]


def sync_followers(parts: Parts, deadline: str, *, again: bool) -> Synced:
    """Tell all that is new; raises :class:`SettingsError` when nobody follows."""
    if not parts.settings.is_followed:
        raise SettingsError(
            "Nobody follows the ledger of this project.",
            next_step="Set store.tracking (an MLflow server) or lineage.to (OpenLineage).",
        )
    return Synced(told=tell(parts, lambda _: None, deadline_s=seconds(deadline), again=again))


def told_after(parts: Parts) -> list[str]:
    """Tell the followers of what a person just did; lines only about what could not be told."""
    if not parts.settings.is_followed:
        return []
    return [f"mirror: {one.note}" for one in tell(parts, lambda _: None) if one.problem]


# ---- status ------------------------------------------------------------------------------------------------------


class LastTurn(Record, frozen=True, kw_only=True):
    """The part of a ``turn.ended`` entry that the status shows."""

    turn: str
    outcome: str
    sentence: str
    next_step: str
    at: str
    seconds: float


class OnTrial(Record, frozen=True, kw_only=True):
    """How the challenger does: its terms, what all servers saw, after ``elapsed_s``, and what follows from it."""

    terms: Trial
    seen: Tally
    elapsed_s: float
    verdict: Verdict


class Status(Record, frozen=True, kw_only=True):
    """Where the project stands. ``state``: where that is recorded, without user and password.

    ``damage``: what is wrong with the champion, as of the last time that it was to answer. ``trial``: the challenger's.
    """

    name: str
    root: str
    environment: str
    state: str
    release: Release | None
    damage: Damage | None
    trial: OnTrial | None
    releases: int
    tuned: InForce | None
    last_turn: LastTurn | None
    last_decision: Decision | None
    last_decision_entry: int | None
    files: dict[str, int]
    batches: dict[str, int]


def status_of(parts: Parts) -> Status:
    """Read the status from documents and the newest entries."""
    import msgspec

    ledger = parts.ledger
    turns = ledger.events(kinds=["turn.ended"], newest_first=True, limit=1)
    decisions = ledger.events(kinds=["gate.decided"], newest_first=True, limit=1)
    release = current(ledger)
    return Status(
        name=parts.settings.model.name,
        root=str(parts.settings.root),
        environment=parts.settings.environment,
        state=_state(parts.settings),
        release=release,
        damage=damage_of(ledger, release),
        trial=_trial(parts, release),
        releases=len(releases(ledger)),
        tuned=in_force(ledger) if parts.settings.tune.trials else None,
        last_turn=msgspec.convert(turns[0].facts, LastTurn) if turns else None,
        last_decision=msgspec.convert(decisions[0].facts["decision"], Decision) if decisions else None,
        last_decision_entry=decisions[0].sequence if decisions else None,
        files=_count(parts, "file"),
        batches=_count(parts, "batch"),
    )


def _trial(parts: Parts, release: Release | None) -> OnTrial | None:
    terms = trial_of(parts.ledger, release)
    if terms is None:
        return None
    tallies = tallies_of(parts.ledger, terms)
    elapsed_s = (parts.clock.now() - moment(terms.since)).total_seconds()
    verdict = judged(terms, tallies, elapsed_s).verdict
    return OnTrial(terms=terms, seen=summed(tallies), elapsed_s=elapsed_s, verdict=verdict)


def _state(settings: Settings) -> str:
    address = state_address(settings)
    return f"{address.name} (schema {address.schema})" if address.path is None else str(address.path)


def _count(parts: Parts, collection: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, document in parts.ledger.scan(collection, dict[str, Any]):
        counts[document["status"]] = counts.get(document["status"], 0) + 1
    return dict(sorted(counts.items()))


_CHANGERS: Final = {"breaker": "the breaker", "canary": "the end of a trial"}


def status_lines(found: Status) -> list[str]:
    """The status for people."""
    lines = [f"{found.name} in {found.root}{f' (env {found.environment})' if found.environment else ''}"]
    if "://" in found.state:
        lines.append(f"State in {found.state}")
    lines += render.release(found.release) if found.release else ["Nothing is live yet."]
    if found.trial is not None:
        lines += render.trial(found.trial.terms, found.trial.seen, found.trial.elapsed_s)
    if found.trial is not None and found.trial.verdict == "wait":
        entry = found.trial.terms.receipt
        lines.append(f"  {'':<10} It waits for a person: interlock promote {entry}, or interlock rollback.")
    if found.release is not None and found.damage is not None:
        told = found.damage.told(found.release.champion)
        lines += [f"  {'DAMAGED':<10} {told}", f"  {'':<10} Found {render.when(found.damage.at)} UTC."]
        lines += [f"  {'':<10} Next: {found.damage.next_step}"]
    for label, counts in (("files", found.files), ("batches", found.batches)):
        told = ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
        lines.append(f"  {label:<10} {told}")
    if found.tuned is not None:
        best = f"{params_text(found.tuned.params)} ({found.tuned.metric} {found.tuned.score:.4g} in its trial)"
        lines.append(f"  {'tuned':<10} {best}, since {render.when(found.tuned.at)} UTC")
    if found.last_decision is not None:
        lines += ["", f"Last decision (entry {found.last_decision_entry}):", *render.decision(found.last_decision)]
    if found.last_turn is not None:
        turn = found.last_turn
        lines += ["", f"Last turn {render.when(turn.at)} UTC: {turn.sentence}"]
        overtaken = found.release is not None and found.release.at > turn.at
        by = _CHANGERS.get(found.release.cause, "a person") if found.release is not None else ""
        lines += (
            [f"The release was changed by {by} since.", "Next: interlock run"]
            if overtaken
            else [f"Next: {turn.next_step}"]
        )
    else:
        lines += ["", "No turn was run yet.", "Next: interlock run"]
    return lines


# ---- history -----------------------------------------------------------------------------------------------------


class ReleaseThen(Record, frozen=True, kw_only=True):
    """What was live at a time."""

    at: str
    release: Release | None
    decision: Decision | None


def release_then(parts: Parts, text: str) -> ReleaseThen:
    """The release in force at an ISO time; raises :class:`SettingsError` when the text is no time."""
    try:
        asked = datetime.fromisoformat(text)
    except ValueError as problem:
        raise SettingsError(
            f"'{text}' is not a time.", next_step="Write an ISO time such as 2026-11-21T02:30 (UTC) or …+01:00."
        ) from problem
    asked = asked if asked.tzinfo else asked.replace(tzinfo=UTC)
    found = release_at(parts.ledger, asked)
    decision = None
    if found is not None and found.receipt is not None:
        decision = _decision(parts, found.receipt)
    return ReleaseThen(at=asked.astimezone(UTC).isoformat(), release=found, decision=decision)


def _decision(parts: Parts, sequence: int) -> Decision | None:
    import msgspec

    events = parts.ledger.events(kinds=["gate.decided"], after=sequence - 1, limit=1)
    return msgspec.convert(events[0].facts["decision"], Decision) if events and events[0].sequence == sequence else None


def release_then_lines(found: ReleaseThen) -> list[str]:
    """What was live, for people."""
    if found.release is None:
        return [f"Nothing was live at {found.at}."]
    lines = [f"At {found.at}:", *render.release(found.release)]
    return lines + (render.decision(found.decision) if found.decision else [])


# ---- verify and replay -------------------------------------------------------------------------------------------


class Verified(Record, frozen=True, kw_only=True):
    """The outcome of checking a project's memory."""

    events: int
    head: str
    bundles: int
    problems: tuple[str, ...]
    clock_back: tuple[int, ...] = ()

    @property
    def sound(self) -> bool:
        """No problem was found."""
        return not self.problems

    def lines(self) -> list[str]:
        """The outcome for people."""
        if self.sound:
            chain = f"The chain of {self.events:,} entries holds (head {short(self.head)})"
            return [f"{chain}, and {self.bundles} released bundles have the bytes that were judged.", *self._jumps()]
        return [f"{len(self.problems)} problems in {self.events:,} entries:", *(f"  {text}" for text in self.problems)]

    def _jumps(self) -> list[str]:
        """What to know when times are read: where the clock was set back."""
        if not self.clock_back:
            return []
        entries = ", ".join(f"{sequence:,}" for sequence in self.clock_back)
        return [f"The clock was set back before entry {entries}: the order is that of the entries, not of their times."]


def verify_project(parts: Parts) -> Verified:
    """Check the chain, that the release in force is the one the chain tells of, and every released bundle."""
    chain = parts.ledger.verify()
    problems = [] if chain.broken_at is None else [f"entry {chain.broken_at}: {chain.reason}"]
    listed: list[Release] = []
    try:
        listed = releases(parts.ledger)
        told = [convert(event.facts, Release) for event in parts.ledger.events(kinds=["release.made"])]
        if list(reversed(listed)) != told:
            problems.append("the releases are not those that the chain tells of")
        begun = [convert(event.facts, Trial) for event in parts.ledger.events(kinds=["canary.began"])]
        if [trial for _, trial in parts.ledger.scan(TRIAL, Trial)] != begun:
            problems.append("the trials are not those that the chain tells of")
        problems += _altered_evidence(parts)
    except StoreFault as problem:
        problems.append(problem.message)
    named = {digest for item in listed for digest in (item.champion, item.baseline, item.challenger)}
    digests = sorted(digest for digest in named if digest is not None)
    for digest in digests:
        try:
            open_bundle(parts, digest, stored=True)
        except InterlockError as problem:
            problems.append(f"bundle {short(digest)}: {problem.message}")
    problems += [*_altered_snapshots(parts, listed), *_missing_tables(parts)]
    return Verified(
        events=chain.events,
        head=chain.head,
        bundles=len(digests),
        problems=tuple(problems),
        clock_back=chain.clock_back,
    )


def _altered_evidence(parts: Parts) -> Iterator[str]:
    """Hold the evidence of every decision against the digest in its receipt."""
    for event in parts.ledger.events(kinds=["gate.decided"]):
        evaluation = event.facts["evaluation"]
        key = evaluation["evidence_key"]
        try:
            found = hashlib.sha256(parts.blobs.get(key)).hexdigest()
        except InterlockError:
            yield f"entry {event.sequence}: its evidence {key} is gone"
            continue
        if found != evaluation["evidence_digest"]:
            yield f"entry {event.sequence}: the bytes of {key} are not those that were judged"


def _altered_snapshots(parts: Parts, listed: Sequence[Release]) -> Iterator[str]:
    """Hold the rows that released models learnt from and were judged by against what was pinned."""
    learnt_from: dict[str, Snapshot] = {}
    for champion in sorted({release.champion for release in listed}):
        try:
            bundle = parts.ledger.read("bundle", champion, Bundle)
            found = None if bundle is None else parts.ledger.read("snapshot", bundle.snapshot, Snapshot)
        except StoreFault as problem:
            yield problem.message
            continue
        if found is not None:
            learnt_from[found.digest] = found
    for snapshot in learnt_from.values():
        for part in ("training", "holdout"):
            try:
                require_intact(parts, snapshot, part, stored=True)
            except InterlockError as problem:
                yield f"snapshot {short(snapshot.digest)}: {problem.message}"


def _missing_tables(parts: Parts) -> list[str]:
    missing = []
    for name in parts.settings.sources:
        table = f"sources/{name}"
        if parts.tables.version(table) is None:
            continue
        missing += [f"table {table}: {name} is gone, or was changed" for name in parts.tables.absent(table)]
    return missing


def replay_lines(found: Replay) -> list[str]:
    """The outcome of a replay for people."""
    head = "agrees bit for bit" if found.agrees else "DOES NOT AGREE"
    return [
        f"The decision of entry {found.sequence}, recomputed, {head}.",
        *(f"  {text}" for text in found.differences),
    ]
