"""Latencies in bins: percentiles close to the exact ones, and intervals that can be added."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.load.tally import Interval, Recorder, percentile, together

LATENCIES_S = st.lists(st.floats(min_value=1e-6, max_value=20.0), min_size=1, max_size=200)


def counted(latencies_s: list[float]) -> Interval:
    recorder = Recorder()
    for latency_s in latencies_s:
        recorder.answer(latency_s, "champion", "1")
    return recorder.take(1.0, 0.5)


@given(LATENCIES_S, st.floats(min_value=0.001, max_value=1.0))
def test_a_percentile_is_at_most_one_per_cent_above_the_exact_one(latencies_s: list[float], share: float) -> None:
    exact_ms = sorted(latencies_s)[max(math.ceil(share * len(latencies_s) - 1e-9), 1) - 1] * 1e3
    assert exact_ms * 0.999 - 0.001 <= percentile(counted(latencies_s), share) <= exact_ms * 1.0101 + 0.001


@given(LATENCIES_S)
def test_the_longest_is_exact(latencies_s: list[float]) -> None:
    assert percentile(counted(latencies_s), 1.0) == pytest.approx(max(latencies_s) * 1e3, abs=0.001)


@given(st.lists(LATENCIES_S, min_size=1, max_size=4))
def test_intervals_together_are_what_one_would_have_counted(pieces: list[list[float]]) -> None:
    whole = together(map(counted, pieces))
    alone = counted([each for piece in pieces for each in piece])
    assert whole.latencies == alone.latencies
    assert (whole.longest_us, whole.answered) == (alone.longest_us, alone.answered)


def test_what_was_waited_for_in_vain_is_a_latency_and_what_was_refused_is_not() -> None:
    recorder = Recorder()
    recorder.answer(0.001, "champion", "1")
    recorder.failure("status 503")
    recorder.failure("timed out", 10.0)
    found = recorder.take(2.0, 0.1)
    assert (found.answered, found.failed) == (1, 2)
    assert sum(found.latencies.values()) == 2
    assert percentile(found, 1.0) == 10_000


def test_taking_begins_the_next_interval() -> None:
    recorder = Recorder()
    recorder.answer(0.001, "champion", "1")
    assert recorder.take(1.0, 0.0).end_s == 1.0
    empty = recorder.take(2.5, 0.0)
    assert (empty.begin_s, empty.end_s, empty.answered, empty.longest_us) == (1.0, 2.5, 0, 0)
    assert percentile(empty, 0.99) == 0.0


def test_an_interval_travels_as_json() -> None:
    found = counted([0.001, 0.5])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Interval) == found


def test_the_senders_own_work_is_weighed_by_time() -> None:
    pieces = [Interval(begin_s=0, end_s=1, busy=1.0), Interval(begin_s=1, end_s=4, busy=0.2)]
    assert together(pieces).busy == pytest.approx((1.0 + 3 * 0.2) / 4)
