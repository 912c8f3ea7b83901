"""How good is it? Metrics by scikit-learn's names, in numpy, with how they would vary on other rows.

More is better, always: errors and losses carry scikit-learn's ``neg_`` prefix. Each metric belongs to a family that
says what it is a function of, which decides how :mod:`interlock.release.resample` finds its variation:

* counts per class: accuracy, balanced accuracy, F1, precision, recall, Matthews correlation;
* means over rows: R2, squared, absolute and relative errors, log loss, Brier score;
* ranks: area under the ROC curve;
* anything with weights: average precision, median absolute error.

Values equal scikit-learn's (tests compare them), with two additions of the forecasting field: ``neg_smape``
(Makridakis, International Journal of Forecasting 9, 1993, as a share) and ``neg_mase`` (Hyndman & Koehler, IJF 22,
2006). The largest error is not among them: the bootstrap is inconsistent for extremes (Bickel & Freedman, Annals of
Statistics 9, 1981, section 6), so that no honest bound could be given.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from dataclasses import replace as with_changes
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from interlock.errors import DataRefused, SettingsError
from interlock.release.resample import (
    Floats,
    Groups,
    Integers,
    Joint,
    Labels,
    Tally,
    by_cells,
    by_ranks,
    by_sums,
    by_weights,
    group_count,
    in_groups,
)

_EPS = float(np.finfo(np.float64).eps)


class Undefined(DataRefused):
    """The metric has no value on these rows, for the reason given."""


@dataclass(frozen=True)
class Answers:
    """What one model answered on n rows.

    ``labels``: int64 [n], codes into the problem's classes, or None. ``probabilities``: float64 [n, classes] or None.
    ``numbers``: float64 [n] or None. ``ranking``: int64 [n, k], codes of what was found, best first, then -1, or None.
    ``tokens``: int64 [n, t], codes of the words of a text (a second "the" has a code of its own), then -1, or None.
    """

    labels: Integers | None = None
    probabilities: Floats | None = None
    numbers: Floats | None = None
    ranking: Integers | None = None
    tokens: Integers | None = None

    def where(self, rows: NDArray[np.bool_] | Integers) -> "Answers":
        """Keep some of the rows (bool [n]), or take rows by number (int64)."""
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        return Answers(**{name: None if part is None else part[rows] for name, part in parts.items()})


@dataclass(frozen=True)
class Problem:
    """Truth and the answers of several models on the same n rows.

    With ``classes`` (labels in sorted order) the truth is ``codes``, int64 [n]; else it is ``numbers``, float64 [n].
    For rankings it is ``codes``; for text it is ``codes`` of whole texts and ``tokens``, int64 [n, t], of their words.
    ``scale`` is the mean absolute change of the target from one training row to the next in time, for ``neg_mase``.
    ``groups``: rows that were held out together, hence count as one. ``steps``: int64 [n], the moment in time of each,
    0 and up without gaps; None where the rows have no order.
    """

    answers: tuple[Answers, ...]
    classes: tuple[object, ...] | None = None
    codes: Integers | None = None
    numbers: Floats | None = None
    tokens: Integers | None = None
    scale: float | None = None
    groups: Groups = None
    steps: Integers | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        truth = self.numbers if self.codes is None else self.codes
        return 0 if truth is None else len(truth)

    def only(self, model: int) -> "Problem":
        """Keep the answers of one model."""
        return with_changes(self, answers=(self.answers[model],))

    def reordered(self, order: Integers) -> "Problem":
        """Give each row the answers of another: ``order`` is a permutation of row numbers, int64 [n]."""
        return with_changes(self, answers=tuple(answer.where(order) for answer in self.answers))

    def where(self, rows: NDArray[np.bool_]) -> "Problem":
        """Keep some of the rows (bool [n])."""
        return with_changes(
            self,
            answers=tuple(answer.where(rows) for answer in self.answers),
            codes=None if self.codes is None else self.codes[rows],
            numbers=None if self.numbers is None else self.numbers[rows],
            groups=None if self.groups is None else np.unique(self.groups[rows], return_inverse=True)[1],
            tokens=None if self.tokens is None else self.tokens[rows],
            steps=None if self.steps is None else np.unique(self.steps[rows], return_inverse=True)[1],
        )

    def in_time(self, joint: Joint) -> Joint:
        """Tell of a joint score when its units were, and what to follow where their influence is not known."""
        if self.steps is None:
            return joint
        steps, course = self.steps, None
        if joint.influence is None:
            course = np.stack([self._errors(answer) for answer in self.answers])
        if self.groups is not None:
            first = np.full(group_count(self.groups, self.rows), self.rows, dtype=np.int64)
            np.minimum.at(first, self.groups, steps)
            steps = np.unique(first, return_inverse=True)[1]
            course = None if course is None else in_groups(course.T, self.groups).T
        return with_changes(joint, steps=steps, course=course)

    def _errors(self, answer: Answers) -> Floats:
        """How far off each row is, float64 [n]: the absolute error, or 1 for a wrong answer."""
        if answer.numbers is not None:
            assert self.numbers is not None
            return np.asarray(np.abs(self.numbers - answer.numbers))
        assert self.codes is not None
        if answer.ranking is not None:
            return np.asarray((answer.ranking != self.codes[:, None]).all(axis=1), dtype=np.float64)
        assert answer.labels is not None
        return np.asarray(answer.labels != self.codes, dtype=np.float64)


Reads = Literal["labels", "probabilities", "numbers", "ranking", "tokens"]
Truth = Literal["labels", "numbers", "ranking", "text"]
"""What the truth of a problem is made of, which decides the metrics that fit."""
_TRUTH: dict[Reads, Truth] = {
    "labels": "labels",
    "probabilities": "labels",
    "numbers": "numbers",
    "ranking": "ranking",
    "tokens": "text",
}


@dataclass(frozen=True)
class Metric(ABC):
    """One metric. ``best`` is the value of a perfect model; ``reads`` tells what part of the answers it looks at."""

    name: str
    best: float
    reads: Reads

    @property
    def truth(self) -> Truth:
        """What the truth must be."""
        return _TRUTH[self.reads]

    def differing(self, problem: Problem, one: int, other: int) -> int:
        """Count the rows, or groups of them, on which two models answer differently, as far as this metric can see."""
        mine, theirs = (getattr(problem.answers[model], self.reads) for model in (one, other))
        differs = np.asarray(mine != theirs)
        rows = differs.any(axis=1) if differs.ndim == 2 else differs
        return int(rows.sum()) if problem.groups is None else len(np.unique(problem.groups[rows]))

    def joint(self, problem: Problem, rng: np.random.Generator, resamples: int) -> Joint:
        """Scores of all models and their joint variation; raises :class:`Undefined` with the reason."""
        if problem.rows == 0:
            raise Undefined(f"{self.name} has no value: there are no rows.")
        result = self._joint(problem, rng, resamples)
        if not np.isfinite(result.estimates).all():
            raise Undefined(f"{self.name} has no finite value on these {problem.rows} rows.", metric=self.name)
        return problem.in_time(result)

    def values(self, problem: Problem) -> tuple[float, ...]:
        """Scores alone, one for each model; raises :class:`Undefined`."""
        return tuple(float(v) for v in self.joint(problem, np.random.default_rng(0), 0).estimates)

    @abstractmethod
    def _joint(self, problem: Problem, rng: np.random.Generator, resamples: int) -> Joint: ...

    def _needs_two_classes(self, problem: Problem) -> None:
        count = len(problem.classes or ())
        if count > 2:
            raise SettingsError(
                f"{self.name} is for two classes, and there are {count}.",
                next_step=f"Set gate.metric to '{_FOR_MANY[self.name]}'.",
                metric=self.name,
            )


# ---- counts ------------------------------------------------------------------------------------------------------


def _share(part: Floats, whole: Floats) -> Floats:
    """Divide part by whole, 0 where the whole is 0 (scikit-learn's zero_division=0)."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _accuracy(right: Floats, answered: Floats, true: Floats) -> Floats:
    del answered
    return np.asarray(right.sum(axis=1) / true.sum(axis=1))


def _balanced_accuracy(right: Floats, answered: Floats, true: Floats) -> Floats:
    del answered
    return np.asarray(_share(right, true).sum(axis=1) / (true > 0).sum(axis=1))


def _matthews(right: Floats, answered: Floats, true: Floats) -> Floats:
    """Multiclass Matthews correlation (Gorodkin, Computational Biology and Chemistry 28, 2004)."""
    rows = true.sum(axis=1)
    covariance = right.sum(axis=1) * rows - (answered * true).sum(axis=1)
    spread = (rows**2 - (answered**2).sum(axis=1)) * (rows**2 - (true**2).sum(axis=1))
    return _share(covariance, np.sqrt(np.maximum(spread, 0.0)))


def _f1(right: Floats, answered: Floats, true: Floats) -> Floats:
    return _share(2.0 * right, answered + true)


def _precision(right: Floats, answered: Floats, true: Floats) -> Floats:
    del true
    return _share(right, answered)


def _recall(right: Floats, answered: Floats, true: Floats) -> Floats:
    del answered
    return _share(right, true)


def _binary(per_class: Tally, right: Floats, answered: Floats, true: Floats) -> Floats:
    return per_class(right, answered, true)[:, -1]


def _macro(per_class: Tally, right: Floats, answered: Floats, true: Floats) -> Floats:
    seen = (answered + true) > 0
    return np.asarray((per_class(right, answered, true) * seen).sum(axis=1) / seen.sum(axis=1))


def _weighted(per_class: Tally, right: Floats, answered: Floats, true: Floats) -> Floats:
    return np.asarray((per_class(right, answered, true) * true).sum(axis=1) / true.sum(axis=1))


@dataclass(frozen=True)
class Counts(Metric):
    """A function of counts per class: right answers, answers, and true members."""

    tally: Tally
    binary: bool = False

    def _joint(self, problem: Problem, rng: np.random.Generator, resamples: int) -> Joint:
        if self.binary:
            self._needs_two_classes(problem)
        assert problem.codes is not None
        assert problem.classes is not None
        labels = [answer.labels for answer in problem.answers if answer.labels is not None]
        counted = Labels(problem.codes, labels, len(problem.classes), problem.groups)
        return by_cells(counted, self.tally, rng, resamples)


# ---- means -------------------------------------------------------------------------------------------------------

Components = Callable[[Problem, Answers], Floats]
"""float64 [rows, components]: what is averaged over rows."""


def _error(problem: Problem, answers: Answers) -> Floats:
    assert problem.numbers is not None
    assert answers.numbers is not None
    return problem.numbers - answers.numbers


def _squared(problem: Problem, answers: Answers) -> Floats:
    return _error(problem, answers)[:, None] ** 2


def _absolute(problem: Problem, answers: Answers) -> Floats:
    return np.abs(_error(problem, answers))[:, None]


def _relative(problem: Problem, answers: Answers) -> Floats:
    assert problem.numbers is not None
    return (np.abs(_error(problem, answers)) / np.maximum(np.abs(problem.numbers), _EPS))[:, None]


def _symmetric(problem: Problem, answers: Answers) -> Floats:
    assert problem.numbers is not None
    assert answers.numbers is not None
    return _share(2.0 * np.abs(_error(problem, answers)), np.abs(problem.numbers) + np.abs(answers.numbers))[:, None]


def _scaled(problem: Problem, answers: Answers) -> Floats:
    if not problem.scale:
        raise Undefined("neg_mase has no value: the target never changes from one training row to the next.")
    return _absolute(problem, answers) / problem.scale


def _determination(problem: Problem, answers: Answers) -> Floats:
    assert problem.numbers is not None
    centred = problem.numbers - problem.numbers.mean()
    return np.stack([centred, centred**2, _error(problem, answers) ** 2], axis=1)


def _explained(means: Floats) -> Floats:
    """1 - SSE / SST from the means of y, y squared and squared error; undefined (NaN) where y is constant."""
    total = means[:, 1] - means[:, 0] ** 2
    varies = total > 1e-12 * np.maximum(means[:, 1], 1e-300)
    return 1.0 - np.divide(means[:, 2], total, out=np.full_like(total, np.nan), where=varies)


def _chances(problem: Problem, answers: Answers, name: str) -> Floats:
    if answers.probabilities is None:
        raise SettingsError(
            f"{name} needs probabilities, and a model gives labels only.",
            next_step="Give the model a predict_proba, or set gate.metric to a metric of labels such as 'f1_macro'.",
            metric=name,
        )
    assert problem.codes is not None
    return answers.probabilities


def _log_loss(problem: Problem, answers: Answers) -> Floats:
    chances = np.clip(_chances(problem, answers, "neg_log_loss"), _EPS, 1.0 - _EPS)
    return np.asarray(-np.log(np.take_along_axis(chances, np.asarray(problem.codes)[:, None], axis=1)))


def _brier(problem: Problem, answers: Answers) -> Floats:
    chances = _chances(problem, answers, "neg_brier_score")
    truth = np.asarray(problem.codes)[:, None] == np.arange(chances.shape[1])
    halves = 2.0 if chances.shape[1] == 2 else 1.0
    return np.asarray(((chances - truth) ** 2).sum(axis=1, keepdims=True) / halves)


def _minus(means: Floats) -> Floats:
    return 0.0 - means[:, 0]  # not -x: a perfect score is 0, never -0


def _minus_root(means: Floats) -> Floats:
    return 0.0 - np.sqrt(np.maximum(means[:, 0], 0.0))


@dataclass(frozen=True)
class Means(Metric):
    """A function of means over rows of one or more components."""

    components: Components
    finish: Callable[[Floats], Floats]

    def _joint(self, problem: Problem, rng: np.random.Generator, resamples: int) -> Joint:
        columns = [self.components(problem, answers) for answers in problem.answers]
        return by_sums(columns, self.finish, rng, resamples, problem.groups)


# ---- ranks and weights -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Area(Metric):
    """Area under the ROC curve: of the greater label, or the mean over labels of one against the rest.

    A label with fewer than two rows, or with all but one of them, has no curve worth averaging and is left out.
    """

    rest: bool

    def _joint(self, problem: Problem, rng: np.random.Generator, resamples: int) -> Joint:
        del rng, resamples
        if not self.rest:
            self._needs_two_classes(problem)
        chances = [_chances(problem, answers, self.name) for answers in problem.answers]
        questions = np.arange(len(problem.classes or ())) if self.rest else np.array([chances[0].shape[1] - 1])
        positive = np.asarray(problem.codes)[:, None] == questions
        usable = (positive.sum(axis=0) >= 2) & ((~positive).sum(axis=0) >= 2)
        if not usable.any():
            raise Undefined(f"{self.name} has no value: it needs two rows of each class.", metric=self.name)
        return by_ranks(positive[:, usable], [c[:, questions[usable]] for c in chances], problem.groups)


def _average_precision(problem: Problem, answers: Answers) -> Callable[[Floats], Floats]:
    chances = _chances(problem, answers, "average_precision")
    positive = np.asarray(problem.codes) == chances.shape[1] - 1
    if not positive.any():
        raise Undefined("average_precision has no value: no row is positive.", metric="average_precision")
    order = np.argsort(-chances[:, -1], kind="stable")
    score = chances[order, -1]
    ends = np.flatnonzero(np.r_[score[1:] != score[:-1], True])
    hit = positive[order].astype(np.float64)

    def weighted(weights: Floats) -> Floats:
        ordered = weights[:, order]
        found = np.cumsum(ordered * hit, axis=1)[:, ends]
        asked = np.cumsum(ordered, axis=1)[:, ends]
        steps = np.diff(found, axis=1, prepend=0.0)
        total = (steps * _share(found, asked)).sum(axis=1)
        return np.asarray(np.divide(total, found[:, -1], out=np.full_like(total, np.nan), where=found[:, -1] > 0))

    return weighted


def _median_error(problem: Problem, answers: Answers) -> Callable[[Floats], Floats]:
    error = np.abs(_error(problem, answers))
    order = np.argsort(error, kind="stable")
    ordered = error[order]

    def weighted(weights: Floats) -> Floats:
        reached = np.cumsum(weights[:, order], axis=1)
        rows = reached[:, -1:]
        lower = ordered[(reached > (rows - 1) // 2).argmax(axis=1)]
        upper = ordered[(reached > rows // 2).argmax(axis=1)]
        return np.asarray(0.0 - (lower + upper) / 2.0)

    return weighted


@dataclass(frozen=True)
class Weighted(Metric):
    """Anything that takes a weight for each row."""

    statistic: Callable[[Problem, Answers], Callable[[Floats], Floats]]
    binary: bool = False

    def _joint(self, problem: Problem, rng: np.random.Generator, resamples: int) -> Joint:
        if self.binary:
            self._needs_two_classes(problem)
        models = [self.statistic(problem, answers) for answers in problem.answers]
        return by_weights(models, problem.rows, rng, resamples, problem.groups)


# ---- the names ---------------------------------------------------------------------------------------------------


_PER_CLASS: tuple[tuple[str, Tally], ...] = (("f1", _f1), ("precision", _precision), ("recall", _recall))

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Counts("accuracy", 1.0, "labels", _accuracy),
        Counts("balanced_accuracy", 1.0, "labels", _balanced_accuracy),
        Counts("matthews_corrcoef", 1.0, "labels", _matthews),
        *(
            metric
            for name, per_class in _PER_CLASS
            for metric in (
                Counts(name, 1.0, "labels", partial(_binary, per_class), binary=True),
                Counts(f"{name}_macro", 1.0, "labels", partial(_macro, per_class)),
                Counts(f"{name}_micro", 1.0, "labels", _accuracy),  # one label a row: micro averages are the accuracy
                Counts(f"{name}_weighted", 1.0, "labels", partial(_weighted, per_class)),
            )
        ),
        Area("roc_auc", 1.0, "probabilities", rest=False),
        Area("roc_auc_ovr", 1.0, "probabilities", rest=True),
        Weighted("average_precision", 1.0, "probabilities", _average_precision, binary=True),
        Means("neg_log_loss", 0.0, "probabilities", _log_loss, _minus),
        Means("neg_brier_score", 0.0, "probabilities", _brier, _minus),
        Means("r2", 1.0, "numbers", _determination, _explained),
        Means("neg_mean_squared_error", 0.0, "numbers", _squared, _minus),
        Means("neg_root_mean_squared_error", 0.0, "numbers", _squared, _minus_root),
        Means("neg_mean_absolute_error", 0.0, "numbers", _absolute, _minus),
        Means("neg_mean_absolute_percentage_error", 0.0, "numbers", _relative, _minus),
        Weighted("neg_median_absolute_error", 0.0, "numbers", _median_error),
        Means("neg_smape", 0.0, "numbers", _symmetric, _minus),
        Means("neg_mase", 0.0, "numbers", _scaled, _minus),
    )
}

_FOR_MANY = {
    "f1": "f1_macro",
    "precision": "precision_macro",
    "recall": "recall_macro",
    "roc_auc": "roc_auc_ovr",
    "average_precision": "roc_auc_ovr",
}
