"""The file of answers: complete or absent, and recognised by its seal."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from answer.kit import rows
from interlock.answer.audit import Tally
from interlock.answer.intake import Chunk
from interlock.answer.staging import LINEAGE, Quarantine, Seal, Stage, read_staged
from interlock.data.readers import BAD_SCHEMA
from interlock.errors import StoreFault, UserCodeFailed

SEAL = Seal(name="f.csv", file="f" * 64, model="m" * 64, generation=7, form="linear", at="2026-01-01T00:00:00.000000Z")
TALLY = Tally(rows=4, scored=4, quarantined=0)
NOTHING = pl.DataFrame(schema=BAD_SCHEMA)


def chunk(first: int, count: int) -> Chunk:
    numbers = np.arange(first, first + count)
    kept = {"id": pl.Series(numbers).to_arrow(), "code": pl.Series([f"k{number}" for number in numbers]).to_arrow()}
    return Chunk(count, numbers, rows(count), kept, NOTHING)


def test_what_is_written_is_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    with Stage(path, SEAL) as stage:
        for first in (1, 3):
            answers = pl.DataFrame({"prediction": [0.5, 1.5], "day": [pl.date(2026, 1, 1)] * 2}).select(
                "prediction", pl.lit(np.datetime64("2026-01-01")).alias("day")
            )
            stage.add(chunk(first, 2), answers)
        staged = stage.finish(TALLY)
    assert staged.rows == 4
    assert staged.columns == ("id", "code", "prediction", "day", *LINEAGE)
    uncounted = {name for name, count in staged.nulls.items() if count is None}
    assert uncounted == {*LINEAGE} - {"interlock_row"}, "constants need no statistics"
    assert {count for name, count in staged.nulls.items() if name not in uncounted} == {0}
    frame = pl.read_parquet(path)
    assert frame["code"].to_list() == ["k1", "k2", "k3", "k4"]
    assert frame["interlock_row"].to_list() == [1, 2, 3, 4]
    assert frame["interlock_release"].to_list() == [7] * 4
    assert pq.read_schema(path).field("interlock_scored_at").type == pa.timestamp("us", tz="UTC")
    assert pa.types.is_string(pq.read_schema(path).field("interlock_model").type)
    assert read_staged(path)[1] == Seal(
        **{name: getattr(SEAL, name) for name in SEAL.__struct_fields__} | {"tally": TALLY}
    )


def test_leaving_without_finish_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    with Stage(path, SEAL) as stage:
        stage.add(chunk(1, 2), pl.DataFrame({"prediction": [0.5, 1.5]}))
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_changes_between_chunks_is_the_models_fault(tmp_path: Path) -> None:
    with Stage(tmp_path / "s.parquet", SEAL) as stage:
        stage.add(chunk(1, 2), pl.DataFrame({"prediction": [0.5, 1.5]}))
        with pytest.raises(UserCodeFailed, match="'prediction'"):
            stage.add(chunk(3, 2), pl.DataFrame({"prediction": ["a", "b"]}))
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_fits_is_cast(tmp_path: Path) -> None:
    with Stage(tmp_path / "s.parquet", SEAL) as stage:
        stage.add(chunk(1, 2), pl.DataFrame({"prediction": [0.5, 1.5]}))
        stage.add(chunk(3, 2), pl.DataFrame({"prediction": [1, 2]}))
        stage.finish(TALLY)
    assert pl.read_parquet(tmp_path / "s.parquet")["prediction"].to_list() == [0.5, 1.5, 1.0, 2.0]


def test_a_disk_that_fails_is_told(tmp_path: Path) -> None:
    with Stage(tmp_path / "gone" / "s.parquet", SEAL) as stage:
        stage.add(chunk(1, 2), pl.DataFrame({"prediction": [0.5, 1.5]}))
        with pytest.raises(StoreFault, match="gone"):
            stage.finish(TALLY)


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreFault):
        read_staged(tmp_path / "x.parquet")
    rows(3).write_parquet(tmp_path / "y.parquet")
    assert read_staged(tmp_path / "y.parquet")[1] is None
    table = pa.table({"a": [1]}).replace_schema_metadata({"interlock": "{}"})
    pq.write_table(table, tmp_path / "z.parquet")
    assert read_staged(tmp_path / "z.parquet")[1] is None


def test_quarantine_is_made_when_there_is_something_bad(tmp_path: Path) -> None:
    bad = pl.DataFrame({"row": [3], "column": ["x"], "reason": ["is empty"]}, schema=BAD_SCHEMA)
    with Quarantine(tmp_path / "q.parquet", SEAL) as quarantine:
        quarantine.add(NOTHING)
        assert quarantine.path is None
        quarantine.add(bad)
        quarantine.add(bad)
        quarantine.finish()
    assert pl.read_parquet(tmp_path / "q.parquet").equals(pl.concat([bad, bad]))
    assert read_staged(tmp_path / "q.parquet")[1] == SEAL
    with Quarantine(tmp_path / "r.parquet", SEAL) as quarantine:
        quarantine.add(bad)
    assert not (tmp_path / "r.parquet").exists()
