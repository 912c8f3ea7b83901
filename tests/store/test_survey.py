import pytest

from infra.postgres import TestDatabase
from interlock.errors import StoreFault
from interlock.store.address import server_address
from interlock.store.schema import REVISION
from interlock.store.survey import Survey, survey


def look(database: TestDatabase, **change: str) -> Survey:
    return survey(server_address(database.cluster.url(database.name, **change), "interlock"))


@pytest.fixture
def guest(pg):
    pg.execute("CREATE ROLE visitor LOGIN PASSWORD 'v'")
    yield {"user": "visitor", "password": "v"}
    pg.execute("DROP OWNED BY visitor")
    pg.execute("DROP ROLE visitor")


def test_a_server_with_a_ledger(pg):
    found = look(pg)
    assert found.revision == REVISION
    assert found.version.split(".")[0].isdigit()
    assert (found.allowed, found.read_only, found.fsync) == (True, False, False)  # the tests run without fsync
    assert (found.encrypted, found.same_host, found.old) == (False, True, False)
    assert abs(found.lead_s) < 5
    assert 0 < found.round_trip_ms < 10_000


def test_an_empty_database_is_looked_at_and_left_empty(empty_pg):
    found = look(empty_pg)
    assert (found.revision, found.allowed) == (None, True)
    assert empty_pg.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'interlock'") == [(0,)]


def test_what_a_role_may(pg, guest):
    with pytest.raises(StoreFault, match="may not use its schema"):
        look(pg, **guest)
    pg.execute("GRANT USAGE ON SCHEMA interlock TO visitor")
    pg.execute("GRANT SELECT ON ALL TABLES IN SCHEMA interlock TO visitor")
    assert not look(pg, **guest).allowed
    pg.execute("GRANT INSERT, UPDATE ON documents, leases TO visitor")
    assert not look(pg, **guest).allowed
    pg.execute("GRANT INSERT ON events TO visitor")
    assert look(pg, **guest).allowed


def test_who_may_not_create_is_told_before_a_turn(empty_pg):
    empty_pg.execute("CREATE ROLE stranger LOGIN PASSWORD 's'")
    try:
        assert not look(empty_pg, user="stranger", password="s").allowed
        empty_pg.execute("CREATE SCHEMA interlock AUTHORIZATION stranger")
        assert look(empty_pg, user="stranger", password="s").allowed
    finally:
        empty_pg.execute("DROP SCHEMA interlock")
        empty_pg.execute("DROP ROLE stranger")


def test_a_server_that_only_reads(pg):
    pg.execute(f'ALTER DATABASE "{pg.name}" SET default_transaction_read_only = on')
    assert look(pg).read_only
