"""2,000 paired resamples of two models: ours beside scipy's bootstrap and plain loops. Prints tables, writes nothing.

* scipy: ``scipy.stats.bootstrap`` of the same difference of two scores, paired, percentile method, with a statistic
  that takes many resamples at once (``vectorized=True``, ``batch=100``), as its documentation recommends for speed.
* the loops draw row numbers and call a metric on them, once a model: with numpy, and with scikit-learn, timed on a few
  resamples and scaled up.

Ours is the whole of it: values, draws, covariance and the bound. It asks the same question, not always in the same way:
counts are drawn by cells, means of more than 4,096 rows from the normal law that the bootstrap of a mean tends to, and
the area under the curve needs no resampling (``interlock.release.resample``). Seconds are of the processor, so that
neighbours on the machine count for little.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
import scipy.stats
import sklearn
import sklearn.metrics as peer

from interlock.release.bounds import paired_gain
from interlock.release.resample import RESAMPLES, generator
from interlock.release.score import METRICS, Answers, Problem

Truth = np.ndarray
Metric = Callable[[np.ndarray, np.ndarray], float]


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Processor seconds of this process, in the median of some repeats."""
    took = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        took.append(time.process_time() - started)
    return statistics.median(took)


# ---- two models ------------------------------------------------------------------------------------------------------


def labels(rows: int) -> Problem:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, rows)
    answers = [Answers(labels=np.where(rng.random(rows) < s, truth, rng.integers(0, 3, rows))) for s in (0.6, 0.59)]
    return Problem(answers=tuple(answers), classes=(0, 1, 2), codes=truth)


def numbers(rows: int) -> Problem:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=rows)
    answers = [Answers(numbers=truth + s * rng.normal(size=rows)) for s in (0.50, 0.51)]
    return Problem(answers=tuple(answers), numbers=truth)


def chances(rows: int) -> Problem:
    rng = np.random.default_rng(0)
    truth = (rng.random(rows) < 0.3).astype(np.int64)

    def one(skill: float) -> Answers:
        up = 1 / (1 + np.exp(-(skill * truth + rng.normal(size=rows))))
        return Answers(labels=(up > 0.5).astype(np.int64), probabilities=np.stack([1 - up, up], axis=1))

    return Problem(answers=(one(1.0), one(0.98)), classes=(0, 1), codes=truth)


# ---- the metrics once more, along the last axis: one row of data, or many resamples of it ----------------------------


def f1(truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    both = (truth & answer).sum(axis=-1)
    return 2 * both / (truth.sum(axis=-1) + answer.sum(axis=-1))


def f1_macro(truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    return np.mean([f1((truth == k).astype(np.int64), (answer == k).astype(np.int64)) for k in range(3)], axis=0)


def log_loss(truth: np.ndarray, up: np.ndarray) -> np.ndarray:
    return np.log(np.where(truth == 1, up, 1 - up)).mean(axis=-1)


def roc_auc(truth: np.ndarray, up: np.ndarray) -> np.ndarray:
    ranks = scipy.stats.rankdata(up, axis=-1)
    ups = truth.sum(axis=-1)
    downs = truth.shape[-1] - ups
    return ((ranks * truth).sum(axis=-1) - ups * (ups + 1) / 2) / (ups * downs)


def absolute(truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    return -np.abs(truth - answer).mean(axis=-1)


def r2(truth: np.ndarray, answer: np.ndarray) -> np.ndarray:
    spread = ((truth - truth.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return 1 - ((truth - answer) ** 2).sum(axis=-1) / spread


@dataclass(frozen=True)
class Case:
    """A metric: our name, two models, what it reads of their answers, in numpy, and scikit-learn's function."""

    name: str
    make: Callable[[int], Problem]
    reads: str
    numpy: Callable[[np.ndarray, np.ndarray], np.ndarray]
    sklearn: Metric

    def arrays(self, problem: Problem) -> tuple[np.ndarray, list[np.ndarray]]:
        found = [getattr(answers, self.reads) for answers in problem.answers]
        truth = problem.numbers if problem.codes is None else problem.codes
        return truth, [one[:, 1] if one.ndim == 2 else one for one in found]


CASES = [
    Case("neg_log_loss", chances, "probabilities", log_loss, lambda t, a: -peer.log_loss(t, a)),
    Case("roc_auc", chances, "probabilities", roc_auc, peer.roc_auc_score),
    Case("f1", chances, "labels", f1, peer.f1_score),
    Case("f1_macro", labels, "labels", f1_macro, lambda t, a: peer.f1_score(t, a, average="macro")),
    Case("neg_mean_absolute_error", numbers, "numbers", absolute, lambda t, a: -peer.mean_absolute_error(t, a)),
    Case("r2", numbers, "numbers", r2, peer.r2_score),
]


# ---- three ways ------------------------------------------------------------------------------------------------------


def ours(name: str, problem: Problem) -> float:
    """Standard error of the gain, the last thing that is found."""
    joint = METRICS[name].joint(problem, generator(0), RESAMPLES)
    differing = METRICS[name].differing(problem, 0, 1)
    return paired_gain(joint, 0, 1, alpha=0.05, differing=differing).standard_error


def by_scipy(metric: Callable, truth: np.ndarray, answers: list[np.ndarray], resamples: int) -> float:
    def gain(truth: np.ndarray, one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
        assert axis == -1
        return metric(truth, one) - metric(truth, other)

    found = scipy.stats.bootstrap(
        (truth, *answers),
        gain,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.standard_error)


def by_loop(metric: Callable, truth: np.ndarray, answers: list[np.ndarray], resamples: int) -> float:
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(resamples):
        rows = rng.integers(0, len(truth), len(truth))
        one, other = (metric(truth[rows], answer[rows]) for answer in answers)
        gains.append(one - other)
    return float(np.std(gains, ddof=1))


def scaled(way: Callable, metric: Callable, arrays: tuple, few: int) -> float:
    """Seconds for all resamples, from those that ``few`` take."""
    return median_seconds(lambda: way(metric, *arrays, few), 1) / few * RESAMPLES


def small(repeats: int) -> None:
    """Ten thousand rows: scipy in full, the loops scaled up."""
    head = f"{'10,000 rows':<24} {'ours':>7}  {'scipy':>18}  {'numpy loop':>18}  {'scikit-learn loop':>18}"
    print(f"{head}   SE ours / scipy")
    total = 0.0
    for case in CASES:
        problem = case.make(10_000)
        arrays = case.arrays(problem)
        took = median_seconds(lambda c=case, p=problem: ours(c.name, p), 5)
        total += took
        spread = by_scipy(case.numpy, *arrays, RESAMPLES)
        others = [
            median_seconds(lambda c=case, a=arrays: by_scipy(c.numpy, *a, RESAMPLES), repeats),
            scaled(by_loop, case.numpy, arrays, 60),
            scaled(by_loop, case.sklearn, arrays, 40),
        ]
        cells = "  ".join(f"{other:8.2f} ({other / took:6,.0f} x)" for other in others)
        print(f"{case.name:<24} {took:7.3f}  {cells}   {ours(case.name, problem) / spread:.2f}", flush=True)
    print(f"{'all six':<24} {total:7.3f}")


def dear() -> None:
    """What costs us most: weights for every row, of means up to 4,096 rows and of whatever is no sum, count or rank."""
    print("\nwith weights for every row")
    for name, make, rows in (
        ("neg_log_loss", chances, 4_096),
        ("r2", numbers, 4_096),
        ("average_precision", chances, 10_000),
        ("neg_median_absolute_error", numbers, 10_000),
    ):
        problem = make(rows)
        took = median_seconds(lambda n=name, p=problem: ours(n, p), 3)
        print(f"{name:<26} {rows:>6,} rows  {took:7.3f}", flush=True)


def large() -> None:
    """A million rows: all but ours on a few resamples, scaled up."""
    print(f"\n{'1,000,000 rows':<24} {'ours':>7}  {'scipy':>18}  {'numpy loop':>18}")
    for case in CASES:
        problem = case.make(1_000_000)
        arrays = case.arrays(problem)
        took = median_seconds(lambda c=case, p=problem: ours(c.name, p), 3)
        cells = "  ".join(
            f"{other:8.0f} ({other / took:6,.0f} x)"
            for other in (scaled(by_scipy, case.numpy, arrays, 4), scaled(by_loop, case.numpy, arrays, 4))
        )
        print(f"{case.name:<24} {took:7.3f}  {cells}", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--large", action="store_true", help="a million rows too (minutes)")
    chosen = options.parse_args()
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}, "
        f"scikit-learn {sklearn.__version__}; {RESAMPLES:,} paired resamples, processor seconds (x: times ours)\n"
    )
    small(chosen.repeats)
    dear()
    if chosen.large:
        large()


if __name__ == "__main__":
    main()
