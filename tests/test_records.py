"""One way to bytes, one way to digests."""

import hashlib
import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import StoreFault
from interlock.records import Check, canonical, digest, facts_of, moment, short, timestamp

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
