"""The real clock. Tests inject :class:`interlock.testing.clock.ManualClock` instead."""

import time
from datetime import UTC, datetime


class SystemClock:
    """Time as this machine tells it (implements :class:`interlock.ports.Clock`)."""

    def now(self) -> datetime:
        """Wall time in UTC."""
        return datetime.now(UTC)

    monotonic = staticmethod(time.monotonic)
    """Seconds since some fixed moment; never runs backwards."""
