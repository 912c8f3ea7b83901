"""The short form of bench/decisions.py: error rates of the gate, within three Monte-Carlo standard errors."""

import importlib.util
import math
from pathlib import Path

import pytest

from interlock.release.gate import level

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_decisions", ROOT / "bench" / "decisions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def limit(alpha, trials):
    """Three Monte-Carlo standard errors above alpha."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)


@pytest.mark.parametrize(("metric", "rows"), [("accuracy", 60), ("accuracy", 400), ("r2", 60), ("r2", 200)])
def test_an_equally_good_model_is_released_no_more_often_than_allowed(bench, metric, rows):
    alpha = level(0.95, 1)
    assert bench.rate(metric, rows, 0.0, alpha=alpha, trials=200, resamples=200) <= limit(alpha, 200)


def test_a_better_model_is_seen(bench):
    assert bench.rate("accuracy", 1000, 0.08, alpha=level(0.95, 1), trials=40, resamples=400) >= 0.9
    assert bench.rate("r2", 400, 0.15, alpha=level(0.95, 1), trials=40, resamples=400) >= 0.9


def test_asking_one_holdout_again_and_again_does_not_pay(bench):
    """Without the budget, one of forty equally good models often slips through."""
    careless = bench.campaigns(400, 40, runs=8, budget=False, resamples=200)
    careful = bench.campaigns(400, 40, runs=8, budget=True, resamples=200)
    assert careful <= 0.25 <= careless
    assert careful < careless
