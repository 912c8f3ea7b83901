"""A challenger behind a door: who asks it, what is counted, and how its trial ends."""

import asyncio
import copy
import json
import re
import threading
import time

import pytest
from msgspec.structs import replace
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from answer.kit import SIGNATURE
from interlock.answer import live as live_module
from interlock.answer.predict import Answered, Fault
from interlock.errors import BundleCorrupt, StoreFault
from interlock.model.forms import Linear
from interlock.records import Column, Output, Release, timestamp
from interlock.release.canary import Ended, Trial, summed
from interlock.release.standing import TRIAL, current, ended_at, generation_key, tallies_of
from interlock.serve import canary as canary_module
from interlock.serve.canary import Canary, voter
from interlock.serve.door import Served
from interlock.serve.duty import Duty, Terms
from interlock.serve.keys import Keyring
from interlock.serve.lane import Lane, protocol_of
from serve.conftest import FORM, house_of, loader_of, opened_bundle
from serve.test_journal import QUIET, Rig
from serve.test_lane import Crowd, exchanged, gathering, request, settled

NONSENSE = Linear(link="sigmoid", intercepts=(0.0,), terms=(), classes=("perhaps", "never"))
OTHER = replace(FORM, intercepts=(0.3,))
CONTRARY = replace(FORM, classes=("yes", "no"))


def record(number):
    return {"x": number / 100 - 2.0, "n": number % 10, "colour": "red"}


class Watch:
    """A door beside whose champion a challenger is tried, on fakes."""

    def __init__(self, project, folder, form=OTHER, signature=SIGNATURE, **terms):
        self.project, self.said, self.served = project, [], []
        champion = project.release_of(folder, 2, form=FORM)
        opened = opened_bundle(folder / "challenger", form, signature)
        project.bundles[opened.bundle.digest] = opened
        self.challenger = opened.bundle.digest
        self.trial = Trial(
            **{
                "began": 3,
                "challenger": self.challenger,
                "champion": champion.bundle.digest,
                "baseline": "b" * 64,
                "receipt": 1,
                "share": 0.5,
                "shadow": False,
                "key": "",
                "rows": 30,
                "duration_s": 60.0,
                "tolerated": 0.001,
                "alarm": 1e6,
                "since": timestamp(project.clock.now()),
                **terms,
            }
        )
        in_force = current(project.parts.ledger)
        made = replace(in_force, generation=3, challenger=self.challenger)
        with project.turn.transaction(project.parts.ledger) as transaction:
            transaction.insert(TRIAL, generation_key(3), self.trial)
            transaction.insert("release", generation_key(3), made)
        self.duty = Duty(project.parts, Terms(votes_per_s=1e6, shadow_every=1_000_000), self.said.append)
        self.begins()

    def begins(self):
        """The server starts."""
        self.canary = Canary(self.project.parts, self.said.append)
        self.house = house_of(self.project, Keyring(None), on_served=self.saw)
        self.enter(self.house.door.room.live)

    def enter(self, live):
        release = current(self.project.parts.ledger)
        self.duty.enter(live, release)
        self.canary.enter(live)

    def saw(self, served):
        served = replace(served, client=(str(self.client), "127.0.0.1"))
        self.served.append(served)
        self.duty.saw(served.client, served.rows, served.answered)
        self.canary.saw(served)

    def ask(self, count, first=0):
        """Ask for so many records, each as somebody else; the tiers that answered, and all answers."""

        async def main():
            found = []
            for number in range(first, first + count):
                self.client = number
                body = json.dumps(record(number)).encode()
                status, headers, reply = await self.house.ask("/predict", body)
                assert status == 200
                found.append((headers[b"interlock-tier"].decode(), json.loads(reply)["prediction"]))
                await asyncio.sleep(0)
            for _ in range(3 * count):
                await asyncio.sleep(0)
            return found

        return asyncio.run(main())

    def tiers(self, count, first=0):
        return [tier for tier, _ in self.ask(count, first)]

    def settle(self):
        """Let the clerk write what was seen and do what follows."""
        self.canary.tick()
        self.canary.close()

    def seen(self):
        return summed(tallies_of(self.project.parts.ledger, self.trial))

    @property
    def release(self) -> Release:
        found = current(self.project.parts.ledger)
        assert found is not None
        return found

    def ended(self) -> Ended:
        events = self.project.parts.ledger.events(kinds=["canary.ended"])
        assert len(events) == 1
        found = ended_at(self.project.parts.ledger, events[0].sequence)
        assert found is not None
        return found


@pytest.fixture
def watch(project, tmp_path):
    made = []

    def of(**given):
        made.append(Watch(project, tmp_path, **given))
        return made[-1]

    yield of
    for each in made:
        each.canary.close()
        each.duty.close()


def test_it_answers_its_share_and_says_so(watch):
    found = watch(share=0.3, rows=10_000)
    tiers = found.tiers(200)
    assert set(tiers) == {"champion", "challenger"}
    assert abs(tiers.count("challenger") / 200 - 0.3) < 0.12
    found.settle()
    seen = found.seen()
    assert seen.asked == seen.answered == seen.votes == tiers.count("challenger")
    assert (seen.failed, found.release.generation) == (0, 3)


def test_a_record_meets_the_same_model_again_and_after_a_restart(watch):
    found = watch()
    before = found.tiers(60)
    assert found.tiers(60) == before
    found.canary.close()
    found.begins()
    assert found.tiers(60) == before


def test_the_headers_name_the_model_that_answered(watch):
    found = watch(share=1.0)

    async def main():
        found.client = "one"
        return await found.house.ask("/predict", json.dumps(record(1)).encode())

    _, headers, _ = asyncio.run(main())
    assert headers[b"interlock-model"].decode() == found.challenger[:12]
    assert headers[b"interlock-release"] == b"3"


def test_the_log_tells_which_model_answered_each_record(watch, project, tmp_path):
    found = watch()
    rows, _ = Rig(project, tmp_path, QUIET).run(("/batch", {"instances": [record(number) for number in range(40)]}))
    named = dict(zip(rows["tier"], rows["model"], strict=True))
    assert named == {"champion": found.trial.champion, "challenger": found.challenger}
    drawn = found.house.door.room.live.challenge.lots.drawn
    sent = [(each["x"], each["n"], each["colour"]) for each in map(record, range(40))]
    assert [place for place, tier in enumerate(rows["tier"]) if tier == "challenger"] == drawn(sent, None)


def test_a_good_challenger_is_promoted_after_enough_records_and_time(watch):
    found = watch()
    found.ask(80)
    found.settle()
    assert found.release.generation == 3
    found.project.clock.advance(61.0)
    found.begins()  # a restart in between: what was seen stays
    found.canary.tick()
    found.settle()
    made = found.release
    assert (made.generation, made.champion, made.challenger, made.cause) == (4, found.challenger, None, "canary")
    assert made.last_good == found.trial.champion
    assert found.ended().outcome == "promoted"
    assert sum(tally.answered for tally in found.ended().tallies) >= 30
    assert found.said[-1].startswith(f"release 4: {found.challenger[:12]} is the champion now. ")


def test_one_that_talks_nonsense_is_dropped_and_no_answer_of_it_leaves(watch):
    found = watch(form=NONSENSE)
    answers = found.ask(60)
    assert {tier for tier, _ in answers} == {"champion"}
    assert {prediction for _, prediction in answers} <= {"yes", "no"}
    assert sum(bool(served.answered.faults) for served in found.served) <= 4, "memory first: it is asked no more"
    found.settle()
    made = found.release
    assert (made.generation, made.champion, made.challenger, made.cause) == (4, found.trial.champion, None, "canary")
    seen = found.ended().tallies[0]
    assert (found.ended().outcome, seen.causes) == ("dropped", {"class": seen.failed})
    assert found.duty.state.mode == "closed", "the champion has no part in it"


def test_a_challenger_that_breaks_is_rescued_like_one_that_lies(watch):
    found = watch(share=1.0)
    found.house.door.room.live.challenge.seat.here = type("Broken", (), {"answers": lambda _, rows: 1 / 0})()
    assert set(found.tiers(10)) == {"champion"}
    found.settle()
    assert found.ended().tallies[0].causes == {"died": found.ended().tallies[0].failed}


def test_records_that_the_champion_refuses_too_are_no_evidence(watch):
    found = watch(share=1.0, form=NONSENSE)
    found.house.door.room.live.seats[0].here = found.house.door.room.live.challenge.seat.here
    assert set(found.tiers(50)) == {"baseline"}
    found.settle()
    seen = found.seen()
    assert (seen.asked, seen.answered, seen.failed, seen.votes) == (50, 0, 0, 0)
    assert found.release.challenger == found.challenger


def test_one_client_has_one_vote_a_second_and_a_header_does_not_give_it_more(watch):
    found = watch(share=1.0, form=NONSENSE)
    live = found.house.door.room.live
    answered = live.answer_here([(1.0, 3, "red")], [0])

    def served(user):
        return canary_module.Served("/predict", 200, ("k", "::1", user), (), "champion", 0.0, answered, b"", live)

    for number in range(50):
        found.canary.saw(served(f"user-{number}"))
    assert (found.canary.count.votes, found.canary.count.failed) == (1, 50)
    found.project.clock.advance(1.0)
    found.canary.saw(served("user-1"))
    assert found.canary.count.votes == 2
    assert voter("somebody") == "somebody"


def test_answers_of_the_challenger_are_no_votes_for_the_champion(watch):
    found = watch(share=1.0)
    found.ask(20)
    assert found.duty._detectors["model"].reading().votes == 0
    found.house.door.room.live.challenge.is_on = False
    found.ask(20, first=100)
    assert found.duty._detectors["model"].reading().votes == 20


def test_the_value_of_a_header_meets_one_model_in_both_lanes(watch):
    found = watch(key="header:X-User")
    house, found.client = found.house, "one"
    lane = Lane(house.door, house.app)
    users = [f"x-user: {number}" for number in range(12)]
    sent = [request(body=record(number), headers=[user]) for number in range(4) for user in users]
    answered = {}
    for kind in (HttpToolsProtocol, protocol_of(lane)):
        text, _ = asyncio.run(exchanged(kind, house.app, sent))
        tiers = re.findall(rb"interlock-tier: (\S+)", text)
        assert len(tiers) == len(sent)
        by_user = [set(tiers[place :: len(users)]) for place in range(len(users))]
        assert all(len(each) == 1 for each in by_user)
        answered[kind] = tiers
    first, second = answered.values()
    assert first == second
    assert set(first) == {b"champion", b"challenger"}
    assert lane.answered > len(users), "the fast lane answered some"


def test_requests_of_one_moment_that_are_asked_together_keep_their_models(watch, monkeypatch):
    found = watch(key="header:X-User")
    house, found.client = found.house, "one"
    calls = gathering(house, monkeypatch, gathers=True)
    users = [f"x-user: {number}" for number in range(12)]

    async def main():
        lane = Lane(house.door, house.app)
        crowd = Crowd(lane, house.app, len(users))
        replies = []
        for _ in range(3):  # each head is learnt in the ordinary lane, alone
            crowd.send(*[request(body=record(1), headers=[user]) for user in users])
            await settled()
            replies.append([re.findall(rb"interlock-tier: (\S+)", reply) for reply in crowd.found()])
        return replies

    first, *later = asyncio.run(main())
    assert later == [first, first]
    tiers = [tier for reply in first for tier in reply]
    assert set(tiers) == {b"champion", b"challenger"}
    assert calls == [1] * tiers.count(b"champion") + [tiers.count(b"champion")] * 2


# ---- shadow ------------------------------------------------------------------------------------------------------


def test_in_the_shadow_it_never_answers_and_is_promoted_by_what_it_would_have_said(watch):
    found = watch(shadow=True, share=1.0)
    assert set(found.tiers(40)) == {"champion"}
    found.project.clock.advance(61.0)
    found.settle()
    seen = found.seen()
    assert (seen.answered, seen.compared, seen.skipped) == (40, 40, 0)
    assert 0 < seen.agreed <= 40
    assert found.release.champion == found.challenger


def test_in_the_shadow_it_is_dropped_before_anybody_saw_it(watch):
    found = watch(shadow=True, share=1.0, form=NONSENSE)
    assert set(found.tiers(40)) == {"champion"}
    assert not any(served.answered.faults for served in found.served)
    found.settle()
    assert found.ended().outcome == "dropped"


def test_in_the_shadow_the_share_of_answers_that_agree_is_told(watch):
    found = watch(shadow=True, share=1.0, form=CONTRARY, rows=10_000)
    found.ask(30)
    found.settle()
    assert (found.seen().compared, found.seen().agreed) == (30, 0)


def test_in_the_shadow_a_record_that_nobody_can_answer_is_no_evidence(watch):
    found = watch(shadow=True, share=1.0, form=NONSENSE)
    found.house.door.room.live.seats[0].here = found.house.door.room.live.challenge.seat.here
    assert set(found.tiers(20)) == {"baseline"}
    found.settle()
    assert (found.seen().asked, found.seen().failed, found.seen().votes) == (20, 0, 0)


def test_a_request_that_began_in_another_trial_counts_nothing(watch):
    found = watch(share=1.0, form=NONSENSE)
    found.ask(1)
    served = found.served[0]
    before = found.canary.count.asked
    for live in (replace_trial(served.live, began=2), replace_trial(served.live, began=None)):
        found.canary.saw(replace(served, live=live))
    assert found.canary.count.asked == before
    found.canary.saw(served)
    assert found.canary.count.asked == before + 1


def replace_trial(live, began):
    """The same room with another trial, or with none."""
    other = copy.copy(live)
    other.challenge = None
    if began is not None:
        other.challenge = copy.copy(live.challenge)
        other.challenge.trial = replace(live.challenge.trial, began=began)
    return other


def test_what_comes_faster_than_the_shadow_is_skipped_and_counted(watch):
    found = watch(shadow=True, share=1.0, rows=10_000)

    async def main():
        found.client = "one"
        many = json.dumps([record(number) for number in range(70)]).encode()
        await asyncio.gather(*(found.house.ask("/score", many) for _ in range(canary_module.MOST_WAITING + 6)))
        for _ in range(500):
            await asyncio.sleep(0)

    asyncio.run(main())
    count = found.canary.count
    assert count.asked + count.skipped == 70 * (canary_module.MOST_WAITING + 6)
    assert count.asked <= canary_module.MOST_WAITING * canary_module.MOST_ROWS + 2 * canary_module.MOST_ROWS
    assert count.skipped >= 6 * canary_module.MOST_WAITING


# ---- how long it takes -------------------------------------------------------------------------------------------


class Taking:
    """A model that takes its time, by the clock of the test."""

    gathers = False

    def __init__(self, clock, seat, seconds):
        self._clock, self._model, self._seconds, self.asked = clock, seat.here, seconds, 0
        seat.here = self

    def answers(self, rows):
        self.asked += 1
        self._clock.advance(self._seconds)
        return self._model.answers(rows)


def timed(found, challenger_s, champion_s):
    """Let both take so long; the two of them."""
    live = found.house.door.room.live
    clock = found.project.clock
    return Taking(clock, live.challenge.seat, challenger_s), Taking(clock, live.seats[0], champion_s)


def asked_each_second(found, count):
    for number in range(count):
        found.ask(1, first=number)
        found.project.clock.advance(1.0)


@pytest.mark.parametrize("shadow", [False, True])
def test_one_that_takes_three_times_as_long_is_dropped_and_why_is_told(watch, shadow):
    found = watch(share=1.0, rows=10_000, slower=2.0, shadow=shadow)
    challenger, _ = timed(found, 0.015, 0.005)
    asked_each_second(found, 60)
    found.settle()
    ended = found.ended()
    assert (ended.outcome, ended.by, found.release.challenger) == ("dropped", "evidence", None)
    seen = summed(ended.tallies)
    assert seen.duels == seen.slower < 40
    assert seen.levels["latency"] >= found.trial.alarm > seen.levels["environment"]
    assert ended.because == (
        f"{found.challenger[:12]} was dropped: for the same records it took 14 ms in the median, the champion 5.1 ms, "
        f"and in {seen.duels} of {seen.duels} duels it took more than 2 times as long."
    )
    before = challenger.asked
    found.ask(5, first=100)
    assert challenger.asked == before, "memory first: it is asked no more"


@pytest.mark.parametrize(("its_s", "slower"), [(0.009, 2.0), (0.015, 0.0)])
def test_one_that_takes_no_longer_than_it_may_is_promoted(watch, its_s, slower):
    found = watch(share=1.0, slower=slower)
    timed(found, its_s, 0.005)
    asked_each_second(found, 61)
    found.settle()
    assert found.release.champion == found.challenger
    seen = summed(found.ended().tallies)
    assert (seen.duels > 30, seen.slower) == (slower > 0.0, 0)
    assert (seen.compared, "in the median" in found.ended().because) == (seen.duels, slower > 0.0)


def test_a_duel_is_once_a_second_and_costs_two_more_calls_of_each(watch):
    found = watch(share=1.0, rows=10_000, slower=2.0)
    models = timed(found, 0.0, 0.0)
    found.ask(50)
    assert [model.asked for model in models] == [52, 2]
    assert found.canary.count.duels == 1
    found.project.clock.advance(1.0)
    found.ask(50, first=50)
    assert [model.asked for model in models] == [104, 4]


def test_a_champion_off_duty_is_not_compared_with(watch):
    found = watch(share=1.0, rows=10_000, slower=2.0)
    found.house.door.room.live.turn(1)
    found.ask(5)
    assert found.canary.count.duels == 0


# ---- what cannot be tried, and a record that fails ---------------------------------------------------------------


@pytest.mark.parametrize(
    "signature",
    [
        replace(SIGNATURE, inputs=(*SIGNATURE.inputs, Column(name="new", type="float", nullable=True))),
        replace(SIGNATURE, output=Output(kind="number", type="float")),
    ],
)
def test_one_that_takes_or_gives_other_things_is_told_and_not_asked(watch, signature):
    found = watch(share=1.0, signature=signature)
    assert set(found.tiers(5)) == {"champion"}
    assert "cannot be tried" in found.project.said[-1]
    assert found.canary.count is None
    found.settle()
    assert found.release.challenger == found.challenger


def test_one_that_cannot_be_loaded_is_told_and_the_release_answers(watch, project, monkeypatch):
    found = watch(share=1.0)

    def gone(parts, wanted):
        del parts
        if wanted == found.challenger:
            raise BundleCorrupt("its bytes are not those that were packed")
        return project.bundles[wanted]

    monkeypatch.setattr(live_module, "open_bundle", gone)
    live = loader_of(project).load(found.release, found.said.append)
    assert live.challenge is None
    assert [seat.tier for seat in live.seats] == ["champion", "baseline"]
    told = f"challenger {found.challenger[:12]} cannot be loaded, and is not tried: its bytes are not those"
    assert found.said == [f"{told} that were packed"]


def test_a_key_that_no_column_has_is_told(watch):
    found = watch(key="column:gone")
    assert found.project.said[-1] == (
        "canary.key names 'gone', which the champion does not take: each record is its own key"
    )


def test_a_drop_that_cannot_be_recorded_is_in_force_all_the_same_and_recorded_later(watch, monkeypatch):
    found = watch(form=NONSENSE)
    real, tried = canary_module.conclude, threading.Event()

    def refuse(*given):
        del given
        tried.set()
        raise StoreFault("the disk is full")

    monkeypatch.setattr(canary_module, "conclude", refuse)
    found.ask(40)
    found.canary.tick()
    assert tried.wait(10.0)
    faults = sum(bool(served.answered.faults) for served in found.served)
    found.ask(40, first=100)
    assert sum(bool(served.answered.faults) for served in found.served) == faults
    # another release of the same trial, with models loaded anew: it stays unasked
    live = loader_of(found.project).load(found.release, found.said.append)
    found.enter(live)
    assert not live.challenge.is_on
    monkeypatch.setattr(canary_module, "conclude", real)
    found.settle()
    assert found.release.challenger is None
    assert any("is not recorded: the disk is full" in line for line in found.said)


def test_a_server_that_ended_before_it_recorded_a_drop_leaves_the_evidence_to_the_next(watch, monkeypatch):
    found = watch(form=NONSENSE)
    real = canary_module.conclude

    def killed(*given):
        del given
        raise StoreFault("killed")

    monkeypatch.setattr(canary_module, "conclude", killed)
    found.ask(40)
    found.settle()
    assert found.release.challenger == found.challenger
    monkeypatch.setattr(canary_module, "conclude", real)
    found.begins()
    found.settle()
    assert found.release.challenger is None
    assert found.ended().outcome == "dropped"


def test_tallies_that_cannot_be_written_are_told_once_and_not_lost(watch, monkeypatch):
    found = watch(rows=10_000)
    real = canary_module.note_tally
    calls = []

    def refuse(*given):
        calls.append(given)
        raise StoreFault("the disk is full")

    monkeypatch.setattr(canary_module, "note_tally", refuse)
    for first in (0, 10, 20):
        found.ask(10, first=first)
        found.canary.tick()
    end = time.monotonic() + 10.0
    while len(calls) < 3 and time.monotonic() < end:
        time.sleep(0.005)
    monkeypatch.setattr(canary_module, "note_tally", real)
    found.settle()
    assert found.said == ["what is seen of the challenger is not recorded: the disk is full"]
    assert found.seen().answered == found.canary.count.answered > 0


def test_a_release_without_a_challenger_ends_the_watch(watch):
    found = watch()
    found.ask(10)
    live = found.house.door.room.live
    made = replace(found.release, generation=4, challenger=None)
    with found.project.turn.transaction(found.project.parts.ledger) as transaction:
        transaction.insert("release", generation_key(4), made)
    live = loader_of(found.project).load(made, found.said.append)
    assert live.challenge is None
    found.canary.enter(live)
    assert found.canary.count is None
    found.house.door.room = found.house.door.room._replace(live=live)
    assert set(found.tiers(20)) == {"champion"}


def test_who_only_shared_a_call_that_failed_is_no_failure_of_the_challenger(watch):
    it = watch()
    live = it.house.door.room.live
    for bystander in (True, False):
        fault = Fault(0, "challenger", "deadline", rescued=True, bystander=bystander)
        answered = Answered([("no", None)], ["champion"], [fault])
        served = Served(
            "/predict", 200, ("key", "127.0.0.1"), ((1.0, 3, "red"),), "champion", 0.01, answered, b"x", live
        )
        it.canary.saw(served)
    it.settle()
    assert (it.seen().asked, it.seen().failed) == (2, 1)
