"""Outcomes that were acknowledged, on the local disk until they are rows of the lake.

A small SQLite file: the digests of all outcomes that ever came, so that each is taken once, and the outcomes that are
not in the lake yet. One transaction, fsynced, for all requests of the moment. The rows of a commit are fixed, with its
key, before it is tried, and deleted after it: each outcome is in the table once.
"""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from interlock.errors import StoreFault
from interlock.ports import Tables
from interlock.store.disk import make_folder

OUTCOMES: Final = "outcomes"
_FILE: Final = "outcomes.db"
_MOST_ROWS: Final = 200_000
_WAIT_S: Final = 20.0
_TABLES: Final = """
create table if not exists seen (digest blob primary key) without rowid;
create table if not exists waiting (
    number integer primary key autoincrement, id text, key text, outcome text not null, value real, at integer not null,
    received integer not null, sender text not null, digest blob not null
);
create table if not exists being_moved (commit_key text primary key, high integer not null);
"""
_SCHEMA: Final[dict[str, Any]] = {
    "id": pl.String,
    "key": pl.String,
    "outcome": pl.String,
    "value": pl.Float64,
    "time": pl.Datetime("us", "UTC"),
    "received": pl.Datetime("us", "UTC"),
    "sender": pl.String,
    "digest": pl.String,
}


class Outcome(NamedTuple):
    """The truth about one prediction, named by ``id``, or by ``key`` as canonical JSON. Times: microseconds, UTC."""

    id: str | None
    key: str | None
    outcome: str
    value: float | None
    at: int
    received: int
    sender: str
    digest: bytes


class Outcomes:
    """The file, opened by one process when it first has something to keep.

    Methods raise :class:`StoreFault`, and then nothing of the call was kept.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._database: sqlite3.Connection | None = None

    def add(self, outcomes: Iterable[Outcome]) -> list[bool]:
        """Keep each that was not kept before; whether it was new. All are on the disk when this returns."""
        with _faults(self._path):
            if self._database is None:
                make_folder(self._path.parent)
                self._database = _open(self._path)
            with _transaction(self._database):
                return [_added(self._database, each) for each in outcomes]

    def close(self) -> None:
        """Let go of the file."""
        if self._database is not None:
            self._database.close()


def _added(database: sqlite3.Connection, outcome: Outcome) -> bool:
    if database.execute("insert or ignore into seen values (?)", (outcome.digest,)).rowcount == 0:
        return False
    database.execute("insert into waiting values (null, ?, ?, ?, ?, ?, ?, ?, ?)", outcome)
    return True


def has_waiting(folder: Path) -> bool:
    """Whether outcomes wait to be taken to the lake; raises :class:`StoreFault`."""
    path = folder / _FILE
    if not path.exists():
        return False
    with _faults(path), closing(_open(path)) as database:
        return database.execute("select 1 from waiting limit 1").fetchone() is not None


def move(folder: Path, tables: Tables) -> int:
    """Commit what waits to the table, and give the number of rows; raises :class:`StoreFault`, or what it raises."""
    path = folder / _FILE
    if not path.exists():
        return 0
    moved = 0
    with _faults(path), closing(_open(path)) as database:
        while (group := _group(database)) is not None:
            key, high = group
            rows = database.execute("select * from waiting where number <= ? order by number", (high,)).fetchall()
            if rows and tables.committed(OUTCOMES, key) is None:
                tables.append(OUTCOMES, _frame(rows), commit_key=key, facts={"rows": len(rows)})
            with _transaction(database):
                database.execute("delete from waiting where number <= ?", (high,))
                database.execute("delete from being_moved where commit_key = ?", (key,))
            moved += len(rows)
    return moved


def _group(database: sqlite3.Connection) -> tuple[str, int] | None:
    """The rows that are moved next, up to a number, and the key of their commit; None when nothing waits."""
    with _transaction(database):
        found: tuple[str, int] | None = database.execute("select commit_key, high from being_moved").fetchone()
        if found is not None:
            return found
        some = "(select number from waiting order by number limit ?)"
        (high,) = database.execute(f"select max(number) from {some}", (_MOST_ROWS,)).fetchone()  # noqa: S608 - ours
        if high is None:
            return None
        found = (f"outcomes-{secrets.token_hex(16)}", high)
        database.execute("insert into being_moved values (?, ?)", found)
        return found


def _frame(rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True))[1:]
    found = [
        pl.Series(name, [each.hex() for each in values] if name == "digest" else values, dtype=_raw(dtype))
        for (name, dtype), values in zip(_SCHEMA.items(), columns, strict=True)
    ]
    return pl.DataFrame(found).cast({"time": _SCHEMA["time"], "received": _SCHEMA["received"]})


def _raw(dtype: Any) -> Any:
    return pl.Int64 if isinstance(dtype, pl.Datetime) else dtype


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
    database.execute("pragma synchronous = extra")  # with a rollback journal: what is committed is on the disk
    database.executescript(_TABLES)
    return database


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("begin immediate")
    try:
        yield
    except BaseException:
        database.rollback()
        raise
    database.execute("commit")


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreFault(
            f"{path} cannot be read or written ({type(error).__name__}).",
            next_step="Look at the disk: is it full, or read only?",
            path=str(path),
        ) from error
