from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.ports import Ledger
from interlock.release import registry
from interlock.store.ledger import SqlLedger
from interlock.store.schema import open_database
from interlock.testing.clock import ManualClock
from interlock.testing.fakes import MemoryLedger
from release.desk import Desk, make_desk, opener


@pytest.fixture(params=["memory", "sqlite"])
def desk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A registry over either ledger."""
    clock = ManualClock()
    if request.param == "memory":
        ledger: Ledger = MemoryLedger(clock)
    else:
        ledger = SqlLedger(open_database(tmp_path / "state.db"), clock)
    found = make_desk(ledger, clock, tmp_path)
    monkeypatch.setattr(registry, "open_bundle", opener(found))
    yield found
    ledger.close()
