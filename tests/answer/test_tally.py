"""Counting over chunks: the same as counting over the whole, in memory that does not grow."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answer.kit import SIGNATURE, rows
from interlock.answer import tally as module
from interlock.answer.audit import Tally
from interlock.answer.intake import Chunk
from interlock.answer.tally import Counter, with_codes
from interlock.data.readers import BAD_SCHEMA
from interlock.records import Output

NOTHING = pl.DataFrame(schema=BAD_SCHEMA)
LABEL = Output(kind="label", type="str", classes=("no", "yes"))


def chunk(frame: pl.DataFrame) -> Chunk:
    kept = {"id": frame["id"].to_arrow()}
    return Chunk(frame.height, np.arange(frame.height), frame.select("x", "n", "colour"), kept, NOTHING)


def answers(count: int, share: float = 0.25) -> pl.DataFrame:
    return pl.DataFrame(
        {"prediction": ["no"] * count, "probability_0": [1 - share] * count, "probability_1": [share] * count}
    )


def counted(frame: pl.DataFrame, given_answers: pl.DataFrame, size: int = 7) -> Tally:
    counter = Counter(SIGNATURE, ("id",), seed=0)
    for place in range(0, frame.height, size):
        part = chunk(frame[place : place + size])
        coded, unknown = with_codes(given_answers[place : place + size], LABEL)
        counter.read_rows(part)
        counter.add(part, coded, unknown)
    return counter.tally()


def test_a_clean_file() -> None:
    assert counted(rows(50), answers(50)) == Tally(rows=50, scored=50, quarantined=0, keys=("id",))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_repeats_are_those_of_the_whole(keys: list[int], size: int) -> None:
    frame = rows(len(keys), id=keys)
    assert counted(frame, answers(len(keys)), size).key_repeats == len(keys) - len(set(keys))


def test_ascending_keys_need_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEYS_REMEMBERED", 10)
    assert counted(rows(50), answers(50)).key_repeats == 0
    assert counted(rows(50, id=list(range(50, 0, -1))), answers(50)).key_repeats is None


def test_empty_keys_are_counted() -> None:
    frame = rows(20).with_columns(pl.when(pl.col("id") < 1_003).then(None).otherwise("id").alias("id"))
    assert counted(frame, answers(20)).key_nulls == 3


@pytest.mark.parametrize("dtype", [pl.String, pl.Enum(["mauve", "red", "blue", "green", "pink"])])
def test_new_categories_by_row_and_column(dtype: pl.DataType) -> None:
    frame = rows(40, colour=["red", "mauve", "blue", "pink"] * 10).with_columns(pl.col("colour").cast(dtype))
    found = counted(frame, answers(40))
    assert (found.new_category_rows, found.new_categories) == (20, {"colour": 20})


def test_missing_text_is_not_a_new_category() -> None:
    assert counted(rows(4, colour=["red", None, "blue", None]), answers(4)).new_category_rows == 0


def test_encodings_may_change_between_chunks() -> None:
    frames = [rows(4, colour=["red", "mauve"] * 2), rows(4, colour=["mauve", "red"] * 2)]
    counter = Counter(SIGNATURE, (), seed=0)
    for values, frame in zip((["red", "mauve"], ["red", "mauve", "blue"]), frames, strict=True):
        part = chunk(frame.with_columns(pl.col("colour").cast(pl.Enum(values))))
        counter.add(part, answers(4), 0)
    assert counter.tally().new_category_rows == 4


@pytest.mark.parametrize(
    ("column", "value", "field", "count"),
    [
        ("probability_1", np.nan, "outside", 1),
        ("probability_1", None, "outside", 1),
        ("probability_1", 1.5, "outside", 1),
        ("probability_0", -0.1, "outside", 1),
        ("prediction", None, "missing_answers", 1),
        ("prediction", "maybe", "unknown_labels", 1),
    ],
)
def test_one_bad_answer_is_found(column: str, value: object, field: str, count: int) -> None:
    given_answers = answers(30)
    values = given_answers[column].to_list()
    values[17] = value
    found = counted(rows(30), given_answers.with_columns(pl.Series(column, values, dtype=given_answers[column].dtype)))
    assert getattr(found, field) == count
    others = {"outside", "missing_answers", "unknown_labels"} - {field}
    assert all(getattr(found, other) == 0 for other in others)


def test_the_largest_gap_is_kept() -> None:
    given_answers = answers(30).with_columns(probability_1=pl.Series([0.25] * 3 + [0.35] + [0.25] * 26))
    assert counted(rows(30), given_answers).largest_gap == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, None])
def test_numbers_must_be_finite(bad: float | None) -> None:
    counter = Counter(SIGNATURE, (), seed=0)
    given_answers = pl.DataFrame({"prediction": pl.Series([1.0, bad, 2.0], dtype=pl.Float64)})
    counter.add(chunk(rows(3)), given_answers, 0)
    assert counter.tally().missing_answers == 1


@pytest.mark.parametrize(
    ("classes", "labels", "unknown"),
    [
        (("a", "b"), ["a", "b", "a"], 0),
        (("a", "b"), ["a", "c", None], 1),
        (("a", "b", "c"), ["a", "c", "d"], 1),
        ((0, 1), [0, 1, 2], 1),
        ((0, 1), [0.0, 1.0, 1.0], 0),
        ((False, True), [True, False, True], 0),
        ((False, True), [1, 0, 1], 3),
        (("a", "b"), [1, 2, 3], 3),
    ],
)
def test_labels_must_be_classes(classes: tuple[str | int | bool, ...], labels: list[object], unknown: int) -> None:
    output = Output(kind="label", type="str", classes=classes)
    coded, found = with_codes(pl.DataFrame({"prediction": labels}), output)
    assert found == unknown
    if not unknown and isinstance(classes[0], str):
        assert coded["prediction"].dtype == pl.Enum(list(classes))
        assert coded["prediction"].to_list() == labels


def test_the_sample_is_bounded_and_even(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_ROWS", 1_000)
    counter = Counter(SIGNATURE, (), seed=3)
    for place in range(100):
        counter.add(chunk(rows(500)), pl.DataFrame({"prediction": np.full(500, float(place))}), 0)
    sample = counter.sample()
    assert 700 <= sample.height <= 2_000
    assert sample["prediction"].mean() == pytest.approx(49.5, abs=4.0)
