"""What differs between the databases that can hold the ledger; everything else is written once, in SQLAlchemy Core."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from interlock.errors import StoreFault
from interlock.store.address import Address

BUSY_TIMEOUT_S = 10.0
"""Who waits longer than this for the write lock is told so."""
WRITES = "interlock_writes"
"""Execution option of a connection whose transactions take the write lock when they begin."""


class Cause(NamedTuple):
    """Why a database failed: its own ``code``, what is so (after "The state database X …") and the next step."""

    code: str
    words: str
    next_step: str


class Dialect(Protocol):
    """One kind of database. Implemented by ``sqlite.py`` and ``postgres.py``."""

    def engine(self, address: Address) -> sa.Engine:
        """An engine whose transactions take the one write lock when they begin, if their connection has ``WRITES``.

        Under that lock a statement sees everything that was committed before. Nothing waits without limit.
        """
        ...

    def inspect(self, connection: sa.Connection, address: Address) -> set[str]:
        """Names of the tables that are there; raises StoreFault when this database cannot hold a ledger."""
        ...

    def prepare(self, connection: sa.Connection, address: Address) -> None:
        """Make ready for creating or migrating tables, under the write lock."""
        ...

    def upsert(self, table: sa.Table) -> Any:
        """An INSERT that knows ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
        ...

    def refuse_commit(self, connection: sa.Connection) -> str:
        """Why a commit would surely change nothing although it might say otherwise; empty when all is well."""
        ...

    def surely_not_committed(self, error: Exception) -> bool:
        """Tell that a commit which raised ``error`` changed nothing; False when nobody knows."""
        ...

    def lead(self, connection: sa.Connection, now: datetime) -> timedelta:
        """How far the clock that all users of this database share is ahead of ``now``."""
        ...

    def cause(self, error: BaseException) -> Cause:
        """Say in words what the driver reported."""
        ...


@dataclass(frozen=True)
class Database:
    """An open database."""

    engine: sa.Engine
    dialect: Dialect
    address: Address

    def dispose(self) -> None:
        """Let go of its connections."""
        self.engine.dispose()

    def fault(self, error: Exception, *, unknown: bool = False) -> StoreFault:
        """Say what went wrong; ``unknown`` when a commit may or may not have happened."""
        return fault(error, self.dialect, self.address, unknown=unknown)

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Map what SQLAlchemy and the drivers raise to :class:`~interlock.errors.StoreFault`."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise self.fault(error) from error


def fault(error: Exception, dialect: Dialect, address: Address, *, unknown: bool = False) -> StoreFault:
    """Make the fault of the database at ``address`` from what its driver raised."""
    code, words, next_step = dialect.cause(getattr(error, "orig", None) or error)
    tail = " Whether the last transaction was committed is unknown." if unknown else ""
    if unknown:
        next_step += " Every stage reads first what is recorded, so running again is safe."
    return StoreFault(
        f"The state database {address.name} {words} ({code}).{tail}",
        next_step=next_step,
        path=address.name,
        cause=code,
        outcome="unknown" if unknown else "not committed",
    )
