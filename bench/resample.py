"""2,000 paired resamples of two models: ours beside a plain loop over resamples. Prints a table, writes nothing.

The loop draws row numbers and calls a metric on them, once a model: with numpy, and with scikit-learn, timed on a few
resamples and scaled up. Ours is the whole of it: values, draws, covariance and the bound.
"""

import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import sklearn
import sklearn.metrics as peer

from interlock.release.bounds import paired_gain
from interlock.release.resample import RESAMPLES, generator
from interlock.release.score import METRICS, Answers, Problem


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    took = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def labels(rows: int, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, rows)
    answers = [Answers(labels=np.where(rng.random(rows) < s, truth, rng.integers(0, 3, rows))) for s in (0.6, 0.59)]
    return Problem(answers=tuple(answers), classes=(0, 1, 2), codes=truth)


def numbers(rows: int, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=rows)
    answers = [Answers(numbers=truth + s * rng.normal(size=rows)) for s in (0.50, 0.51)]
    return Problem(answers=tuple(answers), numbers=truth)


def chances(rows: int, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    truth = (rng.random(rows) < 0.3).astype(np.int64)

    def one(skill: float) -> Answers:
        up = 1 / (1 + np.exp(-(skill * truth + rng.normal(size=rows))))
        return Answers(labels=(up > 0.5).astype(np.int64), probabilities=np.stack([1 - up, up], axis=1))

    return Problem(answers=(one(1.0), one(0.98)), classes=(0, 1), codes=truth)


def f1_numpy(truth: np.ndarray, answer: np.ndarray) -> float:
    table = np.bincount(truth * 3 + answer, minlength=9).reshape(3, 3)
    return float(np.mean(2 * np.diag(table) / (table.sum(axis=0) + table.sum(axis=1))))


def r2_numpy(truth: np.ndarray, answer: np.ndarray) -> float:
    return float(1 - np.sum((truth - answer) ** 2) / np.sum((truth - truth.mean()) ** 2))


def auc_numpy(truth: np.ndarray, answer: np.ndarray) -> float:
    ranks = np.empty(len(answer))
    ranks[np.argsort(answer)] = np.arange(1, len(answer) + 1)
    ups = truth.sum()
    return float((ranks[truth == 1].sum() - ups * (ups + 1) / 2) / (ups * (len(truth) - ups)))


CASES = [
    (
        "f1_macro",
        labels,
        lambda p: (p.codes, [a.labels for a in p.answers]),
        f1_numpy,
        lambda t, a: peer.f1_score(t, a, average="macro"),
    ),
    ("r2", numbers, lambda p: (p.numbers, [a.numbers for a in p.answers]), r2_numpy, peer.r2_score),
    (
        "roc_auc",
        chances,
        lambda p: (p.codes, [a.probabilities[:, 1] for a in p.answers]),
        auc_numpy,
        peer.roc_auc_score,
    ),
]


def plain(metric: Callable, truth: np.ndarray, answers: list[np.ndarray], resamples: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(resamples):
        rows = rng.integers(0, len(truth), len(truth))
        one, other = (metric(truth[rows], answer[rows]) for answer in answers)
        gains.append(one - other)
    return np.array(gains)


def main() -> None:
    print(f"Python {platform.python_version()}, numpy {np.__version__}, scikit-learn {sklearn.__version__}")
    print(f"{RESAMPLES:,} paired resamples, seconds; loops timed on a few resamples and scaled up (x: times ours)\n")
    print(f"{'metric':<9} {'rows':>9}  {'ours':>7}  {'numpy loop':>18}  {'scikit-learn loop':>20}   SE ours / loop")
    for name, make, arrays, by_numpy, by_sklearn in CASES:
        for rows, few in ((10_000, 60), (1_000_000, 3)):
            problem = make(rows)
            truth, answers = arrays(problem)

            def ours(name: str = name, problem: Problem = problem) -> float:
                joint = METRICS[name].joint(problem, generator(0), RESAMPLES)
                differing = METRICS[name].differing(problem, 0, 1)
                return paired_gain(joint, 0, 1, alpha=0.05, differing=differing).standard_error

            took = median_seconds(ours, 5 if rows == 10_000 else 3)
            cells = []
            for metric in (by_numpy, by_sklearn):
                whole = median_seconds(lambda m=metric: plain(m, truth, answers, few), 1) / few * RESAMPLES  # noqa: B023
                cells.append(f"{whole:9.1f} ({whole / took:6,.0f} x)")
            spread = ""
            if rows == 10_000:
                spread = f"{ours() / plain(by_numpy, truth, answers, 400).std(ddof=1):.2f}"
            print(f"{name:<9} {rows:>9,}  {took:7.3f}  {cells[0]:>18}  {cells[1]:>20}   {spread}")


if __name__ == "__main__":
    main()
