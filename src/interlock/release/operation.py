"""What a person does to a release, by the program or by the admin port: each act under a short lease, with its reason.

``by`` is the name of the key that asked; the reason that is recorded tells it. Every act is settled by a compare-and-
swap on the generation: of two at once, one is told that it came second.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from interlock.errors import Misuse
from interlock.ports import Parts, Turn
from interlock.records import Record, Release
from interlock.release.breaker import BreakerPolicy, Event, Reset, State, Tripped
from interlock.release.duty import by_person
from interlock.release.registry import approve, roll_back

_LEASE_S = 60.0


class OnDuty(Record, frozen=True, kw_only=True):
    """Where the breaker stands, and the release that came of it."""

    state: State
    release: Release | None


@contextmanager
def operator_turn(parts: Parts, name: str = "operator") -> Iterator[Turn]:
    """A short lease for a person's act; compare-and-swap on the generation settles who was first."""
    fence = parts.ledger.acquire(name, ttl_s=_LEASE_S)
    stamp = parts.clock.now().strftime("%Y%m%dT%H%M%S")
    try:
        yield Turn(id=f"{stamp}-{name.partition('/')[0]}-{secrets.token_hex(3)}", fence=fence)
    finally:
        parts.ledger.release(fence)


def duty_by_person(parts: Parts, act: Literal["trip", "reset"], because: str, by: str = "") -> OnDuty:
    """Take the champion off duty, or put it back; raises :class:`Misuse` without a reason, :class:`NothingToServe`."""
    now_s, reason = parts.clock.now().timestamp(), _told(because, by)
    event: Event = Tripped(now_s, reason) if act == "trip" else Reset(now_s, reason)
    with operator_turn(parts) as turn:
        state, release = by_person(parts.ledger, parts.clock, turn, event, BreakerPolicy())
    return OnDuty(state=state, release=release)


def approve_held(parts: Parts, entry: int, because: str, by: str = "") -> Release:
    """Release the candidate of the held decision of a ledger entry; raises what :func:`approve` does."""
    with operator_turn(parts) as turn:
        return approve(parts, turn, entry, because=_told(because, by))


def go_back(parts: Parts, because: str, to: int | None = None, by: str = "") -> Release:
    """Go back to the release that served before, or to the generation ``to``; raises what :func:`roll_back` does."""
    with operator_turn(parts) as turn:
        return roll_back(parts, turn, because=_told(because, by), to=to)


def _told(because: str, by: str) -> str:
    """The reason with who asked, where that was not the program."""
    if not because.strip():
        raise Misuse("A person's decision needs a reason.", next_step="Say why with --because.")
    return f"{because} (asked by {by})" if by else because
