"""What a load test found, in figures, and whether it kept to the service level. Pure: counts in, figures out."""

from collections.abc import Sequence

from interlock.load.tally import Interval, percentile, together
from interlock.records import Record
from interlock.service_level import LATENCIES, Limit, shown

_STAND_INS = ("last-good", "baseline")
_BUSY = 0.8
_LATE_MS = 20.0


class Held(Record, frozen=True, kw_only=True):
    """One condition of the service level, what was found, and whether it holds."""

    condition: str
    found: float
    holds: bool

    def line(self) -> str:
        """In words."""
        measure = self.condition.split()[0]
        return f"{'holds' if self.holds else 'MISSED'}  {shown(measure, self.found)} (fails if {self.condition})"


class Found(Record, frozen=True, kw_only=True):
    """The figures. Latencies in milliseconds; ``rps``: answers a second; ``errors``, ``fallback``: shares.

    ``fallback`` is of the answers, those of a model that stands in for the champion. ``busy`` is the share of one
    processor that the sender used: near 1 the figures are its own as much as the server's. ``late_ms`` is by how much
    it was late at most, which is in the latencies.
    """

    seconds: float
    requests: int
    answered: int
    rps: float
    latency_ms: dict[str, float]
    errors: float
    fallback: float
    tiers: dict[str, int]
    releases: dict[str, int]
    error_kinds: dict[str, int]
    busy: float
    late_ms: float

    @property
    def is_blurred(self) -> bool:
        """The sender had too little of a processor: the server may be faster than the figures."""
        return self.busy > _BUSY or self.late_ms > max(_LATE_MS, self.latency_ms["p99"] / 2)

    def measure(self, name: str) -> float:
        """The value of one of the measures of a service level."""
        return self.latency_ms[name] if name in LATENCIES else float(getattr(self, name))


def found_in(intervals: Sequence[Interval], planned_s: float) -> Found:
    """The figures of a run. What is counted in an end that only waited for answers is not time of the run."""
    whole = together(intervals)
    requests = whole.answered + whole.failed
    seconds = min(whole.end_s, planned_s) if whole.end_s else planned_s
    return Found(
        seconds=seconds,
        requests=requests,
        answered=whole.answered,
        rps=whole.answered / seconds if seconds else 0.0,
        latency_ms={name: percentile(whole, share) for name, share in LATENCIES.items()},
        errors=whole.failed / requests if requests else 1.0,
        fallback=sum(whole.tiers.get(tier, 0) for tier in _STAND_INS) / max(whole.answered, 1),
        tiers=whole.tiers,
        releases=whole.releases,
        error_kinds=whole.errors,
        busy=whole.busy,
        late_ms=whole.late_us / 1e3,
    )


def judged(found: Found, limits: Sequence[Limit]) -> tuple[Held, ...]:
    """Hold the figures against each condition; without a request nothing holds."""
    return tuple(
        Held(
            condition=limit.written(),
            found=found.measure(limit.measure),
            holds=found.requests > 0 and limit.holds(found.measure(limit.measure)),
        )
        for limit in limits
    )
