"""Two threads that let reading, scoring and writing overlap, with a fixed number of chunks in flight.

Polars, NumPy and Arrow let go of the interpreter lock while they work, so that threads are enough.
An error on either side reaches the other, and leaving early stops the thread before control returns.
"""

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

DEPTH = 2
"""Chunks that may wait between two threads: one is enough to overlap, a second smooths what is uneven."""


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterator[T], depth: int = DEPTH) -> Iterator[T]:
    """Yield ``items``, made in a thread of their own that stays at most ``depth`` items ahead.

    What ``items`` raises is raised here, in its place.
    """
    slots = threading.Semaphore(depth)
    made: SimpleQueue[T | _End] = SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        end = _End(None)
        try:
            while slots.acquire() and not stopped.is_set():
                made.put(next(items))
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 - carried to the thread that asked
            end = _End(error)
        made.put(end)

    thread = threading.Thread(target=work, name="interlock-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := made.get(), _End):
            yield item
            del item
            slots.release()
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        slots.release()
        thread.join()


class Behind(Generic[T]):
    """A thread that consumes what is put, in order, at most ``depth`` items behind.

    What ``consume`` raises is raised by the next ``put``, or by leaving the block; nothing is consumed after it.
    """

    def __init__(self, consume: Callable[[T], None], depth: int = DEPTH) -> None:
        self._consume = consume
        self._slots = threading.Semaphore(depth)
        self._given: SimpleQueue[T | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, name="interlock-behind", daemon=True)

    def __enter__(self) -> "Behind[T]":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._abandoned = kind is not None
        self._given.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def put(self, item: T) -> None:
        """Hand over; waits while ``depth`` items are waiting."""
        self._slots.acquire()
        self._raise()
        self._given.put(item)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._given.get()) is not None:
            if self._error is None and not self._abandoned:
                try:
                    self._consume(item)
                except BaseException as error:  # noqa: BLE001 - carried to the thread that puts
                    self._error = error
            del item
            self._slots.release()
