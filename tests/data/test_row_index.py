from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from interlock.data import dedupe as dedupe_module
from interlock.data import row_index as module
from interlock.data.dedupe import OnDuplicate, dedupe, dedupe_large
from interlock.data.row_index import ENTRY, RowIndex, entries, sorting
from interlock.data.spool import Spool
from interlock.records import FileResult

SCHEMA = {"k": pl.Int64(), "w": pl.Float64(), "v": pl.String()}
LINEAGE = {"_seq": pl.Int64(), "_row": pl.Int64()}
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
# no NaN: a number that is not finite is a bad cell, and such a row never comes here (joins and hashes differ on it)
rows = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.5])),
        st.one_of(st.none(), st.sampled_from(["", "a", "b"])),
    ),
    max_size=6,
)


def framed(values: list[tuple[Any, ...]]) -> pl.DataFrame:
    frame = pl.DataFrame(values, schema=SCHEMA, orient="row").with_row_index("_row", offset=1)
    return frame.with_columns(pl.col("_row").cast(pl.Int64))


def accepted(sequence: int, count: int) -> FileResult:
    return FileResult(
        source="s", name="f", digest=f"{sequence}-{count}", size_bytes=1, status="accepted", accepted=count,
        sequence=sequence,
    )  # fmt: skip


def indexed(folder: Path, files: list[FileResult], key: list[str]) -> RowIndex:
    return RowIndex(folder=folder, key=tuple(key), schema=SCHEMA, files=tuple(files))


@same_folder
@given(
    st.lists(rows, max_size=5),
    st.sampled_from([[], ["k"], ["k", "v"], ["w"]]),
    st.sampled_from(["keep-last", "keep-first"]),
    st.sampled_from(["kept", "lost", "merged"]),
    st.sampled_from([1, 3, 2**21]),
)
def test_comparing_and_hashing_find_the_same_duplicates(
    tmp_path: Path, batches: list[list[tuple[Any, ...]]], key: list[str], policy: OnDuplicate, cache: str, at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MERGE_FILES", 1 if cache == "merged" else 24)
        patch.setattr(dedupe_module, "_PART_ROWS", at_once)
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        table = pl.DataFrame(schema={**SCHEMA, **LINEAGE})
        files: list[FileResult] = []
        for sequence, batch in enumerate(batches):
            frame = framed(batch)
            kept = dedupe(frame, table.lazy(), key=key, on_duplicate=policy, values=list(SCHEMA))
            spool = Spool(folder, "rows", budget_bytes=100)
            for start in range(0, max(frame.height, 1), 2):
                spool.add(frame.slice(start, 2))
            index = indexed(folder / "index", files, key)
            large = dedupe_large(spool, table.lazy(), key=key, on_duplicate=policy, values=list(SCHEMA), index=index)
            assert (large.duplicates, large.updated) == (kept.duplicates, kept.updated)
            assert_frame_equal(spool.lazy().collect(), kept.rows)
            new = kept.rows.select(*SCHEMA, pl.lit(sequence, pl.Int64).alias("_seq"), "_row")
            table = pl.concat([table, new])
            if new.height:
                result = accepted(sequence, new.height)
                if cache != "lost":
                    index.add(result, large.entries.frames())
                files.append(result)


@given(
    st.lists(st.one_of(st.integers(0, 9), st.integers(2**64 - 9, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=40)
)
def test_hashes_are_sorted(values: list[int]) -> None:
    hashes = np.array(values, dtype=np.uint64)
    order = sorting(hashes)
    assert sorted(order.tolist()) == list(range(len(values)))
    assert hashes[order].tolist() == sorted(values)


def stored(count: int) -> tuple[pl.LazyFrame, np.ndarray[Any, Any]]:
    frame = pl.DataFrame({"k": range(count), "w": 0.5, "v": "x", "_seq": 0, "_row": range(count)})
    hashed = frame.select(entries(["k"], list(SCHEMA)))
    return frame.lazy(), np.stack([hashed[name].to_numpy() for name in ENTRY])


@pytest.mark.parametrize("place", [0, 40, 8_100, -1])
def test_a_damaged_file_is_never_believed_and_made_again(tmp_path: Path, place: int) -> None:
    table, entered = stored(1_000)
    index = indexed(tmp_path, [accepted(0, 1_000)], ["k"])
    order = np.argsort(entered[0])
    assert index.find(table, entered, order).same.all()
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        index.find(table, entered, order)
    assert index.find(table, entered, order).same.all()


def test_a_table_without_the_rows_of_the_ledger_is_noticed(tmp_path: Path) -> None:
    table, entered = stored(10)
    with pytest.raises(ValueError, match="bytes and not"):
        indexed(tmp_path, [accepted(0, 11)], ["k"]).find(table, entered, np.argsort(entered[0]))


def test_another_key_or_type_is_another_index(tmp_path: Path) -> None:
    table, entered = stored(10)
    files = [accepted(0, 10)]
    order = np.argsort(entered[0])
    indexed(tmp_path, files, ["k"]).find(table, entered, order)
    first = {path.name for path in tmp_path.iterdir()}
    assert not indexed(tmp_path, files, ["v"]).find(table, entered, order).there.any()
    second = {path.name for path in tmp_path.iterdir()}
    assert first.isdisjoint(second)  # what nobody asks for any more is swept
    assert len(second) == 1


def test_many_blocks_are_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_ROWS", 7)
    table, entered = stored(50)
    index = indexed(tmp_path, [accepted(0, 50)], ["k"])
    asked = np.concatenate([entered[:, ::3], entered[:, :5] + np.uint64(1)], axis=1)
    found = index.find(table, asked, np.argsort(asked[0]))
    assert found.same.tolist() == [True] * 17 + [False] * 5
    assert found.there.tolist() == found.same.tolist()
