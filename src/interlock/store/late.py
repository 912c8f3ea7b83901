"""A ledger whose database may be away when the program starts: it is opened when it is first there.

Until then every method raises what opening raised. One thread tries at a time, the others do not wait for it, and
nobody tries within a second of the last time: finding out that a database is away can take ten.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, TypeVar

from interlock.errors import InterlockError, StoreFault
from interlock.ports import Ledger, Transaction
from interlock.records import Event, Fence, Verification

T = TypeVar("T")
AGAIN_S: Final = 1.0


class LateLedger:
    """Implements :class:`interlock.ports.Ledger` on the one that ``opened`` gives, which may raise as often as it must.

    What is given is kept, and closed with this one.
    """

    def __init__(self, opened: Callable[[], Ledger], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._opened = opened
        self._monotonic = monotonic
        self._problem: InterlockError | None = None
        self._again_at_s = 0.0
        self._found: Ledger | None = None
        self._opening = threading.Lock()

    def _ledger(self) -> Ledger:
        found = self._found
        if found is not None:
            return found
        if not self._opening.acquire(blocking=False):
            raise StoreFault("The state is being opened.", next_step="Wait a moment.")
        try:
            if self._found is None:
                self._found = self._tried()
            return self._found
        finally:
            self._opening.release()

    def _tried(self) -> Ledger:
        if self._problem is not None and self._monotonic() < self._again_at_s:
            raise self._problem.with_traceback(None)
        try:
            return self._opened()
        except InterlockError as error:
            self._problem, self._again_at_s = error, self._monotonic() + AGAIN_S
            raise

    @contextmanager
    def transaction(self, fence: Fence | None = None, *, turn: str = "") -> Iterator[Transaction]:
        """Begin; commits when the block ends well."""
        with self._ledger().transaction(fence, turn=turn) as transaction:
            yield transaction

    def read(self, collection: str, key: str, type: type[T]) -> T | None:
        """Give the document decoded as ``type``, or None."""
        return self._ledger().read(collection, key, type)

    def scan(
        self, collection: str, type: type[T], *, prefix: str = "", newest_first: bool = False, limit: int | None = None
    ) -> list[tuple[str, T]]:
        """List documents in key order, or the reverse."""
        return self._ledger().scan(collection, type, prefix=prefix, newest_first=newest_first, limit=limit)

    def events(
        self,
        *,
        kinds: Sequence[str] = (),
        subject: str | None = None,
        after: int = 0,
        until: datetime | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[Event]:
        """Events that match, in order of sequence, or the reverse."""
        asked: dict[str, Any] = {"kinds": kinds, "subject": subject, "after": after, "until": until}
        return self._ledger().events(**asked, newest_first=newest_first, limit=limit)

    def verify(self) -> Verification:
        """Recompute every hash."""
        return self._ledger().verify()

    def acquire(self, name: str, *, ttl_s: float) -> Fence:
        """Take a lease."""
        return self._ledger().acquire(name, ttl_s=ttl_s)

    def renew(self, fence: Fence, *, ttl_s: float) -> None:
        """Extend a lease."""
        self._ledger().renew(fence, ttl_s=ttl_s)

    def release(self, fence: Fence) -> None:
        """Give a lease back."""
        self._ledger().release(fence)

    def close(self) -> None:
        """Let go of connections, if there ever were any."""
        if self._found is not None:
            self._found.close()
