"""Rows that follow one another in time count for what they are worth."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.fft import dct
from scipy.signal import lfilter

from interlock.release.bounds import interval, paired_gain
from interlock.release.resample import Joint, generator
from interlock.release.score import METRICS, Answers, Problem
from interlock.release.serial import _long_run, memory


def course(rng, steps, rho):
    """Unit-variance errors, each like the last by ``rho``."""
    shocks = rng.normal(size=steps + 200) * math.sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], shocks)[200:]


def forecasts(seed, steps, rho):
    rng = np.random.default_rng(seed)
    answers = tuple(Answers(numbers=course(rng, steps, rho)) for _ in range(2))
    return Problem(answers=answers, numbers=np.zeros(steps), steps=np.arange(steps))


def low(metric, problem, seed=0):
    joint = METRICS[metric].joint(problem, generator(seed), 300)
    differing = METRICS[metric].differing(problem, 0, 1)
    return paired_gain(joint, 0, 1, alpha=0.03, differing=differing).low


# ---- the memory of a series --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "terms"), [(101, 8), (9, 2), (28, 3), (3, 2), (2, 1)])
def test_the_long_run_variance_is_the_mean_of_squared_cosine_coefficients(steps, terms):
    series = np.random.default_rng(steps).normal(size=steps)
    expected = (dct(series, type=2, norm="ortho")[1 : terms + 1] ** 2).mean()
    assert _long_run(series, terms) == pytest.approx(expected)


@pytest.mark.parametrize(("rho", "least", "most"), [(0.0, 0.95, 1.3), (0.6, 1.7, 2.9), (0.9, 3.2, 6.5)])
def test_a_bound_widens_with_the_root_of_the_memory(rho, least, most):
    """For an autoregression the root of (1 + rho) / (1 - rho): 1, 2 and 4.4."""
    rng = np.random.default_rng(7)
    found = [memory(course(rng, 2000, rho), np.arange(2000)) for _ in range(20)]
    widening = [one.widening for one in found]
    assert least < np.median(widening) < most
    assert found[0].steps == 2000
    assert found[0].worth == pytest.approx(2000 / found[0].widening ** 2, rel=0.01)


def by_the_book(influence, steps):
    """The same once more, term by term: widening, worth and freedom."""
    centred = influence - influence.mean()
    count = steps.max() + 1
    sums = np.array([centred[steps == step].sum() for step in range(count)])
    variance = (sums**2).mean()
    terms = max(2, int(0.3 * count ** (2 / 3)))
    inflation = max(1.0, (dct(sums, type=2, norm="ortho")[1:][:terms] ** 2).mean() / variance)
    likeness = sum(sums[t] * sums[t - 1] for t in range(1, count)) / (count * variance)
    remembers = likeness + 1 / count > 1 / math.sqrt(count)
    freedom = min(terms, count - 1) if remembers else max(1, int(count / inflation) - 1)
    independent = (centred**2).sum()
    return math.sqrt((sums**2).sum() / independent * count / (count - 1) * inflation), count / inflation, freedom


SERIES = {
    "without memory": lambda rng: rng.normal(size=90),
    "turning about": lambda rng: course(rng, 90, -0.8),
    "a short memory": lambda rng: course(rng, 90, 0.5),
    "a long memory": lambda rng: course(rng, 90, 0.95),
    "a slow wave in noise": lambda rng: np.sin(np.arange(90) / 15.0) + 2.0 * rng.normal(size=90),
    "few": lambda rng: course(rng, 7, 0.5),
    "two": lambda rng: rng.normal(size=2),
}


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_the_definition_says(name, seed):
    series = SERIES[name](np.random.default_rng(seed))
    steps = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(series)), 3))
    influence = series[steps] + np.random.default_rng(seed + 1).normal(size=3 * len(series)) + 0.7
    found = memory(influence, steps)
    widening, worth, freedom = by_the_book(influence, steps)
    assert (found.widening, found.worth) == (pytest.approx(widening), pytest.approx(worth))
    assert (found.steps, found.freedom) == (len(series), freedom)


def test_a_series_that_remembers_has_the_freedom_of_its_cosines():
    rng = np.random.default_rng(2)
    assert memory(course(rng, 90, 0.9), np.arange(90)).freedom == 6
    assert 20 < memory(course(rng, 90, -0.5), np.arange(90)).freedom < 90


def test_a_season_is_no_memory():
    """A wave of twelve steps is over in each year; what stays of it in the mean is next to nothing."""
    steps = np.arange(120)
    season = 3.0 * np.sin(steps * np.pi / 6.0) + 0.5 * np.random.default_rng(0).normal(size=120)
    found = memory(season, steps)
    assert found.worth == 120
    assert found.freedom == 7  # it does remember from step to step


def test_rows_of_one_moment_that_share_their_luck_are_worth_one():
    rng = np.random.default_rng(3)
    days = np.repeat(np.arange(60), 25)
    shared = rng.normal(size=60)[days]
    alone = rng.normal(size=1500)
    together, apart = memory(shared, days), memory(alone, days)
    assert together.widening > 5.0 * 0.95
    assert apart.widening < 1.6
    assert together.steps == apart.steps == 60


def test_errors_that_turn_about_are_never_worth_more_than_so_many_steps():
    series = np.tile([1.0, -1.0], 50) + np.random.default_rng(0).normal(size=100) * 0.01
    found = memory(series, np.arange(100))
    assert found.worth == 100
    assert found.widening >= 1.0


@pytest.mark.parametrize(
    ("influence", "steps"),
    [(np.ones(50), np.arange(50)), (np.arange(50.0), np.zeros(50, dtype=np.int64)), (np.zeros(1), np.arange(1))],
)
def test_without_variation_or_time_there_is_nothing_to_tell(influence, steps):
    assert memory(influence, steps) is None


@given(st.integers(2, 60), st.integers(0, 10_000), st.floats(1e-6, 1e6))
@settings(max_examples=60, deadline=None)
def test_it_is_finite_and_knows_no_scale(steps, seed, scale):
    influence = np.random.default_rng(seed).normal(size=3 * steps)
    moments = np.repeat(np.arange(steps), 3)
    found, scaled = memory(influence, moments), memory(influence * scale + 5.0, moments)
    assert 0.0 < found.widening < math.inf
    assert 0.0 < found.worth <= steps
    assert scaled.widening == pytest.approx(found.widening, rel=1e-6)


# ---- what the gate makes of it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["neg_mean_absolute_error", "neg_median_absolute_error"])
def test_an_equally_good_forecast_is_not_released_for_its_memory(metric):
    """Short form of bench/decisions.py: as if each step were new, 26 % are released where 3 % may be."""
    trials = 300
    problems = [forecasts(seed, 120, 0.9) for seed in range(trials)]
    in_time = sum(low(metric, problem, seed) > 0.0 for seed, problem in enumerate(problems))
    as_new = sum(low(metric, replace(problem, steps=None), seed) > 0.0 for seed, problem in enumerate(problems))
    assert as_new / trials > 0.15
    assert in_time / trials < 0.03 + 3.0 * math.sqrt(0.03 * 0.97 / trials)


def test_a_better_forecast_is_still_released():
    rng = np.random.default_rng(1)
    errors = [course(rng, 1000, 0.3) * scale for scale in (0.6, 1.0)]
    problem = Problem(
        answers=tuple(Answers(numbers=one) for one in errors), numbers=np.zeros(1000), steps=np.arange(1000)
    )
    assert low("neg_mean_absolute_error", problem) > 0.0


def timed(rho):
    """Two scores of known covariance whose influence lasts; the difference has the gain 0.1 and the variance 0.05."""
    rng = np.random.default_rng(4)
    influence = np.stack([course(rng, 80, rho), course(rng, 80, rho)])
    covariance = np.array([[0.04, 0.01], [0.01, 0.03]])
    return Joint(np.array([0.5, 0.4]), covariance, None, 400, "", influence, np.arange(80))


@pytest.mark.parametrize(("differing", "alpha", "freedom"), [(400, 0.03, 5), (5, 0.1, 4), (4, 0.1, 3)])
def test_a_bound_in_time_is_students_t_with_what_the_series_is_worth(differing, alpha, freedom):
    joint = timed(0.6)
    found = memory(joint.influence[0] - joint.influence[1], joint.steps)
    assert (found.freedom, found.widening > 1.2) == (5, True)
    reach = stats.t.isf(alpha, freedom) * math.sqrt(0.05) * found.widening
    gain = paired_gain(joint, 0, 1, alpha=alpha, differing=differing)
    assert (gain.low, gain.high) == (pytest.approx(0.1 - reach), pytest.approx(0.1 + reach))
    assert gain.standard_error == pytest.approx(math.sqrt(0.05) * found.widening)
    back = paired_gain(joint, 1, 0, alpha=alpha, differing=differing)
    assert (back.low, back.high) == (pytest.approx(-0.1 - reach), pytest.approx(-0.1 + reach))


def test_an_interval_in_time_is_students_t_with_what_the_series_is_worth():
    joint = timed(0.6)
    for model, variance in ((0, 0.04), (1, 0.03)):
        found = memory(joint.influence[model], joint.steps)
        reach = stats.t.isf(0.05, found.freedom) * math.sqrt(variance) * found.widening
        centre = joint.estimates[model]
        assert interval(joint, model, confidence=0.9) == (pytest.approx(centre - reach), pytest.approx(centre + reach))


def test_errors_that_turn_about_do_not_narrow_the_error_that_is_told():
    joint = timed(0.0)
    influence = np.tile([[1.0, -1.0], [0.0, 0.0]], (1, 40)) + 0.1 * joint.influence
    steps = np.repeat(np.arange(40), 2)  # two rows of each moment, which make up for each other
    narrow = replace(joint, influence=influence, steps=steps)
    assert memory(influence[0] - influence[1], steps).widening < 0.5
    gain = paired_gain(narrow, 0, 1, alpha=0.03, differing=400)
    assert gain.standard_error == pytest.approx(math.sqrt(0.05))
    assert gain.low == pytest.approx(paired_gain(replace(narrow, steps=None), 0, 1, alpha=0.03, differing=400).low)


@pytest.mark.parametrize("worth", [2, 3])
def test_with_next_to_nothing_to_go_by_one_degree_of_freedom_is_left(worth):
    joint = timed(0.0)
    influence = np.array([[1.0, -1.0, 0.5][:worth], [0.0] * worth])
    joint = replace(joint, influence=influence, steps=np.arange(worth))
    found = memory(influence[0], joint.steps)
    assert found.freedom == 1
    reach = stats.t.isf(0.05, 1) * 0.2 * found.widening
    assert interval(joint, 0, confidence=0.9)[0] == pytest.approx(0.5 - reach)
    gain = paired_gain(joint, 0, 1, alpha=0.05, differing=400)
    assert gain.low == pytest.approx(0.1 - stats.t.isf(0.05, 1) * math.sqrt(0.05) * found.widening)


def test_order_in_time_never_narrows_a_bound_or_an_interval():
    for seed in range(20):
        problem = forecasts(seed, 50, 0.5)
        metric = METRICS["r2" if seed % 2 else "neg_mean_squared_error"]
        problem = replace(problem, numbers=np.random.default_rng(seed).normal(size=50))
        timed = metric.joint(problem, generator(seed), 300)
        plain = replace(timed, steps=None)
        gains = [paired_gain(joint, 0, 1, alpha=0.03, differing=50) for joint in (timed, plain)]
        assert gains[0].low <= gains[1].low
        assert gains[0].high >= gains[1].high
        assert gains[0].standard_error >= gains[1].standard_error
        narrow, wide = (interval(joint, 0, confidence=0.95) for joint in (plain, timed))
        assert wide[0] <= narrow[0]
        assert wide[1] >= narrow[1]


def test_labels_are_followed_by_right_and_wrong():
    rng = np.random.default_rng(5)
    right = [course(rng, 400, 0.9) > -0.8 for _ in range(2)]
    truth = rng.integers(0, 2, 400)
    problem = Problem(
        answers=tuple(Answers(labels=np.where(one, truth, 1 - truth)) for one in right),
        classes=(0, 1),
        codes=truth,
        steps=np.arange(400),
    )
    joint = METRICS["f1_macro"].joint(problem, generator(0), 300)
    assert joint.influence is None
    assert joint.course == pytest.approx(1.0 - np.stack(right))
    assert low("f1_macro", problem) < low("f1_macro", replace(problem, steps=None))


def test_a_ranking_is_followed_by_what_was_found_at_all():
    problem = Problem(
        answers=(Answers(ranking=np.array([[3, 1], [2, -1], [0, 1]])),),
        codes=np.array([1, 2, 5]),
        steps=np.arange(3),
    )
    found = problem.in_time(METRICS["neg_mean_squared_error"].joint(forecasts(0, 3, 0.0), generator(0), 0))
    assert found.course is None  # its influence is known
    course = problem.in_time(replace(found, influence=None)).course
    assert course.tolist() == [[0.0, 0.0, 1.0]]
    assert course.dtype == np.float64  # of booleans there is no difference


def test_groups_and_slices_keep_their_moments():
    """Rows of one key are one unit, of the moment of its first row; a slice has the moments that it has rows of."""
    groups = np.array([0, 1, 1, 0, 2, 2])
    steps = np.array([4, 0, 1, 3, 5, 2])
    problem = Problem(
        answers=(Answers(numbers=np.arange(6.0)),), numbers=np.zeros(6), groups=groups, steps=np.unique(steps)
    )
    problem = replace(problem, steps=steps)
    found = METRICS["neg_median_absolute_error"].joint(problem, generator(0), 200)
    assert found.steps.tolist() == [2, 0, 1]
    assert found.course.tolist() == [[3.0, 3.0, 9.0]]
    part = problem.where(np.array([True, False, False, True, True, False]))
    known = METRICS["neg_mean_absolute_error"].joint(problem, generator(0), 200)
    assert (known.course, known.influence.shape) == (None, (1, 3))
    truth = replace(problem, numbers=np.full(6, 2.0), groups=None)
    far = METRICS["neg_median_absolute_error"].joint(truth, generator(0), 200)
    assert far.course.tolist() == [[2.0, 1.0, 0.0, 1.0, 2.0, 3.0]]
    assert part.steps.tolist() == [1, 0, 2]
