"""What the kernel refuses to a confined process, and what it leaves to it; each try is a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from interlock.errors import Fault
from interlock.model import confine as module
from interlock.model.confine import confine, landlock_version

needs_landlock = pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")
TRY = (
    "import json, os, sys; from interlock.model.confine import confine; "
    "rules = json.loads(sys.argv[1]); confine(**rules); exec(sys.argv[2])"
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Below the temporary folder, which is why it has to be hidden: a project with rows, and a folder to write to."""
    for name in ("project/inbox", "project/lake/given", "project/work", "project/code"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("inbox/a.csv", "lake/holdout", "lake/given/rows", "code/train.py"):
        (tmp_path / "project" / name).write_text("rows")
    (tmp_path / "project" / "link").symlink_to("inbox")
    return tmp_path / "project"


def tried(place: Path, code: str, *, hidden: tuple[str, ...] = ("inbox", "lake", "work")) -> str:
    """Run ``code`` confined; what it printed, or the name of its exception."""
    import json

    rules = {
        "hidden": [str(place / name) for name in hidden],
        "reads": [str(place / "lake" / "given" / "rows")],
        "writes": [str(place / "work")],
    }
    done = subprocess.run(
        [sys.executable, "-c", TRY, json.dumps(rules), code],
        cwd=place,
        env={**os.environ, "TMPDIR": str(place / "work")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1].partition(":")[0]


@needs_landlock
@pytest.mark.parametrize(
    "code",
    [
        "open('inbox/a.csv')",
        "open('link/a.csv')",
        "open('code/../inbox/a.csv')",
        "open('lake/holdout')",
        "open('inbox/b.csv', 'w')",
        "os.remove('inbox/a.csv')",
        "os.rename('inbox/a.csv', 'work/a.csv')",
        "os.link('inbox/a.csv', 'work/a.csv')",
        "os.mkdir('inbox/more')",
        "os.truncate('lake/given/rows', 0)",
        "open('lake/given/rows', 'a')",
        "os.symlink('../inbox/a.csv', 'work/l') or open('work/l')",
    ],
)
def test_what_is_hidden_can_be_neither_read_nor_changed(place: Path, code: str) -> None:
    assert tried(place, code) in ("PermissionError", "OSError")
    assert (place / "inbox" / "a.csv").read_text() == "rows"
    assert (place / "lake" / "given" / "rows").read_text() == "rows"
    assert sorted(path.name for path in (place / "inbox").iterdir()) == ["a.csv"]


@needs_landlock
def test_it_holds_for_what_it_starts(place: Path) -> None:
    code = "import subprocess; print(subprocess.run(['cat', 'inbox/a.csv'], capture_output=True).returncode)"
    assert tried(place, code) == "1"


@needs_landlock
@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("print(open('code/train.py').read())", "rows"),
        ("print(open('lake/given/rows').read())", "rows"),
        ("open('work/x', 'w').write('x'); os.rename('work/x', 'work/y'); print(os.listdir('work'))", "['y']"),
        ("import tempfile; tempfile.TemporaryFile().write(b'x'); print('fine')", "fine"),
        ("open('/dev/null', 'w').write('x'); print('fine')", "fine"),
        ("import numpy, polars; print('fine')", "fine"),
        ("print(sorted(os.listdir('inbox')))", "['a.csv']"),
    ],
)
def test_what_is_not_hidden_is_left(place: Path, code: str, printed: str) -> None:
    """Names can be listed, which the module says."""
    assert tried(place, code) == printed


@needs_landlock
def test_a_hidden_place_that_is_not_there_hides_its_surroundings_only_from_writing(place: Path) -> None:
    assert tried(place, "print(open('code/train.py').read())", hidden=("nowhere/at/all",)) == "rows"


def test_without_landlock_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "landlock_version", lambda: 0)
    with pytest.raises(Fault, match="no Landlock") as caught:
        confine([], [], [])
    assert caught.value.next_step == "Take model.confined out."
