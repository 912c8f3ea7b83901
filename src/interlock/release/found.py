"""How good are rankings and texts? Metrics of what was found, a mean over rows each, so that all bounds apply.

Rankings have one right value a row (the target), found at a place of the list or not at all:

* ``recall_at_k``: the share of rows that have it among the first k;
* ``mean_reciprocal_rank``: the mean of 1 / place, 0 when it is not found (Voorhees, TREC-8, 1999);
* ``ndcg``: the mean of 1 / log2(1 + place), 0 when it is not found (Jarvelin & Kekalainen, ACM TOIS 20, 2002; with one
  right value the ideal gain is 1).

Texts are compared as SQuAD does it (Rajpurkar et al., EMNLP 2016): in lower case, without punctuation and articles.

* ``exact_match``: the share of rows that are the same text;
* ``token_f1``: the mean over rows of the F1 of the words, counted with their multiplicity; two empty texts are equal.
"""

import re
import string
from collections.abc import Callable, Sequence

import numpy as np

from interlock.release.resample import Floats, Integers
from interlock.release.score import Answers, Means, Metric, Problem

RECALLS = (1, 3, 5, 10, 20, 50, 100)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_BLOCK = 8_388_608
"""Comparisons of words at a time: one byte each."""


# ---- rankings ----------------------------------------------------------------------------------------------------


def places(problem: Problem, answers: Answers) -> Floats:
    """The place of the right value in each ranking, from 1, float64 [n]; infinite where it was not found."""
    assert problem.codes is not None
    assert answers.ranking is not None
    hits = answers.ranking == problem.codes[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, np.inf)


def _recall(k: int) -> Callable[[Problem, Answers], Floats]:
    return lambda problem, answers: (places(problem, answers) <= k).astype(np.float64)[:, None]


def _reciprocal(problem: Problem, answers: Answers) -> Floats:
    return (1.0 / places(problem, answers))[:, None]


def _discounted(problem: Problem, answers: Answers) -> Floats:
    return (1.0 / np.log2(1.0 + places(problem, answers)))[:, None]


# ---- texts -------------------------------------------------------------------------------------------------------


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def text_codes(columns: Sequence[Sequence[str]]) -> list[tuple[Integers, Integers]]:
    """Codes of whole texts, int64 [n], and of their words, int64 [n, t] then -1: the same t and codes in all columns.

    A word that comes a second time in a text has another code than the first, so that equal codes are pairs of words
    and counting them respects multiplicity.
    """
    texts: dict[str, int] = {}
    words: dict[tuple[str, int], int] = {}
    plain_columns = [[normalised(text) for text in column] for column in columns]
    width = max((len(text.split()) for column in plain_columns for text in column), default=0)
    coded = []
    for plain in plain_columns:
        rows = [_numbered(text.split(), words) for text in plain]
        tokens = np.full((len(rows), width), -1, dtype=np.int64)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = row
        whole = np.array([texts.setdefault(text, len(texts)) for text in plain], dtype=np.int64)
        coded.append((whole, tokens))
    return coded


def _numbered(found: Sequence[str], words: dict[tuple[str, int], int]) -> list[int]:
    seen: dict[str, int] = {}
    codes = []
    for word in found:
        seen[word] = seen.get(word, 0) + 1
        codes.append(words.setdefault((word, seen[word]), len(words)))
    return codes


def _exact(problem: Problem, answers: Answers) -> Floats:
    return np.asarray(problem.codes == answers.labels, dtype=np.float64)[:, None]


def _token_f1(problem: Problem, answers: Answers) -> Floats:
    assert problem.tokens is not None
    assert answers.tokens is not None
    truth, given = problem.tokens, answers.tokens
    shared = np.zeros(len(truth))
    step = max(1, _BLOCK // max(1, truth.shape[1] * given.shape[1]))
    for start in range(0, len(truth), step):
        rows = slice(start, start + step)
        pairs = (truth[rows, :, None] == given[rows, None, :]) & (truth[rows, :, None] >= 0)
        shared[rows] = pairs.sum(axis=(1, 2))
    total = (truth >= 0).sum(axis=1) + (given >= 0).sum(axis=1)
    return np.where(total > 0, 2.0 * shared / np.maximum(total, 1), 1.0)[:, None]


# ---- the names ---------------------------------------------------------------------------------------------------


def _mean(means: Floats) -> Floats:
    return np.asarray(means[:, 0])


FOUND: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *(Means(f"recall_at_{k}", 1.0, "ranking", _recall(k), _mean) for k in RECALLS),
        Means("mean_reciprocal_rank", 1.0, "ranking", _reciprocal, _mean),
        Means("ndcg", 1.0, "ranking", _discounted, _mean),
        Means("exact_match", 1.0, "tokens", _exact, _mean),
        Means("token_f1", 1.0, "tokens", _token_f1, _mean),
    )
}
