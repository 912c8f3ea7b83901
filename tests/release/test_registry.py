import tempfile
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from interlock.errors import (
    BundleCorrupt,
    Conflict,
    GateHeld,
    InterlockError,
    LeaseLost,
    Misuse,
    NotFound,
    NothingToServe,
)
from interlock.ports import Turn
from interlock.records import Release, canonical, digest, short, timestamp
from interlock.release import registry
from interlock.release.judge import Ask, Judged, ask_key, evaluation_key
from interlock.release.standing import that_served
from interlock.testing.clock import ManualClock
from interlock.testing.fakes import MemoryLedger
from release.desk import BASELINE, make_desk, opener


def asks(desk):
    return desk.parts.ledger.scan("ask", Ask)


# ---- promotion -----------------------------------------------------------------------------------------------------


def test_a_first_promotion_writes_receipt_release_and_ask_together(desk):
    event, release = desk.record(desk.receipt("one"))
    assert release is not None
    assert (release.generation, release.champion, release.baseline) == (1, digest("one"), BASELINE)
    assert (release.cause, release.last_good, release.receipt) == ("gate", None, event.sequence)
    assert registry.current(desk.parts.ledger) == release
    assert [e.kind for e in desk.parts.ledger.events()] == ["gate.decided", "release.made"]
    assert registry.receipt_at(desk.parts.ledger, event.sequence).decision.reason == release.because
    key = evaluation_key(digest("one"), None, digest("h"))
    assert desk.parts.ledger.read("evaluation", key, Judged) == Judged(receipt=event.sequence)
    assert [ask.receipt for _, ask in asks(desk)] == [event.sequence]


def test_a_refusal_is_recorded_and_changes_nothing_live(desk):
    live = desk.promote("one")
    event, release = desk.record(desk.receipt("two", skill=0.5))
    assert release is None
    assert registry.current(desk.parts.ledger) == live
    assert registry.receipt_at(desk.parts.ledger, event.sequence).decision.verdict == "keep"
    assert len(asks(desk)) == 2


def test_recording_twice_changes_nothing(desk):
    receipt = desk.receipt("one")
    first, release = desk.record(receipt)
    again, same = desk.record(receipt)
    assert (again, same) == (first, release)
    assert len(desk.parts.ledger.events()) == 2
    assert len(asks(desk)) == 1


def test_recording_again_after_a_rollback_does_not_release_again(desk):
    desk.promote("one", served=True)
    receipt = desk.receipt("two", skill=0.95)
    desk.record(receipt)
    desk.roll_back()
    _, release = desk.record(receipt)
    assert release is None
    assert registry.current(desk.parts.ledger).champion == digest("one")


def test_the_same_evidence_under_new_rules_is_a_new_receipt_and_no_new_ask(desk):
    desk.promote("one")
    receipt = desk.receipt("two", skill=0.95, approval=True)
    first, _ = desk.record(receipt)
    policy = msgspec.structs.replace(receipt.policy, approval=False)
    looser = msgspec.structs.replace(receipt, policy=policy, decision=registry.decide(receipt.evaluation, policy))
    second, release = desk.record(looser)
    assert second.sequence > first.sequence
    assert release is not None
    assert len(asks(desk)) == 2


def test_a_promotion_judged_against_another_champion_is_a_conflict(desk):
    late = desk.receipt("late")
    desk.promote("quick")
    before = desk.parts.ledger.events()
    with pytest.raises(Conflict, match="no champion"):
        desk.record(late)
    assert desk.parts.ledger.events() == before


def test_of_two_who_insert_the_same_generation_one_loses(desk, monkeypatch):
    """The other one commits between our look at the generation and our insert."""
    receipt = desk.receipt("mine")
    other = desk.receipt("other")
    real = registry._next

    def slow(parts, in_force, *args, **kwargs):
        made = real(parts, in_force, *args, **kwargs)
        monkeypatch.setattr(registry, "_next", real)
        with Turn.transaction(turn, parts.ledger) as transaction:
            rival = msgspec.structs.replace(made, champion=other.evaluation.candidate)
            registry.make_release(transaction, rival)
        return made

    monkeypatch.setattr(registry, "_next", slow)
    with desk.turn() as turn, pytest.raises(Conflict):
        registry.record_decision(desk.parts, turn, receipt, BASELINE)
    live = registry.current(desk.parts.ledger)
    assert live.champion == digest("other")
    assert live.generation == 1
    assert not desk.parts.ledger.events(kinds=["gate.decided"])


def test_a_turn_that_lost_its_lease_records_nothing(desk):
    receipt = desk.receipt("one")
    fence = desk.parts.ledger.acquire("turn", ttl_s=1.0)
    desk.clock.advance(2.0)
    desk.parts.ledger.acquire("turn", ttl_s=60.0)
    with pytest.raises(LeaseLost):
        registry.record_decision(desk.parts, Turn(id="old", fence=fence), receipt, BASELINE)
    assert registry.current(desk.parts.ledger) is None


def test_last_good_is_the_previous_champion_once_it_served(desk):
    desk.promote("one", served=True)
    assert desk.promote("two").last_good == digest("one")
    assert desk.promote("three").last_good == digest("one")  # two never served
    desk.serve(3)
    assert desk.promote("four").last_good == digest("three")


# ---- a person ------------------------------------------------------------------------------------------------------


def hold(desk, name):
    event, release = desk.record(desk.receipt(name, skill=0.95, approval=True))
    assert release is None
    return event


def test_what_is_approved_follows_the_champion_that_it_was_judged_against(desk):
    first = desk.promote("one", served=True)
    held = hold(desk, "two")
    hold(desk, "three")
    with desk.turn() as turn:
        release = registry.approve(desk.parts, turn, digest("two"), because="looked at it")
    assert (release.generation, release.champion, release.last_good) == (2, digest("two"), first.champion)
    assert release.receipt == held.sequence


def off_duty(desk, release):
    """Another release of the same models, where last good is asked first."""
    made = msgspec.structs.replace(release, generation=release.generation + 1, route="last-good", cause="breaker")
    with desk.turn() as turn, turn.transaction(desk.parts.ledger) as transaction:
        registry.make_release(transaction, made)
    return made


def test_a_champion_off_duty_is_no_model_to_fall_back_on(desk):
    first = desk.promote("one", served=True)
    second = desk.promote("two", served=True)
    assert second.last_good == first.champion
    off_duty(desk, second)
    assert desk.promote("three").last_good == first.champion


def test_last_good_that_becomes_champion_has_no_last_good_of_its_own(desk):
    first = desk.promote("one", served=True)
    off_duty(desk, desk.promote("two", served=True))
    with desk.turn() as turn:
        release = registry.promote_person(desk.parts, turn, first.champion, because="it was fine")
    assert release.last_good is None


def test_a_decision_is_found_among_other_events_of_its_bundle(desk):
    held = hold(desk, "one")
    with desk.turn() as turn, turn.transaction(desk.parts.ledger) as transaction:
        transaction.append("bundle.packed", digest("one"), {})
    with desk.turn() as turn:
        assert registry.approve(desk.parts, turn, digest("one"), because="ok").receipt == held.sequence


def test_a_held_decision_is_approved_once(desk):
    held = hold(desk, "one")
    with desk.turn() as turn:
        release = registry.approve(desk.parts, turn, held.sequence, because="looked at it")
    assert (release.cause, release.receipt, release.because) == ("approval", held.sequence, "looked at it")
    assert registry.current(desk.parts.ledger) == release
    with desk.turn() as turn, pytest.raises(Conflict):
        registry.approve(desk.parts, turn, held.sequence, because="again")


def test_approval_by_the_candidates_digest(desk):
    hold(desk, "one")
    with desk.turn() as turn:
        assert registry.approve(desk.parts, turn, digest("one"), because="ok").champion == digest("one")


def test_approval_loses_when_the_champion_changed(desk):
    held = hold(desk, "one")
    desk.promote("two")
    with desk.turn() as turn, pytest.raises(Conflict, match="judged against no champion"):
        registry.approve(desk.parts, turn, held.sequence, because="late")


def test_approval_needs_a_reason_a_held_decision_and_an_intact_bundle(desk):
    held = hold(desk, "one")
    desk.broken.add(digest("one"))
    with desk.turn() as turn:
        with pytest.raises(Misuse, match="reason"):
            registry.approve(desk.parts, turn, held.sequence, because="  ")
        with pytest.raises(BundleCorrupt):
            registry.approve(desk.parts, turn, held.sequence, because="ok")
        with pytest.raises(NotFound, match="not a decision"):
            registry.approve(desk.parts, turn, 99, because="ok")
    promoted = desk.promote("two")
    refused, _ = desk.record(desk.receipt("three", skill=0.4))
    with desk.turn() as turn:
        with pytest.raises(Misuse, match="needs no approval"):
            registry.approve(desk.parts, turn, promoted.receipt, because="ok")
        with pytest.raises(GateHeld, match="not held for approval but refused"):
            registry.approve(desk.parts, turn, refused.sequence, because="ok")


def test_a_person_may_promote_what_was_judged(desk):
    desk.promote("one")
    refused, _ = desk.record(desk.receipt("two", skill=0.5))
    with desk.turn() as turn:
        release = registry.promote_person(desk.parts, turn, digest("two"), "an experiment")
        assert (release.cause, release.receipt, release.generation) == ("person", refused.sequence, 2)
        with pytest.raises(Misuse, match="champion already"):
            registry.promote_person(desk.parts, turn, digest("two"), "again")
        with pytest.raises(NotFound, match="never judged"):
            registry.promote_person(desk.parts, turn, digest("unknown"), "why not")


def test_a_person_may_not_promote_what_is_damaged(desk):
    desk.record(desk.receipt("one", skill=0.5))
    desk.broken.add(digest("one"))
    with desk.turn() as turn, pytest.raises(BundleCorrupt):
        registry.promote_person(desk.parts, turn, digest("one"), because="I say so")
    assert registry.current(desk.parts.ledger) is None


# ---- the way back --------------------------------------------------------------------------------------------------


def test_rollback_goes_to_the_newest_that_served(desk):
    desk.promote("one", served=True)
    desk.promote("two")
    desk.promote("three", served=True)
    back = desk.roll_back("bad predictions")
    assert (back.generation, back.champion, back.cause) == (4, digest("one"), "rollback")
    assert back.because == "bad predictions"
    assert back.last_good is None
    assert registry.taken_back(desk.parts.ledger) == {digest("three")}


def test_a_second_rollback_does_not_return_to_what_was_taken_back(desk):
    desk.promote("one", served=True)
    desk.promote("two", served=True)
    desk.promote("three", served=True)
    assert desk.roll_back().champion == digest("two")
    assert desk.roll_back().champion == digest("one")
    with pytest.raises(NothingToServe, match="No earlier release"):
        desk.roll_back()
    assert registry.taken_back(desk.parts.ledger) == {digest("two"), digest("three")}


def test_a_damaged_bundle_is_passed_over_and_told(desk):
    desk.promote("one", served=True)
    desk.promote("two", served=True)
    desk.promote("three", served=True)
    desk.broken.add(digest("two"))
    assert desk.roll_back().champion == digest("one")
    assert any("model.pkl is not as packed" in text for text in desk.said)


def test_rollback_to_a_named_generation(desk):
    desk.promote("one")
    desk.promote("two", served=True)
    with pytest.raises(NotFound):
        desk.roll_back(to=9)
    with pytest.raises(Misuse, match="in force"):
        desk.roll_back(to=2)
    back = desk.roll_back(to=1)
    assert (back.champion, back.last_good) == (digest("one"), None)
    desk.broken.add(digest("two"))
    with pytest.raises(BundleCorrupt):
        desk.roll_back(to=2)


def test_nothing_to_go_back_to(desk):
    with pytest.raises(NothingToServe, match="Nothing is live"):
        desk.roll_back()
    desk.promote("one", served=True)
    with pytest.raises(NothingToServe):
        desk.roll_back()
    with pytest.raises(Misuse, match="reason"):
        desk.roll_back(because="")


def test_a_person_may_bring_back_what_was_taken_back(desk):
    desk.promote("one", served=True)
    desk.promote("two", served=True)
    desk.roll_back()
    with desk.turn() as turn:
        registry.promote_person(desk.parts, turn, digest("two"), "it was the data")
    assert registry.taken_back(desk.parts.ledger) == frozenset()


# ---- history and replay --------------------------------------------------------------------------------------------


def test_what_was_live_at_a_time(desk):
    start = desk.clock.now()
    desk.clock.advance(60)
    desk.promote("one", served=True)
    desk.clock.advance(60)
    desk.promote("two")
    ledger = desk.parts.ledger
    assert registry.release_at(ledger, start) is None
    assert registry.release_at(ledger, start + timedelta(seconds=60)).champion == digest("one")
    assert registry.release_at(ledger, start + timedelta(seconds=119)).champion == digest("one")
    assert registry.release_at(ledger, start + timedelta(days=1)).champion == digest("two")
    newest, oldest = registry.history(ledger)
    assert (newest.served, oldest.served) == (False, True)
    assert newest.receipt.decision.candidate == digest("two")


def test_the_first_proof_of_serving_stays(desk):
    desk.promote("one", served=True)
    first = desk.parts.ledger.read("served", registry.generation_key(1), registry.Served)
    desk.serve(1)
    assert desk.parts.ledger.read("served", registry.generation_key(1), registry.Served) == first


def test_replay_agrees_and_notices_every_kind_of_tampering(desk):
    receipt = desk.receipt("one")
    event, _ = desk.record(receipt)
    found = registry.replay(desk.parts, event.sequence)
    assert (found.sequence, found.candidate, found.agrees) == (event.sequence, digest("one"), True)
    blobs = desk.parts.blobs
    content = blobs.get(receipt.evaluation.evidence_key)
    blobs.delete(receipt.evaluation.evidence_key)
    gone = registry.replay(desk.parts, event.sequence)
    assert not gone.agrees
    assert gone.differences[0].startswith("evidence:")
    blobs.put(receipt.evaluation.evidence_key, content + b"x")
    assert "not those that were recorded" in registry.replay(desk.parts, event.sequence).differences[0]


def test_replay_names_what_differs(desk):
    receipt = desk.receipt("one")
    better = msgspec.structs.replace(receipt.evaluation.scores["candidate"], value=0.99)
    lied = msgspec.structs.replace(
        receipt,
        evaluation=msgspec.structs.replace(
            receipt.evaluation, scores={**receipt.evaluation.scores, "candidate": better}
        ),
    )
    event, _ = desk.record(lied)
    found = registry.replay(desk.parts, event.sequence)
    assert [text.partition(":")[0] for text in found.differences] == [
        "evaluation.scores",
        "decision.reason",
        "decision.checks",
    ]
    now = canonical(receipt.evaluation.scores["candidate"]).decode()
    before, _, after = found.differences[0].partition(", now ")
    assert '"value":0.99' in before
    assert now in after


def test_replaying_what_is_no_decision(desk):
    desk.promote("one")
    with pytest.raises(NotFound, match="not a decision"):
        registry.replay(desk.parts, 2)


# ---- to the letter -----------------------------------------------------------------------------------------------


def test_questions_are_numbered_within_their_holdout(desk):
    for name, holdout in (("one", "h"), ("two", "g"), ("three", "h"), ("four", "h")):
        desk.record(desk.receipt(name, skill=0.5, holdout=holdout))
    found = {key: ask.candidate for key, ask in asks(desk)}
    assert found == {
        ask_key(digest("h"), 1): digest("one"),
        ask_key(digest("g"), 1): digest("two"),
        ask_key(digest("h"), 2): digest("three"),
        ask_key(digest("h"), 3): digest("four"),
    }


def test_an_ask_names_the_models_the_evidence_and_the_receipt(desk):
    desk.promote("one")
    receipt = desk.receipt("two", skill=0.5)
    event, _ = desk.record(receipt)
    assert dict(asks(desk))[ask_key(digest("h"), 2)] == Ask(
        candidate=digest("two"),
        champion=digest("one"),
        evidence_key=receipt.evaluation.evidence_key,
        receipt=event.sequence,
    )
    assert (event.kind, event.subject) == ("gate.decided", digest("two"))
    key = evaluation_key(digest("two"), digest("one"), digest("h"))
    assert desk.parts.ledger.read("evaluation", key, Judged) == Judged(receipt=event.sequence)


def test_a_release_without_a_receipt_has_a_chapter_without_one(desk):
    bare = Release(generation=1, champion=digest("one"), last_good=None, baseline=BASELINE, cause="person", because="x")
    with desk.turn() as turn, turn.transaction(desk.parts.ledger) as transaction:
        registry.make_release(transaction, bare)
    assert registry.history(desk.parts.ledger) == [registry.Chapter(release=bare, receipt=None, served=False)]


def test_a_release_tells_everything_and_so_does_its_event(desk):
    desk.promote("one", served=True)
    desk.clock.advance(30)
    receipt = desk.receipt("two", skill=0.95)
    event, release = desk.record(receipt)
    assert release == Release(
        generation=2,
        champion=digest("two"),
        last_good=digest("one"),
        baseline=BASELINE,
        cause="gate",
        because=receipt.decision.reason,
        receipt=event.sequence,
        at=timestamp(desk.clock.now()),
    )
    made = desk.parts.ledger.events(kinds=["release.made"], subject="2")
    assert [msgspec.convert(one.facts, Release) for one in made] == [release]
    assert desk.parts.ledger.read("release", registry.generation_key(2), Release) == release


def test_recording_a_promotion_again_tells_the_release_only_while_it_is_in_force(desk):
    receipt = desk.receipt("one", skill=0.95)
    first, release = desk.record(receipt)
    assert desk.record(receipt) == (first, release)
    refused = desk.receipt("two", skill=0.5)
    event, none = desk.record(refused)
    assert none is None
    assert desk.record(refused) == (event, None)


def test_a_champion_that_returns_is_not_its_own_last_good_model(desk):
    desk.promote("one", served=True)
    desk.promote("two")
    with desk.turn() as turn:
        assert registry.promote_person(desk.parts, turn, digest("one"), "back").last_good is None


def test_a_conflict_names_both_champions(desk):
    desk.promote("one")
    late = desk.receipt("two", skill=0.95)
    desk.promote("three")
    with pytest.raises(Conflict, match=f"against champion {short(digest('one'))}, and champion") as told:
        desk.record(late)
    assert told.value.facts["judged_against"] == digest("one")
    assert told.value.facts["in_force"] == digest("three")


def test_of_two_refusals_in_a_row_each_is_found_again(desk):
    receipts = [desk.receipt(name, skill=0.5) for name in ("one", "two")]
    events = [desk.record(receipt)[0] for receipt in receipts]
    assert [desk.record(receipt)[0] for receipt in receipts] == events
    assert len(desk.parts.ledger.events()) == 2


def test_a_receipt_that_never_released_finds_none_in_an_empty_registry(desk):
    receipt = desk.receipt("one", skill=0.5)
    event, _ = desk.record(receipt)
    assert desk.record(receipt) == (event, None)


def test_a_person_s_release_tells_everything(desk):
    desk.promote("one", served=True)
    refused, _ = desk.record(desk.receipt("two", skill=0.5))
    other = msgspec.structs.replace(desk.receipt("two", skill=0.5, holdout="g"))
    changed = msgspec.structs.replace(other.evaluation, baseline=digest("another baseline"))
    newest, _ = desk.record(msgspec.structs.replace(other, evaluation=changed))
    assert newest.sequence > refused.sequence
    desk.clock.advance(5)
    with desk.turn() as turn:
        release = registry.promote_person(desk.parts, turn, digest("two"), "an experiment")
    assert release == Release(
        generation=2,
        champion=digest("two"),
        last_good=digest("one"),
        baseline=digest("another baseline"),
        cause="person",
        because="an experiment",
        receipt=newest.sequence,
        at=timestamp(desk.clock.now()),
    )
    assert registry.current(desk.parts.ledger) == release


def test_an_approval_is_a_document_of_its_own(desk):
    held = hold(desk, "one")
    desk.clock.advance(5)
    with desk.turn() as turn:
        release = registry.approve(desk.parts, turn, held.sequence, because="looked at it")
    assert release == Release(
        generation=1,
        champion=digest("one"),
        last_good=None,
        baseline=BASELINE,
        cause="approval",
        because="looked at it",
        receipt=held.sequence,
        at=timestamp(desk.clock.now()),
    )
    kept = desk.parts.ledger.scan("approval", registry.Approval)
    assert kept == [(f"{held.sequence:010d}", registry.Approval(generation=1, because="looked at it"))]
    assert registry.current(desk.parts.ledger) == release


def test_a_rollback_tells_everything(desk):
    desk.promote("one", served=True)
    desk.promote("two", served=True)
    desk.promote("three", served=True)
    second = registry.releases(desk.parts.ledger)[1]
    desk.clock.advance(5)
    release = desk.roll_back("it misbehaved")
    assert release == Release(
        generation=4,
        champion=digest("two"),
        last_good=digest("one"),
        baseline=BASELINE,
        cause="rollback",
        because="it misbehaved",
        receipt=second.receipt,
        at=timestamp(desk.clock.now()),
    )
    assert registry.current(desk.parts.ledger) == release


def test_a_rollback_never_falls_back_on_what_was_taken_back(desk):
    """Four had two as its last good model; two was taken back since, so going back to four leaves none."""
    desk.promote("one", served=True)
    desk.promote("two", served=True)
    desk.promote("three", served=True)
    assert desk.roll_back().champion == digest("two")
    assert desk.promote("four", served=True).last_good == digest("two")
    assert desk.roll_back(to=1).last_good is None
    assert registry.taken_back(desk.parts.ledger) == {digest("three"), digest("four")}
    with desk.turn() as turn:
        registry.promote_person(desk.parts, turn, digest("two"), "back again")
    desk.roll_back(to=1)
    back = desk.roll_back(to=5)
    assert (back.champion, back.last_good) == (digest("four"), None)


def test_what_a_person_is_told(desk):
    """Every refusal says what is wrong, names it in its facts, and says what to do next."""
    ledger = desk.parts.ledger

    def told(kind, call, *words, **facts):
        with desk.turn() as turn, pytest.raises(kind) as found:
            call(turn)
        problem = found.value
        assert all(word in problem.message for word in words), problem.message
        assert {name: problem.facts.get(name) for name in facts} == facts
        assert problem.next_step or kind is Misuse
        return problem.next_step

    late = desk.receipt("late")
    assert "interlock run" in told(NothingToServe, lambda turn: registry.roll_back(desk.parts, turn, "x"), "Nothing is")
    one = desk.promote("one")
    assert "--because" in told(Misuse, lambda turn: registry.roll_back(desk.parts, turn, " "), "needs a reason")
    told(
        Conflict,
        lambda turn: registry.record_decision(desk.parts, turn, late, BASELINE),
        "against no champion",
        f"champion {short(digest('one'))} is in force",
        judged_against=None,
        in_force=digest("one"),
    )
    refused, _ = desk.record(desk.receipt("two", skill=0.4))
    reason = registry.receipt_at(ledger, refused.sequence).decision.reason
    number = refused.sequence
    told(GateHeld, lambda turn: registry.approve(desk.parts, turn, number, "x"), str(number), reason, sequence=number)
    step = told(
        Misuse,
        lambda turn: registry.approve(desk.parts, turn, one.receipt, "x"),
        "needs no approval",
        sequence=one.receipt,
    )
    assert "history" in step
    told(
        NotFound,
        lambda turn: registry.promote_person(desk.parts, turn, digest("who"), "x"),
        short(digest("who")),
        digest=digest("who"),
    )
    told(Misuse, lambda turn: registry.promote_person(desk.parts, turn, digest("one"), "x"), "already (release 1)")
    told(NothingToServe, lambda turn: registry.roll_back(desk.parts, turn, "x"), "than 1 has", in_force=1)
    assert "history" in told(NotFound, lambda turn: registry.roll_back(desk.parts, turn, "x", 9), "no release 9")
    step = told(Misuse, lambda turn: registry.roll_back(desk.parts, turn, "x", 1), "Release 1", short(digest("one")))
    assert "another champion" in step
    step = told(NotFound, lambda turn: registry.receipt_at(ledger, 2), "Entry 2", sequence=2)
    assert "history" in step
    told(NotFound, lambda turn: registry.receipt_at(ledger, 99), "Entry 99", sequence=99)


def test_a_damaged_bundle_is_told_with_its_generation(desk):
    desk.promote("one", served=True)
    desk.promote("two", served=True)
    desk.broken.add(digest("one"))
    with pytest.raises(NothingToServe):
        desk.roll_back()
    assert any(text.startswith("release 1 cannot be gone back to: Bundle") for text in desk.said)


def test_differences_are_shown_up_to_two_hundred_characters():
    assert registry._shown("x" * 198) == '"' + "x" * 198 + '"'
    assert registry._shown("x" * 199) == '"' + "x" * 199 + "…"


def test_what_served_and_what_was_decided_is_told_of_each_release(desk):
    desk.promote("one", served=True)
    desk.record(desk.receipt("two", skill=0.5))
    with desk.turn() as turn:
        registry.promote_person(desk.parts, turn, digest("two"), "why not")
    desk.promote("three", served=True)
    told = registry.history(desk.parts.ledger)
    assert [(one.release.generation, one.served) for one in told] == [(3, True), (2, False), (1, True)]
    assert [one.receipt.decision.verdict for one in told] == ["promote", "keep", "promote"]
    assert that_served(desk.parts.ledger) == {1, 3}
    served = desk.parts.ledger.scan("served", registry.Served)
    assert [key for key, _ in served] == ["0000000001", "0000000003"]
    assert [desk.parts.ledger.events(after=one.sequence - 1, limit=1)[0].kind for _, one in served] == [
        "batch.published"
    ] * 2


# ---- everything, in any order --------------------------------------------------------------------------------------


class Registry(RuleBasedStateMachine):
    """Any order of decisions, approvals, rollbacks, service and damage keeps the rules of the house."""

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.desk = make_desk(MemoryLedger(self.clock), self.clock, Path(self.folder.name))
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(registry, "open_bundle", opener(self.desk))
        self.number = 0
        self.seen = []
        self.receipts = []
        self.held = []

    def teardown(self):
        if hasattr(self, "patch"):
            self.patch.undo()
            self.folder.cleanup()

    @property
    def ledger(self):
        return self.desk.parts.ledger

    def live(self):
        return registry.current(self.ledger)

    @rule(skill=st.sampled_from([0.5, 0.95]), approval=st.booleans(), stale=st.booleans())
    def decide(self, skill, approval, stale):
        self.number += 1
        receipt = self.desk.receipt(f"m{self.number}", skill=skill, approval=approval)
        before = self.live()
        if stale:
            self.number += 1
            self.desk.record(self.desk.receipt(f"m{self.number}", skill=0.95))
        moved = self.live() != before
        try:
            event, release = self.desk.record(receipt)
        except Conflict:
            assert moved
            assert receipt.decision.verdict == "promote"
            return
        assert not (moved and receipt.decision.verdict == "promote")
        assert (release is not None) == (receipt.decision.verdict == "promote")
        self.receipts.append(event.sequence)
        if receipt.decision.verdict == "hold":
            self.held.append(event.sequence)

    @precondition(lambda self: getattr(self, "held", None))
    @rule(data=st.data())
    def approve(self, data):
        sequence = data.draw(st.sampled_from(self.held))
        receipt = registry.receipt_at(self.ledger, sequence)
        before = self.live()
        try:
            with self.desk.turn() as turn:
                made = registry.approve(self.desk.parts, turn, sequence, "seen")
        except InterlockError:
            assert self.live() == before
            return
        assert receipt.evaluation.champion == (before.champion if before else None)
        assert made.champion == receipt.evaluation.candidate
        self.held.remove(sequence)

    @precondition(lambda self: hasattr(self, "clock") and self.live())
    @rule()
    def serve(self):
        self.desk.serve(self.live().generation)

    @precondition(lambda self: hasattr(self, "clock") and self.live())
    @rule(broken=st.booleans())
    def damage(self, broken):
        (self.desk.broken.add if broken else self.desk.broken.discard)(self.live().champion)

    @precondition(lambda self: hasattr(self, "clock"))
    @rule()
    def roll_back(self):
        before, taken = self.live(), registry.taken_back(self.ledger)
        past = registry.history(self.ledger)
        can = [
            c.release.champion
            for c in past
            if c.served and c.release.champion not in taken | self.desk.broken and c.release.champion != before.champion
        ]
        try:
            made = self.desk.roll_back()
        except NothingToServe:
            assert not can
            assert self.live() == before
            return
        assert made.champion == can[0]
        assert before.champion in registry.taken_back(self.ledger)

    @precondition(lambda self: getattr(self, "receipts", None))
    @rule(data=st.data())
    def replay(self, data):
        assert registry.replay(self.desk.parts, data.draw(st.sampled_from(self.receipts))).agrees

    @invariant()
    def releases_only_grow(self):
        if not hasattr(self, "clock"):
            return
        found = [canonical(release) for release in reversed(registry.releases(self.ledger))]
        assert found[: len(self.seen)] == self.seen
        self.seen = found
        generations = [release.generation for release in registry.releases(self.ledger)]
        assert generations == list(range(len(generations), 0, -1))

    @invariant()
    def every_release_has_its_event_and_its_receipt(self):
        if not hasattr(self, "clock"):
            return
        made = [event.facts["generation"] for event in self.ledger.events(kinds=["release.made"])]
        assert made == [release.generation for release in reversed(registry.releases(self.ledger))]
        for chapter in registry.history(self.ledger):
            assert chapter.receipt.evaluation.candidate == chapter.release.champion
            assert chapter.release.last_good != chapter.release.champion
        assert self.ledger.verify().broken_at is None


Registry.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
TestRegistry = Registry.TestCase
