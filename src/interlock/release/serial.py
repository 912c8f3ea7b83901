"""What rows are worth that follow one another in time: today's error resembles yesterday's, and is half as new.

Rows that were held out by time are taken in order of time. What each moves the score by is summed over the rows of one
time, so that rows of one day may share their luck, and the variance of the sum of that series is estimated with its
memory: the larger of two estimates, neither below that of a series without any.

* An autoregression of order one, whose coefficient is corrected for its bias (Kendall, Biometrika 41, 1954): sharp for
  short series, and blind to what it does not describe.
* The mean of the squares of the first cosine coefficients, which are nearly independent and each have the long-run
  variance (Mueller, Journal of Econometrics 141, 2007; the number of them as Lazarus, Lewis, Stock & Watson, Journal of
  Business & Economic Statistics 36, 2018, advise, and fewer where the autoregression sees a long memory).

The series counts as so many steps as an independent one of the same precision would have (Bartlett, Journal of the
Royal Statistical Society 98, 1935), which are the degrees of freedom too. How often equally good forecasts are released
by it is simulated in ``bench/decisions.py``.
"""

import math
from dataclasses import dataclass

import numpy as np

from interlock.release.resample import Floats, Integers

_STRONGEST = 0.97
"""A coefficient that an autoregression of order one is taken to have at most: its steps count as a 66th each."""
_TERMS = 0.4


@dataclass(frozen=True)
class Memory:
    """How much wider a bound is for rows in order of time.

    ``widening``: of the standard error that takes the rows for independent. ``steps``: moments in time; ``worth``: as
    many independent ones are as good.
    """

    widening: float
    steps: int
    worth: float


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
    coefficient = float(np.sum(series[1:] * series[:-1])) / total
    coefficient = min(max(coefficient + (1.0 + 3.0 * coefficient) / count, 0.0), _STRONGEST)
    regressed = (1.0 + coefficient) / (1.0 - coefficient)
    inflation = max(regressed, _long_run(series, coefficient) * count / total)
    together = total * count / (count - 1.0)
    return Memory(widening=math.sqrt(together / alone * inflation), steps=count, worth=count / inflation)


def _long_run(series: Floats, coefficient: float) -> float:
    """Long-run variance of one step, by cosines."""
    count = len(series)
    shorter = min(1.0, ((1.0 - coefficient) ** 2 / max(coefficient, 0.1)) ** (2.0 / 3.0))
    terms = min(count - 1, max(2, int(_TERMS * count ** (2.0 / 3.0) * shorter)))
    turned = np.fft.rfft(np.concatenate([series, series[::-1]]))[1 : terms + 1]
    half_steps = np.exp(-0.5j * np.pi * np.arange(1, terms + 1) / count)
    cosines = (turned * half_steps).real / 2.0  # sum over t of series[t] cos(pi k (t + 1/2) / count)
    return float(np.mean(cosines**2)) * 2.0 / count
