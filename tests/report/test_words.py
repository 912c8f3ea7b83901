"""Values as people read them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.report.words import (
    count,
    duration,
    exact,
    listed,
    metric,
    number,
    percent,
    plain,
    share,
    signed,
    size,
    when,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"), (3.0, "3"), (-12_000.0, "-12,000"), (0.7312, "0.7312"), (0.70554, "0.7055"), (39.846, "39.85"),
        (1234.56, "1,235"), (0.000234, "0.000234"), (4.4e-16, "4.400e-16"), (2.5e12 + 0.5, "2.500e+12"),
        (math.inf, "inf"), (0.99996, "1.0000"),
    ],
)  # fmt: skip
def test_numbers_keep_the_digits_that_tell(value: float, shown: str) -> None:
    assert number(value) == shown


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e8, max_value=1e8))
def test_a_number_is_read_back_to_within_its_last_digit(value: float) -> None:
    shown = float(number(value).replace(",", ""))
    assert shown == pytest.approx(value, rel=2e-3, abs=1e-7) or abs(shown - value) <= 5e-5


def test_signs_are_shown_and_are_minus_signs() -> None:
    assert signed(0.0257) == "+0.0257"
    assert signed(-0.009) == "\N{MINUS SIGN}0.0090"
    assert signed(0.0) == "0"


def test_shares_sizes_times_and_counts() -> None:
    assert (share(1, 3), share(0, 3), share(3, 3), share(0, 0)) == ("33.3 %", "0 %", "100 %", "")
    assert (percent(0.95), percent(0.9696)) == ("95 %", "96.96 %")
    assert [size(n) for n in (1, 999, 1_000, 231_000_000, 2_500_000_000)] == [
        "1 byte",
        "999 bytes",
        "1.0 kB",
        "231 MB",
        "2.5 GB",
    ]
    assert [duration(s) for s in (0.0, 4.1e-5, 0.031, 3.42, 600.0, 9000.0)] == [
        "0 ms",
        "41 µs",
        "31 ms",
        "3.42 s",
        "10 min",
        "2.5 h",
    ]
    assert (count(1, "batch", "batches"), count(1_200, "row")) == ("1 batch", "1,200 rows")
    assert when("2026-11-21T02:30:52.123456Z") == "2026-11-21 02:30:52 UTC"
    assert when("") == ""
    assert exact(0.4) == "0.4"
    assert metric("metrics.py:cost") == "cost"
    assert listed(range(4), most=2) == "0, 1 and 2 more"


def test_plain_spells_out_what_would_move_or_hide_text() -> None:
    assert plain("a\u202eb\x00c\nd") == "a\\u202eb\\u0000c\\u000ad"


@given(st.text(), st.integers(min_value=2, max_value=40))
def test_plain_is_one_short_printable_line(text: str, limit: int) -> None:
    shown = plain(text, limit)
    assert len(shown) <= limit
    assert len(shown.splitlines()) <= 1
    assert shown.isprintable() or " " in shown or any(character.isspace() for character in shown)
