"""Truth against answer as counts: what the pictures of the testing chapter are drawn from. Pure; aggregates only.

Groups with fewer than :data:`SMALL` rows are folded together, so that no picture and no table tells about one row.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.records import Record

SMALL = 5
"""Fewer rows than this are not shown on their own."""
OTHER = "other"
_BINS = 24


class Confusion(Record, frozen=True, kw_only=True):
    """``counts[i][j]``: rows of class ``labels[i]`` that were answered ``labels[j]``."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class Reliability(Record, frozen=True, kw_only=True):
    """Per bin of the prediction: its mean, the mean of the truth, and the rows in it."""

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    rows: tuple[int, ...]


class Bins(Record, frozen=True, kw_only=True):
    """Counts between edges, one more edge than counts; ``below`` and ``above`` fell outside and are not drawn."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int = 0
    above: int = 0


def confusion(truth: pl.Series, answer: pl.Series, *, most: int = 10) -> Confusion:
    """Confusion matrix over the ``most`` frequent true classes; rarer ones, and those with few rows, are ``other``."""
    pairs = Counter(zip(_labels(truth), _labels(answer), strict=True))
    rows: Counter[str] = Counter()
    for (true, _), amount in pairs.items():
        rows[true] += amount
    frequent = [
        label for label, amount in sorted(rows.items(), key=lambda item: (-item[1], item[0])) if amount >= SMALL
    ]
    shown = sorted(frequent[:most])
    folded = any(label not in shown for pair in pairs for label in pair)
    names = [*shown, OTHER] if folded else shown
    place = {label: index for index, label in enumerate(shown)}
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    for (true, answered), amount in pairs.items():
        counts[place.get(true, len(shown)), place.get(answered, len(shown))] += amount
    return Confusion(labels=tuple(names), counts=tuple(tuple(int(cell) for cell in line) for line in counts))


def _labels(values: pl.Series) -> list[str]:
    return ["(empty)" if value is None else str(value) for value in values.to_list()]


def reliability(truth: NDArray[np.float64], predicted: NDArray[np.float64], *, bins: int = 10) -> Reliability:
    """Mean truth by equally filled bins of the prediction; shapes (rows,). Ties and few rows make fewer bins."""
    usable = np.isfinite(truth) & np.isfinite(predicted)
    truth, predicted = truth[usable], predicted[usable]
    wanted = min(bins, len(predicted) // SMALL)
    if wanted < 1:
        return Reliability(predicted=(), observed=(), rows=())
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, wanted + 1)[1:-1]))
    place = np.searchsorted(edges, predicted, side="left")
    rows = np.bincount(place, minlength=len(edges) + 1)
    full = rows >= SMALL
    means = [
        np.bincount(place, weights=values, minlength=len(rows))[full] / rows[full] for values in (predicted, truth)
    ]
    return Reliability(
        predicted=tuple(means[0].tolist()), observed=tuple(means[1].tolist()), rows=tuple(rows[full].tolist())
    )


def calibration_error(found: Reliability) -> float:
    """Expected calibration error: mean distance of observed and predicted, by rows (Naeini et al., AAAI 2015)."""
    total = sum(found.rows)
    gaps = zip(found.predicted, found.observed, found.rows, strict=True)
    return sum(rows * abs(predicted - observed) for predicted, observed, rows in gaps) / total if total else 0.0


def residuals(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> Bins | None:
    """Histogram of truth minus prediction in equal bins, its extreme half per cent on either side left out."""
    gap = truth - predicted
    gap = gap[np.isfinite(gap)]
    if len(gap) < SMALL:
        return None
    low, high = (float(edge) for edge in np.quantile(gap, (0.005, 0.995)))
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = int(min(_BINS, max(6, len(gap) ** 0.5)))
    counts, edges = np.histogram(gap, bins=bins, range=(low, high))
    return Bins(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        below=int((gap < low).sum()),
        above=int((gap > high).sum()),
    )


def rebin(edges: Sequence[float], counts: Sequence[float], *, bins: int = _BINS) -> Bins | None:
    """Equal-width bins out of bins of any width, each bin's rows spread evenly over it.

    Where the middle 99 % of the rows fill less than a fifth of the range, only they are drawn.
    """
    total = float(sum(counts))
    if total <= 0 or len(edges) < 2:
        return None
    grid = np.maximum.accumulate(np.asarray(edges, dtype=np.float64))
    mass = np.concatenate(([0.0], np.cumsum(np.asarray(counts, dtype=np.float64))))
    low, high = float(grid[0]), float(grid[-1])
    inner = [float(edge) for edge in np.interp((0.005 * total, 0.995 * total), mass, grid)]
    if inner[1] > inner[0] and (inner[1] - inner[0]) < 0.2 * (high - low):
        low, high = inner
    if low == high:
        return Bins(edges=(low - 0.5, high + 0.5), counts=(round(total),))
    cuts = np.linspace(low, high, bins + 1)
    reached = _mass_below(cuts, grid, mass)
    rows = np.round(np.diff(reached)).astype(np.int64)
    below, above = round(float(reached[0])), round(float(total - reached[-1]))
    return Bins(edges=tuple(cuts.tolist()), counts=tuple(rows.tolist()), below=below, above=above)


def _mass_below(cuts: NDArray[np.float64], grid: NDArray[np.float64], mass: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows below each cut; rows piled on one value (bins without width) belong to the bin that starts there."""
    points, first = np.unique(grid, return_index=True)
    last = np.append(first[1:], len(grid)) - 1
    before, after = mass[first], mass[last]
    place = np.clip(np.searchsorted(points, cuts, side="right") - 1, 0, len(points) - 1)
    right = np.minimum(place + 1, len(points) - 1)
    width = points[right] - points[place]
    part = np.divide(cuts - points[place], width, out=np.zeros_like(cuts), where=width > 0)
    inside = after[place] + part * (before[right] - after[place])
    result = np.where(cuts == points[place], before[place], inside)
    result[-1] = mass[-1] if cuts[-1] >= points[-1] else result[-1]
    return result
