"""Seasonal naive: the baseline of forecasts, fitted on the training series and stored as one small JSON document."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import polars as pl

from interlock.errors import StoreFault
from interlock.model.columns import FORM_FILE, Floats
from interlock.records import Record, canonical

_CANDIDATES: dict[str, tuple[int, ...]] = {
    "minute": (60, 1_440),
    "hour": (24, 168),
    "day": (7, 365),
    "week": (52,),
    "month": (12,),
    "quarter": (4,),
}
_STEPS_US = {"minute": 60_000_000, "hour": 3_600_000_000, "day": 86_400_000_000, "week": 604_800_000_000}
CALENDAR_MONTHS = {"month": 1, "quarter": 3, "year": 12}


class Seasonal(Record, frozen=True, tag="seasonal", tag_field="form", forbid_unknown_fields=True):
    """Seasonal naive: the mean target at the newest known time that lies a whole number of seasons back.

    Times are positions on a regular grid: ``unit`` is a calendar step (month, quarter, year) or ``fixed`` with
    ``step`` in microseconds (or in the column's own unit when it is a number). ``season`` is in positions;
    ``season_error`` gives the mean absolute error of every candidate on the training series (``1`` is the last value).
    ``values`` has one entry a position from ``first`` on; gaps hold the value a season earlier.
    Source: Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., section 5.2.
    """

    name: ClassVar[str] = "seasonal"
    time: str
    unit: Literal["fixed", "month", "quarter", "year"]
    step: int
    first: int
    season: int
    season_error: dict[str, float]
    mean: float
    values: tuple[float, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The time column."""
        return (self.time,)

    def answer(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Look one season back, as often as needed; the overall mean where there is nothing to look at."""
        position = positions(frame[self.time], self.unit, self.step)
        known = position.is_not_null().to_numpy()
        place = position.fill_null(0).to_numpy() - self.first
        beyond = np.maximum(place - (len(self.values) - 1), 1)
        place = place - self.season * -(-beyond // self.season)
        usable = known & (place >= 0)
        values = np.asarray(self.values)
        answers = np.where(usable, values[np.where(usable, place, 0)], self.mean)
        return pl.DataFrame({"prediction": answers})

    def files(self) -> dict[str, bytes]:
        """``form.json``."""
        return {FORM_FILE: canonical(self)}


def positions(series: pl.Series, unit: str, step: int) -> pl.Series:
    """Grid position of every time, Int64, null where the time is missing."""
    if unit in CALENDAR_MONTHS:
        months = series.dt.year().cast(pl.Int64) * 12 + series.dt.month().cast(pl.Int64) - 1
        return months // CALENDAR_MONTHS[unit]
    return _ticks(series) // step


def _ticks(series: pl.Series) -> pl.Series:
    """Turn times into whole numbers: microseconds since 1970 for dates and datetimes, integers as they are."""
    if series.dtype.is_temporal():
        return series.cast(pl.Datetime("us")).cast(pl.Int64)
    return series.cast(pl.Int64)


def grid(times: pl.Series) -> tuple[Literal["fixed", "month", "quarter", "year"], int, str]:
    """Grid of sorted distinct times: unit, step, and the name whose candidate seasons apply (or empty)."""
    ticks = _ticks(times).to_numpy()
    gap = int(np.median(np.diff(ticks))) if len(ticks) > 1 else 1
    gap = max(gap, 1)
    if not times.dtype.is_temporal():
        return "fixed", gap, ""
    days = gap / _STEPS_US["day"]
    calendar: tuple[tuple[Literal["month", "quarter", "year"], float, float], ...]
    calendar = (("month", 28, 31), ("quarter", 90, 92), ("year", 365, 366))
    for unit, low, high in calendar:
        if low <= days <= high:
            return unit, 1, unit
    name = next((name for name, step in _STEPS_US.items() if step == gap), "")
    return "fixed", gap, name


def fit_seasonal(frame: pl.DataFrame, time: str, target: str) -> Seasonal:
    """Fit a seasonal naive baseline; several rows at one time (several series) are averaged.

    A candidate season counts when the series is at least two seasons long; the smallest mean absolute in-sample error
    wins, and the last value (season 1) is always a candidate.
    Raises :class:`StoreFault` when there is no row with both a time and a target.
    """
    rows = frame.select(pl.col(time), pl.col(target).cast(pl.Float64)).drop_nulls().sort(time)
    if rows.is_empty():
        raise StoreFault(f"No training row has both '{time}' and '{target}', so there is no series to look back at.")
    unit, step, name = grid(rows[time].unique().sort())
    series = (
        rows.select(position=positions(rows[time], unit, step), y=pl.col(target))
        .group_by("position")
        .agg(pl.col("y").mean())
    ).sort("position")
    first, last = int(series["position"][0]), int(series["position"][-1])
    values = np.full(last - first + 1, math.nan)
    values[series["position"].to_numpy() - first] = series["y"].to_numpy()
    errors = _season_errors(values, (1, *_CANDIDATES.get(name, ())))
    season = min(errors, key=lambda candidate: (errors[candidate], candidate)) if errors else 1
    mean = float(rows[target].mean())  # type: ignore[arg-type]
    for place in np.flatnonzero(np.isnan(values)):
        values[place] = values[place - season] if place >= season else mean
    return Seasonal(
        time=time,
        unit=unit,
        step=step,
        first=first,
        season=season,
        season_error={str(key): value for key, value in errors.items()},
        mean=mean,
        values=tuple(values.tolist()),
    )


def _season_errors(values: Floats, candidates: Sequence[int]) -> dict[int, float]:
    """Mean absolute error of each candidate on the positions that the longest usable candidate can answer."""
    usable = [season for season in candidates if len(values) >= 2 * season and len(values) > 1]
    errors = {}
    for season in usable:
        gaps = np.abs(values[season:] - values[:-season])[max(usable) - season :]
        if not np.isnan(gaps).all():
            errors[season] = float(np.nanmean(gaps))
    return errors
