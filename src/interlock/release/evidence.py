"""Is the live model failing more than its owner tolerates? Sequential tests with a stated rate of false alarms.

Votes come one by one: a failure that counts against the model, or an answer that was fit to leave. While the chance
of a failure, given all votes before, is at most ``tolerated``, the mean number of votes until a false alarm is at least
the alarm level c. That is the Shiryaev-Roberts e-detector of Shin, Ramdas & Rinaldo ("E-detectors: a nonparametric
framework for sequential change detection", arXiv:2203.03532): ``M_n = (M_{n-1} + 1) L_n``, with alarm at ``M_n >= c``.
``L_n`` is the likelihood ratio of a failure rate q against the tolerated one, an e-value under every smaller rate;
what q is nobody knows, so the detectors of several are averaged, which is an e-detector again.

Failures come in clumps, which breaks what is assumed of each vote: :class:`Ballot` lets a client vote once a second, by
the first request of that second, so that no outcome chooses whether it is counted.
"""

import math
from collections.abc import Sequence
from typing import Final

from interlock.records import Record

RATES: Final = (0.02, 0.05, 0.1, 0.3, 0.99)
"""The failure rates that are looked for."""
YEAR_S: Final = 365.25 * 86_400.0


def threshold(false_trips_per_year: float, votes_per_s: float) -> float:
    """The alarm level c: so many votes are cast, at the rated load, for each false alarm that is allowed."""
    return max(2.0, votes_per_s * YEAR_S / false_trips_per_year)


class Reading(Record, frozen=True, kw_only=True):
    """What a detector has seen since it was started: its level and the alarm's, and the votes."""

    level: float
    alarm: float
    votes: int
    failures: int

    @property
    def alarms(self) -> bool:
        """Whether the evidence is enough."""
        return self.level >= self.alarm


class Detector:
    """A Shiryaev-Roberts e-detector of failures beyond ``tolerated``, averaged over ``rates``."""

    def __init__(self, tolerated: float, alarm: float, rates: Sequence[float] = RATES) -> None:
        if not 0.0 < tolerated < 1.0:
            raise ValueError(f"the tolerated rate is {tolerated}")
        looked_for = [rate for rate in rates if rate > tolerated]
        if not looked_for:
            raise ValueError("no rate to look for is beyond what is tolerated")
        self.alarm = alarm
        self._failed = [rate / tolerated for rate in looked_for]
        self._fine = [(1.0 - rate) / (1.0 - tolerated) for rate in looked_for]
        self.reset()

    def reset(self) -> None:
        """Forget all votes."""
        self._levels = [0.0] * len(self._failed)
        self._votes = self._failures = 0

    def vote(self, *, failed: bool) -> bool:
        """Take a vote in; whether there is alarm now."""
        ratios = self._failed if failed else self._fine
        self._levels = [min((level + 1.0) * ratio, 1e300) for level, ratio in zip(self._levels, ratios, strict=True)]
        self._votes += 1
        self._failures += failed
        return failed and self.level >= self.alarm

    @property
    def level(self) -> float:
        """The evidence: the mean of the detectors."""
        return math.fsum(self._levels) / len(self._levels)

    def reading(self) -> Reading:
        """The evidence as a record."""
        return Reading(level=self.level, alarm=self.alarm, votes=self._votes, failures=self._failures)


class Ballot:
    """Who may vote now: each client once a second, and all together ``votes_per_s`` times in any second.

    Time is in seconds of a clock that never runs backwards. Memory is bounded by the votes of one second.
    """

    def __init__(self, votes_per_s: float) -> None:
        self._most = max(1, int(votes_per_s))
        self._next_second = -math.inf
        self._voted: set[object] = set()

    def admits(self, client: object, now_s: float) -> bool:
        """Whether this request of a client is its vote: the first of a second."""
        if now_s >= self._next_second:
            self._next_second, self._voted = math.floor(now_s) + 1.0, set()
        voted = self._voted
        if client in voted or len(voted) >= self._most:
            return False
        voted.add(client)
        return True
