"""A small project that was trained once, copied for every test, and what must hold after every turn."""

import json
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from e2e.small_project import make_project
from interlock.app import open_parts
from interlock.configuration import load_settings
from interlock.loop import run_turn
from interlock.outcome import TurnResult
from interlock.records import Release
from interlock.release.registry import current

MARKER = "SECRET-4711"
"""Stands for a value of a person in the data: nothing may print or record it."""
ROWS = 400
"""Rows of the first file of the small project."""


class Quiet:
    """Progress that is kept for looking at."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def begin(self, step: str) -> None:
        self.told.append(step)

    def say(self, message: str) -> None:
        self.told.append(message)

    def end(self, step: str, note: str, seconds: float, *, failed: bool) -> None:
        self.told += [f"{step}: {note} {failed} {seconds}"]


class Seen:
    """How a turn ended, as a person sees it."""

    def __init__(self, result: TurnResult, told: Sequence[str]) -> None:
        self.result = result
        self.told = list(told)

    @property
    def printed(self) -> str:
        """All that may be printed: with --json, and while the turn runs."""
        from msgspec import json as encoded

        return encoded.encode(self.result).decode() + "\n".join(self.told)


def run(root: Path, *overrides: str) -> Seen:
    """One turn in this process; ``overrides`` as for ``--set``."""
    progress = Quiet()
    with open_parts(load_settings(root, overrides=overrides)) as parts:
        result = run_turn(parts, progress)
    return Seen(result, progress.told)


def accepted(root: Path, source: str = "data") -> list[int]:
    """Keys of all accepted rows, sorted: each must be there once."""
    with open_parts(load_settings(root)) as parts:
        table = f"sources/{source}"
        if parts.tables.version(table) is None:
            return []
        return sorted(parts.tables.scan(table).select("part").collect()["part"].to_list())


def release(root: Path) -> Release | None:
    """The release in force."""
    with open_parts(load_settings(root)) as parts:
        return current(parts.ledger)


def check_ledger(root: Path) -> None:
    """The chain of entries holds."""
    with open_parts(load_settings(root)) as parts:
        assert parts.ledger.verify().broken_at is None


def recorded(root: Path) -> str:
    """All that the ledger holds, as text."""
    with sqlite3.connect(root / ".interlock" / "state.db") as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        rows = [repr(row) for name in tables for row in database.execute(f'select * from "{name}"')]
    return "\n".join(rows)


def published(root: Path) -> list[str]:
    """Names of the published files of predictions."""
    return sorted(path.name for path in (root / "predictions").glob("*.parquet"))


class Trained:
    """A project with a release, made once for a module; :meth:`copy` gives a fresh one."""

    def __init__(self, folder: Path) -> None:
        self.root = make_project(folder)
        first = run(self.root)
        assert first.result.outcome == "released", first.result.sentence

    def copy(self, to: Path) -> Path:
        shutil.copytree(self.root, to, symlinks=True)
        return to


def refused(
    root: Path, seen: Seen, reason: str, next_step: str, *, status: str = "unreadable", name: str = "b.csv"
) -> None:
    """One file was not taken in, in these words; nothing was lost by it."""
    result = seen.result
    stays = release(root)
    assert stays is not None
    assert [(file.name, file.status) for file in result.files] == [(name, status)]
    assert result.files[0].reason == reason
    assert result.files[0].next_step == next_step
    shown = reason if len(reason) < 2000 else reason[:100]
    assert shown in result.sentence
    assert result.next_step == next_step
    assert result.exit_code == 1
    unharmed(root)


def unharmed(root: Path, rows: int = ROWS) -> None:
    """Accepted rows exactly once, the first release in force, its predictions published, and a ledger that verifies."""
    assert accepted(root) == list(range(rows))
    found = release(root)
    assert found is not None
    assert found.generation == 1
    assert len(published(root)) >= 1
    check_ledger(root)


def secretless(root: Path, seen: Seen | None = None) -> None:
    """The marker is neither printed nor recorded."""
    if seen is not None:
        assert MARKER not in seen.printed
    assert MARKER not in recorded(root)


def as_json(text: str) -> dict[str, object]:
    """The object that a verb printed."""
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def rows_of(first: int, count: int) -> pl.DataFrame:
    """Rows that fit: part, width, weight, ok."""
    numbers = range(first, first + count)
    return pl.DataFrame(
        {
            "part": list(numbers),
            "width": [((n * 37) % 101) / 50 - 1 for n in numbers],
            "weight": [((n * 53) % 97) / 48 - 1 for n in numbers],
            "ok": ["yes" if n % 2 else "no" for n in numbers],
        }
    )
