"""The suite for tables."""

from pathlib import Path

import polars as pl

from interlock.errors import NotFound, StoreFault
from interlock.ports import Tables
from interlock.testing.conformance.statements import refuses


class TablesConformance:
    """What every :class:`interlock.ports.Tables` must do."""

    def open(self, folder: Path) -> Tables:
        """Open the store under test, empty for a new ``folder`` (override)."""
        raise NotImplementedError

    def test_append_and_read_back(self, tmp_path: Path) -> None:
        """Versions count up from 0; each stays readable; facts come back."""
        tables = self.open(tmp_path)
        rows = pl.DataFrame({"id": [1, 2], "name": ["a", None], "day": ["2026-01-01", None]}).with_columns(
            pl.col("day").str.to_date(), at=pl.lit("2026-01-01 10:00").str.to_datetime("%Y-%m-%d %H:%M")
        )
        assert tables.version("sources/x") is None
        first = tables.append("sources/x", rows, commit_key="k1", facts={"rows": 2, "deep": {"a": [1.5]}})
        second = tables.append("sources/x", rows.head(1), commit_key="k2", facts={})
        assert (first.version, first.facts) == (0, {"rows": 2, "deep": {"a": [1.5]}})
        assert tables.version("sources/x") == second.version
        assert tables.scan("sources/x").collect().equals(pl.concat([rows, rows.head(1)]))
        assert tables.scan("sources/x", first.version).collect().equals(rows)
        assert pl.read_parquet(tables.paths("sources/x")).sort("id")["id"].to_list() == [1, 1, 2]

    def test_a_key_is_committed_once(self, tmp_path: Path) -> None:
        """A retry after an unknown outcome gives the first commit back."""
        tables = self.open(tmp_path)
        rows = pl.DataFrame({"id": [1]})
        assert tables.committed("t", "k") is None
        first = tables.append("t", rows, commit_key="k", facts={"try": 1})
        tables.append("t", rows, commit_key="l", facts={})
        again = tables.append("t", rows, commit_key="k", facts={"try": 2})
        assert again == first == tables.committed("t", "k")
        replaced = tables.replace("t", tables.scan("t"), commit_key="r", facts={"a": 1})
        assert tables.replace("t", rows.lazy().head(0), commit_key="r", facts={}) == replaced
        assert tables.scan("t").collect().height == 2
        assert tables.committed("t", "absent") is None
        assert tables.committed("absent", "k") is None

    def test_no_rows(self, tmp_path: Path) -> None:
        """An empty frame makes the table and its columns, and is a commit like any other."""
        tables = self.open(tmp_path)
        empty = pl.DataFrame(schema={"id": pl.Int64, "x": pl.Float64})
        tables.append("t", empty, commit_key="a", facts={})
        assert tables.scan("t").collect().schema == empty.schema
        assert tables.paths("t") == []
        tables.append("t", pl.DataFrame({"id": [1], "x": [0.5]}), commit_key="b", facts={})
        last = tables.append("t", empty, commit_key="c", facts={"n": 0})
        assert tables.committed("t", "c") == last
        assert tables.scan("t").collect().rows() == [(1, 0.5)]
        tables.replace("t", empty.lazy(), commit_key="d", facts={})
        assert tables.scan("t").collect().height == 0

    def test_columns_may_come_later(self, tmp_path: Path) -> None:
        """New columns are empty in old rows, missing ones in new rows, and old versions look as they did."""
        tables = self.open(tmp_path)
        old = tables.append("t", pl.DataFrame({"a": [1]}), commit_key="1", facts={})
        tables.append("t", pl.DataFrame({"a": [2], "b": ["x"]}), commit_key="2", facts={})
        tables.append("t", pl.DataFrame({"a": [3]}), commit_key="3", facts={})
        assert sorted(tables.scan("t").collect().rows()) == [(1, None), (2, "x"), (3, None)]
        assert tables.scan("t", old.version).collect().columns == ["a"]

    def test_types_change_by_replace_only(self, tmp_path: Path) -> None:
        """An append of another type is refused whole; replace widens, and keeps the old version."""
        tables = self.open(tmp_path)
        old = tables.append("t", pl.DataFrame({"a": [1]}), commit_key="1", facts={})
        with refuses(StoreFault):
            tables.append("t", pl.DataFrame({"a": ["x"]}), commit_key="2", facts={})
        assert tables.version("t") == old.version
        wide = tables.scan("t").with_columns(pl.col("a").cast(pl.String), at=pl.lit(None, pl.Datetime("us")))
        tables.replace("t", wide, commit_key="3", facts={})
        tables.append("t", pl.DataFrame({"a": ["x"]}), commit_key="4", facts={})
        assert sorted(tables.scan("t").collect()["a"]) == ["1", "x"]
        assert tables.scan("t", old.version).collect().schema == {"a": pl.Int64}

    def test_what_is_absent(self, tmp_path: Path) -> None:
        """NotFound for tables and versions."""
        tables = self.open(tmp_path)
        with refuses(NotFound):
            tables.scan("absent")
        tables.append("t", pl.DataFrame({"a": [1]}), commit_key="1", facts={})
        for version in (99, -1):
            with refuses(NotFound):
                tables.paths("t", version)

    def test_names(self, tmp_path: Path) -> None:
        """No user text becomes a path."""
        tables = self.open(tmp_path)
        for name in ("", "/a", "../a", "a/..", "a//b", "a b", ".a", "_delta_log", "a\n", "x" * 65, "a/b/c/d/e"):
            with refuses(StoreFault):
                tables.append(name, pl.DataFrame({"a": [1]}), commit_key="1", facts={})
            with refuses(StoreFault):
                tables.version(name)

    def test_upkeep_changes_no_row(self, tmp_path: Path) -> None:
        """After many small commits and maintenance: same rows, same old versions, same keys."""
        tables = self.open(tmp_path)
        for number in range(70):
            tables.append("t", pl.DataFrame({"a": [number]}), commit_key=f"k{number}", facts={"n": number})
        tables.maintain("t")
        tables.maintain("t")
        assert sorted(tables.scan("t").collect()["a"]) == list(range(70))
        assert tables.scan("t", 9).collect().height == 10
        commit = tables.committed("t", "k42")
        assert commit is not None
        assert (commit.version, commit.facts) == (42, {"n": 42})
        assert tables.append("t", pl.DataFrame({"a": [0]}), commit_key="k42", facts={}) == commit
        tables.append("t", pl.DataFrame({"a": [70]}), commit_key="k70", facts={})
        assert tables.scan("t").collect().height == 71
        tables.maintain("absent")
