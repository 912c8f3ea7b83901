"""Whole projects."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from e2e.followed_project import made_story, turn
from e2e.linear_project import make_linear_project
from e2e.small_project import make_project
from infra.mlflow import mlflow_newest, mlflow_oldest, mlflow_postgres
from infra.s3_server import bucket, s3, s3_endpoint  # noqa: F401  fixtures
from infra.server import Served, serving

__all__ = ["mlflow_newest", "mlflow_oldest", "mlflow_postgres"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A fresh small project."""
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two releases, a failed training and a refused candidate. Copy it, do not change it."""
    return made_story(tmp_path_factory.mktemp("story") / "project")


@pytest.fixture(scope="session")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released project whose champion answers inside the server; its batch holds nulls, unicode and quotes.

    Serve it, do not change it.
    """
    folder = make_linear_project(tmp_path_factory.mktemp("shades") / "project")
    assert turn(folder).outcome == "released"
    return folder


@pytest.fixture(scope="module")
def served(shades: Path) -> Iterator[Served]:
    """Its server, without keys."""
    with serving(shades, "--insecure") as found:
        yield found


@pytest.fixture(scope="module")
def rows(shades: Path) -> pl.DataFrame:
    """The records of its batch."""
    return pl.read_csv(shades / "to_score" / "b.csv").sort("id").drop("id")
