"""Which training rows a trial learns from, and on which it is scored. The holdout is in neither.

One fold is the split that a training function gets as ``X_valid``: see :mod:`interlock.model.fit`. More folds cover all
rows once when they are drawn; where rows have an order in time each fold is later than all that it was trained on
(forward chaining: Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., section 5.10).
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.errors import DataRefused
from interlock.model.fit import VALID_SHARE

Rows = NDArray[np.int64]


def split(height: int, order: pl.Series | None, folds: int, seed: int) -> list[tuple[Rows, Rows]]:
    """Row numbers to learn from and to score on, each sorted (int64), fold by fold.

    ``order`` holds the time of each of the ``height`` rows, where they have one. Raises :class:`DataRefused` when there
    are too few rows.
    """
    if order is None:
        ranked = np.random.default_rng(seed).permutation(height)
    else:
        ranked = order.arg_sort(nulls_last=False).to_numpy().astype(np.int64)
    if folds == 1:
        size = round(VALID_SHARE * height)
        cut = [
            (ranked[: height - size], ranked[height - size :]) if order is not None else (ranked[size:], ranked[:size])
        ]
    elif order is None:
        parts = np.array_split(ranked, folds)
        cut = [(np.concatenate([*parts[:i], *parts[i + 1 :]]), parts[i]) for i in range(folds)]
    else:
        parts = np.array_split(ranked, folds + 1)
        cut = [(np.concatenate(parts[: i + 1]), parts[i + 1]) for i in range(folds)]
    if any(len(fit) == 0 or len(valid) == 0 for fit, valid in cut):
        raise DataRefused(
            f"{height} training rows are too few to score trials on.",
            next_step="Wait for more rows, lower tune.folds, or set tune.trials to 0.",
            rows=height,
        )
    return [(np.sort(fit).astype(np.int64), np.sort(valid).astype(np.int64)) for fit, valid in cut]
