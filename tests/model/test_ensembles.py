"""Every kind of tree model that is read, held against the library: labels equal, numbers equal or one rounding away."""

import warnings

import numpy as np
import polars as pl
import pytest
import sklearn.ensemble as ens
import sklearn.tree as trees
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, OneHotEncoder, OrdinalEncoder, StandardScaler

from interlock.errors import InterlockError
from interlock.model.candidates import candidates
from interlock.model.columns import spelled
from interlock.model.edges import made_rows, split_rows
from interlock.model.fold import Unfoldable
from interlock.model.native import as_trained, shape_answers
from interlock.model.parity import cases_of, check_parity, difference
from interlock.model.rows import answers_of, rows_of
from interlock.records import Column, Output, Signature

ROWS, SEEN = 500, 300


def frame():
    rng = np.random.default_rng(5)
    made = pl.DataFrame(
        {
            "a": rng.normal(size=ROWS),
            "n": rng.integers(0, 40, ROWS),
            "c": rng.choice(["x", "y", "z"], ROWS, p=[0.6, 0.3, 0.1]),
            "g": rng.lognormal(size=ROWS),
        }
    )
    return made.with_columns(pl.when(pl.Series(rng.random(ROWS) > 0.1)).then("g"))


FRAME = frame()
SCORE = FRAME["a"].to_numpy() + (FRAME["c"] == "x").to_numpy() + FRAME["n"].to_numpy() / 20
NUMBER = SCORE * 3.3 + 1.234
TWO = np.where(SCORE > 1.5, "yes", "no")
THREE = np.where(SCORE > 2.5, "high", np.where(SCORE > 1, "mid", "low"))
CODES = (SCORE > 1).astype(int) + (SCORE > 2.5)


def signature(target):
    inputs = (
        Column(name="a", type="float", nullable=False, low=-3.0, high=3.0),
        Column(name="n", type="int", nullable=False, low=0, high=39),
        Column(name="c", type="str", nullable=False, categories=("x", "y", "z")),
        Column(name="g", type="float", nullable=True, low=0.0, high=20.0),
    )
    if target.dtype.kind == "f":
        return Signature(inputs=inputs, output=Output(kind="number", type="float"))
    kind = "int" if target.dtype.kind == "i" else "str"
    return Signature(inputs=inputs, output=Output(kind="label", type=kind, classes=tuple(sorted(set(target.tolist())))))


def columns(scaler=None):
    return make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["c"]),
        (scaler or StandardScaler(), ["a"]),
        remainder="passthrough",
    )


def coded():
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return make_column_transformer((codes, ["c"]), remainder="passthrough")


def natively(model, what):
    def own(rows):
        given = as_trained(rows, what.inputs, "pandas")
        answer = shape_answers(model.predict(given), rows.height, what.output)
        if hasattr(model, "predict_proba"):
            shares = model.predict_proba(given)
            answer = answer.with_columns(
                pl.Series(f"probability_{place}", shares[:, place]).cast(pl.Float64) for place in range(shares.shape[1])
            )
        return answer

    return own


def agree(model, target):
    """Train, read; the first form that agrees on every case, with the largest gap."""
    what = signature(target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(as_trained(FRAME[:SEEN], what.inputs, "pandas"), target[:SEEN])
        own = natively(model, what)
        [first, *_] = candidates(model, what)
        assert first.name == "forest"
        reasons = []
        for form in first.make():
            splits = split_rows(FRAME[:SEEN], what, form.features, form.thresholds())
            assert splits.height > 10
            made = {"the holdout": FRAME[SEEN:], **made_rows(FRAME[:SEEN], what)._asdict(), "splits": splits}
            found = check_parity(form, cases_of(own, made))
            if found.agrees:
                rows = FRAME[SEEN : SEEN + 40]
                expected = answers_of(form.answer(rows), 40)
                assert repr(rows_of(form, what).answers(rows.rows())) == repr(expected)
                return form, found, own
            reasons.append(found.reason)
        raise AssertionError(reasons)


SMALL = {"n_estimators": 12, "random_state": 0}
CLASSIFIERS = [
    trees.DecisionTreeClassifier(random_state=0),
    trees.ExtraTreeClassifier(random_state=0),
    ens.RandomForestClassifier(**SMALL),
    ens.ExtraTreesClassifier(**SMALL, bootstrap=True),
    ens.GradientBoostingClassifier(**SMALL),
    ens.HistGradientBoostingClassifier(max_iter=12),
    ens.AdaBoostClassifier(**SMALL),
    ens.AdaBoostClassifier(trees.DecisionTreeClassifier(max_depth=3), **SMALL, learning_rate=0.3),
]
REGRESSORS = [
    trees.DecisionTreeRegressor(random_state=0, max_leaf_nodes=40),
    ens.RandomForestRegressor(**SMALL),
    ens.ExtraTreesRegressor(**SMALL),
    ens.GradientBoostingRegressor(**SMALL, loss="huber"),
    ens.GradientBoostingRegressor(**SMALL, init="zero"),
    ens.HistGradientBoostingRegressor(max_iter=12),
]


def needing_no_gaps(model):
    return (
        SimpleImputer() if type(model).__name__.startswith(("GradientBoosting", "AdaBoost")) else FunctionTransformer()
    )


@pytest.mark.parametrize("target", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("model", CLASSIFIERS, ids=lambda model: type(model).__name__)
def test_classifiers(model, target):
    _, found, _ = agree(make_pipeline(columns(), needing_no_gaps(model), model), target)
    assert found.largest_gap < 1e-3
    assert found.rows > 250


@pytest.mark.parametrize("model", REGRESSORS, ids=str)
def test_regressors_to_the_bit(model):
    form, _, own = agree(make_pipeline(columns(MinMaxScaler()), needing_no_gaps(model), model), NUMBER)
    rows = FRAME[SEEN:]
    assert form.answer(rows)["prediction"].to_list() == own(rows)["prediction"].to_list()


def test_votes_are_shared_to_the_bit():
    form, _, own = agree(make_pipeline(columns(), ens.RandomForestClassifier(**SMALL, n_jobs=1)), THREE)
    assert spelled(form.answer(FRAME[SEEN:])).equals(own(FRAME[SEEN:]))


def test_weighted_votes_to_the_bit():
    for target in (TWO, THREE):
        boosted = ens.AdaBoostClassifier(trees.DecisionTreeClassifier(max_depth=2), **SMALL)
        form, _, own = agree(make_pipeline(columns(), SimpleImputer(), boosted), target)
        assert form.forest.shape == "votes"
        assert spelled(form.answer(FRAME[SEEN:])).equals(own(FRAME[SEEN:]))


def test_losses_with_links_of_their_own():
    positive = np.exp(NUMBER / 5)
    for loss in ("poisson", "gamma"):
        form, *_ = agree(make_pipeline(columns(), ens.HistGradientBoostingRegressor(max_iter=12, loss=loss)), positive)
        assert form.forest.shape == "exponential"
    boosted = ens.GradientBoostingClassifier(**SMALL, loss="exponential")
    form, *_ = agree(make_pipeline(columns(), SimpleImputer(), boosted), TWO)
    assert form.forest.shape == "double-sigmoid-from"


@pytest.mark.parametrize("target", [TWO, THREE], ids=["two", "three"])
def test_categories_of_histogram_boosting(target):
    cased = ens.HistGradientBoostingClassifier(max_iter=12, categorical_features=[0], min_samples_leaf=5)
    form, *_ = agree(make_pipeline(coded(), cased), target)
    assert (form.nodes.bits >= 0).any()


@pytest.mark.parametrize("target", [CODES, (CODES > 0).astype(int), NUMBER], ids=["three", "two", "number"])
def test_xgboost(target):
    import xgboost

    kind = xgboost.XGBRegressor if target.dtype.kind == "f" else xgboost.XGBClassifier
    form, *_ = agree(make_pipeline(columns(), kind(n_estimators=12, n_jobs=1)), target)
    assert form.forest.single


def test_xgboost_numbers_to_the_bit():
    import xgboost

    form, _, own = agree(make_pipeline(columns(), xgboost.XGBRegressor(n_estimators=40, n_jobs=1)), NUMBER)
    assert form.answer(FRAME[SEEN:])["prediction"].to_list() == own(FRAME[SEEN:])["prediction"].to_list()


def test_a_threshold_moved_by_one_bit_is_noticed():
    """The made rows are what notices: the holdout has no value so near."""
    what = signature(NUMBER)
    model = make_pipeline(coded(), ens.HistGradientBoostingRegressor(max_iter=12))
    form, _, own = agree(model, NUMBER)
    moved = np.nextafter(form.nodes.threshold, np.inf)
    wrong = type(form)(form.forest, type(form.nodes)(**{**_arrays(form.nodes), "threshold": moved}))
    assert not difference(own(FRAME[SEEN:]), wrong.answer(FRAME[SEEN:]))[1]
    splits = split_rows(FRAME[:SEEN], what, form.features, form.thresholds())
    assert not check_parity(wrong, cases_of(own, {"splits": splits})).agrees
    assert check_parity(form, cases_of(own, {"splits": splits})).agrees


def _arrays(nodes):
    return {name: getattr(nodes, name) for name in nodes.__struct_fields__}


@pytest.mark.parametrize(
    ("model", "target", "words"),
    [
        (
            make_pipeline(coded(), ens.GradientBoostingRegressor(**SMALL, init=LinearRegression())),
            NUMBER,
            "first guess",
        ),
        (make_pipeline(coded(), trees.DecisionTreeRegressor()), np.stack([NUMBER, NUMBER], axis=1), "several targets"),
        (make_pipeline(coded(), ens.AdaBoostClassifier(GaussianNB(), **SMALL)), TWO, "no trees of all classes"),
    ],
)
def test_what_is_not_read_says_why(model, target, words):
    rows = FRAME.with_columns(pl.col("g").fill_null(0.0))
    what = signature(target if target.ndim == 1 else NUMBER)
    model.fit(as_trained(rows, what.inputs, "pandas"), target)
    with pytest.raises(Unfoldable, match=words):
        candidates(model, what)[0].make()


def test_xgboost_of_other_kinds_says_why():
    import xgboost

    what = signature(NUMBER)
    for options, words in (
        ({"booster": "dart"}, "booster is dart"),
        ({"objective": "count:poisson"}, "objective count:poisson"),
    ):
        model = make_pipeline(columns(), xgboost.XGBRegressor(n_estimators=3, n_jobs=1, **options))
        model.fit(as_trained(FRAME, what.inputs, "pandas"), np.abs(NUMBER))
        with pytest.raises(Unfoldable, match=words):
            candidates(model, what)[0].make()


def test_a_row_that_the_model_refuses_is_refused():
    model = make_pipeline(coded(), SimpleImputer(), ens.GradientBoostingRegressor(**SMALL))
    form, *_ = agree(model, NUMBER)
    [given] = rows_of(form, signature(NUMBER)).answers([(1e39, 3, "x", 1.0)])
    assert isinstance(given, InterlockError)
