"""kill -9 at every effect of a turn: the next turn ends as an undisturbed one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHARDS = 2


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_the_turn_after_a_kill_ends_as_an_undisturbed_one(shard: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "crash_driver.py"), str(tmp_path), str(shard), str(SHARDS)],
        env=os.environ
        | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE.parents[1] / 'src'}", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, *cases = [json.loads(line) for line in done.stdout.splitlines()]
    expected, effects = first["expected"], first["effects"]
    assert expected["rows"] == 700
    assert expected["problems"] == []
    assert expected["accepted"] == 2
    assert len(expected["published"]) == 2
    assert expected["scratch"] == []
    assert len(cases) == len(range(shard, len(effects), SHARDS))
    assert {name.split()[1] for name in effects} >= {"append", "transaction", "commit", "session"}
    wrong = []
    for case in cases:
        found = case["found"] or {}
        if not (case["killed"] and case["recovered"] and found == expected):
            differing = {
                name: (found.get(name), expected[name]) for name in expected if found.get(name) != expected[name]
            }
            wrong.append((case["at"], case["name"], case["killed"], case["recovered"], differing))
    assert wrong == []
