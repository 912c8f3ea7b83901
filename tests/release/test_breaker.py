"""The breaker as a machine: what it must never do, and the traps that others fell into."""

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from interlock.release.breaker import (
    DAY_S,
    Alarm,
    BreakerPolicy,
    Call,
    Flip,
    Forced,
    Probed,
    Released,
    Reset,
    State,
    Tick,
    Tripped,
    Write,
    advance,
    permit,
    told,
)
from interlock.release.evidence import Reading

POLICY = BreakerPolicy(retry_s=10.0, most_retry_s=35.0, probes=3, probes_at_once=2, lease_s=5.0)
READING = Reading(level=20.0, alarm=10.0, votes=30, failures=5)
START = State(model="m1")


def alarm(state, now=0.0, kind="environment", cause="deadline"):
    return Alarm(now, state.epoch, kind, cause, READING)


def after(state, *events, policy=POLICY):
    for event in events:
        state = advance(state, event(state) if callable(event) else event, policy).state
    return state


def tripped(kind="environment", now=0.0):
    return advance(START, alarm(START, now, kind), POLICY)


def half_open():
    return after(tripped().state, Tick(10.0))


def kinds(step):
    return [act.kind for act in step.acts if isinstance(act, Write)]


def test_an_alarm_takes_the_champion_off_duty_and_says_so():
    step = tripped("model")
    assert (step.state.mode, step.state.route) == ("open", "last-good")
    assert step.acts[0] == Flip("last-good", 1)
    assert kinds(step) == ["breaker.tripped"]
    assert step.acts[1].facts["reading"]["failures"] == 5
    assert told(step.acts) == ["The champion was taken off duty (deadline); last good answers."]


def test_a_fault_of_the_model_is_quarantined_until_another_version():
    state = after(tripped("model").state, *[Tick(now * 1e4) for now in range(20)])
    assert state.mode == "open"
    assert after(state, Released(1e6, "m1", True)).mode == "open"
    step = advance(state, Released(1e6, "m2", True), POLICY)
    assert (step.state.mode, step.state.model) == ("closed", "m2")
    assert step.acts == (Flip("champion", step.state.epoch),)


def test_a_fault_of_the_environment_heals_by_probing():
    state = after(tripped().state, Tick(9.9))
    assert state.mode == "open"
    state = after(state, Tick(10.0))
    assert (state.mode, state.route) == ("half-open", "last-good")
    for number in range(3):
        state, leave = permit(state, 11.0 + number, POLICY)
        step = advance(state, Probed(11.5 + number, leave, True), POLICY)
        state = step.state
    assert state.mode == "closed"
    assert step.acts[0] == Flip("champion", state.epoch)
    assert kinds(step) == ["breaker.healed"]


def test_a_failed_probe_doubles_the_wait_up_to_the_longest():
    state, now, waits = tripped().state, 0.0, []
    for _ in range(4):
        waits.append(state.retry_at_s - now)
        now = state.retry_at_s
        state, leave = permit(after(state, Tick(now)), now, POLICY)
        state = after(state, Probed(now, leave, False))
        assert state.mode == "open"
    assert waits == [10.0, 20.0, 35.0, 35.0]


def test_a_leaked_permit_comes_back_by_itself():
    state, _ = permit(half_open(), 11.0, POLICY)
    state, _ = permit(state, 11.0, POLICY)
    assert permit(state, 12.0, POLICY)[1] is None
    assert permit(state, 16.0, POLICY)[1] is not None


def test_a_permit_whose_lease_has_ended_tells_nothing():
    state, leave = permit(half_open(), 11.0, POLICY)
    assert after(state, Probed(16.0, leave, True)).passed == 0
    assert after(state, Probed(16.0, leave, False)).mode == "half-open"


def test_a_cancelled_probe_tells_nothing_and_gives_its_permit_back():
    state, leave = permit(half_open(), 11.0, POLICY)
    state = after(state, Probed(12.0, leave, None))
    assert (state.mode, state.passed, state.permits) == ("half-open", 0, ())


def test_a_late_success_after_a_newer_trip_counts_nothing():
    state, old = permit(half_open(), 11.0, POLICY)
    state, other = permit(state, 11.0, POLICY)
    state = after(state, Probed(12.0, other, False))
    state = after(state, Tick(state.retry_at_s))
    assert state.mode == "half-open"
    assert after(state, Probed(13.0, old, True)).passed == 0
    assert after(state, Probed(13.0, old, False)).mode == "half-open"


def test_a_permit_counts_once():
    state, leave = permit(half_open(), 11.0, POLICY)
    state = after(state, Probed(12.0, leave, True), Probed(12.0, leave, True), Probed(12.0, leave, True))
    assert (state.mode, state.passed) == ("half-open", 1)


def test_no_more_probes_go_out_than_are_needed():
    state = half_open()
    for _ in range(2):
        state, leave = permit(state, 11.0, POLICY)
        state = after(state, Probed(11.0, leave, True))
    state, last = permit(state, 11.0, POLICY)
    assert last is not None
    assert permit(state, 11.0, POLICY)[1] is None


def test_an_alarm_of_an_older_epoch_is_not_heard():
    late = alarm(START)
    state = after(START, Released(1.0, "m2", True))
    assert advance(state, late, POLICY) == (state, ())
    assert advance(tripped().state, late, POLICY).acts == ()


def test_the_third_trip_of_a_day_pins_last_good_and_calls_people():
    state = START
    for number in range(2):
        state = after(state, alarm(state), Released(1.0, f"n{number}", True))
    step = advance(state, alarm(state, 5.0), POLICY)
    assert step.state.mode == "pinned"
    (message,) = told(step.acts)
    assert message.startswith(
        "The champion was taken off duty for the 3. time in a day (deadline); last good is pinned"
    )
    pinned = after(step.state, *[Tick(day * DAY_S) for day in range(5)])
    assert (pinned.mode, pinned.route) == ("pinned", "last-good")
    pinned = after(pinned, Released(9e9, "m9", True))
    assert (pinned.mode, pinned.model) == ("pinned", "m9")
    assert after(pinned, Tripped(9e9, "once more")).mode == "pinned"
    freed = after(pinned, Reset(9e9, "mended"))
    assert (freed.mode, freed.trips) == ("closed", ())


def test_trips_of_more_than_a_day_ago_are_forgotten():
    state = START
    for number in range(6):
        now = number * (DAY_S / 2 + 1)
        state = after(state, alarm(state, now), Released(now, f"n{number}", True))
        assert state.mode == "closed"
        assert len(state.trips) <= 2


def test_without_a_last_good_nothing_flips_and_people_are_called_once():
    state = State(model="m1", has_last_good=False)
    step = advance(state, alarm(state), POLICY)
    assert (step.state.mode, step.state.route) == ("closed", "champion")
    assert kinds(step) == ["breaker.would_trip"]
    assert told(step.acts) == ["The champion fails (deadline) and stays on duty: there is no last good model."]
    assert advance(step.state, alarm(step.state), POLICY).acts == ()


def test_observing_says_what_would_have_been_done():
    policy = msgspec.structs.replace(POLICY, observe=True)
    step = advance(START, alarm(START), policy)
    assert (step.state.mode, kinds(step)) == ("closed", ["breaker.would_trip"])
    assert not any(isinstance(act, Flip) for act in step.acts)
    assert advance(step.state, alarm(step.state), policy).acts == ()


def test_a_person_trips_resets_and_forces():
    state = after(START, Tripped(0.0, "I say so"))
    assert (state.mode, state.kind, state.trips) == ("open", "person", ())
    assert after(state, Tick(1e9)).mode == "open"
    assert after(state, Reset(1.0, "fine again")).route == "champion"
    forced = after(START, Forced(0.0, "open", "a test"))
    assert (forced.mode, forced.route) == ("closed", "last-good")
    held = after(START, Forced(0.0, "closed", "a test"))
    step = advance(held, alarm(held), POLICY)
    assert (step.state.route, kinds(step)) == ("champion", ["breaker.would_trip"])
    assert after(forced, Forced(1.0, None, "done")).route == "champion"


def test_the_state_survives_being_written_down():
    state, _ = permit(half_open(), 11.0, POLICY)
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state


class Machine(RuleBasedStateMachine):
    """Any events in any order. Time only goes forward; outcomes may be late, doubled, lost."""

    def __init__(self):
        super().__init__()
        self.state, self.now, self.route = START, 0.0, "champion"
        self.permits, self.epochs, self.trips = [], {0}, []
        self.shadowed = 0

    def go(self, event):
        before = self.state
        self.state, acts = advance(before, event, POLICY)
        flips = [act for act in acts if isinstance(act, Flip)]
        assert len(flips) == (self.state.route != before.route)
        for flip in flips:
            assert flip == Flip(self.state.route, self.state.epoch)
            self.route = flip.to
        if self.state.mode != before.mode or self.state.model != before.model:
            assert self.state.epoch > before.epoch
        if self.state.mode != before.mode:
            assert any(isinstance(act, Write) for act in acts) or isinstance(event, Released)
        if isinstance(event, Alarm) and self.state.mode in ("open", "pinned") and before.mode == "closed":
            self.trips.append(self.now)
            assert any(isinstance(act, Call) for act in acts)
        if before.mode == "pinned" and not isinstance(event, Reset):
            assert self.state.mode == "pinned"
        return acts

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 5.0, 10.0, 40.0, DAY_S]))
    def wait(self, seconds):
        self.now += seconds
        self.go(Tick(self.now))

    @rule(kind=st.sampled_from(["model", "environment"]), stale=st.integers(0, 2))
    def alarm(self, kind, stale):
        self.go(Alarm(self.now, self.state.epoch - stale, kind, "cause", READING))

    @rule()
    def ask(self):
        before = self.state
        self.state, leave = permit(self.state, self.now, POLICY)
        if leave is not None:
            assert before.mode == "half-open"
            assert len(self.state.permits) <= POLICY.probes_at_once
            self.permits.append(leave)

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), well=st.sampled_from([True, False, None]), keep=st.booleans())
    def outcome(self, data, well, keep):
        place = data.draw(st.integers(0, len(self.permits) - 1))
        leave = self.permits[place] if keep else self.permits.pop(place)
        before = self.state
        self.go(Probed(self.now, leave, well))
        if leave.epoch != before.epoch or leave.ends_s <= self.now:
            assert (self.state.mode, self.state.passed) == (before.mode, before.passed)

    @rule(model=st.sampled_from(["m1", "m2", "m3"]), has=st.booleans())
    def release(self, model, has):
        self.go(Released(self.now, model, has))

    @rule(mode=st.sampled_from([None, "closed", "open"]))
    def force(self, mode):
        self.go(Forced(self.now, mode, "because"))

    @rule()
    def reset(self):
        self.go(Reset(self.now, "because"))
        self.trips.clear()

    @rule()
    def trip(self):
        self.go(Tripped(self.now, "because"))

    @invariant()
    def the_route_is_what_was_flipped_to(self):
        assert self.route == self.state.route

    @invariant()
    def nobody_is_routed_to_a_model_that_is_not_there(self):
        assert self.state.has_last_good or self.state.route == "champion"

    @invariant()
    def permits_are_of_this_epoch(self):
        assert all(each.epoch == self.state.epoch for each in self.state.permits)
        assert not self.state.permits or self.state.mode == "half-open"

    @invariant()
    def no_more_than_three_trips_by_itself_in_a_day(self):
        recent = [at for at in self.trips if at > self.now - DAY_S]
        assert len(recent) <= POLICY.trips_a_day + 1


Machine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
test_any_events_in_any_order = Machine.TestCase
