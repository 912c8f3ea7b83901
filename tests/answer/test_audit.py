"""Each rule of the audit, from both sides."""

from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.answer.audit import Shift, Staged, Tally, audit, measure_shift, next_step
from interlock.data.profile import profile
from interlock.records import Output
from interlock.settings import Batch

COLUMNS = ("id", "prediction", "probability_0", "probability_1", "interlock_row")
LABEL = Output(kind="label", type="str", classes=("no", "yes"))
TALLY = Tally(rows=1_000, scored=995, quarantined=5, keys=("id",))
STAGED = Staged(rows=995, columns=COLUMNS, nulls=dict.fromkeys(COLUMNS, 0))
SHIFT = Shift(distance=0.1, rows=995, column="prediction")


def failed(tally: Tally = TALLY, staged: Staged = STAGED, shift: Shift = SHIFT) -> list[str]:
    return [one.name for one in audit(tally, staged, COLUMNS, LABEL, Batch(), shift) if not one.passed]


def test_a_good_batch_passes_every_rule() -> None:
    names = [one.name for one in audit(TALLY, STAGED, COLUMNS, LABEL, Batch(), SHIFT)]
    assert names == ["bad rows", "rows", "keys", "signature", "finite", "probabilities", "new categories", "shift"]
    assert failed() == []


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("bad rows", {"scored": 989, "quarantined": 11}),
        ("rows", {"scored": 994}),
        ("keys", {"key_nulls": 1}),
        ("signature", {"unknown_labels": 1}),
        ("finite", {"missing_answers": 1}),
        ("probabilities", {"outside": 1}),
        ("probabilities", {"largest_gap": 1e-5}),
        ("probabilities", {"largest_gap": float("nan")}),
        ("new categories", {"new_category_rows": 200}),
    ],
)
def test_what_the_scorer_counted(rule: str, changes: dict[str, Any]) -> None:
    assert rule in failed(tally=msgspec.structs.replace(TALLY, **changes))


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("rows", {"rows": 994}),
        ("keys", {"columns": COLUMNS[1:]}),
        ("keys", {"nulls": {**STAGED.nulls, "id": 2}}),
        ("signature", {"columns": (*COLUMNS, "more")}),
        ("signature", {"columns": ("prediction", "id", *COLUMNS[2:])}),
        ("finite", {"nulls": {**STAGED.nulls, "prediction": 1}}),
        ("probabilities", {"nulls": {**STAGED.nulls, "probability_1": 1}}),
        ("probabilities", {"low": {"probability_0": -1e-9}}),
        ("probabilities", {"high": {"probability_1": 1.0000001}}),
    ],
)
def test_what_the_footer_says(rule: str, changes: dict[str, Any]) -> None:
    assert rule in failed(staged=msgspec.structs.replace(STAGED, **changes))


@pytest.mark.parametrize("distance", [1.01, float("inf"), float("nan")])
def test_answers_far_from_those_on_the_holdout(distance: float) -> None:
    assert failed(shift=Shift(distance=distance, rows=995)) == ["shift"]


def test_repeated_keys_are_told_and_pass() -> None:
    for repeats, words in ((0, "unique"), (3, "3 rows repeat a key"), (None, "too many")):
        found = audit(msgspec.structs.replace(TALLY, key_repeats=repeats), STAGED, COLUMNS, LABEL, Batch(), SHIFT)
        keys = next(one for one in found if one.name == "keys")
        assert keys.passed
        assert words in keys.reason


def test_nothing_scored_is_not_healthy() -> None:
    empty = Staged(rows=0, columns=(), nulls={})
    found = audit(Tally(rows=0, scored=0, quarantined=0), empty, (), LABEL, Batch(), Shift(skipped="no rows"))
    assert [one.name for one in found if not one.passed] == ["rows"]


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_row_that_is_neither_answered_nor_quarantined_fails(rows: int, scored: int, quarantined: int) -> None:
    tally = Tally(rows=rows, scored=scored, quarantined=quarantined)
    staged = msgspec.structs.replace(STAGED, rows=scored)
    found = {one.name: one.passed for one in audit(tally, staged, COLUMNS, LABEL, Batch(), SHIFT)}
    assert found["rows"] == (rows == scored + quarantined and scored > 0)


def test_every_rule_has_a_next_step() -> None:
    for one in audit(TALLY, STAGED, COLUMNS, LABEL, Batch(), SHIFT):
        assert next_step([one]).endswith(".")
    assert next_step([]) == ""


# ---- shift -------------------------------------------------------------------------------------------------------


def _answers(rows: int, yes: float) -> pl.DataFrame:
    return pl.DataFrame({"prediction": ["yes" if place < rows * yes else "no" for place in range(rows)]})


def test_the_same_distribution_has_no_distance() -> None:
    assert measure_shift(profile(_answers(1_000, 0.3)), _answers(500, 0.3)).distance == 0.0


def test_the_farthest_column_counts() -> None:
    reference = pl.DataFrame({"prediction": ["no"] * 500 + ["yes"] * 500, "probability_1": [0.2, 0.8] * 500})
    now = reference.with_columns(probability_1=pl.lit(0.9))
    shift = measure_shift(profile(reference), now)
    assert shift.column == "probability_1"
    assert shift.distance is not None
    assert shift.distance > 1.0


def test_encoded_labels_are_compared_by_name() -> None:
    now = _answers(500, 0.3).with_columns(pl.col("prediction").cast(pl.Enum(["no", "yes"])))
    assert measure_shift(profile(_answers(1_000, 0.3)), now).distance == 0.0


def test_another_kind_of_answer_is_infinitely_far() -> None:
    now = pl.DataFrame({"prediction": [1.0, 2.0] * 200})
    assert measure_shift(profile(_answers(1_000, 0.3)), now).distance == float("inf")


@pytest.mark.parametrize(
    ("reference", "now", "words"),
    [
        (_answers(1_000, 0.3), _answers(199, 0.3), "199 rows are too few"),
        (_answers(199, 0.3), _answers(500, 0.3), "199 rows are too few"),
        (_answers(1_000, 0.3).rename({"prediction": "feature"}), _answers(500, 0.3), "knows no answers"),
    ],
)
def test_what_cannot_be_compared_says_so(reference: pl.DataFrame, now: pl.DataFrame, words: str) -> None:
    shift = measure_shift(profile(reference), now)
    assert shift.distance is None
    assert words in shift.skipped
    assert measure_shift(None, now).distance is None
