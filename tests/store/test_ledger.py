import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from infra.postgres import TestDatabase
from interlock.errors import Conflict, LeaseHeld, LeaseLost, StoreFault
from interlock.records import Fence
from interlock.store import dialect
from interlock.store.address import server_address
from interlock.store.dialect import Database
from interlock.store.holder import this_process
from interlock.store.ledger import SqlLedger
from interlock.store.schema import open_database
from interlock.testing.clock import ManualClock
from interlock.testing.conformance import LedgerConformance
from interlock.testing.fakes import MemoryLedger


class TestSqlLedger(LedgerConformance):
    def open(self, folder: Path, clock: ManualClock) -> SqlLedger:
        return SqlLedger(open_database(folder / "state.db"), clock)


class TestSqlLedgerOnPostgres(LedgerConformance):
    @pytest.fixture(autouse=True)
    def _database(self, pg: TestDatabase) -> None:
        self.address = server_address(pg.url, "interlock")

    def open(self, folder: Path, clock: ManualClock) -> SqlLedger:
        return SqlLedger(open_database(self.address), clock)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def ledger(tmp_path, clock):
    ledger = SqlLedger(open_database(tmp_path / "state.db"), clock)
    yield ledger
    ledger.close()


def tamper(tmp_path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute(statement, values)
    connection.commit()
    connection.close()


# ---- tampering ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "position", "reason"),
    [
        ("UPDATE events SET facts = '{\"n\":9}' WHERE sequence = 3", 3, "was changed"),
        ("UPDATE events SET facts = '{\"n\": 2}' WHERE sequence = 3", 3, "was changed"),
        ("UPDATE events SET facts = x'00' WHERE sequence = 3", 3, "was changed"),
        ("UPDATE events SET at = '2020-01-01T00:00:00.000000Z' WHERE sequence = 1", 1, "was changed"),
        ("UPDATE events SET turn = 'other' WHERE sequence = 5", 5, "was changed"),
        ("UPDATE events SET hash = previous WHERE sequence = 4", 4, "was changed"),
        ("UPDATE events SET previous = hash WHERE sequence = 4", 4, "does not follow"),
        ("DELETE FROM events WHERE sequence = 1", 1, "is missing"),
        ("DELETE FROM events WHERE sequence IN (2, 3)", 2, "is missing"),
        (
            "UPDATE events SET sequence = CASE sequence WHEN 2 THEN -3 ELSE -2 END WHERE sequence IN (2, 3)",
            1,
            "missing",
        ),
    ],
)
def test_tampering_is_found(ledger, tmp_path, statement, position, reason):
    with ledger.transaction(turn="t") as t:
        for number in range(5):
            t.append("kind", "subject", {"n": number})
    assert ledger.verify().broken_at is None
    tamper(tmp_path, statement)
    outcome = ledger.verify()
    assert outcome.broken_at == position
    assert reason in outcome.reason


def test_swapped_events_are_found(ledger, tmp_path):
    with ledger.transaction() as t:
        for number in range(4):
            t.append("kind", "subject", {"n": number})
    for old, new in ((2, 99), (3, 2), (99, 3)):
        tamper(tmp_path, "UPDATE events SET sequence = ? WHERE sequence = ?", new, old)
    assert ledger.verify().broken_at == 2


def test_an_event_that_is_no_json_is_a_fault_that_names_verify(ledger, tmp_path):
    with ledger.transaction() as t:
        t.append("kind", "subject", {})
    tamper(tmp_path, "UPDATE events SET facts = '{'")
    with pytest.raises(StoreFault, match="interlock verify"):
        ledger.events()


@pytest.mark.parametrize(
    ("statement", "position"),
    [
        ("UPDATE events SET facts = '{\"n\": 2}' WHERE sequence = 3", 3),
        ("UPDATE events SET turn = 'other' WHERE sequence = 5", 5),
        ("DELETE FROM events WHERE sequence IN (2, 3)", 2),
    ],
)
def test_tampering_is_found_on_postgres(pg, clock, statement, position):
    ledger = SqlLedger(open_database(server_address(pg.url, "interlock")), clock)
    with ledger.transaction(turn="t") as t:
        for number in range(5):
            t.append("kind", "subject", {"n": number})
    assert ledger.verify().broken_at is None
    pg.execute(statement)
    assert ledger.verify().broken_at == position
    ledger.close()


# ---- leases and processes ----------------------------------------------------------------------------------------


def test_a_dead_process_of_this_host_loses_its_lease_at_once(ledger, tmp_path):
    fence = ledger.acquire("turn", ttl_s=3600)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    tamper(tmp_path, "UPDATE leases SET pid = ?", process.pid)
    assert ledger.acquire("turn", ttl_s=3600).number == fence.number + 1
    with pytest.raises(LeaseLost), ledger.transaction(fence):
        pass


def test_on_a_server_a_dead_process_is_known_on_its_own_host_only(pg, clock):
    ledger = SqlLedger(open_database(server_address(pg.url, "interlock")), clock)
    ledger.acquire("turn", ttl_s=3600)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    pg.execute("UPDATE leases SET pid = %s, host = 'elsewhere/pid:[1]/b'", process.pid)
    with pytest.raises(LeaseHeld):
        ledger.acquire("turn", ttl_s=3600)
    pg.execute("UPDATE leases SET host = %s", this_process().host)
    assert ledger.acquire("turn", ttl_s=3600).number == 2
    ledger.close()


def test_a_process_of_another_host_keeps_it_until_its_time_is_up(ledger, tmp_path, clock):
    ledger.acquire("turn", ttl_s=60)
    tamper(tmp_path, "UPDATE leases SET host = 'elsewhere/pid:[1]/b', pid = 4194303, holder = 'b:4194303'")
    with pytest.raises(LeaseHeld) as caught:
        ledger.acquire("turn", ttl_s=60)
    assert caught.value.facts["holder"] == "b:4194303"
    assert caught.value.facts["expires_at"] == "2026-01-01T00:01:00.000000Z"
    clock.advance(60)
    assert ledger.acquire("turn", ttl_s=60).number == 2


def test_a_lease_names_its_process(ledger, tmp_path):
    ledger.acquire("turn", ttl_s=60)
    with sqlite3.connect(tmp_path / "state.db") as connection:
        row = connection.execute("SELECT host, pid, started FROM leases").fetchone()
    connection.close()
    assert row == tuple(this_process())


# ---- a failing database ------------------------------------------------------------------------------------------


def test_a_locked_database_is_told(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(dialect, "BUSY_TIMEOUT_S", 0.0)
    ledger = SqlLedger(open_database(tmp_path / "state.db"), clock)
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFault, match="locked by another process") as caught, ledger.transaction() as t:
        t.append("never", "x", {})
    assert caught.value.facts["outcome"] == "not committed"
    assert ledger.events() == []  # readers go on
    other.execute("ROLLBACK")
    with ledger.transaction() as t:
        t.append("after", "x", {})
    other.close()
    ledger.close()


def test_a_reader_in_the_way_of_a_commit_leaves_nothing_behind(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(dialect, "BUSY_TIMEOUT_S", 0.0)
    ledger = SqlLedger(open_database(tmp_path / "state.db"), clock)
    reader = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM events").fetchall()
    with pytest.raises(StoreFault, match="locked") as caught, ledger.transaction() as t:
        t.append("never", "x", {})
    assert caught.value.facts["outcome"] == "not committed"
    reader.execute("ROLLBACK")
    reader.close()
    with ledger.transaction() as t:
        t.append("next", "x", {})
    assert [event.kind for event in ledger.events()] == ["next"]
    ledger.close()


def test_a_read_only_database_can_be_read_and_says_so_when_written(tmp_path, clock):
    ledger = SqlLedger(open_database(tmp_path / "state.db"), clock)
    with ledger.transaction() as t:
        t.append("a", "x", {})
    ledger.close()
    sa.event.listen(ledger._engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only=ON"))
    assert len(ledger.events()) == 1
    with pytest.raises(StoreFault, match="cannot be written"), ledger.transaction() as t:
        t.append("b", "x", {})
    ledger.close()


@pytest.mark.parametrize(("name", "outcome"), [("SQLITE_IOERR_FSYNC", "unknown"), ("SQLITE_FULL", "not committed")])
def test_a_commit_that_fails_says_whether_its_outcome_is_known(ledger, monkeypatch, name, outcome):
    def commit(self):
        original = sqlite3.OperationalError("disk I/O error")
        original.sqlite_errorname, original.sqlite_errorcode = name, getattr(sqlite3, name)
        raise sa.exc.OperationalError("COMMIT", {}, original)

    monkeypatch.setattr(sa.Connection, "commit", commit)
    with pytest.raises(StoreFault) as caught, ledger.transaction() as t:
        t.append("a", "x", {})
    assert caught.value.facts["outcome"] == outcome
    assert ("unknown" in caught.value.message) == (outcome == "unknown")
    monkeypatch.undo()
    assert ledger.events() == []


def test_a_database_that_goes_bad_while_open(ledger, tmp_path):
    with ledger.transaction() as t:
        for number in range(200):
            t.append("kind", "subject", {"n": number, "pad": "x" * 100})
    ledger._engine.dispose()
    path = tmp_path / "state.db"
    path.write_bytes(path.read_bytes()[:8192] + b"\xff" * 40_960)
    with pytest.raises(StoreFault, match="corrupt"):
        ledger.verify()


# ---- speed -------------------------------------------------------------------------------------------------------


def test_one_hundred_thousand_events(ledger):
    with ledger.transaction(turn="t") as t:
        for number in range(2_000):
            t.append("file.accepted", f"source/{number}", {"rows": number, "name": "x" * 30, "share": 0.25})
    start = time.perf_counter()
    assert len(ledger.events()) == 2_000
    listed = time.perf_counter() - start
    assert ledger.verify().events == 2_000
    assert listed < 0.5  # 50 x fewer events than the title, 25 x more time than it takes


# ---- any order of anything ---------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "a/1", "é"])
numbers = st.integers(0, 5)


class LedgerMachine(RuleBasedStateMachine):
    """The SQL ledger and the one in memory do the same, whatever is done; the model says what that is."""

    folder: tempfile.TemporaryDirectory[str] | None = None

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.ledgers = [SqlLedger(self.empty_database(), self.clock), MemoryLedger(self.clock)]
        self.events: list[tuple[str, int]] = []
        self.documents: dict[tuple[str, str], int] = {}
        self.newest = 0
        self.free_at: datetime | None = None
        self.fences: list[list[Fence]] = []

    def empty_database(self) -> Database:
        self.folder = tempfile.TemporaryDirectory()
        return open_database(Path(self.folder.name) / "state.db")

    def both(self, action):
        outcomes = []
        for position, ledger in enumerate(self.ledgers):
            try:
                outcomes.append(("done", action(ledger, position)))
            except (Conflict, LeaseHeld, LeaseLost) as error:
                outcomes.append((type(error).__name__, None))
        assert outcomes[0] == outcomes[1]
        return outcomes[0][0]

    @rule(kind=names, number=numbers, fails=st.booleans())
    def append(self, kind, number, fails):
        def action(ledger, _):
            with ledger.transaction() as t:
                event = t.append(kind, "s", {"n": number})
                if fails:
                    raise Conflict("on purpose")
                return event.hash

        if self.both(action) == "done":
            self.events.append((kind, number))

    @rule(collection=names, key=names, number=numbers)
    def insert(self, collection, key, number):
        def action(ledger, _):
            with ledger.transaction() as t:
                t.append("insert", key, {"n": number})
                t.insert(collection, key, number)

        expected = "Conflict" if (collection, key) in self.documents else "done"
        assert self.both(action) == expected
        if expected == "done":
            self.events.append(("insert", number))
            self.documents[collection, key] = number

    @rule(collection=names, key=names, number=numbers)
    def put(self, collection, key, number):
        def action(ledger, _):
            with ledger.transaction() as t:
                t.put(collection, key, number)
                return t.read(collection, key, int)

        assert self.both(action) == "done"
        self.documents[collection, key] = number

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0]))
    def pass_time(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def acquire(self):
        taken: list[Fence] = []
        held = self.free_at is not None and self.clock.now() < self.free_at
        outcome = self.both(lambda ledger, _: taken.append(ledger.acquire("turn", ttl_s=60)))
        assert outcome == ("LeaseHeld" if held else "done")
        if not held:
            self.newest += 1
            assert [fence.number for fence in taken] == [self.newest, self.newest]
            self.fences.append(taken)
            self._until(60)

    @precondition(lambda self: self.fences)
    @rule(data=st.data())
    def commit_with_a_fence(self, data):
        fences = data.draw(st.sampled_from(self.fences))

        def action(ledger, position):
            with ledger.transaction(fences[position]) as t:
                t.append("fenced", "s", {"n": 0})

        expected = "done" if fences[0].number == self.newest else "LeaseLost"
        assert self.both(action) == expected
        if expected == "done":
            self.events.append(("fenced", 0))

    @precondition(lambda self: self.fences)
    @rule(data=st.data())
    def renew(self, data):
        fences = data.draw(st.sampled_from(self.fences))
        lost = fences[0].number != self.newest or self.free_at is None
        outcome = self.both(lambda ledger, position: ledger.renew(fences[position], ttl_s=60))
        assert outcome == ("LeaseLost" if lost else "done")
        if not lost:
            self._until(60)

    @precondition(lambda self: self.fences)
    @rule(data=st.data())
    def release(self, data):
        fences = data.draw(st.sampled_from(self.fences))
        assert self.both(lambda ledger, position: ledger.release(fences[position])) == "done"
        if fences[0].number == self.newest:
            self.free_at = None

    def _until(self, seconds):
        self.free_at = datetime.fromtimestamp(self.clock.now().timestamp() + seconds, UTC)

    @invariant()
    def holds_what_the_model_holds(self):
        for ledger in self.ledgers:
            found = ledger.events()
            assert [(event.kind, event.facts["n"]) for event in found] == self.events
            assert ledger.verify().broken_at is None
            for collection in ("a", "b"):
                kept = sorted((key, value) for (place, key), value in self.documents.items() if place == collection)
                assert ledger.scan(collection, int) == kept
        assert self.ledgers[0].verify() == self.ledgers[1].verify()

    def teardown(self):
        for ledger in self.ledgers:
            ledger.close()
        if self.folder is not None:
            self.folder.cleanup()


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=15, stateful_step_count=25, deadline=None, derandomize=True)


def test_postgres_does_the_same_whatever_is_done(pg):
    class OnPostgres(LedgerMachine):
        def empty_database(self) -> Database:
            pg.execute("TRUNCATE events, documents, leases")
            return open_database(server_address(pg.url, "interlock"))

    few = settings(max_examples=6, stateful_step_count=20, deadline=None, derandomize=True)
    run_state_machine_as_test(OnPostgres, settings=few)
