"""The trial of a challenger: what is judged, and a machine that never lets a dropped one back."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from interlock.release.canary import (
    KINDS,
    Call,
    End,
    Ended,
    Refused,
    Seen,
    Shown,
    State,
    Tally,
    Trial,
    advance,
    contradictions,
    judged,
    keeps_its_place,
    summed,
)
from interlock.release.evidence import Detector

TRIAL = Trial(
    began=2,
    challenger="c" * 64,
    champion="a" * 64,
    baseline="b" * 64,
    receipt=7,
    share=0.1,
    shadow=False,
    key="",
    rows=100,
    duration_s=60.0,
    tolerated=0.01,
    alarm=50.0,
    since="2026-11-21T02:30:52.000000Z",
)
WELL = Tally(worker="w", asked=100, answered=100, votes=50, levels={"model": 1.0, "environment": 1.0})


def verdict(*tallies, elapsed_s=60.0, trial=TRIAL):
    return judged(trial, tallies, elapsed_s).verdict


def test_enough_records_and_enough_time_promote():
    assert verdict(WELL) == "promote"
    assert verdict(replace(WELL, answered=99)) == "go-on"
    assert verdict(WELL, elapsed_s=59.9) == "go-on"
    assert verdict(elapsed_s=1e9) == "go-on", "nobody asked it"
    assert judged(TRIAL, (WELL,), 60.0).because == (
        "cccccccccccc answered 100 records in canary at 10 %; it failed 0 of 100 records that another model answered."
    )


def test_the_alarm_drops_it_whatever_else_was_seen():
    failed = replace(WELL, failed=3, levels={"model": 50.0, "environment": 1.0}, causes={"range": 2, "type": 1})
    assert verdict(failed) == verdict(failed, elapsed_s=0.0) == "drop"
    assert judged(TRIAL, (failed,), 60.0).because == (
        "cccccccccccc was dropped: it failed 3 of 100 records that another model answered (range 2, type 1)."
    )


def test_what_two_servers_saw_is_added():
    half = replace(WELL, asked=50, answered=50)
    assert verdict(half) == "go-on"
    assert verdict(half, replace(half, worker="v")) == "promote"
    near = replace(half, levels={"model": 26.0, "environment": 0.0})
    assert verdict(near) == "go-on"
    assert verdict(near, replace(near, worker="v")) == "drop"
    assert verdict(near, replace(near, levels={"model": 0.0, "environment": 26.0})) != "drop", "two kinds are not added"


def test_it_waits_for_a_person_when_it_fails_more_than_is_tolerated_without_an_alarm():
    assert verdict(replace(WELL, failed=1)) == "promote"
    assert verdict(replace(WELL, failed=2)) == "wait"
    assert verdict(replace(WELL, failed=2, asked=200, answered=198)) == "promote"


def test_newer_candidates_wait_but_not_for_ever():
    assert keeps_its_place(TRIAL, (), 0.0)
    assert keeps_its_place(TRIAL, (replace(WELL, answered=5),), 119.9)
    assert not keeps_its_place(TRIAL, (replace(WELL, answered=5),), 120.0)
    assert not keeps_its_place(TRIAL, (replace(WELL, failed=2),), 60.0), "it waits for a person"


def test_the_receipt_of_an_end_is_judged_again():
    seen = judged(TRIAL, (WELL,), 61.0)
    ended = Ended(outcome="promoted", by="evidence", because=seen.because, trial=TRIAL, tallies=(WELL,), elapsed_s=61.0)
    assert contradictions(ended) == ()
    assert contradictions(replace(ended, tallies=(replace(WELL, answered=3),)))[0].startswith("verdict:")
    assert contradictions(replace(ended, because="it was nice"))[0].startswith("because:")
    assert contradictions(replace(ended, by="person", outcome="dropped")) == ()


TIMED = replace(TRIAL, slower=2.0)
SLOW = replace(
    WELL,
    duels=40,
    slower=38,
    levels={"model": 1.0, "environment": 1.0, "latency": 50.0},
    times={"challenger": {"112": 40}, "champion": {"98": 30, "150": 10}},
)


def test_one_that_is_slower_is_dropped_and_the_receipt_tells_both_medians():
    seen = judged(TIMED, (SLOW,), 1.0)
    assert seen.verdict == "drop"
    assert seen.because == (
        "cccccccccccc was dropped: for the same records it took 17 ms in the median, the champion 5.1 ms, and in 38 of "
        "40 duels it took more than 2 times as long."
    )
    ended = Ended(outcome="dropped", by="evidence", because=seen.because, trial=TIMED, tallies=(SLOW,), elapsed_s=1.0)
    assert contradictions(ended) == ()
    faster = replace(SLOW, times={"challenger": {"98": 40}, "champion": {"98": 40}})
    assert contradictions(replace(ended, tallies=(faster,)))[0].startswith("because:")
    both = replace(SLOW, failed=2, levels={"model": 50.0, "latency": 50.0}, causes={"type": 2})
    assert judged(TIMED, (both,), 1.0).because.startswith("cccccccccccc was dropped: it failed 2 of 100 records that")
    assert "; for the same records it took 17 ms" in judged(TIMED, (both,), 1.0).because


def test_one_that_lost_most_duels_without_an_alarm_waits_for_a_person():
    calm = replace(SLOW, levels={"latency": 40.0})
    assert verdict(calm, trial=TIMED) == "wait"
    assert judged(TIMED, (calm,), 60.0).because.endswith("in 38 of 40 duels it took more than 2 times as long.")
    assert verdict(replace(calm, slower=20), trial=TIMED) == "promote"
    assert "; for the same records it took 17 ms" in judged(TIMED, (replace(calm, slower=20),), 60.0).because


def test_what_servers_saw_of_its_time_is_added():
    half = replace(SLOW, levels={"latency": 26.0}, asked=50, answered=50)
    assert verdict(half, trial=TIMED) == "go-on"
    assert verdict(half, replace(half, worker="v"), trial=TIMED) == "drop"
    assert summed((half, half)).times == {"challenger": {"112": 80}, "champion": {"150": 20, "98": 60}}
    assert verdict(half, replace(half, levels={"model": 26.0}), trial=TIMED) == "wait", "two kinds are not added"


tallies = st.builds(
    Tally,
    worker=st.sampled_from("uvw"),
    asked=st.integers(0, 500),
    answered=st.integers(0, 500),
    failed=st.integers(0, 500),
    levels=st.fixed_dictionaries({kind: st.floats(0, 1e301) for kind in KINDS}),
    causes=st.dictionaries(st.sampled_from(["type", "range"]), st.integers(0, 9)),
    duels=st.integers(0, 50),
    slower=st.integers(0, 50),
    times=st.fixed_dictionaries(
        {who: st.dictionaries(st.integers(0, 150).map(str), st.integers(1, 9)) for who in ("challenger", "champion")}
    ),
)


@given(st.lists(tallies, max_size=5), st.floats(0, 1e6))
def test_the_order_of_servers_and_how_they_are_cut_does_not_matter(seen, elapsed_s):
    assert judged(TRIAL, seen, elapsed_s) == judged(TRIAL, seen[::-1], elapsed_s)
    assert judged(TRIAL, seen, elapsed_s) == judged(TRIAL, [summed(seen)], elapsed_s)
    assert all(math.isfinite(level) for level in summed(seen).levels.values())


@pytest.mark.parametrize("servers", [1, 4])
def test_the_sum_of_the_levels_of_several_servers_cries_wolf_no_sooner(servers):
    """Mean votes until a false alarm, by all servers together, are at least the alarm level."""
    draw, alarm, waited = random.Random(servers), 300.0, []
    for _ in range(60):
        detectors = [Detector(0.02, math.inf) for _ in range(servers)]
        votes = 0
        while math.fsum(detector.level for detector in detectors) < alarm and votes < 20_000:
            draw.choice(detectors).vote(failed=draw.random() < 0.02)
            votes += 1
        waited.append(votes)
    assert sum(waited) / len(waited) >= alarm


# ---- the machine -------------------------------------------------------------------------------------------------

FAILED = replace(WELL, levels={"model": 60.0, "environment": 0.0}, failed=5)
RUNNING = State(trial=TRIAL, mode="running")


def test_it_is_dropped_in_memory_before_the_record_and_stays_so_when_that_is_refused():
    step = advance(RUNNING, Seen((FAILED,), 1.0))
    assert (step.state.mode, step.state.asks) == ("dropping", False)
    assert isinstance(step.act, End)
    assert advance(step.state, Seen((FAILED,), 2.0)).act is None, "its record is on its way"
    again = advance(step.state, Refused()).state
    assert not again.asks
    # by then other votes may have come: the end that was decided is what is recorded
    assert advance(again, Seen((WELL,), 3.0)) == (step.state, step.act)
    assert advance(step.state, Shown(TRIAL)).state == step.state, "the breaker made a release of the same trial"


def test_a_promotion_that_is_refused_is_judged_anew():
    step = advance(RUNNING, Seen((WELL,), 60.0))
    assert (step.state.mode, step.state.asks, step.act.verdict) == ("promoting", True, "promote")
    state = advance(step.state, Refused()).state
    assert state == RUNNING
    assert advance(state, Seen((FAILED,), 61.0)).act.verdict == "drop"


def test_people_are_called_once_while_it_waits():
    doubtful = replace(WELL, failed=2)
    step = advance(RUNNING, Seen((doubtful,), 60.0))
    assert isinstance(step.act, Call)
    assert "2 of 100 records" in step.act.message
    assert "A person must promote cccccccccccc, or roll it back." in step.act.message
    assert advance(step.state, Seen((doubtful,), 61.0)) == (step.state, None)
    assert advance(step.state, Seen((WELL,), 62.0)).act.verdict == "promote"
    assert advance(step.state, Seen((replace(WELL, answered=0),), 62.0)).state == RUNNING


def test_another_trial_begins_afresh():
    dropped = advance(RUNNING, Seen((FAILED,), 1.0)).state
    other = replace(TRIAL, began=5)
    assert advance(dropped, Shown(other)).state == State(trial=other, mode="running")
    assert advance(dropped, Shown(None)).state == State()
    assert advance(State(), Seen((FAILED,), 1.0)) == (State(), None)
    assert advance(State(), Refused()).state == State()


class Servers(RuleBasedStateMachine):
    """One server, a record that may refuse, and releases of others at any time."""

    def __init__(self):
        super().__init__()
        self.state, self.began = State(), 0
        self.dropped = set()
        self.outstanding = None

    def take(self, event):
        before = self.state
        self.state, act = advance(before, event)
        if isinstance(act, End):
            assert self.outstanding is None, "two ends at once"
            assert judged(before.trial, act.tallies, act.elapsed_s).verdict == act.verdict
            assert judged(before.trial, act.tallies, act.elapsed_s).because == act.because
            self.outstanding = (self.state.trial.began, act.verdict)
            if act.verdict == "drop":
                self.dropped.add(self.state.trial.began)

    @rule()
    def begin(self):
        self.began += 1
        self.outstanding = None
        self.take(Shown(replace(TRIAL, began=self.began)))
        assert self.state.asks

    @precondition(lambda self: self.state.trial is not None)
    @rule()
    def flip(self):
        """The breaker makes a release of the same trial."""
        before = self.state
        self.take(Shown(self.state.trial))
        assert self.state == before

    @rule()
    def end(self):
        self.outstanding = None
        self.take(Shown(None))
        assert not self.state.asks

    @rule(
        level=st.floats(0, 100),
        answered=st.integers(0, 200),
        failed=st.integers(0, 5),
        elapsed_s=st.floats(0, 120),
    )
    def see(self, level, answered, failed, elapsed_s):
        tally = Tally(
            worker="w", asked=answered + failed, answered=answered, failed=failed, levels={"model": level}, causes={}
        )
        self.take(Seen((tally,), elapsed_s))

    @precondition(lambda self: self.outstanding is not None)
    @rule()
    def refuse(self):
        self.outstanding = None
        self.take(Refused())

    @invariant()
    def a_dropped_one_is_never_asked_again(self):
        if self.state.trial is not None and self.state.trial.began in self.dropped:
            assert not self.state.asks

    @invariant()
    def an_end_is_on_its_way_exactly_when_it_was_ordered(self):
        assert self.state.is_ordered == (self.outstanding is not None)


Servers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestServers = Servers.TestCase
