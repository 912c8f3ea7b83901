"""When each request is due."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.load.plan import Plan, Schedule


@given(st.floats(min_value=0.5, max_value=500), st.floats(min_value=1, max_value=10))
def test_every_request_is_due_at_its_time_and_none_after_the_end(rate: float, duration_s: float) -> None:
    schedule = Schedule(rate, duration_s)
    due = []
    while (at := schedule.next()) is not None:
        due.append(at)
    assert due == pytest.approx([place / rate for place in range(len(due))])
    assert due[-1] < duration_s <= due[-1] + 1 / rate + 1e-9
    assert list(schedule.rest(duration_s)) == []


@given(st.integers(min_value=0, max_value=50), st.floats(min_value=0, max_value=12))
def test_what_was_due_and_not_taken_is_the_rest(taken: int, until_s: float) -> None:
    schedule = Schedule(10.0, 8.0)
    for _ in range(taken):
        schedule.next()
    rest = list(schedule.rest(until_s))
    assert rest == [place / 10.0 for place in range(taken, 80) if place / 10.0 < min(until_s, 8.0)]


def test_long_runs_have_long_intervals() -> None:
    def plan(duration_s: float) -> Plan:
        return Plan(url="", route="", bodies=(), users=1, duration_s=duration_s, seed=0)

    assert plan(30).interval_s == 1.0
    assert plan(3_600).interval_s == 15.0
