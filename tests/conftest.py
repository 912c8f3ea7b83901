"""Rules for the whole suite."""

import os
from collections.abc import Generator

import pytest

from infra.postgres import empty_pg, pg, postgres  # noqa: F401  fixtures for every wing

_MAY_NOT_SKIP = "TESTS_MAY_NOT_SKIP"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where skips are not allowed, a skipped test fails and says why it wanted to skip."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(_MAY_NOT_SKIP):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped where {_MAY_NOT_SKIP} forbids it: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own INTERLOCK_… variables must not change what is tested."""
    for name in [name for name in os.environ if name.startswith("INTERLOCK_") or name == "MLFLOW_TRACKING_URI"]:
        monkeypatch.delenv(name)
