"""The short form of bench/decisions.py: error rates of the gate, within three Monte-Carlo standard errors."""

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from interlock.release.gate import level
from interlock.release.score import Answers, Problem, Undefined

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_retrains", ROOT / "bench" / "retrains.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_retrains"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_retrains"]


def limit(alpha, trials):
    """Three Monte-Carlo standard errors above alpha."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)


FIRST = level(0.95, 1)


@pytest.mark.parametrize(
    ("metric", "rows"),
    [
        ("accuracy", 60),
        ("f1_macro", 200),
        ("roc_auc", 200),
        ("neg_log_loss", 200),
        ("r2", 60),
        ("r2", 5_000),
        ("neg_mean_absolute_error", 60),
        ("neg_mean_absolute_error", 5_000),
    ],
)
def test_an_equally_good_model_is_released_no_more_often_than_allowed(bench, metric, rows):
    found = bench.rate(metric, bench.RETRAINS[metric], rows, trials=200, resamples=200)
    assert found.value <= limit(FIRST, 200)


def test_a_model_that_is_too_sure_is_released_no_more_often_than_allowed(bench):
    """Its rare large losses are often missing from the rows; a bound that takes the gain for symmetric is fooled."""
    now = bench.rate("neg_log_loss", bench.overconfident, 100, trials=400, alpha=0.003, resamples=200)
    before = bench.rate("neg_log_loss", bench.overconfident, 100, trials=400, alpha=0.003, resamples=200, edition=1)
    assert now.value <= limit(0.003, 400)
    assert before.value > now.value


def test_rows_of_one_key_do_not_count_one_by_one(bench):
    assert bench.keyed_rate(40, 5, by_key=True, trials=100).value <= limit(FIRST, 100)
    assert bench.keyed_rate(40, 5, by_key=False, trials=100).value > 0.12


@pytest.mark.parametrize(("gain", "disagree", "rows"), [(0.05, 0.2, 584), (0.02, 0.1, 1_838)])
def test_a_better_model_is_seen(bench, gain, disagree, rows):
    """Four times in five at a tenth more than the number of rows that the formula names."""
    assert bench.rows_needed(gain, disagree) == rows
    found = bench.power(gain, disagree, math.ceil(1.1 * rows), trials=150)
    assert found.value >= 0.8 - 2 * found.error
    assert bench.power(gain, disagree, rows // 8, trials=60).value < 0.5


def test_a_better_regression_is_seen(bench):
    assert bench.rate("r2", bench.numbers, 400, 0.15, trials=40).value >= 0.9


def test_the_rows_needed_grow_with_every_question(bench):
    needed = [bench.rows_needed(0.02, 0.1, asks=asks) for asks in (1, 10, 100)]
    assert needed == sorted(needed)
    assert needed[2] < 5 * needed[0]


def test_asking_one_holdout_again_and_again_does_not_pay(bench):
    """Without the budget, one of forty equally good models often slips through."""
    careless = bench.campaigns(400, 40, runs=8, budget=False, resamples=200)
    careful = bench.campaigns(400, 40, runs=8, budget=True, resamples=200)
    assert careful.value <= 0.25 <= careless.value


def test_two_hundred_challengers_of_noise_do_not_get_through(bench):
    """Not even past a champion that is noise itself: in one of eight campaigns at most, and in many without budget."""
    noise = {"shared": 0.0, "alone": 0.5, "resamples": 100}
    careful = bench.campaigns(200, 200, runs=8, budget=True, **noise)
    assert careful.hits <= 1
    assert bench.campaigns(200, 200, runs=8, budget=False, **noise).hits > careful.hits + 1


def test_a_model_that_is_better_on_the_whole_and_worse_in_one_slice_is_kept_back(bench):
    better, kept = bench.kept_for_slices(2000, 10, guilty=0.3, trials=4)
    assert (better.value, kept.value) == (1.0, 1.0)
    frame = bench.sliced(np.random.default_rng(0), 2000, 10, guilty=0.3)
    decision = bench.judged(frame, "accuracy", "classification", seed=0)
    assert decision.verdict == "keep"
    assert decision.reason.startswith("Worse than the champion where part is p0")


def test_innocent_slices_seldom_keep_a_model_back(bench):
    better, kept = bench.kept_for_slices(600, 10, guilty=0.0, trials=20)
    assert better.hits >= 18
    assert kept.value <= limit(0.05, 20)


@pytest.mark.parametrize(
    ("task", "kind", "verdict"),
    [
        ("classification", "copy", "hold"),
        ("classification", "copy with 1 % noise", "hold"),
        ("classification", "copy for half of the rows", "promote"),  # not caught: see decisions-under-noise.md
        ("regression", "copy", "hold"),
        ("regression", "copy with 1 % noise", "hold"),
    ],
)
def test_a_column_that_tells_the_target(bench, task, kind, verdict):
    decision = bench.leak(kind, task)
    assert decision.verdict == verdict
    if verdict == "hold":
        assert decision.reason.startswith("Too good to be true")


# ---- odd holdouts ------------------------------------------------------------------------------------------------


def evidence(truth, candidate, champion, baseline, key=None):
    rows = np.arange(len(truth)) if key is None else key
    return pl.DataFrame(
        {
            "row": np.asarray(rows, dtype=np.uint64),
            "truth": truth,
            "candidate.prediction": candidate,
            "champion.prediction": champion,
            "baseline.prediction": baseline,
        }
    )


def odd_holdouts():
    """Holdouts on which nobody has proven anything, by name."""
    rng = np.random.default_rng(0)
    for rows in (1, 2, 3):
        truth = rng.integers(0, 2, rows)
        yield f"{rows} rows, all right", evidence(truth, truth, 1 - truth, 1 - truth)
    truth = np.array([0, 1] * 5)
    yield (
        "10 rows, the same answers",
        evidence(truth, truth ^ (np.arange(10) == 0), truth ^ (np.arange(10) == 0), 1 - truth),
    )
    yield "10 rows, three better", evidence(truth, truth, np.r_[1 - truth[:3], truth[3:]], np.zeros(10, dtype=int))
    ones = np.ones(100, dtype=int)
    yield "one class, constant answers", evidence(ones, ones, ones, ones)
    yield "one class, the champion errs", evidence(ones, ones, np.r_[np.zeros(40, dtype=int), ones[40:]], 0 * ones)
    constant = evidence(rng.integers(0, 2, 100), ones, 0 * ones, 0 * ones)
    yield "constant predictions", constant
    truth = rng.integers(0, 2, 3)
    yield (
        "three rows, forty copies each",
        evidence(
            np.repeat(truth, 40),
            np.repeat(truth, 40),
            np.repeat(1 - truth, 40),
            np.zeros(120, dtype=int),
            np.repeat(range(3), 40),
        ),
    )


@pytest.mark.parametrize("name", [name for name, _ in odd_holdouts()])
@pytest.mark.parametrize("metric", ["accuracy", "f1_macro"])
def test_an_odd_holdout_promotes_nobody_and_says_why(bench, name, metric):
    decision = bench.judged(dict(odd_holdouts())[name], metric, "classification")
    assert decision.verdict != "promote", decision.reason
    for check in decision.checks:
        assert "nan" not in check.reason
        assert "inf" not in check.reason.replace("information", "")
        assert len(check.reason) < 400


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_few_numbers_promote_nobody(bench, rows):
    rng = np.random.default_rng(rows)
    truth = rng.normal(size=rows)
    frame = evidence(truth, truth + 0.1, truth + 0.2, np.zeros(rows))
    if rows == 1:
        with pytest.raises(Undefined, match="no finite value on these 1 rows"):
            bench.judged(frame, "r2", "regression")
    else:
        assert bench.judged(frame, "r2", "regression").verdict != "promote"


def test_groups_that_do_not_matter_leave_the_answer(bench):
    """A key for each row is no group at all."""
    rng = np.random.default_rng(1)
    problem = bench.numbers(rng, 100, 0.1)
    keyed = replace(problem, groups=np.arange(100))
    assert isinstance(problem.answers[0], Answers)
    assert isinstance(problem, Problem)
    one, other = (bench.METRICS["r2"].joint(each, bench.generator(0), 200) for each in (problem, keyed))
    assert other.draws == pytest.approx(one.draws)
