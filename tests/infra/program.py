"""The program as a person runs it: a process, one JSON object, an exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_program(*words: str, cwd: Path | None = None) -> tuple[int, dict[str, Any], str]:
    """Run ``interlock … --json``: the exit code, what it told, and what it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "interlock", *words, "--json"],
        cwd=cwd,
        env=os.environ | {"PYTHONWARNINGS": "error::DeprecationWarning:interlock"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout, f"{words}: exit {done.returncode}\n{done.stderr}"
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return done.returncode, found, done.stderr


def interlock(project: Path, *words: str, code: int = 0) -> dict[str, Any]:
    """Run a verb in the folder of a project; its object. It must end with ``code``."""
    ended, found, stderr = run_program(*words, cwd=project)
    assert ended == code, f"{words}: exit {ended}\n{found}\n{stderr}"
    return found


def exit_of(project: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Run a verb on a project from elsewhere: the exit code and what it told, without a traceback."""
    ended, found, stderr = run_program("--project", str(project), *words)
    assert "Traceback" not in stderr, stderr
    return ended, found
