"""How often a key may ask: a token bucket for each, that holds what the quota allows and fills evenly.

The burst is the quota itself: ``1000 per minute`` lets 1,000 requests through at once, and then one each 60 ms.
"""

import re
from collections.abc import Callable
from typing import Final

from interlock.errors import SettingsError

QUOTA_PATTERN: Final = r"^([1-9]\d{0,8}) per (second|minute|hour|day)$"
_S: Final = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0}
_EPSILON: Final = 1e-9
"""Of a token: what is lost by adding up parts of it."""


class Bucket:
    """The tokens of one key, by a clock in seconds that never runs backwards.

    Raises :class:`SettingsError` for a quota that is none.
    """

    __slots__ = ("_at", "_clock", "_left", "_most", "_per_s", "quota")

    def __init__(self, quota: str, clock: Callable[[], float]) -> None:
        found = re.match(QUOTA_PATTERN, quota)
        if found is None:
            raise SettingsError(f"'{quota}' is not a quota.", next_step="Write it as 1000 per minute.")
        self.quota = quota
        self._clock = clock
        self._most = float(found[1])
        self._per_s = self._most / _S[found[2]]
        self._left = self._most
        self._at = clock()

    def wait_s(self) -> float:
        """Seconds until a request may come; 0 when it may come now."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        return 0.0 if self._left >= 1.0 - _EPSILON else (1.0 - self._left) / self._per_s

    def take(self) -> None:
        """Count a request that may come; ask :meth:`wait_s` first."""
        self._left -= 1.0
