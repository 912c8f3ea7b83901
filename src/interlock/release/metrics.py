"""The metrics by name: which there are, which fits a task, which decides when nobody says."""

import difflib
import math
from collections.abc import Sequence

from interlock.errors import SettingsError
from interlock.release import score
from interlock.release.found import FOUND
from interlock.release.score import Metric, Truth

METRICS: dict[str, Metric] = {**score.METRICS, **FOUND}
_TRUTH: dict[str, Truth] = {
    "classification": "labels",
    "regression": "numbers",
    "forecast": "numbers",
    "ranking": "ranking",
    "text": "text",
}
_DEFAULT = {
    "classification": "f1_macro",
    "regression": "r2",
    "forecast": "neg_mean_absolute_error",
    "ranking": "recall_at_10",
    "text": "token_f1",
}
_ALSO = {
    "classification": ("accuracy", "balanced_accuracy", "f1_macro", "matthews_corrcoef", "roc_auc_ovr", "neg_log_loss"),
    "regression": ("r2", "neg_mean_absolute_error", "neg_root_mean_squared_error", "neg_median_absolute_error"),
    "forecast": ("neg_mean_absolute_error", "neg_root_mean_squared_error", "neg_smape", "neg_mase"),
    "ranking": ("recall_at_1", "recall_at_10", "mean_reciprocal_rank", "ndcg"),
    "text": ("exact_match", "token_f1"),
}


_LOWEST = {"matthews_corrcoef": -1.0}
"""Metrics of labels, rankings and text whose best is 1 have 0 as their lowest value, but for these."""


def truth_of(task: str) -> Truth | None:
    """What the truth of a task is made of; None for a custom task, which only the owner can tell."""
    return _TRUTH.get(task)


def is_own(name: str) -> bool:
    """Tell a function of the user (``file.py:function``) from a metric by name."""
    return ".py" in name


def chosen_metric(name: str, task: str) -> str:
    """Find the metric that decides: ``name``, or the task's default when empty; raises :class:`SettingsError`.

    Defaults: f1_macro for labels (no class can hide behind a common one), r2 for numbers, the mean absolute error for
    forecasts (r2 is flattered by trend and season), recall among the first ten for rankings, and the overlap of words
    for text.
    """
    if not name:
        if task not in _DEFAULT:
            raise SettingsError(
                f"A {task} task has no metric of its own.",
                next_step="Set gate.metric to a metric's name, or to file.py:function(y_true, y_pred).",
            )
        return _DEFAULT[task]
    if not is_own(name):
        named_metric(name, task)
    return name


def named_metric(name: str, task: str) -> Metric:
    """Find the metric of that name, fit for the task; raises :class:`SettingsError` naming the nearest."""
    metric = METRICS.get(name)
    if metric is None:
        near = (
            [f"neg_{name}"] if f"neg_{name}" in METRICS else difflib.get_close_matches(name, METRICS, n=1, cutoff=0.0)
        )
        raise SettingsError(
            f"There is no metric '{name}'.",
            next_step=f"Did you mean '{near[0]}'? Known: {', '.join(METRICS)}.",
            metric=name,
        )
    truth = truth_of(task)
    if truth is not None and metric.truth != truth:
        raise SettingsError(
            f"{name} is a metric of {metric.truth}, and a {task} model answers with {truth}.",
            next_step=f"Set gate.metric to '{_DEFAULT[task]}', or leave it out.",
            metric=name,
        )
    return metric


def shown_metrics(task: str, also: Sequence[str], deciding: str) -> tuple[str, ...]:
    """Names of the metrics to show besides the one that decides: the user's, then a few usual ones of the task."""
    names = dict.fromkeys([*also, *_ALSO.get(task, ())])
    return tuple(name for name in names if name != deciding)


def span_of(name: str) -> float:
    """Largest gain that one model can have over another by this metric; infinite where scores have no lowest value."""
    metric = METRICS.get(name)
    if metric is None or metric.truth == "numbers" or metric.best != 1.0:
        return math.inf
    return 1.0 - _LOWEST.get(name, 0.0)


def error_of(value: float, best: float) -> float:
    """Distance from a perfect score; 0 when perfect."""
    return max(best - value, 0.0) if math.isfinite(best) else math.nan
