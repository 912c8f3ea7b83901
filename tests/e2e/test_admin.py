"""The admin port of a running server: a person takes the champion off duty over HTTP."""

import dataclasses
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.small_project import TRAIN, make_project, write_rows
from infra.program import interlock
from infra.server import Served, serving
from interlock.serve.keys import add_key

pytestmark = pytest.mark.slow
ROW = {"width": 1.0, "weight": 0.25}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose champion has a last good."""
    folder = make_project(tmp_path_factory.mktemp("admin") / "project")
    halved = TRAIN.replace("np.asarray(X, dtype=float)\n", "np.asarray(X, dtype=float) * [1, 0]\n")
    (folder / "train.py").write_text(halved)
    assert interlock(folder, "run")["outcome"] == "released"
    (folder / "train.py").write_text(TRAIN)
    write_rows(folder / "inbox" / "b.csv", 400, 1500)
    assert interlock(folder, "run")["outcome"] == "released"
    return folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def children(served: Served) -> list[int]:
    text = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text()
    return sorted(int(pid) for pid in text.split())


def until(holds: Callable[[], bool]) -> None:
    """Wait for all workers."""
    end = time.monotonic() + 60.0
    while not holds():
        assert time.monotonic() < end


@pytest.mark.parametrize("workers", [1, 2])
def test_a_person_trips_resets_and_rolls_back(two: Path, tmp_path: Path, workers: int) -> None:
    project, path, port = tmp_path / "project", tmp_path / "keys.toml", free_port()
    shutil.copytree(two, project)
    ops = {"authorization": f"Bearer {add_key(path, 'ops', ('operate', 'read', 'predict'))}"}
    shop = {"authorization": f"Bearer {add_key(path, 'shop', ('predict', 'read'))}"}
    told = {"admin_port": port, "keys_file": path, "workers": workers}
    before = tuple(part for name, value in told.items() for part in ("--set", f"serve.{name}={value}"))
    with serving(project, before=before) as served:
        said = served.wait_for("the admin routes are at")
        admin = dataclasses.replace(served, url=re.search(r"http://\S+$", said)[0])
        assert admin.url == f"http://127.0.0.1:{port}"
        live = admin.ask("/release", headers=ops)[2]["release"]["generation"]
        assert admin.ask("/trip", {"because": "x"}, shop)[0] == 403
        assert admin.ask("/predict", ROW, ops)[0] == 404
        assert served.ask("/trip", {"because": "x"}, ops)[0] == 404

        status, _, found = admin.ask("/trip", {"because": "a test"}, ops)
        assert (status, found["release"]["generation"]) == (200, live + 1)
        until(lambda: served.ask("/predict", ROW, shop)[1]["interlock-tier"] == "last-good")
        if workers == 2:
            first = children(served)[0]
            os.kill(first, signal.SIGKILL)
            served.wait_for("another is started")
        until(lambda: admin.ask("/breaker", headers=ops)[2]["here"]["mode"] == "open")  # a successor answers there
        assert admin.ask("/reset", {"because": "mended"}, ops)[2]["release"]["route"] == "champion"
        assert "interlock_requests_total" in admin.ask("/metrics", headers=ops)[2]
        listed = admin.ask("/history?limit=2", headers=ops)[2]["releases"]
        assert [release["cause"] for release in listed] == ["breaker", "breaker"]
        status, _, found = admin.ask("/rollback", {"because": "the old one was better"}, ops)
        assert (status, found["release"]["cause"]) == (200, "rollback")
        made = str(found["release"]["generation"])
        until(lambda: served.ask("/predict", ROW, shop)[1]["interlock-release"] == made)
    tripped = interlock(project, "history", "--events", "--limit", "9")["events"]
    assert any(event["facts"].get("because") == "a test (asked by ops)" for event in tripped)
    assert interlock(project, "verify")["problems"] == []
