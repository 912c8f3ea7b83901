"""The loop with its state on a Postgres server: every verb, two turns at once, a killed turn, a killed server."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from e2e.small_project import TRAIN, write_rows
from infra.postgres import PASSWORD, Cluster, TestDatabase

pytestmark = pytest.mark.slow

PAUSE = """    if os.path.exists("gate"):
        open("gate").read()  # a FIFO: waits until the test lets go of the other end
    classes = np.unique(y)"""


class Program:
    """The program as a person starts it, with the state on the server; remembers all that it printed."""

    def __init__(self, project: Path, url: str) -> None:
        self.project = project
        self.environment = os.environ | {"INTERLOCK_STORE__STATE": url}
        self.printed = ""

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "interlock", *arguments],
            cwd=self.project,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def text(self, *arguments: str, code: int = 0) -> str:
        """Run a verb; gives what it printed."""
        process = self.start(*arguments)
        return self.end(process, code)

    def end(self, process: "subprocess.Popen[str]", code: int) -> str:
        out, err = process.communicate(timeout=100)
        self.printed += out + err
        assert process.returncode == code, f"{process.args}: exit {process.returncode}\n{out}\n{err}"
        return out

    def __call__(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run a verb with --json; gives its object."""
        found = json.loads(self.text(*arguments, "--json", code=code))
        assert isinstance(found, dict)
        return found


@pytest.fixture
def program(project: Path, empty_pg: TestDatabase) -> Program:
    (project / "train.py").write_text("import os\n" + TRAIN.replace("    classes = np.unique(y)", PAUSE))
    return Program(project, empty_pg.url)


@contextmanager
def in_training(program: Program) -> Iterator["subprocess.Popen[str]"]:
    """A turn that stands in the user's training function for the length of the block."""
    gate = program.project / "gate"
    os.mkfifo(gate)
    process = program.start("run", "--json")
    while True:
        try:
            end = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:  # nobody reads it yet
            assert process.poll() is None, process.communicate()
            os.sched_yield()
    try:
        yield process
    finally:
        gate.unlink()
        os.close(end)


def test_every_verb(program: Program, empty_pg: TestDatabase) -> None:
    good = (program.project / "train.py").read_text()
    (program.project / "train.py").write_text(
        good.replace("values = np.asarray(X, dtype=float)", "values = np.asarray(X, dtype=float) * [1, 0]")
    )
    held = program("--set", "gate.approval=true", "run", code=1)
    assert held["outcome"] == "held"
    assert program("promote", str(held["receipt"]), "--because", "looked at it")["generation"] == 1
    write_rows(program.project / "inbox" / "b.csv", 400, 1500)
    (program.project / "train.py").write_text(good)
    better = program("run")
    assert (better["outcome"], better["release"]["generation"]) == ("released", 2)
    assert better["batches"][0]["status"] == "published"
    assert program("rollback", "--because", "a drill", "--to", "1")["generation"] == 3
    assert program("history", "--at", better["at"])["release"]["generation"] == 2
    assert program("replay", str(better["receipt"]))["differences"] == []
    assert program("verify")["problems"] == []
    assert Path(program("report")["html"]).is_file()
    assert program("run")["outcome"] == "unchanged"

    name = f"postgresql://127.0.0.1:{empty_pg.cluster.port}/{empty_pg.name}"
    assert f"State in {name} (schema interlock)" in program.text("status")
    found = program.text("doctor")
    assert f"{name}, schema interlock, Postgres" in found
    assert "the chain holds" in found

    assert not list((program.project / ".interlock").glob("state*"))
    kept_text = [path.read_bytes() for path in program.project.rglob("*") if path.is_file()]
    recorded = [str(row) for table in ("events", "documents", "leases") for row in empty_pg.execute(f"TABLE {table}")]
    for secret in (PASSWORD, quote(PASSWORD, safe=""), json.dumps(PASSWORD)[1:-1]):
        assert secret not in program.printed
        assert not any(secret in text for text in recorded)
        assert not any(secret.encode() in text for text in kept_text)


def test_a_second_turn_is_refused_and_a_killed_one_is_taken_over_at_once(program: Program) -> None:
    with in_training(program) as first:
        assert program("run", code=3)["error"]["code"] == "LeaseHeld"
        assert program("status")["release"] is None  # looking is allowed meanwhile
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    after = program("run")
    assert after["outcome"] == "released"
    assert after["files"] == []  # taken in once, by the turn that was killed
    assert program("verify")["problems"] == []


def test_a_server_that_goes_away_in_the_middle_of_a_turn(program: Program, postgres: Cluster) -> None:
    try:
        with in_training(program) as turn:
            postgres.stop(at_once=True)
        error = json.loads(program.end(turn, 3))["error"]
        assert error["code"] == "StoreFault"
        assert "cannot be reached" in error["message"]
        assert "Check that the server runs" in error["next_step"]
        assert "cannot be reached" in program.text("doctor", code=2)
    finally:
        postgres.start()
    after = program("run")
    assert after["outcome"] == "released"
    assert program("verify")["problems"] == []
    assert PASSWORD not in program.printed
