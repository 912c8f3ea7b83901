"""What SQLite reports, in words. How the ledger behaves on it is in ``test_ledger.py`` and ``test_schema.py``."""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from interlock.errors import StoreFault
from interlock.store.dialect import Database
from interlock.store.schema import open_database


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return open_database(tmp_path / "state.db")


def test_a_file_has_no_clock_of_its_own(database: Database) -> None:
    with database.engine.connect() as connection:
        assert database.dialect.lead(connection, datetime(2020, 1, 1, tzinfo=UTC)) == timedelta(0)
    database.dispose()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SQLITE_BUSY", "is locked"),
        ("SQLITE_LOCKED", "is locked"),
        ("SQLITE_READONLY", "cannot be written"),
        ("SQLITE_READONLY_DBMOVED", "cannot be written"),
        ("SQLITE_PERM", "may not be opened"),
        ("SQLITE_AUTH", "may not be opened"),
        ("SQLITE_CANTOPEN", "cannot be opened"),
        ("SQLITE_NOTADB", "is not a SQLite database"),
        ("SQLITE_CORRUPT", "is corrupt"),
        ("SQLITE_FULL", "disk is full"),
        ("SQLITE_IOERR_FSYNC", "disk reported an error"),
        ("SQLITE_MISUSE", "failed: text of sqlite"),
    ],
)
def test_every_cause_is_told_in_words(database: Database, name: str, words: str) -> None:
    original = sqlite3.OperationalError("text of sqlite")
    original.sqlite_errorname = name
    original.sqlite_errorcode = getattr(sqlite3, name)
    for error in (original, sa.exc.OperationalError("SELECT secret", {"secret": 1}, original)):
        with pytest.raises(StoreFault, match=words) as caught, database.faults():
            raise error
        assert caught.value.facts["cause"] == name
        assert caught.value.next_step
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        sa.exc.ResourceClosedError("This Connection is closed"),
        sa.exc.TimeoutError("QueuePool limit"),
        sa.exc.InvalidRequestError("no"),
        sqlite3.InterfaceError("bad"),
    ],
)
def test_foreign_errors_without_a_code_are_mapped_too(database: Database, error: Exception) -> None:
    with pytest.raises(StoreFault), database.faults():
        raise error
