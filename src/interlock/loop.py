"""One turn: the only module that names every stage.

A turn is a straight function over idempotent stages. Each reads recorded state and writes recorded state; whatever was
recorded before is skipped, so running a turn again after a crash ends as an undisturbed one. What a stage refuses
(a file, a training, a candidate, a batch) is recorded and told, and the stages that do not need it go on: a broken
training function does not keep the champion from scoring today's batch.
"""

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from interlock.answer.batch import score_inbox
from interlock.data.ingest import ingest
from interlock.data.snapshot import make_snapshot
from interlock.errors import InterlockError, LeaseLost
from interlock.model.bundle import pack, pack_baseline
from interlock.model.contract import Contract, read_contract
from interlock.model.runner import Runner
from interlock.model.train import train, training_digest
from interlock.ports import Ledger, Parts, Turn
from interlock.records import (
    BatchResult,
    Bundle,
    Decision,
    Fence,
    FileResult,
    Receipt,
    Record,
    Release,
    Snapshot,
    facts_of,
    short,
    timestamp,
)
from interlock.release.gate import decide
from interlock.release.judge import judge
from interlock.release.registry import current, policy_of, record_decision, taken_back

LEASE = "turn"
LEASE_S = 120.0
"""A turn on another host is taken for dead when it has not renewed its lease for this long."""

Outcome = Literal["released", "kept", "held", "unchanged", "waiting", "failed"]


class Progress(Protocol):
    """Who is told what a turn is doing. Called from the turn's own thread."""

    def begin(self, step: str) -> None:
        """A step starts."""
        ...

    def say(self, message: str) -> None:
        """News from the step that runs."""
        ...

    def end(self, step: str, note: str, seconds: float, *, failed: bool) -> None:
        """A step is over."""
        ...


class Step(Record, frozen=True, kw_only=True):
    """One step of a turn as it went."""

    name: str
    note: str
    seconds: float
    failed: bool = False


class Problem(Record, frozen=True, kw_only=True):
    """An error that ended a step and not the turn."""

    step: str
    code: str
    message: str
    next_step: str
    exit_code: int


class TurnResult(Record, frozen=True, kw_only=True):
    """What a turn did. ``sentence`` says what was decided and why, ``next_step`` the one thing to do now.

    outcome: ``released`` (a new champion), ``kept`` (the champion stays, with evidence), ``held`` (a person must look),
    ``unchanged`` (nothing new to learn from), ``waiting`` (not enough to begin with), ``failed`` (a step broke).
    """

    turn: str
    outcome: Outcome
    sentence: str
    next_step: str
    files: tuple[FileResult, ...] = ()
    snapshot: str = ""
    candidate: str = ""
    decision: Decision | None = None
    receipt: int | None = None
    release: Release | None = None
    batches: tuple[BatchResult, ...] = ()
    problems: tuple[Problem, ...] = ()
    steps: tuple[Step, ...] = ()
    seconds: float = 0.0
    at: str = ""

    @property
    def exit_code(self) -> int:
        """0: done; 1: refused by a decision; 2 or 3: a step could not be done."""
        if self.problems:
            return max(problem.exit_code for problem in self.problems)
        refused = self.outcome in ("kept", "held") or any(batch.status == "refused" for batch in self.batches)
        return 1 if refused else 0


class TrainingLink(Record, frozen=True, kw_only=True):
    """The part of the ``training`` document that the loop reads: which bundle came of it."""

    bundle: str


# ---- the turn ----------------------------------------------------------------------------------------------------


def run_turn(parts: Parts, progress: Progress) -> TurnResult:
    """Take the lease, run one turn, and record how it ended.

    Raises :class:`~interlock.errors.LeaseHeld` while another turn runs, and :class:`~interlock.errors.ContractError` or
    :class:`~interlock.errors.SettingsError` before anything is touched when the project cannot work.
    """
    contract = read_contract(parts.settings)
    with _lease(parts.ledger) as fence:
        turn = Turn(id=_new_id(parts), fence=fence, say=progress.say)
        scratch = parts.settings.home / "work" / turn.id
        with Runner(parts.settings.root, contract.preload, scratch) as runner:
            result = _Pass(parts, turn, progress, contract, runner).run()
        _remove(scratch)
        with turn.transaction(parts.ledger) as transaction:
            transaction.append("turn.ended", turn.id, facts_of(result))
    return result


def _new_id(parts: Parts) -> str:
    return f"{parts.clock.now().strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(3)}"


class _Pass:
    """One pass over the stages: remembers what happened, so that the end can be told in one sentence."""

    def __init__(self, parts: Parts, turn: Turn, progress: Progress, contract: Contract, runner: Runner) -> None:
        self.parts, self.turn, self.progress = parts, turn, progress
        self.contract, self.runner = contract, runner
        self.runner_started = False
        self.steps: list[Step] = []
        self.problems: list[Problem] = []
        self.files: list[FileResult] = []
        self.batches: list[BatchResult] = []
        self.snapshot: Snapshot | None = None
        self.candidate: str = ""
        self.decision: Decision | None = None
        self.receipt: int | None = None
        self.release: Release | None = None

    def run(self) -> TurnResult:
        started = self.parts.clock.monotonic()
        self._step("ingest", self._ingest)
        if not self.problems and self._has_rows():
            self._step("snapshot", self._snapshot)
        if self.snapshot is not None:
            self._learn(self.snapshot)
        if self.parts.settings.batch.inbox and current(self.parts.ledger) is not None:
            self._step("batch", self._batch)
        outcome, sentence, next_step = conclude(self)
        return TurnResult(
            turn=self.turn.id,
            outcome=outcome,
            sentence=sentence,
            next_step=next_step,
            files=tuple(self.files),
            snapshot=self.snapshot.digest if self.snapshot else "",
            candidate=self.candidate,
            decision=self.decision,
            receipt=self.receipt,
            release=self.release,
            batches=tuple(self.batches),
            problems=tuple(self.problems),
            steps=tuple(self.steps),
            seconds=self.parts.clock.monotonic() - started,
            at=timestamp(self.parts.clock.now()),
        )

    def ready_runner(self) -> Runner:
        """The worker process, started the first time that somebody will need it."""
        if not self.runner_started:
            self.runner.start()
            self.runner_started = True
        return self.runner

    # -- steps

    def _step(self, name: str, work: Callable[[], str]) -> bool:
        """Run one step; an error of ours ends the step and is remembered, unless the lease is lost."""
        self.progress.begin(name)
        started = self.parts.clock.monotonic()
        failed = False
        try:
            note = work()
        except LeaseLost:
            raise
        except InterlockError as problem:
            failed = True
            note = problem.message
            self.problems.append(
                Problem(
                    step=name,
                    code=problem.code,
                    message=problem.message,
                    next_step=problem.next_step,
                    exit_code=problem.exit_code,
                )
            )
        elapsed = self.parts.clock.monotonic() - started
        self.steps.append(Step(name=name, note=note, seconds=elapsed, failed=failed))
        self.progress.end(name, note, elapsed, failed=failed)
        return not failed

    def _ingest(self) -> str:
        names = list(self.parts.settings.sources)
        if self.parts.settings.data.holdout.inbox is not None:
            names.append("holdout")
        for name in names:
            self.files.extend(ingest(self.parts, self.turn, name))
        return _files_note(self.files)

    def _has_rows(self) -> bool:
        return all(self.parts.tables.version(f"sources/{name}") is not None for name in self.parts.settings.sources)

    def _snapshot(self) -> str:
        self.snapshot = make_snapshot(self.parts, self.turn)
        made = self.snapshot
        return f"{made.training_rows:,} rows to learn from, {made.holdout_rows:,} held out ({short(made.digest)})"

    def _learn(self, snapshot: Snapshot) -> None:
        """Train, pack, judge and decide, as far as it is not recorded."""
        ledger = self.parts.ledger
        key = training_digest(self.parts.settings, self.contract, snapshot)
        known = ledger.read("training", key, TrainingLink)
        if known is None:
            if not self._step("train", lambda: self._train(snapshot)):
                return
        else:
            self.candidate = known.bundle
        release = current(ledger)
        if release is not None and release.champion == self.candidate:
            return
        if self.candidate in taken_back(ledger):
            return
        champion = release.champion if release else None
        if (
            ledger.read("evaluation", f"{self.candidate}/{champion or 'none'}/{snapshot.holdout_digest}", dict)
            is not None
        ):
            return
        self._step("judge", lambda: self._judge(snapshot, champion))

    def _train(self, snapshot: Snapshot) -> str:
        runner = self.ready_runner()
        trained = train(self.parts, self.turn, self.contract, snapshot, runner)
        self.turn.say("packing")
        bundle = pack(self.parts, self.turn, trained=trained, contract=self.contract, snapshot=snapshot, runner=runner)
        self.candidate = bundle.digest
        return f"{short(bundle.digest)}, {bundle.form} form, trained in {trained.training.seconds:.1f} s"

    def _judge(self, snapshot: Snapshot, champion: str | None) -> str:
        parts, turn = self.parts, self.turn
        runner = self.ready_runner()
        baseline = pack_baseline(parts, turn, snapshot=snapshot)
        evaluation = judge(
            parts,
            turn,
            candidate=_bundle(parts, self.candidate),
            champion=_bundle(parts, champion) if champion else None,
            baseline=baseline,
            snapshot=snapshot,
            runner=runner,
        )
        policy = policy_of(parts.settings)
        decision = decide(evaluation, policy)
        receipt = Receipt(evaluation=evaluation, policy=policy, decision=decision)
        event, self.release = record_decision(parts, turn, receipt, baseline=baseline.digest)
        self.decision, self.receipt = decision, event.sequence
        return decision.reason

    def _batch(self) -> str:
        self.batches = score_inbox(self.parts, self.turn, self.ready_runner)
        return _batch_note(self.batches)


def _bundle(parts: Parts, digest: str) -> Bundle:
    bundle = parts.ledger.read("bundle", digest, Bundle)
    assert bundle is not None, f"bundle {short(digest)} is released or linked, so it was recorded"
    return bundle


# ---- the end, in words -------------------------------------------------------------------------------------------


def conclude(done: _Pass) -> tuple[Outcome, str, str]:
    """Outcome, one sentence and one next step."""
    if done.problems:
        first = done.problems[0]
        return "failed", f"The turn could not do '{first.step}': {first.message}", first.next_step
    release = current(done.parts.ledger)
    if done.decision is not None:
        return _concluded_decision(done, done.decision, release)
    if done.snapshot is None:
        inboxes = ", ".join(source.inbox for source in done.parts.settings.sources.values())
        return "waiting", "There are no accepted rows to learn from yet.", f"Put a data file into {inboxes}."
    if release is None:
        return (
            "waiting",
            "Nothing new, and the last candidate was not released.",
            "Add data or change the code; 'interlock history' shows why it was refused.",
        )
    refused = [batch for batch in done.batches if batch.status == "refused"]
    if refused:
        return "unchanged", f"{refused[0].name} was not published: {refused[0].reason}", refused[0].next_step
    published = [batch for batch in done.batches if batch.status == "published"]
    news = f" {_batch_note(done.batches)}." if published else ""
    bad_files = [file for file in done.files if file.status in ("refused", "unreadable")]
    if bad_files:
        return (
            "unchanged",
            f"Release {release.generation} stays: {bad_files[0].name} was not taken in. {bad_files[0].reason}{news}",
            bad_files[0].next_step,
        )
    return (
        "unchanged",
        f"Nothing new to learn from: release {release.generation} ({short(release.champion)}) stays.{news}",
        "Put a new file into the inbox, or change the code, and run again.",
    )


def _concluded_decision(done: _Pass, decision: Decision, release: Release | None) -> tuple[Outcome, str, str]:
    if done.release is not None:
        return (
            "released",
            f"Release {done.release.generation}: {short(decision.candidate)} is live. {decision.reason}",
            "See the evidence with 'interlock report'.",
        )
    if decision.verdict == "hold":
        return (
            "held",
            f"Held: {decision.reason}",
            f"Look at 'interlock report --decision {done.receipt}', then 'interlock promote {done.receipt} --because …'.",
        )
    stays = f"release {release.generation} ({short(release.champion)}) stays" if release else "nothing is live"
    return (
        "kept",
        f"Not released, {stays}. {decision.reason}",
        f"The evidence: 'interlock report --decision {done.receipt}'.",
    )


def _files_note(files: list[FileResult]) -> str:
    if not files:
        return "no new file"
    accepted = [file for file in files if file.status == "accepted"]
    note = [
        f"{sum(file.accepted for file in accepted):,} new rows from {len(accepted)} file{'s' * (len(accepted) != 1)}"
    ]
    for label in ("duplicates", "quarantined"):
        count = sum(getattr(file, label) for file in accepted)
        if count:
            note.append(f"{count:,} {label}")
    for status in ("refused", "unreadable", "repeated"):
        names = [file.name for file in files if file.status == status]
        if names:
            note.append(f"{status}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}")
    return ", ".join(note)


def _batch_note(batches: list[BatchResult]) -> str:
    if not batches:
        return "nothing new to score"
    published = [batch for batch in batches if batch.status == "published"]
    note = f"{sum(batch.scored for batch in published):,} rows published from {len(published)} file{'s' * (len(published) != 1)}"
    refused = [batch.name for batch in batches if batch.status != "published"]
    return f"{note}, refused: {', '.join(refused[:3])}" if refused else note


# ---- lease -------------------------------------------------------------------------------------------------------


@contextmanager
def _lease(ledger: Ledger) -> Iterator[Fence]:
    """Hold the turn's lease, renewed in the background until the block ends."""
    fence = ledger.acquire(LEASE, ttl_s=LEASE_S)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LEASE_S / 4):
            try:
                ledger.renew(fence, ttl_s=LEASE_S)
            except InterlockError:
                return  # overtaken, or the store is away: the fence refuses the next commit, which tells it better

    keeper = threading.Thread(target=renew, name="interlock-lease", daemon=True)
    keeper.start()
    try:
        yield fence
    finally:
        done.set()
        keeper.join()
        ledger.release(fence)


def _remove(folder: Path) -> None:
    """Delete the turn's scratch, and with it what killed turns left beside it: the lease says that none of them lives."""
    import shutil

    shutil.rmtree(folder.parent, ignore_errors=True)
