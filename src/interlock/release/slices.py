"""Which slice is a row in? Values of a column with few of them; ranges between training quartiles for the others."""

import difflib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import polars as pl

from interlock.errors import SettingsError

FEW_NUMBERS = 20
"""An integer column with more distinct values than this among the held-out rows is cut into ranges."""
MOST_VALUES = 50
"""Of a column of text, the most frequent values are slices, up to this many; the others share one."""
EMPTY = "(empty)"
OTHERS = "(all others)"


def slice_columns(training: pl.LazyFrame, holdout: pl.DataFrame, names: Sequence[str]) -> list[pl.Series]:
    """Make text columns ``slice.<name>`` without nulls; ranges are cut by training rows, never by held-out ones.

    Raises :class:`SettingsError` with the nearest name for a column that the rows do not have.
    """
    return [_labels(training, holdout, name).fill_null(EMPTY).alias(f"slice.{name}") for name in names]


def _labels(training: pl.LazyFrame, holdout: pl.DataFrame, name: str) -> pl.Series:
    if name not in holdout.columns:
        near = difflib.get_close_matches(name, holdout.columns, cutoff=0.0)
        raise SettingsError(
            f"There is no column '{name}' to slice by.",
            next_step=f"Did you mean '{near[0]}'? Mend gate.slices." if near else "Mend gate.slices.",
            column=name,
        )
    column = holdout[name]
    few = column.n_unique() <= FEW_NUMBERS
    if column.dtype == pl.Boolean or (column.dtype.is_integer() and few):
        return column.cast(pl.String)
    if column.dtype.is_numeric() or column.dtype.is_temporal():
        return _ranges(column, _edges(training, name))
    return _frequent(column.cast(pl.String))


def _frequent(column: pl.Series) -> pl.Series:
    counts = column.drop_nulls().value_counts(name="rows").sort("rows", column.name, descending=[True, False])
    if counts.height <= MOST_VALUES:
        return column
    kept = counts[column.name].head(MOST_VALUES - 1)
    return pl.select(
        pl.when(column.is_null() | column.is_in(kept.implode())).then(column).otherwise(pl.lit(OTHERS))
    ).to_series()


def _edges(training: pl.LazyFrame, name: str) -> list[Any]:
    """Lower, middle and upper quartile of the training rows: values that occur, distinct, ascending."""
    ordered = training.select(pl.col(name).drop_nulls().sort()).collect().to_series()
    if ordered.dtype.is_float():
        ordered = ordered.drop_nans()
    places = [round(share * (len(ordered) - 1)) for share in (0.25, 0.5, 0.75)] if len(ordered) else []
    return sorted({ordered[place] for place in places})


def _ranges(column: pl.Series, edges: Sequence[Any]) -> pl.Series:
    if not edges:
        return column.cast(pl.String)
    texts = [f"{edge:g}" if isinstance(edge, int | float) else str(edge) for edge in edges]
    if len(set(texts)) < len(texts):  # large numbers close together: six digits do not tell them apart
        texts = [str(edge) for edge in edges]
    labels = [
        f"below {texts[0]}",
        *(f"{low} to below {high}" for low, high in pairwise(texts)),
        f"{texts[-1]} and above",
    ]
    place = pl.sum_horizontal((pl.lit(column) >= edge).cast(pl.Int8) for edge in edges)
    label = place.replace_strict(list(range(len(labels))), labels)
    empty = column.is_null() | column.is_nan() if column.dtype.is_float() else column.is_null()
    return pl.select(pl.when(pl.lit(empty)).then(None).otherwise(label)).to_series()
