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

from interlock.errors import StoreFault
from interlock.store import dialect, schema
from interlock.store.address import file_address


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
