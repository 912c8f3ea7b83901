"""Who answers a row, and what is told of it. Invariant: no answer that the guard refuses ever comes out."""

import asyncio
import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.answer.guard import Constancy, Limits, check_of
from interlock.answer.lots import Lots
from interlock.answer.predict import Answered, Challenge, Fault, Live, Seat, picker
from interlock.errors import Fault as OurFault
from interlock.errors import UserCodeFailed
from interlock.model.rows import Framed
from interlock.records import Column, Output, Signature
from interlock.release.canary import Trial

OUTPUT = Output(kind="number", type="float", low=0.0, high=100.0)
COLUMNS = (Column(name="x", type="float", nullable=True),)
CHECK = check_of(OUTPUT, Limits(reach=0.0))
RAISED = UserCodeFailed("no", cause="raised")
BAD = {"nan": (math.nan, None), "far": (1e6, None), "text": ("x", None), "raised": RAISED,
       "slow": UserCodeFailed("no", cause="deadline")}  # fmt: skip
CAUSES = {"nan": "not-finite", "far": "range", "text": "type", "raised": "raised", "slow": "deadline"}


class Scripted:
    """Answers each row by what a table says for its value; counts what it was asked."""

    def __init__(self, table, offset):
        self.table, self.offset, self.asked = table, offset, []

    gathers = False

    def answers(self, rows):
        self.asked.extend(rows)
        return [BAD.get(self.table.get(row[0], "good"), (row[0] + self.offset, None)) for row in rows]

    async def ask(self, rows):
        await asyncio.sleep(0)
        return self.answers(rows)


def live_of(tables, *, elsewhere=(), route=0):
    seats = []
    for place, (tier, table) in enumerate(tables.items()):
        model = Scripted(table, place / 10)
        here = None if tier in elsewhere else model
        seats.append(
            Seat(
                tier=tier,
                model=tier * 8,
                signature=Signature(inputs=COLUMNS, output=OUTPUT),
                check=CHECK,
                here=here,
                elsewhere=None if here else model,
            )
        )
    return Live(3, tuple(seats), COLUMNS, route)


def rows_of(*values):
    return [(float(value),) for value in values]


def test_the_champion_answers_when_all_is_well():
    live = live_of({"champion": {}, "last-good": {}, "baseline": {}})
    answered = live.answer_here(rows_of(1, 2))
    assert answered == Answered([(1.0, None), (2.0, None)], ["champion"] * 2)
    assert answered.lowest == "champion"
    assert not live.seats[1].here.asked


def test_for_no_rows_nobody_is_asked():
    live = live_of({"champion": {}, "baseline": {}})
    live.seats[0].here = type("Never", (), {"answers": lambda self, rows: 1 / 0})()
    assert live.answer_here([]) == asyncio.run(live.answer([])) == Answered([], [])


def test_only_the_rows_that_went_wrong_are_asked_again():
    live = live_of({"champion": {2.0: "nan"}, "last-good": {}, "baseline": {}})
    answered = live.answer_here(rows_of(1, 2, 3))
    assert [answer[0] for answer in answered.answers] == [1.0, 2.1, 3.0]
    assert answered.tiers == ["champion", "last-good", "champion"]
    assert answered.faults == [Fault(1, "champion", "not-finite", rescued=True)]
    assert answered.lowest == "last-good"
    assert live.seats[1].here.asked == rows_of(2)
    assert not live.seats[2].here.asked


def test_the_baseline_answers_when_both_that_learnt_fail():
    live = live_of({"champion": {2.0: "slow"}, "last-good": {2.0: "far"}, "baseline": {}})
    answered = live.answer_here(rows_of(2))
    assert answered.tiers == ["baseline"]
    assert answered.faults == [Fault(0, "champion", "deadline", rescued=False), Fault(0, "last-good", "range")]


def test_a_record_that_both_refuse_is_bad_and_gets_no_answer_from_the_baseline():
    live = live_of({"champion": {2.0: "raised"}, "last-good": {2.0: "raised"}, "baseline": {}})
    answered = live.answer_here(rows_of(1, 2))
    assert answered.answers == [(1.0, None), None]
    assert answered.tiers == ["champion", "abstain"]
    assert answered.refused() == {1}
    assert answered.open() == [1]
    assert answered.lowest == "abstain"


def test_without_a_last_good_nobody_can_say_whose_fault_it_was():
    live = live_of({"champion": {2.0: "raised"}, "baseline": {}})
    answered = live.answer_here(rows_of(2))
    assert answered.tiers == ["baseline"]
    assert answered.faults == [Fault(0, "champion", "raised", rescued=False)]


def test_nobody_answers_when_all_fail():
    live = live_of({"champion": {2.0: "nan"}, "last-good": {2.0: "far"}, "baseline": {2.0: "text"}})
    answered = live.answer_here(rows_of(2))
    assert (answered.answers, answered.tiers) == ([None], ["abstain"])
    assert not answered.refused()


def test_the_route_may_begin_below_the_champion():
    live = live_of({"champion": {}, "last-good": {}, "baseline": {}}, route=1)
    assert live.answer_here(rows_of(2)).tiers == ["last-good"]
    assert not live.seats[0].here.asked


@pytest.mark.parametrize("elsewhere", [("champion",), ("last-good",), ("champion", "last-good", "baseline")])
def test_what_must_be_waited_for_is_left_to_those_who_wait(elsewhere):
    live = live_of({"champion": {2.0: "nan"}, "last-good": {}, "baseline": {}}, elsewhere=elsewhere)
    assert (live.first.here is not None) == ("champion" not in elsewhere)
    assert live.answer_here(rows_of(2)) is None
    assert asyncio.run(live.answer(rows_of(2))).tiers == ["last-good"]
    if "champion" not in elsewhere:
        assert live.answer_here(rows_of(1)).tiers == ["champion"]


def test_one_answer_for_everything_is_no_answer():
    live = live_of({"champion": {}, "last-good": {}, "baseline": {}})
    live.seats[0].here = type("Stuck", (), {"answers": lambda self, rows: [(7.0, None)] * len(rows)})()
    live.seats[0].constancy = Constancy(3)
    answered = live.answer_here(rows_of(1, 2, 3, 4, 5))
    assert answered.tiers == ["champion", "champion", "champion", "last-good", "last-good"]
    assert [fault.cause for fault in answered.faults] == ["constant"] * 2


TABLES = st.dictionaries(st.sampled_from([1.0, 2.0, 3.0]), st.sampled_from(sorted(BAD)))


@settings(max_examples=300, deadline=None)
@given(
    champion=TABLES,
    last_good=st.none() | TABLES,
    baseline=TABLES,
    values=st.lists(st.sampled_from([1, 2, 3, 4]), max_size=6),
    elsewhere=st.sets(st.sampled_from(["champion", "last-good", "baseline"])),
    route=st.integers(0, 1),
)
def test_no_answer_that_the_guard_refuses_comes_out(champion, last_good, baseline, values, elsewhere, route):
    tables = {"champion": champion, **({} if last_good is None else {"last-good": last_good}), "baseline": baseline}
    live = live_of(tables, elsewhere=elsewhere, route=route)
    rows = rows_of(*values)
    waited = asyncio.run(live.answer(rows))
    at_once = live.answer_here(rows)
    assert at_once is None or at_once == waited
    for place, (answer, tier) in enumerate(zip(waited.answers, waited.tiers, strict=True)):
        faults = [fault for fault in waited.faults if fault.place == place]
        names = [seat.tier for seat in live.seats[route:]]
        if answer is None:
            assert tier == "abstain"
            assert place in waited.refused() or [fault.tier for fault in faults] == names
        else:
            assert CHECK(answer) is None
            assert [fault.tier for fault in faults] == names[: names.index(tier)]
        for fault in faults:
            assert fault.cause == CAUSES[tables[fault.tier][rows[place][0]]]
            assert fault.rescued == ((tier == "last-good") if fault.tier == "champion" else None)


def test_rows_are_picked_for_a_model_that_takes_other_columns():
    have = [Column(name=name, type="int", nullable=False) for name in "abc"]
    assert picker(have, Signature(inputs=tuple(have))) is None
    assert picker(have, Signature(inputs=(have[2], have[0])))((1, 2, 3)) == (3, 1)
    assert picker(have, Signature(inputs=(have[1],)))((1, 2, 3)) == (2,)
    assert picker(have, Signature(inputs=()))((1, 2, 3)) == ()


def test_a_frame_goes_through_the_tiers_as_its_rows_do():
    tables = {"champion": {2.0: "nan"}, "last-good": {}, "baseline": {}}
    values = [1.0, 2.0, 3.0, 2.0]
    frame = pl.DataFrame({"x": values, "other": values})
    columns = (*COLUMNS, Column(name="other", type="float", nullable=False))
    live = live_of(tables)
    for seat in live.seats:
        seat.pick = picker(columns, seat.signature)
    framed = live.answer_here(Framed(frame))
    assert framed == live.answer_here([(value, value) for value in values])
    assert framed.tiers == ["champion", "last-good", "champion", "last-good"]
    assert live.seats[1].here.asked[:2] == rows_of(2, 2)


# ---- a challenger ------------------------------------------------------------------------------------------------


def tried(tables, table, *, elsewhere=(), share=1.0, route=0, shadow=False):
    """The tiers of ``tables``, and a challenger that gives one more than the value of the row."""
    live = live_of({**tables, "challenger": table}, elsewhere=elsewhere, route=route)
    *seats, challenger = live.seats
    (challenger.here or challenger.elsewhere).offset = 1.0
    trial = Trial(
        began=3, challenger="c" * 64, champion="a" * 64, baseline="b" * 64, receipt=1, share=share, shadow=shadow,
        key="", rows=1, duration_s=1.0, tolerated=0.001, alarm=1e6, since="",
    )  # fmt: skip
    live.seats = tuple(seats)
    live.challenge = Challenge(trial, challenger, Lots(share, "c" * 64, "", COLUMNS))
    return live


def both_ways(live, rows):
    """What comes of rows, waiting and, where that can be, not waiting."""
    answered = asyncio.run(live.answer(rows, live.drawn(rows, None)))
    now = live.answer_here(rows, live.drawn(rows, None))
    assert now is None or now == answered
    return answered


def test_what_the_challenger_drew_it_answers_and_the_champion_the_rest():
    live = tried({"champion": {}, "last-good": {}}, {}, share=0.5)
    answered = both_ways(live, rows_of(*range(40)))
    drawn = live.challenge.lots.drawn(rows_of(*range(40)), None)
    assert 0 < len(drawn) < 40
    for place in range(40):
        expected = ((place + 1.0, None), "challenger") if place in drawn else ((float(place), None), "champion")
        assert (answered.answers[place], answered.tiers[place]) == expected
    assert answered.lowest == "challenger"
    assert not live.seats[1].here.asked


@pytest.mark.parametrize("fault", ["nan", "far", "text", "raised", "slow"])
@pytest.mark.parametrize("elsewhere", [(), ("challenger",), ("champion",)])
def test_what_the_challenger_cannot_answer_the_champion_answers_in_the_same_request(fault, elsewhere):
    live = tried({"champion": {}}, {2.0: fault}, elsewhere=elsewhere)
    answered = both_ways(live, rows_of(1, 2))
    assert answered.answers == [(2.0, None), (2.0, None)]
    assert answered.tiers == ["challenger", "champion"]
    assert answered.faults == [Fault(1, "challenger", CAUSES[fault], True)]


def test_it_is_no_fault_of_the_challenger_when_no_other_that_learnt_has_an_answer():
    live = tried({"champion": {1.0: "nan"}, "last-good": {1.0: "far"}, "baseline": {}}, {1.0: "nan"})
    answered = both_ways(live, rows_of(1))
    assert answered.tiers == ["baseline"]
    assert [(fault.tier, fault.rescued) for fault in answered.faults] == [
        ("challenger", False), ("champion", False), ("last-good", None)
    ]  # fmt: skip


def test_while_the_champion_is_off_duty_last_good_rescues():
    answered = both_ways(tried({"champion": {}, "last-good": {}}, {1.0: "nan"}, route=1), rows_of(1))
    assert (answered.tiers, answered.faults[0].rescued) == (["last-good"], True)


@pytest.mark.parametrize("how", ["off", "shadow"])
def test_one_that_is_off_or_in_the_shadow_is_not_asked(how):
    live = tried({"champion": {}}, {}, shadow=how == "shadow")
    live.challenge.is_on = how != "off"
    assert both_ways(live, rows_of(1, 2)).tiers == ["champion"] * 2
    assert not live.challenge.seat.here.asked


def test_a_challenger_that_is_taken_off_while_it_is_asked_costs_nobody_an_answer():
    live = tried({"champion": {}}, {}, elsewhere=("challenger",))

    async def gone(rows):
        raise OurFault(f"taken off with {len(rows)} rows")

    live.challenge.seat.elsewhere.ask = gone
    answered = asyncio.run(live.answer(rows_of(1), [0]))
    assert (answered.answers, answered.tiers) == ([(1.0, None)], ["champion"])
    assert answered.faults == [Fault(0, "challenger", "deadline", True)]


@given(
    challenger=st.dictionaries(st.integers(0, 5).map(float), st.sampled_from(sorted(BAD)), max_size=6),
    champion=st.dictionaries(st.integers(0, 5).map(float), st.sampled_from(sorted(BAD)), max_size=6),
    share=st.floats(0, 1),
    values=st.lists(st.integers(0, 5), max_size=6),
)
@settings(deadline=None)
def test_no_answer_of_a_challenger_that_the_guard_refuses_comes_out(challenger, champion, share, values):
    live = tried({"champion": champion, "baseline": {}}, challenger, share=share)
    for answer in both_ways(live, rows_of(*values)).answers:
        assert answer is None or CHECK(answer) is None
