import os
from pathlib import Path

import pytest

from e2e.small_project import make_project
from interlock.cli.warm import _something_changed, warming
from interlock.configuration import load_settings


@pytest.mark.parametrize("state", ["sqlite", "postgresql://nobody@127.0.0.1:1/none"])
def test_a_worker_is_warmed_up_only_when_something_changed_since_the_last_turn(tmp_path: Path, state: str) -> None:
    project = make_project(tmp_path / "project")
    settings = load_settings(project, variables={"INTERLOCK_STORE__STATE": state})
    assert _something_changed(settings, ("train.py",))  # there was no turn yet
    with pytest.raises(ZeroDivisionError), warming(settings):
        raise ZeroDivisionError
    assert _something_changed(settings, ("train.py",))  # that was none either
    settings.home.mkdir(exist_ok=True)
    with warming(settings):
        pass
    last = (settings.home / "last-turn").stat().st_mtime
    for path in (project / "inbox", *project.glob("inbox/*"), project / "train.py"):
        os.utime(path, (last - 1, last - 1))
    assert not _something_changed(settings, ("train.py",))
    os.utime(project / "train.py", (last + 1, last + 1))
    assert _something_changed(settings, ("train.py",))
