import hashlib
import io
import itertools
import random
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interlock.data.content import rows_digest
from interlock.data.ingest import ingest
from interlock.data.snapshot import make_snapshot, require_intact, snapshot_frame
from interlock.errors import DataRefused, SettingsError, StoreFault
from interlock.records import Snapshot
from interlock.settings import HoldoutSpec, Source


def lines(ids: Any, shift: float = 0.0) -> str:
    return "id,x,y\n" + "".join(f"{n},{n / 2 + shift},{'yes' if n % 2 else 'no'}\n" for n in ids)


def snap(project: Any) -> Snapshot:
    for source in project.parts.settings.sources:
        ingest(project.parts, project.turn, source)
    if project.parts.settings.data.holdout.inbox:
        ingest(project.parts, project.turn, "holdout")
    return make_snapshot(project.parts, project.turn)


def frames(project: Any, snapshot: Snapshot) -> tuple[pl.DataFrame, pl.DataFrame]:
    keys = (snapshot.training_key, snapshot.holdout_key)
    training, holdout = (snapshot_frame(project.parts, key).collect() for key in keys)
    return training, holdout


def test_rows_are_split_by_the_hash_of_the_key(project: Any) -> None:
    project.set(key=("id",))
    project.put("a.csv", lines(range(200)))
    snapshot = snap(project)
    training, holdout = frames(project, snapshot)
    limit = round(0.3 * 2**60)
    judged = {n for n in range(200) if int(hashlib.md5(str(n).encode()).hexdigest()[:15], 16) < limit}
    assert set(holdout["id"]) == judged
    assert set(training["id"]) == set(range(200)) - judged
    assert training.columns == ["id", "x", "y"] == list(snapshot.columns)
    assert (snapshot.rows, snapshot.training_rows, snapshot.holdout_rows) == (200, training.height, holdout.height)
    assert snapshot.split == "fraction 0.3 by MD5 of key id"
    assert snapshot.sources[0].rows == 200


def test_an_unchanged_project_is_recognised_without_work(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.put("a.csv", lines(range(50)))
    snapshot = snap(project)

    def never(*_: Any) -> None:
        raise AssertionError("worked again")

    monkeypatch.setattr(project.parts.tables, "scan", never)
    assert make_snapshot(project.parts, project.turn) == snapshot
    assert [event.kind for event in project.parts.ledger.events()] == ["file.accepted", "snapshot.made"]


def test_a_file_of_duplicates_makes_no_new_snapshot(project: Any) -> None:
    project.put("a.csv", lines(range(50)))
    first = snap(project)
    project.put("b.csv", lines(range(20)))
    assert snap(project) == first


def test_lost_blobs_are_made_again(project: Any) -> None:
    project.put("a.csv", lines(range(50)))
    first = snap(project)
    project.parts.blobs.delete(first.holdout_key)
    second = snap(project)
    assert second.holdout_digest == first.holdout_digest
    assert project.parts.blobs.exists(first.holdout_key)


def test_a_row_once_in_the_holdout_never_leaves_it(project: Any) -> None:
    project.set(key=("id",))
    project.put("a.csv", lines(range(100)))
    before = frames(project, snap(project))
    project.put("b.csv", lines(range(50, 300), shift=0.25))
    after = frames(project, snap(project))
    assert set(before[1]["id"]) <= set(after[1]["id"])
    assert set(before[0]["id"]) <= set(after[0]["id"])
    assert after[0].height + after[1].height == 300
    assert after[0].filter(pl.col("id") == after[0]["id"].max())["x"][0] % 0.5 == 0.25


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 59), max_size=3, unique=True), keyed=st.booleans())
def test_the_same_rows_give_the_same_digests_however_they_came(
    new_project: Callable[..., Any], seed: int, cuts: list[int], keyed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ids = list(range(60))
    more = {"key": ("id",)} if keyed else {}
    whole = new_project(tmp_path_factory.mktemp("w").name, **more)
    whole.put("a.csv", lines(ids))
    parts = new_project(tmp_path_factory.mktemp("p").name, **more)
    random.Random(seed).shuffle(ids)
    edges = [0, *sorted(cuts), 60]
    for start, end in itertools.pairwise(edges):
        parts.put(f"{start:03}.csv", lines(ids[start:end]))
    one, other = snap(whole), snap(parts)
    assert (one.training_digest, one.holdout_digest) == (other.training_digest, other.holdout_digest)


def test_another_value_gives_another_digest() -> None:
    frame = pl.DataFrame({"a": [1, 2], "s": ["", None], "f": [0.1, 2.0]})
    digests = {
        rows_digest(each.lazy())
        for each in (
            frame,
            frame.rename({"a": "b"}),
            frame.with_columns(pl.col("a").cast(pl.Float64)),
            frame.with_columns(s=pl.Series([None, ""])),
            frame.with_columns(f=pl.Series([0.1 + 1e-16, 2.0])),
            frame.reverse(),
        )
    }
    assert len(digests) == 6
    assert rows_digest(frame.lazy()) == rows_digest(frame.lazy())


def test_new_training_rows_leave_the_holdouts_digest_alone(project: Any) -> None:
    project.set(key=("id",), holdout=HoldoutSpec(inbox="test"))
    project.put("a.csv", lines(range(50)))
    project.put("t.csv", lines(range(40, 60)), inbox="test")
    first = snap(project)
    training, holdout = frames(project, first)
    assert (set(training["id"]), set(holdout["id"])) == (set(range(40)), set(range(40, 60)))
    assert first.join_notes == ("10 rows were left out of training: their key is in the holdout",)
    assert [source.source for source in first.sources] == ["data", "holdout"]
    project.put("b.csv", lines(range(100, 120)))
    second = snap(project)
    assert second.holdout_digest == first.holdout_digest
    assert second.training_digest != first.training_digest
    assert second.digest != first.digest


def test_the_newest_rows_are_judged_in_a_split_by_time(project: Any) -> None:
    project.set(holdout=HoldoutSpec(last="2d", time="day"), nullable=("day",))
    rows = [f"{n},2026-01-{n + 1:02},{'yes' if n % 2 else 'no'}" for n in (3, 0, 2, 1, 9, 4)] + ["77,,no"]
    project.put("a.csv", "id,day,y\n" + "\n".join(rows) + "\n")
    snapshot = snap(project)
    training, holdout = frames(project, snapshot)
    assert training["id"].to_list() == [0, 1, 2, 3, 4]
    assert holdout["id"].to_list() == [9]
    assert "1 rows without a day were left out" in snapshot.join_notes
    project.put("b.csv", "id,day,y\n20,2026-01-11,yes\n")
    assert frames(project, snap(project))[1]["id"].to_list() == [9, 20]


def test_rows_without_a_target_are_left_out_and_counted(project: Any) -> None:
    project.set(nullable=("y",))
    project.put("a.csv", lines(range(50)) + "99,1,\n98,1,\n")
    snapshot = snap(project)
    assert snapshot.rows == 50
    assert snapshot.join_notes == ("2 rows without a target were left out",)


# ---- several sources


@pytest.fixture
def joined(project: Any) -> Any:
    project.set(
        sources={"orders": Source(inbox="orders", key=("id",)), "shops": Source(inbox="shops", key=("shop",))},
        query="select o.*, s.city from orders o join shops s using (shop)",
    )
    project.put("a.csv", "id,shop,y\n" + "".join(f"{n},{n % 5},{n % 2}\n" for n in range(60)), inbox="orders")
    project.put("a.csv", "shop,city\n0,A\n1,B\n2,C\n3,D\n9,Z\n", inbox="shops")
    return project


def test_a_join_tells_what_it_dropped(joined: Any) -> None:
    snapshot = snap(joined)
    assert snapshot.rows == 48
    assert snapshot.columns == ("id", "shop", "y", "city")
    assert snapshot.join_notes == (
        "orders: 12 of 60 rows are not in the result of the query",
        "shops: 1 of 5 rows are not in the result of the query",
    )
    assert snapshot.split.endswith("key id")
    again = make_snapshot(joined.parts, joined.turn)
    assert again == snapshot


def test_a_join_tells_what_it_multiplied(joined: Any) -> None:
    joined.set(query="select o.*, s.city from orders o cross join shops s")
    snapshot = snap(joined)
    assert snapshot.rows == 300
    assert "orders: 60 rows became 300 in the query" in snapshot.join_notes


def test_a_join_without_keys_tells_the_totals(joined: Any) -> None:
    joined.set(query="select count(*) as n, min(y) as y, id % 7 as g from orders group by g union all select 1, 0, 99")
    joined.set(holdout=HoldoutSpec(fraction=0.3, key=("n", "y", "g")))
    joined.model(task="custom")
    snapshot = snap(joined)
    assert "orders: 60 rows went into the query, 8 came out" in snapshot.join_notes


def test_the_query_sees_the_newest_row_of_a_key(joined: Any) -> None:
    snap(joined)
    joined.put("b.csv", "shop,city\n0,Aachen\n", inbox="shops")
    training, holdout = frames(joined, snap(joined))
    cities = pl.concat([training, holdout]).filter(pl.col("shop") == 0)["city"].unique().to_list()
    assert cities == ["Aachen"]


def test_the_holdouts_inbox_goes_through_the_query_too(joined: Any) -> None:
    joined.set(holdout=HoldoutSpec(inbox="test"))
    joined.put("t.csv", "id,shop,y\n1,1,1\n70,2,0\n", inbox="test")
    training, holdout = frames(joined, snap(joined))
    assert holdout.sort("id").rows() == [(1, 1, 1, "B"), (70, 2, 0, "C")]
    assert 1 not in training["id"]


def test_several_sources_need_a_query(joined: Any) -> None:
    joined.set(query="")
    with pytest.raises(SettingsError, match=r"no data\.query"):
        snap(joined)


def test_a_query_that_loses_the_key_needs_another_to_split_by(joined: Any) -> None:
    joined.set(query="select o.shop, o.y, s.city from orders o join shops s using (shop)")
    with pytest.raises(SettingsError, match="leaves out 'id'") as caught:
        snap(joined)
    assert "data.holdout.key" in caught.value.next_step
    joined.set(holdout=HoldoutSpec(fraction=0.78, key=("shop",)))
    training, holdout = frames(joined, snap(joined))
    assert not set(training["shop"]) & set(holdout["shop"])


def test_sql_that_is_wrong_is_told(joined: Any) -> None:
    joined.set(query="select * from order")
    with pytest.raises(SettingsError, match=r"data\.query failed"):
        snap(joined)


# ---- nothing to learn from


def test_no_rows_yet(project: Any) -> None:
    with pytest.raises(DataRefused, match="No rows were accepted yet from source 'data'"):
        snap(project)


@pytest.mark.parametrize(
    ("change", "content", "words"),
    [
        ({}, lines([1]), "holdout would have no rows|training would have no rows"),
        ({}, lines(range(0, 100, 2)), "one class only"),
        ({"holdout": HoldoutSpec(fraction=0.3, key=("who",))}, lines(range(50)), "names column 'who'"),
        ({"holdout": HoldoutSpec(last="2d", time="when")}, lines(range(50)), "names column 'when'"),
        ({"holdout": HoldoutSpec(last="2d", time="x")}, lines(range(50)), "no date or time"),
        ({"holdout": HoldoutSpec(last="2d")}, lines(range(50)), "needs a time column"),
        ({"holdout": HoldoutSpec()}, lines(range(50)), "no rule"),
    ],
)
def test_what_cannot_work_is_told(project: Any, change: dict[str, Any], content: str, words: str) -> None:
    project.set(**change)
    project.put("a.csv", content)
    with pytest.raises((DataRefused, SettingsError), match=words) as caught:
        snap(project)
    assert caught.value.next_step
    assert not list((project.root / ".interlock" / "work" / "turn-1").iterdir())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"target": "z"}, "model.target names column 'z'"),
        ({"features": ("x", "w")}, "model.features names column 'w'"),
        ({"task": "regression"}, "a regression needs numbers"),
    ],
)
def test_a_model_that_does_not_fit_the_data(project: Any, model: dict[str, Any], words: str) -> None:
    project.put("a.csv", lines(range(50)))
    project.model(**model)
    with pytest.raises((DataRefused, SettingsError), match=words):
        snap(project)


def test_a_feature_named_after_the_snapshot_was_made_is_held_against_it(project: Any) -> None:
    project.put("a.csv", lines(range(50)))
    snap(project)
    project.model(features=("x", "w"))
    with pytest.raises(SettingsError, match=r"model\.features names column 'w'"):
        make_snapshot(project.parts, project.turn)


@pytest.mark.parametrize("part", ["training", "holdout"])
def test_rows_that_were_exchanged_are_not_used(project: Any, part: Any) -> None:
    project.put("a.csv", lines(range(50)))
    snapshot = snap(project)
    require_intact(project.parts, snapshot, part)
    keys = {"training": snapshot.training_key, "holdout": snapshot.holdout_key}
    frame = snapshot_frame(project.parts, keys[part]).collect()
    project.parts.blobs.delete(keys[part])
    other = io.BytesIO()
    frame.with_columns(pl.col("x") + 1).write_parquet(other)
    project.parts.blobs.put(keys[part], other.getvalue())
    with pytest.raises(StoreFault, match=f"The {part} rows in .* are not those that were pinned") as caught:
        require_intact(project.parts, snapshot, part)
    assert "Delete" in caught.value.next_step
    project.parts.blobs.delete(keys[part])
    project.parts.blobs.put(keys[part], b"no parquet")
    with pytest.raises(StoreFault):
        require_intact(project.parts, snapshot, part)
    project.parts.blobs.delete(keys[part])
    require_intact(project.parts, make_snapshot(project.parts, project.turn), part)
