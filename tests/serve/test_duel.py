"""Two models and the same records: who is asked when, and what is timed."""

import asyncio
from dataclasses import dataclass, field

import pytest

from interlock.answer.predict import Seat
from interlock.errors import UserCodeFailed
from interlock.records import Signature
from interlock.serve.duel import EVERY_S, REST, Duels

ROWS = [(1.0,), (2.0,)]


@dataclass
class World:
    """A clock that models move on, and the order in which they were asked."""

    now_s: float = 0.0
    asked: list[str] = field(default_factory=list)

    def clock(self) -> float:
        return self.now_s

    def seat(self, tier, takes_s, given=None):
        world = self

        class Here:
            gathers = False

            def answers(self, rows):
                assert list(rows) == ROWS
                world.asked.append(tier)
                world.now_s += takes_s
                if isinstance(given, Exception):
                    raise given
                return given or [(tier, None)] * len(rows)

        return Seat(tier=tier, model=tier, signature=Signature(inputs=()), check=lambda given: None, here=Here())


@pytest.fixture
def world():
    return World()


@pytest.fixture
def duels(world):
    return Duels(world.clock, b"salt")


def test_both_are_timed_for_the_same_records_and_what_they_said_is_told(world, duels):
    found = asyncio.run(duels.fight(world.seat("challenger", 3.0), world.seat("champion", 1.0), ROWS))
    assert (found.challenger_s, found.champion_s) == (3.0, 1.0)
    assert found.answers == [(("challenger", None), ("champion", None))] * 2
    assert world.asked[:2] == world.asked[2:]
    assert sorted(world.asked[:2]) == ["challenger", "champion"]


def test_what_only_the_first_call_for_the_records_costs_is_not_timed(world, duels):
    """The champion has not seen them yet, and takes long for that."""
    champion = world.seat("champion", 1.0)
    answer = champion.here.answers

    def slow_at_first(rows):
        if "champion" not in world.asked:
            world.now_s += 50.0
        return answer(rows)

    champion.here.answers = slow_at_first
    found = asyncio.run(duels.fight(world.seat("challenger", 3.0), champion, ROWS))
    assert (found.challenger_s, found.champion_s) == (3.0, 1.0)


def test_each_begins_as_often_and_the_same_again_after_a_restart(world):
    def firsts():
        duels, world.asked = Duels(world.clock, b"salt"), []
        for _ in range(200):
            asyncio.run(duels.fight(world.seat("challenger", 3.0), world.seat("champion", 1.0), ROWS))
        return world.asked[::4]

    found = firsts()
    assert firsts() == found
    assert 80 <= found.count("challenger") <= 120


def test_who_pays_for_being_first_makes_neither_slower():
    """Two of the same, of which whoever begins takes three times as long: it is even."""
    duels, lost = Duels(lambda: now_s[0], b"other"), 0
    now_s = [0.0]

    class Warming:
        gathers = False

        def answers(self, rows):
            now_s[0] += next(turns)
            return [("x", None)] * len(rows)

    for _ in range(400):
        turns = iter((9.0, 1.0, 3.0, 1.0))
        seats = [
            Seat(tier=tier, model="m", signature=Signature(inputs=()), check=lambda given: None, here=Warming())
            for tier in ("challenger", "champion")
        ]
        found = asyncio.run(duels.fight(*seats, ROWS))
        lost += found.challenger_s > 2.0 * found.champion_s
    assert 160 <= lost <= 240


@pytest.mark.parametrize(
    "given", [RuntimeError("broken"), [("challenger", None), UserCodeFailed("no", cause="deadline")]]
)
def test_one_that_does_not_answer_has_no_time(world, duels, given):
    assert asyncio.run(duels.fight(world.seat("challenger", 1.0, given), world.seat("champion", 1.0), ROWS)) is None


def test_there_is_one_duel_a_second(world, duels):
    assert [duels.is_due() for _ in range(3)] == [True, False, False]
    world.now_s += EVERY_S
    assert [duels.is_due() for _ in range(2)] == [True, False]


def test_slow_models_have_fewer_and_none_while_one_goes_on(world, duels):
    """Two calls of each, eight seconds in all: the next is due after nine times as long."""
    assert duels.is_due()
    asked = []
    champion = world.seat("champion", 1.0)
    answer = champion.here.answers
    champion.here.answers = lambda rows: [asked.append(duels.is_due()), answer(rows)][1]
    asyncio.run(duels.fight(world.seat("challenger", 3.0), champion, ROWS))
    assert (world.now_s, asked) == (8.0, [False, False])
    world.now_s += REST * 8.0 - 0.1
    assert not duels.is_due()
    world.now_s += 0.1
    assert duels.is_due()


def test_one_that_fails_does_not_stop_the_next(world, duels):
    assert duels.is_due()
    asyncio.run(duels.fight(world.seat("challenger", 0.5, RuntimeError("broken")), world.seat("champion", 0.5), ROWS))
    world.now_s += 60.0
    assert duels.is_due()
