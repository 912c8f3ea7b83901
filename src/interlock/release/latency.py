"""How long two models take for the same records: what a duel votes for, and times that add up over servers.

A *duel* asks two models for the same records in the same moment. Equally fast ones are exchangeable in it, so the
challenger takes longer in at most half of the duels, whatever the distribution of times, and longer than a factor of
the other's time no more often: a sign test (Dixon & Mood, "The statistical sign test", JASA 1946), which
:class:`~interlock.release.evidence.Detector` makes sequential with :data:`EVEN` tolerated. Times are kept in cells an
eighth of an octave wide, so that the medians of several servers are those of their sum, to 5 %.
"""

import math
from collections.abc import Mapping
from typing import Final

EVEN: Final = 0.5
"""The share of duels that one who is not slower loses at most."""
RATES: Final = (0.6, 0.75, 0.9, 0.99)
"""The shares that are looked for."""
LEAST_S: Final = 1e-3
"""A champion that takes less is taken to need so long: below it a request costs as much by itself."""
_AN_OCTAVE: Final = 8
_UNIT_S: Final = 1e-6


def is_slower(challenger_s: float, champion_s: float, factor: float) -> bool:
    """Whether a challenger took longer than ``factor`` times the champion's time for the same records."""
    return challenger_s > factor * max(champion_s, LEAST_S)


def cell_of(seconds: float) -> str:
    """The cell of a time: eighths of octaves of microseconds, from 0 on."""
    return str(max(0, math.floor(_AN_OCTAVE * math.log2(max(seconds, _UNIT_S) / _UNIT_S))))


def median_s(cells: Mapping[str, int]) -> float:
    """The median of the times in cells, in seconds: the middle of its cell. NaN without any."""
    half, seen = sum(cells.values()) / 2, 0
    for cell in sorted(cells, key=int):
        seen += cells[cell]
        if seen >= half and seen:
            return _UNIT_S * math.exp2((int(cell) + 0.5) / _AN_OCTAVE)
    return math.nan


def in_words(seconds: float) -> str:
    """A time with two digits and its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 1e-6:.2g} µs"
