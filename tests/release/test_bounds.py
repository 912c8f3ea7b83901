import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from interlock.release import bounds
from interlock.release.bounds import interval, paired_gain, percentiles, skewness, student, unskewed
from interlock.release.resample import (
    Joint,
    Labels,
    by_cells,
    by_sums,
    from_draws,
    generator,
)


def accuracy(right, answered, true):
    del answered
    return right.sum(axis=1) / true.sum(axis=1)


def mean(means):
    return means[:, 0]


def two_answers(seed, rows, classes=3, skill=(0.6, 0.6)):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, rows)
    answers = [np.where(rng.random(rows) < s, truth, rng.integers(0, classes, rows)) for s in skill]
    return truth, answers


def gaussian_joint(gain=0.1, error=0.04, draws=2000):
    rng = np.random.default_rng(0)
    values = np.stack([gain + error * rng.standard_normal(draws), np.zeros(draws)])
    return from_draws(np.array([gain, 0.0]), values, 10_000, "")


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 19, 30, 199, 200, 201, 1000, 10**6])
@pytest.mark.parametrize("alpha", [0.9, 0.5, 0.2, 0.05, 0.0304, 1e-4, 3e-6, 1e-9])
def test_students_quantile(freedom, alpha):
    assert student(alpha, freedom) == pytest.approx(stats.t.isf(alpha, freedom), rel=2e-6, abs=1e-9)


@given(st.integers(1, 500), st.floats(1e-6, 0.5))
def test_percentiles_are_rounded_outwards(count, alpha):
    low, high = percentiles(np.arange(count, dtype=float), alpha)
    below = low  # as many draws lie below it as its value says
    assert below <= alpha * (count + 1)
    assert high == count - 1 - low


@given(st.floats(1e-8, 0.4), st.floats(1e-8, 0.4))
def test_a_stricter_level_never_gives_a_higher_bound(one, other):
    joint = gaussian_joint()
    strict, loose = (paired_gain(joint, 0, 1, alpha=alpha, differing=10_000) for alpha in sorted((one, other)))
    assert strict.low <= loose.low
    assert strict.high >= loose.high
    assert strict.low <= strict.gain <= strict.high


def test_the_bound_goes_beyond_what_the_draws_resolve():
    joint = gaussian_joint()
    found = paired_gain(joint, 0, 1, alpha=1e-6, differing=10_000)
    assert found.low == pytest.approx(0.1 - 4.75 * 0.04, abs=0.01)
    assert found.low < np.min(joint.draws[0])


def test_the_bound_knows_skew():
    """A long tail below pulls the lower bound under what a symmetric law of the same spread would give."""
    tail = 0.1 - 0.04 * (np.random.default_rng(0).exponential(size=2000) - 1.0)
    joint = from_draws(np.array([0.1, 0.0]), np.stack([tail, np.zeros(2000)]), 10_000, "")
    found = paired_gain(joint, 0, 1, alpha=0.01, differing=10_000)
    assert found.low == pytest.approx(percentiles(tail, 0.01)[0])
    assert found.low < 0.1 - student(0.01, 9_999) * found.standard_error


def test_gains_are_antisymmetric():
    truth, answers = two_answers(6, 500)
    joint = by_cells(Labels(truth, answers, 3), accuracy, generator(0), 2000)
    forth = paired_gain(joint, 0, 1, alpha=0.05, differing=200)
    back = paired_gain(joint, 1, 0, alpha=0.05, differing=200)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))


@given(rows=st.integers(1, 12), alpha=st.floats(1e-4, 0.4))
@settings(max_examples=60, deadline=None)
def test_a_handful_of_differing_rows_proves_nothing(rows, alpha):
    """All of few differing rows favour the candidate: as in McNemar's exact test, 2 ** -rows is the smallest level."""
    truth = np.zeros(400, dtype=np.int64)
    right, wrong = truth, np.r_[np.ones(rows, dtype=np.int64), truth[rows:]]
    joint = by_cells(Labels(truth, [right, wrong], 2), accuracy, generator(0), 500)
    found = paired_gain(joint, 0, 1, alpha=alpha, differing=rows)
    if 0.5**rows > alpha:
        assert found.low <= 0.0
        assert paired_gain(joint, 1, 0, alpha=alpha, differing=rows).high >= 0.0


def test_enough_differing_rows_do_prove_it():
    truth = np.zeros(400, dtype=np.int64)
    wrong = np.r_[np.ones(12, dtype=np.int64), truth[12:]]
    joint = by_cells(Labels(truth, [truth, wrong], 2), accuracy, generator(0), 2000)
    assert paired_gain(joint, 0, 1, alpha=0.03, differing=12).low > 0.0


def test_the_same_answers_gain_exactly_nothing():
    truth, answers = two_answers(7, 100)
    joint = by_cells(Labels(truth, [answers[0], answers[0]], 3), accuracy, generator(0), 100)
    found = paired_gain(joint, 0, 1, alpha=0.05, differing=0)
    assert (found.gain, found.low, found.high, found.standard_error) == (0.0, 0.0, 0.0, 0.0)


def test_intervals():
    joint = gaussian_joint()
    assert interval(joint, 0, confidence=0.95) == pytest.approx((0.1 - 1.96 * 0.04, 0.1 + 1.96 * 0.04), abs=0.006)
    closed = Joint(np.array([0.1]), np.array([[0.0016]]), None, 31, "")
    reach = stats.t.isf(0.025, 30) * 0.04
    assert interval(closed, 0, confidence=0.95) == pytest.approx((0.1 - reach, 0.1 + reach))


def test_bounds_keep_their_promise():
    """Two equally good models, small holdouts: false 'better' at most at the level (Monte-Carlo error allowed for)."""
    trials, alpha, false = 400, 0.05, 0
    rng = np.random.default_rng(11)
    for trial in range(trials):
        truth = rng.normal(size=40)
        losses = [rng.exponential(size=(40, 1)) + truth[:, None] ** 2 for _ in range(2)]
        joint = by_sums([-one for one in losses], mean, generator(trial), 500)
        false += paired_gain(joint, 0, 1, alpha=alpha, differing=40).low > 0.0
    assert false / trials <= alpha + 3.3 * math.sqrt(alpha * (1 - alpha) / trials)
    assert false > 0


def lopsided(rows=200, seed=1):
    """A gain that is small on most rows and a large loss on a few."""
    rng = np.random.default_rng(seed)
    loss = rng.exponential(size=(rows, 1)) ** 2
    joint = by_sums([-loss, np.full((rows, 1), -2.0)], mean, generator(0), 2000)
    return loss, joint


def test_the_influence_of_rows_has_the_variance_and_skewness_of_the_mean():
    loss, joint = lopsided()
    influence = joint.influence[0] - joint.influence[1]
    assert influence == pytest.approx(-(loss[:, 0] - loss.mean()))
    assert skewness(influence) == pytest.approx(stats.skew(-loss[:, 0]) / math.sqrt(200))
    draws = joint.draws[0] - joint.draws[1]
    assert skewness(influence) == pytest.approx(stats.skew(draws), abs=0.12)
    assert skewness(np.zeros(5)) == 0.0


@given(t=st.floats(-6, 6), skew=st.floats(-0.4, 0.4))
def test_unskewed_is_the_inverse_of_halls_transformation(t, skew):
    cut = unskewed(t, skew)
    back = cut + skew * cut**2 / 3 + skew**2 * cut**3 / 27 + skew / 6
    assert back == pytest.approx(t, abs=1e-9)


def test_unskewed_is_smooth_where_there_is_no_skewness():
    assert unskewed(1.9, 0.0) == pytest.approx(1.9, abs=1e-15)
    assert unskewed(1.9, 1e-12) == pytest.approx(1.9, abs=1e-11)


def test_a_long_tail_of_losses_lowers_the_lower_bound_and_one_of_gains_raises_the_upper():
    _, joint = lopsided()
    plain = replace(joint, influence=None)
    for alpha in (0.03, 0.001):
        now, before = (paired_gain(one, 0, 1, alpha=alpha, differing=200) for one in (joint, plain))
        assert now.low < before.low
        assert now.high == before.high
        back = paired_gain(joint, 1, 0, alpha=alpha, differing=200)
        assert back.high == pytest.approx(-now.low)
        assert back.low == pytest.approx(-now.high)


# ---- to the letter -----------------------------------------------------------------------------------------------


def closed(units, skewed=None):
    """Two scores of known covariance: the difference has the gain 0.1 and the variance 0.05."""
    return Joint(np.array([0.5, 0.4]), np.array([[0.04, 0.01], [0.01, 0.03]]), None, units, "", skewed)


@pytest.mark.parametrize(
    ("units", "differing", "freedom"), [(31, 400, 30), (400, 12, 11), (31, 31, 30), (2, 400, 1), (1, 400, 1), (3, 9, 2)]
)
def test_without_draws_a_bound_is_students_t_with_the_rows_that_carry_the_comparison(units, differing, freedom):
    found = paired_gain(closed(units), 0, 1, alpha=0.03, differing=differing)
    reach = stats.t.isf(0.03, freedom) * math.sqrt(0.05)
    assert (found.gain, found.standard_error) == (pytest.approx(0.1), pytest.approx(math.sqrt(0.05)))
    assert (found.low, found.high) == (pytest.approx(0.1 - reach), pytest.approx(0.1 + reach))


def test_a_known_skewness_moves_one_bound_by_halls_transformation():
    rows = np.array([-0.9, 0.1, 0.2, 0.2, 0.2, 0.2])
    skew = stats.skew(rows) / math.sqrt(6)
    assert skew < 0
    influence = np.stack([rows, np.zeros(6)])
    found = paired_gain(closed(31, influence), 0, 1, alpha=0.03, differing=400)
    reach = stats.t.isf(0.03, 30)
    assert found.low == pytest.approx(0.1 - unskewed(reach, skew) * math.sqrt(0.05))
    assert found.low < 0.1 - reach * math.sqrt(0.05)
    assert found.high == pytest.approx(0.1 + reach * math.sqrt(0.05))
    back = paired_gain(closed(31, -influence), 0, 1, alpha=0.03, differing=400)
    assert back.low == pytest.approx(0.1 - reach * math.sqrt(0.05))
    assert back.high == pytest.approx(0.1 - unskewed(-reach, -skew) * math.sqrt(0.05))
    other = paired_gain(closed(31, influence[::-1]), 0, 1, alpha=0.03, differing=400)
    assert (other.low, other.high) == pytest.approx((back.low, back.high))


def test_unskewed_by_numbers():
    """Hall's transformation with skew 0.3 of T = 2 is 2 + 0.4 + 0.72 / 27 + 0.05."""
    assert unskewed(2.0 + 0.3 * 4 / 3 + 0.09 * 8 / 27 + 0.05, 0.3) == pytest.approx(2.0)
    assert skewness(np.array([2.0, -1.0, -1.0])) == pytest.approx(6.0 / 6.0**1.5)


def test_draws_that_are_undefined_count_for_nothing_in_the_bound():
    draws = np.array([[1.0, np.nan, 3.0, 5.0], [0.5, 0.0, -0.5, np.nan]])
    joint = Joint(np.array([2.0, 0.0]), np.eye(2) * 9.0, draws, 100, "")
    found = paired_gain(joint, 0, 1, alpha=0.4, differing=100)
    assert found.standard_error == pytest.approx(math.sqrt(4.5))
    reach = stats.t.isf(0.4, 99) * math.sqrt(4.5)
    assert (found.low, found.high) == (pytest.approx(min(0.5, 2.0 - reach)), pytest.approx(max(3.5, 2.0 + reach)))
    one = Joint(np.array([2.0, 0.0]), np.eye(2), draws[:, :2], 100, "")
    alone = paired_gain(one, 0, 1, alpha=0.4, differing=100)
    assert (alone.standard_error, alone.low, alone.high) == (0.0, 0.5, 2.0)


def test_rounding_below_zero_is_no_variance():
    broken = replace(closed(50), covariance=np.array([[0.0, 1e-18], [1e-18, 0.0]]))
    found = paired_gain(broken, 0, 1, alpha=0.03, differing=50)
    assert (found.standard_error, found.low, found.high) == (0.0, pytest.approx(0.1), pytest.approx(0.1))
    assert interval(replace(broken, covariance=-np.eye(2)), 1, confidence=0.9) == (0.4, 0.4)


@pytest.mark.parametrize(("differing", "low"), [(5, 0.0), (6, pytest.approx(0.1, abs=1e-6))])
def test_the_smallest_level_of_few_rows_is_a_power_of_two(differing, low):
    """A sure gain: at the level 2 ** -6 six rows prove it and five do not."""
    sure = Joint(np.array([0.5, 0.4]), np.eye(2) * 1e-18, None, 400, "")
    found = paired_gain(sure, 0, 1, alpha=0.5**6, differing=differing)
    assert found.low == low
    assert found.high == pytest.approx(0.1, abs=1e-6)
    back = paired_gain(sure, 1, 0, alpha=0.5**6, differing=differing)
    assert (back.high, back.low) == (-low if low == 0.0 else pytest.approx(-0.1, abs=1e-6), pytest.approx(-0.1))


@pytest.mark.parametrize(
    ("alpha", "cuts"),
    [(0.05, (1.0, 20.0)), (0.1, (2.0, 19.0)), (0.0, (1.0, 20.0)), (0.5, (10.0, 11.0)), (1.0, (20.0, 1.0))],
)
def test_percentiles_by_numbers(alpha, cuts):
    """Of twenty draws (21 gaps): a level of 0.1 cuts at the second, 0.05 at the first; nothing goes beyond them."""
    draws = np.r_[np.arange(20.0, 0.0, -1.0), np.nan, np.inf]
    assert percentiles(draws, alpha) == cuts
    assert all(math.isnan(cut) for cut in percentiles(np.array([np.nan]), alpha))
    assert percentiles(np.array([7.0]), alpha) == (7.0, 7.0)


@pytest.mark.parametrize(("units", "freedom"), [(31, 30), (2, 1), (1, 1)])
def test_an_interval_is_two_sided(units, freedom):
    reach = stats.t.isf(0.05, freedom) * math.sqrt(0.03)
    assert interval(closed(units), 1, confidence=0.9) == pytest.approx((0.4 - reach, 0.4 + reach))


def test_an_interval_of_draws_is_of_its_own_model():
    draws = np.stack([np.arange(1.0, 100.0), -np.arange(1.0, 100.0)])
    joint = from_draws(np.array([50.0, -50.0]), draws, 10, "")
    assert interval(joint, 0, confidence=0.875) == (6.0, 94.0)
    assert interval(joint, 1, confidence=0.875) == (-94.0, -6.0)


def test_students_quantile_is_symmetric_and_bounded():
    assert student(0.75, 7) == -student(0.25, 7)
    assert student(0.5, 7) == pytest.approx(0.0, abs=1e-12)
    assert student(0.5, 300) == pytest.approx(0.0, abs=1e-12)
    assert student(1e-9, 1) == pytest.approx(stats.t.isf(1e-9, 1), rel=1e-5)
    assert 1e12 <= student(1e-16, 1) <= 3e12  # beyond what 64 bits tell from nothing


def test_the_expansion_of_students_quantile_by_numbers():
    """Abramowitz & Stegun 26.7.5 at x = 2: 2, 10 / 4, 294 / 96 and 1098 / 384, over powers of the freedom."""
    assert bounds._cornish_fisher(2.0, 1) == 2.0 + 2.5 + 3.0625 + 2.859375
    assert bounds._cornish_fisher(2.0, 2) == 2.0 + 2.5 / 2 + 3.0625 / 4 + 2.859375 / 8
