"""Two models are asked for the same records in the same moment, unseen, to see which takes longer.

Whatever the first of two saves or pays (warm caches, a clock that steps up), each is the first as often: who begins
follows from a hash of the duel's number. One of them has answered the records a moment ago and the other has not; so
both are asked twice, in turn, and timed the second time.
"""

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from interlock.answer.predict import Seat
from interlock.errors import InterlockError
from interlock.model.rows import Answer, Given, Row
from interlock.records import Tier

EVERY_S: Final = 1.0
"""Seconds from one duel to the next, at least."""
REST: Final = 9.0
"""After a duel there is none for so many times as long as it took: they take a tenth of a worker at most."""


class Duel(NamedTuple):
    """Seconds of both models for the same records, and what they answered."""

    challenger_s: float
    champion_s: float
    answers: list[tuple[Answer, Answer]]


class Duels:
    """When there is a duel, and how it goes. ``clock``: seconds, never backwards; ``salt``: at most 64 bytes."""

    def __init__(self, clock: Callable[[], float], salt: bytes) -> None:
        self._clock = clock
        self._salt = salt
        self._fought = 0
        self._next_s = -math.inf

    def is_due(self) -> bool:
        """Whether enough time has passed; if so, this one is taken."""
        now_s = self._clock()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + EVERY_S
        return True

    async def fight(self, challenger: Seat, champion: Seat, rows: Sequence[Row]) -> Duel | None:
        """Ask both for ``rows``; None where one has not answered."""
        self._fought += 1
        due_s, began_s, self._next_s = self._next_s, self._clock(), math.inf
        try:
            return await self._fought_out(challenger, champion, rows)
        finally:
            ended_s = self._clock()
            self._next_s = max(due_s, ended_s + REST * (ended_s - began_s))

    async def _fought_out(self, challenger: Seat, champion: Seat, rows: Sequence[Row]) -> Duel | None:
        first = blake2b(str(self._fought).encode(), digest_size=1, key=self._salt).digest()[0] & 1
        seats = (challenger, champion) if first else (champion, challenger)
        took: dict[Tier, tuple[Sequence[Given], float]] = {}
        try:
            for seat in (*seats, *seats):
                took[seat.tier] = await seat.timed(seat.picked(rows), self._clock)
        except Exception:  # noqa: BLE001 - who fails is judged where it answers; here is only time
            return None
        (its, its_s), (other, other_s) = took[challenger.tier], took[champion.tier]
        answers = [
            (one, two)
            for one, two in zip(its, other, strict=True)
            if not isinstance(one, InterlockError) and not isinstance(two, InterlockError)
        ]
        return Duel(its_s, other_s, answers) if len(answers) == len(rows) else None
