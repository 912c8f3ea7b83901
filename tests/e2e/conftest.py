"""Whole projects."""

from pathlib import Path

import pytest

from e2e.small_project import make_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A fresh small project."""
    return make_project(tmp_path / "project")
