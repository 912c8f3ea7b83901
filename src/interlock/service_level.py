"""The section [load] of the settings: the service level that a load test holds a server to, and how one is written."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from interlock.errors import Misuse
from interlock.units import Duration, Positive, Section, Share, seconds

LATENCIES: Final[Mapping[str, float]] = {
    "p50": 0.5,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p999": 0.999,
    "max": 1.0,
}
"""Names of what is said about latencies, and the share of requests that took no longer."""
_SCALES: Final[Mapping[str, Mapping[str, float]]] = {
    "latency": {"ms": 1.0, "s": 1_000.0},
    "errors": {"%": 0.01, "": 1.0},
    "fallback": {"%": 0.01, "": 1.0},
    "rps": {"": 1.0},
}
_CONDITION = re.compile(r"\s*([a-z]+[0-9.]*)\s*([<>])\s*(\d+(?:\.\d+)?)\s*(ms|s|%|)\s*")


class Load(Section, frozen=True, kw_only=True):
    """[load]: the service level that `interlock load` holds a server to; what is not set is not judged."""

    p50: Annotated[Duration | None, Meta(description="Half of the requests take no longer.")] = None
    p90: Annotated[Duration | None, Meta(description="90 % of the requests take no longer.")] = None
    p95: Annotated[Duration | None, Meta(description="95 % of the requests take no longer.")] = None
    p99: Annotated[Duration | None, Meta(description="99 % of the requests take no longer.")] = None
    p999: Annotated[Duration | None, Meta(description="99.9 % of the requests take no longer.")] = None
    max: Annotated[Duration | None, Meta(description="No request takes longer.")] = None
    errors: Annotated[Share | None, Meta(description="Largest share of requests that have no answer.")] = None
    fallback: Annotated[Share | None, Meta(description="Largest share of answers by last good or the baseline.")] = None
    rps: Annotated[Positive | None, Meta(description="Fewest answers a second.")] = None


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of a service level: a ``measure`` must not be ``above`` the bound, or else not below it.

    Latencies are bounded in milliseconds, ``errors`` and ``fallback`` by a share, ``rps`` by answers a second.
    """

    measure: str
    above: bool
    bound: float

    def holds(self, found: float) -> bool:
        """Whether a measured value keeps to it."""
        return found <= self.bound if self.above else found >= self.bound

    def written(self) -> str:
        """The condition as a person would write it for ``--fail-if``."""
        return f"{self.measure} {'>' if self.above else '<'} {shown(self.measure, self.bound)}"


def shown(measure: str, value: float) -> str:
    """A measured value in the unit of its measure."""
    if measure in LATENCIES:
        return f"{value:.4g} ms" if value < 1_000 else f"{value / 1_000:.4g} s"
    if measure == "rps":
        return f"{value:.0f}"
    return f"{100 * value:.4g} %"


def limits_of(level: Load, conditions: Iterable[str] = ()) -> tuple[Limit, ...]:
    """All that a run is held to: the settings and what was said beside them; raises :class:`Misuse`."""
    found: list[Limit] = []
    for name in Load.__struct_fields__:
        value = getattr(level, name)
        if value is not None:
            bound = seconds(value) * 1_000 if isinstance(value, str) else float(value)
            found.append(Limit(measure=name, above=name != "rps", bound=bound))
    return (*found, *map(limit_of, conditions))


def limit_of(text: str) -> Limit:
    """Read ``p99 > 50ms``, ``errors > 0.1%`` or ``rps < 500``; raises :class:`Misuse`."""
    match = _CONDITION.fullmatch(text)
    measure = "" if match is None else match[1].replace("p99.9", "p999")
    if match is None or measure not in Load.__struct_fields__:
        known = ", ".join(Load.__struct_fields__)
        raise Misuse(
            f"'{text[:100]}' is no condition.",
            next_step=f"Write 'p99 > 50ms', 'errors > 0.1%' or 'rps < 500'. What is measured: {known}.",
        )
    value, unit = float(match[3]), match[4]
    scales = _SCALES["latency" if measure in LATENCIES else measure]
    bound = value * scales.get(unit, 1.0)
    if unit not in scales or (measure in ("errors", "fallback") and bound > 1):
        raise Misuse(
            f"'{text[:100]}' has no unit that fits {measure}.",
            next_step="Latencies take ms or s, errors and fallback % or a share of 1, rps a plain number.",
        )
    return Limit(measure=measure, above=match[2] == ">", bound=bound)
