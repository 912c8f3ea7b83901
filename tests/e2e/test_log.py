"""The server is killed while it answers, and the log is counted."""

import http.client
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import polars as pl
import pytest

from e2e.followed_project import turn
from e2e.small_project import make_project
from infra.server import Served, serving
from interlock.store.tables import DeltaTables

pytestmark = pytest.mark.slow

TRAIN = '''"""A model that answers inside the server."""

from sklearn.linear_model import LogisticRegression


def train(X, y):
    return LogisticRegression().fit(X, y)
'''
WINDOW_S = 0.3
MARGIN_S = 1.0
"""Time that a busy machine may take to wake the loop and to write."""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("log") / "project")
    (folder / "train.py").write_text(TRAIN)
    assert turn(folder).outcome == "released"
    return folder


@pytest.fixture
def project(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "project"))


class Load:
    """Clients that ask, one request after the other, and note when each answer was there."""

    def __init__(self, served: Served, clients: int = 4) -> None:
        self.got: list[tuple[float, str]] = []
        self._url = urlsplit(served.url)
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=30.0)
        body = json.dumps({"width": number / 4, "weight": 0.25})
        try:
            while True:
                connection.request("POST", "/predict", body, {"content-type": "application/json"})
                reply = connection.getresponse()
                reply.read()
                assert reply.status == 200
                self.got.append((time.monotonic(), reply.headers["interlock-prediction-id"]))
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=30.0)


def rows(project: Path, table: str) -> pl.DataFrame:
    return DeltaTables(project / ".interlock" / "lake" / "tables").scan(table).collect()


def settled(project: Path) -> None:
    """Serve once more for a moment: what a dead server left is adopted at the end at the latest."""
    with serving(project, "--insecure") as served:
        assert served.ask("/ping")[0] == 200
    left = [path.name for path in (project / ".interlock" / "log" / "predictions").iterdir()]
    assert not [name for name in left if not name.startswith(("lock", ".interlock-tmp-"))]


@pytest.mark.parametrize("durable", [False, True])
def test_a_killed_server_loses_no_more_than_it_said_and_nothing_is_there_twice(project: Path, durable: bool) -> None:
    settings = (
        *("--set", f"serve.log.flush={round(WINDOW_S * 1e3)}ms", "--set", "serve.log.commit=500ms"),
        *("--set", f"serve.log.durable={str(durable).lower()}"),
    )
    with serving(project, "--insecure", before=settings) as served:
        load = Load(served)
        threading.Event().wait(2.5)  # that is how long there is load
        killed = time.monotonic()
        served.process.kill()
        load.join()
    settled(project)
    logged = rows(project, "predictions")
    ids = set(logged["id"])
    assert len(ids) == logged.height
    answered = {name for _, name in load.got}
    promised = answered if durable else {name for at, name in load.got if at < killed - WINDOW_S - MARGIN_S}
    assert len(promised) > 50
    assert promised <= ids
    assert len(ids - answered) <= 4  # at most one request of each client was answered and not heard
    assert logged.filter(pl.col("prediction").is_null()).is_empty()
    assert set(logged["tier"]) == {"champion"}


def test_outcomes_find_their_predictions_in_the_lake(project: Path) -> None:
    with serving(project, "--insecure", before=("--set", "serve.log.durable=true")) as served:
        names = []
        for width in (-2.0, 0.5, 2.0):
            status, headers, _ = served.ask("/predict", {"width": width, "weight": 0.0})
            assert status == 200
            names.append(headers["interlock-prediction-id"])
        told = [{"id": names[0], "outcome": "no"}, {"id": names[2], "outcome": "yes"}]
        assert served.ask("/feedback", {"outcomes": told})[2] == {"accepted": 2, "repeated": 0, "refused": 0}
        served.process.kill()  # what was acknowledged stays
    with serving(project, "--insecure") as served:
        assert served.ask("/feedback", told)[2] == {"accepted": 0, "repeated": 2, "refused": 0}
    joined = rows(project, "predictions").join(rows(project, "outcomes"), on="id")
    assert joined.sort("time").select("prediction", "outcome").rows() == [("no", "no"), ("yes", "yes")]


def clerk_of(server: int) -> int | None:
    """The process that writes the log of a server."""
    threads = Path(f"/proc/{server}/task").glob("*/children")
    for child in [child for thread in threads for child in thread.read_text().split()]:
        if b"interlock.serve.clerk" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return None


def test_a_clerk_that_is_killed_costs_nothing(project: Path) -> None:
    names = []
    with serving(project, "--insecure", before=("--set", "serve.log.commit=100ms")) as served:
        clerk = None
        while clerk is None and len(names) < 20_000:
            names.append(served.ask("/predict", {"width": 1.0, "weight": 0.0})[1]["interlock-prediction-id"])
            clerk = clerk_of(served.process.pid)
        assert clerk is not None
        os.kill(clerk, signal.SIGKILL)
        names.append(served.ask("/predict", {"width": 1.0, "weight": 0.0})[1]["interlock-prediction-id"])
    assert sorted(rows(project, "predictions")["id"]) == sorted(names)


def test_any_reader_of_delta_or_parquet_reads_the_log(project: Path) -> None:
    with serving(project, "--insecure") as served:
        served.ask("/batch", {"instances": [{"width": 1.5, "weight": 1.0}, {"width": -1.5, "weight": -1.0}]})
    query = (
        "select avg(cast(prediction = 'yes' as int)), avg((features->>'$.width')::double), count(*) "
        f"from read_parquet('{project}/.interlock/lake/tables/predictions/*.parquet')"
    )
    with duckdb.connect() as connection:
        assert connection.sql(query).fetchall() == [(0.5, 0.0, 2)]


def test_the_logs_of_several_workers_are_one(project: Path) -> None:
    with serving(project, "--insecure", before=("--set", "serve.workers=2")) as served:
        names = [served.ask("/predict", {"width": 1.0, "weight": 0.0})[1]["interlock-prediction-id"] for _ in range(60)]
    assert sorted(rows(project, "predictions")["id"]) == sorted(names)
