"""The loop with its lake in a bucket, by the program itself: of the project's memory only the ledger is local."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from e2e.small_project import TOML, TRAIN, make_project, write_rows
from infra.program import interlock

pytestmark = pytest.mark.slow

HALF_BLIND = TRAIN.replace("np.asarray(X, dtype=float)\n", "np.asarray(X, dtype=float) * [1, 0]\n")


def settle_in(project: Path, bucket: str, *, state: str = "sqlite", prefix: str = "lake") -> None:
    """Keep the lake in the bucket, and publish there."""
    toml = TOML.replace('output = "predictions"', f'output = "s3://{bucket}/{prefix}-predictions"')
    store = f'\n[store]\nlake = "s3://{bucket}/{prefix}"\nstate = "{state}"\n'
    (project / "interlock.toml").write_text(toml + store)


def keys(s3: Any, bucket: str, prefix: str) -> list[str]:
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return [item["Key"] for item in listed if ".interlock-tmp-" not in item["Key"]]


def changed(content: bytes) -> bytes:
    """One byte of it changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.fixture
def far(project: Path, bucket: str) -> Path:
    """The small project with its lake in a bucket."""
    assert HALF_BLIND != TRAIN
    (project / "train.py").write_text(HALF_BLIND)
    settle_in(project, bucket)
    return project


def test_the_whole_loop(far: Path, s3: Any, bucket: str) -> None:
    first = interlock(far, "run")
    assert first["outcome"] == "released"
    assert not (far / ".interlock" / "lake").exists()
    for part in ("lake/tables/sources/data/_delta_log/", "lake/snapshots/", "lake/bundles/", "lake/evidence/"):
        assert keys(s3, bucket, part), part
    assert interlock(far, "run")["outcome"] == "unchanged"

    write_rows(far / "inbox" / "b.csv", 400, 1500)
    write_rows(far / "to_score" / "later.csv", 30_000, 20, labelled=False)
    (far / "train.py").write_text(TRAIN)
    second = interlock(far, "run")
    assert (second["outcome"], second["release"]["generation"]) == ("released", 2)
    (name,) = keys(s3, bucket, "lake-predictions/later")
    body = s3.get_object(Bucket=bucket, Key=name)["Body"].read()
    answers = pl.read_parquet(body)
    assert (answers.height, answers["interlock_release"].unique().to_list()) == (20, [2])

    assert interlock(far, "verify")["problems"] == []
    assert interlock(far, "replay", str(second["receipt"]))["differences"] == []
    interlock(far, "report")
    assert list((far / "reports").rglob("*.html"))
    back = interlock(far, "rollback", "--because", "the new one is slower")
    assert (back["generation"], back["champion"]) == (3, first["candidate"])
    found = {each["name"]: each for each in interlock(far, "doctor")["findings"]}
    assert found["lake"]["state"] == "good"
    assert "written under a condition" in found["lake"]["fact"]


def test_a_changed_byte_and_a_missing_object_are_refused_by_name(far: Path, s3: Any, bucket: str) -> None:
    first = interlock(far, "run")
    key = f"lake/bundles/{first['candidate']}/model/model.pkl"
    good = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    s3.put_object(Bucket=bucket, Key=key, Body=changed(good))

    told = interlock(far, "verify", code=3)["problems"]  # although the copy in the cache is as it was
    assert len(told) == 1
    assert "model/model.pkl" in told[0]
    write_rows(far / "to_score" / "later.csv", 30_000, 20, labelled=False)
    shutil.rmtree(far / ".interlock" / "cache")
    refused = interlock(far, "run", code=3)
    assert [problem["code"] for problem in refused["problems"]] == ["ChampionDamaged"]
    assert "model/model.pkl" in refused["problems"][0]["message"]
    assert [batch["tier"] for batch in refused["batches"]] == ["baseline"]
    write_rows(far / "to_score" / "evening.csv", 31_000, 20, labelled=False)

    s3.delete_object(Bucket=bucket, Key=key)
    (missing,) = interlock(far, "verify", code=3)["problems"]
    assert "model/model.pkl" in missing
    assert "is missing" in missing
    s3.put_object(Bucket=bucket, Key=key, Body=good)
    assert [batch["tier"] for batch in interlock(far, "run")["batches"]] == ["champion"]

    (part,) = keys(s3, bucket, "lake/tables/sources/data/part-")
    s3.delete_object(Bucket=bucket, Key=part)
    (lost,) = interlock(far, "verify", code=3)["problems"]
    assert part.rpartition("/")[2] in lost


def test_two_hosts_share_lake_and_ledger(tmp_path: Path, s3: Any, bucket: str) -> None:
    one = make_project(tmp_path / "one")
    settle_in(one, bucket, state=f"sqlite:///{tmp_path / 'state.db'}")
    two = tmp_path / "two"
    shutil.copytree(one, two)
    first = interlock(one, "run")
    assert first["outcome"] == "released"
    write_rows(two / "to_score" / "more.csv", 40_000, 25, labelled=False)
    there = interlock(two, "run")  # trains nothing, and scores with what the other host released
    assert there["outcome"] == "unchanged", there["sentence"]
    assert [(batch["rows"], batch["generation"]) for batch in there["batches"]] == [(25, 1)]
    assert interlock(two, "verify")["problems"] == []
    assert interlock(two, "replay", str(first["receipt"]))["differences"] == []
    assert interlock(one, "run")["outcome"] == "unchanged"


def test_another_project_in_the_same_lake_is_refused_before_a_row_is_mixed(
    far: Path, tmp_path: Path, s3: Any, bucket: str
) -> None:
    interlock(far, "run")
    before = keys(s3, bucket, "lake/")
    other = make_project(tmp_path / "other")
    write_rows(other / "inbox" / "a.csv", 5_000, 100)
    settle_in(other, bucket)
    refused = interlock(other, "run", code=2)
    assert "belongs to another state, that of project 'parts'" in refused["error"]["message"]
    assert keys(s3, bucket, "lake/") == before
    settle_in(other, bucket, prefix="other")
    assert [file["status"] for file in interlock(other, "run")["files"]] == ["accepted"]
    assert interlock(far, "run")["outcome"] == "unchanged"


def test_a_bucket_that_is_not_there_is_told_by_doctor_and_by_the_turn(far: Path) -> None:
    settle_in(far, "no-such-bucket-here")
    found = {each["name"]: each for each in interlock(far, "doctor", code=2)["findings"]}
    assert found["lake"]["state"] == "bad"
    assert "NoSuchBucket" in found["lake"]["fact"]
    refused = interlock(far, "run", code=3)
    assert refused["error"]["code"] == "StoreFault"
    assert "testing-secret" not in str(refused)
