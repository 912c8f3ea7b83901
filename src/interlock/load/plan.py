"""What the sending process is told, and when each request is due."""

from collections.abc import Iterator
from typing import Final

from interlock.records import Record

PLAN_FILE: Final = "plan.json"
TALLY_FILE: Final = "tally.jsonl"
"""One interval a line; a line of its own, ``null``, where a run began anew."""


class Plan(Record, frozen=True, kw_only=True):
    """A load test. ``bodies`` are sent to ``route`` in an order drawn from ``seed``, by so many ``users``.

    ``rate``: requests a second, each due at its own time whatever became of those before it (open loop); None: a user
    sends its next request when it has its answer (closed loop). ``timeout_s`` bounds the wait for one answer.
    """

    url: str
    route: str
    bodies: tuple[bytes, ...]
    users: int
    duration_s: float
    seed: int
    rate: float | None = None
    key: str = ""
    timeout_s: float = 10.0
    unverified: bool = False

    @property
    def interval_s(self) -> float:
        """Length of an interval: a second, and longer where there would be more than 240 of them."""
        return max(1.0, self.duration_s / 240)


class Schedule:
    """When each request is due: the k-th (from 0) k / rate seconds after the beginning, as long as the run lasts."""

    def __init__(self, rate: float, duration_s: float) -> None:
        self._rate = rate
        self._duration_s = duration_s
        self._given = 0

    def next(self) -> float | None:
        """When the next one is due, in seconds from the beginning; None when there are no more."""
        due_s = self._given / self._rate
        if due_s >= self._duration_s:
            return None
        self._given += 1
        return due_s

    def rest(self, until_s: float) -> Iterator[float]:
        """Those that nobody took although they were due by then."""
        while self._given / self._rate < min(until_s, self._duration_s):
            yield self._given / self._rate
            self._given += 1
