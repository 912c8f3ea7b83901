"""One trial, in a process of its own: train on some of the training rows, answer the others, score the answers.

Everything comes as plain data and goes as plain data, so that any engine can run it. The user's training function runs
as it does in the ordinary training, the model is saved and loaded as a bundle's is, and the user's inference answers.
"""

import importlib
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from interlock.errors import UserCodeFailed
from interlock.model.calls import load_function
from interlock.model.fit import MODEL_FILE, Report, Task, run_training
from interlock.model.loader import Native
from interlock.model.manifest import MANIFEST, Manifest
from interlock.model.native import answer_natively
from interlock.model.train import RUNS
from interlock.records import Record, Signature, canonical
from interlock.release.assess import Header, Witness, answer_columns, problem_of
from interlock.release.metrics import is_own, named_metric
from interlock.release.own_metric import entry_of

RUN_TRIAL = "interlock.tuning.trial:run_trial"
"""What the engine calls for each trial."""
_CODE = "code"
_WHO = "candidate"


class Fold(Record, frozen=True, kw_only=True):
    """Parquet files of the rows to learn from and to score on. ``scale``: see ``neg_mase``."""

    fit: str
    valid: str
    scale: float | None = None


class Measure(Record, frozen=True, kw_only=True):
    """How answers are scored. ``metric_root`` is the folder that a metric of the user's own is imported from."""

    task: str
    metric: str
    greater_is_better: bool
    target: str
    metric_root: str = ""


class TrialTask(Record, frozen=True, kw_only=True):
    """What :func:`run_trial` is asked to do; paths are local.

    ``task`` is the ordinary training's, with the trial's parameters; ``folder`` is the trial's own, with the user's
    files under ``code``. ``manifest`` describes the model as a bundle's does. ``bars`` are (step, value) pairs: a trial
    whose best report so far is worse than the bar of that step is given up.
    """

    task: Task
    folds: tuple[Fold, ...]
    folder: str
    manifest: Manifest
    signature: Signature
    measure: Measure
    bars: tuple[tuple[int, float], ...] = ()


class TrialEnd(Record, frozen=True, kw_only=True):
    """How a trial went. ``score`` is None for one that was given up; ``reports`` are (step, value) pairs."""

    score: float | None
    seconds: float
    reports: tuple[tuple[int, float], ...] = ()


class GivenUp(BaseException):
    """Raised inside ``report``, through the user's code, to end a trial; not an error, so no ``except`` stops it."""


class Course:
    """What a trial reported so far, held against the bars."""

    def __init__(self, bars: Mapping[int, float], *, greater_is_better: bool) -> None:
        self._bars = bars
        self._sign = 1.0 if greater_is_better else -1.0
        self._best = -math.inf
        self.reports: dict[int, float] = {}

    def report(self, step: int, value: float) -> None:
        """Take one report; raises :class:`GivenUp` when the trial is not worth going on with.

        Raises :class:`TypeError` and :class:`ValueError` for what is no step and no finite number.
        """
        step, number = int(step), float(value)
        if step < 0 or not math.isfinite(number):
            raise ValueError(f"report takes a step from 0 and a finite number, not {step} and {number}")
        self.reports[step] = number
        self._best = max(self._best, self._sign * number)
        bar = self._bars.get(step)
        if bar is not None and self._best < self._sign * bar:
            raise GivenUp


def run_trial(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run the trial ``arguments["trial"]``, a :class:`TrialTask`; gives a :class:`TrialEnd`. Runs user code."""
    trial = msgspec.convert(arguments["trial"], TrialTask)
    course = Course(dict(trial.bars), greater_is_better=trial.measure.greater_is_better)
    single = len(trial.folds) == 1
    started = time.perf_counter()
    scores: list[float] = []
    score = None
    try:
        for number, fold in enumerate(trial.folds):
            _train(trial, fold, arguments.get("folders") or (), course.report if single else None)
            scores.append(_fold_score(trial, fold))
            score = math.fsum(scores) / len(scores)
            if not single:
                course.report(number, score)
    except GivenUp:
        score = None
    end = TrialEnd(score=score, seconds=time.perf_counter() - started, reports=tuple(sorted(course.reports.items())))
    return dict(msgspec.to_builtins(end))


def _fold_score(trial: TrialTask, fold: Fold) -> float:
    """Load the model as a bundle's is loaded, let it answer, and score the answers."""
    home = Path(trial.folder)
    model_dir = Path(trial.task.model_dir)
    manifest = trial.manifest
    if manifest.native is not None:
        model = MODEL_FILE if (model_dir / MODEL_FILE).is_file() else None
        manifest = msgspec.structs.replace(manifest, native=msgspec.structs.replace(manifest.native, model=model))
    (home / MANIFEST).write_bytes(canonical(manifest))
    valid = pl.read_parquet(fold.valid)
    answers = answer_natively(Native(home), trial.signature, valid.select(trial.signature.names))
    return score_answers(answers, valid[trial.measure.target], trial.signature, trial.measure, fold.scale)


def _train(trial: TrialTask, fold: Fold, folders: Sequence[str], report: Report | None) -> None:
    """Run the user's training on the rows of a fold, as the ordinary training runs it."""
    task = msgspec.structs.replace(trial.task, rows=fold.fit)
    for folder in (task.model_dir, task.data_dir):  # of the fold before
        shutil.rmtree(folder, ignore_errors=True)
    Path(task.model_dir).mkdir(parents=True)
    arguments = {"task": msgspec.to_builtins(task), "folders": list(folders)}
    if task.entry.kind == "function":
        run_training(arguments, report)
        return
    module, _, name = RUNS[task.entry.kind].partition(":")
    run: Callable[[Mapping[str, Any]], Any] = getattr(importlib.import_module(module), name)
    run(arguments)


def score_answers(
    answers: pl.DataFrame, truth: pl.Series, signature: Signature, measure: Measure, scale: float | None
) -> float:
    """Score answers by the gate's metric: the same code as the judge's, without its intervals.

    Raises :class:`UserCodeFailed` when a metric of the user's own gives no finite number, and
    :class:`~interlock.release.score.Undefined` when the metric has no value on these rows.
    """
    if is_own(measure.metric):
        return _own(measure, truth, answers["prediction"])
    witness = Witness(who=_WHO, classes=signature.output.classes if signature.output else None)
    frame = pl.DataFrame([truth.alias("truth"), *answer_columns(witness, answers)])
    metric = named_metric(measure.metric, measure.task)
    header = Header(task=measure.task, models=(witness,), scale=scale)
    return metric.values(problem_of(frame, header, metric.truth))[0]


def _own(measure: Measure, truth: pl.Series, answers: pl.Series) -> float:
    function = load_function(Path(measure.metric_root), entry_of(measure.metric))
    value = function(truth.to_numpy(), answers.to_numpy())
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserCodeFailed(
            f"The metric {measure.metric} gave {type(value).__name__} where a finite number was due.",
            next_step="Let it return one float for (y_true, y_pred).",
            cause="nonsense",
        )
    return number
