from datetime import date
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.data.signature import check, drift_notes, infer, read_and_check, suspicious, widen
from interlock.errors import DataRefused
from interlock.records import Column

FRAME = pl.DataFrame(
    {
        "i": [3, 1, None],
        "s": ["b", "a", "b"],
        "d": [date(2024, 1, 2)] * 3,
        "b": [True, None, True],
        "f": [1.5, 2.5, 3.5],
    }
)


def test_infer_tells_types_nulls_names_and_ranges() -> None:
    assert infer(FRAME) == infer(FRAME.lazy()) == (
        Column(name="i", type="int", nullable=True, low=1.0, high=3.0),
        Column(name="s", type="str", nullable=False, categories=("a", "b")),
        Column(name="d", type="date", nullable=False, low="2024-01-02", high="2024-01-02"),
        Column(name="b", type="bool", nullable=True, categories=("true",)),
        Column(name="f", type="float", nullable=False, low=1.5, high=3.5),
    )  # fmt: skip


def test_categories_are_capped_and_lineage_is_left_out() -> None:
    frame = pl.DataFrame({"_file": ["x"] * 201, "s": [str(n) for n in range(201)]})
    assert infer(frame) == (Column(name="s", type="str", nullable=False, categories=None),)
    assert len(infer(frame.head(200))[0].categories or ()) == 200


def test_signatures_only_grow() -> None:
    before = infer(FRAME)
    after = widen(
        before, infer(pl.DataFrame({"i": [9], "s": ["c"], "d": [date(2023, 1, 1)], "b": [False], "f": [0.5]}))
    )
    assert after[0] == Column(name="i", type="int", nullable=True, low=1.0, high=9.0)
    assert after[1].categories == ("a", "b", "c")
    assert (after[2].low, after[2].high) == ("2023-01-01", "2024-01-02")
    assert widen(before, ()) == before


def test_check_finds_nulls_types_and_strange_numbers() -> None:
    columns = infer(pl.DataFrame({"i": [1], "f": [1.0], "s": ["x"]}))
    frame = pl.DataFrame({"i": [1.0, 2.5, None], "f": [1, 2, 3], "s": [1, None, 2]})
    found = check(frame, columns)
    assert found.schema == {"row": pl.UInt64, "column": pl.String, "reason": pl.String}
    assert {(row, column) for row, column, _ in found.rows()} == {(2, "i"), (1, "i"), (1, "s"), (0, "s"), (2, "s")}
    strange = check(pl.DataFrame({"i": [1, 2], "f": [float("nan"), float("inf")], "s": ["a", "b"]}), columns)
    assert strange.rows() == [(0, "f", "is not a finite number"), (1, "f", "is not a finite number")]


@given(
    st.lists(st.none() | st.floats(width=64), max_size=5),
    st.booleans(),
    st.sampled_from([(), ("x",), ("*",), ("y",)]),
)
def test_what_is_not_suspicious_has_nothing_to_find(
    cells: list[float | None], nullable: bool, names: tuple[str, ...]
) -> None:
    column = Column(name="x", type="float", nullable=nullable)
    frame = pl.DataFrame({"x": pl.Series(cells, dtype=pl.Float64)})
    found = check(frame, [column], nullable=names).height > 0
    seen = suspicious([column], [frame["x"]], nullable=names)
    assert seen or not found
    assert found or not seen or sum(abs(cell) for cell in cells if cell is not None) > 1e300


def test_nullable_allows_by_name_or_all() -> None:
    columns = infer(pl.DataFrame({"a": [1], "b": [1]}))
    frame = pl.DataFrame({"a": [None], "b": [None]}, schema={"a": pl.Int64, "b": pl.Int64})
    assert check(frame, columns, nullable=["a"])["column"].to_list() == ["b"]
    assert check(frame, columns, nullable=["*"]).is_empty()


def test_check_needs_every_column() -> None:
    with pytest.raises(DataRefused, match="'b' is missing") as caught:
        check(pl.DataFrame({"a": [1]}), infer(pl.DataFrame({"a": [1], "b": [1]})))
    assert caught.value.facts["missing"] == ["b"]


def test_drift_is_counted_not_refused() -> None:
    columns = infer(FRAME)
    frame = pl.DataFrame(
        {"i": [0, 2, 9], "s": ["a", "z", None], "d": [date(2025, 1, 1)] * 3, "b": [False, True, None], "f": [2.0] * 3}
    )
    found = {drift.column: (drift.unseen, drift.outside) for drift in drift_notes(frame, columns)}
    assert found == {"i": (0, 2), "s": (1, 0), "d": (0, 3), "b": (1, 0)}


def test_read_and_check_gives_good_rows_in_the_models_order(tmp_path: Path) -> None:
    columns = infer(pl.DataFrame({"b": [1.5], "a": [1]}))
    path = tmp_path / "f"
    path.write_text("id,a,b\nx,1,2\ny,,3\nz,2.5,4\nw,3.0,inf\nv,4,5.5\n")
    found = read_and_check(path, name="f.csv", columns=columns)
    assert found.frame.columns == ["_row", "b", "a", "id"]
    assert found.frame.rows() == [(1, 2.0, 1, "x"), (5, 5.5, 4, "v")]
    assert (found.rows, found.rows_bad, found.extra) == (5, 3, ("id",))
    assert found.bad.select("row", "column").rows() == [(2, "a"), (3, "a"), (4, "b")]
    path.write_text("a\n1\n")
    with pytest.raises(DataRefused, match=r"'b' is missing from f\.csv"):
        read_and_check(path, name="f.csv", columns=columns)
