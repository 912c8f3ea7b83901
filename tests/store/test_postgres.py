"""What is Postgres's own: the lock, the limits, the server that goes away, rights, and what its faults are called."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from infra.postgres import PASSWORD, Cluster, TestDatabase, database_of
from infra.proxy import Proxy
from interlock.errors import Conflict, LeaseHeld, SettingsError, StoreFault
from interlock.store import dialect, postgres
from interlock.store.address import server_address
from interlock.store.dialect import WRITES, Database
from interlock.store.ledger import SqlLedger, SqlTransaction
from interlock.store.schema import connect, open_database
from interlock.testing.clock import ManualClock

pytestmark = pytest.mark.usefixtures("postgres")


@pytest.fixture
def database(pg):
    database = open_database(server_address(pg.url, "interlock"))
    yield database
    database.dispose()


@pytest.fixture
def ledger(database):
    return SqlLedger(database, ManualClock())


def note(ledger: SqlLedger, kind: str) -> None:
    with ledger.transaction() as t:
        t.append(kind, "x", {})


def failed(ledger: SqlLedger, *acts: Callable[[SqlTransaction], object]) -> StoreFault:
    """Do it in one transaction, which fails; gives the fault."""

    def attempt() -> None:
        with ledger.transaction() as t:
            for act in acts:
                act(t)

    with pytest.raises(StoreFault) as caught:
        attempt()
    return caught.value


def kinds(ledger: SqlLedger) -> list[str]:
    return [event.kind for event in ledger.events()]


# ---- the lock ----------------------------------------------------------------------------------------------------


def test_a_second_writer_waits_and_then_says_that_it_is_locked(pg, ledger, monkeypatch):
    monkeypatch.setattr(dialect, "BUSY_TIMEOUT_S", 0.1)
    other = SqlLedger(open_database(server_address(pg.url, "interlock")), ManualClock())
    with ledger.transaction() as t:
        t.append("first", "x", {})
        with pytest.raises(StoreFault, match="locked by another process") as caught:
            note(other, "never")
        assert kinds(other) == []  # readers go on
    assert caught.value.facts["outcome"] == "not committed"
    note(other, "second")
    assert kinds(ledger) == ["first", "second"]
    assert ledger.verify().broken_at is None
    other.close()


def test_a_writer_that_waited_sees_what_the_other_wrote(pg, ledger):
    other = SqlLedger(open_database(server_address(pg.url, "interlock")), ManualClock())
    with ledger.transaction() as t:
        waiting = threading.Thread(target=note, args=(other, "second"))
        waiting.start()
        while not pg.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            pass
        t.append("first", "x", {})
    waiting.join()
    assert ledger.verify().events == 2
    assert ledger.verify().broken_at is None
    other.close()


def test_projects_in_two_schemas_do_not_wait_for_each_other(pg, ledger, monkeypatch):
    monkeypatch.setattr(dialect, "BUSY_TIMEOUT_S", 0.1)
    other = SqlLedger(open_database(server_address(pg.url, "second")), ManualClock())
    with ledger.transaction() as t:
        t.append("first", "x", {})
        note(other, "theirs")
    assert (kinds(ledger), kinds(other)) == (["first"], ["theirs"])
    assert postgres.lock_key("interlock") != postgres.lock_key("second")
    other.close()


def test_reading_transactions_cannot_write(database):
    with pytest.raises(StoreFault, match="read-only"), database.faults(), database.engine.connect() as connection:
        connection.exec_driver_sql("DELETE FROM events")


def test_what_is_acknowledged_is_on_disk_whatever_the_role_prefers(pg, database):
    pg.execute(f'ALTER DATABASE "{pg.name}" SET synchronous_commit = off')
    pg.execute(f'ALTER DATABASE "{pg.name}" SET default_transaction_isolation = serializable')
    database.dispose()
    show = "SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation')"
    with database.engine.connect().execution_options(**{WRITES: True}) as connection:
        assert connection.exec_driver_sql(show).one() == ("on", "read committed")
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql(show).one() == ("off", "read committed")


def test_a_stronger_setting_of_the_server_is_left_alone(pg, database):
    pg.execute(f'ALTER DATABASE "{pg.name}" SET synchronous_commit = remote_apply')
    database.dispose()
    with database.engine.connect().execution_options(**{WRITES: True}) as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "remote_apply"


# ---- limits ------------------------------------------------------------------------------------------------------


def test_a_statement_that_takes_too_long_is_ended(database, monkeypatch):
    monkeypatch.setattr(postgres, "STATEMENT_TIMEOUT_S", 0.05)
    with pytest.raises(StoreFault, match="took longer"), database.faults(), database.engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(100)")


def test_a_writer_that_stops_inside_its_transaction_does_not_lock_out_the_rest(pg, ledger, monkeypatch):
    monkeypatch.setattr(postgres, "IDLE_TIMEOUT_S", 0.1)
    other = SqlLedger(open_database(server_address(pg.url, "interlock")), ManualClock())
    fault = failed(
        ledger,
        lambda t: t.append("slow", "x", {}),
        lambda _: note(other, "went past"),  # waits for the lock until the server ends the idle transaction
        lambda t: t.append("slow", "x", {}),
    )
    assert fault.facts["outcome"] == "not committed"
    assert kinds(ledger) == ["went past"]
    other.close()


def test_nothing_waits_without_limit_for_a_server_that_does_not_answer(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:{PASSWORD[0]}@127.0.0.1:{silent.getsockname()[1]}/db"
        monkeypatch.setattr(postgres, "_CONNECTION", {"connect_timeout": 2})
        with pytest.raises(StoreFault, match="cannot be reached"):
            open_database(server_address(url, "interlock"))


def test_the_limits_of_a_connection_can_be_set_from_outside(pg, monkeypatch):
    monkeypatch.setenv("PGAPPNAME", "theirs")
    database = connect(server_address(f"{pg.url}?connect_timeout=7&keepalives_idle=11", "interlock"))
    with database.engine.connect() as connection:
        given = connection.connection.driver_connection.info.get_parameters()
    database.dispose()
    assert (given["connect_timeout"], given["keepalives_idle"], given["tcp_user_timeout"]) == ("7", "11", "30000")
    assert given["application_name"] == "theirs"


# ---- the connection goes away ------------------------------------------------------------------------------------

END_SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def test_a_connection_that_was_lost_between_transactions_is_replaced(pg, ledger):
    note(ledger, "before")
    pg.execute(END_SESSIONS)
    note(ledger, "after")
    assert kinds(ledger) == ["before", "after"]


def test_a_connection_that_is_lost_inside_a_transaction_leaves_nothing(pg, ledger):
    fault = failed(
        ledger,
        lambda t: t.append("never", "x", {}),
        lambda _: pg.execute(END_SESSIONS),
        lambda t: t.append("never", "x", {}),
    )
    assert fault.facts["outcome"] == "not committed"
    note(ledger, "after")
    assert kinds(ledger) == ["after"]


def test_a_connection_that_is_lost_before_the_commit(pg, ledger):
    fault = failed(ledger, lambda t: t.append("never", "x", {}), lambda _: pg.execute(END_SESSIONS))
    assert fault.facts["outcome"] in ("unknown", "not committed")
    assert kinds(ledger) == []


@pytest.mark.parametrize("delivers", [True, False])
def test_a_commit_whose_reply_is_lost_is_unknown_and_read_again(pg, delivers):
    proxy = Proxy(pg.cluster.port)
    url = pg.cluster.url(pg.name, port=proxy.port)
    ledger = SqlLedger(open_database(server_address(url, "interlock")), ManualClock())
    note(ledger, "before")
    proxy.cut_at(b"COMMIT\0", delivers=delivers)
    fault = failed(ledger, lambda t: t.insert("step", "1", "done"), lambda t: t.append("step", "1", {}))
    assert proxy.cuts == 1
    assert fault.facts["outcome"] == "unknown"
    assert "is unknown" in fault.message
    assert "running again is safe" in fault.next_step
    direct = SqlLedger(open_database(server_address(pg.url, "interlock")), ManualClock())
    with direct.transaction():
        pass  # whoever holds the lock next knows how it ended
    assert (ledger.read("step", "1", str) == "done") == delivers
    try:
        with ledger.transaction() as t:
            t.insert("step", "1", "done")
            t.append("step", "1", {})
    except Conflict:
        assert delivers
    assert kinds(ledger) == ["before", "step"]  # once, whatever happened
    assert ledger.verify().broken_at is None
    for opened in (ledger, direct):
        opened.close()
    proxy.close()


@pytest.fixture
def between(pg, monkeypatch):
    """A proxy in front of the server, and a ledger through it that does not wait long for news."""
    proxy = Proxy(pg.cluster.port)
    url = pg.cluster.url(pg.name, port=proxy.port)
    ledger = SqlLedger(open_database(server_address(url, "interlock")), ManualClock())
    monkeypatch.setattr(postgres, "SILENCE_S", 1.0)
    monkeypatch.setattr(postgres, "CONNECT_TIMEOUT_S", 1.0)
    note(ledger, "before")
    yield proxy, ledger
    ledger.close()
    proxy.close()


def test_a_server_that_falls_silent_in_a_statement_is_given_up(between, ledger):
    proxy, far = between
    proxy.fall_silent_at(b"never", delivers=False)
    fault = failed(far, lambda t: t.append("never", "x", {}))
    assert "cannot be reached: it has said nothing for 1 s" in fault.message
    assert fault.facts["outcome"] == "not committed"
    assert kinds(ledger) == ["before"]


@pytest.mark.parametrize("delivers", [True, False])
def test_a_server_that_falls_silent_in_a_commit_leaves_it_unknown(between, ledger, delivers):
    proxy, far = between
    proxy.fall_silent_at(b"COMMIT\0", delivers=delivers)
    fault = failed(far, lambda t: t.append("step", "1", {}))
    assert proxy.cuts == 1
    assert fault.facts["outcome"] == "unknown"
    note(ledger, "after")
    assert kinds(ledger) == ["before", *(["step"] if delivers else []), "after"]


def test_a_connection_that_fell_silent_between_transactions_is_replaced(between):
    proxy, far = between
    proxy.fall_silent()
    note(far, "after")
    assert kinds(far) == ["before", "after"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_server_that_restarts(postgres: Cluster, pg: TestDatabase, ledger: SqlLedger, at_once: bool) -> None:
    note(ledger, "before")
    postgres.stop(at_once=at_once)
    try:
        for act in (lambda: note(ledger, "never"), ledger.events):
            with pytest.raises(StoreFault, match="cannot be reached") as caught:
                act()
            assert caught.value.facts["outcome"] == "not committed"
            assert str(postgres.port) in caught.value.message
    finally:
        postgres.start()
    note(ledger, "after")
    assert kinds(ledger) == ["before", "after"]
    assert ledger.verify().broken_at is None


def test_a_failed_statement_cannot_be_swallowed_and_committed(ledger):
    """Postgres answers COMMIT with success after rolling back; what was lost must be told."""

    def swallow(t: SqlTransaction) -> None:
        with pytest.raises(sa.exc.ProgrammingError):
            t._connection.exec_driver_sql("SELECT nothing FROM nowhere")

    fault = failed(ledger, lambda t: t.append("lost", "x", {}), swallow)
    assert "a statement of it had failed" in fault.message
    assert fault.facts["outcome"] == "not committed"
    assert kinds(ledger) == []


# ---- time --------------------------------------------------------------------------------------------------------


def test_leases_are_measured_by_the_clock_of_the_server(pg, database):
    clocks = [ManualClock(), ManualClock(datetime(2031, 1, 1, tzinfo=UTC))]  # two hosts, five years apart
    early, late = (SqlLedger(database, clock) for clock in clocks)
    fence = early.acquire("turn", ttl_s=60)
    with pytest.raises(LeaseHeld):
        late.acquire("turn", ttl_s=60)
    early.renew(fence, ttl_s=60)
    for clock in clocks:
        clock.advance(61)
    assert late.acquire("turn", ttl_s=60).number == 2
    (taken,) = pg.execute("SELECT abs(extract(epoch FROM now() - taken_at::timestamptz)) FROM leases")
    assert taken[0] < 100  # the server's time (and the minute that was advanced), not 2031


# ---- text --------------------------------------------------------------------------------------------------------


def test_order_is_by_code_point_also_where_the_locale_sorts_otherwise(postgres: Cluster) -> None:
    name = "in_english"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
    with database_of(postgres, name) as english:
        ledger = SqlLedger(open_database(server_address(english.url, "interlock")), ManualClock())
        keys = ["a", "B", "_", "é", "Z", "-", "e", "ab", "A b"]
        with ledger.transaction() as t:
            for key in keys:
                t.put("note", key, key)
        assert english.execute("SELECT 'a' < 'B'") == [(True,)]  # the locale does sort otherwise
        assert [key for key, _ in ledger.scan("note", str)] == sorted(keys)
        ledger.close()


def test_a_database_that_is_not_in_utf8_is_refused(postgres: Cluster) -> None:
    postgres.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    with pytest.raises(StoreFault, match="encoding LATIN1") as caught:
        open_database(server_address(postgres.url("latin"), "interlock"))
    assert "ENCODING 'UTF8'" in caught.value.next_step


# ---- who may -----------------------------------------------------------------------------------------------------


@pytest.fixture
def guest(pg):
    """URL of a role that may log in and nothing else."""
    pg.execute("CREATE ROLE guest LOGIN PASSWORD 'g'")
    yield pg.cluster.url(pg.name, user="guest", password="g")
    pg.execute("DROP OWNED BY guest")
    pg.execute("DROP ROLE guest")


@pytest.mark.parametrize(
    ("grants", "schema", "words"),
    [
        ([], "other", "may not be used so by this role"),
        ([], "interlock", "may not use its schema"),
        (["GRANT USAGE ON SCHEMA interlock TO guest"], "interlock", "may not be used so by this role"),
    ],
)
def test_what_a_role_may_not_do_is_told_with_the_next_step(pg, guest, grants, schema, words):
    for grant in grants:
        pg.execute(grant)
    with pytest.raises(StoreFault, match=words) as caught:
        open_database(server_address(guest, schema))
    assert "rights" in caught.value.next_step


def test_a_role_that_may_read_can_read(pg, guest, ledger):
    note(ledger, "there")
    for grant in ("USAGE ON SCHEMA interlock", "SELECT ON ALL TABLES IN SCHEMA interlock"):
        pg.execute(f"GRANT {grant} TO guest")
    reader = SqlLedger(open_database(server_address(guest, "interlock")), ManualClock())
    assert kinds(reader) == ["there"]
    with pytest.raises(StoreFault, match="may not be used so"):
        note(reader, "never")
    reader.close()


def test_a_role_may_be_given_a_schema_and_need_not_be_let_into_the_rest(pg, guest):
    pg.execute("CREATE SCHEMA own AUTHORIZATION guest")
    ledger = SqlLedger(open_database(server_address(guest, "own")), ManualClock())
    note(ledger, "mine")
    assert kinds(ledger) == ["mine"]
    ledger.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": "wrong-secret"}, "password authentication failed"),
        ({"user": "nobody"}, "cannot be reached"),
        ({"port": 1}, "refused"),
        ({"database": "absent"}, "does not exist"),
    ],
)
def test_who_is_not_let_in_is_told_why_without_the_password(pg, change, words):
    url = pg.cluster.url(**({"database": pg.name} | change))
    with pytest.raises(StoreFault, match=words) as caught:
        open_database(server_address(url, "interlock"))
    told = f"{caught.value} {caught.value.facts} {caught.value.__cause__!r}"
    for secret in (PASSWORD, "wrong-secret", url):
        assert secret not in told
    assert "store.state" in caught.value.next_step


def test_the_driver_is_named_when_it_is_missing(pg, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match="psycopg is not installed") as caught:
        open_database(server_address(pg.url, "interlock"))
    assert "pip install 'interlock[postgres]'" in caught.value.next_step


def test_the_driver_is_imported_for_postgres_only(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from interlock.app import open_parts\n"
        "from interlock.store.schema import open_database; open_database(Path(sys.argv[1])).dispose()\n"
        "assert not {'psycopg', 'interlock.store.postgres', 'sqlalchemy.dialects.postgresql'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "state.db")], check=True, timeout=60, env=os.environ)


# ---- words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "words", "certain"),
    [
        ("08006", "cannot be reached any more", False),
        ("08007", "cannot be reached any more", False),
        ("22021", "refused a value", True),
        ("25006", "replica or read-only", True),
        ("25P03", "idle for too long", True),
        ("28P01", "refused the login", False),
        ("3D000", "does not exist", False),
        ("3F000", "no such schema", False),
        ("40001", "in the same moment", True),
        ("40003", "in the same moment", False),
        ("40P01", "in the same moment", True),
        ("42501", "may not be used so", True),
        ("42P01", "lacks a table", True),
        ("53100", "disk of the server is full", True),
        ("53200", "too few resources", True),
        ("53300", "no free connection", True),
        ("55P03", "locked by another process", True),
        ("57014", "took longer than", True),
        ("57P01", "stopping or starting", False),
        ("57P02", "stopping or starting", False),
        ("57P03", "stopping or starting", False),
        ("58030", "error of its system", False),
        ("XX001", "is corrupt", False),
        ("0A000", "failed: text of the server", False),
    ],
)
def test_every_state_is_told_in_words(state, words, certain):
    original = psycopg.errors.lookup(state)("text of the server\nDETAIL: secret")
    error = sa.exc.DBAPIError("INSERT secret", {"secret": 1}, original)
    server = postgres.Postgres()
    address = server_address("postgresql://u:secret@h/db", "interlock")
    told = dialect.fault(error, server, address)
    assert words in told.message
    assert told.next_step
    assert state in told.facts["cause"]
    assert "secret" not in f"{told} {told.facts}"
    assert server.surely_not_committed(error) == certain
    assert not Database(sa.create_engine("sqlite://"), server, address).fault(error).facts["path"].count("secret")
