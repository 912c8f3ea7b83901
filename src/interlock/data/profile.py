"""Mergeable summaries of columns, and the distance between two of them.

A number is counted in bins whose edges are quantiles of the reference (at most 64 bins of about equal weight, and one
below and one above its range), so that two profiles on the same edges can be added and compared. Text and booleans are
counted by name. Dates and times are numbers (days, and seconds, since 1970); of bytes only
the sizes are counted. Nulls are a bin of their own: missing data
is a state, not an absence.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from interlock.data.casting import logical
from interlock.data.signature import INTERNAL
from interlock.errors import DataRefused
from interlock.records import ColumnType, Record
from interlock.settings import CATEGORY_CAP

BINS = 64


class ColumnProfile(Record, frozen=True, kw_only=True):
    """One column. ``count`` rows, of which ``nulls`` are null and ``strange`` not finite.

    Numbers: bin ``i`` of ``bins`` counts ``edges[i-1] <= x < edges[i]`` (the first and last are open); ``low``,
    ``high``, ``mean`` and ``spread`` (sum of squared differences from the mean) are of the finite values.
    Text: ``categories`` counts the most frequent names, ``other`` the rest. ``distinct`` is of one frame; after a merge
    it is the larger of the two, a lower bound.
    """

    name: str
    type: ColumnType
    count: int
    nulls: int = 0
    strange: int = 0
    distinct: int = 0
    edges: tuple[float, ...] = ()
    bins: tuple[int, ...] = ()
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    spread: float = 0.0
    categories: dict[str, int] | None = None
    other: int = 0

    @property
    def std(self) -> float | None:
        """Sample standard deviation of the finite values; None for fewer than two."""
        finite = sum(self.bins)
        return math.sqrt(self.spread / (finite - 1)) if finite > 1 else None


class Profile(Record, frozen=True, kw_only=True):
    """All columns of a frame."""

    rows: int
    columns: tuple[ColumnProfile, ...]

    def column(self, name: str) -> ColumnProfile | None:
        """The profile of that column, or None."""
        return next((column for column in self.columns if column.name == name), None)


def profile(frame: pl.DataFrame, *, reference: Profile | None = None) -> Profile:
    """Summarise a frame; with a ``reference`` on its edges and names, so that the two can be compared and merged."""
    names = [name for name in frame.columns if name not in INTERNAL and logical(frame.schema[name]) is not None]
    columns = tuple(_column(frame[name], reference.column(name) if reference else None) for name in names)
    return Profile(rows=frame.height, columns=columns)


def _column(series: pl.Series, reference: ColumnProfile | None) -> ColumnProfile:
    kind = logical(series.dtype)
    assert kind is not None
    if reference is not None and (reference.categories is None) != (kind not in ("str", "bool")):
        reference = None
    if kind in ("str", "bool"):
        return _named(series, kind, reference)
    return _numbered(series, kind, reference)


def _named(series: pl.Series, kind: ColumnType, reference: ColumnProfile | None) -> ColumnProfile:
    values = series.drop_nulls().cast(pl.String)
    counts = values.value_counts(name="interlock_count").sort(
        ["interlock_count", series.name], descending=[True, False]
    )
    found: dict[str, int] = dict(counts.iter_rows())
    if reference is not None and reference.categories is not None:
        kept = {name: found.get(name, 0) for name in reference.categories}
    else:
        kept = dict(list(found.items())[:CATEGORY_CAP])
    return ColumnProfile(
        name=series.name,
        type=kind,
        count=series.len(),
        nulls=series.null_count(),
        distinct=len(found),
        categories=kept,
        other=values.len() - sum(kept.values()),
    )


def _numbered(series: pl.Series, kind: ColumnType, reference: ColumnProfile | None) -> ColumnProfile:
    numbers = as_numbers(series)
    finite = np.sort(numbers[np.isfinite(numbers)])
    edges = np.asarray(reference.edges) if reference is not None else quantile_edges(finite)
    return ColumnProfile(
        name=series.name,
        type=kind,
        count=series.len(),
        nulls=series.null_count(),
        strange=series.len() - series.null_count() - finite.size,
        distinct=int(np.count_nonzero(np.diff(finite)) + 1) if finite.size else 0,
        edges=tuple(edges.tolist()),
        bins=tuple(np.diff(np.searchsorted(finite, edges, side="left"), prepend=0, append=finite.size).tolist()),
        low=float(finite[0]) if finite.size else None,
        high=float(finite[-1]) if finite.size else None,
        mean=float(finite.mean()) if finite.size else None,
        spread=float(np.square(finite - finite.mean()).sum()) if finite.size else 0.0,
    )


def as_numbers(series: pl.Series) -> npt.NDArray[np.float64]:
    """Values that are not null, as float64, shape (n,): dates as days, times as seconds since 1970, bytes as sizes."""
    values = series.drop_nulls()
    if series.dtype == pl.Binary:
        values = values.bin.size()
    if series.dtype == pl.Datetime:
        values = values.dt.epoch("us").cast(pl.Float64) / 1e6
    return values.to_physical().cast(pl.Float64).to_numpy()


def quantile_edges(ordered: npt.NDArray[np.float64], bins: int = BINS) -> npt.NDArray[np.float64]:
    """Distinct edges, shape (at most bins + 1,), that cut sorted values into bins of about equal weight.

    The lowest value is the first edge and what follows the highest is the last: values outside of the range of the
    reference have bins of their own, also for a reference that is constant.
    """
    if not ordered.size:
        return ordered
    places = (np.arange(1, bins) * ordered.size) // bins
    inner = ordered[places]
    edges: npt.NDArray[np.float64] = np.unique([ordered[0], *inner, np.nextafter(ordered[-1], np.inf)])
    return edges


def merge(a: Profile, b: Profile) -> Profile:
    """The profile of the rows of both. Raises :class:`DataRefused` when they are not on the same edges or columns."""
    if [column.name for column in a.columns] != [column.name for column in b.columns]:
        raise DataRefused("Two profiles have different columns.", next_step="Profile both against one reference.")
    columns = tuple(_merged(left, right) for left, right in zip(a.columns, b.columns, strict=True))
    return Profile(rows=a.rows + b.rows, columns=columns)


def _merged(a: ColumnProfile, b: ColumnProfile) -> ColumnProfile:
    if a.edges != b.edges or (a.categories is None) != (b.categories is None):
        raise DataRefused(
            f"Two profiles of column '{a.name}' are on different bins.", next_step="Profile both against one reference."
        )
    categories, other = _merged_names(a, b)
    n, m = sum(a.bins), sum(b.bins)
    shift = (b.mean or 0.0) - (a.mean or 0.0) if n and m else 0.0
    lows = [value for value in (a.low, b.low) if value is not None]
    highs = [value for value in (a.high, b.high) if value is not None]
    return ColumnProfile(
        name=a.name,
        type=a.type,
        count=a.count + b.count,
        nulls=a.nulls + b.nulls,
        strange=a.strange + b.strange,
        distinct=max(a.distinct, b.distinct),
        edges=a.edges,
        bins=tuple(x + y for x, y in zip(a.bins, b.bins, strict=True)),
        low=min(lows, default=None),
        high=max(highs, default=None),
        mean=((a.mean or 0.0) * n + (b.mean or 0.0) * m) / (n + m) if n + m else None,
        # Chan, Golub, LeVeque (1979), pairwise update of the sum of squares
        spread=a.spread + b.spread + (shift**2 * n * m / (n + m) if n + m else 0.0),
        categories=categories,
        other=other,
    )


def _merged_names(a: ColumnProfile, b: ColumnProfile) -> tuple[dict[str, int] | None, int]:
    if a.categories is None or b.categories is None:
        return None, 0
    names = [*a.categories, *(name for name in b.categories if name not in a.categories)]
    both = {name: a.categories.get(name, 0) + b.categories.get(name, 0) for name in names}
    return both, a.other + b.other


def psi(reference: ColumnProfile, other: ColumnProfile) -> float:
    """Population stability index between two profiles on the same bins, less what chance alone gives; not below 0.

    PSI = sum((q - p) ln(q / p)) over bins with shares p and q; nulls, values that are not finite, and names beyond the
    list are bins too. Empty bins get half a count (as in Haldane's correction), and under no drift PSI is
    (K - 1)(1/n + 1/m) on average for K bins and n, m rows (Yurdakul & Naranjo, 2020), which is subtracted.
    """
    p, q = _counts(reference, other)
    used = (p + q) > 0
    p, q = p[used], q[used]
    n, m, k = p.sum(), q.sum(), p.size
    if n == 0 or m == 0 or k < 2:
        return 0.0
    if (p == 0).any() or (q == 0).any():
        p, q = p + 0.5, q + 0.5
    p, q = p / p.sum(), q / q.sum()
    raw = float(np.sum((q - p) * np.log(q / p)))
    return max(0.0, raw - (k - 1) * (1 / float(n) + 1 / float(m)))


def _counts(a: ColumnProfile, b: ColumnProfile) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Counts of both over the same bins, shape (K,) each."""
    if a.categories is None or b.categories is None:
        if a.edges != b.edges or (a.categories is None) != (b.categories is None):
            raise DataRefused(
                f"Two profiles of column '{a.name}' are on different bins.",
                next_step="Profile the other with reference=...",
            )
        left, right = list(a.bins), list(b.bins)
    else:
        names = [*a.categories, *(name for name in b.categories if name not in a.categories)]
        left, right = _by_name(a.categories, names), _by_name(b.categories, names)
        left.append(a.other)
        right.append(b.other)
    left += [a.nulls, a.strange]
    right += [b.nulls, b.strange]
    return np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)


def _by_name(counts: Mapping[str, int], names: list[str]) -> list[Any]:
    return [counts.get(name, 0) for name in names]
