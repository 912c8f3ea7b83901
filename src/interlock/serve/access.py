"""The access log: a line of JSON for each request, without anything of a record."""

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from interlock.ports import Clock
from interlock.serve.door import Served
from interlock.serve.outbox import Outbox

STDERR: Final = "stderr"


class Line(msgspec.Struct, frozen=True):
    """One request: when it was answered, its prediction id, and the name of the key that it came with."""

    at: str
    id: str
    route: str
    status: int
    tier: str | None
    ms: float
    key: str


class AccessLog:
    """Writes to the file of that path, or to ``stderr``; in a thread of its own, so that no answer waits for a disk.

    The file is opened for each piece, so that it may be moved away at any time.
    """

    def __init__(self, to: Path | None, clock: Clock, say: Callable[[str], None]) -> None:
        self._to = to
        self._clock = clock
        self._encode = msgspec.json.Encoder().encode
        self._outbox: Outbox[tuple[datetime, Served]] = Outbox(self._write, say, "access log")

    @property
    def lost(self) -> int:
        """Lines that were not written."""
        return self._outbox.lost

    def saw(self, served: Served) -> None:
        """Take in one request; its records are let go of at once."""
        self._outbox.add((self._clock.now(), msgspec.structs.replace(served, rows=(), answered=None)))

    def close(self) -> None:
        """Write what waits."""
        self._outbox.close()

    def _write(self, taken: list[tuple[datetime, Served]]) -> None:
        lines = b"".join(self._encode(_line(at, served)) + b"\n" for at, served in taken)
        if self._to is None:
            sys.stderr.buffer.write(lines)
            sys.stderr.buffer.flush()
            return
        with self._to.open("ab", buffering=0) as file:
            file.write(lines)


def _line(at: datetime, served: Served) -> Line:
    key = served.client[0] if isinstance(served.client, tuple) else ""
    return Line(
        at=at.isoformat(timespec="milliseconds"),
        id=served.name.decode(),
        route=served.route,
        status=served.status,
        tier=served.tier if served.live is not None else None,
        ms=round(served.seconds * 1e3, 3),
        key=key,
    )
