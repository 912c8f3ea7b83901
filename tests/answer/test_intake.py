"""Reading: every format and every way of storing a column gives the same rows, and bad cells are named."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from answer.kit import SIGNATURE, rows
from interlock.answer import intake
from interlock.answer.intake import Chunk, Layout, open_intake
from interlock.data.readers import Unreadable
from interlock.errors import DataRefused

LAYOUT = Layout(
    inputs=SIGNATURE.inputs,
    nullable=frozenset(),
    keep=lambda present: tuple(name for name in ("id",) if name in present),
    encoded=True,
    types={"id": "int"},
)


def read(path: Path, layout: Layout = LAYOUT, name: str = "") -> list[Chunk]:
    with open_intake(path, name or path.name, layout, path.parent / "scratch") as opened:
        return list(opened.chunks())


def frame_of(chunks: Sequence[Chunk]) -> pl.DataFrame:
    return pl.concat([chunk.frame.with_columns(pl.col("colour").cast(pl.String)) for chunk in chunks])


def test_text_stored_with_a_dictionary_stays_encoded(tmp_path: Path) -> None:
    frame = rows(1_000)
    pq.write_table(frame.to_arrow(), tmp_path / "a.parquet")
    (chunk,) = read(tmp_path / "a.parquet")
    assert isinstance(chunk.frame["colour"].dtype, pl.Enum)
    assert frame_of([chunk]).equals(frame.drop("id"))
    assert pl.Series(chunk.kept["id"]).to_list() == frame["id"].to_list()
    assert chunk.rows.tolist() == list(range(1, 1_001))


@pytest.mark.parametrize("values", [2, 255, 256, 257, 5_000])
@pytest.mark.parametrize("gaps", [False, True])
def test_codes_of_any_width_are_kept(tmp_path: Path, values: int, gaps: bool) -> None:
    names = [f"{place:06d}" for place in np.random.default_rng(3).permutation(values)]
    colours = [None if gaps and place % 7 == 0 else name for place, name in enumerate(names * (50_000 // values))]
    frame = rows(len(colours)).with_columns(pl.Series("colour", colours, dtype=pl.String))
    pq.write_table(frame.to_arrow(), tmp_path / "f.parquet")
    (chunk,) = read(tmp_path / "f.parquet", replace(LAYOUT, nullable=frozenset({"colour"})))
    assert isinstance(chunk.frame["colour"].dtype, pl.Enum)
    assert chunk.frame["colour"].to_list() == colours


def test_text_for_user_code_is_plain(tmp_path: Path) -> None:
    pq.write_table(rows(1_000).to_arrow(), tmp_path / "a.parquet")
    layout = Layout(inputs=SIGNATURE.inputs, nullable=frozenset(), keep=LAYOUT.keep, encoded=False, types={})
    assert read(tmp_path / "a.parquet", layout)[0].frame["colour"].dtype == pl.String()


def test_text_of_many_values_is_plain(tmp_path: Path) -> None:
    pq.write_table(
        rows(500, colour=[f"colour number {place}" for place in range(500)]).to_arrow(), tmp_path / "a.parquet"
    )
    assert read(tmp_path / "a.parquet")[0].frame["colour"].dtype == pl.String()


@given(
    colours=st.lists(st.sampled_from(["red", "green", "ü", "", None]), min_size=1, max_size=60),
    group=st.integers(1, 30),
    size=st.integers(1, 30),
    dictionary=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_a_column_is_stored_and_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colours: list[str | None], group: int, size: int, dictionary: bool
) -> None:
    frame = rows(len(colours)).with_columns(colour=pl.Series(colours, dtype=pl.String))
    path = tmp_path / "a.parquet"
    pq.write_table(frame.to_arrow(), path, row_group_size=group, use_dictionary=dictionary)
    monkeypatch.setattr(intake, "CHUNK_ROWS", size)
    chunks = read(path)
    good = [place for place, colour in enumerate(colours) if colour]
    assert frame_of(chunks).equals(frame[good].drop("id"))
    assert np.concatenate([chunk.rows for chunk in chunks]).tolist() == [place + 1 for place in good]
    bad = pl.concat([chunk.bad for chunk in chunks])
    assert bad["row"].to_list() == [place + 1 for place, colour in enumerate(colours) if not colour]
    assert set(bad["reason"]) <= {"is empty, and never was before"}
    assert sum(chunk.read for chunk in chunks) == len(colours)
    ids = [value for chunk in chunks for value in chunk.kept["id"].to_pylist()]
    assert ids == frame["id"][good].to_list()


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        ({"x": pa.array([1, 2, 3], pa.int32())}, []),
        ({"x": pa.array([1.5, 2.5, 3.5], pa.float32())}, []),
        ({"x": pa.array(["1.5", "2", "no"])}, [(3, "x", "is not a number")]),
        ({"n": pa.array([1.0, 2.5, 3.0])}, [(2, "n", "is not a whole number")]),
        ({"n": pa.array([1, 2, 3], pa.uint8())}, []),
        ({"n": pa.array([None, None, None], pa.null())}, []),
        ({"colour": pa.array(["red", "blue", "red"]).dictionary_encode()}, []),
        (
            {"colour": pa.array(["red", None, "red"]).dictionary_encode()},
            [(2, "colour", "is empty, and never was before")],
        ),
        ({"colour": pa.array([1, 2, 3])}, []),
        (
            {"x": pa.array([1.0, float("inf"), float("nan")])},
            [(2, "x", "is not a finite number"), (3, "x", "is not a finite number")],
        ),
    ],
)
def test_other_types_than_the_signature(
    tmp_path: Path, change: dict[str, Any], bad: list[tuple[int, str, str]]
) -> None:
    columns = {"x": pa.array([1.0, 2.0, 3.0]), "n": pa.array([1, 2, 3]), "colour": pa.array(["red", "blue", "red"])}
    pq.write_table(pa.table({**columns, **change}), tmp_path / "a.parquet")
    (chunk,) = read(tmp_path / "a.parquet")
    assert chunk.bad.rows() == bad
    assert chunk.frame.height == 3 - len(bad)
    assert chunk.frame.dtypes[:2] == [pl.Float64(), pl.Int64()]


def test_no_plain_value(tmp_path: Path) -> None:
    columns = {"x": pa.array([[1.0]]), "n": pa.array([1]), "colour": pa.array(["red"])}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataRefused, match="'x'"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_missing_columns_are_refused(tmp_path: Path, name: str) -> None:
    frame = rows(3).drop("colour")
    path = tmp_path / name
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[name.partition(".")[2]](path)
    with pytest.raises(DataRefused, match="'colour' is missing"):
        read(path)


@pytest.mark.parametrize("name", ["a.xlsx", "a.parquet", "a.csv"])
def test_what_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1\x00\xff")
    with pytest.raises(Unreadable):
        read(tmp_path / name)


def test_bad_cells_of_text_are_named_by_their_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "CHUNK_ROWS", 2)
    (tmp_path / "a.csv").write_text("id,x,n,colour\n1,1.5,1,red\n2,no,2,blue\n3,3,3,\n4,4,2.5,red\n5,5,,red\n")
    chunks = read(tmp_path / "a.csv")
    assert pl.concat([chunk.bad for chunk in chunks]).rows() == [
        (2, "x", "is not a number"),
        (3, "colour", "is empty, and never was before"),
        (4, "n", "is not a whole number"),
    ]
    assert np.concatenate([chunk.rows for chunk in chunks]).tolist() == [1, 5]
    assert sum(chunk.read for chunk in chunks) == 5
