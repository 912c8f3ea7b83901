"""A network that fails anywhere: the turn, or the next, ends as an undisturbed one, and readers see whole things.

By default one request of each sort is harmed, with the kinds of harm in turn. ``TESTS_FAULTS=each`` harms every request
once, ``TESTS_FAULTS=all`` every request in every way (hundreds of turns).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SHARDS = 2
CHOICE = os.environ.get("TESTS_FAULTS", "some")
PARTS = ("PUT", "GET", "HEAD", "_delta_log", "part-", "bundles", "snapshots", "evidence", "predictions")


def run(shard: int, folder: Path, limit_s: float) -> list[dict[str, Any]]:
    """What the driver tells, line by line."""
    done = subprocess.run(
        [sys.executable, str(HERE / "fault_driver.py"), str(folder), str(shard), str(SHARDS), CHOICE],
        env=os.environ
        | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE.parents[1] / 'src'}", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def wrong_with(case: dict[str, Any], before: dict[str, Any], expected: dict[str, Any]) -> list[Any]:
    """What is not as it must be after a case; nothing, when all is well."""
    told: list[Any] = []
    found, readers = case["found"] or {}, case["readers"] or {}
    told += [("end", name, found.get(name), expected[name]) for name in expected if found.get(name) != expected[name]]
    told += [("next turn", case["later"])] if not case["recovered"] else []
    told += [("harm", case["harmed"])] if len(case["harmed"]) != 1 else []
    told += [("killed",)] if not case["ended"] else []
    for name in ("rows", "releases", "published", "answers"):
        if readers.get(name) not in (before[name], expected[name]):
            told.append(("readers", name, readers.get(name)))
    told += [("readers", readers.get("problems"))] if readers.get("problems") != [] else []
    return told


@pytest.mark.slow
@pytest.mark.timeout(14_400 if CHOICE == "all" else 600)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_turn_survives_a_network_that_fails(shard: int, tmp_path: Path) -> None:
    first, *cases = run(shard, tmp_path, 14_300 if CHOICE == "all" else 580)
    before, expected = first["before"], first["expected"]
    assert (before["rows"], expected["rows"]) == (400, 1600)
    assert len(expected["releases"]) == len(before["releases"]) + 1 == 2, "the turn promotes"
    assert len(expected["published"]) == len(before["published"]) + 1 == 2, "the turn publishes"
    assert expected["problems"] == []
    assert first["requests"] > 50
    assert all(any(part in sort for sort in first["sorts"]) for part in PARTS)
    assert len(cases) == len(range(shard, first["cases"], SHARDS))
    seconds = sum(map(sum, (case["seconds"] for case in cases)))
    sys.stdout.write(f"{len(cases)} of {first['cases']} cases ({first['requests']} requests) in {seconds:.0f} s\n")
    wrong = [
        (case["at"], case["kind"], case["harmed"], told)
        for case in cases
        if (told := wrong_with(case, before, expected))
    ]
    assert wrong == []
