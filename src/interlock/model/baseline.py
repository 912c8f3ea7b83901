"""The trivial model that every candidate must beat: prior, mean, the most frequent values, or seasonal naive."""

import math
from typing import Any

import polars as pl

from interlock.errors import StoreFault
from interlock.model.forms import Constant, Form, Ranked
from interlock.model.seasonal import fit_seasonal
from interlock.records import Signature
from interlock.settings import Settings

RANKED = 100
"""Values in the ranking of the baseline, the most frequent ones."""


def baseline_form(settings: Settings, signature: Signature, training: pl.LazyFrame) -> Form:
    """Choose the form by the output and fit it to the training rows.

    Raises :class:`StoreFault` when every one of them lacks the target.
    """
    output = signature.output
    assert output is not None
    target = settings.model.target
    values = training.select(pl.col(target).drop_nulls()).collect().to_series()
    if values.is_empty():
        raise StoreFault(f"The target '{target}' is missing in every training row.")
    if output.kind == "label":
        assert output.classes is not None
        counts = dict(zip(*values.value_counts().get_columns(), strict=True))
        shares = tuple(counts.get(label, 0) / len(values) for label in output.classes)
        return Constant(value=_commonest(values), shares=shares)
    if output.kind == "ranking":
        return Ranked(values=tuple(_by_frequency(values).head(RANKED)))
    time = time_column(settings, signature)
    if settings.model.task == "forecast" and time is not None and values.dtype.is_numeric():
        return fit_seasonal(training.select(time, target).collect(), time, target)
    if values.dtype.is_numeric():
        return Constant(value=math.fsum(values.cast(pl.Float64)) / len(values))
    return Constant(value=_commonest(values))


def _commonest(values: pl.Series) -> Any:
    """The most frequent value, the smallest of equals."""
    return _by_frequency(values)[0]


def _by_frequency(values: pl.Series) -> pl.Series:
    """The distinct values, the most frequent first, the smaller of equals before the larger."""
    if values.dtype.is_temporal():
        values = values.cast(pl.String)
    return values.value_counts(name="interlock_count").sort(["interlock_count", values.name], descending=[True, False])[
        values.name
    ]


def time_column(settings: Settings, signature: Signature) -> str | None:
    """The time of a forecast: that of the holdout, or the only date or datetime column."""
    named = settings.data.holdout.time
    if named is not None and named in signature.names:
        return named
    times = [column.name for column in signature.inputs if column.type in ("date", "datetime")]
    return times[0] if len(times) == 1 else None
