from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.data import dedupe as dedupe_module
from interlock.data.dedupe import OnDuplicate, dedupe, newest_rows, outdated, without_outdated

SCHEMA = {"k": pl.Int64, "v": pl.String}
files = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.one_of(st.none(), st.sampled_from("ab"))), max_size=6), max_size=5
)


def stored_after(batches: list[list[tuple[Any, ...]]], key: list[str], policy: OnDuplicate) -> pl.DataFrame:
    """What a table holds after files came one after the other."""
    table = pl.DataFrame(schema={**SCHEMA, "_seq": pl.Int64, "_row": pl.Int64})
    for sequence, rows in enumerate(batches):
        frame = pl.DataFrame(rows, schema=SCHEMA, orient="row").with_row_index("_row", offset=1)
        frame = frame.with_columns(pl.col("_row").cast(pl.Int64))
        kept = dedupe(frame, table.lazy(), key=key, on_duplicate=policy, values=["k", "v"])
        assert kept.rows.height + kept.duplicates == len(rows)
        assert kept.updated <= kept.rows.height
        table = pl.concat([table, kept.rows.select("k", "v", pl.lit(sequence, pl.Int64).alias("_seq"), "_row")])
    return table


@given(files)
def test_without_a_key_every_row_is_there_once(batches: list[list[tuple[Any, ...]]]) -> None:
    table = stored_after(batches, [], "keep-last")
    assert sorted(table.select("k", "v").rows(), key=repr) == sorted(
        {row for rows in batches for row in rows}, key=repr
    )


@given(files)
def test_keep_first_and_keep_last_keep_what_they_say(batches: list[list[tuple[Any, ...]]]) -> None:
    first: dict[int, Any] = {}
    last: dict[int, Any] = {}
    for row in (row for rows in batches for row in rows):
        first.setdefault(row[0], row[1])
        last[row[0]] = row[1]
    assert dict(stored_after(batches, ["k"], "keep-first").select("k", "v").rows()) == first
    table = stored_after(batches, ["k"], "keep-last")
    newest = newest_rows(table.lazy(), ["k"]).collect()
    assert newest.height == len(last)
    assert dict(newest.select("k", "v").rows()) == last


@given(files, st.sampled_from([["k"], ["v"], ["k", "v"]]), st.booleans(), st.integers(1, 4))
def test_what_is_outdated_is_what_is_not_newest(
    batches: list[list[tuple[Any, ...]]], key: list[str], first: bool, at_once: int
) -> None:
    table = pl.DataFrame(
        [(*row, seq, place) for seq, rows in enumerate(batches) for place, row in enumerate(rows, start=1)],
        schema={**{name: SCHEMA[name] for name in ("k", "v")}, "_seq": pl.Int64, "_row": pl.Int64},
        orient="row",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedupe_module, "_PART_ROWS", at_once)
        old = outdated(table.lazy(), key, first=first)
    left = without_outdated(table.lazy(), old).collect()
    newest = newest_rows(table.lazy(), key, first=first).collect()
    assert left.sort("_seq", "_row").rows() == newest.sort("_seq", "_row").rows()
    assert old.height == table.height - newest.height


@given(files)
def test_files_sent_again_change_nothing(batches: list[list[tuple[Any, ...]]]) -> None:
    for key, policy in (([], "keep-last"), (["k"], "keep-first")):
        once = stored_after(batches, key, policy)  # type: ignore[arg-type]
        assert stored_after([*batches, *batches], key, policy).height == once.height  # type: ignore[arg-type]


def test_an_equal_row_is_a_duplicate_and_another_an_update() -> None:
    stored = pl.DataFrame({"k": [1, 2, 2], "v": ["a", "b", None], "_seq": [0, 0, 1], "_row": [1, 2, 1]})
    frame = pl.DataFrame({"k": [1, 2, 3], "v": ["a", "b", "c"], "_row": [1, 2, 3]})
    kept = dedupe(frame, stored.lazy(), key=["k"], on_duplicate="keep-last", values=["k", "v"])
    assert (kept.duplicates, kept.updated, kept.rows["k"].to_list()) == (1, 1, [2, 3])


def test_oldest_rows_too() -> None:
    rows = pl.DataFrame({"k": [1, 1, 2], "v": ["old", "new", "x"], "_seq": [0, 1, 1], "_row": [9, 1, 2]}).lazy()
    assert newest_rows(rows, ["k"], first=True).collect()["v"].to_list() == ["old", "x"]
    assert newest_rows(rows, ["k"]).collect()["v"].to_list() == ["new", "x"]


@pytest.mark.parametrize("policy", ["keep-first", "keep-last", "refuse"])
def test_the_first_file_has_nothing_to_meet(policy: OnDuplicate) -> None:
    frame = pl.DataFrame({"k": [1, 1], "v": ["a", "b"], "_row": [1, 2]})
    kept = dedupe(frame, None, key=["k"], on_duplicate=policy, values=["k", "v"])
    assert (kept.rows["v"].to_list(), kept.duplicates) == (["b" if policy == "keep-last" else "a"], 1)
