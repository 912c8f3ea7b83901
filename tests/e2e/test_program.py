"""The program around the loop: starting a project, help, doctor, errors as text and as JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from interlock.cli.main import app


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "interlock", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_help_lists_every_verb() -> None:
    out = CliRunner().invoke(app, ["--help"]).output
    for verb in (
        "init",
        "run",
        "predict",
        "status",
        "history",
        "promote",
        "rollback",
        "verify",
        "replay",
        "report",
        "doctor",
    ):
        assert f"  {verb} " in out


def test_outside_a_project_the_next_step_is_told(tmp_path: Path) -> None:
    done = call(tmp_path, "run")
    assert done.returncode == 2
    assert "There is no interlock.toml" in done.stderr
    assert "interlock init" in done.stderr
    told = json.loads(call(tmp_path, "status", "--json").stdout)
    assert told["error"]["code"] == "NotFound"


def test_misuse_exits_with_two(tmp_path: Path) -> None:
    assert call(tmp_path, "walk").returncode == 2
    assert call(tmp_path, "promote").returncode == 2
    assert call(tmp_path, "--version").stdout.startswith("interlock ")


@pytest.mark.slow
def test_init_gives_a_project_that_runs(tmp_path: Path) -> None:
    assert call(tmp_path, "init", "shop").returncode == 0
    project = tmp_path / "shop"
    ran = call(project, "run")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Release 1" in ran.stdout
    assert call(project, "init").returncode == 2, "a project is never overwritten"
    assert call(project, "doctor").returncode == 0
    status = call(project, "status").stdout
    assert "Release 1, live since" in status
    assert "1 published" in status


@pytest.mark.slow
def test_init_from_a_file_takes_the_task_from_its_target(tmp_path: Path) -> None:
    rows = "\n".join(f"{number},{number % 7},{number % 7 * 2.5 + 1}" for number in range(300))
    (tmp_path / "mine.csv").write_text(f"row,x,y\n{rows}\n")
    assert call(tmp_path, "init", "p", "--data", "mine.csv", "--target", "z").returncode == 2
    assert call(tmp_path, "init", "p", "--data", "mine.csv").returncode == 2
    done = call(tmp_path, "init", "p", "--data", "mine.csv", "--target", "y")
    assert done.returncode == 0, done.stderr
    assert 'task   = "regression"' in (tmp_path / "p" / "interlock.toml").read_text()
    assert (tmp_path / "p" / "data" / "inbox" / "mine.csv").is_file()


@pytest.mark.slow
def test_doctor_finds_what_would_stop_a_turn(tmp_path: Path) -> None:
    call(tmp_path, "init", "shop")
    project = tmp_path / "shop"
    (project / "data" / "inbox" / "parts.csv").unlink()
    (project / "data" / "inbox").rmdir()
    text = (project / "train.py").read_text()
    (project / "train.py").write_text("import a_library_that_is_not_there\n" + text)
    done = call(project, "doctor")
    assert done.returncode == 2
    assert "a_library_that_is_not_there" in done.stdout
    assert "mkdir -p data/inbox" in done.stdout
    (project / "train.py").write_text("def fit(X): ...\n")
    assert "train" in call(project, "doctor").stdout
