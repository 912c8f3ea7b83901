"""The tree of what can go wrong."""

import inspect

import pytest

from interlock import errors
from interlock.errors import Fault, InterlockError, Misuse, Refused, bounded

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, InterlockError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_drawn_listed_and_has_its_branchs_exit_code(kind: type[InterlockError]) -> None:
    assert kind.__name__ in errors.__doc__
    assert kind.__name__ in errors.__all__
    branch = {Refused: 1, Misuse: 2, Fault: 3}
    code = next((code for base, code in branch.items() if issubclass(kind, base)), 3)
    assert kind.exit_code == code


def test_facts_are_fields_and_the_message_is_bounded() -> None:
    problem = Fault("x" * 10_000, next_step="Do this.", path="a")
    assert problem.facts == {"path": "a"}
    assert len(problem.message) < 2_100
    assert problem.message.endswith("(8000 more characters)")
    assert problem.code == "Fault"
    assert str(problem).endswith("Do this.")


def test_short_text_is_left_alone() -> None:
    assert bounded("abc", 3) == "abc"


def test_a_kind_is_found_by_its_name() -> None:
    assert errors.error_named("ContractError") is errors.ContractError
    assert errors.error_named("bounded") is errors.Fault
    assert errors.error_named("nonsense") is errors.Fault
