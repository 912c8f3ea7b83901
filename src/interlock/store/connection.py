"""A connection to Postgres that does not wait without limit: psycopg has no limit for a reply.

``statement_timeout`` is kept by the server, and TCP's keep-alive ends a connection to a machine that is gone. Neither
helps when something in between (a proxy, a firewall, a stopped server process) keeps the connection open and is silent.
"""

import time
from collections.abc import Generator
from typing import Any

import psycopg

NOTHING_YET = 0
"""What psycopg sends to a waiting generator, every tenth of a second, when neither side could move."""


class BoundedConnection(psycopg.Connection[Any]):
    """Closes itself and raises :class:`psycopg.OperationalError` after a silence of ``limit_s``."""

    limit_s: float = 10.0

    def wait(self, gen: Any, *given: Any, **named: Any) -> Any:
        """Wait as psycopg does, as long as the other side says something now and then."""
        return super().wait(self._bounded(gen), *given, **named)

    def _bounded(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        limit_s, heard = self.limit_s, time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready != NOTHING_YET:
                    heard = time.monotonic()
                elif time.monotonic() - heard >= limit_s:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"it has said nothing for {limit_s:g} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            return done.value
