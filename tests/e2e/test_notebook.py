"""Notebooks from the outside: a killed turn leaves no kernel, and ordinary notebooks become projects that run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cli import notebooks
from e2e.small_project import make_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
PROGRAM = [sys.executable, "-m", "interlock"]


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_turn_that_is_ended_leaves_no_kernel(tmp_path: Path, blow: signal.Signals) -> None:
    folder = make_project(tmp_path / "p")
    pipe = tmp_path / "pids"
    os.mkfifo(pipe)
    cell = (
        f"import os, subprocess, time\ndf\nchild = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pipe)!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}} {{child.pid}}')\n"
        "while True: time.sleep(0.05)"
    )
    (folder / "model.ipynb").write_text(notebooks.notebook(cell))
    settings = folder / "interlock.toml"
    settings.write_text(settings.read_text().replace("[data]", 'train = "model.ipynb"\n\n[data]', 1))
    turn = subprocess.Popen([*PROGRAM, "run"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kernel, worker, child = (int(pid) for pid in pipe.read_text().split())
    processes = [psutil.Process(pid) for pid in (kernel, worker, child)]
    assert os.getpgid(kernel) == os.getpgid(worker) != os.getpgid(turn.pid)
    turn.send_signal(blow)
    turn.wait(30)
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert [process.pid for process in alive] == []


@pytest.mark.parametrize("name", ["TITANIC", "PIPELINE", "LIGHTGBM", "MESSY"])
def test_ordinary_notebooks_become_projects_that_run_at_once(tmp_path: Path, name: str) -> None:
    notebooks.passengers(tmp_path / "passengers.csv")
    notebooks.houses(tmp_path / "houses.csv")
    (tmp_path / "n.ipynb").write_text(getattr(notebooks, name))
    _call(tmp_path, "init", "p", "--from-notebook", "n.ipynb")
    result = json.loads(_call(tmp_path / "p", "run", "--json"))
    assert result["outcome"] == "released", result


def _call(folder: Path, *arguments: str) -> str:
    done = subprocess.run([*PROGRAM, *arguments], cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
