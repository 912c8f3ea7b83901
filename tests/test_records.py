"""One way to bytes, one way to digests."""

import hashlib
import json
import math
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.answer.staging import Seal
from interlock.errors import StoreFault
from interlock.records import (
    BatchResult,
    Check,
    FileResult,
    Record,
    Snapshot,
    Training,
    canonical,
    digest,
    facts_of,
    moment,
    short,
    timestamp,
)

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_canonical_bytes_are_json_and_read_back_the_same(value: object) -> None:
    assert json.loads(canonical(value)) == value


@given(st.dictionaries(st.text(), st.integers(-(2**53), 2**53), min_size=2))
def test_the_order_of_keys_changes_nothing(value: dict[str, int]) -> None:
    assert canonical(dict(reversed(value.items()))) == canonical(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_carry_is_refused(value: float) -> None:
    with pytest.raises(StoreFault):
        canonical({"a": [1, {"b": value}]})


def test_a_digest_is_that_of_the_canonical_bytes() -> None:
    assert digest({"b": 1, "a": "é"}) == hashlib.sha256('{"a":"é","b":1}'.encode()).hexdigest()
    assert short(digest({})) == digest({})[:12]


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 1, 1)))  # noqa: DTZ001 - made aware below
def test_times_sort_as_text_and_read_back(naive: datetime) -> None:
    aware = naive.replace(tzinfo=UTC)
    assert moment(timestamp(aware)) == aware


def test_records_become_plain_facts() -> None:
    assert facts_of(Check(name="a", passed=True, on_fail="keep", reason="r"))["observed"] is None


# ---- records of older versions -----------------------------------------------------------------------------------

SNAPSHOT = {
    "digest": "5" * 64,
    "sources": [{"source": "data", "version": 1, "rows": 3, "files": 1, "digest": "6" * 64}],
    "query": "",
    "columns": ["a", "y"],
    "rows": 3,
    "training_rows": 2,
    "holdout_rows": 1,
    "training_key": "snapshots/5/training.parquet",
    "holdout_key": "snapshots/5/holdout.parquet",
    "training_digest": "1" * 64,
    "holdout_digest": "2" * 64,
    "split": "by hash",
}
BATCH = {
    "name": "today.csv",
    "digest": "d" * 64,
    "status": "published",
    "generation": 1,
    "model": "c" * 64,
    "rows": 5,
    "scored": 5,
    "quarantined": 0,
}
TRAINING = {
    "digest": "7" * 64,
    "snapshot": "5" * 64,
    "code": "8" * 64,
    "params": {},
    "seed": 0,
    "status": "done",
    "seconds": 1.0,
    "peak_memory_bytes": 1,
    "rows": 2,
}
FILE = {"source": "data", "name": "a.csv", "digest": "9" * 64, "size_bytes": 1, "status": "accepted"}
SEAL = {"name": "today.csv", "file": "d" * 64, "model": "c" * 64, "generation": 1, "form": "linear", "at": "2026"}
OLDER: list[tuple[type[Record], dict[str, object], dict[str, object]]] = [
    (Snapshot, SNAPSHOT, {"references": (), "join_notes": (), "contracts": {}, "at": ""}),
    (BatchResult, BATCH, {"tier": "champion", "classes": (), "reason": "", "at": ""}),
    (Training, TRAINING, {"metrics": {}, "notebook": "", "error": ""}),
    (FileResult, FILE, {"rows": 0, "notes": (), "first_name": ""}),
    (Seal, SEAL, {"tier": "champion", "classes": (), "tally": None}),
]


@pytest.mark.parametrize(("kind", "told", "added"), OLDER, ids=lambda value: getattr(value, "__name__", ""))
def test_what_an_older_version_recorded_is_read(
    kind: type[Record], told: dict[str, object], added: dict[str, object]
) -> None:
    """Fields that came later have a value; what a newer version will add is passed over."""
    content = json.dumps({**told, "a_field_of_tomorrow": [1]}).encode()
    found = msgspec.json.decode(content, type=kind)
    assert {name: getattr(found, name) for name in added} == added
    again = json.loads(canonical(found))
    assert {name: again[name] for name in told} == told
    assert msgspec.json.decode(canonical(found), type=kind) == found
