"""How often is the gate wrong? Simulated retrains, judged as the gate judges. Prints tables, writes nothing.

1. An equally good model, each time on a fresh holdout: how often is it released all the same (allowed: alpha)? And
   one that is two points better: how often is it seen? Errors of the two models are correlated, as those of retrains.
2. A hundred equally good models on *one* holdout: in how many such campaigns is any of them released, with the holdout
   budget and without?

The ± is the Monte-Carlo standard error.
"""

import argparse
import math
import platform
from collections.abc import Callable

import numpy as np

from interlock.release.bounds import paired_gain
from interlock.release.gate import level
from interlock.release.resample import generator
from interlock.release.score import METRICS, Answers, Problem

CONFIDENCE = 0.95


def accuracy_problem(rng: np.random.Generator, rows: int, better: float) -> Problem:
    """Both are right in 80 % of the rows (the candidate in ``better`` more); half of the errors are shared."""
    truth = rng.integers(0, 2, rows)
    hard = rng.random(rows) < 0.1
    wrong = [hard | (rng.random(rows) < 1 - (0.8 + gain) / 0.9) for gain in (better, 0.0)]
    return Problem(
        answers=tuple(Answers(labels=np.where(one, 1 - truth, truth)) for one in wrong), classes=(0, 1), codes=truth
    )


def r2_problem(rng: np.random.Generator, rows: int, better: float) -> Problem:
    """R2 of 0.5 (the candidate's is ``better`` more); half of the error's variance is shared."""
    truth = rng.normal(size=rows)
    shared = rng.normal(size=rows) * math.sqrt(0.25)
    noise = [math.sqrt(0.25 - gain) * rng.normal(size=rows) for gain in (better, 0.0)]
    return Problem(answers=tuple(Answers(numbers=truth + shared + one) for one in noise), numbers=truth)


PROBLEMS: dict[str, Callable[[np.random.Generator, int, float], Problem]] = {
    "accuracy": accuracy_problem,
    "r2": r2_problem,
}


def released(metric: str, problem: Problem, alpha: float, seed: int, resamples: int) -> bool:
    """Would the gate release the first model in place of the second?"""
    joint = METRICS[metric].joint(problem, generator(seed), resamples)
    differing = METRICS[metric].differing(problem, 0, 1)
    return paired_gain(joint, 0, 1, alpha=alpha, differing=differing).low > 0.0


def rate(metric: str, rows: int, better: float, *, alpha: float, trials: int, resamples: int = 500) -> float:
    """Share of retrains, each on a fresh holdout, that are released."""
    rng = np.random.default_rng([rows, int(better * 1000)])
    hits = [released(metric, PROBLEMS[metric](rng, rows, better), alpha, trial, resamples) for trial in range(trials)]
    return float(np.mean(hits))


def campaigns(rows: int, asks: int, *, runs: int, budget: bool, resamples: int = 500) -> float:
    """Share of campaigns of ``asks`` equally good models on one holdout in which any is released."""
    rng = np.random.default_rng(rows)
    lost = 0
    for run in range(runs):
        truth = rng.integers(0, 2, rows)
        hard = rng.random(rows) < 0.1
        champion = np.where(hard | (rng.random(rows) < 1 / 9), 1 - truth, truth)
        for ask in range(1, asks + 1):
            candidate = np.where(hard | (rng.random(rows) < 1 / 9), 1 - truth, truth)
            problem = Problem(
                answers=(Answers(labels=candidate), Answers(labels=champion)), classes=(0, 1), codes=truth
            )
            alpha = level(CONFIDENCE, ask) if budget else 1 - CONFIDENCE
            if released("accuracy", problem, alpha, run * asks + ask, resamples):
                lost += 1
                break
    return lost / runs


def told(share: float, trials: int) -> str:
    return f"{share:6.3f} ± {math.sqrt(max(share * (1 - share), 1 / trials) / trials):.3f}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--trials", type=int, default=1000)
    options.add_argument("--runs", type=int, default=100)
    chosen = options.parse_args()
    first = level(CONFIDENCE, 1)
    print(f"Python {platform.python_version()}, numpy {np.__version__}")
    print(f"{chosen.trials} retrains a cell, 500 resamples each\n")
    print("1. Fresh holdouts. Released although no better (allowed: alpha), and seen when two points better")
    print(
        f"{'metric':<9} {'rows':>6}   {'no better, alpha 0.05':>21}   {f'no better, {first:.4f}':>18}   {'+0.02':>15}"
    )
    for metric in PROBLEMS:
        for rows in (50, 200, 1000):
            plain = rate(metric, rows, 0.0, alpha=0.05, trials=chosen.trials)
            gate = rate(metric, rows, 0.0, alpha=first, trials=chosen.trials)
            power = rate(metric, rows, 0.02, alpha=first, trials=chosen.trials)
            cells = [told(share, chosen.trials) for share in (plain, gate, power)]
            print(f"{metric:<9} {rows:>6}   {cells[0]:>21}   {cells[1]:>18}   {cells[2]:>15}")
    print(f"\n2. One holdout of 1,000 rows, 100 equally good models, {chosen.runs} campaigns: any release")
    for budget in (False, True):
        share = campaigns(1000, 100, runs=chosen.runs, budget=budget)
        print(f"   {'with the budget' if budget else 'every one at 0.05':<18} {told(share, chosen.runs)}")


if __name__ == "__main__":
    main()
