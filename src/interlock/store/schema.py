"""The tables of the state database, and the one way to open it.

SQLite with a rollback journal and ``synchronous=FULL``: before 3.51.3 a WAL database can be corrupted by concurrent
checkpoints. A new database is created straight from the tables below and stamped, because Alembic takes half a second
to import; an older one is migrated by Alembic. A test holds that both ways give the same schema.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from interlock.errors import StoreFault
from interlock.store.disk import make_folder

REVISION = "0001"
"""Alembic revision of the tables below (the head of ``migrations/``)."""
KNOWN_REVISIONS = ("0001",)
BUSY_TIMEOUT_S = 10.0
WRITES = "interlock_writes"
"""Execution option of a connection whose transactions take the write lock at once (``BEGIN IMMEDIATE``)."""

metadata = sa.MetaData()

events = sa.Table(
    "events",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("turn", sa.Text, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Index("events_by_kind", "kind", "sequence"),
    sa.Index("events_by_subject", "subject", "sequence"),
)

documents = sa.Table(
    "documents",
    metadata,
    sa.Column("collection", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("changed_at", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started", sa.Text, nullable=False),
    sa.Column("taken_at", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Text, nullable=False),
)

revisions = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def open_database(path: Path) -> sa.Engine:
    """Open the database at ``path``, created or migrated when needed.

    Raises :class:`~interlock.errors.StoreFault` when it is newer than this program, not a database, corrupt, locked or
    cannot be written.
    """
    try:
        make_folder(path.parent)
    except OSError as error:
        raise StoreFault(
            f"The folder {path.parent} for the state database cannot be created: {error.strerror}.",
            next_step="Check who may write there.",
            path=str(path),
        ) from error
    engine = _engine(path)
    try:
        with database_faults(path):
            _ensure_schema(engine, path)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _engine(path: Path) -> sa.Engine:
    """Make an engine that begins its own transactions, as the SQLite page of SQLAlchemy's manual advises."""
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

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


# ---- schema ------------------------------------------------------------------------------------------------------


def _ensure_schema(engine: sa.Engine, path: Path) -> None:
    with engine.connect() as connection:
        if _revision(connection, path) == REVISION:
            return
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        found = _revision(connection, path)  # somebody else may have been faster
        if found is None:
            _refuse_tables_of_others(connection, path)
            create_directly(connection)
        elif found != REVISION:
            migrate(connection)


def _revision(connection: sa.Connection, path: Path) -> str | None:
    """Read the revision of the database, None when it has none; raises when it is newer than this program."""
    try:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    except DBAPIError as error:
        if "no such table" in str(error.orig):
            return None
        raise
    if found not in KNOWN_REVISIONS:
        raise StoreFault(
            f"The state database {path} has schema revision {found}; this program knows up to {REVISION}.",
            next_step="Use the version of Interlock that wrote it, or a newer one.",
            path=str(path),
            revision=found,
            known=REVISION,
        )
    return str(found)


def _refuse_tables_of_others(connection: sa.Connection, path: Path) -> None:
    """Look under the write lock only: without it, a database that is being created looks like somebody else's."""
    if connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar():
        raise StoreFault(
            f"{path} is a SQLite database, but not one of Interlock's.",
            next_step="Point store.state at another file.",
            path=str(path),
        )


def create_directly(connection: sa.Connection) -> None:
    """Create all tables in an empty database and stamp it with the newest revision."""
    metadata.create_all(connection, checkfirst=False)
    revisions.create(connection)
    connection.execute(revisions.insert().values(version_num=REVISION))


def migrate(connection: sa.Connection, to: str = "head") -> None:
    """Bring a database to a revision with Alembic, inside the transaction of ``connection``."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, to)


# ---- foreign errors ----------------------------------------------------------------------------------------------

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


@contextmanager
def database_faults(path: object) -> Iterator[None]:
    """Map what SQLAlchemy and SQLite raise to :class:`~interlock.errors.StoreFault`."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise database_fault(error, path) from error


def database_fault(error: Exception, path: object, *, unknown: bool = False) -> StoreFault:
    """Say what went wrong with the database at ``path``; ``unknown`` when a commit may or may not have happened."""
    original = getattr(error, "orig", None) or error
    name = getattr(original, "sqlite_errorname", type(original).__name__)
    primary = getattr(original, "sqlite_errorcode", 0) & 0xFF
    default = (f"failed: {original}", "Run 'interlock doctor', then run again.")
    cause, next_step = _CAUSES.get(primary, default)
    outcome = "unknown" if unknown else "not committed"
    tail = " Whether the last transaction was committed is unknown." if unknown else ""
    if unknown:
        next_step += " Every stage reads first what is recorded, so running again is safe."
    return StoreFault(
        f"The state database {path} {cause} ({name}).{tail}",
        next_step=next_step,
        path=os.fspath(path) if isinstance(path, os.PathLike) else str(path),
        cause=name,
        outcome=outcome,
    )
