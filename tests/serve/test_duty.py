"""The breaker behind a door: what it sees, what flips, and what is written down."""

import asyncio
import dataclasses
import json
import time

import pytest
from msgspec.structs import replace

from interlock.errors import StoreFault, UserCodeFailed
from interlock.model.forms import Linear
from interlock.release.breaker import BreakerPolicy, Reset, Tripped, advance
from interlock.release.duty import by_person, record, state_of
from interlock.release.standing import current
from interlock.serve.duty import Duty, Terms
from interlock.serve.keys import Keyring
from interlock.serve.last_known import Unrecorded, last_known_of
from serve.conftest import FORM, house_of, opened_bundle

RECORD = {"x": 1.0, "n": 3, "colour": "red"}
NONSENSE = Linear(link="sigmoid", intercepts=(0.0,), terms=(), classes=("perhaps", "never"))
QUICK = Terms(policy=BreakerPolicy(retry_s=10.0, probes=3, probes_at_once=2), votes_per_s=1e6, shadow_every=5)


class Shift:
    """A door whose answers a duty watches, on fakes."""

    def __init__(self, project, terms=QUICK):
        self.project, self.said = project, []
        self.duty = Duty(project.parts, terms, self.said.append)
        self.house = house_of(project, Keyring(None), on_served=self.saw)
        self.enter(self.house.door.room.live)

    def saw(self, served):
        if served.answered is not None:
            self.duty.saw(self.client, served.rows, served.answered)

    def enter(self, live):
        self.duty.enter(live, current(self.project.parts.ledger))

    def ask(self, count=1, clients=True):
        """Ask so many times, each time as somebody else; the tiers that answered."""

        async def main():
            tiers = []
            for number in range(count):
                self.client = number if clients else "one"
                _, headers, _ = await self.house.ask("/predict", json.dumps(RECORD).encode())
                tiers.append(headers[b"interlock-tier"].decode())
                await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0)
            return tiers

        return asyncio.run(main())

    def events(self):
        self.duty.close()
        ledger = self.project.parts.ledger
        return [event.kind for event in ledger.events() if event.kind.startswith(("breaker.", "release."))]

    @property
    def champion(self):
        return self.house.door.room.live.seats[0]

    def breaks(self, cause="deadline"):
        self.mended = self.champion.here
        error = UserCodeFailed("no", cause=cause)
        self.champion.here = type("Broken", (), {"answers": lambda _, rows: [error] * len(rows)})()

    def mends(self):
        self.champion.here = self.mended


@pytest.fixture
def mad(project, tmp_path):
    """A champion that talks nonsense, with a last good."""
    project.release_of(tmp_path, 2, last_good=opened_bundle(tmp_path / "good", FORM), form=NONSENSE)
    return project


@pytest.fixture
def fit(project, tmp_path):
    """A champion that is well, with a last good."""
    project.release_of(
        tmp_path, 2, last_good=opened_bundle(tmp_path / "good", FORM), form=replace(FORM, intercepts=(0.3,))
    )
    return project


def test_a_champion_that_fails_is_off_duty_within_five_requests_and_it_is_recorded(mad):
    shift = Shift(mad)
    assert shift.ask(8) == ["last-good"] * 8
    assert len([served for served in shift.house.served if served.answered.faults]) <= 5
    assert shift.said == ["The champion was taken off duty (class); last good answers."]
    assert shift.events() == ["breaker.tripped", "release.made"]
    release = current(mad.parts.ledger)
    assert (release.generation, release.cause, release.route) == (3, "breaker", "last-good")
    assert release.because.endswith("off duty: class.")


def test_one_client_has_one_vote_a_second(mad):
    shift = Shift(mad)
    assert shift.ask(50, clients=False) == ["last-good"] * 50
    assert shift.said == []
    for _ in range(5):
        mad.clock.advance(1.0)
        shift.ask(1, clients=False)
    assert len(shift.said) == 1
    shift.duty.close()


def test_a_server_that_starts_again_begins_where_the_record_says(mad):
    first = Shift(mad)
    first.ask(8)
    first.duty.close()
    second = Shift(mad)
    assert second.duty.state.mode == "open"
    assert second.ask(2) == ["last-good"] * 2
    assert not any(served.answered.faults for served in second.house.served)
    second.duty.close()


def test_the_release_of_a_flip_changes_nothing_more(mad):
    shift = Shift(mad)
    shift.ask(8)
    shift.duty.close()
    before = shift.duty.state
    shift.duty.enter(shift.house.door.room.live, current(mad.parts.ledger))
    assert shift.duty.state == before
    assert shift.ask(1) == ["last-good"]


def test_what_last_good_cannot_answer_either_is_no_evidence(mad):
    shift = Shift(mad)
    for seat in shift.house.door.room.live.seats[:2]:
        seat.here = shift.champion.here
    assert set(shift.ask(200)) == {"baseline"}
    assert shift.said == []
    shift.duty.close()


def test_what_happened_once_is_counted_once(fit):
    shift = Shift(fit)
    error = UserCodeFailed("no", cause="died", bystander=True)
    shift.champion.here = type("Broken", (), {"answers": lambda _, rows: [error] * len(rows)})()
    assert set(shift.ask(50)) == {"last-good"}
    assert shift.said == []
    fit.clock.advance(1.0)
    shift.breaks("died")
    shift.ask(8)
    assert len(shift.said) == 1
    shift.duty.close()


def test_time_and_memory_heal_by_probing_in_the_shadow(fit):
    shift = Shift(fit)
    assert set(shift.ask(20)) == {"champion"}
    fit.clock.advance(1.0)
    shift.breaks()
    assert set(shift.ask(10)) == {"last-good"}
    shift.mends()
    fit.clock.advance(9.0)
    shift.duty.tick()
    assert set(shift.ask(5)) == {"last-good"}
    fit.clock.advance(2.0)
    shift.duty.tick()
    assert shift.duty.state.mode == "half-open"
    tiers = shift.ask(10)
    assert tiers[0] == "last-good"
    assert tiers[-1] == "champion"
    assert shift.events() == ["breaker.tripped", "release.made", "breaker.probing", "breaker.healed", "release.made"]
    assert current(fit.parts.ledger).route == "champion"


def test_a_probe_that_fails_takes_it_off_again_for_longer(fit):
    shift = Shift(fit)
    shift.breaks()
    shift.ask(10)
    fit.clock.advance(11.0)
    shift.duty.tick()
    assert set(shift.ask(5)) == {"last-good"}
    assert shift.duty.state.mode == "open"
    assert shift.duty.state.wait_s == 20.0
    shift.duty.close()


def test_last_good_is_asked_in_the_shadow_before_it_is_needed(fit):
    shift = Shift(fit)
    shift.ask(50)
    assert shift.duty.last_good == {True: 10, False: 0}
    shift.house.door.room.live.seats[1].here = type(
        "Mad", (), {"answers": lambda _, rows: [("no such", None)] * len(rows)}
    )()
    shift.ask(50)
    assert shift.duty.last_good == {True: 10, False: 10}
    shift.duty.close()


def test_without_a_last_good_the_champion_stays_and_people_are_called(project):
    shift = Shift(project)
    shift.breaks()
    assert set(shift.ask(50)) == {"baseline"}
    assert shift.said == []
    assert shift.duty.state.mode == "closed"
    shift.duty.close()


def test_only_observing_leaves_the_route(mad):
    shift = Shift(mad, replace(QUICK, policy=BreakerPolicy(observe=True)))
    shift.ask(50)
    assert shift.house.door.room.live.route == 0
    assert shift.events() == ["breaker.would_trip"]


def test_a_new_release_puts_its_champion_on_duty(mad, tmp_path):
    shift = Shift(mad)
    shift.ask(8)
    shift.duty.close()
    mad.release_of(
        tmp_path, 4, last_good=opened_bundle(tmp_path / "other", FORM), form=replace(FORM, intercepts=(0.5,))
    )
    again = Shift(mad)
    assert again.ask(2) == ["champion"] * 2
    again.duty.close()


def test_a_person_trips_and_resets_and_the_server_follows(fit):
    shift = Shift(fit)
    ledger, clock = fit.parts.ledger, fit.parts.clock
    now_s = clock.now().timestamp()
    state, release = by_person(ledger, clock, fit.turn, Tripped(now_s, "it looks wrong"), BreakerPolicy())
    assert (state.route, release.route, release.because[-15:]) == ("last-good", "last-good", "it looks wrong.")
    shift.duty.enter(shift.house.door.room.live, release)
    assert shift.ask(2) == ["last-good"] * 2
    _, release = by_person(ledger, clock, fit.turn, Reset(now_s + 1, "it was not"), BreakerPolicy())
    assert (release.generation, release.route) == (4, "champion")
    shift.duty.enter(shift.house.door.room.live, release)
    assert shift.ask(2) == ["champion"] * 2
    shift.duty.close()


def test_a_release_of_a_trial_leaves_a_flip_that_is_not_recorded_yet_and_takes_one_that_another_made(mad):
    shift = Shift(mad)
    before = current(mad.parts.ledger)
    shift.ask(8)
    shift.duty.close()
    assert shift.duty.state.mode == "open"
    flipped, live = current(mad.parts.ledger), shift.house.door.room.live
    # made by a trial's end that had not seen the flip
    shift.duty.enter(live, replace(before, generation=before.generation + 2, cause="canary"))
    assert shift.duty.state.mode == "open"
    # and in another server, which sees no more of the flip than the release after it
    other = Shift(mad)
    other.duty.state = replace(shift.duty.state, mode="closed", epoch=0)
    other.duty.enter(live, replace(flipped, generation=flipped.generation + 1, cause="canary"))
    assert (other.duty.state.mode, other.duty.state.route) == ("open", "last-good")
    other.duty.close()


# ---- without the ledger ------------------------------------------------------------------------------------------


class Away:
    """A ledger that is away until it is brought back."""

    def __init__(self, ledger):
        self._ledger, self.is_away = ledger, True

    def __getattr__(self, name):
        if self.is_away:
            raise StoreFault("The database is away.")
        return getattr(self._ledger, name)


def lost(project):
    """Take the ledger away from whoever asks for it next."""
    away = Away(project.parts.ledger)
    project.parts = dataclasses.replace(project.parts, ledger=away)
    return away


def shift_of(project, release, room):
    """A shift of a server that starts, with what this host remembers."""
    said = []
    last_known = last_known_of(project.parts.settings, project.clock)
    duty = Duty(project.parts, QUICK, said.append, last_known, retry_s=0.01)
    duty.enter(room.live, release)
    return duty, said


def until(holds):
    """Wait for another thread."""
    end = time.monotonic() + 20.0
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def room_of_newest(project):
    return house_of(project, Keyring(None)).door.room


def tripped_without_a_ledger(mad):
    """A server took the champion off duty while the ledger was away, and ended: release, room, and who is away."""
    release, room = current(mad.parts.ledger), room_of_newest(mad)
    first, _ = shift_of(mad, release, room)
    away = lost(mad)
    first._parts = mad.parts
    first._step(Tripped(0.0, "a test"))
    first.close()
    return release, room, away


def test_a_trip_without_a_ledger_is_kept_and_recorded_when_it_is_back(mad):
    release, room, away = tripped_without_a_ledger(mad)
    kept = last_known_of(mad.parts.settings, mad.clock).duty()
    assert (kept.state.route, [each.kind for each in kept.unrecorded]) == ("last-good", ["breaker.tripped"])

    second, said = shift_of(mad, release, room)
    assert second.state.route == "last-good"
    assert said == []
    away.is_away = False
    second.back(release)
    second.close()
    assert current(mad.parts.ledger).route == "last-good"
    kinds = [event.kind for event in mad.parts.ledger.events()]
    assert kinds[-2:] == ["breaker.tripped", "release.made"]
    assert last_known_of(mad.parts.settings, mad.clock).duty().unrecorded == ()


def test_a_trip_that_the_ledger_never_heard_of_overrides_it_at_the_next_start(mad):
    release, room, away = tripped_without_a_ledger(mad)
    away.is_away = False
    second, said = shift_of(mad, release, room)
    assert second.state.route == "last-good"
    assert said[0].startswith("the champion stays off duty (a test)")
    second.close()
    assert current(mad.parts.ledger).route == "last-good"


def test_a_person_who_reset_it_meanwhile_is_right(mad):
    ledger = mad.parts.ledger
    _, room, away = tripped_without_a_ledger(mad)
    away.is_away = False
    for event in (Tripped(0.0, "x"), Reset(0.0, "mended")):
        by_person(ledger, mad.clock, mad.turn, event, BreakerPolicy())
    second, _ = shift_of(mad, current(ledger), room)
    assert second.state.route == "champion"
    second.close()


def test_where_nothing_is_known_of_its_duty_last_good_answers_until_the_state_is_back(mad):
    release, room = current(mad.parts.ledger), room_of_newest(mad)
    away = lost(mad)
    duty, said = shift_of(mad, release, room)
    assert duty.state.route == "last-good"
    assert said == ["whether the champion is on duty is not known: last good answers until the state is back"]
    away.is_away = False
    duty.back(release)
    assert duty.state.route == "champion"
    assert room.live.seats[room.live.route].tier == "champion"
    duty.close()
    assert last_known_of(mad.parts.settings, mad.clock).duty() is None


def test_servers_of_a_host_follow_each_other_while_the_ledger_is_away(mad):
    release, room, other = current(mad.parts.ledger), room_of_newest(mad), room_of_newest(mad)
    first, second, third = (shift_of(mad, release, each)[0] for each in (room, other, room_of_newest(mad)))
    away = lost(mad)
    for duty in (first, second, third):
        duty._parts = mad.parts
    last_known = last_known_of(mad.parts.settings, mad.clock)

    first._step(Tripped(0.0, "a test"))
    until(lambda: (kept := last_known.duty()) is not None and kept.unrecorded)
    second.hear()
    assert (second.state.mode, second.state.epoch, second.trips) == ("open", first.state.epoch, 1)
    second._records.put(None)  # its writer has nothing to write, and leaves what the first kept
    second._recorder.join(timeout=20.0)
    assert [each.kind for each in last_known.duty().unrecorded] == ["breaker.tripped"]
    assert other.live.first.tier == "last-good"

    third.hear()
    third._step(Reset(1.0, "mended"))  # and the other way round
    until(lambda: last_known.duty().state.epoch == third.state.epoch)
    first.hear()
    assert (first.state, room.live.first.tier) == (third.state, "champion")

    away.is_away = False
    for duty in (third, first):  # what the first had to record is not the last word
        duty.close()
    assert current(mad.parts.ledger).route == "champion"
    assert state_of(mad.parts.ledger, release) == replace(third.state, permits=())
    kinds = [event.kind for event in mad.parts.ledger.events()]
    assert (kinds.count("breaker.reset"), kinds.count("breaker.tripped")) == (1, 1)


def test_a_late_record_of_an_older_state_changes_nothing_but_what_is_told(mad):
    ledger, clock, release = mad.parts.ledger, mad.clock, current(mad.parts.ledger)
    off, tripped = advance(state_of(ledger, release), Tripped(0.0, "a test"), BreakerPolicy())
    on, mended = advance(off, Reset(1.0, "mended"), BreakerPolicy())
    assert record(ledger, clock, on, mended) is None  # the route is what it was
    assert record(ledger, clock, off, tripped) is None
    assert (state_of(ledger, release), current(ledger)) == (on, release)
    assert [event.kind for event in ledger.events()][-2:] == ["breaker.reset", "breaker.tripped"]


def test_what_the_ledger_knows_is_not_followed_by_hearsay(mad):
    release, room = current(mad.parts.ledger), room_of_newest(mad)
    duty, _ = shift_of(mad, release, room)
    last_known = last_known_of(mad.parts.settings, mad.clock)
    off = replace(duty.state, mode="open", kind="person", cause="a test", epoch=duty.state.epoch + 1)
    unrecorded = (Unrecorded(kind="breaker.tripped", facts={}),)
    for state, waits in ((off, ()), (replace(off, model="another"), unrecorded), (duty.state, unrecorded)):
        last_known.keep_duty(state, waits)
        duty.hear()
        assert room.live.first.tier == "champion", (state, waits)
    last_known.keep_duty(off, unrecorded)
    duty.hear()
    assert room.live.first.tier == "last-good"
    duty.close()


def test_what_waits_for_the_ledger_is_tried_until_it_is_recorded(mad):
    release, room = current(mad.parts.ledger), room_of_newest(mad)
    duty, said = shift_of(mad, release, room)
    away = lost(mad)
    duty._parts = mad.parts
    duty._step(Tripped(0.0, "a test"))
    until(lambda: said)
    assert said == ["a step of the breaker is not recorded yet: The database is away."]
    away.is_away = False
    until(lambda: current(mad.parts.ledger).route == "last-good")
    duty.close()
    assert len(said) == 1
