"""Rows made to sit on edges: categories, gaps, range ends, extremes, and the very thresholds at which trees split."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from interlock.model.trees import Mapped, Plain
from interlock.records import Column, Signature

_BASE_ROWS = 8
_UNSEEN = "\u2205 never seen"
_FAR = (1e39, -1e39)
_SPLIT_BASE_ROWS = 64
_SPLITS = 1000
"""So many thresholds are tried at most, of all columns together."""


class MadeRows(NamedTuple):
    """Rows at the edges of what a model may meet. ``calm`` ones are ordinary, ``risky`` and ``far`` may be refused.

    ``far`` ones hold numbers that float32 cannot; they stand apart because errors are judged beside the largest answer.
    """

    calm: pl.DataFrame
    risky: pl.DataFrame
    far: pl.DataFrame


def made_rows(sample: pl.DataFrame, signature: Signature) -> MadeRows:
    """Vary one column at a time of a few training rows: known categories and range ends (calm), the rest (risky)."""
    base = sample.select(signature.names).head(_BASE_ROWS)
    calm, risky, far = [base], [base.clear()], [base.clear()]
    if base.is_empty():
        return MadeRows(base, base, base)
    for number, column in enumerate(signature.inputs):
        row = base[number % base.height]
        dtype = base.schema[column.name]
        beyond: list[Any] = list(_FAR) if column.type == "float" else []
        for target, values in ((calm, _calm_values(column)), (risky, _risky_values(column)), (far, beyond)):
            if values:
                varied = pl.Series(column.name, values).cast(dtype, strict=False)
                others = pl.concat([row] * len(values))
                target.append(others.with_columns(varied))
    return MadeRows(pl.concat(calm), pl.concat(risky), pl.concat(far))


def _calm_values(column: Column) -> list[Any]:
    if column.type == "bool":
        return [False, True]
    if column.type == "str":
        return list(column.categories or ())
    if column.type in ("int", "float") and isinstance(column.low, int | float) and isinstance(column.high, int | float):
        middle = (column.low + column.high) / 2
        values = [column.low, column.high, float(round(middle)), middle]
        return [int(value) for value in values] if column.type == "int" else [float(value) for value in values]
    return []


def _risky_values(column: Column) -> list[Any]:
    gap: list[Any] = [None] if column.nullable else []
    if column.type == "str":
        known = list(column.categories or ())[:1]
        return [*gap, _UNSEEN, "", *[f" {value}" for value in known], *[str(value).swapcase() for value in known]]
    if column.type == "int":
        return [*gap, 0, -1, 1, 2**31, -(2**31), 10**12]
    if column.type == "float":
        return [*gap, 0.0, -0.0, -1.0, 1e-300, 1e6, -1e6, 1e12, -1e12]
    return gap


# ---- thresholds --------------------------------------------------------------------------------------------------


def split_rows(
    sample: pl.DataFrame,
    signature: Signature,
    features: Sequence[Plain | Mapped],
    thresholds: Mapping[int, Sequence[float]],
) -> pl.DataFrame:
    """Training rows with one number moved to a threshold, and to the next numbers below and above it.

    ``features`` make the matrix in whose columns the ``thresholds`` are. Neighbours are those in float64 and those in
    float32, because some libraries round before they compare.
    """
    base = sample.select(signature.names).head(_SPLIT_BASE_ROWS)
    kinds = {column.name: column.type for column in signature.inputs}
    parts = [base.clear()]
    if base.is_empty() or not thresholds:
        return base.clear()
    share = max(_SPLITS // len(thresholds), 1)
    for number, (at, values) in enumerate(sorted(thresholds.items())[:_SPLITS]):
        feature = features[at]
        if isinstance(feature, Mapped) or kinds[feature.column] not in ("int", "float"):
            continue
        chosen = np.asarray(values)[np.unique(np.linspace(0, len(values) - 1, min(share, len(values))).astype(int))]
        around = _around(_raw(feature, chosen), whole=kinds[feature.column] == "int")
        rows = base[((np.arange(len(around)) + number) % base.height).tolist()]
        parts.append(rows.with_columns(pl.Series(feature.column, around).cast(base.schema[feature.column])))
    return pl.concat(parts)


def _raw(feature: Plain, values: Any) -> Any:
    """The numbers of the column that make ``values``, to rounding."""
    if feature.untouched:
        return values
    with np.errstate(all="ignore"):
        return (values - feature.offset) / feature.scale * feature.divisor + feature.shift


def _around(values: Any, *, whole: bool) -> Any:
    """Each value with its neighbours: whole numbers, or the next ones in float64 and in float32."""
    if whole:
        values = values[np.abs(values) < 2**53]
        return np.unique(np.concatenate([np.floor(values) - 1, np.floor(values), np.ceil(values), np.ceil(values) + 1]))
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
        near = [
            step
            for one in (values, narrow)
            for step in (one, np.nextafter(one, one.dtype.type(-np.inf)), np.nextafter(one, one.dtype.type(np.inf)))
        ]
    found = np.concatenate([step.astype(np.float64) for step in near])
    return found[np.isfinite(found)]
