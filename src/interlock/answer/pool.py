"""Models that only their own code can answer for, each in worker processes: asked from an event loop, never waited for.

What arrives while every worker is busy is asked together in the next call. A call that takes too long, ends its
process, or takes too much memory costs that process and nothing else: the rows are answered by the next tier, and a new
process is started. A call that the model refuses is asked again request by request, so that one bad record does not
spoil the others; when the first ones are refused again, it is the model, and the rest are not asked. Of a call that
fails as a whole the first request is told the cause, and the others that they were *bystanders*: what happened once is
counted once.

What waits is bounded: beyond it a request is turned away at once. By what the last calls took for a row, a call is
given as much as takes an eighth of the deadline; and where calls are long, as much may wait as takes a quarter. So a
model that has more to do than it can is late for nobody whom it answers, and is not taken for one that hangs.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from interlock.errors import Fault, InterlockError, UserCodeFailed
from interlock.model.predictor import Predictor
from interlock.model.rows import Framed, FrameRows, Given, Row, answers_of
from interlock.records import Signature

MOST_ROWS: Final = 4_096
"""Rows of one call to a worker."""
FIRST_ROWS: Final = 64
"""Rows of one call before it is known how long a row takes."""
_CALLS: Final = 4
_TELLING: Final = 8
"""A call with so many rows tells what one takes."""
_CALL_SHARE, _WAIT_SHARE = 1 / 8, 1 / 4
"""Of the deadline: what a call should take at most, and what may wait."""


class Overloaded(Fault):
    """More waits than can be answered in time."""


@dataclass(slots=True, eq=False)
class _Asked:
    """A question. With a ``clock`` it is a call of its own, from ``began_s`` to ``ended_s``."""

    rows: Sequence[Row]
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Sequence[Given]]"
    clock: Callable[[], float] | None = None
    began_s: float = 0.0
    ended_s: float = 0.0

    def settle(self, given: Sequence[Given] | Exception) -> None:
        """Give the answers to whoever waits, in the thread of its loop."""
        if self.clock is not None:
            self.ended_s = self.clock()
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self.loop.call_soon_threadsafe(self._set, given)

    def _set(self, given: Sequence[Given] | Exception) -> None:
        if self.future.done():
            return
        if isinstance(given, Exception):
            self.future.set_exception(given)
        else:
            self.future.set_result(given)


class Pace:
    """How fast a model is, by its last calls: how many rows a call may have, and how many may wait.

    A call has costs of its own, so a small one says little of a row: the least that a row took is what counts, and as
    long as calls are short, nothing is bounded by time. ``deadline_s`` is that of a call.
    """

    def __init__(self, deadline_s: float) -> None:
        self._call_s, self._wait_s = _CALL_SHARE * deadline_s, _WAIT_SHARE * deadline_s
        self._calls: deque[tuple[int, float]] = deque(maxlen=_CALLS)
        self._row_s = 0.0
        self._is_fresh = False
        self.call_rows = FIRST_ROWS
        """Rows of the next call."""
        self.most_waiting: int | None = None
        """Rows that may wait for each worker; None: time does not bound them."""

    def saw(self, rows: int, seconds: float, problem: InterlockError | None) -> None:
        """Take in a call. One that failed says nothing, nor the next one, in which a process is started again."""
        if problem is not None:
            if problem.facts.get("cause") == "deadline":
                self.call_rows = max(1, min(self.call_rows, rows // 2))
            self._is_fresh = problem.facts.get("cause") not in ("raised", "nonsense")
            return
        if self._is_fresh:
            self._is_fresh = False
            return
        self._calls.append((rows, seconds))
        self._row_s = max(min(took / max(count, 1) for count, took in self._calls), 1e-9)
        self.call_rows = min(self._in(self._call_s), max(2 * self.call_rows, FIRST_ROWS))
        long_s = self._call_s / 2
        if len(self._calls) == _CALLS and all(took > long_s for _, took in self._calls):
            self.most_waiting = self._in(self._wait_s)
        elif rows >= _TELLING and seconds > long_s:
            self.most_waiting = max(self._in(self._wait_s), FIRST_ROWS)
        else:
            self.most_waiting = None

    def _in(self, seconds: float) -> int:
        """So many rows, at least one, take so long."""
        return max(1, int(min(seconds / self._row_s, 1e9)))


class Pool:
    """Workers of one model: a predictor each, which lives in a thread of its own. ``deadline_s`` is that of a call."""

    def __init__(
        self,
        predictors: Sequence[Predictor],
        signature: Signature,
        *,
        deadline_s: float = 2.0,
        most_waiting: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signature = signature
        self._clock = clock
        self._pace = Pace(deadline_s)
        self._waiting: deque[_Asked] = deque()
        self._most_waiting = most_waiting
        self._rows_waiting = 0
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(predictor,), name="interlock-pool", daemon=True)
            for predictor in predictors
        ]
        for thread in self._threads:
            thread.start()

    async def ask(self, rows: Sequence[Row]) -> Sequence[Given]:
        """One answer or error per row; raises :class:`Overloaded` when too much waits already."""
        return await self._put(rows).future

    async def timed(self, rows: Sequence[Row]) -> tuple[Sequence[Given], float]:
        """As :meth:`ask`, in a call of its own, and its seconds from when a worker took it."""
        asked = self._put(rows, self._clock)
        return await asked.future, asked.ended_s - asked.began_s

    def _put(self, rows: Sequence[Row], clock: Callable[[], float] | None = None) -> _Asked:
        loop = asyncio.get_running_loop()
        asked = _Asked(rows, loop, loop.create_future(), clock)
        with self._lock:
            if self._closed:
                raise Overloaded("The model is being taken off.", next_step="Ask again.")
            if self._waiting and self._rows_waiting + len(rows) > self._most():
                raise Overloaded(
                    f"{self._rows_waiting} rows wait for the model already.",
                    next_step="Ask again later, or run more workers.",
                )
            self._waiting.append(asked)
            self._rows_waiting += len(rows)
        self._bell.put(True)
        return asked

    def _most(self) -> int:
        """Rows that may wait now."""
        by_time = self._pace.most_waiting
        return self._most_waiting if by_time is None else min(self._most_waiting, by_time * len(self._threads))

    @property
    def waiting(self) -> int:
        """Rows that no worker has taken yet."""
        return self._rows_waiting

    def close(self) -> None:
        """End the workers; whoever still waits is told."""
        with self._lock:
            self._closed = True
            left, self._waiting = list(self._waiting), deque()
        for asked in left:
            asked.settle(Overloaded("The model was taken off.", next_step="Ask again."))
        for _ in self._threads:
            self._bell.put(False)
        for thread in self._threads:
            thread.join(timeout=10.0)

    def _serve(self, predictor: Predictor) -> None:
        model = _Rows(predictor, self._signature)
        with predictor:
            while self._bell.get():
                taken = self._take()
                if taken:
                    began_s, rows = self._clock(), sum(len(asked.rows) for asked in taken)
                    taken[0].began_s = began_s
                    problem = _answer(model, taken)
                    self._pace.saw(rows, self._clock() - began_s, problem)

    def _take(self) -> list[_Asked]:
        """What waits, up to one call."""
        taken: list[_Asked] = []
        rows = 0
        most = min(MOST_ROWS, self._pace.call_rows)
        with self._lock:
            while self._waiting and (not taken or self._fits(taken[0], rows, most)):
                asked = self._waiting.popleft()
                rows += len(asked.rows)
                if not asked.future.cancelled():
                    taken.append(asked)
            self._rows_waiting -= rows
        return taken

    def _fits(self, first: _Asked, rows: int, most: int) -> bool:
        """Whether the next that waits may be in one call with those that were taken."""
        following = self._waiting[0]
        return first.clock is None and following.clock is None and rows + len(following.rows) <= most


class _Rows(FrameRows):
    """The rows of a predictor, a few of them without a frame."""

    def __init__(self, predictor: Predictor, signature: Signature) -> None:
        super().__init__(predictor.predict, signature)
        self._few = predictor.few

    def together(self, rows: Sequence[Row]) -> Sequence[Given]:
        """As :meth:`FrameRows.together`."""
        given = None if isinstance(rows, Framed) else self._few(rows)
        return super().together(rows) if given is None else answers_of(given, len(rows))


def _answer(model: FrameRows, taken: Sequence[_Asked]) -> InterlockError | None:
    """Ask for all at once; where the model refused, for each request alone. What was wrong with the first call."""
    alone = taken[0].rows if len(taken) == 1 else None  # they may be a frame already
    given = _asked(model, [row for asked in taken for row in asked.rows] if alone is None else alone)
    problem = given if isinstance(given, InterlockError) else None
    if isinstance(given, UserCodeFailed) and given.facts.get("cause") == "raised" and len(taken) > 1:
        again = [_answer(model, [asked]) for asked in taken[:_AGAIN]]
        for asked in taken[_AGAIN:]:
            if None in again:
                _answer(model, [asked])
            else:
                asked.settle([_bystander(given)] * len(asked.rows))
        return problem
    if alone is not None and not isinstance(given, InterlockError):
        taken[0].settle(given)
        return None
    if isinstance(given, InterlockError):
        taken[0].settle([given] * len(taken[0].rows))
        for asked in taken[1:]:
            asked.settle([_bystander(given)] * len(asked.rows))
        return given
    place = 0
    for asked in taken:
        count = len(asked.rows)
        asked.settle(given[place : place + count])
        place += count
    return None


_AGAIN: Final = 2
"""So many requests of a call that was refused are asked alone before it is known that it is the model."""


def _bystander(error: InterlockError) -> InterlockError:
    """The same error for a request that was in the same call as others."""
    made = UserCodeFailed(error.message, next_step=error.next_step)
    made.facts = {**error.facts, "bystander": True}
    return made


def _asked(model: FrameRows, rows: Sequence[Row]) -> Sequence[Given] | InterlockError:
    try:
        return model.together(rows)
    except InterlockError as error:
        return error
    except Exception as error:  # noqa: BLE001 - whatever it was, someone waits for the outcome
        return UserCodeFailed(f"{type(error).__name__} while the model was asked.", cause="died")
