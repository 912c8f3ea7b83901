import itertools
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import BundleCorrupt, UserCodeFailed
from interlock.model import columns
from interlock.model.forms import (
    CategoryTerm,
    Constant,
    Linear,
    NumberTerm,
    load_form,
)
from interlock.records import Column, Signature


def signature_of(**types):
    return Signature(inputs=tuple(Column(name=name, type=kind, nullable=True) for name, kind in types.items()))


def stored(form, folder: Path, signature):
    for name, content in form.files().items():
        (folder / name).write_bytes(content)
    return load_form(folder, form.name, signature)


LINEAR = Linear(
    link="sigmoid",
    intercepts=(0.1,),
    terms=(
        NumberTerm(column="age", shift=40.0, weights=(0.1 / 3,), fill=40.0),
        CategoryTerm(column="city", keys=("a", "b"), weights=((0.3,), (-0.7,)), unknown=(0.0,), missing=None),
    ),
    classes=("no", "yes"),
)
PEOPLE = signature_of(age="float", city="str")


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


class TestLinear:
    def test_adds_terms_and_survives_storage(self, tmp_path):
        frame = pl.DataFrame({"age": [30.0, None, 50.0], "city": ["a", "b", "elsewhere"]})
        form = stored(LINEAR, tmp_path, PEOPLE)
        assert form == LINEAR
        answer = form.answer(frame)
        expected = [sigmoid(0.1 - 10 * (0.1 / 3) + 0.3), sigmoid(0.1 - 0.7), sigmoid(0.1 + 10 * (0.1 / 3))]
        assert answer["probability_1"].to_list() == pytest.approx(expected, rel=1e-14)
        assert answer["prediction"].to_list() == ["yes", "no", "yes"]
        assert (answer["probability_0"] + answer["probability_1"]).to_list() == [1.0] * 3

    @pytest.mark.parametrize(
        "cities",
        [
            pl.Series(["b", "x", "a", "b"]),
            pl.Series(["b", "x", "a", "b"], dtype=pl.Categorical),
            pl.Series(["b", "x", "a", "b"], dtype=pl.Enum(["x", "b", "a", "never"])),
        ],
    )
    def test_every_kind_of_text_column_gives_the_same(self, cities):
        frame = pl.DataFrame({"age": [40, 40, 40, 40], "city": cities})
        scores = LINEAR.scores(frame)[0]
        assert scores.tolist() == [0.1 - 0.7, 0.1, 0.1 + 0.3, 0.1 - 0.7]

    @pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["a", "b"])])
    def test_refused_missing_category_is_named_and_counted(self, dtype):
        frame = pl.DataFrame({"age": [1.0, 2.0, 3.0], "city": pl.Series(["a", None, None], dtype=dtype)})
        with pytest.raises(UserCodeFailed, match=r"2 of 3 rows: missing values in 'city' \(2 rows\)"):
            LINEAR.answer(frame)

    def test_missing_number_without_fill_is_refused(self):
        form = Linear(link="number", intercepts=(0.0,), terms=(NumberTerm(column="x", shift=0.0, weights=(1.0,)),))
        with pytest.raises(UserCodeFailed, match="1 of 2 rows"):
            form.answer(pl.DataFrame({"x": [1.0, None]}))
        with pytest.raises(UserCodeFailed, match="1 of 2 rows"):
            form.answer(pl.DataFrame({"x": [math.nan, 2.0]}))

    def test_empty_frame(self):
        answer = LINEAR.answer(pl.DataFrame(schema={"age": pl.Float64, "city": pl.String}))
        assert answer.height == 0
        assert answer.columns == ["prediction", "probability_0", "probability_1"]

    def test_softmax_and_one_vs_rest_sum_to_one(self):
        terms = (NumberTerm(column="x", shift=0.0, weights=(1.0, -2.0, 0.5)),)
        frame = pl.DataFrame({"x": [-3.0, 0.25, 900.0]})
        for link in ("softmax", "one-vs-rest"):
            answer = Linear(link=link, intercepts=(0.0, 0.1, 0.2), terms=terms, classes=(5, 6, 7)).answer(frame)
            assert answer.drop("prediction").sum_horizontal().to_list() == pytest.approx([1.0] * 3)
            assert answer["prediction"].to_list() == [6, 7, 5]

    @given(
        link=st.sampled_from(["sigmoid", "softmax", "one-vs-rest", "largest"]),
        cuts=st.lists(st.integers(1, 499), max_size=4),
        chunk=st.sampled_from([1, 7, 64, 500]),
        seed=st.integers(0, 2**32 - 1),
    )
    @settings(max_examples=40, deadline=None)
    def test_answers_do_not_depend_on_how_rows_are_cut(self, link, cuts, chunk, seed):
        rng = np.random.default_rng(seed)
        frame = pl.DataFrame(
            {
                "age": rng.normal(40, 10, 500),
                "city": pl.Series(rng.choice(["a", "b", "c"], 500).tolist(), dtype=pl.Categorical),
            }
        )
        scores = 1 if link == "sigmoid" else 11
        form = Linear(
            link=link,
            intercepts=tuple(rng.normal(size=scores)),
            terms=(
                NumberTerm(column="age", shift=40.0, weights=tuple(rng.normal(size=scores))),
                CategoryTerm(
                    column="city",
                    keys=("a", "b"),
                    weights=(tuple(rng.normal(size=scores)), tuple(rng.normal(size=scores))),
                    unknown=(0.0,) * scores,
                    missing=None,
                ),
            ),
            classes=tuple(range(max(scores, 2))),
        )
        whole = form.answer(frame)
        before = columns.CHUNK_ROWS
        columns.CHUNK_ROWS = chunk
        try:
            parts = [form.answer(frame[a:b]) for a, b in itertools.pairwise([0, *sorted(set(cuts)), 500])]
        finally:
            columns.CHUNK_ROWS = before
        assert pl.concat(parts).equals(whole)


class TestConstant:
    @pytest.mark.parametrize("value", ["usual", 3, 2.5, True])
    def test_repeats(self, tmp_path, value):
        form = stored(Constant(value=value, shares=(0.25, 0.75)), tmp_path, PEOPLE)
        answer = form.answer(pl.DataFrame({"age": [1.0, 2.0]}))
        assert answer["prediction"].to_list() == [value, value]
        assert answer["probability_1"].to_list() == [0.75, 0.75]


class TestLoading:
    def test_unknown_name(self, tmp_path):
        with pytest.raises(BundleCorrupt, match="no form"):
            load_form(tmp_path, "pickle", PEOPLE)

    @pytest.mark.parametrize(
        "content", [b"", b"{}", b'{"form":"seasonal"}', b'{"form":"constant","value":1,"extra":2}']
    )
    def test_malformed(self, tmp_path, content):
        (tmp_path / "form.json").write_bytes(content)
        with pytest.raises(BundleCorrupt, match=r"form\.json"):
            load_form(tmp_path, "constant", PEOPLE)

    def test_columns_outside_the_signature(self, tmp_path):
        with pytest.raises(BundleCorrupt, match="'city'"):
            stored(LINEAR, tmp_path, signature_of(age="float"))
