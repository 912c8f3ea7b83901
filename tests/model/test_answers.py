"""Answers that are rankings or text, from everything that a predict function may return."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from interlock.errors import UserCodeFailed
from interlock.model.native import shape_answers
from interlock.records import Output

RANKING = Output(kind="ranking", type="str")
TEXT = Output(kind="text", type="str")
LISTS = [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    "answer",
    [
        LISTS,
        [tuple(row) for row in LISTS],
        [np.array(row) for row in LISTS],
        np.array([np.array(row) for row in LISTS], dtype=object),
        pd.Series(LISTS),
        pd.DataFrame({"prediction": LISTS}),
        pl.Series(LISTS),
        pl.DataFrame({"prediction": LISTS}),
        pa.array(LISTS),
        pa.table({"prediction": LISTS}),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_rankings_come_in_many_shapes(answer: object) -> None:
    shaped = shape_answers(answer, 2, RANKING)
    assert shaped["prediction"].to_list() == LISTS
    assert shaped.schema == {"prediction": pl.List(pl.String)}


def test_an_array_of_rows_and_places_is_a_ranking() -> None:
    assert shape_answers(np.array([[1, 2], [3, 4]]), 2, Output(kind="ranking", type="int"))["prediction"].to_list() == [
        [1, 2],
        [3, 4],
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (["a", "b"], "a ranking is a list for each row"),
        ([["a"], []], "1 of 2 rankings are empty"),
        ([["a"], ["b", None]], "1 of 2 rankings are empty or hold a missing value"),
        ([["a", "a"], ["b"]], "the same value twice"),
        ([["a"]], "1 answers for 2 rows"),
        ([["a"], None], "missing"),
    ],
)
def test_what_is_no_ranking(answer: object, said: str) -> None:
    with pytest.raises(UserCodeFailed, match=said):
        shape_answers(answer, 2, RANKING)


def test_rankings_of_another_type() -> None:
    with pytest.raises(UserCodeFailed, match="the target is int"):
        shape_answers([["a"]], 1, Output(kind="ranking", type="int"))


def test_no_rows_have_the_type_of_some() -> None:
    assert shape_answers([], 0, RANKING).schema == shape_answers(LISTS, 2, RANKING).schema
    assert shape_answers([], 0, TEXT).schema == {"prediction": pl.String}


def test_text_comes_with_what_it_rests_on() -> None:
    answer = pd.DataFrame({"prediction": ["x", ""], "passage": ["from here", None], "start": [3, 0], "tops": LISTS})
    shaped = shape_answers(answer, 2, TEXT)
    assert shaped.columns == ["prediction", "passage", "start", "tops"]
    assert shaped["passage"].to_list() == ["from here", None]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"prediction": [1, 2]}, "text was expected"),
        ({"prediction": ["x", "y"], "interlock_file": [1, 2]}, "a name that is taken"),
        ({"prediction": ["x", "y"], "deep": [{"a": 1}, {"a": 2}]}, "is Struct"),
        ({"prediction": ["x", "y"], **{f"c{n}": [1, 2] for n in range(21)}}, "21 columns"),
    ],
)
def test_what_is_no_text(answer: dict[str, list[object]], said: str) -> None:
    with pytest.raises(UserCodeFailed, match=said):
        shape_answers(pl.DataFrame(answer), 2, TEXT)


def test_labels_and_numbers_keep_to_their_column() -> None:
    shaped = shape_answers(pl.DataFrame({"prediction": [1.0], "why": ["x"]}), 1, Output(kind="number", type="float"))
    assert shaped.columns == ["prediction"]
