"""Whether the same row gets the same answer, whatever stands around it.

What was judged on a whole holdout is later asked for one row, or in other batches. A model that normalises by its
batch, fills gaps from the row before, sorts its answers, or draws at random is another model then, and the evidence
says nothing of it. So some held-out rows are asked again, in shuffled order, in small chunks, and alone.

**Tolerance.** Sums in another order end in other digits. Measured (``bench/consistency.py``), relative to the size of
the answers: nothing for trees, 5e-14 and less for linear models and kernels in 64 bits, up to 2.1e-6 for networks in 32
bits. :data:`TOLERANCE` is five times that; labels must be equal, unless the probabilities say that it was a tie.
"""

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.errors import DataRefused, UserCodeFailed
from interlock.ports import Clock
from interlock.records import Consistency
from interlock.release.resample import generator

TOLERANCE = 1e-5
"""Largest difference let pass: of probabilities, and of numbers relative to the root mean square of the answers."""
_STREAM = 1 << 21
"""A stream of random numbers beyond those of slices and shuffled orders."""
_ROWS = 4_096
_CHUNKS = (1, 1, 7, 1, 64, 1, 7, 1, 64, 1, 7, 1, 1, 1)
"""Sizes of the small pieces that are asked, in this order, while the time lasts."""
_FEWEST_CHUNKS = 4
_BUDGET_S = 0.5

Ask = Callable[[pl.DataFrame], pl.DataFrame]
"""Rows -> their answers: ``prediction`` and, where known, ``probability_0 …``."""


def measure(ask: Ask, rows: pl.DataFrame, answers: pl.DataFrame, seed: int, clock: Clock) -> Consistency:
    """Ask again for some of ``rows``, whose ``answers`` are known, and count what comes out different.

    A piece that the model cannot answer, though it answered the whole, counts as different in all of its rows.
    """
    rng = generator(seed, _STREAM)
    order = rng.permutation(rows.height)[:_ROWS]
    scale = _scale(answers["prediction"])
    asked, different = {"order": 0, "alone": 0}, {"order": 0, "alone": 0}
    largest: float | None = None
    for way, places in _pieces(order, clock):
        apart, gap = _compared(ask, rows[places], answers[places], scale)
        asked[way] += len(places)
        different[way] += apart
        if gap is not None:
            largest = max(gap, largest or 0.0)
    return Consistency(asked=asked, different=different, largest=largest, tolerance=TOLERANCE)


def _pieces(order: NDArray[np.int64], clock: Clock) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Row numbers to ask for together: all of ``order``, then small pieces of it within the budget of time."""
    yield "order", order
    started, start = clock.monotonic(), 0
    for number, size in enumerate(_CHUNKS):
        late = number >= _FEWEST_CHUNKS and clock.monotonic() - started > _BUDGET_S
        if late or start >= len(order):
            return
        yield "alone", order[start : start + size]
        start += size


def _compared(ask: Ask, rows: pl.DataFrame, before: pl.DataFrame, scale: float) -> tuple[int, float | None]:
    """Answers that differ, and the largest difference of a number or probability."""
    try:
        now = ask(rows)
    except (UserCodeFailed, DataRefused):
        return rows.height, None
    if now.height != rows.height or now["prediction"].dtype.is_numeric() != before["prediction"].dtype.is_numeric():
        return rows.height, None
    chances = [name for name in before.columns if name.startswith("probability_") and name in now.columns]
    gaps = [_gap(before[name], now[name], 1.0) for name in chances]
    labels = _unequal(before["prediction"], now["prediction"])
    numbers = before["prediction"].dtype.is_float() or now["prediction"].dtype.is_float()
    if numbers:
        gaps.append(_gap(before["prediction"], now["prediction"], scale))
    if not gaps:
        return int(labels.sum()), None
    gap = np.max(gaps, axis=0)
    apart = gap > TOLERANCE
    if not numbers:
        apart |= labels & ~_tied(before.select(chances))
    finite = gap[np.isfinite(gap)]
    return int(apart.sum()), float(finite.max(initial=0.0))


def _unequal(before: pl.Series, now: pl.Series) -> NDArray[np.bool_]:
    """Whether two answers differ, bool [rows]; rankings are compared place by place."""
    if before.dtype.is_nested() or now.dtype.is_nested():
        return np.array([one != other for one, other in zip(before.to_list(), now.to_list(), strict=True)])
    return before.ne_missing(now).to_numpy()


def _gap(before: pl.Series, now: pl.Series, scale: float) -> NDArray[np.float64]:
    """Absolute difference over ``scale``, float64 [rows]; infinite where an answer is missing."""
    apart = np.abs((before.cast(pl.Float64) - now.cast(pl.Float64)).to_numpy()) / scale
    return np.where(np.isnan(apart), np.inf, apart)


def _tied(chances: pl.DataFrame) -> NDArray[np.bool_]:
    """Whether the two likeliest classes of a row are as likely as each other, within the tolerance."""
    if chances.width < 2:
        return np.zeros(chances.height, dtype=np.bool_)
    highest = np.sort(chances.to_numpy(), axis=1)
    return np.asarray(highest[:, -1] - highest[:, -2] <= 2.0 * TOLERANCE)


def _scale(answers: pl.Series) -> float:
    """Root mean square of answers that are numbers; 1 where there is none or it is 0."""
    if not answers.dtype.is_float():
        return 1.0
    found = float(np.sqrt(np.mean(answers.cast(pl.Float64).to_numpy() ** 2)))
    return found if np.isfinite(found) and found > 0.0 else 1.0
