"""A person's acts: each with a reason, who asked, and a short lease."""

import pytest

from interlock.errors import LeaseHeld, Misuse, NothingToServe
from interlock.release.operation import approve_held, duty_by_person, go_back, operator_turn
from interlock.release.standing import current
from serve.conftest import FORM, opened_bundle, project  # noqa: F401  a fixture


@pytest.fixture
def good(project, tmp_path):  # noqa: F811
    project.release_of(tmp_path, 2, last_good=opened_bundle(tmp_path / "good", FORM))
    return project


@pytest.mark.parametrize(("by", "told"), [("", "a test"), ("ops", "a test (asked by ops)")])
def test_a_trip_and_a_reset_tell_why_and_who(good, by, told):
    tripped = duty_by_person(good.parts, "trip", "a test", by)
    assert (tripped.state.mode, tripped.state.cause, tripped.release.route) == ("open", told, "last-good")
    duty_by_person(good.parts, "reset", "a test", by)
    assert current(good.parts.ledger).route == "champion"
    events = [event for event in good.parts.ledger.events() if event.kind.startswith("breaker.")]
    assert [event.facts["because"] for event in events] == [told, told]
    assert all("-operator-" in event.turn for event in events)


@pytest.mark.parametrize(
    "act",
    [
        lambda parts: duty_by_person(parts, "trip", " "),
        lambda parts: go_back(parts, ""),
        lambda parts: approve_held(parts, 1, "\n"),
    ],
)
def test_without_a_reason_nothing_happens(good, act):
    before = good.parts.ledger.events()
    with pytest.raises(Misuse, match="needs a reason"):
        act(good.parts)
    assert good.parts.ledger.events() == before


def test_there_must_be_somewhere_to_go_back_to(good):
    with pytest.raises(NothingToServe):
        go_back(good.parts, "a test")
    with operator_turn(good.parts):
        pass  # the lease was given back


def test_two_at_once_do_not_meet(good):
    with operator_turn(good.parts), pytest.raises(LeaseHeld):
        duty_by_person(good.parts, "trip", "a test")
