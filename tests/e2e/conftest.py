"""Whole projects."""

from pathlib import Path

import pytest

from e2e.followed_project import made_story
from e2e.small_project import make_project
from infra.mlflow import mlflow_newest, mlflow_oldest, mlflow_postgres
from infra.s3_server import bucket, s3, s3_endpoint  # noqa: F401  fixtures

__all__ = ["mlflow_newest", "mlflow_oldest", "mlflow_postgres"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A fresh small project."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two releases, a failed training and a refused candidate. Copy it, do not change it."""
    return made_story(tmp_path_factory.mktemp("story") / "project")
