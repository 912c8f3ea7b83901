"""A ledger that is opened when it is there; then it is like any other."""

import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from interlock.app import open_parts
from interlock.configuration import load_settings
from interlock.errors import NothingToServe, StoreFault
from interlock.store import dialect
from interlock.store.late import AGAIN_S, LateLedger
from interlock.store.ledger import SqlLedger
from interlock.store.schema import open_database
from interlock.testing.clock import ManualClock
from interlock.testing.conformance import LedgerConformance
from interlock.testing.fakes import MemoryLedger


class TestLateLedger(LedgerConformance):
    def open(self, folder: Path, clock: ManualClock) -> LateLedger:
        ledger = LateLedger(lambda: SqlLedger(open_database(folder / "state.db"), clock))
        ledger.events()  # opened by one thread, as long as the others would not wait
        return ledger


def test_what_opening_raises_is_raised_until_it_is_there():
    clock, asked = ManualClock(), []

    def late():
        asked.append(clock.monotonic())
        if len(asked) < 3:
            raise StoreFault("It is away.")
        return MemoryLedger(clock)

    ledger = LateLedger(late, clock.monotonic)
    for _ in range(3):
        with pytest.raises(StoreFault, match="It is away"):
            ledger.read("a", "b", dict)
    assert len(asked) == 1
    clock.advance(AGAIN_S)
    with pytest.raises(StoreFault), ledger.transaction():
        pass
    clock.advance(AGAIN_S)
    assert ledger.read("a", "b", dict) is None
    assert len(asked) == 3
    ledger.close()


def test_nobody_waits_for_a_thread_that_tries():
    trying, end = threading.Event(), threading.Event()

    def slow():
        trying.set()
        assert end.wait(20)
        return MemoryLedger(ManualClock())

    ledger = LateLedger(slow)
    thread = threading.Thread(target=ledger.events)
    thread.start()
    assert trying.wait(20)
    with pytest.raises(StoreFault, match="is being opened"):
        ledger.events()
    end.set()
    thread.join(20)
    assert ledger.events() == []
    LateLedger(slow).close()


TOML = '[model]\nname = "m"\ntask = "custom"\ntrain = "train.py"\n[data]\ninbox = "in"\n'


def test_a_server_does_not_make_a_state_that_is_not_there(tmp_path):
    (tmp_path / "interlock.toml").write_text(TOML)
    settings = load_settings(tmp_path)
    with open_parts(settings, late=True) as parts:
        with pytest.raises(NothingToServe, match="There is no state in"):
            parts.ledger.events()
        assert not (tmp_path / ".interlock" / "state.db").exists()
    with open_parts(settings) as parts:
        assert parts.ledger.events() == []
    with open_parts(settings, late=True) as parts:
        assert parts.ledger.events() == []


def test_a_state_that_is_locked_is_opened_when_it_is_let_go(tmp_path, monkeypatch):
    (tmp_path / "interlock.toml").write_text(TOML)
    settings = load_settings(tmp_path)
    with open_parts(settings):
        pass
    monkeypatch.setattr(dialect, "BUSY_TIMEOUT_S", 0.01)
    locked = sqlite3.connect(settings.state_path, isolation_level=None)
    locked.execute("BEGIN EXCLUSIVE")
    with open_parts(settings, late=True) as parts:
        with pytest.raises(StoreFault, match="is locked by another process"):
            parts.ledger.events()
        locked.execute("ROLLBACK")
        locked.close()
        end = time.monotonic() + 20.0
        while time.monotonic() < end:
            with suppress(StoreFault):
                assert parts.ledger.events() == []
                return
    raise AssertionError("it was not opened")
