"""How sure are we? Several models on the same rows, resampled together, vectorised and seeded.

Every way below answers one question: had other rows of the same kind been held out, how would the scores of these
models have varied, together? The answer is a :class:`Joint`. Pairing is what makes it sharp: two models that are right
and wrong on the same rows differ by little, whatever the luck of the draw.

=============  =====================================================================================================
by cells       metrics that are functions of counts. Resampling n rows with replacement and counting is one draw of a
               multinomial over the joint cells (truth, answer of each model): the bootstrap's own distribution
               (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 6), at a price that hardly grows with n.
by sums        metrics that are functions of means over rows. Up to ``EXACT_ROWS`` rows the multinomial weights
               themselves; above, a normal draw of the vector of means with its covariance (the central limit theorem
               for the bootstrap: Bickel & Freedman, Annals of Statistics 9, 1981; van der Vaart, Asymptotic
               Statistics, 1998, theorem 23.4), pushed through the metric, curvature and all.
by ranks       area under the ROC curve: structural components and their covariance, no resampling (DeLong, DeLong &
               Clarke-Pearson, Biometrics 44, 1988; midranks as in Sun & Xu, IEEE Signal Processing Letters 21, 2014).
by weights     anything that can take a weight per row: the plain bootstrap, with fewer resamples on many rows.
=============  =====================================================================================================

**Rows that belong together.** Where several rows share a key, they were held out together and err together; counting
each as new evidence makes every bound too bold. ``groups`` names the key of each row, and whole groups are drawn
(Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 3.8; for ranks, Obuchowski, Biometrics 53,
1997).

The generator is PCG64 and its seed is recorded: the same rows and seed give the same bits on one machine. Sums that
decide are never left to a threaded BLAS, whose order of addition depends on the number of cores.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

RESAMPLES = 2_000
EXACT_ROWS = 4_096
"""By sums: exact multinomial weights up to this many rows, a normal draw of the means above."""
_CELLS_AT_ONCE = 1 << 21
"""Numbers drawn in one go: 16 MB, whatever the rows and resamples."""
_WEIGHTS_BUDGET = 20_000_000
_FEWEST_RESAMPLES = 200
_CELLS_BY_COUNT = 1 << 20


@dataclass(frozen=True)
class Joint:
    """Scores of several models on the same rows, and how they vary together.

    ``estimates``: float64 [models]. ``draws``: float64 [models, resamples], or None where the covariance is known in
    closed form. ``covariance``: float64 [models, models]. ``units``: independent units that carry information (rows;
    for ranks, the rows of the rarer class), which bounds the degrees of freedom of any interval. ``influence``: float64
    [models, units], how each unit moves each score, on any common scale; None where it is not known.

    ``steps``: int64 [units], the moment in time of each unit, 0 and up without gaps; None where the rows have no order.
    ``course``: float64 [models, units], what to follow through time where the influence is not known: the errors.
    """

    estimates: Floats
    covariance: Floats
    draws: Floats | None
    units: int
    method: str
    influence: Floats | None = None
    steps: Integers | None = None
    course: Floats | None = None


def generator(seed: int, *path: int) -> np.random.Generator:
    """PCG64 seeded by ``seed`` and, for independent streams of one seed, a path of non-negative integers."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *path])))


# ---- several models at once ----------------------------------------------------------------------------------------


def from_draws(estimates: Floats, draws: Floats, units: int, method: str, influence: Floats | None = None) -> Joint:
    """Make a :class:`Joint` with the covariance of the draws; undefined draws count for nothing."""
    defined = draws[:, np.isfinite(draws).all(axis=0)]
    models = len(estimates)
    covariance = np.zeros((models, models))
    if defined.shape[1] > 1:
        centred = defined - defined.mean(axis=1, keepdims=True)
        for i in range(models):
            for j in range(models):
                covariance[i, j] = np.sum(centred[i] * centred[j]) / (defined.shape[1] - 1)
    return Joint(estimates, covariance, draws, units, method, influence)


# ---- rows that belong together -----------------------------------------------------------------------------------

Groups = Integers | None
"""int64 [rows]: which group each row is in, 0 and up without gaps; None where every row is a group of its own."""


def group_count(groups: Groups, rows: int) -> int:
    """Count the groups of ``rows`` rows."""
    return rows if groups is None else int(groups.max(initial=-1)) + 1


def in_groups(values: Floats, groups: Integers) -> Floats:
    """Sum over the rows of each group: float64 [rows, columns] -> [groups, columns]."""
    count = group_count(groups, len(groups))
    return np.stack([np.bincount(groups, weights=column, minlength=count) for column in values.T], axis=1)


def _named(method: str, groups: Groups) -> str:
    return method if groups is None else f"{method}, whole groups of rows"


# ---- by cells ----------------------------------------------------------------------------------------------------

Tally = Callable[[Floats, Floats, Floats], Floats]
"""(right, answered, true), each float64 [resamples, classes] -> float64 [resamples]: a metric of counts per class."""


@dataclass(frozen=True)
class Labels:
    """Codes below ``classes``: ``truth`` and each of ``answers``, int64 [rows], and the groups of the rows."""

    truth: Integers
    answers: Sequence[Integers]
    classes: int
    groups: Groups = None


def by_cells(labels: Labels, tally: Tally, rng: np.random.Generator, resamples: int) -> Joint:
    """Bootstrap a metric of counts."""
    if labels.groups is not None:
        return _by_labels(labels, labels.groups, tally, rng, resamples)
    truth, answers, classes = labels.truth, labels.answers, labels.classes
    rows = len(truth)
    counts, members = _cells(truth, answers, classes)
    estimates = _tallied(counts[None, :], truth[members], [answer[members] for answer in answers], classes, tally)[:, 0]
    draws = np.empty((len(answers), resamples))
    for start, stop in _chunks(resamples, len(counts)):
        drawn = _drawn_cells(counts, rows, stop - start, rng)
        draws[:, start:stop] = _tallied(drawn, truth[members], [a[members] for a in answers], classes, tally)
    return from_draws(estimates, draws, rows, f"bootstrap, multinomial over {len(counts)} cells")


def _by_labels(labels: Labels, groups: Integers, tally: Tally, rng: np.random.Generator, resamples: int) -> Joint:
    """As by cells, with whole groups drawn: row by row, hence fewer resamples on many rows."""
    rows = len(labels.truth)
    fewer = affordable(rows, resamples) if resamples else 0

    def tallied(weights: Floats) -> Floats:
        return _tallied(weights, labels.truth, labels.answers, labels.classes, tally)

    estimates = tallied(np.ones((1, rows)))[:, 0]
    draws = np.empty((len(labels.answers), fewer))
    for start, stop, weights in _weights(rows, rng, fewer, groups):
        draws[:, start:stop] = tallied(weights)
    return from_draws(estimates, draws, group_count(groups, rows), _named(f"bootstrap, {fewer} resamples", groups))


def _cells(truth: Integers, answers: Sequence[Integers], classes: int) -> tuple[Integers, Integers]:
    """Joint cells that occur: how many rows each holds, and one row of each."""
    codes, size = truth, classes
    for answer in answers:
        codes, size = codes * classes + answer, size * classes
        if size > _CELLS_BY_COUNT:
            distinct, codes = np.unique(codes, return_inverse=True)
            size = len(distinct)
    counts = np.bincount(codes, minlength=size)
    member = np.zeros(size, dtype=np.int64)
    member[codes] = np.arange(len(codes))
    occurs = np.flatnonzero(counts)
    return counts[occurs].astype(np.int64), member[occurs]


def _drawn_cells(counts: Integers, rows: int, resamples: int, rng: np.random.Generator) -> Integers:
    """int64 [resamples, cells]: rows of each cell in each resample. With many cells, drawing rows is cheaper."""
    if len(counts) * 8 <= rows:
        return rng.multinomial(rows, counts / rows, size=resamples)
    cell_of_row = np.repeat(np.arange(len(counts)), counts)
    return _counted(cell_of_row[rng.integers(0, rows, size=(resamples, rows), dtype=np.int32)], len(counts))


def _counted(drawn: Integers, size: int) -> Integers:
    """int64 [resamples, size]: how often each number below ``size`` occurs in each row of ``drawn``."""
    offsets = np.arange(len(drawn), dtype=np.int64)[:, None] * size
    return np.bincount((drawn + offsets).ravel(), minlength=len(drawn) * size).reshape(len(drawn), size)


def _tallied(
    cells: Integers | Floats, truth: Integers, answers: Sequence[Integers], classes: int, tally: Tally
) -> Floats:
    true = _by_class(cells, truth, classes)
    values = []
    for answer in answers:
        right = np.where(answer == truth, truth, classes)
        values.append(tally(_by_class(cells, right, classes + 1)[:, :classes], _by_class(cells, answer, classes), true))
    return np.stack(values)


def _by_class(cells: Integers | Floats, label: Integers, classes: int) -> Floats:
    """float64 [resamples, classes]: cells summed by the label of each; integers, hence exact in any order."""
    order = np.argsort(label, kind="stable")
    present, starts = np.unique(label[order], return_index=True)
    totals = np.zeros((len(cells), classes))
    totals[:, present] = np.add.reduceat(cells[:, order], starts, axis=1)
    return totals


# ---- by sums -----------------------------------------------------------------------------------------------------

Finish = Callable[[Floats], Floats]
"""Means of the components, float64 [resamples, components] -> the metric, float64 [resamples]."""


def by_sums(
    components: Sequence[Floats], finish: Finish, rng: np.random.Generator, resamples: int, groups: Groups = None
) -> Joint:
    """Bootstrap a metric of means; ``components``: float64 [rows, components] for each model."""
    if groups is not None:
        return _by_group_sums(components, finish, rng, resamples, groups)
    rows, width = components[0].shape
    joined = np.concatenate(components, axis=1)
    centre = joined.mean(axis=0)
    if resamples == 0 or rows <= EXACT_ROWS:
        means, method = _weighted_means(joined, rng, resamples), "bootstrap, multinomial weights"
    else:
        means, method = _normal_means(joined, centre, rng, resamples), "bootstrap, normal means"
    models = range(len(components))
    estimates = np.array([finish(centre[None, m * width : (m + 1) * width])[0] for m in models])
    draws = np.stack([finish(means[:, m * width : (m + 1) * width]) for m in models])
    return from_draws(estimates, draws, rows, method, _slopes(components, finish))


def _by_group_sums(
    components: Sequence[Floats], finish: Finish, rng: np.random.Generator, resamples: int, groups: Integers
) -> Joint:
    """Draw whole groups: a mean over rows is then a ratio of two means over groups, of sums and of sizes."""
    ones = np.ones((len(groups), 1))
    sums = [in_groups(np.concatenate([one, ones], axis=1), groups) for one in components]
    found = by_sums(sums, lambda means: finish(means[:, :-1] / means[:, -1:]), rng, resamples)
    return replace(found, method=_named(found.method, groups))


def _slopes(components: Sequence[Floats], finish: Finish) -> Floats:
    """Influence of each row on each score, float64 [models, rows]: the metric's slope at the means, row by row."""
    found = np.zeros((len(components), len(components[0])))
    for model, values in enumerate(components):
        centre, spread = values.mean(axis=0), values.std(axis=0)
        for column in np.flatnonzero(spread > 0.0):
            step = np.zeros(len(centre))
            step[column] = spread[column] * 1e-4
            rise = finish((centre + step)[None, :])[0] - finish((centre - step)[None, :])[0]
            found[model] += (values[:, column] - centre[column]) * (rise / (2.0 * step[column]))
    return found


def _weighted_means(joined: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    means = np.empty((resamples, joined.shape[1]))
    for start, stop, weights in _weights(len(joined), rng, resamples):
        means[start:stop] = np.einsum("rn,nk->rk", weights, joined, optimize=False) / len(joined)
    return means


def _normal_means(joined: Floats, centre: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    rows, width = joined.shape
    spread = joined.std(axis=0)
    scaled = (joined - centre) / np.where(spread > 0.0, spread, 1.0)
    correlation = np.empty((width, width))
    for i in range(width):
        for j in range(i + 1):
            correlation[i, j] = correlation[j, i] = np.sum(scaled[:, i] * scaled[:, j]) / rows
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    normal = rng.standard_normal((resamples, width))
    drawn: Floats = centre + np.einsum("rk,jk->rj", normal, root, optimize=False) * spread / math.sqrt(rows)
    return drawn


def _weights(
    rows: int, rng: np.random.Generator, resamples: int, groups: Groups = None
) -> Iterator[tuple[int, int, Floats]]:
    """Multinomial weights, float64 [resamples of this chunk, rows], with the range of resamples they are for."""
    count = group_count(groups, rows)
    for start, stop in _chunks(resamples, rows):
        drawn = rng.integers(0, count, size=(stop - start, count), dtype=np.int64)
        weights = _counted(drawn, count).astype(np.float64)
        yield start, stop, weights if groups is None else weights[:, groups]


def _chunks(resamples: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, _CELLS_AT_ONCE // max(width, 1))
    for start in range(0, resamples, step):
        yield start, min(start + step, resamples)


# ---- by ranks ----------------------------------------------------------------------------------------------------


def by_ranks(positive: NDArray[np.bool_], scores: Sequence[Floats], groups: Groups = None) -> Joint:
    """Find the area under the ROC curve, averaged over one or more yes-or-no questions about the same rows.

    ``positive``: bool [rows, questions]; each of ``scores``: float64 [rows, questions]. Each question needs two rows of
    either kind. With one question the covariance is DeLong's; with several, that of the mean influence of each row.
    """
    rows, questions = positive.shape
    influence = np.zeros((len(scores), rows))
    estimates = np.zeros(len(scores))
    for model, score in enumerate(scores):
        for question in range(questions):
            area, one = _influence(positive[:, question], score[:, question])
            estimates[model] += area / questions
            influence[model] += one / questions
    kinds = np.concatenate([positive, ~positive], axis=1)
    if groups is not None:
        influence = in_groups(influence.T, groups).T
        kinds = in_groups(kinds.astype(np.float64), groups) > 0
    covariance = np.array([[np.sum(a * b) for b in influence] for a in influence])
    units = int(kinds.sum(axis=0).min())
    return Joint(estimates, covariance, None, units, _named("DeLong", groups), influence)


def _influence(positive: NDArray[np.bool_], score: Floats) -> tuple[float, Floats]:
    """Area under the curve, and float64 [rows] whose sum of squares is DeLong's variance of it."""
    ups, downs = score[positive], score[~positive]
    m, n = len(ups), len(downs)
    ranks = midranks(score)
    above = (ranks[positive] - midranks(ups)) / n
    below = 1.0 - (ranks[~positive] - midranks(downs)) / m
    area = float(above.mean())
    influence = np.empty(len(score))
    influence[positive] = (above - area) / math.sqrt(m * (m - 1.0))
    influence[~positive] = (below - area) / math.sqrt(n * (n - 1.0))
    return area, influence


def midranks(values: Floats) -> Floats:
    """Ranks from 1, ties share their mean: float64 [rows]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[starts[1:], len(values)]
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + ends + 1) / 2.0, ends - starts)
    return ranks


# ---- by weights --------------------------------------------------------------------------------------------------

Weighted = Callable[[Floats], Floats]
"""Weights, float64 [resamples, rows] -> the metric of one model on the rows so weighted, float64 [resamples]."""


def by_weights(
    models: Sequence[Weighted], rows: int, rng: np.random.Generator, resamples: int, groups: Groups = None
) -> Joint:
    """Bootstrap, plainly, any metric that takes a weight per row."""
    fewer = affordable(rows, resamples)
    estimates = np.array([float(model(np.ones((1, rows)))[0]) for model in models])
    draws = np.empty((len(models), fewer))
    for start, stop, weights in _weights(rows, rng, fewer, groups):
        for model, one in enumerate(models):
            draws[model, start:stop] = one(weights)
    method = f"bootstrap, {fewer} resamples of rows"
    return from_draws(estimates, draws, group_count(groups, rows), _named(method, groups))


def affordable(rows: int, resamples: int) -> int:
    """Resamples that fit a budget of 20 million weights, yet no fewer than 200 (a standard error good to 5 %)."""
    return int(min(resamples, max(_FEWEST_RESAMPLES, _WEIGHTS_BUDGET // max(rows, 1))))
