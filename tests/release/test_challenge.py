"""A challenger in the record: how its trial begins, and every way in which it ends."""

from dataclasses import replace as with_parts

import pytest
from msgspec.structs import replace

from interlock.errors import Conflict
from interlock.records import digest, facts_of
from interlock.release import challenge as challenge_module
from interlock.release import registry
from interlock.release.breaker import BreakerPolicy, Tripped
from interlock.release.canary import End, Ended, Tally, Trial, judged
from interlock.release.challenge import conclude, note_tally
from interlock.release.duty import by_person
from interlock.release.evidence import threshold
from interlock.release.standing import TRIAL, tallies_of, that_served, trial_of
from interlock.serving import Canary
from interlock.units import per_year
from release.desk import BASELINE, Desk

ON = Canary(share=0.2, rows=100, duration="1m", key="client")
WELL = Tally(worker="w", asked=100, answered=100, votes=40, levels={"model": 0.1, "environment": 0.1})
MAD = Tally(worker="w", asked=9, answered=3, failed=6, votes=6, levels={"model": 1e12, "environment": 0.1})


@pytest.fixture
def tried(desk):
    """A champion ``one`` that is in force, and ``two``, which passed the gate, on trial beside it."""
    desk.promote("one")
    turned_on(desk)
    desk.promote("two")
    return desk


def turned_on(desk: Desk, canary: Canary = ON) -> None:
    desk.parts = with_parts(desk.parts, settings=replace(desk.parts.settings, canary=canary))


def in_force(desk: Desk):
    return registry.current(desk.parts.ledger)


def trial(desk: Desk) -> Trial:
    found = trial_of(desk.parts.ledger, in_force(desk))
    assert found is not None
    return found


def end_of(desk: Desk, *tallies: Tally) -> End:
    for tally in tallies:
        note_tally(desk.parts.ledger, trial(desk), tally)
    seen = tallies_of(desk.parts.ledger, trial(desk))
    verdict, because = judged(trial(desk), seen, 61.0)
    return End(verdict, because, seen, 61.0)


def ended(desk: Desk) -> list[Ended]:
    found = []
    for event in desk.parts.ledger.events(kinds=["canary.ended"]):
        replayed = registry.replay(desk.parts, event.sequence)
        assert replayed.agrees
        assert replayed.candidate == event.subject
        found.append(registry.ended_at(desk.parts.ledger, event.sequence))
    return found


def test_the_first_champion_of_all_is_live_at_once(desk):
    turned_on(desk)
    assert desk.promote("one").challenger is None
    assert in_force(desk).champion == digest("one")


def test_what_passes_the_gate_is_tried_beside_the_champion(tried):
    made, found = in_force(tried), trial(tried)
    assert (made.generation, made.champion, made.challenger, made.cause) == (2, digest("one"), digest("two"), "gate")
    assert made.because.startswith(f"{digest('two')[:12]} is challenger in canary at 20 %: ")
    assert (found.began, found.champion, found.challenger) == (2, digest("one"), digest("two"))
    assert (found.share, found.rows, found.duration_s, found.key) == (0.2, 100, 60.0, "client")
    kinds = [event.kind for event in tried.parts.ledger.events(after=2)]
    assert kinds == ["gate.decided", "canary.began", "release.made"]
    assert registry.receipt_at(tried.parts.ledger, found.receipt).evaluation.candidate == digest("two")
    assert registry.receipt_at(tried.parts.ledger, made.receipt).evaluation.candidate == digest("one")


@pytest.mark.parametrize(("slower", "detectors"), [(2.0, 3.0), (0.0, 2.0)])
def test_the_detectors_of_a_trial_share_the_budget_of_false_drops(desk, slower, detectors):
    desk.promote("one")
    turned_on(desk, replace(ON, slower=slower))
    desk.promote("two")
    breaker = desk.parts.settings.breaker
    one = threshold(per_year(breaker.false_trips), breaker.rated_load)
    assert (trial(desk).slower, trial(desk).alarm) == (slower, detectors * one)


def test_one_that_was_slower_is_dropped_with_a_receipt_that_replays(tried):
    slow = replace(
        WELL, levels={"latency": 1e12}, duels=40, slower=39, times={"challenger": {"112": 40}, "champion": {"98": 40}}
    )
    made = conclude(tried.parts.ledger, tried.parts.clock, trial(tried), end_of(tried, slow))
    (found,) = ended(tried)
    assert (made.champion, made.challenger, found.outcome) == (digest("one"), None, "dropped")
    assert "it took 17 ms in the median, the champion 5.1 ms" in found.because == made.because


def test_recording_the_decision_twice_begins_one_trial(tried):
    receipt = registry.receipt_at(tried.parts.ledger, trial(tried).receipt)
    before = tried.parts.ledger.events()
    event, release = tried.record(receipt)
    assert (event.sequence, release) == (trial(tried).receipt, in_force(tried))
    assert tried.parts.ledger.events() == before


def test_enough_records_without_fault_make_it_the_champion(tried):
    made = conclude(tried.parts.ledger, tried.clock, trial(tried), end_of(tried, WELL))
    assert made == in_force(tried)
    assert (made.generation, made.champion, made.challenger, made.cause) == (3, digest("two"), None, "canary")
    assert made.last_good == digest("one"), "it answered beside it all the while"
    assert registry.receipt_at(tried.parts.ledger, made.receipt).evaluation.candidate == digest("two")
    assert that_served(tried.parts.ledger) == {2, 3}
    assert [(each.outcome, each.by) for each in ended(tried)] == [("promoted", "evidence")]
    assert tried.roll_back().champion == digest("one"), "the one before served, and can be gone back to"


def test_in_the_shadow_only_the_champion_served(desk):
    desk.promote("one")
    turned_on(desk, replace(ON, shadow=True))
    desk.promote("two")
    conclude(desk.parts.ledger, desk.clock, trial(desk), end_of(desk, WELL))
    assert that_served(desk.parts.ledger) == {2}


def test_one_that_fails_is_dropped_and_never_tried_again_by_the_loop(tried):
    before = trial(tried)
    made = conclude(tried.parts.ledger, tried.clock, before, end_of(tried, MAD))
    assert (made.champion, made.challenger, made.cause) == (digest("one"), None, "canary")
    assert made.because.startswith(f"{digest('two')[:12]} was dropped: it failed 6 of 9 records")
    assert registry.taken_back(tried.parts.ledger) == {digest("two")}
    assert that_served(tried.parts.ledger) == frozenset()
    assert [(each.outcome, each.by) for each in ended(tried)] == [("dropped", "evidence")]
    assert conclude(tried.parts.ledger, tried.clock, before, End("promote", "", (WELL,), 61.0)) is None


def test_an_end_counts_for_its_own_trial_only(tried):
    old, end = trial(tried), end_of(tried, WELL)
    tried.promote("three")
    assert trial(tried).challenger == digest("three")
    assert conclude(tried.parts.ledger, tried.clock, old, end) is None
    assert tallies_of(tried.parts.ledger, trial(tried)) == ()
    assert [(each.outcome, each.by, each.trial.challenger) for each in ended(tried)] == [
        ("replaced", "release", digest("two"))
    ]
    assert registry.taken_back(tried.parts.ledger) == frozenset()


def test_of_two_servers_that_end_it_one_loses(tried, monkeypatch):
    found, end, before = trial(tried), end_of(tried, WELL), in_force(tried)
    assert conclude(tried.parts.ledger, tried.clock, found, end) is not None
    assert conclude(tried.parts.ledger, tried.clock, found, end) is None
    monkeypatch.setattr(challenge_module, "current", lambda ledger: before)  # it looked before the other wrote
    with pytest.raises(Conflict):
        conclude(tried.parts.ledger, tried.clock, found, end)
    assert len(ended(tried)) == 1


def test_a_flip_of_the_breaker_leaves_the_trial(tried):
    tried.serve(2)
    conclude(tried.parts.ledger, tried.clock, trial(tried), end_of(tried, WELL))
    tried.promote("three")
    before = trial(tried)
    with tried.turn() as turn:
        by_person(tried.parts.ledger, tried.clock, turn, Tripped(1.0, "it looks wrong"), BreakerPolicy())
    assert (in_force(tried).route, in_force(tried).challenger) == ("last-good", digest("three"))
    assert trial(tried) == before
    made = conclude(tried.parts.ledger, tried.clock, before, end_of(tried, WELL))
    assert (made.champion, made.route, made.last_good) == (digest("three"), "champion", digest("one"))


def test_a_person_promotes_the_challenger_by_its_decision(tried):
    with tried.turn() as turn:
        made = registry.approve(tried.parts, turn, trial(tried).receipt, "I have seen enough")
    assert (made.champion, made.challenger, made.cause) == (digest("two"), None, "person")
    assert [(each.outcome, each.by, each.because) for each in ended(tried)] == [
        ("promoted", "person", "I have seen enough")
    ]


def test_a_person_who_rolls_back_takes_the_challenger_back_first(tried):
    made = tried.roll_back("it looks odd")
    assert (made.champion, made.challenger, made.cause) == (digest("one"), None, "rollback")
    assert [(each.outcome, each.by) for each in ended(tried)] == [("dropped", "person")]
    assert registry.taken_back(tried.parts.ledger) == {digest("two")}
    entry = tried.parts.ledger.events(kinds=["gate.decided"], newest_first=True, limit=1)[0].sequence
    with tried.turn() as turn:
        back = registry.approve(tried.parts, turn, entry, "it was not")
    assert (back.champion, back.cause) == (digest("two"), "person")
    assert registry.taken_back(tried.parts.ledger) == frozenset()


def test_going_back_to_a_named_generation_ends_the_trial_too(desk):
    desk.promote("zero", served=True)
    desk.promote("one")
    turned_on(desk)
    desk.promote("two")
    made = desk.roll_back(to=1)
    assert (made.champion, made.challenger) == (digest("zero"), None)
    assert registry.taken_back(desk.parts.ledger) == {digest("one"), digest("two")}
    assert [(each.outcome, each.by) for each in ended(desk)] == [("dropped", "person")]


def test_another_model_by_a_person_s_word_replaces_the_challenger(tried):
    tried.record(tried.receipt("three", skill=0.5))
    with tried.turn() as turn:
        made = registry.promote_person(tried.parts, turn, digest("three"), "we need it")
    assert (made.champion, made.challenger) == (digest("three"), None)
    assert [(each.outcome, each.by) for each in ended(tried)] == [("replaced", "person")]


def test_an_approved_candidate_is_tried_too(desk):
    desk.promote("one")
    turned_on(desk)
    event, _ = desk.record(desk.receipt("two", skill=0.95, approval=True))
    with desk.turn() as turn:
        made = registry.approve(desk.parts, turn, event.sequence, "looks right")
    assert (made.champion, made.challenger, made.cause) == (digest("one"), digest("two"), "approval")
    assert trial(desk).receipt == event.sequence


def test_a_trial_goes_on_when_the_settings_turn_it_off(tried):
    before = trial(tried)
    turned_on(tried, Canary())
    assert trial(tried) == before
    made = tried.promote("three")
    assert (made.champion, made.challenger) == (digest("three"), None)
    assert [each.outcome for each in ended(tried)] == ["replaced"]


def test_a_receipt_that_was_tampered_with_does_not_replay(tried):
    conclude(tried.parts.ledger, tried.clock, trial(tried), end_of(tried, WELL))
    found = ended(tried)[0]
    with tried.turn() as turn, turn.transaction(tried.parts.ledger) as transaction:
        event = transaction.append("canary.ended", digest("two"), facts_of(replace(found, elapsed_s=1.0)))
    assert not registry.replay(tried.parts, event.sequence).agrees


def test_the_terms_are_what_the_chain_tells_of(tried):
    told = tried.parts.ledger.events(kinds=["canary.began"])
    assert [facts_of(each) for _, each in tried.parts.ledger.scan(TRIAL, Trial)] == [event.facts for event in told]
    assert trial(tried).baseline == BASELINE
