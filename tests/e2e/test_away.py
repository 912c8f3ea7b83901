"""A server that starts while its database, or its object store too, is away: the last known release answers."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from e2e.small_project import TOML, TRAIN, make_project, write_rows
from infra.postgres import TestDatabase
from infra.program import interlock
from infra.s3_server import VARIABLES, running
from infra.server import Served, serving

pytestmark = pytest.mark.slow

ROW = {"width": 1.0, "weight": 0.25}
HALVED = TRAIN.replace("np.asarray(X, dtype=float)\n", "np.asarray(X, dtype=float) * [1, 0]\n")


def until(holds: Callable[[], Any], within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def kept(project: Path) -> list[Path]:
    return list((project / ".interlock" / "last-known").glob("*/release.json"))


def source(served: Served) -> tuple[str, str]:
    """Whence the release is known: as the front page says it, and as the metrics do."""
    lines = served.ask("/metrics")[2].splitlines()
    (gauge,) = [line for line in lines if line.startswith("interlock_release_source{") and line.endswith(" 1.0")]
    return served.ask("/")[2]["source"], gauge.split('"')[1]


def answer(served: Served) -> tuple[int, str, str]:
    status, headers, _ = served.ask("/predict", ROW)
    return status, headers["interlock-tier"], headers["interlock-release"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose champion has a last good; both answer in processes of their own."""
    folder = make_project(tmp_path_factory.mktemp("away") / "project")
    (folder / "train.py").write_text(HALVED)
    assert interlock(folder, "run")["outcome"] == "released"
    (folder / "train.py").write_text(TRAIN)
    write_rows(folder / "inbox" / "b.csv", 400, 1500)
    assert interlock(folder, "run")["outcome"] == "released"
    return folder


def test_a_tripped_champion_does_not_come_back_on_duty_by_a_lost_database(two: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(two, project)
    state, aside = project / ".interlock" / "state.db", tmp_path / "state.db"
    with serving(project, "--insecure") as served:
        assert answer(served) == (200, "champion", "2")
        assert source(served) == ("state", "state")
        interlock(project, "trip", "--because", "a test")
        served.wait_for("release 3 answers now")
        until(lambda: any(b'"generation":3' in path.read_bytes() for path in kept(project)))
    state.rename(aside)
    with serving(project, "--insecure") as served:
        served.wait_for("ANSWERS FROM MEMORY: release 3 of ")
        assert answer(served) == (200, "last-good", "3")
        assert source(served) == ("memory", "memory")
        assert served.ask("/readyz")[0] == 200
        assert not state.exists()
        aside.rename(state)
        served.wait_for("the state can be read again: release 3 is in force")
        until(lambda: source(served) == ("state", "state"))
        interlock(project, "reset", "--because", "mended")
        served.wait_for("release 4 answers now")
        assert answer(served) == (200, "champion", "4")
    (record,) = kept(project)
    record.write_bytes(record.read_bytes()[:-7])
    state.rename(aside)
    refused = serving(project, "--insecure")
    with pytest.raises(AssertionError, match="is not as this host wrote it") as told:
        refused.__enter__()
    assert "There is no state in" in str(told.value)


def test_postgres_and_the_object_store_are_stopped(
    tmp_path: Path, empty_pg: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path / "project")
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    with running() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="away")
        store = f'\n[store]\nlake = "s3://away/lake"\nstate = "{empty_pg.url}"\ntimeout = "2s"\n'
        (project / "interlock.toml").write_text(TOML + store)
        assert interlock(project, "run")["outcome"] == "released"
        with serving(project, "--insecure", before=("--set", "serve.workers=2")) as served:
            assert answer(served) == (200, "champion", "1")
            until(lambda: kept(project))
    shutil.rmtree(project / ".interlock" / "cache")
    empty_pg.cluster.stop()
    try:
        with serving(project, "--insecure") as served:
            told = served.wait_for("ANSWERS FROM MEMORY: release 1 of ")
            assert f"read from postgresql://127.0.0.1:{empty_pg.cluster.port}/" in told
            assert "owner" not in told
            assert answer(served) == (200, "champion", "1")
            assert source(served) == ("memory", "memory")
            empty_pg.cluster.start()
            served.wait_for("the state can be read again: release 1 is in force")
            assert answer(served) == (200, "champion", "1")
    finally:
        if empty_pg.cluster._process is None:
            empty_pg.cluster.start()


AT_TIMES = """import numpy as np


def predict(model, X):
    answers = model.predict(X).astype(object)
    answers[np.asarray(X["width"], dtype=float) == 107] = "perhaps"
    return answers
"""


def test_a_trip_while_the_database_is_stopped_outlives_the_server_and_is_recorded(
    tmp_path: Path, empty_pg: TestDatabase
) -> None:
    """The breaker acts, the ledger cannot be told, the server is killed: the champion stays off duty all the same."""
    project = make_project(tmp_path / "project")
    store = f'\n[store]\nstate = "{empty_pg.url}"\n'
    (project / "train.py").write_text(HALVED)
    (project / "interlock.toml").write_text(TOML + store)
    assert interlock(project, "run")["outcome"] == "released"
    (project / "train.py").write_text(TRAIN)
    (project / "predict.py").write_text(AT_TIMES)
    (project / "interlock.toml").write_text(
        TOML.replace('target = "ok"', 'target = "ok"\npredict = "predict.py"') + store
    )
    write_rows(project / "inbox" / "b.csv", 400, 1500)
    assert interlock(project, "run")["outcome"] == "released"
    cluster = empty_pg.cluster
    # one client has a vote a second: with so few votes a year, four of them are enough
    rules = ("--set", "breaker.rated_load=1", "--set", "breaker.tolerated=0.0001")
    try:
        with serving(project, "--insecure", before=(*rules, "--set", "serve.workers=2")) as served:
            until(lambda: kept(project))
            cluster.stop()
            until(
                lambda: (
                    served.ask("/predict", ROW | {"width": 107.0}) and any("off duty" in line for line in served.said)
                )
            )
            served.wait_for("a step of the breaker is not recorded yet")
            tiers: dict[str, str] = {}  # the other worker saw no failure, and follows all the same

            def both_follow() -> bool:
                headers = served.ask("/predict", ROW)[1]
                tiers[headers["interlock-prediction-id"][:16]] = headers["interlock-tier"]
                return list(tiers.values()) == ["last-good"] * 2

            until(both_follow)
            served.process.kill()
        with serving(project, "--insecure", before=rules) as served:
            served.wait_for("ANSWERS FROM MEMORY: release 2 of ")
            assert answer(served) == (200, "last-good", "2")
            cluster.start()
            served.wait_for("release 3 answers now")
            assert answer(served) == (200, "last-good", "3")
        found = interlock(project, "status")["release"]
        assert (found["cause"], found["route"]) == ("breaker", "last-good")
        assert interlock(project, "verify")["problems"] == []
    finally:
        if cluster._process is None:
            cluster.start()
