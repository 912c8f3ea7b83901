"""A disk that fills up in a turn, or may not be written: told in words, nothing half-written, nothing lost."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.small_project import make_project, write_rows
from infra.program import exit_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk, and runs as somebody else")
pytestmark = [needs_root, pytest.mark.slow, pytest.mark.timeout(120)]
KIB = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, free_kib: int) -> Path:
    """Leave so much space."""
    filler = disk / "filler"
    status = os.statvfs(disk)
    filler.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - free_kib * KIB)))
    return filler


@pytest.mark.parametrize("free_kib", [0, 40, 160])
def test_a_disk_that_fills_up_is_told_and_freed_space_is_enough(disk: Path, free_kib: int) -> None:
    project = make_project(disk / "project")
    filler = fill(disk, free_kib)
    code, told = exit_of(project, "run")
    text = json.dumps(told)
    assert code == 3, told
    assert "No space left on device" in text or "the disk is full" in text, told
    assert "Free some space" in text, told
    filler.unlink()
    code, told = exit_of(project, "run")
    assert (code, told["outcome"], told["problems"]) == (0, "released", []), told
    assert exit_of(project, "verify")[0] == 0
    assert len(list((project / "predictions").iterdir())) == 1


def test_a_full_disk_in_a_later_turn_leaves_the_champion(disk: Path) -> None:
    project = make_project(disk / "project")
    assert exit_of(project, "run")[0] == 0
    write_rows(project / "inbox" / "b.csv", 400, 300)
    filler = fill(disk, 24)
    code, told = exit_of(project, "run")
    assert code == 3, told
    filler.unlink()
    code, told = exit_of(project, "run")
    assert (code, told["outcome"], told["problems"]) == (1, "kept", []), told  # 1: the gate held
    assert exit_of(project, "verify")[0] == 0


def tree(folder: Path) -> dict[str, bytes | None]:
    """Names and contents."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


AS_NOBODY = """import json, os, sys
from pathlib import Path
from e2e.syscall_driver import turn
other, project = map(Path, sys.argv[1:])
turn(other)  # imports what nobody may not read
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(json.dumps(turn(project)))
"""


@pytest.mark.parametrize("ran_before", [False, True])
def test_a_read_only_disk_is_told_and_nothing_changes(disk: Path, ran_before: bool) -> None:
    project = make_project(disk / "project")
    if ran_before:
        assert exit_of(project, "run")[0] == 0
        write_rows(project / "inbox" / "b.csv", 400, 300)
    before = tree(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, told = exit_of(project, "run")
    assert code == 3, told
    assert "error" in told, told
    message, next_step = told["error"]["message"].replace(str(project), "PROJECT"), told["error"]["next_step"]
    if ran_before:
        assert message == "The state database PROJECT/.interlock/state.db cannot be written (SQLITE_READONLY)."
        assert next_step == "Check who may write the file and its folder."
    else:
        assert message == (
            "The folder PROJECT/.interlock for the state database cannot be created: Read-only file system."
        )
        assert next_step == "Check who may write there."
    assert tree(disk) == before


@pytest.mark.parametrize("ran_before", [False, True])
def test_a_folder_of_somebody_else_is_told_and_nothing_changes(ran_before: bool) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:  # every folder above it may be entered
        Path(place).chmod(0o755)
        project = make_project(Path(place) / "project")
        if ran_before:
            assert exit_of(project, "run")[0] == 0
        before = tree(project)

        other = make_project(Path(place) / "other")

        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", AS_NOBODY, str(other), str(project)],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["exit"] == 3, told
        message = told["message"].replace(str(project), "PROJECT")
        if ran_before:
            assert message == "The state database PROJECT/.interlock/state.db cannot be written (SQLITE_READONLY)."
            assert told["next_step"] == "Check who may write the file and its folder."
        else:
            assert message == (
                "The folder PROJECT/.interlock for the state database cannot be created: Permission denied."
            )
            assert told["next_step"] == "Check who may write there."
        assert tree(project) == before
