"""The state in a SQLite file: rollback journal and ``synchronous=FULL``.

Before 3.51.3 a WAL database can be corrupted by concurrent checkpoints. The write lock is SQLite's own, taken by
``BEGIN IMMEDIATE``.
"""

import sqlite3
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from interlock.errors import StoreFault
from interlock.store import dialect
from interlock.store.address import Address
from interlock.store.dialect import WRITES, Cause
from interlock.store.disk import make_folder

_CAUSES = {
    sqlite3.SQLITE_BUSY: ("is locked by another process", "Wait until it ends, or end it, and run again."),
    sqlite3.SQLITE_LOCKED: ("is locked by another process", "Wait until it ends, or end it, and run again."),
    sqlite3.SQLITE_READONLY: ("cannot be written", "Check who may write the file and its folder."),
    sqlite3.SQLITE_PERM: ("may not be opened", "Check who may read and write the file and its folder."),
    sqlite3.SQLITE_AUTH: ("may not be opened", "Check who may read and write the file and its folder."),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "Check that the path is a file and who may read and write it."),
    sqlite3.SQLITE_NOTADB: ("is not a SQLite database", "Move the file away, or restore it from a backup."),
    sqlite3.SQLITE_CORRUPT: ("is corrupt", "Keep a copy for study, and restore it from a backup."),
    sqlite3.SQLITE_FULL: ("cannot grow: the disk is full", "Free some space and run again."),
    sqlite3.SQLITE_IOERR: (
        "could not be read or written: the disk reported an error",
        "Check the disk, then run again.",
    ),
}


class Sqlite:
    """Implements :class:`interlock.store.dialect.Dialect`."""

    def engine(self, address: Address) -> sa.Engine:
        """Make an engine that begins its own transactions, as the SQLite page of SQLAlchemy's manual advises."""
        assert address.path is not None
        folder = address.path.parent
        try:
            make_folder(folder)
        except OSError as error:
            raise StoreFault(
                f"The folder {folder} for the state database cannot be created: {error.strerror}.",
                next_step="Check who may write there.",
                path=address.name,
            ) from error
        engine = sa.create_engine(address.url, connect_args={"timeout": dialect.BUSY_TIMEOUT_S})

        @sa.event.listens_for(engine, "connect")
        def connected(connection: Any, _record: object) -> None:
            connection.isolation_level = None  # the driver begins nothing by itself
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=DELETE")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.close()

        @sa.event.listens_for(engine, "begin")
        def begun(connection: sa.Connection) -> None:
            writes = connection.get_execution_options().get(WRITES, False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    def inspect(self, connection: sa.Connection, address: Address) -> set[str]:
        """Names of the tables."""
        del address
        return set(connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars())

    def prepare(self, connection: sa.Connection, address: Address) -> None:
        """Do nothing: a file is ready when it is there."""

    def upsert(self, table: sa.Table) -> Any:
        """SQLite's INSERT … ON CONFLICT."""
        return insert(table)

    def refuse_commit(self, connection: sa.Connection) -> str:
        """Give nothing: SQLite raises when it cannot commit."""
        del connection
        return ""

    def surely_not_committed(self, error: Exception) -> bool:
        """Busy and full leave the transaction open, so it is rolled back; after an I/O error nobody knows."""
        code = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
        return code.startswith(("SQLITE_BUSY", "SQLITE_FULL", "SQLITE_READONLY"))

    def lead(self, connection: sa.Connection, now: datetime) -> timedelta:
        """None: a file has no clock, and its users are on one machine."""
        del connection, now
        return timedelta()

    def cause(self, error: BaseException) -> Cause:
        """By SQLite's result code."""
        code = getattr(error, "sqlite_errorname", type(error).__name__)
        primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
        default = (f"failed: {error}", "Run 'interlock doctor', then run again.")
        return Cause(code, *_CAUSES.get(primary, default))
