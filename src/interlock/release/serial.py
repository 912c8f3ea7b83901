"""What rows are worth that follow one another in time: today's error resembles yesterday's, and is half as new.

Rows that were held out by time are taken in order of time. What each moves the score by is summed over the rows of one
moment, so that rows of one day may share their luck. The variance of the sum of that series, with its memory, is the
mean of the squares of its first cosine coefficients, which are nearly independent and each have the long-run variance
(Mueller, Journal of Econometrics 141, 2007; Lazarus, Lewis, Stock & Watson, Journal of Business & Economic Statistics
36, 2018, whose number of them is larger by a third). What comes and goes faster, as a season does, is not in them.

Where the series is seen to remember (its first autocorrelation is above one standard error), the degrees of freedom
are those of the few coefficients. Else they are the number of independent steps that would be as good (Bartlett,
Journal of the Royal Statistical Society 98, 1935), which costs less where there is nothing to remember. How often
equally good forecasts are released by it is simulated in ``bench/decisions.py``.
"""

import math
from dataclasses import dataclass

import numpy as np

from interlock.release.resample import Floats, Integers

_TERMS = 0.3


@dataclass(frozen=True)
class Memory:
    """How much wider a bound is for rows in order of time.

    ``widening``: of the standard error that takes the rows for independent. ``steps``: moments in time; ``worth``: as
    many independent ones are as good. ``freedom``: degrees of freedom of the standard error, at least 1.
    """

    widening: float
    steps: int
    worth: float
    freedom: int


def memory(influence: Floats, steps: Integers) -> Memory | None:
    """Find the memory of ``influence``, float64 [units]: what each unit moves the score by, on any scale.

    ``steps``: int64 [units], the moment of each, 0 and up without gaps. None where nothing varies, or all is of one
    moment.
    """
    centred = influence - influence.mean()
    alone = float(np.sum(centred**2))
    series: Floats = np.bincount(steps, weights=centred).astype(np.float64)
    count = len(series)
    total = float(np.sum(series**2))
    if count < 2 or total <= 1e-24 * alone:
        return None
    terms = min(count - 1, max(2, int(_TERMS * count ** (2.0 / 3.0))))
    inflation = max(1.0, _long_run(series, terms) * count / total)
    likeness = float(np.sum(series[1:] * series[:-1])) / total + 1.0 / count  # without memory it is 0 in the mean
    freedom = terms if likeness > 1.0 / math.sqrt(count) else max(1, int(count / inflation) - 1)
    together = total * count / (count - 1.0)
    return Memory(
        widening=math.sqrt(together / alone * inflation), steps=count, worth=count / inflation, freedom=freedom
    )


def _long_run(series: Floats, terms: int) -> float:
    """Long-run variance of one step, by the first ``terms`` cosine coefficients."""
    count = len(series)
    turned = np.fft.rfft(np.concatenate([series, series[::-1]]))[1 : terms + 1]
    half_steps = np.exp(-0.5j * np.pi * np.arange(1, terms + 1) / count)
    cosines = (turned * half_steps).real / 2.0  # sum over t of series[t] cos(pi k (t + 1/2) / count)
    return float(np.mean(cosines**2)) * 2.0 / count
