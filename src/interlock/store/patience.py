"""How long to wait for a store at the other end of a network, and how often to ask again."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

REQUEST_S = 20.0
"""Default of ``store.timeout``."""
_TOTAL = 4.0
_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """``request_s``: the longest silence within one request; four times that, and six requests, for one operation."""

    request_s: float = REQUEST_S
    monotonic: Callable[[], float] = field(default=time.monotonic, repr=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    @property
    def total_s(self) -> float:
        """No request of an operation begins later than this after its first."""
        return _TOTAL * self.request_s

    def attempts(self) -> Iterator[int]:
        """0, 1, 2 …: with a pause before all but the first that doubles from 0.1 s to 5 s, until patience ends."""
        started, pause = self.monotonic(), _FIRST_PAUSE_S
        for number in range(_ATTEMPTS):
            if number:
                if self.monotonic() - started + pause > self.total_s:
                    return
                self.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            yield number
