"""What became of the requests of a load test, counted by intervals that can be added.

Latencies are counted in bins that are one per cent wide, so that an interval is small whatever its rate, and a
percentile is at most one per cent above the exact one (as in Gil Tene's HdrHistogram).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from interlock.records import Record

_PER_E: Final = 1.0 / math.log(1.01)
NOT_SENT: Final = "not sent in time"
NO_END: Final = "no answer by the end"


class Interval(Record, frozen=True, kw_only=True):
    """One piece of a run.

    ``begin_s`` and ``end_s`` count from the beginning of the run. ``latencies`` counts bins of microseconds, of answers
    and of what was waited for in vain; ``longest_us`` is exact. ``tiers`` and ``releases`` count answers, ``errors``
    what was none, by its kind. ``busy`` is the share of one processor that the sender itself used, ``late_us`` by how
    much it was late at most to do what was due.
    """

    begin_s: float
    end_s: float
    latencies: dict[int, int] = msgspec.field(default_factory=dict)
    longest_us: int = 0
    tiers: dict[str, int] = msgspec.field(default_factory=dict)
    releases: dict[str, int] = msgspec.field(default_factory=dict)
    errors: dict[str, int] = msgspec.field(default_factory=dict)
    busy: float = 0.0
    late_us: int = 0

    @property
    def answered(self) -> int:
        """How many requests were answered."""
        return sum(self.tiers.values())

    @property
    def failed(self) -> int:
        """How many requests were not."""
        return sum(self.errors.values())


def bin_of(latency_us: float) -> int:
    """The bin of a latency; what is below a microsecond is in the first."""
    return int(math.log(latency_us) * _PER_E) if latency_us > 1 else 0


def percentile(interval: Interval, share: float) -> float:
    """Milliseconds within which ``share`` of the counted requests ended (nearest rank); 0.0 when there were none."""
    total = sum(interval.latencies.values())
    rank, seen = math.ceil(share * total - 1e-9), 0
    if total and rank >= total:
        return interval.longest_us / 1e3
    for place in sorted(interval.latencies):
        seen += interval.latencies[place]
        if seen >= rank:
            return min(math.exp((place + 1) / _PER_E), interval.longest_us) / 1e3
    return 0.0


def together(intervals: Iterable[Interval]) -> Interval:
    """All of them as one, from the first beginning to the last end."""
    pieces = list(intervals)
    latencies, tiers, releases, errors = (Counter[int](), Counter[str](), Counter[str](), Counter[str]())
    for piece in pieces:
        latencies.update(piece.latencies)
        tiers.update(piece.tiers)
        releases.update(piece.releases)
        errors.update(piece.errors)
    begin_s = min((piece.begin_s for piece in pieces), default=0.0)
    end_s = max((piece.end_s for piece in pieces), default=0.0)
    worked = sum(piece.busy * (piece.end_s - piece.begin_s) for piece in pieces)
    return Interval(
        begin_s=begin_s,
        end_s=end_s,
        latencies=dict(latencies),
        longest_us=max((piece.longest_us for piece in pieces), default=0),
        tiers=_largest_first(tiers),
        releases=dict(sorted(releases.items())),
        errors=_largest_first(errors),
        busy=worked / (end_s - begin_s) if end_s > begin_s else 0.0,
        late_us=max((piece.late_us for piece in pieces), default=0),
    )


def _largest_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


class Recorder:
    """Counts requests as they end, until the interval is taken."""

    def __init__(self) -> None:
        self._begin_s = 0.0
        self._clear()

    def _clear(self) -> None:
        self._latencies: Counter[int] = Counter()
        self._longest_us = 0
        self._tiers: Counter[str] = Counter()
        self._releases: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._late_us = 0

    def late(self, late_s: float) -> None:
        """The sender was late by so much."""
        self._late_us = max(self._late_us, int(late_s * 1e6))

    def answer(self, latency_s: float, tier: str, release: str) -> None:
        """Count an answer."""
        self._took(latency_s)
        self._tiers[tier] += 1
        self._releases[release] += 1

    def failure(self, kind: str, waited_s: float | None = None) -> None:
        """Count a request without an answer; ``waited_s``: it was waited for in vain so long, a latency too."""
        if waited_s is not None:
            self._took(waited_s)
        self._errors[kind] += 1

    def _took(self, latency_s: float) -> None:
        latency_us = max(latency_s * 1e6, 0.0)
        self._latencies[bin_of(latency_us)] += 1
        self._longest_us = max(self._longest_us, math.ceil(latency_us))

    def take(self, now_s: float, busy: float) -> Interval:
        """The interval that ends now; the next one begins."""
        found = Interval(
            begin_s=self._begin_s,
            end_s=now_s,
            latencies=dict(self._latencies),
            longest_us=self._longest_us,
            tiers=dict(self._tiers),
            releases=dict(self._releases),
            errors=dict(self._errors),
            busy=busy,
            late_us=self._late_us,
        )
        self._begin_s = now_s
        self._clear()
        return found
