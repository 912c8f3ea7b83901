"""The mirror of the ledger in real MLflow servers: complete, once, and never in the way."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import polars as pl
import pytest

from e2e.followed_project import copied, opened, told, turn
from e2e.small_project import write_rows
from infra.gateway import Act, Gateway
from infra.mlflow import MlflowServer, free_port
from interlock.records import Receipt, moment
from interlock.release.operation import operator_turn
from interlock.release.registry import current, releases, roll_back

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mlflow"), pytest.mark.timeout(400)]

LOAD = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[2]}@champion")
rows = pandas.read_csv(sys.argv[3])
print(json.dumps([str(answer) for answer in model.predict(rows[["width", "weight"]])]))
"""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    found = Gateway()
    yield found
    found.close()


def _tracking(server: MlflowServer | Gateway) -> str:
    return f"store.tracking={server.url}"


def _everything(server: MlflowServer, name: str) -> list[object]:
    return [server.runs(name), server.versions(name), server.aliases(name)]


@pytest.mark.parametrize("kind", ["mlflow_newest", "mlflow_postgres", "mlflow_oldest"])
def test_a_story_is_told_whole_and_once(kind: str, story: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server: MlflowServer = request.getfixturevalue(kind)
    folder = copied(story, tmp_path / "project", "whole")
    done = told(folder, _tracking(server))
    assert (done.problem, done.waiting) == ("", 0)
    with opened(folder) as parts:
        second, first = releases(parts.ledger)
        receipts = [msgspec.convert(e.facts, Receipt) for e in parts.ledger.events(kinds=["gate.decided"])]
        events = {event.kind: event for event in parts.ledger.events(kinds=["training.failed", "training.done"])}
    runs = server.runs("whole")
    assert [run["info"]["status"] for run in runs] == ["FINISHED", "FAILED", "FINISHED", "FINISHED"]
    assert [run["tags"].get("interlock.verdict") for run in runs] == ["promote", None, "promote", "keep"]
    assert [run["tags"].get("interlock.release") for run in runs] == ["1", None, "2", None]
    assert "no luck" in runs[1]["tags"]["interlock.error"]
    assert runs[2]["params"] == {"seed": "0", "depth": "3", "nested.rate": "0.5"}
    assert runs[0]["tags"]["interlock.bundle"] == first.champion
    scores = receipts[1].evaluation.scores
    metrics = runs[2]["metrics"]
    for who in ("candidate", "champion", "baseline"):
        assert metrics[f"gate/accuracy/{who}"] == pytest.approx(scores[who].value)
    assert metrics["gate/gain_over_champion"] > metrics["gate/gain_over_champion_bound"] > 0
    assert metrics["train/peak_memory_mb"] > 1
    assert int(runs[3]["info"]["end_time"]) == pytest.approx(_millis(events["training.done"].at), abs=1)
    for run, release in ((runs[0], "0001"), (runs[2], "0002")):
        assert {"model/MLmodel", "model/manifest.json", f"dossier/release-{release}.html"} <= set(run["info"]["files"])
    versions = server.versions("whole")
    assert [version["description"].partition(":")[0] for version in versions] == [
        "Release 1 (gate)", "Release 2 (gate)", "keep",
    ]  # fmt: skip
    assert [version["tags"]["interlock.bundle"] for version in versions] == [
        run["tags"]["interlock.bundle"] for run in (runs[0], runs[2], runs[3])
    ]
    assert server.aliases("whole") == {
        "champion": second.champion,
        "challenger": versions[2]["tags"]["interlock.bundle"],
    }

    before = _everything(server, "whole")
    again = told(folder, _tracking(server), again=True)
    assert (again.problem, again.sent) == ("", done.sent)
    assert _everything(server, "whole") == before, "what is told twice is there once"

    with opened(folder, _tracking(server)) as parts, operator_turn(parts) as act:
        roll_back(parts, act, because="slower")
    assert told(folder, _tracking(server)).problem == ""
    assert server.aliases("whole")["champion"] == first.champion
    command = [sys.executable, "-c", LOAD, server.url, "whole", str(folder / "to_score" / "today.csv")]
    loaded = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert loaded.returncode == 0, loaded.stderr
    published = pl.read_parquet(next((folder / "predictions").glob("*.parquet")))
    assert published["interlock_model"].unique().to_list() == [first.champion]
    assert json.loads(loaded.stdout.splitlines()[-1]) == published["prediction"].to_list()


def _millis(at: str) -> int:
    return int(moment(at).timestamp() * 1000)


def test_a_server_that_comes_later_gets_everything(mlflow_newest: MlflowServer, story: Path, tmp_path: Path) -> None:
    folder = copied(story, tmp_path / "project", "later")
    port = free_port()
    overrides = [f"store.tracking=http://person:secret@127.0.0.1:{port}"]
    write_rows(folder / "to_score" / "later.csv", 30_000, 20, labelled=False)
    result = turn(folder, *overrides)
    assert (result.outcome, result.exit_code) == ("unchanged", 0)
    assert [batch.status for batch in result.batches] == ["published"]
    note = next(note for note in result.notes if note.startswith("mirror: "))
    assert "did not answer" in note
    assert note.endswith("events wait")
    assert "secret" not in note
    gateway = Gateway(mlflow_newest.port, listen=port)
    try:
        waiting = int(note.split("; ")[1].split()[0])
        done = told(folder, *overrides)
        assert (done.sent, done.problem) == (waiting, "")
        assert len(mlflow_newest.runs("later")) == 4
        quiet = turn(folder, *overrides)
        assert [step.name for step in quiet.steps] == ["ingest", "snapshot", "batch"], "nothing new, nothing told"
    finally:
        gateway.close()


def test_a_server_that_hangs_is_left_at_the_deadline(story: Path, tmp_path: Path, gateway: Gateway) -> None:
    folder = copied(story, tmp_path / "project", "hangs")
    gateway.act = lambda *_: "hang"
    began = time.monotonic()
    done = told(folder, _tracking(gateway), deadline_s=4.0)
    assert done.problem
    assert done.sent == 0
    assert time.monotonic() - began < 20, "the deadline, and starting and ending a process on a busy machine"
    assert len(gateway.requests) <= 1


def test_a_server_that_fails_for_a_while_is_caught_up(
    mlflow_newest: MlflowServer, story: Path, tmp_path: Path, gateway: Gateway
) -> None:
    folder = copied(story, tmp_path / "project", "fails")
    gateway.target = mlflow_newest.port
    gateway.act = lambda number, *_: "500" if number > 12 else "pass"
    broken = told(folder, _tracking(gateway))
    assert "refused or failed" in broken.problem
    assert broken.waiting > 0
    gateway.act = lambda *_: "pass"
    assert told(folder, _tracking(gateway)).problem == ""
    assert len(mlflow_newest.runs("fails")) == 4
    assert len(mlflow_newest.versions("fails")) == 3


def test_replies_that_are_lost_after_success_double_nothing(
    mlflow_newest: MlflowServer, story: Path, tmp_path: Path, gateway: Gateway
) -> None:
    folder = copied(story, tmp_path / "project", "lost")
    gateway.target = mlflow_newest.port
    lost: set[str] = set()

    def lose_once(number: int, method: str, path: str) -> Act:
        place = path.rpartition("/")[0].rpartition("/")[2] + path.rpartition("/")[2]
        if "create" not in place or place in lost:
            return "pass"
        lost.add(place)
        return "lose"

    gateway.act = lose_once
    for _ in range(6):
        if not told(folder, _tracking(gateway)).problem:
            break
    assert {"runscreate", "registered-modelscreate", "model-versionscreate"} <= lost
    assert len(mlflow_newest.runs("lost")) == 4
    assert len(mlflow_newest.versions("lost")) == 3


def test_a_server_killed_in_the_middle_and_started_again(
    mlflow_newest: MlflowServer, story: Path, tmp_path: Path, gateway: Gateway
) -> None:
    folder = copied(story, tmp_path / "project", "killed")
    gateway.target = mlflow_newest.port

    def kill_at_the_thirtieth(number: int, *_: object) -> Act:
        if number == 30:
            mlflow_newest.kill()
        return "pass"

    gateway.act = kill_at_the_thirtieth
    broken = told(folder, _tracking(gateway))
    assert broken.problem
    assert broken.waiting > 0
    assert turn(folder, _tracking(gateway)).exit_code == 0
    mlflow_newest.start()
    assert told(folder, _tracking(gateway)).problem == ""
    assert len(mlflow_newest.runs("killed")) == 4
    assert len(mlflow_newest.versions("killed")) == 3
    assert set(mlflow_newest.aliases("killed")) == {"champion", "challenger"}


SEEN = """
import sys
from pathlib import Path
from interlock.app import open_parts
from interlock.cli.progress import Silent
from interlock.configuration import load_settings
from interlock.loop import run_turn
with open_parts(load_settings(Path("."))) as parts:
    result = run_turn(parts, Silent())
    assert result.outcome == "released", result.sentence
print([name for name in sys.modules if name.partition(".")[0] in ("mlflow", "openlineage") or "follow" in name])
"""


def test_without_the_settings_nothing_of_it_is_imported(project: Path) -> None:
    witness = (
        "    import sys\n    print('seen:', [m for m in sys.modules if m.split('.')[0] in ('mlflow', 'openlineage')])\n"
    )
    code = (project / "train.py").read_text()
    (project / "train.py").write_text(code.replace("def train(X, y):\n", f"def train(X, y):\n{witness}"))
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", SEEN]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    with opened(project) as parts:
        assert current(parts.ledger) is not None
        trained = parts.ledger.events(kinds=["training.done"])[0]
    assert trained.facts["output_tail"].strip() == "seen: []"
