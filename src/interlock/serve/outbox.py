"""What leaves a server beside its answers: taken in at once, delivered by a thread of its own, and never waited for."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")
MOST: Final = 8_192
"""What waits at most. Beyond it the oldest is dropped, and counted."""


class Outbox(Generic[T]):
    """A bounded queue. ``deliver`` is called in the thread, with what waited; what it raises is told once by ``say``.

    ``add`` is called in one thread only. ``what`` names in words that which is delivered.
    """

    def __init__(
        self,
        deliver: Callable[[list[T]], None],
        say: Callable[[str], None],
        what: str,
        *,
        most: int = MOST,
        every_s: float = 0.25,
    ) -> None:
        self._deliver = deliver
        self._say = say
        self._what = what
        self._waiting: deque[T] = deque(maxlen=most)
        self._most = most
        self._every_s = every_s
        self._added = 0
        self._taken = 0
        self._lost = 0
        self._problem = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"interlock-{what.replace(' ', '-')}", daemon=True)
        self._thread.start()

    def add(self, item: T) -> None:
        """Take in one, without waiting."""
        self._waiting.append(item)
        self._added += 1

    @property
    def lost(self) -> int:
        """How many were dropped, or could not be delivered."""
        return self._lost + max(0, self._added - self._taken - len(self._waiting))

    def close(self, within_s: float = 2.0) -> None:
        """Deliver what waits, and stop; what takes longer than ``within_s`` is given up."""
        self._stop.set()
        self._thread.join(timeout=within_s)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._empty()
        self._empty()

    def _empty(self) -> None:
        taken: list[T] = []
        while self._waiting and len(taken) < self._most:
            taken.append(self._waiting.popleft())
        if not taken:
            return
        self._taken += len(taken)
        try:
            self._deliver(taken)
        except Exception as error:  # noqa: BLE001 - whatever it was, answers go on
            self._lost += len(taken)
            self._told(f"the {self._what} cannot be delivered, and answers go on without: {type(error).__name__}")
        else:
            self._told("")

    def _told(self, problem: str) -> None:
        if problem != self._problem and problem:
            self._say(problem)
        self._problem = problem
