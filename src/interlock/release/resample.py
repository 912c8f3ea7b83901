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

The generator is PCG64 and its seed is recorded: the same rows and seed give the same bits on one machine. Sums that
decide are never left to a threaded BLAS, whose order of addition depends on the number of cores.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

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
    for ranks, the rows of the rarer class), which bounds the degrees of freedom of any interval.
    """

    estimates: Floats
    covariance: Floats
    draws: Floats | None
    units: int
    method: str


@dataclass(frozen=True)
class Gain:
    """Paired gain of one model over another with one-sided bounds, each at level ``alpha``."""

    gain: float
    low: float
    high: float
    standard_error: float


def generator(seed: int, *path: int) -> np.random.Generator:
    """PCG64 seeded by ``seed`` and, for independent streams of one seed, a path of non-negative integers."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *path])))


# ---- bounds ------------------------------------------------------------------------------------------------------


def paired_gain(joint: Joint, model: int, other: int, *, alpha: float, differing: int) -> Gain:
    """Gain of ``model`` over ``other`` with a lower and an upper bound, each wrong with probability at most ``alpha``.

    Each bound is the more cautious of two: the percentile of the paired draws, which knows skew but nothing beyond
    1 in ``resamples``; and Student's t times the standard error, which goes to any ``alpha``. The degrees of freedom
    are the rows that carry the comparison, less one: rows on which both answer alike say nothing about which is better.

    Neither knows how little a handful of rows can prove. Were the two models exchangeable, each of the ``differing``
    rows could as well have favoured the other, so that no paired test reaches a level below ``2 ** -differing``
    (Fisher's sign-flip argument; McNemar's exact test is the case of accuracy). Below it the bound is no better than 0.
    """
    gain = float(joint.estimates[model] - joint.estimates[other])
    if differing == 0:
        return Gain(gain, gain, gain, 0.0)
    covariance = joint.covariance
    variance = float(covariance[model, model] + covariance[other, other] - 2.0 * covariance[model, other])
    if joint.draws is not None:
        variance = _variance(joint.draws[model] - joint.draws[other])
    error = math.sqrt(max(variance, 0.0))
    reach = student(alpha, max(1, min(joint.units, differing) - 1)) * error
    low, high = gain - reach, gain + reach
    if joint.draws is not None:
        below, above = percentiles(joint.draws[model] - joint.draws[other], alpha)
        low, high = min(low, below), max(high, above)
    if 0.5**differing > alpha:
        low, high = min(low, 0.0), max(high, 0.0)
    return Gain(gain, low, high, error)


def interval(joint: Joint, model: int, *, confidence: float) -> tuple[float, float]:
    """Two-sided interval of one model's score: percentiles of its draws, or its estimate and Student's t."""
    tail = (1.0 - confidence) / 2.0
    if joint.draws is not None:
        return percentiles(joint.draws[model], tail)
    reach = student(tail, max(1, joint.units - 1)) * math.sqrt(max(float(joint.covariance[model, model]), 0.0))
    return float(joint.estimates[model]) - reach, float(joint.estimates[model]) + reach


def percentiles(draws: Floats, alpha: float) -> tuple[float, float]:
    """Cut ``alpha`` off each end of ``draws``, at order statistics rounded outwards; undefined draws are left out.

    With fewer than ``1 / alpha`` draws the cuts are the smallest and the largest.
    """
    ordered = np.sort(draws[np.isfinite(draws)])
    if ordered.size == 0:
        return math.nan, math.nan
    rank = min(max(math.floor(alpha * (ordered.size + 1)), 1), ordered.size)
    return float(ordered[rank - 1]), float(ordered[ordered.size - rank])


@lru_cache(maxsize=512)
def student(alpha: float, freedom: int) -> float:
    """Upper ``alpha`` quantile of Student's t with ``freedom`` degrees.

    By the finite sums of Abramowitz & Stegun 26.7.3 and 26.7.4 up to 200 degrees, above by their expansion 26.7.5,
    which is then good to six digits down to an alpha of 1e-9.
    """
    if alpha > 0.5:
        return -student(1.0 - alpha, freedom)
    if freedom > 200:
        return _cornish_fisher(-NormalDist().inv_cdf(alpha), freedom)
    low, high = 0.0, 2.0
    while _upper_tail(high, freedom) > alpha and high < 1e12:
        high *= 2.0
    for _ in range(80):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _upper_tail(middle, freedom) > alpha else (low, middle)
    return high


def _cornish_fisher(x: float, freedom: int) -> float:
    return (
        x
        + (x**3 + x) / (4.0 * freedom)
        + (5 * x**5 + 16 * x**3 + 3 * x) / (96.0 * freedom**2)
        + (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / (384.0 * freedom**3)
    )


def _upper_tail(t: float, freedom: int) -> float:
    """P(T > t) for t >= 0, Abramowitz & Stegun 26.7.3 (odd) and 26.7.4 (even)."""
    theta = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = freedom % 2
    term, total = (cosine, cosine if freedom > 1 else 0.0) if odd else (1.0, 1.0)
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    inside = (theta + sine * total) * 2.0 / math.pi if odd else sine * total
    return (1.0 - inside) / 2.0


def _variance(draws: Floats) -> float:
    defined = draws[np.isfinite(draws)]
    return float(np.var(defined, ddof=1)) if defined.size > 1 else 0.0


def from_draws(estimates: Floats, draws: Floats, units: int, method: str) -> Joint:
    """Make a :class:`Joint` with the covariance of the draws; undefined draws count for nothing."""
    defined = draws[:, np.isfinite(draws).all(axis=0)]
    models = len(estimates)
    covariance = np.zeros((models, models))
    if defined.shape[1] > 1:
        centred = defined - defined.mean(axis=1, keepdims=True)
        for i in range(models):
            for j in range(models):
                covariance[i, j] = np.sum(centred[i] * centred[j]) / (defined.shape[1] - 1)
    return Joint(estimates, covariance, draws, units, method)


# ---- by cells ----------------------------------------------------------------------------------------------------

Tally = Callable[[Floats, Floats, Floats], Floats]
"""(right, answered, true), each float64 [resamples, classes] -> float64 [resamples]: a metric of counts per class."""


def by_cells(
    truth: Integers, answers: Sequence[Integers], classes: int, tally: Tally, rng: np.random.Generator, resamples: int
) -> Joint:
    """Bootstrap a metric of counts. ``truth`` and each of ``answers``: int64 [rows], codes below ``classes``."""
    rows = len(truth)
    counts, members = _cells(truth, answers, classes)
    estimates = _tallied(counts[None, :], truth[members], [answer[members] for answer in answers], classes, tally)[:, 0]
    draws = np.empty((len(answers), resamples))
    for start, stop in _chunks(resamples, len(counts)):
        drawn = _drawn_cells(counts, rows, stop - start, rng)
        draws[:, start:stop] = _tallied(drawn, truth[members], [a[members] for a in answers], classes, tally)
    return from_draws(estimates, draws, rows, f"bootstrap, multinomial over {len(counts)} cells")


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


def _tallied(cells: Integers, truth: Integers, answers: Sequence[Integers], classes: int, tally: Tally) -> Floats:
    true = _by_class(cells, truth, classes)
    values = []
    for answer in answers:
        right = np.where(answer == truth, truth, classes)
        values.append(tally(_by_class(cells, right, classes + 1)[:, :classes], _by_class(cells, answer, classes), true))
    return np.stack(values)


def _by_class(cells: Integers, label: Integers, classes: int) -> Floats:
    """float64 [resamples, classes]: cells summed by the label of each; integers, hence exact in any order."""
    order = np.argsort(label, kind="stable")
    present, starts = np.unique(label[order], return_index=True)
    totals = np.zeros((len(cells), classes))
    totals[:, present] = np.add.reduceat(cells[:, order], starts, axis=1)
    return totals


# ---- by sums -----------------------------------------------------------------------------------------------------

Finish = Callable[[Floats], Floats]
"""Means of the components, float64 [resamples, components] -> the metric, float64 [resamples]."""


def by_sums(components: Sequence[Floats], finish: Finish, rng: np.random.Generator, resamples: int) -> Joint:
    """Bootstrap a metric of means; ``components``: float64 [rows, components] for each model."""
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
    return from_draws(estimates, draws, rows, method)


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


def _weights(rows: int, rng: np.random.Generator, resamples: int) -> Iterator[tuple[int, int, Floats]]:
    """Multinomial weights, float64 [resamples of this chunk, rows], with the range of resamples they are for."""
    for start, stop in _chunks(resamples, rows):
        drawn = rng.integers(0, rows, size=(stop - start, rows), dtype=np.int64)
        yield start, stop, _counted(drawn, rows).astype(np.float64)


def _chunks(resamples: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, _CELLS_AT_ONCE // max(width, 1))
    for start in range(0, resamples, step):
        yield start, min(start + step, resamples)


# ---- by ranks ----------------------------------------------------------------------------------------------------


def by_ranks(positive: NDArray[np.bool_], scores: Sequence[Floats]) -> Joint:
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
    covariance = np.array([[np.sum(a * b) for b in influence] for a in influence])
    units = int(min(positive.sum(axis=0).min(), (~positive).sum(axis=0).min()))
    return Joint(estimates, covariance, None, units, "DeLong")


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


def by_weights(models: Sequence[Weighted], rows: int, rng: np.random.Generator, resamples: int) -> Joint:
    """Bootstrap, plainly, any metric that takes a weight per row."""
    fewer = affordable(rows, resamples)
    estimates = np.array([float(model(np.ones((1, rows)))[0]) for model in models])
    draws = np.empty((len(models), fewer))
    for start, stop, weights in _weights(rows, rng, fewer):
        for model, one in enumerate(models):
            draws[model, start:stop] = one(weights)
    return from_draws(estimates, draws, rows, f"bootstrap, {fewer} resamples of rows")


def affordable(rows: int, resamples: int) -> int:
    """Resamples that fit a budget of 20 million weights, yet no fewer than 200 (a standard error good to 5 %)."""
    return int(min(resamples, max(_FEWEST_RESAMPLES, _WEIGHTS_BUDGET // max(rows, 1))))
