from pathlib import Path

import pytest

from answer.kit import Project, make_project, opened_bundle
from interlock.answer import tiers


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    found = make_project(tmp_path / "project")
    monkeypatch.setattr(tiers, "open_bundle", lambda _, wanted: found.open(wanted))
    found.release(opened_bundle(tmp_path / "bundle-1"), 1)
    return found
