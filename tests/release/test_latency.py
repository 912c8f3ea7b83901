"""Times of two models: what is slower, medians that add up, and how often an even challenger is dropped."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.release.evidence import Detector, threshold
from interlock.release.latency import EVEN, LEAST_S, RATES, cell_of, in_words, is_slower, median_s

YEARLY = 3.0 * threshold(1.0, 100.0)


def test_slower_is_beyond_the_factor_and_a_champion_of_microseconds_counts_as_a_millisecond():
    assert is_slower(0.021, 0.01, 2.0)
    assert not is_slower(0.02, 0.01, 2.0)
    assert not is_slower(0.002, 3e-6, 2.0)
    assert is_slower(0.0021, 3e-6, 2.0)
    assert LEAST_S == 1e-3


@given(st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=60))
def test_the_median_of_cells_is_that_of_the_times_to_five_percent(times):
    cells = {}
    for each in times:
        cells[cell_of(each)] = cells.get(cell_of(each), 0) + 1
    exact = sorted(times)[(len(times) - 1) // 2]
    assert math.isclose(median_s(cells), exact, rel_tol=0.05)


def test_no_time_has_no_median_and_none_is_less_than_a_cell():
    assert math.isnan(median_s({}))
    assert cell_of(0.0) == cell_of(1e-9) == "0"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(3.2, "3.2 s"), (0.25, "250 ms"), (0.0123, "12 ms"), (0.0051, "5.1 ms"), (4.2e-5, "42 µs"), (250.0, "250 s")],
)
def test_times_are_told_with_their_unit(seconds, told):
    assert in_words(seconds) == told


# ---- simulation: a duel a second ---------------------------------------------------------------------------------


def lognormal(random, count):
    return np.exp(random.normal(0.0, 0.4, (2, count)))


def heavy(random, count):
    """Pareto with an exponent of 1.1: hardly a mean, and no variance."""
    return 1.0 + random.pareto(1.1, (2, count))


def drifting(random, count):
    """Both drift together over two orders of magnitude, and stand still together for ten seconds in every hundred."""
    common = np.exp(np.cumsum(random.normal(0.0, 0.05, count)) % 4.6)
    common[np.arange(count) % 100 < 10] *= 50.0
    return common * np.exp(random.normal(0.0, 0.2, (2, count)))


def stalling(random, count):
    """Now and then one of the two, whichever, takes a hundred times as long."""
    return 1.0 + 100.0 * (random.random((2, count)) < 0.05) + random.random((2, count))


def until_alarm(times, factor, alarm):
    """Duels until the alarm, or all of them; times are in units of ten milliseconds."""
    detector = Detector(EVEN, alarm, RATES)
    votes = times[0] > factor * times[1]
    assert votes[0] == is_slower(times[0, 0] / 100, times[1, 0] / 100, factor)
    return next((place for place, slow in enumerate(votes, 1) if detector.vote(failed=bool(slow))), len(votes))


@pytest.mark.parametrize("shape", [lognormal, heavy, drifting, stalling])
def test_an_equally_fast_challenger_is_dropped_no_more_often_than_is_promised(shape):
    """With a factor of 1, the hardest case, the mean number of duels to a false drop is at least the alarm level."""
    random, level = np.random.default_rng(3), 100.0
    runs = [until_alarm(shape(random, 3_000), 1.0, level) for _ in range(120)]
    assert np.mean(runs) >= level


@pytest.mark.parametrize("shape", [lognormal, heavy, drifting, stalling])
def test_by_the_default_factor_an_equal_one_is_not_dropped_in_hours(shape):
    times = shape(np.random.default_rng(4), 20_000)
    assert until_alarm(times, 2.0, YEARLY) == 20_000


def test_one_just_as_slow_as_it_may_be_is_dropped_no_more_often_than_is_promised():
    random, level = np.random.default_rng(5), 100.0
    runs = [until_alarm(lognormal(random, 3_000) * [[2.0], [1.0]], 2.0, level) for _ in range(120)]
    assert np.mean(runs) >= level


@pytest.mark.parametrize(("noise", "most"), [(0.05, 45), (0.2, 90), (0.3, 250)])
def test_one_three_times_as_slow_is_dropped_within_minutes(noise, most):
    random = np.random.default_rng(6)
    runs = [until_alarm(np.exp(random.normal(0.0, noise, (2, 2_000))) * [[3.0], [1.0]], 2.0, YEARLY) for _ in range(60)]
    assert np.percentile(runs, 95) <= most
    assert min(runs) >= 30, "half a minute at least: a stall of less is not enough"
