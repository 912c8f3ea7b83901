"""What a power cut left in the log of a table is set aside; what was acknowledged is not."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from interlock.store.leftovers import ASIDE, set_aside_torn
from interlock.store.tables import DeltaTables

ROWS = pl.DataFrame({"a": [1, 2]})
MORE = pl.DataFrame({"a": [3]})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A table with an acknowledged commit, and one after it."""
    tables = DeltaTables(tmp_path)
    tables.append("t", ROWS, commit_key="1", facts={})
    tables.append("t", MORE, commit_key="2", facts={})
    return tmp_path / "t" / "_delta_log"


def entry(log: Path, version: int) -> Path:
    return log / f"{version:020d}.json"


@pytest.mark.parametrize("lines", [0, 0.5, 1, 1.5, 2, 2.5])
def test_an_entry_without_all_of_its_content_is_set_aside_and_committed_again(log: Path, lines: float) -> None:
    content = entry(log, 1).read_bytes()
    parts = content.splitlines(keepends=True)
    kept = b"".join(parts[: int(lines)])
    if lines % 1:
        kept += parts[int(lines)][:20]
    entry(log, 1).write_bytes(kept)
    tables = DeltaTables(log.parents[1])
    assert tables.committed("t", "2") is None
    assert tables.version("t") == 0
    assert tables.scan("t").collect().equals(ROWS)
    assert (log / f"{ASIDE}{entry(log, 1).name}").read_bytes() == kept
    assert tables.append("t", MORE, commit_key="2", facts={}).version == 1
    assert DeltaTables(log.parents[1]).scan("t").collect()["a"].to_list() == [1, 2, 3]


def test_the_first_entry_too(log: Path) -> None:
    entry(log, 1).unlink()
    entry(log, 0).write_bytes(b"")
    tables = DeltaTables(log.parents[1])
    assert tables.version("t") is None
    tables.append("t", ROWS, commit_key="1", facts={})
    assert tables.scan("t").collect().equals(ROWS)


def test_whole_entries_stay_those_of_others_too(log: Path) -> None:
    entry(log, 2).write_text('{"commitInfo":{"operation":"OPTIMIZE"}}\n')
    assert set_aside_torn(log.parent) == []
    assert sorted(path.name for path in log.iterdir()) == [entry(log, version).name for version in range(3)]


def test_a_checkpoint_without_its_content_is_set_aside_with_what_points_to_it(log: Path) -> None:
    from deltalake import DeltaTable

    DeltaTable(str(log.parent)).create_checkpoint()
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    for content in (b"", checkpoint.read_bytes()[:200]):
        copy = shutil.copytree(log.parents[1], log.parents[1].parent / f"copy-{len(content)}")
        (copy / "t" / "_delta_log" / checkpoint.name).write_bytes(content)
        tables = DeltaTables(copy)
        assert tables.scan("t").collect()["a"].to_list() == [1, 2, 3]
        assert not (copy / "t" / "_delta_log" / "_last_checkpoint").exists()
    assert DeltaTables(log.parents[1]).version("t") == 1
    assert (log / "_last_checkpoint").exists()


def test_no_table_is_no_trouble(tmp_path: Path) -> None:
    assert set_aside_torn(tmp_path / "none") == []
