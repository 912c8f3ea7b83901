"""kill -9, a failing disk and a full one at system calls of a turn; and a power cut: the next turn ends as it should.

Here a part of the cases runs, another one with each value of ``CRASH_SEED``; ``make crash`` runs them all.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import forgetful, syscalls

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SEED = int(os.environ.get("CRASH_SEED", "0"))
ALL = os.environ.get("CRASH_ALL") == "1"
JOBS = len(os.sched_getaffinity(0)) if ALL else 1
LIMIT_S = 3600 if ALL else 580
pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT_S + 20)]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where cases are laid out: in memory where there is room, because a real disk's fsync is most of such a turn."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < 1 << 30:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="interlock-crash-", dir=memory) as place:
        yield Path(place)


def drive(program: str, folder: Path, *options: str, every: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The undisturbed turn and the cases."""
    every = 1 if ALL else every
    chosen = ["--every", str(every), "--offset", str(SEED % every), "--jobs", str(JOBS)]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / program), str(folder), *options, *chosen],
        env=os.environ | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    sys.stderr.write(done.stderr[-30_000:])
    first, *cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert first["told"]["outcome"] == "released", first["told"]
    assert not first["expected"]["problems"]
    assert first["expected"]["scratch"] == []
    assert cases
    assert len(cases) == first.get("cases", len(cases))
    seconds = time.monotonic() - began
    calls = f" of {len(first['calls'])} calls" if "calls" in first else ""
    sys.stdout.write(f"{program} {' '.join(options)}: {len(cases)} cases{calls} in {seconds:.0f} s, {JOBS} at a time\n")
    return first, cases


def wrong(cases: list[dict[str, Any]], expected: dict[str, Any]) -> list[Any]:
    """Cases whose next turn had a problem, or did not end as the undisturbed one."""
    found = []
    for case in cases:
        end, after = case["found"] or {}, case["next"] or {"error": "it died"}
        differs = {name: (end.get(name), expected[name]) for name in expected if end.get(name) != expected[name]}
        if differs or after.get("problems") or after.get("error"):
            found.append((case["at"], case.get("name", case.get("kind")), differs, after))
    return found


needs_seccomp = pytest.mark.skipif(not syscalls.available(), reason="needs Linux on x86-64 with seccomp notifications")
needs_fuse = pytest.mark.skipif(not forgetful.available(), reason="needs /dev/fuse and fusermount3 (apt: fuse3)")


@needs_seccomp
def test_after_kill_9_at_a_system_call(folder: Path) -> None:
    first, cases = drive("syscall_driver.py", folder, "kill", every=10)
    assert {call[0] for call in first["calls"]} >= {
        "write",
        "pwrite64",
        "fsync",
        "fdatasync",
        "link",
        "unlink",
        "mkdir",
    }
    assert all(case["killed"] for case in cases)
    assert wrong(cases, first["expected"]) == []


def same_but_for_the_release(end: dict[str, Any]) -> dict[str, Any]:
    """A step that failed before the release leaves today's batch to the champion of before: that is as it should be."""
    kept = {name: value for name, value in end.items() if name != "answers"}
    return kept | {"published": [name.rpartition("-r")[0] for name in end["published"]]}


@needs_seccomp
@pytest.mark.parametrize(
    ("fault", "every", "words", "steps"),
    [
        ("eio", 6, ("reported an error", "Input/output error"), ("Check the disk",)),
        ("full", 12, ("disk is full", "No space left", "reported an error"), ("Free some space", "Check the disk")),
    ],
)
def test_a_disk_that_fails_is_told_and_the_next_turn_converges(
    folder: Path, fault: str, every: int, words: tuple[str, ...], steps: tuple[str, ...]
) -> None:
    first, cases = drive("syscall_driver.py", folder, fault, every=every)
    untold = []
    for case in cases:
        told = case["told"] or {}
        text = " ".join([told.get("message", ""), told.get("next_step", ""), *told.get("problems", ())])
        in_words = any(word in text for word in words) and any(step in text for step in steps)
        # who tells nothing has done all that the turn says
        if not in_words and not (
            case["kept"] == first["expected"] and may_be_silent(first["calls"], case, LEASE_CALLS[fault])
        ):
            untold.append((case["at"], case["name"], case["path"], told))
        if case["found"]:
            case["found"] = same_but_for_the_release(case["found"])
    assert untold == []
    assert wrong(cases, same_but_for_the_release(first["expected"])) == []


LEASE_CALLS = {"eio": 7, "full": 24}


def may_be_silent(calls: list[list[str]], case: dict[str, Any], lease_calls: int) -> bool:
    """Giving the lease back, the last calls of a turn: it runs out by itself. And what SQLite does not look at.

    That is the fsync of the folder after a journal was made (unixSync in os_unix.c); what it stands for matters only if
    the power fails too, within the same transaction.
    """
    last = case["at"] > len(calls) - lease_calls and (case["path"] == ".interlock" or "state.db" in case["path"])
    return last or (case["path"] == ".interlock" and case["before"] == ".interlock/state.db-journal")


@needs_fuse
def test_after_a_power_cut(folder: Path) -> None:
    first, cases = drive("power_driver.py", folder, every=8)
    assert wrong(cases, first["expected"]) == []
    kept = {name: value for name, value in first["kept"].items() if name not in ("published", "answers")}
    expected = {name: value for name, value in first["expected"].items() if name not in ("published", "answers")}
    assert kept == expected  # what the turn said it did is there without another one
    assert set(first["kept"]["published"]) >= set(first["expected"]["published"])
