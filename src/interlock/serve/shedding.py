"""More requests than can be answered: what is beyond that is refused at once, so that the others are in time.

A server of one thread answers what has arrived in turns: everything that is there, then everything that came meanwhile.
Where more comes than it can do, the turns grow, and everybody waits for as long as there are connections. As CoDel does
for packets (Nichols & Jacobson, "Controlling queue delay", ACM Queue 10(5), 2012), a short burst is left alone: only
when every turn has been long for a while, what comes late in a turn is refused. To refuse costs time too, above all
where bodies are large: a turn answers for at least as long as the one before refused, or nothing else would be done.
"""

from collections.abc import Callable
from typing import Final

WHILE_S: Final = 0.25
"""Turns must have been long for so long."""
FEWEST: Final = 8
"""So many are answered in each turn, however long they take: a few large requests are no overload."""


class Shedder:
    """Says of each request whether to refuse it. A turn is long beyond ``most_s`` seconds; 0: nothing is ever refused.

    ``soon`` calls a function in the next turn; ``clock`` is in seconds and never runs backwards.
    """

    def __init__(self, most_s: float, soon: Callable[[Callable[[], None]], object], clock: Callable[[], float]) -> None:
        self._most_s = most_s
        self._soon = soon
        self._clock = clock
        self._began_s: float | None = None
        self._asked = 0
        self._long_since_s: float | None = None
        self._is_overloaded = False
        self._answering_s = most_s
        self._refused_since_s: float | None = None

    def refuses(self) -> bool:
        """Whether this request has to go."""
        if self._most_s == 0.0:
            return False
        if self._began_s is None:
            self._began_s, self._asked = self._clock(), 1
            self._soon(self._ended)
            return False
        self._asked += 1
        if not self._is_overloaded or self._asked <= FEWEST:
            return False
        if self._refused_since_s is None and self._clock() - self._began_s > self._answering_s:
            self._refused_since_s = self._clock()
        return self._refused_since_s is not None

    def _ended(self) -> None:
        """A turn is over."""
        began_s, now_s = self._began_s, self._clock()
        refused_s = 0.0 if self._refused_since_s is None else now_s - self._refused_since_s
        self._began_s = self._refused_since_s = None
        self._answering_s = max(self._most_s, refused_s)
        assert began_s is not None
        if self._asked <= FEWEST or now_s - began_s <= self._most_s:
            self._long_since_s, self._is_overloaded = None, False
            return
        if self._long_since_s is None:
            self._long_since_s = began_s
        self._is_overloaded = now_s - self._long_since_s >= WHILE_S
