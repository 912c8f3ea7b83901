"""A clock that jumps, and a state database that is locked, corrupt, newer, gone, or asked for by two at once."""

import itertools
import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from e2e.small_project import TRAIN, make_project, write_rows
from infra.program import exit_of
from interlock import app
from interlock.app import open_parts
from interlock.cli.operate import verify_project
from interlock.cli.progress import Silent
from interlock.configuration import load_settings
from interlock.loop import run_turn
from interlock.release.standing import current, release_at, releases
from interlock.store.clock import SystemClock
from interlock.store.ledger import SqlLedger
from interlock.store.schema import open_database
from interlock.testing.clock import ManualClock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]
DAY_S = 86_400.0
BACK_S, FORWARD_S = -DAY_S, 365 * DAY_S


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after its first turn."""
    project = make_project(tmp_path_factory.mktemp("begun") / "project")
    code, told = exit_of(project, "run")
    assert code == 0, told
    return project


@pytest.fixture
def project(begun: Path, tmp_path: Path) -> Path:
    return shutil.copytree(begun, tmp_path / "project")


def state(project: Path) -> Path:
    return project / ".interlock" / "state.db"


def words(project: Path, told: dict[str, Any]) -> tuple[str, str]:
    """What a person is told, and what to do next; the place of the project and times are left out."""
    error = told["error"]
    return tuple(
        re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", error[part].replace(str(project), "PROJECT"))
        for part in ("message", "next_step")
    )  # type: ignore[return-value]


# ---- the clock ---------------------------------------------------------------------------------------------------


class Shifted(SystemClock):
    """The real clock, set wrong."""

    def __init__(self) -> None:
        self.shift_s = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.shift_s)


class Jumping(Silent):
    """Sets the clock when a step begins."""

    def __init__(self, clock: Shifted, shifts_s: dict[str, float]) -> None:
        self._clock, self._shifts_s = clock, shifts_s

    def begin(self, step: str) -> None:
        self._clock.shift_s = self._shifts_s.get(step, self._clock.shift_s)


def test_clocks_that_jump_between_turns_and_within_them_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, clock = make_project(tmp_path / "project"), Shifted()
    monkeypatch.setattr(app, "SystemClock", lambda: clock)
    within = {"train": FORWARD_S, "judge": BACK_S, "batch": FORWARD_S}
    for number, (before, steps) in enumerate([(FORWARD_S, {}), (BACK_S, {}), (0.0, within), (0.0, {})]):
        if number:
            write_rows(project / "inbox" / f"{number}.csv", number * 1_000, 100)
            write_rows(project / "to_score" / f"{number}.csv", 20_000 + number * 100, 20, labelled=False)
        clock.shift_s = before
        with open_parts(load_settings(project)) as parts:
            told = run_turn(parts, Jumping(clock, steps))
        assert told.problems == ()
        assert [file.status for file in told.files] == ["accepted"]
        assert [batch.status for batch in told.batches] == ["published"]
    clock.shift_s = 0.0
    with open_parts(load_settings(project)) as parts:
        last = run_turn(parts, Silent())
        assert (last.outcome, last.files, last.batches) == ("unchanged", (), ())
        verified = verify_project(parts)
        assert verified.sound
        assert len(verified.clock_back) == 3  # each time that it was set back, and never else
        assert "set back" in verified.lines()[-1]
        stamps = [event.at for event in parts.ledger.events()]
        assert sum(later < earlier for earlier, later in itertools.pairwise(stamps)) == 3
        generations = [release.generation for release in releases(parts.ledger)]
        assert generations == sorted(generations, reverse=True)
        # of those whose time has come the newest: a release that a wrong clock dated into the future does not hide it
        now = release_at(parts.ledger, SystemClock().now())
        in_force = current(parts.ledger)
        assert in_force is not None
        assert now is None or now.generation <= in_force.generation


# ---- the state database ------------------------------------------------------------------------------------------


@pytest.fixture
def locked(project: Path) -> Iterator[Path]:
    """A project whose state somebody has locked."""
    connection = sqlite3.connect(state(project), isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    yield project
    connection.execute("ROLLBACK")
    connection.close()


def test_a_state_that_is_locked_for_long(locked: Path) -> None:
    code, told = exit_of(locked, "run")
    assert code == 3
    assert words(locked, told) == (
        "The state database PROJECT/.interlock/state.db is locked by another process (SQLITE_BUSY).",
        "Wait until it ends, or end it, and run again.",
    )


def test_a_state_of_a_newer_version(project: Path) -> None:
    with sqlite3.connect(state(project)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = state(project).read_bytes()
    code, told = exit_of(project, "run")
    assert code == 3
    assert words(project, told) == (
        "The state database PROJECT/.interlock/state.db has schema revision 9999; this program knows up to 0001.",
        "Use the version of Interlock that wrote it, or a newer one.",
    )
    assert state(project).read_bytes() == before


def test_a_page_with_a_flipped_byte_is_told_by_some_verb_and_never_by_a_traceback(project: Path) -> None:
    content = state(project).read_bytes()
    for page in range(1, len(content) // 4096):
        changed = bytearray(content)
        changed[page * 4096] ^= 0xFF  # the kind of the page
        state(project).write_bytes(changed)
        code, told = exit_of(project, "verify")
        assert code != 0 or page_is_spare(project, content, page), (page, told)
        assert "error" not in told or words(project, told) == (
            "The state database PROJECT/.interlock/state.db is corrupt (SQLITE_CORRUPT).",
            "Keep a copy for study, and restore it from a backup.",
        )
        if page >= 2:
            break


def page_is_spare(project: Path, content: bytes, page: int) -> bool:
    """Whether nothing that ``verify`` reads is on that page (numbers from 0): an index, or the leases."""
    state(project).write_bytes(content)
    with sqlite3.connect(state(project)) as connection:
        roots = dict(connection.execute("SELECT rootpage, name FROM sqlite_master"))
    return roots.get(page + 1) not in ("events", "documents", "alembic_version")


def test_a_state_that_was_deleted_while_the_lake_remains(project: Path) -> None:
    published = sorted(path.name for path in (project / "predictions").iterdir())
    state(project).unlink()
    code, told = exit_of(project, "run")
    rows = [file["status"] for file in told.get("files", ())]
    assert (code, rows) == (0, ["accepted"]), told
    assert sorted(path.name for path in (project / "predictions").iterdir()) == published
    assert exit_of(project, "verify")[0] == 0


def test_two_turns_at_once_one_works_and_the_other_tells_who_holds_it(project: Path) -> None:
    (project / "train.py").write_text(
        "import time\n" + TRAIN.replace("    classes = np", "    time.sleep(4)\n    classes = np")
    )
    write_rows(project / "inbox" / "b.csv", 400, 100)
    command = [sys.executable, "-m", "interlock", "--project", str(project), "run", "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [(json.loads(process.communicate(timeout=100)[0]), process.returncode, process.pid) for process in both]
    refused = [(answer, code) for answer, code, _ in told if "error" in answer]
    assert len(refused) == 1, told
    winner = next(pid for answer, _, pid in told if "error" not in answer)
    answer, code = refused[0]
    assert (code, answer["error"]["code"]) == (3, "LeaseHeld")
    assert words(project, answer) == (
        f"The lease 'turn' is held by {socket.gethostname()}:{winner} since TIME.",
        "Wait for it to end; without a sign of life it is free at TIME.",
    )
    assert exit_of(project, "verify")[0] == 0


def test_a_turn_of_another_host_is_named(project: Path) -> None:
    ledger = SqlLedger(open_database(state(project)), ManualClock())
    ledger.acquire("turn", ttl_s=60)
    ledger.close()
    with sqlite3.connect(state(project)) as connection:
        connection.execute(
            "UPDATE leases SET host = 'x/pid:[1]/other', pid = 7, holder = 'other:7', taken_at = datetime('now'),"
            " expires_at = strftime('%Y-%m-%dT%H:%M:%S.000000Z', 'now', '+100 seconds')"
        )
        connection.execute("UPDATE leases SET taken_at = strftime('%Y-%m-%dT%H:%M:%S.000000Z', 'now')")
    code, told = exit_of(project, "run")
    assert (code, told["error"]["code"]) == (3, "LeaseHeld")
    assert words(project, told) == (
        "The lease 'turn' is held by other:7 since TIME.",
        "Wait for it to end; without a sign of life it is free at TIME.",
    )
