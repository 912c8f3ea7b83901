"""Models in other processes, asked from an event loop."""

import asyncio
import threading

import polars as pl
import pytest

from interlock.answer import pool as pools
from interlock.answer.pool import Overloaded, Pool
from interlock.errors import UserCodeFailed
from interlock.model.predictor import Predictor
from interlock.model.rows import Framed
from interlock.records import Column, Signature

SIGNATURE = Signature(inputs=(Column(name="x", type="float", nullable=True),))


class Doubling(Predictor):
    """Doubles; refuses a missing value. ``gate`` holds the first call until it is set."""

    form, signature = "native", SIGNATURE

    def __init__(self, gate=None):
        self.calls, self.closed, self.gate = [], False, gate
        self.begun = threading.Event()

    def _answer(self, frame):
        self.calls.append(frame["x"].to_list())
        self.begun.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        if frame["x"].null_count():
            raise UserCodeFailed("missing", cause="raised")
        if frame["x"].max() == 13.0:
            raise UserCodeFailed("too long", cause="deadline")
        if frame["x"].max() == 77.0:
            raise UserCodeFailed("no number", cause="nonsense")
        if frame["x"].max() == 99.0:
            raise RuntimeError("a fault of ours")
        return frame.select(prediction=pl.col("x") * 2)

    def close(self):
        self.closed = True


@pytest.fixture
def doubling():
    return Doubling()


def run(predictors, work, **options):
    async def main():
        made = Pool(predictors, SIGNATURE, **options)
        try:
            return await work(made)
        finally:
            await asyncio.to_thread(made.close)

    return asyncio.run(main())


def test_rows_are_answered_in_order(doubling):
    assert run([doubling], lambda pool: pool.ask([(1.0,), (2.0,)])) == [(2.0, None), (4.0, None)]
    assert doubling.closed


class DoublingFew(Doubling):
    """Answers a few rows as they are."""

    def __init__(self):
        super().__init__()
        self.plain = []

    def few(self, rows):
        if len(rows) > 2:
            return None
        self.plain.append(len(rows))
        return pl.DataFrame({"prediction": [row[0] * 2 for row in rows]})


def test_a_few_rows_need_no_frame_where_they_are_answered_as_they_are():
    predictor = DoublingFew()

    async def work(pool):
        few = await pool.ask([(1.0,), (2.0,)])
        many = await pool.ask([(1.0,)] * 3)
        return few, many, await pool.ask(Framed(pl.DataFrame({"x": [5.0]})))

    assert run([predictor], work) == ([(2.0, None), (4.0, None)], [(2.0, None)] * 3, [(10.0, None)])
    assert predictor.plain == [2]
    assert predictor.calls == [[1.0] * 3, [5.0]]


async def filled(pool, predictor, *requests):
    """Ask with one call held, so that the others wait together; then let go."""
    first = asyncio.create_task(pool.ask([(0.0,)]))
    await asyncio.to_thread(predictor.begun.wait, 10)
    tasks = [asyncio.create_task(pool.ask(rows)) for rows in requests]
    await asyncio.sleep(0)
    predictor.gate.set()
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_what_waits_is_asked_together():
    predictor = Doubling(threading.Event())
    requests = [[(1.0,)], [(2.0,), (3.0,)], [(4.0,)]]
    found = run([predictor], lambda pool: filled(pool, predictor, *requests))
    assert found == [[(2.0, None)], [(4.0, None), (6.0, None)], [(8.0, None)]]
    assert predictor.calls == [[0.0], [1.0, 2.0, 3.0, 4.0]]


@pytest.mark.parametrize("place", range(4))
def test_a_bad_record_spoils_no_other_request(place):
    predictor = Doubling(threading.Event())
    requests = [[(1.0,)], [(1.0,)], [(1.0,)]]
    requests.insert(place, [(None,), (2.0,)])
    found = run([predictor], lambda pool: filled(pool, predictor, *requests))
    bad = found.pop(place)
    assert found == [[(2.0, None)]] * 3
    assert [given.facts["cause"] for given in bad] == ["raised", "raised"]
    assert not any("bystander" in given.facts for given in bad)


def test_a_model_that_refuses_everybody_is_not_asked_by_everybody():
    predictor = Doubling(threading.Event())
    found = run([predictor], lambda pool: filled(pool, predictor, *[[(None,)]] * 10))
    assert ["bystander" in given.facts for (given,) in found] == [False] * 2 + [True] * 8
    assert [len(call) for call in predictor.calls] == [1, 10, 1, 1]


def test_nonsense_is_counted_for_one_request_of_a_call():
    predictor = Doubling(threading.Event())
    found = run([predictor], lambda pool: filled(pool, predictor, [(1.0,)], [(77.0,)], [(2.0,)]))
    assert [given.facts["cause"] for (given,) in found] == ["nonsense"] * 3
    assert ["bystander" in given.facts for (given,) in found] == [False, True, True]
    assert len(predictor.calls) == 2


def test_a_call_that_ran_out_of_time_is_not_made_again():
    predictor = Doubling(threading.Event())
    found = run([predictor], lambda pool: filled(pool, predictor, [(13.0,)], [(1.0,)]))
    assert [given.facts["cause"] for each in found for given in each] == ["deadline", "deadline"]
    assert ["bystander" in given.facts for each in found for given in each] == [False, True]
    assert len(predictor.calls) == 2


def test_whatever_happens_whoever_waits_is_told(doubling):
    (given,) = run([doubling], lambda pool: pool.ask([(99.0,)]))
    assert given.facts["cause"] == "died"


def test_beyond_what_may_wait_a_request_is_turned_away_at_once():
    predictor = Doubling(threading.Event())
    one, two, three = run(
        [predictor], lambda pool: filled(pool, predictor, [(1.0,)] * 3, [(2.0,)], [(3.0,)]), most_waiting=4
    )
    assert one == [(2.0, None)] * 3
    assert two == [(4.0, None)]
    assert isinstance(three, Overloaded)
    assert three.next_step


def test_a_call_has_a_largest_size(monkeypatch):
    monkeypatch.setattr(pools, "MOST_ROWS", 3)
    predictor = Doubling(threading.Event())
    run([predictor], lambda pool: filled(pool, predictor, [(1.0,)] * 2, [(2.0,)] * 2, [(3.0,)]))
    assert [len(call) for call in predictor.calls] == [1, 2, 3]


def test_who_waits_when_the_pool_is_closed_is_told():
    predictor = Doubling(threading.Event())

    async def work(pool):
        first = asyncio.create_task(pool.ask([(0.0,)]))
        await asyncio.to_thread(predictor.begun.wait, 10)
        second = asyncio.create_task(pool.ask([(1.0,)]))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(pool.close))
        with pytest.raises(Overloaded):
            await second
        predictor.gate.set()
        assert await first == [(0.0, None)]
        await closing
        with pytest.raises(Overloaded):
            await pool.ask([(1.0,)])

    run([predictor], work)


def test_several_workers_answer_at_once():
    one, two = Doubling(threading.Event()), Doubling(threading.Event())

    async def work(pool):
        tasks = [asyncio.create_task(pool.ask([(1.0,)]))]
        await asyncio.to_thread(lambda: one.begun.wait(0.2) or two.begun.wait(10))
        tasks.append(asyncio.create_task(pool.ask([(2.0,)])))
        await asyncio.to_thread(lambda: one.begun.wait(10) and two.begun.wait(10))
        one.gate.set()
        two.gate.set()
        return await asyncio.gather(*tasks)

    assert sorted(map(list, run([one, two], work))) == [[(2.0, None)], [(4.0, None)]]


class Paced(Doubling):
    """Takes so many seconds of a clock of its own for each row."""

    def __init__(self, row_s):
        super().__init__(threading.Event())
        self.row_s, self.now_s = row_s, 0.0

    def _answer(self, frame):
        self.now_s += frame.height * self.row_s
        return super()._answer(frame)


def paced(row_s, work, **options):
    """A pool whose worker has answered four calls, so that its pace is known, and is held at the fifth."""
    predictor = Paced(row_s)

    async def main(pool):
        predictor.gate.set()
        for _ in range(4):
            await pool.ask([(0.0,)])
        predictor.gate.clear()
        predictor.begun.clear()
        predictor.calls.clear()
        return await work(pool, predictor)

    return run([predictor], main, clock=lambda: predictor.now_s, **options), predictor.calls


def test_a_call_is_given_as_much_as_takes_an_eighth_of_the_deadline():
    requests = [[(float(number),)] for number in range(1, 13)]
    _, calls = paced(0.05, lambda pool, predictor: filled(pool, predictor, *requests), deadline_s=2.0)
    assert [len(call) for call in calls] == [1, 5, 5, 2]


def test_where_calls_are_long_no_more_may_wait_than_takes_a_quarter_of_the_deadline():
    requests = [[(float(number),)] for number in range(1, 8)]
    found, _ = paced(0.15, lambda pool, predictor: filled(pool, predictor, *requests), deadline_s=2.0)
    assert [isinstance(each, Overloaded) for each in found] == [False] * 3 + [True] * 4


def test_before_its_pace_is_known_a_call_is_short(monkeypatch):
    monkeypatch.setattr(pools, "FIRST_ROWS", 2)
    predictor = Doubling(threading.Event())
    requests = [[(float(number),)] for number in range(1, 8)]
    run([predictor], lambda pool: filled(pool, predictor, *requests), clock=lambda: 0.0)
    assert [len(call) for call in predictor.calls] == [1, 4, 3]


def seen(*calls, deadline_s=2.0):
    pace = pools.Pace(deadline_s)
    for rows, seconds, *cause in calls:
        pace.saw(rows, seconds, UserCodeFailed("no", cause=cause[0]) if cause else None)
    return pace


def test_short_calls_bound_nothing():
    pace = seen(*[(1, 0.1)] * 10)
    assert (pace.call_rows, pace.most_waiting) == (2, None)


def test_a_long_call_of_many_rows_bounds_at_once_and_a_short_one_frees_again():
    long_one = (64, 0.2)
    assert seen(long_one).most_waiting == 160
    assert seen(long_one, (64, 0.01)).most_waiting is None


def test_a_slow_model_is_asked_for_little():
    pace = seen(*[(1, 1.0)] * 4)
    assert (pace.call_rows, pace.most_waiting) == (1, 1)


def test_calls_grow_as_they_go_well():
    pace = seen((64, 0.001))
    assert pace.call_rows == 128
    for _ in range(10):
        pace.saw(pace.call_rows, 0.001, None)
    assert pace.call_rows > pools.MOST_ROWS


def test_what_was_too_much_for_its_deadline_is_halved():
    assert seen((100, 2.0, "deadline")).call_rows == 50
    assert seen((100, 2.0, "raised")).call_rows == pools.FIRST_ROWS


def test_a_call_in_which_a_process_was_started_says_nothing():
    assert seen((1, 0.1, "died"), (64, 1.9)).most_waiting is None
    assert seen((1, 0.1, "died"), (64, 1.9), (64, 0.2)).most_waiting == 160


def test_a_timed_question_is_a_call_of_its_own_and_its_time_is_not_that_of_the_queue():
    """Both that wait beside it are asked together; the clock goes on by a second with each call, and while it waits."""
    gate = threading.Event()
    now_s = [0.0]

    class Ticking(Doubling):
        def _answer(self, frame):
            found = super()._answer(frame)
            now_s[0] += 1.0
            return found

    model = Ticking(gate)

    async def work(pool):
        first = asyncio.create_task(pool.ask([(0.0,)]))
        await asyncio.to_thread(model.begun.wait, 10)
        others = [asyncio.create_task(pool.ask([(1.0,)])), asyncio.create_task(pool.timed([(2.0,), (3.0,)]))]
        others += [asyncio.create_task(pool.ask([(number,)])) for number in (4.0, 5.0)]
        await asyncio.sleep(0)
        now_s[0] += 100.0
        gate.set()
        await first
        return await asyncio.gather(*others)

    found = run([model], work, clock=lambda: now_s[0], deadline_s=1e6)
    assert model.calls == [[0.0], [1.0], [2.0, 3.0], [4.0, 5.0]]
    assert found[1] == ([(4.0, None), (6.0, None)], 1.0)


def test_a_timed_question_that_fails_is_told_as_any_other(doubling):
    given, _ = run([doubling], lambda pool: pool.timed([(None,)]))
    assert [type(each) for each in given] == [UserCodeFailed]
