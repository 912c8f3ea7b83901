import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from interlock.data import slices as module
from interlock.data.casting import infer_text
from interlock.data.readers import Reading, Unreadable, read_file, told_empty
from interlock.data.slices import Widened, join_kinds, open_slices
from interlock.records import Column

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def known(**types: str) -> list[Column]:
    return [Column(name=name, type=kind, nullable=True) for name, kind in types.items()]  # type: ignore[arg-type]


def in_slices(path: Path, name: str, size: int, columns: Sequence[Column] | None) -> list[Reading]:
    """All readings of a file, from the start again where a slice says so."""
    with open_slices(path, name=name, columns=columns, scratch=path.parent, slice_bytes=size) as found:
        widened: frozenset[str] = frozenset()
        while True:
            try:
                return list(found.readings(widened))
            except Widened as more:
                widened |= more.columns


def both_ways(path: Path, name: str, size: int, columns: Sequence[Column] | None) -> None:
    """Slices hold what one reading of the whole file holds, or are refused for the same reason.

    Of a file that is ragged and badly quoted, either may be told: a slice ends where the whole file goes on.
    """
    refused, whole = None, None
    try:
        whole = told_empty(read_file(path, name=name, columns=columns))
    except Unreadable as error:
        refused = error.message
    if whole is None:
        with pytest.raises(Unreadable) as caught:
            in_slices(path, name, size, columns)
        told = {each.replace("is malformed CSV", "; its header has") for each in (caught.value.message, str(refused))}
        assert len(told) == 1 or all("; its header has" in each for each in told), told
        return
    parts = in_slices(path, name, size, columns)
    assert_frame_equal(pl.concat([part.frame for part in parts]), whole.frame)
    bad = pl.concat([part.bad for part in parts])
    order = ["row", "column"]
    assert_frame_equal(bad.sort(order), whole.bad.sort(order))
    raw = pl.concat([part.raw for part in parts])
    assert raw["row"].sort().to_list() == whole.raw["row"].sort().to_list()
    assert sum(part.rows for part in parts) == whole.rows
    for part in parts:
        assert (part.columns, part.missing, part.extra) == (whole.columns, whole.missing, whole.extra)
    assert set().union(*(part.widened for part in parts)) == set(whole.widened)
    if len(parts) > 1:
        filled = {name for name in whole.frame.columns if whole.frame[name].null_count() < whole.frame.height}
        for part in parts:
            assert part.valued is not None
            assert part.valued <= filled | set(whole.bad["column"])


cells = st.one_of(
    st.sampled_from(
        ["", "1", "-2", "007", "1.5", "nan", "inf", "1e400", "true", "False", "x", " 3 ", "2024-01-02", "2024-13-02"]
    ),
    st.sampled_from(["2024-01-02T03:04:05", "9223372036854775807", "9" * 20, 'say "hi"', "a,b", "two\nlines", "é"]),
    st.integers(-50, 50).map(str),
)
kinds = st.sampled_from([None, "int", "float", "str", "date", "datetime", "bool"])


@same_folder
@given(st.lists(st.tuples(cells, cells), max_size=12), st.tuples(kinds, kinds), st.integers(1, 60), st.booleans())
@example([("1", "x"), ("2", "y"), ("1.5", "")], ("int", "str"), 4, False)
@example([("nan", ""), ("1", ""), ("9" * 19, "")], (None, None), 4, False)
def test_slices_hold_what_the_whole_file_holds(
    tmp_path: Path, rows: list[tuple[str, str]], types: tuple[Any, Any], size: int, crlf: bool
) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n" if crlf else "\n").writerows([("a", "b"), *rows])
    path = tmp_path / "file"
    path.write_bytes(out.getvalue().encode())
    columns = known(**{name: kind for name, kind in zip("ab", types, strict=True) if kind is not None})
    both_ways(path, "a.csv", size, columns or None)


@same_folder
@given(st.text(st.sampled_from('ab1,"\n\r.'), max_size=60), st.integers(1, 30), kinds)
@example('1,"\n\n', 3, None)
@example("1\n1,,", 5, None)
@example("1,2\n1,2,", 5, None)
@example('1,5" b\n2,4" a\n3,b\n', 5, "int")
def test_junk_is_refused_or_read_alike(tmp_path: Path, junk: str, size: int, kind: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x,y\n" + junk.encode())
    both_ways(path, "a.csv", size, known(x=kind, y="str") if kind else None)


@same_folder
@given(
    st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 9)), st.one_of(st.none(), cells)), max_size=20),
    kinds,
    st.integers(1, 200),
)
def test_parquet_in_slices(tmp_path: Path, rows: list[tuple[Any, Any]], kind: Any, size: int) -> None:
    path = tmp_path / "file"
    frame = pl.DataFrame(rows, schema={"a": pl.Int64, "b": pl.String}, orient="row")
    frame.write_parquet(path, row_group_size=3)
    both_ways(path, "a.parquet", size, known(a="float", b=kind) if kind else None)


@same_folder
@given(st.lists(st.lists(cells, max_size=5), min_size=1, max_size=5))
def test_the_type_of_all_slices_is_that_of_all_rows(tmp_path: Path, parts: list[list[str]]) -> None:
    series = [pl.Series(part, dtype=pl.String).replace("", None).drop_nulls() for part in parts]
    assert join_kinds({module._kind(part) for part in series}) == infer_text(pl.concat(series))


def test_a_nested_column_that_is_left_out_is_left_out_of_slices(tmp_path: Path) -> None:
    path = tmp_path / "file"
    pl.DataFrame({"a": [1, 2], "b": [[1], [2]], "c": ["x", None]}).write_parquet(path)
    both_ways(path, "a.parquet", 1, known(a="int"))


def test_memory_is_that_of_a_slice_and_not_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a,b\n" + b"1,2\n" * 10_000)
    with open_slices(path, name="a.csv", columns=known(a="int", b="int"), scratch=tmp_path, slice_bytes=400) as found:
        heights = [reading.frame.height for reading in found.readings()]
    assert sum(heights) == 10_000
    assert max(heights) <= 100


def test_a_quote_without_end_is_refused_before_it_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORD_BYTES", 1_000)
    path = tmp_path / "file"
    path.write_bytes(b'a,b\n1,2\n3,"' + b"4\n" * 100_000)
    with pytest.raises(Unreadable, match="quoted field without end"):
        in_slices(path, "a.csv", 100, known(a="int", b="int"))
