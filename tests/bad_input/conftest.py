"""One trained project for each module, a copy for each test."""

from pathlib import Path

import pytest

from bad_input.kit import Trained


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A project with a release."""
    return Trained(tmp_path_factory.mktemp("trained") / "project")


@pytest.fixture
def project(trained: Trained, tmp_path: Path) -> Path:
    """A copy of it, to do bad things to."""
    return trained.copy(tmp_path / "project")
