"""Answers to rows are those to frames, to the bit."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.data.casting import DTYPES
from interlock.errors import UserCodeFailed
from interlock.model import rows as rows_module
from interlock.model.columns import spelled
from interlock.model.forms import CategoryTerm, Constant, Linear, NumberTerm, Ranked
from interlock.model.rows import Framed, FrameRows, answers_of, frame_of, refused, rows_of, schema_of
from interlock.model.trees import LightGbm, Mapped, Plain, Trees
from interlock.records import Column, Signature

SIGNATURE = Signature(
    inputs=tuple(
        Column(name=name, type=kind, nullable=True)
        for name, kind in [("age", "float"), ("rooms", "int"), ("city", "str"), ("late", "bool"), ("stars", "int")]
    )
)
LINKS = ("number", "sigmoid", "sign", "softmax", "one-vs-rest", "largest")
CITIES = ("a", "b", "ü", "elsewhere", None)
WEIGHTS = st.floats(-30, 30).map(lambda x: round(x, 3)) | st.just(0.0)
VALUES = st.tuples(
    st.none() | st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, 1e300, -1e300, 1e-300]),
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
    st.sampled_from(CITIES),
    st.none() | st.booleans(),
    st.none() | st.integers(0, 4),
)


@st.composite
def linear_forms(draw):
    link = draw(st.sampled_from(LINKS))
    width = 1 if link in ("number", "sigmoid", "sign") else draw(st.integers(2, 4))
    weights = st.tuples(*[WEIGHTS] * width)
    fill = st.none() | st.floats(-5, 5)
    other = st.none() | weights

    def category(column, keys):
        return CategoryTerm(
            column=column,
            keys=keys,
            weights=tuple(draw(weights) for _ in keys),
            unknown=draw(other),
            missing=draw(other),
        )

    offered = [
        NumberTerm(column="age", shift=draw(WEIGHTS), weights=draw(weights), fill=draw(fill)),
        NumberTerm(column="rooms", shift=draw(WEIGHTS), weights=draw(weights), fill=draw(fill)),
        NumberTerm(column="late", shift=0.5, weights=draw(weights), fill=draw(fill)),
        category("city", ("a", "b", "ü")),
        category("late", (False, True)),
        category("stars", (1, 2, 3)),
        category("rooms", (2.0, -1.0)),
    ]
    terms = draw(st.lists(st.sampled_from(offered), min_size=1, max_size=6))
    classes = () if link == "number" else tuple("klmn"[: max(width, 2)])
    return Linear(link=link, intercepts=draw(weights), terms=tuple(terms), classes=classes)


def by_frame(form, rows):
    """What the form answers to each row in a frame of its own and, where it refuses none, in one frame."""
    schema = schema_of(SIGNATURE)
    alone = []
    for row in rows:
        try:
            alone.extend(answers_of(form.answer(frame_of([row], schema)), 1))
        except UserCodeFailed:
            alone.append(None)
    if None not in alone:
        assert alone == answers_of(form.answer(frame_of(rows, schema)), len(rows))
    return alone


def by_rows(form, rows):
    return [None if isinstance(given, UserCodeFailed) else given for given in rows_of(form, SIGNATURE).answers(rows)]


@settings(max_examples=300, deadline=None)
@given(form=linear_forms(), rows=st.lists(VALUES, min_size=1, max_size=8))
def test_linear_answers_are_those_of_frames_to_the_bit(form, rows):
    assert type(rows_of(form, SIGNATURE)).__name__ == "_LinearRows"
    found, expected = by_rows(form, rows), by_frame(form, rows)
    assert repr(found) == repr(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "SEVERAL", 1)
        assert repr(by_rows(form, rows)) == repr(expected)


def test_rows_are_added_up_by_columns_when_they_are_several():
    form = Linear(link="number", intercepts=(1.0,), terms=(NumberTerm(column="age", shift=0.5, weights=(2.0,)),))
    made, rows = rows_of(form, SIGNATURE), [(float(place), *[None] * 4) for place in range(40)]
    expected = made.answers(rows)
    made._one = None
    assert made.answers(rows) == expected
    with pytest.raises(TypeError):
        made.answers(rows[:3])


@settings(max_examples=40, deadline=None)
@given(form=linear_forms(), rows=st.lists(VALUES, min_size=1, max_size=8), times=st.sampled_from([1, 13, 40]))
def test_rows_that_are_a_frame_get_the_same_answers(form, rows, times):
    many = Framed(frame_of(rows * times, schema_of(SIGNATURE)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "MANY", 1)
        patch.setattr(rows_module, "FRAMED", 1)
        given = rows_of(form, SIGNATURE).answers(many)
    found = [None if isinstance(each, UserCodeFailed) else each for each in given]
    assert repr(found) == repr(by_rows(form, rows) * times)


def test_a_frame_gives_its_rows_when_they_are_asked_for():
    rows = [(float(place), place, "a", None, None) for place in range(5)]
    framed = Framed(frame_of(rows, schema_of(SIGNATURE)))
    assert (len(framed), framed[1], framed[:2], list(framed)) == (5, rows[1], rows[:2], rows)
    assert list(framed.take([3, 1])) == [rows[3], rows[1]]
    assert framed.take(range(5)) is framed
    assert list(framed.select(["city", "age"]))[4] == ("a", 4.0)


def test_rows_make_their_frame_when_it_is_asked_for():
    rows = [(float(place), place, "a", None, None) for place in range(5)]
    framed = Framed.of(rows, schema_of(SIGNATURE))
    assert (len(framed), framed[1], list(framed), framed.has_frame) == (5, rows[1], rows, False)
    assert framed.frame.equals(frame_of(rows, schema_of(SIGNATURE)))
    assert framed.has_frame


@pytest.mark.parametrize("score", [709.0, 709.782712893384, 709.7827128933841, 710.0, 800.0, 1e9])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scores_beyond_the_exponential_end_as_in_a_frame(score, sign):
    form = Linear(
        link="sigmoid",
        intercepts=(0.0,),
        terms=(NumberTerm(column="age", shift=0.0, weights=(1.0,)),),
        classes=("n", "y"),
    )
    row = (sign * score, None, None, None, None)
    assert repr(by_rows(form, [row])) == repr(by_frame(form, [row]))


def test_a_refused_row_spoils_no_other():
    form = Linear(link="number", intercepts=(1.0,), terms=(NumberTerm(column="age", shift=0.0, weights=(2.0,)),))
    given = rows_of(form, SIGNATURE).answers([(1.0, *[None] * 4), (None,) * 5, (3.0, *[None] * 4)])
    assert [given[0], given[2]] == [(3.0, None), (7.0, None)]
    assert isinstance(given[1], UserCodeFailed)
    assert given[1].facts["cause"] == "raised"
    assert "1 of the rows" in refused().message


@pytest.mark.parametrize(("column", "keys"), [("late", ("true",)), ("rooms", ("1", "2"))])
def test_types_that_must_be_spelled_go_by_frame(column, keys):
    term = CategoryTerm(column=column, keys=keys, weights=((1.0,),) * len(keys), unknown=(0.0,), missing=(0.5,))
    form = Linear(link="number", intercepts=(0.0,), terms=(term,))
    assert isinstance(rows_of(form, SIGNATURE), FrameRows)
    rows = [(None, 1, None, True, None), (None, None, None, None, None)]
    assert by_rows(form, rows) == by_frame(form, rows)


def test_a_number_term_on_text_goes_by_frame():
    form = Linear(link="number", intercepts=(0.0,), terms=(NumberTerm(column="city", shift=0.0, weights=(1.0,)),))
    assert isinstance(rows_of(form, SIGNATURE), FrameRows)


def test_constants_and_rankings_answer_every_row_alike():
    assert rows_of(Constant(value="b", shares=(0.2, 0.8)), SIGNATURE).answers([()] * 2) == [("b", (0.2, 0.8))] * 2
    assert rows_of(Constant(value=2.5), SIGNATURE).answers([()]) == [(2.5, None)]
    assert rows_of(Ranked(values=("x", "y")), SIGNATURE).answers([()]) == [(["x", "y"], None)]


# ---- trees -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def boosters():
    lightgbm = pytest.importorskip("lightgbm")
    rng = np.random.default_rng(5)
    table = rng.normal(size=(400, 4))
    table[rng.random(table.shape) < 0.1] = np.nan
    targets = {
        "number": (rng.normal(size=400) + np.nan_to_num(table[:, 0]), {"objective": "regression"}, 1, ()),
        "two": ((np.nan_to_num(table[:, 1]) > 0).astype(int), {"objective": "binary"}, 1, ("n", "y")),
        "three": (rng.integers(0, 3, 400), {"objective": "multiclass", "num_class": 3}, 3, ("p", "q", "r")),
    }
    made = {}
    for name, (target, params, outputs, classes) in targets.items():
        data = lightgbm.Dataset(table, target)
        quiet = {"verbose": -1, "num_leaves": 7, "deterministic": True, "num_threads": 1}
        booster = lightgbm.train({**params, **quiet}, data, 15)
        trees = Trees(
            features=(
                Plain(column="age"),
                Plain(column="rooms", shift=2.0, scale=0.5, offset=-1.0, fill=1.0),
                Mapped(column="city", keys=("a", "b", "ü"), values=(0.0, 1.0, -1.0), unknown=None, missing=0.25),
                Mapped(column="late", keys=(False, True), values=(-0.5, 0.5), unknown=0.0, missing=None),
            ),
            outputs=outputs,
            classes=classes,
        )
        made[name] = LightGbm(trees, booster.model_to_string().encode())
    return made


@pytest.mark.parametrize("name", ["number", "two", "three"])
@settings(max_examples=60, deadline=None)
@given(rows=st.lists(VALUES, min_size=1, max_size=6))
def test_trees_answer_as_frames_do_to_the_bit(boosters, name, rows):
    found = by_rows(boosters[name], rows)
    assert repr(found) == repr(by_frame(boosters[name], rows))
    many = Framed(frame_of(rows * 20, schema_of(SIGNATURE)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "MANY", 1)
        assert repr(rows_of(boosters[name], SIGNATURE).answers(many)) == repr(found * 20)


def test_rows_of_whole_numbers_alone_are_read_as_numbers(boosters):
    whole = boosters["number"]
    form = LightGbm(Trees(features=(Plain(column="rooms"), Plain(column="stars")) * 2, outputs=1), whole._text)
    rows = [(None, number, None, None, number % 3) for number in range(-3, 4)]
    assert repr(by_rows(form, rows)) == repr(by_frame(form, rows))
    assert len({given[0] for given in by_rows(form, rows)}) > 1


def test_trees_whose_features_must_be_spelled_go_by_frame(boosters):
    whole = boosters["number"]
    features = (
        *whole.trees.features[:3],
        Mapped(column="late", keys=("true",), values=(1.0,), unknown=0.0, missing=0.0),
    )
    form = LightGbm(Trees(features=features, outputs=1), whole._text)
    rows = [(0.5, 1, "a", True, 2), (None, None, None, None, None)]
    assert repr(by_rows(form, rows)) == repr(by_frame(form, rows))


# ---- frames ------------------------------------------------------------------------------------------------------


def test_frames_of_rows_have_the_types_of_the_signature():
    frame = frame_of([(1.0, 2, "a", True, None), (None, None, None, None, 3)], schema_of(SIGNATURE))
    assert frame.schema == pl.Schema({column.name: DTYPES[column.type] for column in SIGNATURE.inputs})
    assert frame.rows() == [(1.0, 2, "a", True, None), (None, None, None, None, 3)]


def test_answers_with_further_columns_are_kept_by_name():
    frame = pl.DataFrame({"prediction": ["x"], "passage": ["p"], "score": [0.5]})
    assert answers_of(frame, 1) == [("x", {"passage": "p", "score": 0.5})]
    labels = pl.DataFrame({"prediction": pl.Series(["k"], dtype=pl.Enum(["k"])), "probability_0": [1.0]})
    assert answers_of(labels, 1) == [("k", (1.0,))]
    assert spelled(labels)["prediction"].dtype == pl.String


def test_another_number_of_answers_is_nonsense():
    with pytest.raises(UserCodeFailed, match="1 answers for 2 rows"):
        answers_of(pl.DataFrame({"prediction": [1.0]}), 2)


def test_rows_that_are_refused_together_are_asked_one_by_one():
    asked = []

    def answer(frame):
        asked.append(frame.height)
        if frame["age"].null_count():
            raise UserCodeFailed("no", cause="raised")
        return frame.select(prediction=pl.col("age") * 2)

    given = FrameRows(answer, SIGNATURE).answers([(1.0, *[None] * 4), (None,) * 5])
    assert given[0] == (2.0, None)
    assert isinstance(given[1], UserCodeFailed)
    assert asked == [2, 1, 1]
    assert math.isclose(given[0][0], 2.0)


def test_whole_numbers_reach_lightgbm_as_floats():
    import lightgbm

    rng = np.random.default_rng(4)
    rooms, stars = rng.integers(0, 9, 300), rng.integers(0, 5, 300)
    data = lightgbm.Dataset(np.stack([rooms, stars], axis=1), rooms * 2.0 - stars, params={"verbose": -1})
    booster = lightgbm.train({"verbose": -1, "num_threads": 1}, data, 5)
    spec = Trees(features=(Plain(column="rooms"), Plain(column="stars")), outputs=1)
    form = LightGbm(spec, booster.model_to_string().encode())
    rows = [(None, int(room), None, None, int(star)) for room, star in zip(rooms[:9], stars[:9], strict=True)]
    expected = booster.predict(np.stack([rooms, stars], axis=1)[:9])
    assert [given[0] for given in rows_of(form, SIGNATURE).answers(rows)] == expected.tolist()
    assert form.thresholds().keys() <= {0, 1}
    assert any(0.4 < value % 1 < 0.6 for value in form.thresholds()[0])
