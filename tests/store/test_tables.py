import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import deltalake
import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable

from interlock.errors import StoreFault
from interlock.store import tables as module
from interlock.store.delta_log import table_faults
from interlock.store.disk import TEMPORARY
from interlock.store.table_files import FolderFiles
from interlock.store.tables import DeltaTables
from interlock.testing.clock import ManualClock
from interlock.testing.conformance import TablesConformance

NAIVE = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
ROWS = pl.DataFrame({"a": [1, 2], "b": ["x", None]})


class TestDeltaTables(TablesConformance):
    def open(self, folder: Path) -> DeltaTables:
        return DeltaTables(folder / "a folder with # and ü")


@pytest.fixture
def tables(tmp_path):
    return DeltaTables(tmp_path)


def log(folder: Path) -> Path:
    return folder / "_delta_log"


# ---- durability --------------------------------------------------------------------------------------------------


def test_rows_are_durable_before_the_log_names_them_and_the_log_before_append_returns(tables, tmp_path, monkeypatch):
    steps = []
    real_sync = os.fsync

    def sync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append((path.relative_to(tmp_path).as_posix(), FolderFiles(tmp_path / "t").newest()))
        real_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    tables.append("t", ROWS, commit_key="1", facts={})
    tables.append("t", ROWS, commit_key="2", facts={})
    first, second = sorted(path.name for path in (tmp_path / "t").glob("*.parquet"))
    entry = "t/_delta_log/0000000000000000000{}.json"
    assert steps == [
        (".", None),  # the name of the table's folder
        (f"t/{first}", None),
        ("t", None),
        (entry.format(0), 0),
        ("t/_delta_log", 0),
        ("t", 0),
        (f"t/{second}", 0),
        ("t", 0),
        (entry.format(1), 1),
        ("t/_delta_log", 1),
        ("t", 1),
    ]
    steps.clear()
    tables.append("t", ROWS, commit_key="2", facts={})  # a retry: whoever wrote it may have died before it was durable
    assert [name for name, _ in steps] == [entry.format(1), "t/_delta_log", "t"]


# ---- others read it ----------------------------------------------------------------------------------------------


def test_others_read_the_table(tables, tmp_path):
    tables.append("t", ROWS, commit_key="1", facts={})
    tables.append("t", ROWS.with_columns(at=pl.lit(NAIVE)), commit_key="2", facts={})
    tables.replace("t", tables.scan("t").with_columns(pl.col("a").cast(pl.Float64)), commit_key="3", facts={})
    theirs = DeltaTable(str(tmp_path / "t"))
    assert theirs.version() == tables.version("t")
    assert theirs.schema().to_arrow().field("a").type.bit_width == 64
    assert theirs.to_pyarrow_table().num_rows == 4
    assert set(theirs.protocol().reader_features) == {"timestampNtz"}
    files = tables.paths("t")
    assert duckdb.sql("select sum(a) from read_parquet($files)", params={"files": files}).fetchall() == [(6.0,)]


def test_commits_of_others_are_seen(tables, tmp_path):
    tables.append("t", ROWS, commit_key="1", facts={})
    deltalake.write_deltalake(str(tmp_path / "t"), ROWS, mode="append")
    commit = tables.append("t", ROWS, commit_key="2", facts={})
    assert commit.version == 2
    assert tables.committed("t", "2") == commit
    assert tables.scan("t").collect().height == 6


# ---- types -------------------------------------------------------------------------------------------------------


def test_types_that_delta_lacks_become_those_it_has(tables):
    rows = pl.DataFrame({"u": [1], "c": ["x"], "n": [NAIVE], "z": [datetime(2026, 1, 1, tzinfo=UTC)]})
    rows = rows.with_columns(
        pl.col("u").cast(pl.UInt64),
        pl.col("c").cast(pl.Categorical),
        pl.col("n").dt.cast_time_unit("ns"),
        pl.col("z").dt.convert_time_zone("Asia/Tokyo"),
    )
    tables.append("t", rows, commit_key="1", facts={})
    found = tables.scan("t").collect()
    assert found.schema == {"u": pl.Int64, "c": pl.String, "n": pl.Datetime("us"), "z": pl.Datetime("us", "UTC")}
    assert found.row(0) == (1, "x", NAIVE, datetime(2026, 1, 1, tzinfo=UTC))


def test_smaller_numbers_fit_and_nothing_else(tables):
    tables.append("t", pl.DataFrame({"i": [2**40], "f": [0.5]}), commit_key="1", facts={})
    small = pl.DataFrame({"i": [1], "f": [1.5]}, schema={"i": pl.Int8, "f": pl.Float32})
    tables.append("t", small, commit_key="2", facts={})
    assert tables.scan("t").collect().rows() == [(2**40, 0.5), (1, 1.5)]
    for other in ({"i": [0.5], "f": [0.5]}, {"i": ["1"], "f": [0.5]}, {"i": [1], "f": [1]}):
        with pytest.raises(StoreFault, match=r"is (Int64|Float64), and these rows have"):
            tables.append("t", pl.DataFrame(other), commit_key="3", facts={})


@pytest.mark.parametrize("dtype", [pl.Null, pl.Time, pl.Duration, pl.Int128])
def test_types_that_no_table_can_hold_are_refused(tables, dtype):
    with pytest.raises(StoreFault, match="Column 'odd' of table 't' has type"):
        tables.append("t", pl.DataFrame({"odd": pl.Series([None], dtype=dtype)}), commit_key="1", facts={})
    assert tables.version("t") is None


def test_a_number_too_large_is_refused(tables):
    with pytest.raises(StoreFault):
        tables.append("t", pl.DataFrame({"u": pl.Series([2**63], dtype=pl.UInt64)}), commit_key="1", facts={})
    assert tables.version("t") is None


# ---- many writers ------------------------------------------------------------------------------------------------


def test_writers_of_several_processes_lose_no_row(tmp_path):
    start = threading.Barrier(3)
    failures = []

    def write(name):
        own = DeltaTables(tmp_path)  # as another process would: nothing shared but the disk
        start.wait()
        try:
            for number in range(4):
                own.append("t", pl.DataFrame({"a": [f"{name}{number}"]}), commit_key=f"{name}{number}", facts={})
        except StoreFault as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    tables = DeltaTables(tmp_path)
    assert sorted(tables.scan("t").collect()["a"]) == sorted(f"{name}{n}" for name in "xyz" for n in range(4))
    versions = set()
    for name in "xyz":
        for number in range(4):
            commit = tables.committed("t", f"{name}{number}")
            entry = (log(tmp_path / "t") / f"{commit.version:020d}.json").read_text()
            assert f'"appId":"{name}{number}"' in entry
            versions.add(commit.version)
    assert len(versions) == 12


def test_tries_are_counted(tables, tmp_path, monkeypatch):
    tables.append("t", ROWS, commit_key="1", facts={})
    monkeypatch.setattr(module, "_try_commit", lambda *_args, **_more: None)
    with pytest.raises(StoreFault, match="changed by others 12 times"):
        tables.append("t", ROWS, commit_key="2", facts={})
    assert len(list((tmp_path / "t").glob("*.parquet"))) == 2  # written once, not once a try


# ---- upkeep ------------------------------------------------------------------------------------------------------


def test_upkeep_checkpoints_and_compacts(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHECKPOINT_COMMITS", 5)
    monkeypatch.setattr(module, "_COMPACT_FILES", 8)
    for number in range(9):
        tables.append("t", pl.DataFrame({"a": [number]}), commit_key=f"{number}", facts={"n": number})
    assert FolderFiles(tmp_path / "t").checkpointed() >= 4
    assert len(tables.paths("t")) == 9
    tables.maintain("t")
    assert len(tables.paths("t")) == 1
    assert len(tables.paths("t", 8)) == 9
    fresh = DeltaTables(tmp_path)
    assert sorted(fresh.scan("t").collect()["a"]) == list(range(9))
    assert fresh.scan("t", 3).collect().height == 4
    for number in range(9):
        assert fresh.committed("t", f"{number}").facts == {"n": number}
    entries = sorted(path.name for path in log(tmp_path / "t").glob("*.json"))
    assert len(entries) == tables.version("t") + 1  # nothing is cleaned up: old versions stay


def test_leftovers_of_a_killed_writer_are_swept_and_nothing_else(tmp_path):
    now = datetime.now(UTC)
    clock = ManualClock(now)
    tables = DeltaTables(tmp_path, clock)
    tables.append("t", ROWS, commit_key="1", facts={})
    tables.replace("t", ROWS.lazy(), commit_key="2", facts={})
    folder = tmp_path / "t"
    kept = {path.name for path in folder.rglob("*") if path.is_file()}
    leftovers = [
        folder / "part-00000000000000000009-dead.parquet",
        folder / f"{TEMPORARY}dead",
        folder / "part.parquet#1",
        log(folder) / "_commit_dead.json.tmp",
        log(folder) / "00000000000000000002.json#1",
    ]
    for path in leftovers:
        path.write_bytes(b"half")
    (folder / "notes.txt").write_text("somebody's")
    tables.maintain("t")
    assert all(path.exists() for path in leftovers)  # young: their writer may live
    clock.advance(timedelta(days=1, minutes=5).total_seconds())
    tables.maintain("t")
    assert {path.name for path in folder.rglob("*") if path.is_file()} == kept | {"notes.txt"}
    assert tables.scan("t", 0).collect().equals(ROWS)


# ---- faults ------------------------------------------------------------------------------------------------------


def test_a_torn_log_entry_is_a_fault_that_names_the_table(tables, tmp_path):
    tables.append("t", ROWS, commit_key="1", facts={})
    (log(tmp_path / "t") / f"{1:020d}.json").write_text('{"commitInfo":{"time')
    with pytest.raises(StoreFault) as caught:
        DeltaTables(tmp_path).append("t", ROWS, commit_key="2", facts={})
    assert caught.value.facts["path"] == str(tmp_path / "t")


def test_a_percent_sign_in_the_path_is_refused(tmp_path):
    with pytest.raises(StoreFault, match="'%'"):
        DeltaTables(tmp_path / "a%20b")


@pytest.mark.parametrize(
    "error",
    [
        deltalake.exceptions.DeltaError("x"),
        deltalake.exceptions.DeltaProtocolError("x"),
        deltalake.exceptions.CommitFailedError("x"),
        deltalake.exceptions.SchemaMismatchError("x"),
        deltalake.exceptions.TableNotFoundError("x"),
        pl.exceptions.ComputeError("first\nsecond"),
        pl.exceptions.SchemaError("x"),
        json.JSONDecodeError("x", "", 0),
        OSError(28, "No space left on device"),
    ],
)
def test_foreign_errors_are_mapped(error):
    with pytest.raises(StoreFault) as caught, table_faults(FolderFiles(Path("/lake/t"))):
        raise error
    assert "second" not in caught.value.message
    assert caught.value.next_step


def test_our_own_mistakes_are_not_hidden():
    with pytest.raises(TypeError), table_faults(FolderFiles(Path("/lake/t"))):
        raise TypeError


def test_looking_needs_no_deltalake(tmp_path):
    code = (
        "import sys; from pathlib import Path; from interlock.store.tables import DeltaTables\n"
        "tables = DeltaTables(Path(sys.argv[1])); assert tables.version('t') is None\n"
        "assert tables.committed('t', 'k') is None; tables.maintain('t')\n"
        "assert not {'deltalake', 'pyarrow', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)


def test_writing_needs_neither_pyarrow_nor_pandas(tmp_path):
    code = (
        "import sys; from pathlib import Path; import polars as pl; from interlock.store.tables import DeltaTables\n"
        "tables, rows = DeltaTables(Path(sys.argv[1])), pl.DataFrame({'a': [1]})\n"
        "tables.append('t', rows, commit_key='k', facts={})\n"
        "tables.replace('t', rows.lazy(), commit_key='l', facts={})\n"
        "tables.scan('t').collect(); tables.maintain('t')\n"
        "assert not {'pyarrow', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
