"""Answers that came as a frame are the very pairs that they would be one by one."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.model.framed import FramedAnswers, answers_of

LABELS = pl.Enum(["no", "yes"])
FRAMES = [
    pl.DataFrame({"prediction": pl.Series(["no", "yes", "no"], dtype=LABELS), "probability_0": [0.75, 0.25, 1.0]}),
    pl.DataFrame({"prediction": [1.5, -0.0, 2.0]}),
    pl.DataFrame({"prediction": ["a", "b", "c"], "page": ["p", None, "q"]}),
]
PAIRS = [
    [("no", (0.75,)), ("yes", (0.25,)), ("no", (1.0,))],
    [(1.5, None), (-0.0, None), (2.0, None)],
    [("a", {"page": "p"}), ("b", {"page": None}), ("c", {"page": "q"})],
]


@pytest.mark.parametrize(("frame", "pairs"), [*zip(FRAMES, PAIRS, strict=True)])
@pytest.mark.parametrize("made", [False, True])
@given(data=st.data())
def test_they_are_a_sequence_of_pairs_whether_these_are_made_or_not(frame, pairs, made, data):
    answers = answers_of(frame, 3)
    if made:
        assert list(answers) == pairs
    one = data.draw(st.integers(-3, 2))
    some = data.draw(st.slices(3).filter(lambda each: (each.step or 1) > 0))
    assert answers[one] == pairs[one]
    assert list(answers[some]) == pairs[some]
    assert len(answers) == 3
    with pytest.raises(IndexError):
        answers[data.draw(st.sampled_from([3, -4, 99]))]
    assert answers == pairs
    assert repr(answers) == repr(pairs)
    assert answers != pairs[:2]


def test_labels_are_spelled_when_somebody_reads_them():
    answers = FramedAnswers(FRAMES[0])
    assert answers.frame["prediction"].dtype == LABELS
    assert answers.spelled["prediction"].to_list() == ["no", "yes", "no"]
    assert answers.spelled["prediction"].dtype == pl.String
