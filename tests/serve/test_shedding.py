"""Requests beyond what can be answered: refused late in a turn, when turns have been long for a while."""

import asyncio
import json

import pytest

from interlock.serve.door import Call
from interlock.serve.keys import Keyring
from interlock.serve.shedding import FEWEST, WHILE_S, Shedder
from serve.conftest import house_of

MOST_S = 0.02


class Turns:
    """A loop and a clock that are turned by hand."""

    def __init__(self, most_s=MOST_S):
        self.now_s, self.soon = 100.0, []
        self.shedder = Shedder(most_s, self.soon.append, lambda: self.now_s)

    def turn(self, requests, each_s, refused_s=0.0001):
        """One turn; which of its requests were refused."""
        told = []
        for _ in range(requests):
            refused = self.shedder.refuses()
            told.append(refused)
            self.now_s += refused_s if refused else each_s
        for call in self.soon:
            call()
        self.soon.clear()
        return told


@pytest.fixture
def turns():
    return Turns()


def overload(turns, requests=200, each_s=0.001):
    """Turns that are long for long enough."""
    end_s = turns.now_s + WHILE_S
    while turns.now_s < end_s:
        assert not any(turns.turn(requests, each_s))


def test_a_burst_is_left_alone(turns):
    assert not any(turns.turn(200, 0.001))
    assert not any(turns.turn(5, 0.001))


def test_when_every_turn_is_long_what_is_late_in_a_turn_is_refused(turns):
    overload(turns)
    for _ in range(20):
        told = turns.turn(60, 0.001)
        assert told.index(True) in (20, 21)  # 20 ms, as floats add up
        assert all(told[21:])


def test_a_short_turn_ends_it(turns):
    overload(turns)
    assert any(turns.turn(60, 0.001))
    assert not any(turns.turn(15, 0.001))
    assert not any(turns.turn(60, 0.001))


def test_a_few_large_requests_are_no_overload(turns):
    for _ in range(50):
        assert not any(turns.turn(FEWEST, 0.1))


def test_so_many_are_answered_however_long_they_take(turns):
    overload(turns, requests=20, each_s=0.05)
    assert turns.turn(20, 0.05) == [False] * FEWEST + [True] * (20 - FEWEST)


def test_a_turn_answers_for_as_long_as_the_one_before_refused(turns):
    overload(turns)
    first = turns.turn(120, 0.001, refused_s=0.001)  # 100 ms of refusals
    second = turns.turn(120, 0.001, refused_s=0.0)
    third = turns.turn(120, 0.001)
    assert [round(told.index(True), -1) for told in (first, second, third)] == [20, 100, 20]


def test_it_can_be_turned_off():
    turns = Turns(most_s=0.0)
    for _ in range(10):
        assert not any(turns.turn(200, 0.01))
    assert turns.soon == []


def test_who_is_refused_is_told_at_once_and_nothing_is_asked_or_counted(project):
    house = house_of(project, Keyring(None))
    turns = Turns()
    house.door.shedder = turns.shedder
    overload(turns)
    body = json.dumps({"x": 1.0, "n": 3, "colour": "red"}).encode()

    async def main():
        told = []
        for _ in range(FEWEST + 2):
            told.append(await house.ask("/predict", body))
            turns.now_s += 0.01
        return told

    told = asyncio.run(main())
    assert [status for status, _, _ in told] == [200] * FEWEST + [503] * 2
    _, headers, reply = told[-1]
    assert headers[b"retry-after"] == b"1"
    assert json.loads(reply)["error"]["code"] == "Overloaded"
    assert [served.answered is None for served in house.served] == [False] * FEWEST + [True] * 2


def test_what_is_gathered_is_refused_as_what_is_not(project):
    house = house_of(project, Keyring(None))
    turns = Turns()
    house.door.shedder = turns.shedder
    overload(turns)
    read = house.door._read

    def slowly(*given):
        turns.now_s += 0.01
        return read(*given)

    house.door._read = slowly
    body = json.dumps({"x": 1.0, "n": 3, "colour": "red"}).encode()
    replies = house.door.together([Call("/predict", body, None)] * (FEWEST + 2))
    assert [reply.status for reply in replies] == [200] * FEWEST + [503] * 2
