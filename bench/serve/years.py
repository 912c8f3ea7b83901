"""Healthy traffic, accelerated to years: how often does the breaker take a model off duty that is fit?

    python bench/serve/years.py [--years 200] [--hours 6]

Two programs say the same in two ways. *Whole*: clients, their requests, :class:`Ballot`, both :class:`Detector` and the
breaker's :func:`advance`, as ``serve/duty.py`` joins them, on a clock that is turned by hand; some simulated hours.
*Years*: votes only. Between two failures the evidence follows a formula, so that time jumps from failure to failure;
many years side by side in NumPy. It is held against :class:`Detector` vote by vote first.

Traffic is at the rated load all the time (100 votes a second, the default), where false trips are likeliest. The budget
is ``breaker.false_trips``, 1 per year by default. Errors are those of counting: the root of the number of trips.

* even: every vote fails alone, with the tolerated rate (0.1 %), and with a tenth of it.
* clumps of a client: a client that fails asks again and again, 5 times on average, within a second: one vote.
* long clumps of a client: it goes on failing for 5 seconds on average, and votes in each.
* clumps over clients: one cause fails the requests of 5 clients on average, one after the other. This breaks what the
  evidence assumes of votes; the marginal rate is still the one that is named.
* slow phases: for 30 s of each hour the rate is ten times as large, and is at most what is tolerated.
* slow phases beyond: in these 30 s it is 1 %: ten times what is tolerated, and no false trip in the strict sense.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from journal import about, options, table

from interlock.release.breaker import Alarm, BreakerPolicy, Reset, State, Tick, advance
from interlock.release.evidence import RATES, YEAR_S, Ballot, Detector, threshold
from interlock.serve.duty import Terms

TERMS = Terms()
TOLERATED = TERMS.tolerated
VOTES_PER_S = TERMS.votes_per_s
ALARM = 2.0 * threshold(TERMS.false_trips_per_year, VOTES_PER_S)
"""As Duty has it: two detectors share the budget."""
SIDE_BY_SIDE = 500
CLUMP = 5.0

Gaps = Callable[[np.random.Generator, np.ndarray], np.ndarray]
"""Votes that go well before the next failure, for each of the chains; the votes that each has seen are given."""


@dataclass
class Case:
    """One kind of traffic: what is simulated, and the share of votes that fail in it."""

    name: str
    rate: float
    gaps: Gaps


def even(rate: float) -> Gaps:
    return lambda draw, seen: draw.geometric(rate, len(seen)) - 1


def clumped(rate: float, between: int = 0) -> Gaps:
    """Failures in clumps of CLUMP on average, ``between`` votes of others between two of a clump."""

    def gaps(draw: np.random.Generator, seen: np.ndarray) -> np.ndarray:
        goes_on = draw.random(len(seen)) < 1.0 - 1.0 / CLUMP
        fresh = draw.geometric(rate / CLUMP, len(seen)) - 1
        return np.where(goes_on, between, fresh)

    return gaps


def phases(calm: float, slow: float) -> Gaps:
    """The first 30 s of each hour have the rate ``slow``, the others ``calm``."""
    hour, phase = 3_600.0 * VOTES_PER_S, 30.0 * VOTES_PER_S

    def gaps(draw: np.random.Generator, seen: np.ndarray) -> np.ndarray:
        # a hazard in pieces: draw how much of it passes until the failure, and walk through the pieces
        left = draw.exponential(size=len(seen))
        calm_h, slow_h = -math.log1p(-calm), -math.log1p(-slow)
        per_hour = slow_h * phase + calm_h * (hour - phase)
        at = seen % hour
        to_end = np.where(at < phase, slow_h * (phase - at) + calm_h * (hour - phase), calm_h * (hour - at))
        inside = np.where(at < phase, slow_h * (phase - at), 0.0)
        here = np.where(left < inside, left / slow_h, np.maximum(phase - at, 0.0) + (left - inside) / calm_h)
        beyond = np.maximum(left - to_end, 0.0)
        whole, rest = np.floor(beyond / per_hour), beyond % per_hour
        then = np.where(rest < slow_h * phase, rest / slow_h, phase + (rest - slow_h * phase) / calm_h)
        return np.floor(np.where(left < to_end, here, (hour - at) + whole * hour + then))

    return gaps


CASES = (
    Case("even, at the tolerated rate", TOLERATED, even(TOLERATED)),
    Case("even, at a tenth of it", TOLERATED / 10, even(TOLERATED / 10)),
    Case("clumps of a client within a second", TOLERATED / CLUMP, even(TOLERATED / CLUMP)),
    Case("long clumps of a client, a tenth", TOLERATED / 10, clumped(TOLERATED / 10, int(VOTES_PER_S) - 1)),
    Case("clumps over clients, a tenth", TOLERATED / 10, clumped(TOLERATED / 10)),
    Case("clumps over clients, a hundredth", TOLERATED / 100, clumped(TOLERATED / 100)),
    Case(
        "slow phases, within what is tolerated", TOLERATED / 10 * (1 + 9 * 30 / 3600), phases(TOLERATED / 10, TOLERATED)
    ),
    Case("slow phases beyond, 1 %", TOLERATED / 10 + 0.0099 * 30 / 3600, phases(TOLERATED / 10, 0.01)),
)


class Chains:
    """Detectors of one kind side by side, that jump from failure to failure."""

    def __init__(self, count: int) -> None:
        rates = np.array([rate for rate in RATES if rate > TOLERATED])
        self._failed = (rates / TOLERATED)[:, None]
        self._fine = ((1.0 - rates) / (1.0 - TOLERATED))[:, None]
        self._log_fine = np.log(self._fine)
        self.levels = np.zeros((len(rates), count))

    def step(self, gaps: np.ndarray) -> np.ndarray:
        """So many votes that go well, then a failure; which chains have an alarm, and begin anew."""
        power = np.exp(self._log_fine * gaps)
        self.levels = self.levels * power + self._fine * (1.0 - power) / (1.0 - self._fine)
        self.levels = (self.levels + 1.0) * self._failed
        alarms = self.levels.mean(axis=0) >= ALARM
        self.levels[:, alarms] = 0.0
        return alarms


def check_chains() -> float:
    """The largest relative difference of the level from Detector's own, over a long run of votes."""
    draw = np.random.default_rng(3)
    detector, chain, worst = Detector(TOLERATED, ALARM), Chains(1), 0.0
    for _ in range(200):
        gap = int(draw.geometric(0.004)) - 1
        for _ in range(gap):
            detector.vote(failed=False)
        detector.vote(failed=True)
        (alarm,) = chain.step(np.array([float(gap)]))
        if alarm:
            detector.reset()
        worst = max(worst, abs(float(chain.levels.mean()) - detector.level) / max(detector.level, 1.0))
    return worst


def simulated(case: Case, years: float, until_s: float) -> tuple[int, float]:
    """Alarms, and the years that were simulated, at most so many, and until the time is up."""
    draw = np.random.default_rng(11)
    chains, seen = Chains(SIDE_BY_SIDE), np.zeros(SIDE_BY_SIDE)
    votes, alarms, steps = years * YEAR_S * VOTES_PER_S, 0, 0
    while seen.sum() < votes and (steps % 1_000 or time.monotonic() < until_s):
        gaps = case.gaps(draw, seen).astype(float)
        seen += gaps + 1.0
        alarms += int(chains.step(gaps).sum())
        steps += 1
    return alarms, float(seen.sum()) / VOTES_PER_S / YEAR_S


# ---- the whole machine, request by request -----------------------------------------------------------------------


def requests(case: str, hours: float) -> Iterator[tuple[float, int, bool]]:
    """When, of which client, and whether it fails: 150 clients that ask once a second each, and retry in clumps."""
    draw = np.random.default_rng(5)
    clients = 150
    for second in range(int(hours * 3_600)):
        failing = draw.random(clients) < (TOLERATED / CLUMP if case == "clumps" else TOLERATED)
        for client in range(clients):
            yield second + client / clients, client, bool(failing[client])
            if failing[client] and case == "clumps":
                for number in range(int(draw.geometric(1.0 / CLUMP))):
                    yield second + client / clients + 1e-4 * number, client, True


def whole(case: str, hours: float) -> tuple[int, int, int, int]:
    """Requests, votes, failures that were counted, and trips."""
    policy = BreakerPolicy()
    ballot, state = Ballot(VOTES_PER_S), State(model="m")
    detectors = {kind: Detector(TOLERATED, ALARM) for kind in ("model", "environment")}
    asked = votes = failures = trips = 0
    for number, (now_s, client, failed) in enumerate(requests(case, hours)):
        asked += 1
        if number % 1_000 == 0:
            state, _ = advance(state, Tick(now_s), policy)
        if not ballot.admits(client, now_s):
            continue
        votes += 1
        failures += failed
        alarms = [detector.vote(failed=failed and kind == "model") for kind, detector in detectors.items()]
        if any(alarms):
            state, _ = advance(state, Alarm(now_s, state.epoch, "model", "class", detectors["model"].reading()), policy)
            trips += state.mode != "closed"
            state, _ = advance(state, Reset(now_s, "the next one"), policy)
            for detector in detectors.values():
                detector.reset()
    return asked, votes, failures, trips


def main() -> None:
    wanted = options("years", 30)
    wanted.add_argument("--years", type=float, default=200.0, help="for each kind of traffic")
    wanted.add_argument("--hours", type=float, default=1.0, help="of the whole machine")
    given = wanted.parse_args()
    until_s = time.monotonic() + 60.0 * given.minutes
    print(f"level beside Detector, vote by vote: relative difference at most {check_chains():.1e}")
    rows = []
    for place, case in enumerate(CASES):
        share = (until_s - time.monotonic()) / (len(CASES) - place)
        alarms, years = simulated(case, given.years, time.monotonic() + max(share, 1.0))
        error = math.sqrt(max(alarms, 1)) / years
        rows.append(
            [case.name, f"{case.rate:.4%}", f"{years:,.1f}", f"{alarms:,}", f"{alarms / years:.3f}", f"{error:.3f}"]
        )
        print(f"{case.name}: {alarms} in {years:.0f} years", file=sys.stderr, flush=True)
    print(f"\nFalse trips a year; allowed: {TERMS.false_trips_per_year:g}. Every trip is reset at once, and counts.")
    table(["traffic", "votes that fail", "years", "trips", "trips a year", "+-"], rows)
    print(f"\nThe whole machine, {given.hours:g} hours")
    lines = []
    for name in ("even", "clumps"):
        asked, votes, failures, trips = whole(name, given.hours)
        lines.append([name, f"{asked:,}", f"{votes:,}", f"{failures:,}", f"{failures / votes:.4%}", str(trips)])
    table(["traffic", "requests", "votes", "failures counted", "share", "trips"], lines)
    about()


if __name__ == "__main__":
    main()
