"""A program that sees a folder of ours at ``/opt/ml``, and nobody else does."""

import subprocess
import sys
from pathlib import Path

import pytest

from interlock.model import mount


def started(folder: Path, code: str) -> "subprocess.CompletedProcess[str]":
    for name in ("output/intermediate", "code"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    where = f"{mount.PLACE}/code"
    command = [sys.executable, "-I", mount.__file__, str(folder), where, sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    if started(tmp_path, "pass").returncode == mount.REFUSED:
        pytest.skip("this system gives no mount namespace")
    return tmp_path


def test_the_program_is_in_the_folder_and_writes_to_it(mounted: Path) -> None:
    before = sorted(path.name for path in Path("/opt").iterdir())
    done = started(mounted, "import os; print(os.getcwd()); open('/opt/ml/model.txt', 'w').write('kept')")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{mount.PLACE}/code\n", "")
    assert (mounted / "model.txt").read_text() == "kept"
    assert sorted(path.name for path in Path("/opt").iterdir()) == before, "nothing is left on the machine"


def test_what_is_in_opt_stays_visible(mounted: Path) -> None:
    before = {path.name for path in Path("/opt").iterdir()}
    done = started(mounted, "import os; print('\\n'.join(sorted(os.listdir('/opt'))))")
    assert set(done.stdout.split()) == before | {"ml"}


def test_the_exit_status_is_the_programs(mounted: Path) -> None:
    assert started(mounted, "raise SystemExit(7)").returncode == 7


def test_a_folder_that_is_not_there_is_refused_with_the_reason(mounted: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-I", mount.__file__, str(tmp_path / "no"), "/", sys.executable, "-c", ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == mount.REFUSED
    assert "mounting on" in done.stderr
    assert "No such file or directory" in done.stderr
