"""Whole projects."""

from pathlib import Path

import pytest

from e2e.small_project import make_project
from infra.s3_server import bucket, s3, s3_endpoint  # noqa: F401  fixtures


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A fresh small project."""
    return make_project(tmp_path / "project")
