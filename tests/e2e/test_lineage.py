"""OpenLineage events of a whole story: valid, complete, and once, whatever the receiver does."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.followed_project import copied, opened, told, turn
from e2e.small_project import write_rows
from infra.gateway import Gateway
from infra.mlflow import free_port
from interlock.release.registry import releases

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mlflow"), pytest.mark.timeout(300)]


@pytest.fixture
def receiver() -> Iterator[Gateway]:
    """Takes whatever it is sent."""
    found = Gateway()
    yield found
    found.close()


def _events(lines: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def _job(event: dict[str, Any]) -> tuple[str, str]:
    return event["job"]["name"].removeprefix("lined."), event["eventType"]


def _names(datasets: list[dict[str, Any]]) -> list[str]:
    return [dataset["name"].rpartition("/project/")[2].partition("/")[0] for dataset in datasets]


def test_a_story_in_a_file(story: Path, tmp_path: Path) -> None:
    folder = copied(story, tmp_path / "project", "lined")
    file = folder / "out" / "lineage.jsonl"
    done = told(folder, "lineage.to=out/lineage.jsonl")
    assert (done.problem, done.waiting) == ("", 0)
    events = _events(file.read_bytes().splitlines())
    counts = Counter(map(_job, events))
    assert counts["turn", "START"] == 4
    assert counts["turn", "COMPLETE"] == 3
    assert counts["turn", "FAIL"] == 1
    assert counts["ingest.data", "COMPLETE"] == 3
    assert counts["snapshot", "COMPLETE"] == 3
    assert (counts["train", "COMPLETE"], counts["train", "FAIL"]) == (3, 1)
    assert (counts["judge", "COMPLETE"], counts["release", "COMPLETE"], counts["batch", "COMPLETE"]) == (3, 2, 1)
    by_run: dict[str, list[str]] = {}
    for event in events:
        by_run.setdefault(event["run"]["runId"], []).append(event["eventType"])
    assert all(types in (["START", "COMPLETE"], ["START", "FAIL"]) for types in by_run.values())

    turns = {event["run"]["runId"] for event in events if _job(event)[0] == "turn"}
    stages = [event for event in events if _job(event)[0] != "turn"]
    assert {event["run"]["facets"]["parent"]["run"]["runId"] for event in stages} == turns

    ingested = next(event for event in events if _job(event) == ("ingest.data", "COMPLETE"))
    assert _names(ingested["inputs"]) == ["inbox"]
    assert ingested["inputs"][0]["inputFacets"]["dataQualityMetrics"]["rowCount"] == 400
    fields = ingested["outputs"][0]["facets"]["schema"]["fields"]
    assert [(one["name"], one["type"]) for one in fields] == [
        ("part", "int"), ("width", "float"), ("weight", "float"), ("ok", "str"),
    ]  # fmt: skip
    failed = next(event for event in events if _job(event) == ("train", "FAIL"))
    assert "no luck" in failed["run"]["facets"]["errorMessage"]["message"]
    assert failed["job"]["facets"]["interlock_code"]["digest"]

    trained = [event for event in events if _job(event) == ("train", "COMPLETE")]
    made = [event["outputs"][0]["name"].rpartition("/")[2] for event in trained]
    with opened(folder) as parts:
        assert made[:2] == [release.champion for release in reversed(releases(parts.ledger))]
    snapshot = next(event for event in events if _job(event) == ("snapshot", "COMPLETE"))
    assert trained[0]["inputs"][0]["name"] == snapshot["outputs"][0]["name"], "what one wrote is what the next one read"
    scored = next(event for event in events if _job(event) == ("batch", "COMPLETE"))
    assert Path(scored["outputs"][0]["name"]).parent == folder / "predictions"
    assert scored["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 50

    told(folder, "lineage.to=out/lineage.jsonl", again=True)
    assert _events(file.read_bytes().splitlines()) == events, "told again, written once"


def test_a_torn_line_is_ended_and_told_again(story: Path, tmp_path: Path) -> None:
    folder = copied(story, tmp_path / "project", "lined")
    file = folder / "lineage.jsonl"
    assert told(folder, "lineage.to=lineage.jsonl").problem == ""
    whole = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join(whole[:3]) + b"\n" + whole[3][:50])
    assert told(folder, "lineage.to=lineage.jsonl", again=True).problem == ""
    lines = file.read_bytes().splitlines()
    assert lines[3] == whole[3][:50], "what was torn stays as it is"
    assert lines[:3] + lines[4:] == whole


def test_a_receiver_that_fails_and_hangs_gets_everything_once(story: Path, tmp_path: Path, receiver: Gateway) -> None:
    folder = copied(story, tmp_path / "project", "lined")
    to = f"lineage.to={receiver.url}"
    receiver.act = lambda number, *_: "500" if number > 9 else "pass"
    broken = told(folder, to)
    assert "answered 500" in broken.problem
    assert broken.waiting > 0
    receiver.act = lambda *_: "hang"
    late = told(folder, to, deadline_s=2.0)
    assert late.problem
    assert late.sent == 0
    receiver.act = lambda *_: "pass"
    assert told(folder, to).problem == ""
    assert {path for _, path in receiver.requests} == {"/api/v1/lineage"}
    events = _events(receiver.taken)
    keys = Counter((event["run"]["runId"], event["eventType"]) for event in events)
    assert Counter(keys.values())[1] >= len(keys) - 1, "at most one event of a pair is sent twice, as the same bytes"
    assert len(set(receiver.taken)) == len(keys)
    assert told(folder, "lineage.to=all.jsonl").problem == ""
    written = _events((folder / "all.jsonl").read_bytes().splitlines())
    assert {(event["run"]["runId"], event["eventType"]) for event in written} == set(keys)


def test_a_turn_is_told_at_its_end_and_a_quiet_one_is_not(story: Path, tmp_path: Path, receiver: Gateway) -> None:
    folder = copied(story, tmp_path / "project", "lined")
    to = f"lineage.to={receiver.url}/own/path"
    write_rows(folder / "to_score" / "later.csv", 30_000, 20, labelled=False)
    result = turn(folder, to)
    assert result.exit_code == 0
    assert result.steps[-1].name == "mirror"
    jobs = list(map(_job, _events(receiver.taken)))
    assert jobs[-4:] == [("batch", "START"), ("batch", "COMPLETE"), ("turn", "START"), ("turn", "COMPLETE")]
    sent = len(receiver.requests)
    quiet = turn(folder, to)
    assert [step.name for step in quiet.steps] == ["ingest", "snapshot", "batch"]
    assert len(receiver.requests) == sent
    assert {path for _, path in receiver.requests} == {"/own/path"}


def test_the_verbs(story: Path, tmp_path: Path) -> None:
    folder = copied(story, tmp_path / "project", "lined")
    absent = f"store.tracking=http://127.0.0.1:{free_port()}"
    nobody = _interlock(folder, "sync", code=2)
    assert "Nobody follows" in nobody
    assert "events told to OpenLineage in all.jsonl" in _interlock(folder, "--set", "lineage.to=all.jsonl", "sync")
    assert "told before" in _interlock(folder, "--set", "lineage.to=all.jsonl", "sync")
    assert "events wait" in _interlock(folder, "--set", absent, "sync", "--deadline", "20s", code=3)
    back = _interlock(folder, "--set", absent, "rollback", "--because", "slower")
    assert "Release 3" in back
    assert "mirror: MLflow at http://127.0.0.1" in back
    sent = json.loads(_interlock(folder, "--set", "lineage.to=all.jsonl", "sync", "--json"))
    assert [(one["name"], one["sent"]) for one in sent["told"]] == [("openlineage", 1)]
    last = json.loads((folder / "all.jsonl").read_text().splitlines()[-1])
    assert _job(last) == ("release", "COMPLETE")
    assert last["outputs"][0]["facets"]["version"]["datasetVersion"] == "3"
    assert "parent" not in last["run"]["facets"], "a person's act belongs to no turn"


def _interlock(folder: Path, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "interlock", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr
