"""Tables in a bucket: the same suite as on a disk, and what only a network can do."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from infra.faulty_proxy import KINDS, FaultyProxy
from interlock.errors import StoreFault
from interlock.store import tables as module
from interlock.store.cache import Cache
from interlock.store.objects import ObjectBlobs
from interlock.store.patience import Patience
from interlock.store.table_files import ObjectFiles
from interlock.store.tables import DeltaTables
from interlock.testing.clock import ManualClock
from interlock.testing.conformance import TablesConformance

ROWS = pl.DataFrame({"a": [1, 2], "b": ["x", None]})
QUICK = Patience(request_s=1.0, sleep=lambda _seconds: None)


def in_bucket(url: str, cache: Path, clock: ManualClock | None = None) -> DeltaTables:
    blobs = ObjectBlobs(url, QUICK)
    return DeltaTables(lambda table: ObjectFiles(blobs, f"tables/{table}", Cache(cache, 10**9)), clock)


class TestTablesInABucket(TablesConformance):
    @pytest.fixture(autouse=True)
    def _bucket(self, bucket):
        self.bucket = bucket

    def open(self, folder: Path) -> DeltaTables:
        return in_bucket(f"s3://{self.bucket}/a lake/ü", folder / "cache")


@pytest.fixture
def url(bucket):
    return f"s3://{bucket}/lake"


@pytest.fixture
def tables(url, tmp_path):
    return in_bucket(url, tmp_path / "cache")


def keys(s3, url: str) -> list[str]:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/tables/").get("Contents", [])
    return [item["Key"].removeprefix(f"{prefix}/tables/") for item in listed]


def test_another_host_reads_what_this_one_wrote(tables, url, tmp_path):
    tables.append("t", ROWS, commit_key="1", facts={"n": 1})
    other = in_bucket(url, tmp_path / "other")
    assert other.scan("t").collect().equals(ROWS)
    assert other.committed("t", "1") == tables.committed("t", "1")
    other.append("t", ROWS, commit_key="2", facts={})
    assert tables.version("t") == 1
    assert tables.scan("t").collect().height == 4
    files = tables.paths("t")
    assert duckdb.sql("select sum(a) from read_parquet($files)", params={"files": files}).fetchall() == [(6,)]
    assert all(Path(path).is_relative_to(tmp_path / "cache") for path in files)


def test_two_writers_at_once_take_different_versions(url, tmp_path):
    one, two = in_bucket(url, tmp_path / "1"), in_bucket(url, tmp_path / "2")
    one.append("t", ROWS, commit_key="0", facts={})
    assert two.version("t") == 0
    for number in range(3):
        one.append("t", ROWS, commit_key=f"a{number}", facts={})
        two.append("t", ROWS, commit_key=f"b{number}", facts={})
    assert one.version("t") == 6
    assert one.scan("t").collect().height == 14
    versions = [one.committed("t", f"{name}{number}").version for number in range(3) for name in "ab"]
    assert versions == [1, 2, 3, 4, 5, 6]


def test_lost_and_changed_objects_are_named(tables, url, s3, tmp_path):
    tables.append("t", ROWS, commit_key="1", facts={})
    tables.append("t", ROWS, commit_key="2", facts={})
    first, second = [key for key in keys(s3, url) if key.endswith(".parquet")]
    assert tables.absent("t") == []
    bucket = url.split("/")[2]
    s3.delete_object(Bucket=bucket, Key=f"lake/tables/{first}")
    s3.put_object(Bucket=bucket, Key=f"lake/tables/{second}", Body=b"short")
    assert tables.absent("t") == [first.removeprefix("t/"), second.removeprefix("t/")]
    fresh = in_bucket(url, tmp_path / "fresh")
    with pytest.raises(StoreFault, match="lost rows") as caught:
        fresh.scan("t")
    assert first in caught.value.message
    s3.put_object(Bucket=bucket, Key=f"lake/tables/{first}", Body=b"short")
    with pytest.raises(StoreFault, match="has 5 bytes"):
        fresh.scan("t")
    assert list((tmp_path / "fresh").rglob("*.parquet")) == []


def test_orphans_are_swept_after_a_checkpoint_and_nothing_else(url, s3, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHECKPOINT_COMMITS", 3)
    clock = ManualClock(datetime.now(UTC) + timedelta(days=2))
    tables = in_bucket(url, tmp_path / "cache", clock)
    tables.append("t", ROWS, commit_key="0", facts={})
    bucket = url.split("/")[2]
    orphan = "lake/tables/t/part-00000000000000000009-dead.parquet"
    s3.put_object(Bucket=bucket, Key=orphan, Body=b"half")
    tables.maintain("t")
    assert orphan.removeprefix("lake/tables/") in keys(s3, url)
    tables.replace("t", ROWS.lazy(), commit_key="1", facts={})
    tables.append("t", ROWS, commit_key="2", facts={})
    tables.maintain("t")
    left = keys(s3, url)
    assert orphan.removeprefix("lake/tables/") not in left
    assert sum(key.endswith(".parquet") and "_delta_log" not in key for key in left) == 3
    assert any("checkpoint.parquet" in key for key in left)
    assert tables.scan("t", 0).collect().equals(ROWS)
    assert in_bucket(url, tmp_path / "fresh").scan("t").collect().height == 4


# ---- faults ------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(s3_endpoint, s3, monkeypatch):
    with FaultyProxy(s3_endpoint).running() as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


def commit_twice(tables: DeltaTables) -> None:
    tables.append("t", ROWS, commit_key="1", facts={"n": 1})
    tables.append("t", ROWS.with_columns(c=pl.lit(0.5)), commit_key="2", facts={"n": 2})
    tables.scan("t").collect()


def test_commits_are_conditional(proxy, url, tmp_path):
    commit_twice(in_bucket(url, tmp_path))
    commits = [seen for seen in proxy.seen if seen.method == "PUT"]
    assert any(seen.path.endswith("00000000000000000001.json") for seen in commits)
    assert all(seen.conditional for seen in commits)


def cases(seen):
    """Every request x kind with ``TESTS_FAULTS=all``; else every put with a lost reply, and some others in turn."""
    if os.environ.get("TESTS_FAULTS") == "all":
        return [(each.number, kind) for each in seen for kind in KINDS]
    puts = [(each.number, "reset-after") for each in seen if each.method == "PUT"]
    return puts + [(each.number, KINDS[place % len(KINDS)]) for place, each in enumerate(seen[::5])]


@pytest.mark.slow
@pytest.mark.timeout(3_600 if os.environ.get("TESTS_FAULTS") == "all" else 300)
def test_every_request_of_a_commit_may_fail_once(proxy, bucket, tmp_path):
    """However it fails, the rows are there exactly once, at the latest when it is tried again."""
    commit_twice(in_bucket(f"s3://{bucket}/undisturbed", tmp_path / "undisturbed"))
    assert len(proxy.seen) > 15
    for at, kind in cases(list(proxy.seen)):
        quick = Patience(request_s=0.3 if "hang" in kind else 1.0, sleep=lambda _seconds: None)
        blobs = ObjectBlobs(f"s3://{bucket}/{at}-{kind}", quick)
        files, cache = {}, Cache(tmp_path / f"{at}-{kind}", 10**9)

        def place(table, blobs=blobs, files=files, cache=cache):
            return files.setdefault(table, ObjectFiles(blobs, f"tables/{table}", cache))

        tables = DeltaTables(place)
        proxy.reset(lambda number, at=at, kind=kind: kind if number == at else None)
        try:
            commit_twice(tables)
        except StoreFault:
            proxy.reset()
            commit_twice(DeltaTables(place))  # as the next turn would
        proxy.reset()
        found = DeltaTables(place)
        assert found.scan("t").collect().height == 4, (at, kind)
        assert found.absent("t") == []
        assert found.committed("t", "1").facts == {"n": 1}
        assert found.committed("t", "2").facts == {"n": 2}


def test_a_commit_that_nobody_can_tell_of_is_unknown_and_found_later(proxy, url, tmp_path):
    tables = in_bucket(url, tmp_path / "cache")
    tables.append("t", ROWS, commit_key="1", facts={})

    def plan(_number):
        committed = [seen for seen in proxy.seen if seen.path.endswith("00000000000000000001.json")]
        if not committed:
            return None
        return "reset-after" if proxy.seen[-1] is committed[0] and committed[0].method == "PUT" else "503"

    proxy.reset(plan)
    with pytest.raises(StoreFault, match="Nobody can say") as caught:
        tables.append("t", ROWS, commit_key="2", facts={"n": 2})
    assert caught.value.facts["outcome"] == "unknown"
    proxy.reset()
    assert tables.committed("t", "2").version == 1
    assert tables.append("t", ROWS, commit_key="2", facts={"n": 3}).facts == {"n": 2}
    assert tables.scan("t").collect().height == 4
    assert not any(seen.method == "DELETE" for seen in proxy.seen)
