"""Rankings and texts: equal to the definitions, worked out by hand and by a slow twin."""

import collections
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import SettingsError
from interlock.release.assess import Header, Terms, Witness, assess, problem_of, shuffled_answers
from interlock.release.found import FOUND, normalised
from interlock.release.score import Problem

MODELS = (Witness(who="candidate"), Witness(who="baseline"))


def ranked(truth, *answers) -> Problem:
    names = ("candidate", "baseline")
    frame = pl.DataFrame({"truth": truth, **{f"{n}.prediction": a for n, a in zip(names, answers, strict=False)}})
    return problem_of(frame, Header(task="ranking", models=MODELS[: len(answers)]), "ranking")


def worded(truth, answers) -> Problem:
    frame = pl.DataFrame({"truth": list(truth), "candidate.prediction": list(answers)})
    return problem_of(frame, Header(task="text", models=MODELS[:1]), "text")


def value(name: str, problem: Problem, model: int = 0) -> float:
    return FOUND[name].values(problem)[model]


def test_rankings_by_hand() -> None:
    problem = ranked(
        ["a", "b", "c", "d"], [["a", "b"], ["a", "b"], ["x", "y", "c"], ["x"]], [["a"], ["a"], ["a"], ["a"]]
    )
    assert value("recall_at_1", problem) == 0.25
    assert value("recall_at_3", problem) == 0.75
    assert value("mean_reciprocal_rank", problem) == pytest.approx((1 + 1 / 2 + 1 / 3 + 0) / 4)
    assert value("ndcg", problem) == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(4)) / 4)
    assert value("recall_at_1", problem, 1) == 0.25
    assert FOUND["recall_at_1"].differing(problem, 0, 1) == 4


def test_rankings_of_numbers_and_against_numbers_of_another_type() -> None:
    assert value("recall_at_1", ranked([1, 2], [[1], [1]])) == 0.5


@pytest.mark.parametrize(
    ("truth", "answer", "exact", "f1"),
    [
        ("The cat.", "cat", 1.0, 1.0),
        ("a b b", "b b b", 0.0, 0.8),  # 'a' is an article: b b against b b b
        ("red green", "green red", 0.0, 1.0),
        ("", "the", 1.0, 1.0),
        ("", "word", 0.0, 0.0),
        ("one two three", "three four", 0.0, 0.4),
    ],
)
def test_texts_by_hand(truth: str, answer: str, exact: float, f1: float) -> None:
    problem = worded([truth], [answer])
    assert value("exact_match", problem) == exact
    assert value("token_f1", problem) == pytest.approx(f1)


def slow_f1(truth: str, answer: str) -> float:
    """The definition of SQuAD's evaluation, word by word."""
    gold, given = normalised(truth).split(), normalised(answer).split()
    same = sum((collections.Counter(gold) & collections.Counter(given)).values())
    if not gold or not given:
        return float(gold == given)
    return 2 * same / (len(gold) + len(given))


TEXTS = st.lists(st.sampled_from(["a", "The", "cat", "cat.", "dog", "Dog", "b2", "-"]), max_size=6).map(" ".join)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
def test_token_f1_is_the_mean_of_the_slow_one(pairs: list[tuple[str, str]]) -> None:
    truth, answers = zip(*pairs, strict=True)
    expected = np.mean([slow_f1(one, other) for one, other in pairs])
    assert value("token_f1", worded(truth, answers)) == pytest.approx(expected)


def test_texts_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    words = np.array(["red", "green", "blue", "sky", "sea"])
    truth, answers = ([" ".join(rng.choice(words, 4)) for _ in range(50)] for _ in range(2))
    whole = value("token_f1", worded(truth, answers))
    monkeypatch.setattr("interlock.release.found._BLOCK", 40)
    assert value("token_f1", worded(truth, answers)) == whole


def test_a_finder_beats_guessing_and_a_constant_does_not() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 30, 300)
    found = [[int(t), int(t) + 100] if rng.random() < 0.7 else [200] for t in truth]
    baseline = [[7, 8, 9]] * 300
    frame = pl.DataFrame(
        {"row": range(300), "truth": truth, "candidate.prediction": found, "baseline.prediction": baseline}
    )
    frame, shuffled = shuffled_answers(frame, MODELS[0], 0)
    terms = Terms(
        metric="recall_at_10",
        greater_is_better=True,
        confidence=0.95,
        alpha=0.05,
        min_slice_rows=30,
        seed=0,
        resamples=500,
    )
    seen = assess(frame, Header(task="ranking", models=(*MODELS, shuffled), also=("ndcg",)), terms)
    against = {comparison.against: comparison.low for comparison in seen.comparisons}
    assert against["baseline"] > 0.4
    assert against["shuffled"] > 0.5
    assert seen.extra["candidate"]["ndcg"] == pytest.approx(seen.scores["candidate"].value)


def test_a_metric_of_another_kind_of_answers_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot score"):
        ranked(["a"], ["a"])
    with pytest.raises(SettingsError, match="cannot score"):
        problem_of(
            pl.DataFrame({"truth": ["a"], "candidate.prediction": [1]}), Header(task="text", models=MODELS[:1]), "text"
        )
