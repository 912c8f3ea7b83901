"""One turn: the only module that names every stage.

A turn is a straight function over idempotent stages. Each reads recorded state and writes recorded state; whatever was
recorded before is skipped, so running a turn again after a crash ends as an undisturbed one. What a stage refuses
(a file, a training, a candidate, a batch) is recorded and told, and the stages that do not need it go on: a broken
training function does not keep the champion from scoring today's batch.

Stages that learn, judge or score are imported when there is something to learn, judge or score, so that a turn with
nothing new, which is most turns, ends at once.
"""

import re
import secrets
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec

from interlock.data.ingest import ingest
from interlock.data.opening import shown
from interlock.data.snapshot import feature_names, make_snapshot, require_intact
from interlock.errors import (
    ChampionDamaged,
    Fault,
    InterlockError,
    LeaseLost,
    SettingsError,
    StoreFault,
    UserCodeFailed,
    bounded,
)
from interlock.model.contract import Contract, read_contract
from interlock.model.runner import Runner
from interlock.model.train import train, training_digest
from interlock.outcome import Problem, Step, TurnResult, batch_note, conclude, files_note
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
    digest,
    facts_of,
    moment,
    short,
    timestamp,
)
from interlock.release.canary import keeps_its_place
from interlock.release.standing import current, damage_of, taken_back, tallies_of, trial_of
from interlock.tuning.standing import due, in_force, params_text, study_digest, with_params

LEASE = "turn"
_TURN_ID = re.compile(r"^\d{8}T\d{6}-[0-9a-f]{6}$")
LEASE_S = 120.0
"""A turn on another host is taken for dead when it has not renewed its lease for this long."""


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


class TrainingLink(Record, frozen=True, kw_only=True):
    """The part of the ``training`` document that the loop reads: which bundle came of it."""

    bundle: str


class Answered(Record, frozen=True, kw_only=True):
    """A candidate was judged against a champion on a holdout, under the rules with this digest."""

    rules: str
    verdict: str = ""
    receipt: int = 0


# ---- the turn ----------------------------------------------------------------------------------------------------


def run_turn(parts: Parts, progress: Progress, runner: Runner | None = None, *, search: bool = False) -> TurnResult:
    """Take the lease, run one turn, and record how it ended.

    ``runner`` may be warming up already. ``search`` asks for a search for parameters that is not due. Raises
    :class:`~interlock.errors.LeaseHeld` while another turn runs, and :class:`~interlock.errors.ContractError` or
    :class:`~interlock.errors.SettingsError` before anything is touched when the project cannot work.
    """
    if search and not parts.settings.tune.trials:
        raise SettingsError(
            "There is nothing to search: tune.trials is 0.", next_step="Set trials and space under [tune]."
        )
    contract = read_contract(parts.settings)
    with _lease(parts.ledger) as fence:
        turn = Turn(id=_new_id(parts), fence=fence, say=progress.say)
        scratch = parts.settings.home / "work" / turn.id
        _sweep(scratch.parent)
        with runner or Runner.of(parts.settings, contract.preload, scratch) as worker:
            worker.scratch = scratch
            result = _Pass(parts, turn, progress, contract, worker, search=search).run()
        shutil.rmtree(scratch, ignore_errors=True)
        with turn.transaction(parts.ledger) as transaction:
            transaction.append("turn.ended", turn.id, turn.recordable(facts_of(result)))
        if parts.settings.is_followed:
            result = _tell(parts, progress, result)
    return result


def _tell(parts: Parts, progress: Progress, result: TurnResult) -> TurnResult:
    """Tell the systems that follow the ledger; the turn is recorded already, and nothing here changes how it ended."""
    from interlock.report.followers import tell

    started = parts.clock.monotonic()
    progress.begin("mirror")
    told = tell(parts, progress.say)
    elapsed = parts.clock.monotonic() - started
    note = "; ".join(one.note for one in told) or "nothing new"
    failed = any(one.problem for one in told)
    progress.end("mirror", note, elapsed, failed=failed)
    return msgspec.structs.replace(
        result,
        notes=(*result.notes, *(f"mirror: {one.note}" for one in told if one.problem)),
        steps=(*result.steps, Step(name="mirror", note=note, seconds=elapsed, failed=failed)) if told else result.steps,
    )


def _new_id(parts: Parts) -> str:
    return f"{parts.clock.now().strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(3)}"


def _sweep(folder: Path) -> None:
    """Delete what killed turns left behind; the lease says that none of them lives."""
    for path in folder.glob("*"):
        if _TURN_ID.match(path.name):
            shutil.rmtree(path, ignore_errors=True)


class _Pass:
    """One pass over the stages: remembers what happened, so that the end can be told in one sentence."""

    def __init__(
        self, parts: Parts, turn: Turn, progress: Progress, contract: Contract, runner: Runner, *, search: bool = False
    ) -> None:
        self.search = search
        self.parts, self.turn, self.progress = parts, turn, progress
        self.contract, self.runner = contract, runner
        self.runner_started = False
        self.steps: list[Step] = []
        self.problems: list[Problem] = []
        self.files: list[FileResult] = []
        self.batches: list[BatchResult] = []
        self.snapshot: Snapshot | None = None
        self.baseline: Bundle | None = None
        self.candidate: str = ""
        self.decision: Decision | None = None
        self.receipt: int | None = None
        self.released = False
        self.challenger = ""
        self.waiting: int | None = None
        self.notes: list[str] = []

    def run(self) -> TurnResult:
        started = self.parts.clock.monotonic()
        if current(self.parts.ledger) is None:
            self.ready_runner()  # the first turn will train: import the user's libraries while files are read
        self._step("ingest", self._ingest)
        if any(file.status == "accepted" for file in self.files):
            self.ready_runner()
        if not self.problems and self._has_rows():
            self._step("snapshot", self._snapshot)
        if self.snapshot is not None:
            self._learn(self.snapshot)
        if self.parts.settings.batch.inbox and current(self.parts.ledger) is not None:
            self._step("batch", self._batch)
        done = TurnResult(
            turn=self.turn.id,
            files=tuple(self.files),
            snapshot=self.snapshot.digest if self.snapshot else "",
            candidate=self.candidate,
            decision=self.decision,
            receipt=self.receipt,
            released=self.released,
            challenger=self.challenger,
            release=current(self.parts.ledger),
            batches=tuple(self.batches),
            problems=tuple(self.problems),
            waiting=self.waiting,
            notes=(*self.notes, *self.turn.notes),
            steps=tuple(self.steps),
            seconds=self.parts.clock.monotonic() - started,
            at=timestamp(self.parts.clock.now()),
        )
        inboxes = [source.inbox for source in self.parts.settings.sources.values()]
        outcome, sentence, next_step = conclude(done, inboxes)
        return msgspec.structs.replace(done, outcome=outcome, sentence=sentence, next_step=next_step)

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
            self.turn.withhold(problem.message, problem.recorded)
            if isinstance(problem, UserCodeFailed):
                self.turn.withhold(problem.traceback, problem.recorded_traceback)
            self.problems.append(
                Problem(
                    step=name,
                    code=problem.code,
                    message=problem.message,
                    next_step=problem.next_step,
                    exit_code=problem.exit_code,
                    done=isinstance(problem, ChampionDamaged),
                    traceback=getattr(problem, "traceback", ""),
                    output_tail=str(problem.facts.get("output_tail") or ""),
                )
            )
        except Exception as problem:  # noqa: BLE001 - a fault of ours in one step must not keep the others from working
            failed = True
            kept = f"{type(problem).__name__} inside Interlock"
            note = f"{kept}: {bounded(str(problem), 200)}"
            told = "".join(traceback.format_exception(problem))
            self.turn.withhold(note, kept)
            self.turn.withhold(told, "".join(traceback.format_tb(problem.__traceback__)))
            self.problems.append(
                Problem(
                    step=name,
                    code="Fault",
                    message=note,
                    next_step="Please report it with the traceback.",
                    exit_code=Fault.exit_code,
                    traceback=told,
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
        self.notes += [f"{shown(file.name)}: {note}" for file in self.files for note in file.notes]
        return files_note(self.files)

    def _has_rows(self) -> bool:
        return all(self.parts.tables.version(f"sources/{name}") is not None for name in self.parts.settings.sources)

    def _snapshot(self) -> str:
        began = timestamp(self.parts.clock.now())
        self.snapshot = make_snapshot(self.parts, self.turn)
        made = self.snapshot
        if made.at >= began:
            self.notes += made.join_notes
        return f"{made.training_rows:,} rows to learn from, {made.holdout_rows:,} held out ({short(made.digest)})"

    def _learn(self, snapshot: Snapshot) -> None:
        """Tune, train, pack, judge and decide, as far as it is not recorded."""
        ledger = self.parts.ledger
        if self.parts.settings.tune.trials and not self._tuned(snapshot):
            return
        key = training_digest(self.parts.settings, self.contract, snapshot)
        known = ledger.read("training", key, TrainingLink)
        if known is None:
            if not self._step("train", lambda: self._train(snapshot)):
                return
        else:
            self.candidate = known.bundle
        release = current(ledger)
        if release is not None and self.candidate in (release.champion, release.challenger):
            return
        if self.candidate in taken_back(ledger):
            return
        if release is not None and self._waits_for_trial(release):
            return
        champion = release.champion if release else None
        question = f"{self.candidate}/{champion or 'none'}/{snapshot.holdout_digest}"
        answered = ledger.read("judged", question, Answered)
        if answered is not None and answered.rules == self._rules():
            self.waiting = answered.receipt if answered.verdict == "hold" else None
            return
        self._step("judge", lambda: self._judge(snapshot, champion, question))

    def _waits_for_trial(self, release: Release) -> bool:
        """Whether a challenger is being tried, which a newer candidate must not cut short."""
        trial = trial_of(self.parts.ledger, release)
        if trial is None:
            return False
        elapsed_s = (self.parts.clock.now() - moment(trial.since)).total_seconds()
        if not keeps_its_place(trial, tallies_of(self.parts.ledger, trial), elapsed_s):
            return False
        told = f"candidate {short(self.candidate)} is judged when the trial of {short(trial.challenger)} has ended"
        self.notes.append(told)
        return True

    def _tuned(self, snapshot: Snapshot) -> bool:
        """Lay the parameters in force over the settings, after a search where one is due."""
        settings, code, ledger = self.parts.settings, self.contract.code, self.parts.ledger
        study = study_digest(settings, code, snapshot, feature_names(settings, snapshot.columns))
        why = (
            "it was asked for" if self.search else due(settings, code, study, in_force(ledger), self.parts.clock.now())
        )
        if why and not self._step("tune", lambda: self._tune(snapshot, why)):
            return False
        found = in_force(ledger)
        assert found is not None, "a search that ended well is in force"
        self.parts = replace(self.parts, settings=with_params(settings, found.params))
        return True

    def _tune(self, snapshot: Snapshot, why: str) -> str:
        from interlock.store.engine import LocalEngine
        from interlock.tuning.search import search

        self.turn.say(f"searching, as {why}")
        engine = LocalEngine(self.ready_runner().run_job, self.parts.settings.tune.parallel)
        found = search(self.parts, self.turn, self.contract, snapshot, engine, more=self.search)
        trials = found.complete + found.pruned + found.failed
        return f"best of {trials} trials: {found.metric} {found.score:.4g} ({params_text(found.params)})"

    def _train(self, snapshot: Snapshot) -> str:
        from interlock.model.bundle import pack, pack_baseline
        from interlock.release.gate import policy_of

        policy_of(self.parts.settings)  # an impossible metric is told before the training, not after it
        runner = self.ready_runner()
        require_intact(self.parts, snapshot, "training")
        # while the worker still imports the user's libraries
        self.baseline = pack_baseline(self.parts, self.turn, snapshot=snapshot)
        trained = train(self.parts, self.turn, self.contract, snapshot, runner)
        self.turn.say("packing")
        bundle = pack(self.parts, self.turn, trained=trained, contract=self.contract, snapshot=snapshot, runner=runner)
        self.candidate = bundle.digest
        return f"{short(bundle.digest)}, {bundle.form} form, trained in {trained.training.seconds:.1f} s"

    def _judge(self, snapshot: Snapshot, champion: str | None, question: str) -> str:
        from interlock.model.bundle import pack_baseline
        from interlock.release.gate import decide, policy_of
        from interlock.release.judge import judge
        from interlock.release.registry import record_decision

        parts, turn = self.parts, self.turn
        runner = self.ready_runner()
        require_intact(parts, snapshot, "holdout")  # the user's training code has run since it was written
        baseline = self.baseline or pack_baseline(parts, turn, snapshot=snapshot)
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
        event, release = record_decision(parts, turn, receipt, baseline=baseline.digest)
        with turn.transaction(parts.ledger) as transaction:
            answered = Answered(rules=self._rules(), verdict=decision.verdict, receipt=event.sequence)
            transaction.put("judged", question, answered)
        self.decision, self.receipt = decision, event.sequence
        self.released = release is not None and release.challenger != self.candidate
        self.challenger = self.candidate if release is not None and not self.released else ""
        return decision.reason

    def _rules(self) -> str:
        """Names the gate's rules: under other rules the same evidence may lead to another decision."""
        return digest(facts_of(self.parts.settings.gate))

    def _batch(self) -> str:
        from interlock.answer.batch import score_inbox

        self.batches = score_inbox(self.parts, self.turn, self.ready_runner)
        release = current(self.parts.ledger)
        damage = damage_of(self.parts.ledger, release)
        if release is not None and damage is not None:
            raise ChampionDamaged(
                damage.told(release.champion), next_step=damage.next_step, champion=release.champion, tier=damage.tier
            )
        return batch_note(self.batches)


def _bundle(parts: Parts, name: str) -> Bundle:
    bundle = parts.ledger.read("bundle", name, Bundle)
    assert bundle is not None, f"bundle {short(name)} is released or linked, so it was recorded"
    return bundle


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
            except LeaseLost:
                return  # the fence refuses the next commit, which tells it better
            except InterlockError:
                continue  # the store is away; when it is back before the lease runs out, nothing is lost

    keeper = threading.Thread(target=renew, name="interlock-lease", daemon=True)
    keeper.start()
    try:
        yield fence
    finally:
        done.set()
        keeper.join()
        with suppress(StoreFault):  # it runs out by itself, and what the turn recorded or raised matters more
            ledger.release(fence)
