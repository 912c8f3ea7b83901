"""A service level as it is written."""

import pytest

from interlock.errors import Misuse
from interlock.service_level import Limit, Load, limit_of, limits_of


@pytest.mark.parametrize(
    ("text", "measure", "above", "bound"),
    [
        ("p99 > 50ms", "p99", True, 50.0),
        ("p99.9>1.5s", "p999", True, 1_500.0),
        ("max > 2 s", "max", True, 2_000.0),
        ("errors > 0.1%", "errors", True, 0.001),
        ("fallback > 0.01", "fallback", True, 0.01),
        ("rps < 500", "rps", False, 500.0),
    ],
)
def test_a_condition_is_read(text: str, measure: str, above: bool, bound: float) -> None:
    found = limit_of(text)
    assert (found.measure, found.above, found.bound) == (measure, above, pytest.approx(bound))
    assert limit_of(found.written()).measure == measure


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p99",
        "p99 > 50",
        "p98 > 5ms",
        "errors > 5ms",
        "errors > 200%",
        "rps < 5%",
        "rps = 5",
        "p99 > -5ms",
        "name < 1",
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(Misuse) as caught:
        limit_of(text)
    assert caught.value.next_step


def test_settings_and_words_are_held_together() -> None:
    limits = limits_of(Load(p99="50ms", errors=0.001, rps=10), ["p50 > 5ms"])
    assert [limit.written() for limit in limits] == ["p99 > 50 ms", "errors > 0.1 %", "rps < 10", "p50 > 5 ms"]


def test_the_bound_itself_is_kept() -> None:
    assert Limit(measure="p99", above=True, bound=50.0).holds(50.0)
    assert not Limit(measure="p99", above=True, bound=50.0).holds(50.1)
    assert Limit(measure="rps", above=False, bound=50.0).holds(50.0)
    assert not Limit(measure="rps", above=False, bound=50.0).holds(49.9)
