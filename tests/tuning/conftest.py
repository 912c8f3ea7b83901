"""One worker host for all searches: user code comes from a frozen copy, so the host's folder does not matter."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.model.runner import Runner
from tuning.desk import Desk


@pytest.fixture(scope="package")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """The host, with everything imported that trials need."""
    root = tmp_path_factory.mktemp("host")
    with Runner(root, ["pandas", "cloudpickle", "interlock.tuning.trial"], root / "scratch") as runner:
        yield runner


@pytest.fixture
def desk(tmp_path: Path, runner: Runner) -> Desk:
    """A project whose searches run in worker processes."""
    return Desk(tmp_path / "project", runner)
