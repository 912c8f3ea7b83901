"""``interlock serve`` as a person runs it: a process, its doors, and models that do all they should not."""

import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl
import pytest

from e2e.followed_project import turn
from e2e.small_project import make_project, write_rows
from infra.program import interlock
from infra.server import serving

pytestmark = pytest.mark.slow

MAD = '''"""Answers like anybody, but for certain widths."""

import ctypes
import os
import sys
import time

import numpy as np


def predict(model, X):
    widths = np.asarray(X["width"], dtype=float)
    for width in widths:
        if width == 101:
            raise ValueError("no")
        if width == 102:
            os._exit(3)
        if width == 103:
            ctypes.string_at(0)
        if width == 104:
            while True:
                pass
        if width == 105:
            time.sleep(1000)
        if width == 106:
            sys.exit("enough")
        if width == 108:
            return model.predict(X)[:-1]
        if width == 110:
            return None
        if width == 111:
            hoard = []
            while True:
                hoard.append(np.ones(4_000_000))
    answers = model.predict(X).astype(object)
    answers[widths == 107] = "perhaps"
    answers[widths == 109] = None
    return answers
'''
MADNESS = range(101, 112)


@pytest.fixture(scope="module")
def mad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose champion is mad at times, and whose last good is a model that served."""
    folder = make_project(tmp_path_factory.mktemp("mad") / "project")
    good = (folder / "train.py").read_text()
    (folder / "train.py").write_text(good.replace("dtype=float)\n    return", "dtype=float) * [1, 0]\n    return"))
    assert turn(folder).outcome == "released"
    (folder / "train.py").write_text(good)
    (folder / "predict.py").write_text(MAD)
    write_rows(folder / "inbox" / "b.csv", 400, 1500)
    (folder / "interlock.toml").write_text(
        (folder / "interlock.toml").read_text().replace('target = "ok"', 'target = "ok"\npredict = "predict.py"')
    )
    assert turn(folder).outcome == "released"
    return folder


def row(width: float, weight: float = 0.25) -> dict[str, float]:
    return {"width": width, "weight": weight}


def test_it_answers_as_the_batch_did(mad: Path) -> None:
    rows = pl.read_csv(mad / "to_score" / "today.csv").drop("part").to_dicts()
    published = pl.read_parquet(next((mad / "predictions").glob("*.parquet")))
    with serving(mad, "--insecure") as served:
        status, headers, found = served.ask("/batch", {"instances": rows})
        assert (status, headers["interlock-tier"], headers["interlock-release"]) == (200, "champion", "2")
        one_by_one = [served.ask("/predict", each)[2]["prediction"] for each in rows]
        assert found["predictions"] == one_by_one
        # the batch was answered by release 1; what it agrees on is enough to see that rows are not mixed up
        same = [one == other for one, other in zip(one_by_one, published["prediction"], strict=True)]
        assert sum(same) > 0.6 * len(same)
        assert served.ask("/ping")[0::2] == (200, "pong")
        assert served.ask("/")[2]["message"] == "Hello from parts"


def test_whatever_the_champion_does_a_good_answer_comes_in_the_same_request(mad: Path) -> None:
    settings = ("--set", "serve.deadline=400ms", "--set", "model.memory=400MB")
    with serving(mad, "--insecure", before=settings) as served:
        pid = served.process.pid
        for width in MADNESS:
            status, headers, found = served.ask("/predict", row(width))
            assert (status, found) == (200, {"prediction": "yes"}), width
            assert headers["interlock-tier"] == "last-good", width
            status, headers, _ = served.ask("/predict", row(1.0))
            assert (status, headers["interlock-tier"]) == (200, "champion"), f"after {width}"
        assert served.process.poll() is None
        assert served.process.pid == pid


def test_many_ask_at_once_while_some_records_drive_it_mad(mad: Path) -> None:
    widths = [float(number % 5) for number in range(150)]
    widths[20], widths[60], widths[100] = 101.0, 102.0, 107.0
    with serving(mad, "--insecure", before=("--set", "serve.deadline=1s")) as served, ThreadPoolExecutor(16) as people:
        found = list(people.map(lambda width: served.ask("/predict", row(width)), widths))
    assert {status for status, _, _ in found} == {200}
    assert {reply["prediction"] for _, _, reply in found} <= {"yes", "no"}
    assert found[20][1]["interlock-tier"] == "last-good"


def test_a_release_made_elsewhere_is_answered_by_at_once(mad: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(mad, project)
    with serving(project, "--insecure") as served:
        assert served.ask("/predict", row(1.0))[1]["interlock-release"] == "2"
        made = interlock(project, "rollback", "--because", "a test")["generation"]
        served.wait_for(f"release {made} answers now")
        assert served.ask("/predict", row(101.0))[1]["interlock-release"] == str(made)
        assert served.ask("/predict", row(101.0))[1]["interlock-tier"] == "champion"


def test_a_key_is_made_and_printed_when_there_is_none(mad: Path) -> None:
    with serving(mad) as served:
        key = served.wait_for("this key opens every door").rsplit(" ", 1)[1]
        assert served.ask("/predict", row(1.0))[0] == 401
        assert served.ask("/predict", row(1.0), {"authorization": f"Bearer {key}"})[0] == 200
        assert served.ask("/predict", row(1.0), {"authorization": f"Bearer {key}x"})[0] == 401
        assert served.ask("/healthz")[0] == 200


def test_it_ends_when_it_is_told_and_lets_what_runs_end(mad: Path) -> None:
    with serving(mad, "--insecure", before=("--set", "serve.deadline=1s")) as served, ThreadPoolExecutor(1) as people:
        served.ask("/predict", row(1.0))
        running = people.submit(served.ask, "/predict", row(105.0))
        time.sleep(0.3)
        served.process.send_signal(signal.SIGTERM)
        assert running.result(timeout=30)[1]["interlock-tier"] == "last-good"
        assert served.process.wait(timeout=30) == 0
    assert not list((mad / ".interlock" / "work").glob("serve-*"))


def test_without_keys_it_listens_on_loopback_only(mad: Path) -> None:
    refused = serving(mad, "--insecure", "--host", "0.0.0.0")
    with pytest.raises(AssertionError, match="Without keys the server may listen on loopback only"):
        refused.__enter__()


def test_a_champion_that_keeps_failing_goes_off_duty_and_stays_so(mad: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(mad, project)
    # one client has a vote a second: with so few votes a year, four of them are enough
    rules = ("--set", "breaker.rated_load=1", "--set", "breaker.tolerated=0.0001", "--set", "serve.deadline=1s")
    with serving(project, "--insecure", before=rules) as served:
        tiers = []
        for _ in range(8):
            tiers.append(served.ask("/predict", row(107.0))[1]["interlock-tier"])
            time.sleep(1.0)
            if any("was taken off duty" in line for line in served.said):
                break
        assert set(tiers) == {"last-good"}
        served.wait_for("The champion was taken off duty (type); last good answers.")
        assert served.ask("/predict", row(1.0))[1]["interlock-tier"] == "last-good"
        served.wait_for("release 3 answers now")
    status = interlock(project, "status")
    assert (status["release"]["cause"], status["release"]["route"]) == ("breaker", "last-good")
    write_rows(project / "to_score" / "later.csv", 30_000, 20, labelled=False)
    assert {batch["tier"] for batch in interlock(project, "run")["batches"]} == {"last-good"}
    with serving(project, "--insecure") as served:
        assert served.ask("/predict", row(1.0))[1]["interlock-tier"] == "last-good"
        assert interlock(project, "reset", "--because", "mended")["state"]["mode"] == "closed"
        served.wait_for("release 4 answers now")
        assert served.ask("/predict", row(1.0))[1]["interlock-tier"] == "champion"
        interlock(project, "trip", "--because", "not yet")
        served.wait_for("release 5 answers now")
        assert served.ask("/predict", row(1.0))[1]["interlock-tier"] == "last-good"
    assert interlock(project, "verify")["problems"] == []


def test_several_workers_share_a_port_a_key_and_the_breaker(mad: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(mad, project)
    with serving(project, before=("--set", "serve.workers=2")) as served:
        key = {"authorization": "Bearer " + served.wait_for("this key opens every door").rsplit(" ", 1)[1]}
        with ThreadPoolExecutor(8) as people:
            found = list(people.map(lambda _: served.ask("/predict", row(1.0), key), range(40)))
        assert {(status, headers["interlock-tier"]) for status, headers, _ in found} == {(200, "champion")}
        assert len({headers["interlock-prediction-id"][:16] for _, headers, _ in found}) == 2
        interlock(project, "trip", "--because", "a test")
        served.wait_for("release 3 answers now")
        time.sleep(0.5)
        with ThreadPoolExecutor(8) as people:
            found = list(people.map(lambda _: served.ask("/predict", row(1.0), key), range(40)))
        assert {headers["interlock-tier"] for _, headers, _ in found} == {"last-good"}
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=40) == 0


def test_no_worker_outlives_the_process_that_keeps_it(mad: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(mad, project)
    with serving(project, "--insecure", before=("--set", "serve.workers=2")) as served:
        assert served.ask("/predict", row(1.0))[0] == 200
        served.process.kill()
        served.wait_for("the process that kept this worker is gone, so it ends")
        end = time.monotonic() + 20.0
        while True:
            try:
                socket.create_connection(("127.0.0.1", urlsplit(served.url).port or 0), 5.0).close()
            except OSError:
                break
            assert time.monotonic() < end, "somebody still listens"
            time.sleep(0.05)


def test_few_rows_and_many_are_answered_alike(mad: Path) -> None:
    """A call carries few rows itself, and many by files: the answers are the same, and no file is left."""
    rows = [row(number / 100 - 7, 0.3) for number in range(1_400)]
    with serving(mad, "--insecure") as served:
        together = served.ask("/batch", {"instances": rows})[2]["predictions"]
        apart = [
            answer
            for start in range(0, len(rows), 350)
            for answer in served.ask("/batch", {"instances": rows[start : start + 350]})[2]["predictions"]
        ]
        assert together == apart
        assert set(together) == {"yes", "no"}
        assert not list((mad / ".interlock" / "work").rglob("*.arrow"))
