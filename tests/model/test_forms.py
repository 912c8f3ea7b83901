import itertools
import math
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import BundleCorrupt, StoreFault, UserCodeFailed
from interlock.model import columns, trees
from interlock.model.forms import (
    CategoryTerm,
    Coder,
    Constant,
    Linear,
    NumberTerm,
    load_form,
)
from interlock.model.seasonal import fit_seasonal
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
        cuts=st.lists(st.integers(1, 499), max_size=4),
        chunk=st.sampled_from([1, 7, 64, 500]),
        seed=st.integers(0, 2**32 - 1),
    )
    @settings(max_examples=25, deadline=None)
    def test_answers_do_not_depend_on_how_rows_are_cut(self, cuts, chunk, seed):
        rng = np.random.default_rng(seed)
        frame = pl.DataFrame(
            {
                "age": rng.normal(40, 10, 500),
                "city": pl.Series(rng.choice(["a", "b", "c"], 500).tolist(), dtype=pl.Categorical),
            }
        )
        whole = LINEAR.answer(frame)
        edges = [0, *sorted(set(cuts)), 500]
        before = columns.CHUNK_ROWS
        columns.CHUNK_ROWS = chunk
        try:
            parts = [LINEAR.answer(frame[a:b]) for a, b in itertools.pairwise(edges)]
        finally:
            columns.CHUNK_ROWS = before
        assert pl.concat(parts).equals(whole)


class TestCoder:
    @given(
        values=st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "c", "", "Ä", "zz"])), min_size=1),
        keys=st.lists(st.sampled_from(["a", "b", "", "Ä", "q"]), unique=True, min_size=1),
        dtype=st.sampled_from([pl.String, pl.Categorical]),
    )
    @settings(deadline=None)
    def test_text(self, values, keys, dtype):
        codes, positions = Coder(keys).codes(pl.Series(values, dtype=dtype))
        size = len(keys)
        expected = [size + 1 if v is None else keys.index(v) if v in keys else size for v in values]
        assert positions[codes.astype(int)].tolist() == expected

    @given(
        values=st.lists(st.one_of(st.none(), st.integers(-3, 8)), min_size=1),
        keys=st.lists(st.integers(-2, 6), unique=True, min_size=1),
    )
    @settings(deadline=None)
    def test_numbers(self, values, keys):
        codes, positions = Coder(keys).codes(pl.Series(values, dtype=pl.Int64))
        size = len(keys)
        expected = [size + 1 if v is None else keys.index(v) if v in keys else size for v in values]
        assert positions[codes].tolist() == expected

    def test_bool(self):
        codes, positions = Coder([False, True]).codes(pl.Series([True, None, False]))
        assert positions[codes].tolist() == [1, 3, 0]


class TestConstant:
    @pytest.mark.parametrize("value", ["usual", 3, 2.5, True])
    def test_repeats(self, tmp_path, value):
        form = stored(Constant(value=value, shares=(0.25, 0.75)), tmp_path, PEOPLE)
        answer = form.answer(pl.DataFrame({"age": [1.0, 2.0]}))
        assert answer["prediction"].to_list() == [value, value]
        assert answer["probability_1"].to_list() == [0.75, 0.75]


class TestSeasonal:
    def test_week_is_found_in_daily_data_and_survives_storage(self, tmp_path):
        start = date(2025, 1, 1)
        days = [start + timedelta(days=i) for i in range(70)]
        pattern = [1.0, 2.0, 9.0, 4.0, 5.0, 20.0, 7.0]
        frame = pl.DataFrame({"day": days, "y": [pattern[i % 7] for i in range(70)]})
        form = stored(fit_seasonal(frame, "day", "y"), tmp_path, signature_of(day="date"))
        assert form.season == 7
        assert form.season_error["7"] == 0.0
        future = pl.DataFrame({"day": [start + timedelta(days=i) for i in (70, 76, 80, 200)]})
        assert form.answer(future)["prediction"].to_list() == [pattern[i % 7] for i in (70, 76, 80, 200)]

    def test_without_a_season_the_last_value_answers(self):
        frame = pl.DataFrame({"day": [date(2025, 1, 1) + timedelta(days=i) for i in range(30)], "y": np.arange(30.0)})
        form = fit_seasonal(frame, "day", "y")
        assert form.season == 1
        assert form.answer(pl.DataFrame({"day": [date(2025, 2, 15)]}))["prediction"].to_list() == [29.0]

    def test_months_are_calendar_months(self):
        months = [date(2020 + i // 12, i % 12 + 1, 1) for i in range(48)]
        frame = pl.DataFrame({"m": months, "y": [float(i % 12) ** 2 for i in range(48)]})
        form = fit_seasonal(frame, "m", "y")
        assert (form.unit, form.season) == ("month", 12)
        assert form.answer(pl.DataFrame({"m": [date(2024, 3, 1), date(2025, 12, 1)]}))["prediction"].to_list() == [
            4.0,
            121.0,
        ]

    def test_several_series_gaps_early_and_missing_times(self):
        frame = pl.DataFrame({"t": [1, 1, 2, 4, 5], "y": [1.0, 3.0, 5.0, 7.0, 9.0]})
        form = fit_seasonal(frame, "t", "y")
        assert form.values == (2.0, 5.0, 5.0, 7.0, 9.0)
        answer = form.answer(pl.DataFrame({"t": [6, 4, 0, None]}))["prediction"].to_list()
        assert answer == [9.0, 5.0, 5.0, 5.0]

    def test_no_rows(self):
        with pytest.raises(StoreFault, match="no series"):
            fit_seasonal(pl.DataFrame({"t": [None], "y": [1.0]}, schema={"t": pl.Date, "y": pl.Float64}), "t", "y")


@pytest.fixture(scope="module")
def trained():
    import lightgbm as lgb

    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 3))
    x[::17, 1] = np.nan
    y = (x[:, 0] > 0).astype(int) + (x[:, 2] > 0.5)
    data = lgb.Dataset(x, y, params={"verbose": -1})
    params = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1, "seed": 1}
    return lgb.train(params, data, 5), x


class TestLightGbm:
    def test_same_as_the_package(self, trained, tmp_path):
        booster, x = trained
        spec = trees.Trees(
            features=tuple(trees.Plain(column=name) for name in "abc"), outputs=3, classes=("low", "mid", "high")
        )
        form = trees.LightGbm(spec, booster.model_to_string().encode())
        form = stored(form, tmp_path, signature_of(a="float", b="float", c="float"))
        frame = pl.DataFrame({name: x[:, i] for i, name in enumerate("abc")}).with_columns(pl.all().fill_nan(None))
        expected = booster.predict(x)
        answer = form.answer(frame)
        assert np.array_equal(answer.drop("prediction").to_numpy(), expected)
        assert answer["prediction"].to_list() == [("low", "mid", "high")[i] for i in expected.argmax(axis=1)]

    def test_wrong_width_and_garbage(self, trained):
        booster, _ = trained
        spec = trees.Trees(features=(trees.Plain(column="a"),), outputs=3)
        with pytest.raises(BundleCorrupt, match="takes 3 columns"):
            trees.LightGbm(spec, booster.model_to_string().encode())
        with pytest.raises(StoreFault, match="LightGBM"):
            trees.LightGbm(spec, b"tree\nnonsense")

    def test_mapped_and_plain_columns(self):
        spec = trees.Trees(
            features=(
                trees.Plain(column="x", shift=1.0, scale=2.0, offset=0.5, fill=3.0),
                trees.Mapped(column="c", keys=("a", "b"), values=(10.0, 20.0), unknown=-1.0, missing=None),
            ),
            outputs=1,
        )
        frame = pl.DataFrame({"x": [1, 2, None], "c": ["b", "zz", None]})
        matrix = spec.matrix(frame)
        assert matrix[0].tolist() == [0.5, 2.5, 4.5]
        assert matrix[1, :2].tolist() == [20.0, -1.0]
        assert math.isnan(matrix[1, 2])


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
