"""Search for better parameters on the training rows, and put the best in force.

Trials never see the holdout: each learns from some of the training rows and is scored on others (see ``folds``). The
parameters that were there before are the first trial, so that on the same rows a search never ends below them. The
journal under ``.interlock/tune/`` carries a search over a kill; what it found is recorded once, and after that the same
question is answered from the record.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from interlock.data.snapshot import feature_names, require_intact, snapshot_frame
from interlock.errors import InterlockError, UserCodeFailed
from interlock.model.bundle import add_hooks, draft_manifest, native_spec, signature_of
from interlock.model.confine import OPEN_UP
from interlock.model.contract import Contract
from interlock.model.train import freeze, import_folders, training_task
from interlock.ports import Engine, Job, JobResult, Parts, Turn
from interlock.records import Snapshot, canonical, facts_of, short, timestamp
from interlock.release.gate import policy_of
from interlock.release.judge import target_scale
from interlock.release.metrics import is_own
from interlock.release.own_metric import entry_of
from interlock.settings import Settings
from interlock.tuning.folds import split
from interlock.tuning.standing import (
    COLLECTION,
    IN_FORCE,
    InForce,
    TrialRecord,
    TrialTable,
    Tuning,
    basis_of,
    in_force,
    params_text,
    study_digest,
)
from interlock.tuning.study import Asked, Study, held, require_optuna
from interlock.tuning.trial import RUN_TRIAL, Fold, Measure, TrialEnd, TrialTask
from interlock.units import seconds

HOPELESS_TRIALS = 10
"""A search whose first trials all fail is given up after so many."""


def search(
    parts: Parts, turn: Turn, contract: Contract, snapshot: Snapshot, engine: Engine, *, more: bool = False
) -> Tuning:
    """Answer which parameters are best, from the record where it is there, and put them in force.

    ``more`` asks for ``tune.trials`` more trials than were made. Raises :class:`UserCodeFailed` when every trial fails,
    :class:`~interlock.errors.SettingsError` when Optuna is missing, and :class:`~interlock.errors.DataRefused` when
    there are too few rows.
    """
    settings = parts.settings
    name = study_digest(settings, contract.code, snapshot, feature_names(settings, snapshot.columns))
    known = parts.ledger.read(COLLECTION, name, Tuning)
    target = settings.tune.trials
    if known is not None:
        target = known.target + target if more else max(target, known.target)
        if target == known.target:
            return _again(parts, turn, known)
    require_optuna()
    require_intact(parts, snapshot, "training")
    journal = settings.home / "tune" / f"{name}.log"
    with held(journal):
        course = _Course(parts, turn, contract, snapshot, journal, target)
        ended = course.run(engine)
        tuning = _record(parts, turn, course, name, ended)
    _sweep(journal)
    if tuning.status == "failed":
        raise _hopeless(tuning, settings)
    return tuning


def _again(parts: Parts, turn: Turn, known: Tuning) -> Tuning:
    """The same question was answered before."""
    if known.status == "failed":
        raise _hopeless(known, parts.settings)
    standing = in_force(parts.ledger)
    if standing is None or standing.study != known.digest or standing.trials < parts.settings.tune.trials:
        with turn.transaction(parts.ledger) as transaction:
            event = transaction.append("tune.reused", known.digest, {"params": known.params})
            transaction.put(COLLECTION, IN_FORCE, _in_force(parts.settings, known, event.sequence))
    return known


def _hopeless(tuning: Tuning, settings: Settings) -> UserCodeFailed:
    kept_out = settings.model.confined and PermissionError.__name__ in tuning.reason
    mend = OPEN_UP if kept_out else "Mend the code or narrow [tune.space]."
    return UserCodeFailed(
        f"All {tuning.failed} trials of the search failed; the last one: {tuning.reason}",
        next_step=f"{mend} To try the same again: interlock run --tune.",
        cause="raised",
        trials=tuning.failed,
    )


# ---- the trials --------------------------------------------------------------------------------------------------


@dataclass
class _Plan:
    """What all trials of a search have in common: the template of a trial, and where its files are."""

    trial: TrialTask
    code: Path
    folders: tuple[str, ...]
    deadline_s: float
    fit_rows: list[int] = field(default_factory=list)
    valid_rows: list[int] = field(default_factory=list)


class _Course:
    """One run of a search: asks the study, has the engine run what it proposes, tells the study what came of it."""

    def __init__(
        self, parts: Parts, turn: Turn, contract: Contract, snapshot: Snapshot, journal: Path, target: int
    ) -> None:
        self.parts, self.turn, self.contract, self.snapshot, self.target = parts, turn, contract, snapshot, target
        settings = parts.settings
        self.metric = policy_of(settings).metric
        self.greater = not is_own(self.metric) or settings.gate.greater_is_better is not False
        self.study = Study(
            journal, journal.stem, settings.tune, seed=settings.model.seed, greater_is_better=self.greater
        )
        self.starts = _starts(parts)
        self.scratch = settings.home / "work" / turn.id / f"tuning-{short(journal.stem)}"
        self.plan = self._planned()
        self.asked: dict[str, Asked] = {}
        self.ended = ""
        self.failed_now = 0
        self.started = parts.clock.monotonic()

    @property
    def seconds(self) -> float:
        """Time since this run of the search began."""
        return self.parts.clock.monotonic() - self.started

    def run(self, engine: Engine) -> str:
        """Run trials until an end is reached; says which."""
        interrupted = self.study.resume()
        if self.study.begun:
            again = f", {interrupted} tried again" if interrupted else ""
            self.turn.say(f"going on after {self.study.begun} trials{again}")
        with contextlib.closing(engine.map(RUN_TRIAL, self._jobs())) as results:
            for result in results:
                self._take(result)
        shutil.rmtree(self.scratch, ignore_errors=True)
        return self.ended

    def best(self, records: Sequence[TrialRecord] | None = None) -> TrialRecord | None:
        """The trial with the best score, the earliest of equals."""
        found = [record for record in records or self.study.records() if record.score is not None]
        sign = 1.0 if self.greater else -1.0
        return max(found, key=lambda record: (sign * (record.score or 0.0), -record.number), default=None)

    def _jobs(self) -> Iterator[Job]:
        while not self._is_over():
            place = self.study.begun
            asked = self.study.ask(self.starts[place] if place < len(self.starts) else None)
            twin = self._twin(asked)
            if twin is not None:  # training is a function of its inputs: the same parameters give the same score
                self.study.complete(asked, TrialEnd(score=twin.score, seconds=0.0, reports=twin.reports))
                self._tell()
                continue
            key = str(asked.number)
            self.asked[key] = asked
            yield Job(key=key, arguments=self._arguments(asked), deadline_s=self.plan.deadline_s)

    def _is_over(self) -> bool:
        tune, records = self.parts.settings.tune, self.study.records()
        best = self.best(records)
        scored = [record for record in records if record.state != "failed"]
        if self.study.begun >= self.target:
            self.ended = "all trials were made"
        elif records and tune.timeout is not None and self.seconds >= seconds(tune.timeout):
            self.ended = f"the time of {tune.timeout} was up"
        elif best is not None and tune.patience and len(records) - best.number >= tune.patience:
            self.ended = f"no trial was better than the best for {tune.patience} trials"
        elif not scored and self.failed_now >= HOPELESS_TRIALS:
            self.ended = "every trial failed"
        return bool(self.ended)

    def _twin(self, asked: Asked) -> TrialRecord | None:
        return next((r for r in self.study.records() if r.state == "complete" and r.params == asked.params), None)

    def _arguments(self, asked: Asked) -> dict[str, Any]:
        plan, home = self.plan, self.scratch / f"trial-{asked.number}"
        home.mkdir(parents=True)
        (home / "code").symlink_to(plan.code)
        params = {**self.parts.settings.params, **asked.params}
        task = msgspec.structs.replace(
            plan.trial.task,
            params=params,
            code=str(home / "code"),
            model_dir=str(home / "model"),
            data_dir=str(home / "data"),
        )
        trial = msgspec.structs.replace(
            plan.trial,
            task=task,
            folder=str(home),
            manifest=msgspec.structs.replace(plan.trial.manifest, params=params),
            bars=self.study.bars(),
        )
        return {
            "folders": [*import_folders(home / "code", self.contract), *plan.folders],
            "seed": self.parts.settings.model.seed,
            "label": f"trial {asked.place + 1}, {self.contract.train.label}",
            "trial": msgspec.to_builtins(trial),
            "reads": [str(self.scratch), task.rows, *task.references.values()],
            "writes": [str(home)],
        }

    def _take(self, result: JobResult) -> None:
        asked = self.asked.pop(result.key)
        shutil.rmtree(self.scratch / f"trial-{asked.number}", ignore_errors=True)
        if result.error is None:
            self.study.complete(asked, msgspec.convert(result.value, TrialEnd))
        else:
            self.failed_now += 1
            took = result.error.facts.get("seconds", 0.0)
            self.study.fail(asked, result.error.recorded, float(took) if isinstance(took, int | float) else 0.0)
        self._tell(result.error)

    def _tell(self, error: InterlockError | None = None) -> None:
        done, best = len(self.study.records()), self.best()
        told = f"trial {done}/{self.target}: "
        if best is not None:
            told += f"best {self.metric} {best.score:.4g} ({params_text(best.params)})"
        elif error is not None:
            told += f"failed. {error.message}"
        else:
            told += "given up"
        self.turn.say(told)

    # -- what is the same for all

    def _planned(self) -> _Plan:
        parts, settings = self.parts, self.parts.settings
        shutil.rmtree(self.scratch, ignore_errors=True)
        code = self.scratch / "code"
        freeze(settings.root, self.contract, code)
        add_hooks(code, self.contract)
        base = training_task(parts, self.contract, self.snapshot, self.scratch)
        signature = signature_of(parts, self.snapshot)
        manifest = draft_manifest(settings, self.snapshot, signature, kind="model", code=self.contract.code)
        native = native_spec(Path(base.model_dir), self.contract, settings, signature)
        manifest = msgspec.structs.replace(manifest, native=native)
        metric_root = ""
        folders: tuple[str, ...] = ()
        if is_own(self.metric):
            entry = entry_of(self.metric)
            packed = entry.path in self.contract.files
            metric_root = str(code if packed else settings.root)
            folders = (str(Path(metric_root) / entry.search),)
        plan = _Plan(
            trial=TrialTask(
                task=base,
                folds=(),
                folder="",
                manifest=manifest,
                signature=signature,
                measure=Measure(
                    task=settings.model.task,
                    metric=self.metric,
                    greater_is_better=self.greater,
                    target=settings.model.target,
                    metric_root=metric_root,
                ),
            ),
            code=code,
            folders=folders,
            deadline_s=seconds(settings.tune.deadline or settings.model.deadline),
        )
        plan.trial = msgspec.structs.replace(plan.trial, folds=self._folds(plan, base.order))
        return plan

    def _folds(self, plan: _Plan, order: str) -> tuple[Fold, ...]:
        """Write the rows of every fold once; every trial reads them."""
        settings = self.parts.settings
        frame = snapshot_frame(self.parts, self.snapshot.training_key).collect()
        cut = split(frame.height, frame[order] if order else None, settings.tune.folds, settings.model.seed)
        folds = []
        for number, (fit, valid) in enumerate(cut):
            learnt = frame[fit]
            known = frame[valid].filter(pl.col(settings.model.target).is_not_null())
            paths = [self.scratch / f"fold-{number}-{name}.parquet" for name in ("fit", "valid")]
            learnt.write_parquet(paths[0])
            known.write_parquet(paths[1])
            scale = target_scale(settings, learnt.lazy()) if settings.model.task == "forecast" else None
            folds.append(Fold(fit=str(paths[0]), valid=str(paths[1]), scale=scale))
            plan.fit_rows.append(learnt.height)
            plan.valid_rows.append(known.height)
        return tuple(folds)


def _starts(parts: Parts) -> list[dict[str, Any]]:
    """Where the search begins: the parameters in force, then those of the settings, as far as the space holds them."""
    settings = parts.settings
    standing = in_force(parts.ledger)
    starts: list[dict[str, Any]] = []
    for params in ({**settings.params, **standing.params} if standing else {}, settings.params):
        start = {
            key: params[key] for key, dim in settings.tune.space.items() if key in params and dim.holds(params[key])
        }
        if start and start not in starts:
            starts.append(start)
    return starts


# ---- the record --------------------------------------------------------------------------------------------------


def _record(parts: Parts, turn: Turn, course: _Course, name: str, ended: str) -> Tuning:
    """Store the table of trials, and record the end of the search with what is in force from now on."""
    settings, records = parts.settings, course.study.records()
    content = canonical(TrialTable(trials=tuple(records)))
    table = hashlib.sha256(content).hexdigest()
    key = f"tunings/{table}.json"
    parts.blobs.put(key, content)
    best = course.best(records)
    counts = {state: sum(record.state == state for record in records) for state in ("complete", "pruned", "failed")}
    failures = [record.reason for record in records if record.state == "failed"]
    tuning = Tuning(
        digest=name,
        status="done" if best is not None else "failed",
        basis=basis_of(settings, course.contract.code),
        snapshot=course.snapshot.digest,
        code=course.contract.code,
        metric=course.metric,
        greater_is_better=course.greater,
        params=best.params if best else {},
        score=best.score if best else None,
        start_score=_start_score(course.starts, records),
        target=course.target,
        **counts,
        ended=ended,
        folds=settings.tune.folds,
        fit_rows=tuple(course.plan.fit_rows),
        valid_rows=tuple(course.plan.valid_rows),
        sampler=settings.tune.sampler,
        pruner=settings.tune.pruner,
        parallel=settings.tune.parallel,
        seed=settings.model.seed,
        seconds=sum(record.seconds for record in records),
        importance=course.study.importance(),
        trials_key=key,
        trials_digest=table,
        reason=failures[-1] if failures else "",
        at=timestamp(parts.clock.now()),
    )
    with turn.transaction(parts.ledger) as transaction:
        event = transaction.append(f"tune.{tuning.status}", name, facts_of(tuning))
        transaction.put(COLLECTION, name, tuning)
        if best is not None:
            transaction.put(COLLECTION, IN_FORCE, _in_force(settings, tuning, event.sequence))
    return tuning


def _start_score(starts: Sequence[dict[str, Any]], records: Sequence[TrialRecord]) -> float | None:
    """Score of the first trial, when it was given all of its parameters."""
    first = next(iter(records), None)
    return first.score if first is not None and starts and first.params == starts[0] else None


def _in_force(settings: Settings, tuning: Tuning, entry: int) -> InForce:
    assert tuning.score is not None
    return InForce(
        study=tuning.digest,
        basis=tuning.basis,
        params=tuning.params,
        score=tuning.score,
        metric=tuning.metric,
        trials=settings.tune.trials,
        at=tuning.at,
        entry=entry,
    )


def _sweep(journal: Path) -> None:
    """Delete the journals of other searches: they are recorded, or about rows that are no longer the newest."""
    for path in journal.parent.glob("*"):
        if path.stem != journal.stem and path.suffix in (".log", ".lock"):
            path.unlink(missing_ok=True)
