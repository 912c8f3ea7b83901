from pathlib import Path

import polars as pl
import pytest

from interlock.data.query import View, run_query
from interlock.data.signature import infer
from interlock.errors import SettingsError


@pytest.fixture
def views(tmp_path: Path) -> dict[str, View]:
    folder = tmp_path / "it's a lake"
    folder.mkdir()
    frame = pl.DataFrame({"id": [1, 2, 2], 'Na"me': ["a", "b", "c"], "_seq": [0, 0, 1], "_row": [1, 2, 1]})
    frame.write_parquet(folder / "a.parquet")
    columns = infer(frame)
    return {"a": View(paths=[str(folder / "a.parquet")], columns=columns, key=("id",))}


def run(sql: str, views: dict[str, View], tmp_path: Path) -> pl.DataFrame:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    run_query(sql, views, scratch / "out.parquet")
    return pl.read_parquet(scratch / "out.parquet")


def test_only_the_newest_row_of_a_key_is_seen(views: dict[str, View], tmp_path: Path) -> None:
    assert run("select * from a order by id", views, tmp_path).sort("id").rows() == [(1, "a"), (2, "c")]
    first = {"a": View(paths=views["a"].paths, columns=views["a"].columns, key=("id",), keep_first=True)}
    assert run("select * from a", first, tmp_path).sort("id").rows() == [(1, "a"), (2, "b")]


def test_types_become_those_a_column_can_have(views: dict[str, View], tmp_path: Path) -> None:
    sql = """-- a comment
    with b as (select * from a) select sum(id) as s, avg(id) as m, 1.5 as d, date '2024-01-02' as day,
        timestamptz '2024-01-02 03:00:00+02:00' as t, uuid() as u, 1::tinyint as n from b -- the end"""
    found = run(sql, views, tmp_path)
    assert found.drop("n").dtypes == [pl.Int64, pl.Float64, pl.Float64, pl.Date, pl.Datetime("us"), pl.String]
    assert str(found["t"][0]) == "2024-01-02 01:00:00"


def test_bytes_go_through_unchanged(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": [1, 2], "image": [b"\xff\x00", None], "_seq": [0, 0], "_row": [1, 2]})
    frame.write_parquet(tmp_path / "a.parquet")
    views = {"a": View(paths=[str(tmp_path / "a.parquet")], columns=infer(frame), key=("id",))}
    found = run("select image, id from a order by id", views, tmp_path)
    assert found["image"].to_list() == [b"\xff\x00", None]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("selec 1", "syntax error|Parser"),
        ("select * from nowhere", "nowhere"),
        ("select 1; select 2", "2 statements"),
        ("", "0 statements"),
        ("create table x as select 1", "one SELECT"),
        ("select id, id from a", "more than once"),
        ("select id, 1 as ID from a", "more than once"),
        ("select [1, 2] as l", "no plain value"),
        ("select {'a': 1} as l", "no plain value"),
        ("select id / 'x' as e from a", "onversion"),
        ("select * from read_csv('/etc/passwd')", "disabled|Permission|access"),
        ("select * from '/etc/passwd'", "does not exist|disabled"),
        ("select * from read_parquet('https://example.com/x.parquet')", "disabled|Permission|access|httpfs"),
        ("copy (select 1) to '/tmp/x.csv'", "one SELECT"),
        ("set enable_external_access = true", "one SELECT"),
        ("install httpfs", "one SELECT"),
    ],
)
def test_what_may_not_be_is_told(sql: str, words: str, views: dict[str, View], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        run(sql, views, tmp_path)
    assert caught.value.next_step


def test_python_variables_are_not_tables(views: dict[str, View], tmp_path: Path) -> None:
    secret = pl.DataFrame({"x": [1]})
    with pytest.raises(SettingsError, match="secret"):
        run("select * from secret", views, tmp_path)
    assert secret.height == 1
