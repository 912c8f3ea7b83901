"""Which records a challenger draws: the share, and the same for the same key."""

from datetime import date

import polars as pl
import pytest

from answer.kit import SIGNATURE
from interlock.answer.lots import Lots
from interlock.model.rows import Framed
from interlock.records import Column

ONE, OTHER = "1" * 64, "2" * 64
ROWS = [(float(number), number % 10, "red") for number in range(4_000)]


def lots(share=0.1, challenger=ONE, key="", columns=SIGNATURE.inputs):
    return Lots(share, challenger, key, columns)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_it_draws_about_the_share(share):
    drawn = lots(share).drawn(ROWS, None)
    assert abs(len(drawn) / len(ROWS) - share) < 0.02
    if share in (0.0, 1.0):
        assert len(drawn) == share * len(ROWS)


def test_a_record_is_drawn_wherever_it_stands_and_whoever_sends_it():
    drawn = set(lots().drawn(ROWS, ("a", "127.0.0.1")))
    for place in (*list(drawn)[:20], *range(20)):
        assert bool(lots().drawn([ROWS[place]], ("b", "::1"))) == (place in drawn)


def test_a_frame_draws_as_its_rows_do():
    frame = pl.DataFrame(ROWS, schema=["x", "n", "colour"], orient="row")
    assert list(lots().drawn(Framed(frame), None)) == list(lots().drawn(ROWS, None))


def test_a_larger_share_keeps_the_keys_of_a_smaller_one():
    assert set(lots(0.1).drawn(ROWS, None)) < set(lots(0.2).drawn(ROWS, None))


def test_another_challenger_meets_other_keys():
    first, second = set(lots().drawn(ROWS, None)), set(lots(challenger=OTHER).drawn(ROWS, None))
    assert len(first & second) < 0.3 * len(first)


def test_a_column_is_the_key():
    sticky = lots(0.5, key="column:n")
    places = set(sticky.drawn(ROWS, None))
    drawn = {ROWS[place][1] for place in places}
    rest = {row[1] for place, row in enumerate(ROWS) if place not in places}
    assert drawn
    assert rest
    assert not drawn & rest


def test_a_column_that_is_not_there_leaves_each_record_its_own_key():
    assert lots(key="column:gone").drawn(ROWS, None) == lots().drawn(ROWS, None)


def test_a_client_or_the_value_of_a_header_gets_all_of_its_records_from_one_model():
    for key, clients in (
        ("client", [(f"key-{number}", "127.0.0.1") for number in range(200)]),
        ("client", [("", f"10.0.0.{number}") for number in range(200)]),
        ("header:X-User", [("", "127.0.0.1", f"user-{number}") for number in range(200)]),
    ):
        found = [len(lots(0.3, key=key).drawn(ROWS[:3], client)) for client in clients]
        assert set(found) == {0, 3}
        assert abs(found.count(3) / 200 - 0.3) < 0.12
    assert lots(key="header:X-User").header == "x-user"
    assert lots(key="client").drawn(ROWS, ("k", "::1")) == lots(key="client").drawn(ROWS[:], ("k", "10.0.0.1"))


def test_without_the_header_each_record_is_its_own_key():
    sticky = lots(key="header:X-User")
    assert sticky.drawn(ROWS, ("", "127.0.0.1", "")) == lots().drawn(ROWS, None)
    assert sticky.drawn(ROWS, ("", "127.0.0.1")) == lots().drawn(ROWS, None)


def test_any_value_can_be_a_key():
    columns = [Column(name=str(place), type="str", nullable=True) for place in range(5)]
    row = (None, "h\ud800", b"\xff\0", date(2026, 11, 21), float("1e308"))
    assert lots(1.0, columns=columns).drawn([row], None) == [0]


def test_what_is_drawn_is_the_same_in_every_version():
    """A restart, another worker or a newer server must not send anybody to another model."""
    assert list(lots(0.3).drawn(ROWS[:12], None)) == PINNED


PINNED = [1, 4, 9]
