"""More requests than can be answered: what is beyond that is refused at once, so that the others are in time.

A server of one thread answers what has arrived in turns: everything that is there, then everything that came meanwhile.
Where more comes than it can do, the turns grow, and everybody waits for as long as there are connections. So the fast
lane answers requests where they arrive only while a turn is young; then they wait in a line, a turn answers some of
them, and looks who has come. How long the line is, is known: by what one took lately. As CoDel does for packets
(Nichols & Jacobson, "Controlling queue delay", ACM Queue 10(5), 2012), a short burst is left alone: only when the line
has been too long for a while, the server is *overloaded*, and whoever would make it longer is refused, within a turn of
arriving. The head of a large body is enough for that: what is let in then is a *promise*, and has a place when it
comes, but one that is not kept soon counts no more. To refuse costs time too: a turn answers for at least as long as it
took in, or nothing else would be done.

The ordinary lane has no line. There, when every turn has been long for a while, what is late in a turn is refused.
"""

from collections.abc import Callable
from typing import Final

WHILE_S: Final = 0.25
"""The line, or each turn, must have been too long for so long; and nobody refused for so long, until it is over."""
FEWEST: Final = 8
"""So many are answered in each turn, or wait, however long they take: a few large requests are no overload."""
SLICE_S: Final = 0.02
"""For so long a turn answers, before it looks who has come."""
BURST: Final = 3
"""So many times as long may the line of a burst be, as soon as some of it was answered: it shows what one takes."""
_SLICES: Final = 2
_KEPT: Final = 0.9
"""What is known of how long an answer takes counts so much less with each turn."""


class Shedder:
    """Says of each request whether to refuse it. Line and turns are long beyond ``most_s`` seconds; 0: nobody is.

    ``soon`` calls a function in the next turn; ``clock`` is in seconds and never runs backwards.
    """

    def __init__(self, most_s: float, soon: Callable[[Callable[[], None]], object], clock: Callable[[], float]) -> None:
        self.is_on = most_s > 0.0
        self._most_s = most_s
        self._soon = soon
        self.clock = clock
        self._began_s: float | None = None
        self._late_after_s: float | None = None
        self._asked = 0
        self._each_s = 0.0
        self._lately: tuple[float, float] = (0.0, 0.0)
        # turns of the ordinary lane
        self._long_since_s: float | None = None
        self._are_long = False
        self._answering_s = most_s
        self._refused_since_s: float | None = None
        # the line
        self._waiting = 0
        self._promised, self._promised_before, self._counted_s = 0, 0, 0.0
        self._full_since_s: float | None = None
        self._is_overloaded = False
        self._refused_s = 0.0

    # ---- turns ---------------------------------------------------------------------------------------------------

    def is_late(self) -> bool:
        """Whether this turn has answered for so long that a request should wait; else it is one more of this turn."""
        if self._began_s is None:
            self._begin()
            return False
        if self._late_after_s is None:
            took_s = self.clock() - self._began_s
            if took_s <= SLICE_S or not self.is_on:
                self._asked += 1
                return False
            self._late_after_s = took_s
        return True

    def refuses(self) -> bool:
        """Whether this request, for which there is no line, has to go."""
        if not self.is_on:
            return False
        if self._began_s is None:
            self._begin()
            return False
        self._asked += 1
        if not self._are_long or self._asked <= FEWEST:
            return False
        if self._refused_since_s is None and self.clock() - self._began_s > self._answering_s:
            self._refused_since_s = self.clock()
        return self._refused_since_s is not None

    def _begin(self) -> None:
        self._began_s, self._asked = self.clock(), 1
        self._soon(self._ended)

    def _ended(self) -> None:
        """A turn is over."""
        began_s, now_s = self._began_s, self.clock()
        assert began_s is not None
        if self._refused_since_s is None:
            self._answering_s = self._most_s
            self._learn(self._asked, now_s - began_s if self._late_after_s is None else self._late_after_s)
        else:
            self._answering_s = max(self._most_s, now_s - self._refused_since_s)
        self._began_s = self._refused_since_s = self._late_after_s = None
        if self._asked <= FEWEST or now_s - began_s <= self._most_s:
            self._long_since_s, self._are_long = None, False
            return
        if self._long_since_s is None:
            self._long_since_s = began_s
        self._are_long = now_s - self._long_since_s >= WHILE_S

    def _learn(self, count: int, seconds: float) -> None:
        """A turn with many answers says more of one than a turn with few, which may just have been interrupted."""
        answers, spent_s = self._lately
        answers, spent_s = _KEPT * answers + count, _KEPT * spent_s + seconds
        self._lately, self._each_s = (answers, spent_s), spent_s / max(answers, 1.0)

    # ---- the line ------------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether one more would be in time, behind those who wait and those to whom it was promised."""
        self._count()
        return not self._is_full(self._waiting + self._promised + self._promised_before, self._most_s)

    def promises(self) -> bool:
        """Whether a request, of which only the head has come, may send its body."""
        if not self.has_room():
            return False
        self._promised += 1
        return True

    def kept(self) -> None:
        """A promised body is there, or will never be: it has no place of its own any more."""
        self._count()
        if self._promised_before:
            self._promised_before -= 1
        else:
            self._promised = max(0, self._promised - 1)

    def admits(self, *, promised: bool = False) -> bool:
        """Whether a request that is all there may wait; it was ``promised`` when its head came."""
        if self._is_full(self._waiting, 2 * self._most_s if promised else self._most_s):
            return False
        self._waiting += 1
        return True

    def answered(self, count: int, seconds: float) -> None:
        """So many that waited were answered in ``seconds``, or had left."""
        self._waiting = max(0, self._waiting - count)
        self._learn(count, seconds)

    def _is_full(self, before: int, most_s: float) -> bool:
        """Whether so many before one more are too many; not before they have been for a while."""
        wait_s = (before + 1) * self._each_s
        if before < FEWEST or wait_s <= self._most_s or not self.is_on:
            self._full_since_s = None
            return False
        now_s = self.clock()
        if self._full_since_s is None:
            self._full_since_s = now_s
        if self._is_overloaded and now_s - self._refused_s >= WHILE_S:
            self._is_overloaded = False
        while_s = WHILE_S if wait_s <= BURST * self._most_s else _SLICES * SLICE_S
        if not self._is_overloaded and now_s - self._full_since_s < while_s:
            return False
        self._is_overloaded = True
        if wait_s <= most_s:
            return False
        self._refused_s = now_s
        return True

    def _count(self) -> None:
        """Forget promises that were not kept soon."""
        now_s = self.clock()
        if now_s - self._counted_s >= WHILE_S:
            kept = self._promised if now_s - self._counted_s < 2 * WHILE_S else 0
            self._promised, self._promised_before, self._counted_s = 0, kept, now_s
