from pathlib import Path

import pytest

from e2e.small_project import make_project
from infra.postgres import PASSWORD, TestDatabase
from interlock.cli.context import Invocation
from interlock.cli.examine import Finding, examine


def looked(project: Path, url: str) -> list[Finding]:
    """What doctor says about the state and the ledger."""
    found = examine(Invocation(project=project, overrides=[f"store.state={url}"]))
    assert PASSWORD not in "\n".join(found.lines())
    return [finding for finding in found.findings if finding.name in ("state", "ledger", "memory")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


def test_a_good_server_is_named_without_credentials(project: Path, pg: TestDatabase) -> None:
    state, fsync, ledger = looked(project, pg.url)
    assert state.state == "good"
    assert state.fact.startswith(f"postgresql://127.0.0.1:{pg.cluster.port}/{pg.name}, schema interlock, Postgres ")
    assert (fsync.state, fsync.fact) == ("note", "the server runs with fsync off")
    assert (ledger.state, ledger.fact) == ("good", "0 entries, the chain holds")


def test_an_empty_database_is_told_and_left_empty(project: Path, empty_pg: TestDatabase) -> None:
    *_, ledger = looked(project, empty_pg.url)
    assert (ledger.state, ledger.fact) == ("note", "no turn was run yet")
    assert empty_pg.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'interlock'") == [(0,)]


def test_what_would_stop_a_turn_is_bad(project: Path, pg: TestDatabase) -> None:
    pg.execute(f'ALTER DATABASE "{pg.name}" SET default_transaction_read_only = on')
    bad = [finding for finding in looked(project, pg.url) if finding.state == "bad"]
    assert [finding.fact for finding in bad] == ["the server is a replica or read-only"]
    (gone,) = looked(project, pg.cluster.url("absent"))
    assert (gone.state, gone.name) == ("bad", "memory")
    assert 'database "absent" does not exist' in gone.fact


def test_rights_that_are_missing_are_bad(project: Path, empty_pg: TestDatabase) -> None:
    empty_pg.execute("CREATE ROLE alien LOGIN PASSWORD 'a'")
    url = empty_pg.cluster.url(empty_pg.name, user="alien", password="a")
    bad = [finding.fact for finding in looked(project, url) if finding.state == "bad"]
    empty_pg.execute("DROP ROLE alien")
    assert bad == ["this role may not create the tables in schema interlock"]
