import math

import msgspec
import numpy as np
import polars as pl
import pytest

from interlock.model.edges import made_rows
from interlock.model.forms import CategoryTerm, Linear, NumberTerm
from interlock.model.parity import RTOL, RTOL_SINGLE, cases_of, check_parity, difference
from model.plain_rows import ROWS, SIGNATURE

FORM = Linear(
    link="number",
    intercepts=(1.0,),
    terms=(
        NumberTerm(column="x", shift=0.0, weights=(2.0,), fill=0.0),
        CategoryTerm(column="c", keys=("a", "b"), weights=((0.5,), (-0.5,)), unknown=(0.0,), missing=(0.0,)),
    ),
)


def parity(native, form=FORM):
    made = made_rows(ROWS, SIGNATURE)._asdict()
    return check_parity(form, cases_of(native, {"the holdout": ROWS} | made))


class TestParity:
    def test_equal(self):
        found = parity(FORM.answer)
        assert found.agrees
        assert found.largest_gap == 0.0
        assert found.rows > 33

    def test_rounding_is_allowed_and_more_is_not(self):
        assert parity(lambda rows: FORM.answer(rows) * (1 + 1e-12)).agrees
        found = parity(lambda rows: FORM.answer(rows) * (1 + 1e-8))
        assert not found.agrees
        assert "on the holdout" in found.reason

    def test_a_category_that_the_holdout_lacks(self):
        def native(rows):
            return FORM.answer(rows).with_columns(
                pl.when(rows["c"] == "A").then(9.0).otherwise("prediction").alias("prediction")
            )

        assert difference(native(ROWS), FORM.answer(ROWS)) == (0.0, "")
        found = parity(native)
        assert not found.agrees
        assert "on risky" in found.reason

    def test_refusals_must_match(self):
        def picky(rows):
            if not rows["c"].is_in(["a", "b"]).all():
                raise ValueError("unknown category")
            return FORM.answer(rows)

        found = parity(picky)
        assert (found.agrees, found.reason) == (False, "answers risky where the model does not")
        refusing = msgspec.structs.replace(
            FORM, terms=(FORM.terms[0], msgspec.structs.replace(FORM.terms[1], unknown=None))
        )
        assert parity(picky, refusing).agrees
        found = parity(FORM.answer, refusing)
        assert (found.agrees, found.reason) == (False, "refuses risky where the model does not")

    @pytest.mark.parametrize(
        ("form", "words"),
        [
            ({"prediction": ["a", "b"], "probability_0": [1.0, 0.0]}, ""),
            ({"prediction": ["a", "a"], "probability_0": [1.0, 0.0]}, "1 of 2 labels"),
            ({"prediction": ["a", "b"], "probability_0": [1.0, 1e-10]}, "times the allowed"),
            ({"prediction": ["a", "b"]}, "instead of prediction, probability_0"),
            ({"prediction": [1, 2], "probability_0": [1.0, 0.0]}, "answers Int64"),
        ],
    )
    def test_differences(self, form, words):
        native = pl.DataFrame({"prediction": ["a", "b"], "probability_0": [1.0, 0.0]})
        _, reason = difference(native, pl.DataFrame(form))
        assert (words in reason) if words else reason == ""

    def test_numbers_of_float32_may_differ_by_its_rounding_and_no_more(self):
        native = pl.DataFrame({"prediction": np.float32([0.1, 0.7]).astype(np.float64)})
        assert not difference(native, native * (1 + 0.9 * RTOL_SINGLE))[1]
        assert difference(native, native * (1 + 1.1 * RTOL_SINGLE))[1]
        wide = pl.DataFrame({"prediction": [0.1, 0.7]})
        assert difference(wide, wide * (1 + 10 * RTOL))[1]

    def test_a_form_that_answers_nan_differs(self):
        native = pl.DataFrame({"prediction": [0.1, 0.7]})
        assert difference(native, pl.DataFrame({"prediction": [0.1, math.nan]}))[1]
