import contextlib
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from infra.postgres import TestDatabase
from interlock.errors import StoreFault
from interlock.store import dialect, schema
from interlock.store.address import Address, file_address, server_address
from interlock.store.dialect import Database


def shape(path: Path) -> list[tuple[object, ...]]:
    """Tables, columns and indexes as SQLite itself sees them, whatever the spelling of the statements."""
    with sqlite3.connect(path) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type='table' ORDER BY 1").fetchall()
        found: list[tuple[object, ...]] = []
        for (table,) in tables:
            (listed,) = connection.execute(
                "SELECT type, ncol, wr, strict FROM pragma_table_list WHERE name=?", (table,)
            ).fetchall()
            found.append((table, listed))
            found += [(table, *row) for row in connection.execute("SELECT * FROM pragma_table_info(?)", (table,))]
            for index in connection.execute(
                'SELECT name, "unique", origin FROM pragma_index_list(?) ORDER BY name', (table,)
            ).fetchall():
                columns = connection.execute("SELECT name FROM pragma_index_info(?)", (index[0],)).fetchall()
                found.append((table, index, columns))
        found += connection.execute("SELECT * FROM alembic_version").fetchall()
    connection.close()
    return found


def test_direct_creation_and_migration_give_the_same_schema(tmp_path: Path) -> None:
    direct, migrated = tmp_path / "direct.db", tmp_path / "migrated.db"
    schema.open_database(direct).dispose()
    database = schema.connect(file_address(migrated))
    with database.engine.connect() as connection, connection.begin():
        schema.migrate(connection)
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    database.dispose()
    assert shape(direct) == shape(migrated)
    assert len(shape(direct)) > 20


def test_the_revision_in_the_program_is_the_head_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_current_head() == schema.REVISION == schema.KNOWN_REVISIONS[-1]
    assert sorted(script.revision for script in scripts.walk_revisions()) == sorted(schema.KNOWN_REVISIONS)


def test_an_older_database_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    engine = schema.connect(file_address(path)).engine
    with engine.connect() as connection, connection.begin():
        schema.create_directly(connection)
        connection.execute(schema.revisions.update().values(version_num="0000"))
    engine.dispose()
    monkeypatch.setattr(schema, "KNOWN_REVISIONS", ("0000", "0001"))
    moved: list[sa.Connection] = []
    monkeypatch.setattr(schema, "migrate", moved.append)
    schema.open_database(path).dispose()
    assert len(moved) == 1


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = schema.connect(file_address(tmp_path / "state.db")).engine
    with contextlib.suppress(ZeroDivisionError), engine.connect() as connection, connection.begin():
        schema.migrate(connection)
        assert "events" in sa.inspect(connection).get_table_names()
        raise ZeroDivisionError
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == []
    engine.dispose()


def test_the_file_survives_power_loss_by_its_settings(tmp_path: Path) -> None:
    engine = schema.open_database(tmp_path / "deep" / "er" / "state.db").engine
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == dialect.BUSY_TIMEOUT_S * 1000
    engine.dispose()


def test_writers_take_the_lock_when_they_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect, "BUSY_TIMEOUT_S", 0.0)
    database = schema.open_database(tmp_path / "state.db")
    engine = database.engine
    writer = engine.execution_options(**{dialect.WRITES: True})
    with writer.connect() as first, first.begin():
        with pytest.raises(StoreFault, match="locked"), database.faults(), writer.connect() as second:
            second.begin()
        with engine.connect() as reader:
            assert reader.execute(sa.select(sa.func.count()).select_from(schema.events)).scalar() == 0
    engine.dispose()


def test_alembic_is_imported_only_when_behind(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from interlock.store.schema import open_database\n"
        "for _ in range(2): open_database(Path(sys.argv[1])).dispose()\n"
        "assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "state.db")], check=True, timeout=60)


# ---- what cannot be opened ---------------------------------------------------------------------------------------


def refused(path: Path) -> StoreFault:
    with pytest.raises(StoreFault) as caught:
        schema.open_database(path)
    assert caught.value.next_step
    assert caught.value.facts["path"] == str(path)
    return caught.value


def test_a_newer_database(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    engine = schema.open_database(path).engine
    with engine.connect() as connection, connection.begin():
        connection.execute(schema.revisions.update().values(version_num="9999"))
    engine.dispose()
    error = refused(path)
    assert error.facts["revision"] == "9999"
    assert "newer" in error.next_step


def test_somebody_elses_database(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    assert "not one of Interlock's" in refused(path).message


def test_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"hello, this is text\n" * 400)
    assert refused(path).facts["cause"] == "SQLITE_NOTADB"


def test_a_corrupt_database(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    schema.open_database(path).dispose()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    assert "corrupt" in refused(path).message


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.mkdir()
    assert "cannot be opened" in refused(path).message


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    error = refused(tmp_path / "file" / "state.db")
    assert "cannot be created" in error.message


def test_a_locked_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    monkeypatch.setattr(dialect, "BUSY_TIMEOUT_S", 0.0)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    assert "locked" in refused(path).message
    connection.execute("ROLLBACK")
    connection.close()


def test_many_may_create_it_at_once(tmp_path: Path) -> None:
    start = threading.Barrier(4)
    failures: list[StoreFault] = []

    def create() -> None:
        start.wait()
        try:
            schema.open_database(tmp_path / "new" / "state.db").dispose()
        except StoreFault as error:
            failures.append(error)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    schema.open_database(tmp_path / "new" / "state.db").dispose()


# ---- on a server -------------------------------------------------------------------------------------------------

CATALOGUE = (
    (
        "SELECT table_name, column_name, ordinal_position, data_type, collation_name, is_nullable, column_default, "
        "character_maximum_length FROM information_schema.columns WHERE table_schema = 'interlock' ORDER BY 1, 2"
    ),
    "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'interlock' ORDER BY 1, 2",
    (
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'interlock'::regnamespace ORDER BY 1, 2"
    ),
    "SELECT version_num FROM alembic_version",
)


def server_shape(pg: TestDatabase) -> list[object]:
    """Columns, indexes, constraints and the stamp as the server sees them."""
    return [pg.execute(query) for query in CATALOGUE]


def address_of(pg: TestDatabase) -> Address:
    return server_address(pg.url, "interlock")


def migrated(database: Database, revision: str) -> None:
    writer = database.engine.execution_options(**{dialect.WRITES: True})
    with writer.connect() as connection, connection.begin():
        database.dialect.prepare(connection, database.address)
        schema.migrate(connection, revision)


@pytest.mark.parametrize("revision", schema.KNOWN_REVISIONS)
def test_every_earlier_revision_is_brought_to_the_same_schema_on_both(
    pg: TestDatabase, empty_pg: TestDatabase, tmp_path: Path, revision: str
) -> None:
    old = schema.connect(address_of(empty_pg))
    migrated(old, revision)
    old.dispose()
    opened = schema.open_database(address_of(empty_pg))
    with opened.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    opened.dispose()
    assert server_shape(empty_pg) == server_shape(pg)
    assert {row[4] for row in server_shape(pg)[0] if row[3] == "text"} == {"C"}  # type: ignore[index, attr-defined]

    direct, older = tmp_path / "direct.db", tmp_path / "older.db"
    schema.open_database(direct).dispose()
    old = schema.connect(file_address(older))
    migrated(old, revision)
    old.dispose()
    schema.open_database(older).dispose()
    assert shape(direct) == shape(older)


def test_a_migration_that_dies_leaves_the_old_schema_on_a_server(empty_pg: TestDatabase) -> None:
    database = schema.connect(address_of(empty_pg))
    writer = database.engine.execution_options(**{dialect.WRITES: True})
    with contextlib.suppress(StoreFault), database.faults(), writer.connect() as connection, connection.begin():
        database.dialect.prepare(connection, database.address)
        schema.migrate(connection)
        assert "events" in database.dialect.inspect(connection, database.address)
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")  # the session dies in the middle
    assert empty_pg.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'interlock'") == [(0,)]
    database.dispose()
    schema.open_database(address_of(empty_pg)).dispose()
    assert empty_pg.execute("SELECT version_num FROM alembic_version") == [(schema.REVISION,)]


def test_a_newer_database_on_a_server(pg: TestDatabase) -> None:
    pg.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreFault, match="schema revision 9999") as caught:
        schema.open_database(address_of(pg))
    assert "newer" in caught.value.next_step
    assert caught.value.facts["path"] == address_of(pg).name


@pytest.mark.parametrize("table", ["theirs (x int)", "alembic_version (version_num text)", "events (x int)"])
def test_somebody_elses_schema_is_left_alone(empty_pg: TestDatabase, table: str) -> None:
    empty_pg.execute("CREATE SCHEMA interlock")
    empty_pg.execute(f"CREATE TABLE {table}")
    with pytest.raises(StoreFault, match="not one of Interlock's") as caught:
        schema.open_database(address_of(empty_pg))
    assert "store.schema" in caught.value.next_step
    assert len(empty_pg.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'interlock'")) == 1


def test_other_tables_of_the_database_do_not_matter(empty_pg: TestDatabase) -> None:
    empty_pg.execute("CREATE TABLE public.alembic_version (version_num text)")
    empty_pg.execute("CREATE TABLE public.events (x int)")
    schema.open_database(address_of(empty_pg)).dispose()
    assert empty_pg.execute("SELECT count(*) FROM public.alembic_version") == [(0,)]
    assert empty_pg.execute("SELECT version_num FROM alembic_version") == [(schema.REVISION,)]


def test_two_programs_may_start_at_once_on_an_empty_server(empty_pg: TestDatabase) -> None:
    code = (
        "import sys; from interlock.store.address import server_address\n"
        "from interlock.store.schema import open_database\n"
        "address = server_address(sys.argv[1], 'interlock'); print('ready', flush=True); sys.stdin.readline()\n"
        "open_database(address).dispose(); print('done')"
    )
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code, empty_pg.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for program in programs:
        assert program.stdout is not None
        program.stdout.readline()
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("go\n")
        program.stdin.flush()
    assert [program.communicate(timeout=60)[0] for program in programs] == ["done\n"] * 3
    assert empty_pg.execute("SELECT version_num FROM alembic_version") == [(schema.REVISION,)]
