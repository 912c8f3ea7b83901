"""Simulated retrains, and what the gate's own code answers to them: the working part of ``decisions.py``.

First the models that are made up (truth and answers of a candidate and a champion whose quality is known), then the
gate's question put to many of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from interlock.records import Evaluation, Policy
from interlock.release.assess import Header, Terms, Witness, assess, shuffled_answers
from interlock.release.bounds import paired_gain, student
from interlock.release.gate import decide, level
from interlock.release.resample import generator
from interlock.release.score import METRICS, Answers, Problem

CONFIDENCE = 0.95
FIRST = level(CONFIDENCE, 1)
Make = Callable[[np.random.Generator, int, float], Problem]


# ---- retrains ----------------------------------------------------------------------------------------------------


def labels(rng: np.random.Generator, rows: int, better: float) -> Problem:
    """Three classes of 50, 30 and 20 %; both models are right in 80 % of the rows, half of the errors are shared."""
    truth = rng.choice(3, rows, p=[0.5, 0.3, 0.2])
    hard = rng.random(rows) < 0.1
    other = (truth + rng.integers(1, 3, rows)) % 3
    wrong = [hard | (rng.random(rows) < 1 - (0.8 + gain) / 0.9) for gain in (better, 0.0)]
    return Problem(
        answers=tuple(Answers(labels=np.where(one, other, truth)) for one in wrong), classes=(0, 1, 2), codes=truth
    )


def chances(rng: np.random.Generator, rows: int, better: float) -> Problem:
    """Probabilities of a rarer class (30 %): logits with an error of which half is shared; smaller when ``better``."""
    logit = rng.normal(-1.0, 1.5, rows)
    truth = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    shared = rng.normal(size=rows)
    up = [1 / (1 + np.exp(-(logit + shared + (1 - gain) * rng.normal(size=rows)))) for gain in (better, 0.0)]
    return Problem(
        answers=tuple(Answers(probabilities=np.stack([1 - one, one], axis=1)) for one in up),
        classes=(0, 1),
        codes=truth,
    )


def numbers(rng: np.random.Generator, rows: int, better: float) -> Problem:
    """R2 of 0.5 (the candidate's is ``better`` more); half of the error's variance is shared."""
    truth = rng.normal(size=rows)
    shared = rng.normal(size=rows) * 0.5
    noise = [math.sqrt(0.25 - gain) * rng.normal(size=rows) for gain in (better, 0.0)]
    return Problem(answers=tuple(Answers(numbers=truth + shared + one) for one in noise), numbers=truth)


RETRAINS: dict[str, Make] = {
    "f1_macro": labels,
    "accuracy": labels,
    "roc_auc": chances,
    "neg_log_loss": chances,
    "r2": numbers,
    "neg_mean_absolute_error": numbers,
}


# ---- as good, in another way -------------------------------------------------------------------------------------

BLUNT = 0.5


def _loss(logit: np.ndarray, sharpness: float) -> float:
    p = 1 / (1 + np.exp(-logit))
    q = 1 / (1 + np.exp(-sharpness * logit))
    return float(-(p * np.log(q) + (1 - p) * np.log1p(-q)).mean())


def sharp() -> float:
    """Factor on the true logit that costs as much log loss as halving it (bisection on a fixed grid of normals)."""
    from scipy.stats import norm

    logit = 1.2 * norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    low, high = 1.0, 4.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _loss(logit, middle) < _loss(logit, BLUNT) else (low, middle)
    return low


SHARP = sharp()


def overconfident(rng: np.random.Generator, rows: int, better: float) -> Problem:
    """Same expected log loss: the candidate is too sure (rare large losses), the champion not sure enough."""
    del better
    logit = 1.2 * rng.normal(size=rows)
    truth = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    up = [1 / (1 + np.exp(-factor * logit)) for factor in (SHARP, BLUNT)]
    return Problem(
        answers=tuple(Answers(probabilities=np.stack([1 - one, one], axis=1)) for one in up),
        classes=(0, 1),
        codes=truth,
    )


def rarely_far_off(rng: np.random.Generator, rows: int, better: float) -> Problem:
    """Same expected absolute error: the candidate is a little better, and far off in one row of twenty."""
    del better
    truth = rng.normal(size=rows)
    near = np.abs(rng.normal(size=rows)) + 1.0
    far = near - 0.1 + np.where(rng.random(rows) < 0.05, 2.0 * rng.exponential(size=rows), 0.0)
    return Problem(answers=(Answers(numbers=truth + far), Answers(numbers=truth + near)), numbers=truth)


UNLIKE: dict[str, tuple[str, Make]] = {
    "too sure, log loss": ("neg_log_loss", overconfident),
    "rarely far off, MAE": ("neg_mean_absolute_error", rarely_far_off),
}


# ---- the gate's question -----------------------------------------------------------------------------------------


@dataclass
class Share:
    """A share with its Monte-Carlo standard error."""

    hits: int
    trials: int

    @property
    def value(self) -> float:
        return self.hits / self.trials

    @property
    def error(self) -> float:
        return math.sqrt(max(self.value * (1 - self.value), 1 / self.trials) / self.trials)

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.error:.4f}"


def released(metric: str, problem: Problem, alpha: float, seed: int, resamples: int, edition: int = 2) -> bool:
    """Would the gate release the first model in place of the second?"""
    joint = METRICS[metric].joint(problem, generator(seed), resamples)
    if edition == 1:
        joint = replace(joint, influence=None)
    differing = METRICS[metric].differing(problem, 0, 1)
    return paired_gain(joint, 0, 1, alpha=alpha, differing=differing).low > 0.0


def rate(
    metric: str,
    make: Make,
    rows: int,
    better: float = 0.0,
    *,
    trials: int,
    alpha: float = FIRST,
    resamples: int = 500,
    edition: int = 2,
) -> Share:
    """Share of retrains, each on a fresh holdout, that are released."""
    rng = np.random.default_rng([rows, round(better * 1000), trials])
    hits = sum(
        released(metric, make(rng, rows, better), alpha, trial, resamples, edition=edition) for trial in range(trials)
    )
    return Share(hits, trials)


def keyed(rng: np.random.Generator, keys: int, each: int) -> Problem:
    """Two equally good regressions whose errors belong to the key: ``each`` rows of a key have the same, nearly."""
    truth = rng.normal(size=keys * each)
    groups = np.repeat(np.arange(keys), each)
    errors = [rng.normal(size=keys)[groups] + 0.3 * rng.normal(size=keys * each) for _ in range(2)]
    return Problem(answers=tuple(Answers(numbers=truth + one) for one in errors), numbers=truth, groups=groups)


def keyed_rate(keys: int, each: int, *, by_key: bool, trials: int) -> Share:
    rng = np.random.default_rng([keys, each])
    problems = (keyed(rng, keys, each) for _ in range(trials))
    found = (problem if by_key else replace(problem, groups=None) for problem in problems)
    return Share(
        sum(released("neg_mean_squared_error", problem, FIRST, seed, 300) for seed, problem in enumerate(found)), trials
    )


COURSES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "each its own": ((1.0,), (1.0,)),
    "AR(1) 0.3": ((1.0,), (1.0, -0.3)),
    "AR(1) 0.6": ((1.0,), (1.0, -0.6)),
    "AR(1) 0.9": ((1.0,), (1.0, -0.9)),
    "mean of 12 steps": ((1.0,) * 12, (1.0,)),
    "as a week ago, 0.6": ((1.0,), (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.6)),
}
"""Errors in the course of time, as filters of noise: weights of its last values, and of the last errors."""


def serial(rng: np.random.Generator, steps: int, course: str, better: float = 0.0) -> Problem:
    """Two forecasts whose errors follow one another by ``course``; the candidate's are smaller by ``better``."""
    from scipy.signal import lfilter

    errors = lfilter(*COURSES[course], rng.normal(size=(2, steps + 200)), axis=1)[:, 200:]
    errors = errors / errors.std() * np.array([[1.0 - better], [1.0]])
    return Problem(
        answers=tuple(Answers(numbers=one) for one in errors), numbers=np.zeros(steps), steps=np.arange(steps)
    )


def serial_rate(steps: int, course: str, *, in_time: bool, better: float = 0.0, trials: int) -> Share:
    """Share released, with the rows taken in order of time or as if each were new."""
    rng = np.random.default_rng([steps, list(COURSES).index(course)])
    problems = (serial(rng, steps, course, better) for _ in range(trials))
    found = (problem if in_time else replace(problem, steps=None) for problem in problems)
    hits = sum(released("neg_mean_absolute_error", problem, FIRST, seed, 500) for seed, problem in enumerate(found))
    return Share(hits, trials)


def campaigns(
    rows: int, asks: int, *, runs: int, budget: bool, resamples: int = 300, shared: float = 0.1, alone: float = 1 / 9
) -> Share:
    """Share of campaigns of ``asks`` equally good models on one holdout in which any is released.

    All err on the same ``shared`` of the rows, and each by itself on the share ``alone`` of the others: 0.1 and 1/9
    make models that are right in 80 % of the rows; 0 and 0.5 make noise, judged against noise.
    """
    rng = np.random.default_rng([rows, round(alone * 1000)])
    lost = 0
    for run in range(runs):
        truth = rng.integers(0, 2, rows)
        hard = rng.random(rows) < shared
        champion = np.where(hard | (rng.random(rows) < alone), 1 - truth, truth)
        for ask in range(1, asks + 1):
            candidate = np.where(hard | (rng.random(rows) < alone), 1 - truth, truth)
            problem = Problem(
                answers=(Answers(labels=candidate), Answers(labels=champion)), classes=(0, 1), codes=truth
            )
            alpha = level(CONFIDENCE, ask) if budget else 1 - CONFIDENCE
            if released("accuracy", problem, alpha, run * asks + ask, resamples):
                lost += 1
                break
    return Share(lost, runs)


def rows_needed(gain: float, disagree: float, *, asks: float = 1.0, power: float = 0.8) -> int:
    """Rows at which a gain in accuracy is released with probability ``power``: normal approximation.

    ``disagree``: share of rows on which exactly one of the two models is right; the paired difference then has the
    variance ``disagree - gain ** 2`` (Connor, Biometrics 43, 1987).
    """
    reach = student(level(CONFIDENCE, asks), 10_000) + student(1 - power, 10_000)
    return math.ceil((disagree - gain**2) * (reach / gain) ** 2)


def two_models(rng: np.random.Generator, rows: int, gain: float, disagree: float) -> Problem:
    """Labels of which exactly one is right in ``disagree`` of the rows, more often the candidate's."""
    truth = rng.integers(0, 2, rows)
    kind = rng.choice(3, rows, p=[(disagree + gain) / 2, (disagree - gain) / 2, 1 - disagree])
    both = rng.random(rows) < 0.15
    mine, theirs = np.where(kind == 2, both, kind == 1), np.where(kind == 2, both, kind == 0)
    return Problem(
        answers=tuple(Answers(labels=np.where(one, 1 - truth, truth)) for one in (mine, theirs)),
        classes=(0, 1),
        codes=truth,
    )


def power(gain: float, disagree: float, rows: int, *, trials: int, asks: float = 1.0) -> Share:
    return rate(
        "accuracy",
        lambda rng, rows, better: two_models(rng, rows, better, disagree),
        rows,
        gain,
        trials=trials,
        alpha=level(CONFIDENCE, asks),
    )


# ---- whole judgements --------------------------------------------------------------------------------------------


def judged(frame: pl.DataFrame, metric: str, task: str, *, asks: float = 1.0, seed: int = 0):
    """Evidence -> decision, by the judge's own steps; without champion columns the candidate is the first model."""
    who = [name for name in ("candidate", "champion", "baseline") if f"{name}.prediction" in frame.columns]
    witnesses = tuple(Witness(who=name) for name in who)
    frame, shuffled = shuffled_answers(frame, witnesses[0], seed)
    policy = Policy(metric=metric)
    terms = Terms(
        metric=metric,
        greater_is_better=True,
        confidence=CONFIDENCE,
        alpha=level(CONFIDENCE, asks),
        min_slice_rows=policy.min_slice_rows,
        seed=seed,
        resamples=500,
    )
    found = assess(frame, Header(task=task, models=(*witnesses, shuffled)), terms)
    evaluation = Evaluation(
        candidate="c" * 64,
        champion="a" * 64 if "champion" in who else None,
        baseline="b" * 64,
        snapshot="5" * 64,
        holdout_digest="d" * 64,
        metric=metric,
        greater_is_better=True,
        rows=frame.height,
        seed=seed,
        resamples=500,
        asks=asks,
        edition=2,
        **{name: getattr(found, name) for name in found.__struct_fields__},
    )
    return decide(evaluation, policy)


def sliced(rng: np.random.Generator, rows: int, slices: int, *, guilty: float = 0.0) -> pl.DataFrame:
    """A candidate 10 points better than the champion; in the first slice it is ``guilty`` worse, if that is not 0."""
    part = rng.integers(0, slices, rows)
    truth = rng.integers(0, 2, rows)
    skill = np.where((part == 0) & (guilty > 0), 0.8 - guilty, 0.9)
    answers = {
        "candidate": np.where(rng.random(rows) < skill, truth, 1 - truth),
        "champion": np.where(rng.random(rows) < 0.8, truth, 1 - truth),
        "baseline": np.zeros(rows, dtype=np.int64),
    }
    columns = {f"{who}.prediction": answer for who, answer in answers.items()}
    labels = pl.Series("slice.part", [f"p{number}" for number in part])
    return pl.DataFrame({"row": np.arange(rows, dtype=np.uint64), "truth": truth, **columns}).with_columns(labels)


def kept_for_slices(rows: int, slices: int, *, guilty: float, trials: int) -> tuple[Share, Share]:
    """How often the candidate is better on the whole, and how often the check of the slices keeps it back then."""
    rng = np.random.default_rng([rows, slices, int(guilty * 100)])
    better = kept = 0
    for seed in range(trials):
        decision = judged(sliced(rng, rows, slices, guilty=guilty), "accuracy", "classification", seed=seed)
        passed = {check.name: check.passed for check in decision.checks}
        better += passed["champion"]
        kept += passed["champion"] and not passed["slices"] and decision.verdict == "keep"
    return Share(better, trials), Share(kept, better)


LEAKS = ("copy", "copy with 1 % noise", "copy with 30 % noise", "copy for half of the rows", "none")


def leak(kind: str, task: str, seed: int = 0):
    """Judge a model that was given a column which tells the target, against one that was not."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    rng = np.random.default_rng(seed)
    features = rng.normal(size=(3000, 4))
    signal = features[:, 0] + features[:, 1] * features[:, 2] + rng.normal(size=3000)
    truth = signal if task == "regression" else (signal > 0).astype(float)
    noise = {"copy with 1 % noise": 0.01, "copy with 30 % noise": 0.3}.get(kind, 0.0)
    column = truth + noise * truth.std() * rng.normal(size=3000)
    if kind == "copy for half of the rows":
        column = np.where(rng.random(3000) < 0.5, column, np.nan)
    if kind == "none":
        column = rng.normal(size=3000)
    model = RandomForestRegressor if task == "regression" else RandomForestClassifier
    train, held = slice(0, 2000), slice(2000, 3000)
    given = np.column_stack([features, column])
    answers = {
        "candidate": model(30, random_state=0).fit(given[train], truth[train]).predict(given[held]),
        "champion": model(30, random_state=0).fit(features[train], truth[train]).predict(features[held]),
        "baseline": np.full(1000, truth[train].mean() if task == "regression" else round(truth[train].mean())),
    }
    columns = {f"{who}.prediction": answer for who, answer in answers.items()}
    frame = pl.DataFrame({"row": np.arange(1000, dtype=np.uint64), "truth": truth[held], **columns})
    return judged(frame, "r2" if task == "regression" else "f1_macro", task)
