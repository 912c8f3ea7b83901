"""Requests beyond what can be answered: refused late in a turn, when turns have been long for a while."""

import asyncio
import json

import pytest

from interlock.serve.keys import Keyring
from interlock.serve.shedding import FEWEST, SLICE_S, WHILE_S, Shedder
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


# ---- the line ----------------------------------------------------------------------------------------------------

EACH_S = 0.01


class Line:
    """Requests that come and are answered by hand, at so many seconds each."""

    def __init__(self, most_s=MOST_S * 10):
        self.now_s, self.waiting = 100.0, 0
        self.shedder = Shedder(most_s, lambda call: None, lambda: self.now_s)
        self.shedder.answered(1, EACH_S)

    def come(self, count, **promised):
        """How many of so many may wait."""
        admitted = sum(self.shedder.admits(**promised) for _ in range(count))
        self.waiting += admitted
        return admitted

    def keep(self, count):
        """So many bodies that were promised are there; how many of them may wait."""
        for _ in range(count):
            self.shedder.kept()
        return self.come(count, promised=True)

    def answer(self, count):
        count = min(count, self.waiting)
        self.waiting -= count
        self.now_s += EACH_S * count
        self.shedder.answered(count, EACH_S * count)


@pytest.fixture
def line():
    return Line()


def overloaded(line):
    """Three times as many as can be answered, for a while."""
    began_s = line.now_s
    while line.come(6) == 6:
        line.answer(2)
    assert line.now_s - began_s >= WHILE_S
    while line.waiting > 20:
        assert line.come(1) == 0
        line.answer(2)


def test_a_long_line_is_left_alone_for_a_while(line):
    assert line.come(30) == 30
    line.now_s += WHILE_S - 0.01
    assert line.come(20) == 20
    line.now_s += 0.02
    assert line.come(50) == 0


def test_the_line_of_a_burst_is_bounded_too(line):
    assert line.come(200) == 200
    line.now_s += 2 * SLICE_S
    assert line.come(1) == 0
    line.answer(200 - 25)
    assert line.come(1) == 0  # 20 is the bound now
    line.answer(6)
    assert line.come(2) == 1


def test_once_it_is_too_long_for_a_while_only_who_is_in_time_may_wait(line):
    overloaded(line)
    for _ in range(100):
        line.answer(2)
        admitted = line.come(6)
        assert admitted in (1, 2, 3)
        assert line.waiting * EACH_S <= 10 * MOST_S + EACH_S


def test_it_is_over_when_nobody_was_refused_for_a_while(line):
    overloaded(line)
    line.come(20)
    line.answer(20)
    line.now_s += WHILE_S
    assert line.come(50) == 50  # a burst again
    line.now_s += WHILE_S
    assert line.come(1) == 0


def test_what_an_answer_takes_is_learnt(line):
    overloaded(line)
    line.answer(line.waiting)
    for _ in range(60):
        line.shedder.answered(1, EACH_S / 4)
    assert 75 <= line.come(200) <= 85  # of 2.5 ms each, in 200 ms


def test_a_few_may_wait_however_long_they_take(line):
    for _ in range(60):
        line.shedder.answered(1, 1.0)
    for _ in range(20):
        line.come(FEWEST + 10)
        line.now_s += WHILE_S / 4
    assert line.come(1) == 0
    line.shedder.answered(line.waiting, 1.0 * line.waiting)
    assert line.come(FEWEST + 10) == FEWEST


def test_a_promise_has_a_place_in_the_line(line):
    overloaded(line)
    line.answer(10)  # ten wait
    promised = sum(line.shedder.promises() for _ in range(30))
    assert promised == 10
    assert line.come(10) == 10  # who is there goes first
    assert line.come(1) == 0
    assert line.keep(10) == 10
    assert line.come(30, promised=True) == 10  # twice the bound, however many were promised


def test_a_promise_that_is_not_kept_soon_counts_no_more(line):
    overloaded(line)
    line.answer(20)
    assert sum(line.shedder.promises() for _ in range(30)) == 20
    assert not line.shedder.promises()
    line.now_s += WHILE_S / 2
    assert not line.shedder.promises()
    line.now_s += 2 * WHILE_S
    assert line.shedder.promises()


def test_promises_that_are_kept_leave_room_for_others(line):
    overloaded(line)
    line.answer(20)
    for _ in range(50):
        promised = sum(line.shedder.promises() for _ in range(30))
        assert promised in (19, 20)  # as floats add up
        assert line.keep(promised) == promised
        line.answer(promised)


def test_promises_that_are_kept_at_once_fill_no_line(line):
    for _ in range(500):
        assert line.shedder.promises()
        line.shedder.kept()
        line.now_s += 0.001


def test_nobody_is_refused_where_it_is_turned_off():
    line = Line(most_s=0.0)
    assert line.come(10_000) == 10_000
    line.now_s += 1.0
    assert line.come(1) == 1
    assert line.shedder.promises()
    assert not line.shedder.is_late()
    line.now_s += 1.0
    assert not line.shedder.is_late()


def test_a_turn_that_was_interrupted_says_little(line):
    for _ in range(20):
        line.shedder.answered(500, 0.015)
        line.shedder.answered(1, 0.1)
    assert line.come(200) == 200
    line.now_s += WHILE_S
    assert line.come(20) == 20


def test_a_turn_is_late_after_a_slice(turns):
    assert not turns.shedder.is_late()
    turns.now_s += SLICE_S
    assert not turns.shedder.is_late()
    turns.now_s += 0.001
    assert turns.shedder.is_late()
    turns.turn(0, 0.0)
    assert not turns.shedder.is_late()


def test_a_turn_says_what_an_answer_takes():
    turns = Turns(most_s=0.09)
    for _ in range(3):
        assert not turns.shedder.is_late()
        turns.now_s += 0.009
    turns.turn(0, 0.0)
    told = []
    for _ in range(50):
        told.append(turns.shedder.admits())
        turns.now_s += 0.005
    assert told.index(False) in (29, 30)  # of 9 ms, in thrice 90 ms
