"""How large is the gain, at the least and at the most? One-sided bounds of a paired difference, at any level.

The variation comes from :mod:`interlock.release.resample`; here it becomes numbers that a decision may rest on.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from interlock.release.resample import Floats, Joint
from interlock.release.serial import Memory, memory


@dataclass(frozen=True)
class Gain:
    """Paired gain of one model over another with one-sided bounds, each at level ``alpha``.

    ``memory``: what the rows were worth in order of time; None where they have none.
    """

    gain: float
    low: float
    high: float
    standard_error: float
    memory: Memory | None = None


def paired_gain(joint: Joint, model: int, other: int, *, alpha: float, differing: int) -> Gain:
    """Gain of ``model`` over ``other`` with a lower and an upper bound, each wrong with probability at most ``alpha``.

    Each bound is the most cautious of up to three: the percentile of the paired draws, which knows skew but nothing
    beyond 1 in ``resamples``; Student's t times the standard error, which goes to any ``alpha`` but takes the gain for
    symmetric; and, where the influence of each row is known, the same with the skewness taken out (:func:`unskewed`).
    The degrees of freedom are the rows that carry the comparison, less one: rows on which both answer alike say nothing
    about which is better.

    Neither knows how little a handful of rows can prove. Were the two models exchangeable, each of the ``differing``
    rows could as well have favoured the other, so that no paired test reaches a level below ``2 ** -differing``
    (Fisher's sign-flip argument; McNemar's exact test is the case of accuracy). Below it the bound is no better than 0.

    Of rows in order of time one more bound is asked for: Student's t with the memory of the series (:func:`memory`).
    """
    gain = float(joint.estimates[model] - joint.estimates[other])
    if differing == 0:
        return Gain(gain, gain, gain, 0.0)
    covariance = joint.covariance
    variance = float(covariance[model, model] + covariance[other, other] - 2.0 * covariance[model, other])
    if joint.draws is not None:
        variance = _variance(joint.draws[model] - joint.draws[other])
    error = math.sqrt(max(variance, 0.0))
    reach = student(alpha, max(1, min(joint.units, differing) - 1))
    low, high = gain - reach * error, gain + reach * error
    if joint.influence is not None:
        skew = skewness(joint.influence[model] - joint.influence[other])
        low, high = min(low, gain - unskewed(reach, skew) * error), max(high, gain - unskewed(-reach, skew) * error)
    if joint.draws is not None:
        below, above = percentiles(joint.draws[model] - joint.draws[other], alpha)
        low, high = min(low, below), max(high, above)
    found = remembered(joint, model, other)
    if found is not None:
        reach = student(alpha, max(1, min(found.freedom, differing - 1))) * error * found.widening
        low, high, error = min(low, gain - reach), max(high, gain + reach), error * max(1.0, found.widening)
    if 0.5**differing > alpha:
        low, high = min(low, 0.0), max(high, 0.0)
    return Gain(gain, low, high, error, found)


def remembered(joint: Joint, model: int, other: int | None = None) -> Memory | None:
    """Find the memory of one model's score, or of the gain over another; None where the rows have no order in time."""
    course = joint.course if joint.influence is None else joint.influence
    if joint.steps is None or course is None:
        return None
    return memory(course[model] if other is None else course[model] - course[other], joint.steps)


def skewness(influence: Floats) -> float:
    """Skewness of a sum of independent parts, each about its mean 0: third moment over variance to the 3/2."""
    square = float(np.sum(influence**2))
    return float(np.sum(influence**3)) / square**1.5 if square > 0.0 else 0.0


def unskewed(t: float, skew: float) -> float:
    """Cut for a studentised mean whose skewness is ``skew``, where ``t`` is the cut for a symmetric one.

    Inverse of Hall's monotone transformation (Journal of the Royal Statistical Society B 54, 1992), ``T + skew T^2 / 3
    + skew^2 T^3 / 27 + skew / 6``, which removes the skewness from T. A rare large loss that the rows show makes the
    cut for a lower bound larger; one that they do not show nobody can know.
    """
    shift = t - skew / 6.0
    root = float(np.cbrt(1.0 + skew * shift))
    return 3.0 * shift / (root * root + root + 1.0)  # 3 / skew * (root - 1), with nothing cancelled


def interval(joint: Joint, model: int, *, confidence: float) -> tuple[float, float]:
    """Two-sided interval of one model's score: percentiles of its draws, or its estimate and Student's t.

    Of rows in order of time, no narrower than Student's t with the memory of the series.
    """
    tail, centre = (1.0 - confidence) / 2.0, float(joint.estimates[model])
    error = math.sqrt(max(float(joint.covariance[model, model]), 0.0))
    if joint.draws is not None:
        low, high = percentiles(joint.draws[model], tail)
    else:
        reach = student(tail, max(1, joint.units - 1)) * error
        low, high = centre - reach, centre + reach
    found = remembered(joint, model)
    if found is not None:
        reach = student(tail, found.freedom) * error * found.widening
        low, high = min(low, centre - reach), max(high, centre + reach)
    return low, high


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
