import gzip
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interlock.data import acceptance, slices, spool
from interlock.data import ingest as ingest_module
from interlock.data.ingest import Seen, ingest
from interlock.data.layout import Layout
from interlock.data.opening import safe_name
from interlock.data.sift import Sifted
from interlock.data.sources import source_of
from interlock.errors import NotFound, SettingsError, StoreFault
from interlock.records import FileResult
from interlock.settings import HoldoutSpec, Source
from interlock.store.ledger import SqlLedger
from interlock.store.schema import open_database
from interlock.store.tables import DeltaTables
from interlock.testing.fakes import MemoryTables

HEAD = "id,x,y\n"


def run(project: Any, source: str = "data") -> list[FileResult]:
    return ingest(project.parts, project.turn, source)


def rows(project: Any, source: str = "data") -> list[dict[str, Any]]:
    return project.parts.tables.scan(f"sources/{source}").collect().to_dicts()


def kinds(project: Any) -> list[str]:
    return [event.kind for event in project.parts.ledger.events()]


def layout(project: Any) -> dict[str, Any]:
    found = project.parts.ledger.read("columns", "data", Layout)
    return {column.name: column for column in found.columns}


# ---- exactly once


def test_rows_that_the_lake_has_lost_are_missed(project: Any) -> None:
    project.put("a.csv", HEAD + "1,0.5,yes\n2,1.5,no\n")
    run(project)
    project.parts = replace(project.parts, tables=MemoryTables(project.root / "another"))
    project.put("b.csv", HEAD + "3,0.5,yes\n")
    for _ in range(2):
        with pytest.raises(StoreFault, match="to which 2 rows were accepted, is gone"):
            run(project)
    assert kinds(project) == ["file.accepted"]


def test_an_added_column_may_not_differ_in_case_only(project: Any) -> None:
    project.set(new_columns="add", optional=("Z",))
    project.put("a.csv", HEAD + "1,0.5,yes\n")
    project.put("b.csv", "id,x,y,X\n2,0.5,yes,1\n")
    project.put("c.csv", "id,Z,x,y\n3,1,0.5,yes\n")
    project.put("d.csv", "id,z,x,y\n4,1,0.5,yes\n")
    found = {result.name: result for result in run(project)}
    assert [result.status for result in found.values()] == ["accepted", "unreadable", "accepted", "refused"]
    assert "differ in case only" in found["d.csv"].reason


def test_a_file_is_taken_in_once_with_its_lineage(project: Any) -> None:
    project.put("a.csv", HEAD + "1,0.5,yes\n2,1.5,no\n")
    (result,) = run(project)
    assert (result.status, result.rows, result.accepted, result.table_version) == ("accepted", 2, 2, 0)
    assert rows(project) == [
        {"id": 1, "x": 0.5, "y": "yes", "_file": result.digest, "_row": 1, "_seq": 0},
        {"id": 2, "x": 1.5, "y": "no", "_file": result.digest, "_row": 2, "_seq": 0},
    ]
    assert run(project) == []
    assert kinds(project) == ["file.accepted"]
    (event,) = project.parts.ledger.events()
    assert event.subject == "data/a.csv"
    assert msgspec.convert(event.facts, FileResult) == result
    assert project.parts.ledger.read("file", f"data/{result.digest}", FileResult) == result


def test_the_same_bytes_under_another_name_are_repeated_once(project: Any) -> None:
    project.put("b.csv", HEAD + "1,0.5,yes\n")
    run(project)
    project.put("a.csv", HEAD + "1,0.5,yes\n")
    (result,) = run(project)
    assert (result.status, result.name, result.first_name) == ("repeated", "a.csv", "b.csv")
    assert run(project) == []
    assert len(rows(project)) == 1
    assert kinds(project) == ["file.accepted", "file.repeated"]


def test_a_file_that_was_changed_is_a_new_file(project: Any) -> None:
    project.put("a.csv", HEAD + "1,0.5,yes\n")
    run(project)
    project.put("a.csv", HEAD + "1,0.5,yes\n2,0.5,no\n")
    (result,) = run(project)
    assert (result.accepted, result.duplicates) == (1, 1)
    assert len(rows(project)) == 2


def test_an_old_file_is_not_hashed_again_and_a_racy_one_is(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project.put("a.csv", HEAD + "1,0.5,yes\n")
    project.parts.clock.jump(path.stat().st_mtime + 1 - project.parts.clock.now().timestamp())
    run(project)
    assert project.parts.ledger.read("seen", "data/a.csv", Seen).trusted is False
    project.parts.clock.advance(10)
    assert run(project) == []
    assert project.parts.ledger.read("seen", "data/a.csv", Seen).trusted is True

    def never(*_: Any) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr("interlock.data.inbox.FolderInbox.stage", never)
    assert run(project) == []


def test_inbox_files_are_left_where_and_what_they_are(project: Any) -> None:
    path = project.put("a.csv", HEAD + "1,0.5,yes\n")
    before = (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
    run(project)
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert not list((project.root / ".interlock" / "work" / "turn-1").iterdir())


# ---- killed in between


class _KilledError(BaseException):
    pass


@pytest.mark.parametrize("remove", [False, True])
def test_a_kill_between_commit_and_record_is_cured_by_running_again(
    project: Any, monkeypatch: pytest.MonkeyPatch, remove: bool
) -> None:
    path = project.put("b.csv", HEAD + "1,0.5,yes\n")
    with monkeypatch.context() as patched:
        patched.setattr(ingest_module, "_record", lambda *_: (_ for _ in ()).throw(_KilledError))
        with pytest.raises(_KilledError):
            run(project)
    assert kinds(project) == []
    assert len(rows(project)) == 1
    if remove:
        path.unlink()
    project.put("a.csv", HEAD + "7,0.5,no\n")
    results = run(project)
    assert [(result.name, result.status, result.table_version) for result in results] == [
        ("b.csv", "accepted", 0), ("a.csv", "accepted", 1),
    ]  # fmt: skip
    assert [row["id"] for row in rows(project)] == [1, 7]
    assert [row["_seq"] for row in rows(project)] == [0, 1]
    assert kinds(project) == ["file.accepted", "file.accepted"]
    assert run(project) == []


def test_a_kill_before_the_commit_leaves_nothing_behind(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.put("a.csv", HEAD + "1,0.5,yes\n2,x,no\n3,0.5,no\n")
    project.set(max_bad_rows=0.5, types={"x": "float"})
    run_once = project.parts.tables.append

    def killed(table: str, *args: Any, **kwargs: Any) -> Any:
        if table.startswith("sources"):
            raise _KilledError
        return run_once(table, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(project.parts.tables, "append", killed)
        with pytest.raises(_KilledError):
            run(project)
    (result,) = run(project)
    assert (result.accepted, result.quarantined) == (2, 1)
    assert project.parts.tables.scan("quarantine/data").collect().height == 1


# ---- bad rows


def test_bad_cells_are_quarantined_with_file_row_column_and_reason(project: Any) -> None:
    project.set(max_bad_rows=0.5)
    project.put("a.csv", HEAD + "1,0.5,yes\n2,1.5,no\n3,2.5,no\n")
    run(project)
    project.put("b.csv", HEAD + "4,oops,yes\n5,,\n6,1,no\n7,inf,no\n8,2,no\n9,2,no\n")
    (result,) = run(project)
    assert (result.rows, result.accepted, result.quarantined) == (6, 3, 3)
    found = project.parts.tables.scan("quarantine/data").collect().to_dicts()
    assert [(cell["row"], cell["column"]) for cell in found] == [(1, "x"), (2, "x"), (2, "y"), (4, "x")]
    assert found[0]["file"] == result.digest
    assert found[0]["name"] == "b.csv"
    assert found[0]["reason"] == "is not a number"
    assert json.loads(found[0]["raw"]) == {"id": "4", "x": "oops", "y": "yes"}
    assert json.loads(found[1]["raw"])["id"] == "5"
    assert [row["id"] for row in rows(project)] == [1, 2, 3, 6, 8, 9]
    assert "oops" not in str([event.facts for event in project.parts.ledger.events()])


def test_above_the_share_the_file_is_refused_whole_and_tried_again_under_new_rules(project: Any) -> None:
    project.put("a.csv", HEAD + "1,0.5,yes\n")
    run(project)
    project.put("b.csv", HEAD + "2,0.5,yes\n3,hidden,no\n")
    (result,) = run(project)
    assert (result.status, result.rows, result.quarantined, result.accepted) == ("refused", 2, 1, 0)
    assert "1 of 2 rows are bad, 1.00% are allowed" in result.reason
    assert "column 'x' is not a number (first in row 2)" in result.reason
    assert "max_bad_rows" in result.next_step
    assert "hidden" not in result.reason
    assert len(rows(project)) == 1
    assert run(project) == []
    project.set(max_bad_rows=0.5)
    (again,) = run(project)
    assert (again.status, again.accepted) == ("accepted", 1)
    assert run(project) == []
    assert kinds(project) == ["file.accepted", "file.refused", "file.accepted"]


def test_null_keys_are_bad(project: Any) -> None:
    project.set(key=("id",), max_bad_rows=0.5, nullable=("*",))
    project.put("a.csv", HEAD + "1,0.5,yes\n,0.5,no\n")
    (result,) = run(project)
    assert (result.accepted, result.quarantined) == (1, 1)
    reasons = project.parts.tables.scan("quarantine/data").collect()["reason"].to_list()
    assert reasons == ["is empty, but it is part of the key"]


def test_json_lines_that_are_no_objects_are_bad_rows(project: Any) -> None:
    project.set(max_bad_rows=0.5)
    project.put("a.jsonl", '{"id": 1}\n{"id": 2, "id": 3}\n')
    (result,) = run(project)
    assert (result.rows, result.accepted, result.quarantined) == (2, 1, 1)
    assert project.parts.tables.scan("quarantine/data").collect()["raw"].to_list() == ['{"id": 2, "id": 3}']


# ---- unreadable


def test_unreadable_files_are_kept_aside_and_do_not_stop_the_others(project: Any) -> None:
    project.put("a\n../'x\".csv", b"a,b\n\xff\xfe,1\n")
    project.put("b.csv.gz", gzip.compress(b"id,x,y\n1,0.5,yes\n")[:-9])
    project.put("c.parquet", b"PAR1 junk")
    project.put("d.csv", HEAD + "1,0.5,yes\n")
    results = {result.name: result for result in run(project)}
    assert [result.status for result in results.values()] == ["unreadable"] * 3 + ["accepted"]
    for name, result in results.items():
        if result.status == "unreadable":
            blob = project.parts.blobs.get(f"quarantine/{result.digest}/{safe_name(name)}")
            assert blob == (project.root / "in" / name).read_bytes()
            assert result.next_step
    assert run(project) == []
    assert kinds(project) == ["file.unreadable"] * 3 + ["file.accepted"]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a\nb.csv", "\u0430.csv", "..", "", "x" * 300, ".hidden", "'\";--"]
)
def test_safe_names_are_safe(name: str) -> None:
    safe = safe_name(name)
    assert 0 < len(safe) <= 80
    assert set(safe) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert not safe.startswith(".")


def test_look_alike_names_are_two_files(project: Any) -> None:
    project.put("a.csv", HEAD + "1,0.5,yes\n")
    project.put("\u0430.csv", HEAD + "2,0.5,no\n")
    assert [result.name for result in run(project)] == ["a.csv", "\u0430.csv"]
    assert len(rows(project)) == 2


# ---- duplicates


def test_updates_are_appended_and_the_newest_counts(project: Any) -> None:
    project.set(key=("id",))
    project.put("a.csv", HEAD + "1,0.5,yes\n2,1.5,no\n2,2.5,no\n")
    (first,) = run(project)
    assert (first.accepted, first.duplicates, first.updated) == (2, 1, 0)
    assert project.parts.ledger.read("columns", "data", Layout).mixed is False
    project.put("b.csv", HEAD + "1,0.5,yes\n2,9,no\n3,0,no\n")
    (second,) = run(project)
    assert (second.accepted, second.duplicates, second.updated) == (2, 1, 1)
    assert [(row["id"], row["x"], row["_seq"]) for row in rows(project)] == [
        (1, 0.5, 0), (2, 2.5, 0), (2, 9.0, 1), (3, 0.0, 1),
    ]  # fmt: skip
    assert project.parts.ledger.read("columns", "data", Layout).mixed is True


def test_duplicates_can_be_refused(project: Any) -> None:
    project.set(key=("id",), on_duplicate="refuse")
    project.put("a.csv", HEAD + "1,0.5,yes\n")
    project.put("b.csv", HEAD + "1,9,yes\n2,9,no\n")
    first, second = run(project)
    assert (first.status, second.status, second.duplicates) == ("accepted", "refused", 1)
    assert "keep-last" in second.next_step
    assert len(rows(project)) == 1


def test_a_file_of_duplicates_only_commits_nothing(project: Any) -> None:
    project.put("a.csv", HEAD + "1,0.5,yes\n2,0.5,no\n")
    project.put("b.csv", HEAD + "2,0.5,no\n1,0.5,yes\n")
    first, second = run(project)
    assert (second.status, second.accepted, second.duplicates, second.table_version) == ("accepted", 0, 2, None)
    assert project.parts.tables.version("sources/data") == first.table_version


# ---- columns


def test_a_missing_column_is_refused_unless_it_is_optional(project: Any) -> None:
    project.put("a.csv", HEAD + "1,0.5,yes\n")
    run(project)
    project.put("b.csv", "id,y\n2,no\n")
    (refused,) = run(project)
    assert "Column 'x' is missing from b.csv (it has 2 of 3 columns)" in refused.reason
    assert "optional" in refused.next_step
    project.set(optional=("x",))
    (result,) = run(project)
    assert result.status == "accepted"
    assert result.notes[0] == "column 'x' is missing and left empty"
    assert rows(project)[1]["x"] is None


@pytest.mark.parametrize("policy", ["ignore", "add", "refuse"])
def test_new_columns(project: Any, policy: str) -> None:
    project.set(new_columns=policy)
    project.put("a.csv", HEAD + "1,0.5,yes\n")
    run(project)
    project.put("b.csv", "id,x,y,z\n2,0.5,no,7\n")
    (result,) = run(project)
    if policy == "refuse":
        assert result.status == "refused"
        assert "'z'" in result.reason
        return
    assert result.status == "accepted"
    assert "'z'" in result.notes[0]
    if policy == "ignore":
        assert "z" not in layout(project)
        return
    assert [row["z"] for row in rows(project)] == [None, 7]
    assert layout(project)["z"].nullable
    project.set(optional=("z",))
    project.put("c.csv", HEAD + "3,0.5,no\n")
    assert run(project)[0].accepted == 1


def test_an_int_column_with_fractions_becomes_float(project: Any) -> None:
    project.put("a.csv", "id,x,y\n1,5,yes\n")
    run(project)
    assert layout(project)["x"].type == "int"
    project.put("b.csv", "id,x,y\n1,5,yes\n2,5.5,no\n")
    (result,) = run(project)
    assert (result.accepted, result.duplicates) == (1, 1)
    assert any("became float" in note for note in result.notes)
    assert layout(project)["x"].type == "float"
    assert [row["x"] for row in rows(project)] == [5.0, 5.5]
    assert project.parts.tables.scan("sources/data").collect_schema()["x"] == pl.Float64


def test_a_key_does_not_become_float(project: Any) -> None:
    project.set(key=("id",), max_bad_rows=0.5)
    project.put("a.csv", HEAD + "1,0.5,yes\n")
    project.put("b.csv", HEAD + "2,0.5,yes\n2.5,0.5,yes\n")
    _, result = run(project)
    assert (result.accepted, result.quarantined) == (1, 1)
    assert layout(project)["id"].type == "int"


def test_a_retyped_column_is_refused_by_name(project: Any) -> None:
    project.put("a.csv", HEAD + "1,0.5,yes\n")
    run(project)
    project.put("b.csv", HEAD + "2,high,no\n3,low,no\n")
    (result,) = run(project)
    assert result.status == "refused"
    assert "2 x column 'x' is not a number" in result.reason


def test_a_column_that_never_had_a_value_gets_its_type_later(project: Any) -> None:
    project.put("a.csv", HEAD + "1,,yes\n")
    project.put("b.csv", HEAD + "2,,no\n")
    run(project)
    project.put("c.csv", HEAD + "3,2.5,no\n")
    (result,) = run(project)
    assert result.status == "accepted"
    assert layout(project)["x"].type == "float"
    assert [row["x"] for row in rows(project)] == [None, None, 2.5]


def test_types_may_be_declared_later_where_nothing_is_lost(project: Any) -> None:
    project.put("a.csv", HEAD + "1,7,yes\n")
    run(project)
    project.set(types={"x": "bool"})
    project.put("b.csv", HEAD + "2,1,no\n")
    (refused,) = run(project)
    assert refused.status == "refused"
    assert "'types' says bool for column 'x', and its stored rows are int" in refused.reason
    project.set(types={"x": "str"})
    (result,) = run(project)
    assert result.status == "accepted"
    assert "became str" in result.notes[0]
    assert [row["x"] for row in rows(project)] == ["7", "1"]


def test_soft_findings_are_noted(project: Any) -> None:
    project.put("a.csv", HEAD + "1,0.5,yes\n2,0.7,no\n")
    run(project)
    project.put("b.csv", HEAD + "1,9.5,maybe\n")
    (result,) = run(project)
    assert result.notes == (
        "column 'x': 1 rows are outside of the range seen before",
        "column 'y': 1 rows hold a category never seen before",
    )


def test_a_header_without_rows_decides_nothing(project: Any) -> None:
    project.put("a.csv", HEAD)
    project.put("b.csv", HEAD + "1,0.5,yes\n")
    first, second = run(project)
    assert (first.status, first.rows) == ("accepted", 0)
    assert "no rows" in first.notes[-1]
    assert second.accepted == 1
    assert layout(project)["id"].type == "int"


def test_reserved_columns_are_refused(project: Any) -> None:
    project.put("a.csv", "id,prediction\n1,2\n")
    (result,) = run(project)
    assert result.status == "refused"
    assert "prediction" in result.reason


def test_the_first_file_must_have_the_key(project: Any) -> None:
    project.set(key=("who",))
    project.put("a.csv", HEAD + "1,0.5,yes\n")
    (result,) = run(project)
    assert result.status == "refused"
    assert "'who'" in result.reason


# ---- sources


def test_an_inbox_may_be_empty_but_must_be_there(project: Any) -> None:
    assert run(project) == []
    project.set(inbox="nowhere")
    with pytest.raises(SettingsError, match="nowhere"):
        run(project)
    project.set(inbox="")
    with pytest.raises(SettingsError, match="no inbox"):
        run(project)
    with pytest.raises(NotFound):
        run(project, "other")


def test_the_holdout_has_the_rules_of_the_first_source(project: Any) -> None:
    project.set(key=("id",), holdout=HoldoutSpec(inbox="test"))
    source = source_of(project.parts.settings, "holdout")
    assert (source.inbox, source.key) == ("test", ("id",))
    project.put("t.csv", HEAD + "1,0.5,yes\n", inbox="test")
    assert run(project, "holdout")[0].accepted == 1
    project.set(sources={"holdout": Source(inbox="in")})
    with pytest.raises(SettingsError, match="holdout"):
        run(project, "holdout")


def test_a_store_fault_is_not_a_bad_file(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise StoreFault("disk full")

    project.put("a.csv", HEAD + "1,0.5,yes\n")
    monkeypatch.setattr(project.parts.tables, "append", full)
    with pytest.raises(StoreFault):
        run(project)
    assert kinds(project) == []


def test_an_inbox_on_s3(project: Any, bucket: Any) -> None:
    bucket.put_object(Key="land/a.csv", Body=(HEAD + "1,0.5,yes\n").encode())
    bucket.put_object(Key="land/deep/b.csv.gz", Body=gzip.compress((HEAD + "2,0.5,no\n").encode()))
    bucket.put_object(Key="land/_tmp/c.csv", Body=b"x")
    project.set(inbox=f"s3://{bucket.name}/land")
    assert [(result.name, result.status) for result in run(project)] == [
        ("a.csv", "accepted"),
        ("deep/b.csv.gz", "accepted"),
    ]
    assert [row["id"] for row in rows(project)] == [1, 2]
    assert run(project) == []
    bucket.put_object(Key="land/a.csv", Body=(HEAD + "1,0.5,yes\n3,0.5,no\n").encode())
    (result,) = run(project)
    assert (result.accepted, result.duplicates) == (1, 1)


def test_the_real_stores(project: Any, tmp_path: Path) -> None:
    ledger = SqlLedger(open_database(tmp_path / "state.db"), project.parts.clock)
    project.parts = replace(project.parts, ledger=ledger, tables=DeltaTables(tmp_path / "tables", project.parts.clock))
    project.turn = replace(project.turn, fence=ledger.acquire("turn", ttl_s=1e9))
    project.set(key=("id",), new_columns="add", max_bad_rows=0.5)
    project.put("a.csv", "id,x,t,y\n1,5,2026-01-01T00:00:00,yes\n2,6,2026-01-01T00:00:00,no\n")
    project.put("b.csv", "id,x,t,y,z\n2,6.5,2026-01-02T00:00:00,no,1\n3,7,2026-01-02T00:00:00,no,\n4,bad,,,\n")
    first, second = run(project)
    assert (first.accepted, second.accepted, second.updated, second.quarantined) == (2, 2, 1, 1)
    assert second.sequence > first.sequence
    found = project.parts.tables.scan("sources/data").sort("_seq", "_row").collect()
    assert found.select("id", "x", "z").rows() == [(1, 5.0, None), (2, 6.0, None), (2, 6.5, 1), (3, 7.0, None)]
    assert run(project) == []
    assert project.parts.ledger.verify().broken_at is None
    ledger.close()


# ---- the invariant

slots = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=6), min_size=1, max_size=5
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(slots=slots, kills=st.sets(st.integers(0, 12)))
def test_rows_are_there_exactly_once_whatever_is_killed(
    new_project: Callable[..., Any],
    slots: list[list[tuple[int, int]]],
    kills: set[int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    project = new_project(tmp_path_factory.mktemp("p").name, key=("id",))
    calls = [0]

    def mortal(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before, after = calls[0], calls[0] + 1
            calls[0] += 2
            if before in kills:
                raise _KilledError
            result = function(*args, **kwargs)
            if after in kills:
                raise _KilledError
            return result

        return call

    tables = project.parts.tables
    tables.append = mortal(tables.append)
    for number, slot in enumerate(slots):
        project.put(f"{number}.csv", "id,v\n" + "".join(f"{key},{value}\n" for key, value in slot))
    for _ in range(20):
        try:
            run(project)
            break
        except _KilledError:
            project.turn = replace(project.turn, id=project.turn.id + "+")
    expected: dict[int, int] = {}
    for number, slot in enumerate(slots):
        if slot not in slots[:number]:  # the same bytes again are repeated, not newer
            expected.update(slot)
    newest: dict[int, tuple[int, int, int]] = {}
    for row in rows(project):
        newest[row["id"]] = max(newest.get(row["id"], (-1, -1, -1)), (row["_seq"], row["_row"], row["v"]))
    assert {key: value for key, (_, _, value) in newest.items()} == expected
    accepted = [
        msgspec.convert(event.facts, FileResult) for event in project.parts.ledger.events(kinds=["file.accepted"])
    ]
    assert sum(result.accepted for result in accepted) == len(rows(project))
    assert run(project) == []


# ---- large files


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["", "1", "2", "3", "x"]),
                st.sampled_from(["", "1", "2.5", "7", "y"]),
                st.sampled_from(["", "a", "b"]),
            ),
            min_size=1,
            max_size=8,
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([("id",), ()]),
    st.sampled_from(["keep-last", "keep-first", "refuse"]),
)
def test_large_files_are_taken_in_like_small_ones(
    new_project: Callable[..., Any], files: list[list[tuple[str, ...]]], key: tuple[str, ...], policy: str
) -> None:
    """In slices, on disk and by hashes, or in one piece and by comparing: the same rows, cells, counts and layout."""
    outcomes = []
    for large in (False, True):
        project = new_project(uuid.uuid4().hex, key=key, on_duplicate=policy, max_bad_rows=0.5)
        with pytest.MonkeyPatch.context() as patch:
            if large:
                patch.setattr(slices, "SLICE_BYTES", 10)
                patch.setattr(spool, "BUDGET_BYTES", 100)
                patch.setattr(acceptance, "COMPARED_ROWS", 0)
            else:
                patch.setattr(Sifted, "steady", lambda *_: frozenset())
            results = []
            for number, rows in enumerate(files):
                project.put(f"{number}.csv", "id,n,t\n" + "".join(",".join(row) + "\n" for row in rows))
                results += ingest(project.parts, project.turn, "data")
        tables = []
        for name in ("sources/data", "quarantine/data"):
            known = project.parts.tables.version(name) is not None
            tables.append(project.parts.tables.scan(name).collect().rows() if known else None)
        told = [msgspec.structs.replace(result, seconds=0.0, at="") for result in results]
        outcomes.append((told, tables, project.parts.ledger.read("columns", "data", Layout)))
    assert outcomes[0][0] == outcomes[1][0]
    assert outcomes[0][1] == outcomes[1][1]
    assert outcomes[0][2] == outcomes[1][2]
