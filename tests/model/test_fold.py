"""Every rule of folding, held against the model that it folds: same labels, same numbers."""

import warnings

import lightgbm
import numpy as np
import polars as pl
import pytest
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import AdaBoostClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import LinearSVC

from interlock.model.columns import spelled
from interlock.model.fold import Unfoldable, fold
from interlock.model.native import as_trained, shape_answers
from interlock.model.parity import difference
from interlock.records import Column, Output, Signature

ROWS = 600
TYPES = {"age": "float", "rooms": "int", "vip": "bool", "city": "str", "income": "float", "branch": "str"}
NUMBERS = ("age", "rooms", "vip")


def frame():
    rng = np.random.default_rng(11)
    gaps = pl.Series(rng.random(ROWS) < 0.1)
    made = pl.DataFrame(
        {
            "age": rng.normal(40, 10, ROWS),
            "rooms": rng.integers(0, 9, ROWS),
            "vip": rng.random(ROWS) < 0.3,
            "city": rng.choice(["Ávila", "Bern", "Cork", "Delft"], ROWS, p=[0.5, 0.3, 0.15, 0.05]),
            "income": rng.lognormal(3, 1, ROWS),
            "branch": rng.choice(["x", "y", "z"], ROWS),
        }
    )
    return made.with_columns(pl.when(~gaps).then(pl.col("income", "branch")))


FRAME = frame()
SCORE = (FRAME["age"].to_numpy() - 40) / 10 + (FRAME["city"] == "Bern").to_numpy() + 0.3 * FRAME["vip"].to_numpy()
TWO = np.where(SCORE > 0, "yes", "no")
THREE = np.where(SCORE > 1, "high", np.where(SCORE > -0.5, "mid", "low"))
UNSEEN = {"age": 1e3, "rooms": -4, "vip": True, "city": "Elsewhere", "income": None, "branch": None}


def signature(names, target):
    columns = tuple(Column(name=n, type=TYPES[n], nullable=FRAME[n].null_count() > 0) for n in names)
    if target.dtype.kind == "f":
        return Signature(inputs=columns, output=Output(kind="number", type="float"))
    return Signature(
        inputs=columns, output=Output(kind="label", type="str", classes=tuple(sorted(set(target.tolist()))))
    )


def agree(model, names, target, rows=FRAME):
    """Train on the first half; the likeliest form must agree with the model on ``rows``."""
    what = signature(names, target)
    half = ROWS // 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(as_trained(FRAME[:half], what.inputs, "pandas"), target[:half])
        seen = as_trained(rows, what.inputs, "pandas")
        expected = shape_answers(model.predict(seen), rows.height, what.output)
        if hasattr(model, "predict_proba"):
            values = model.predict_proba(seen)
            expected = expected.with_columns(
                pl.Series(f"probability_{index}", values[:, index]) for index in range(values.shape[1])
            )
    [form, *_] = fold(model, what)
    gap, reason = difference(expected, spelled(form.answer(rows)))
    assert not reason
    assert gap <= 1.0
    return form


def with_unseen():
    return FRAME.vstack(pl.DataFrame([UNSEEN], schema=FRAME.schema))


def columns(**options):
    return make_column_transformer(
        (StandardScaler(), ["age", "rooms"]), (OneHotEncoder(**options), ["city"]), remainder="passthrough"
    )


class TestLinear:
    @pytest.mark.parametrize("target", [TWO, THREE], ids=["two", "three"])
    @pytest.mark.parametrize(
        "options",
        [
            {"handle_unknown": "ignore"},
            {"handle_unknown": "ignore", "drop": "first"},
            {"handle_unknown": "ignore", "drop": ["Bern"]},
            {"handle_unknown": "infrequent_if_exist", "min_frequency": 60},
            {"handle_unknown": "infrequent_if_exist", "max_categories": 2, "drop": "first"},
            {"handle_unknown": "infrequent_if_exist"},
        ],
        ids=str,
    )
    def test_one_hot(self, options, target):
        model = make_pipeline(columns(**options), LogisticRegression())
        form = agree(model, (*NUMBERS, "city"), target, with_unseen())
        assert form.name == "linear"

    def test_missing_category_of_its_own(self):
        transformer = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["branch", "city"]))
        agree(make_pipeline(transformer, LogisticRegression()), ("city", "branch"), THREE, with_unseen())

    @pytest.mark.parametrize(
        "scaler",
        [
            StandardScaler(),
            StandardScaler(with_mean=False),
            StandardScaler(with_std=False),
            MinMaxScaler((-1, 3)),
            MaxAbsScaler(),
            RobustScaler(),
            RobustScaler(with_centering=False),
            FunctionTransformer(),
            make_pipeline(StandardScaler(), MinMaxScaler(), "passthrough"),
        ],
        ids=str,
    )
    def test_scalers(self, scaler):
        agree(Pipeline([("s", scaler), ("m", LinearRegression())]), NUMBERS, SCORE)

    def test_scaled_indicators(self):
        model = make_pipeline(columns(handle_unknown="ignore"), StandardScaler(with_mean=False), Ridge())
        agree(model, (*NUMBERS, "city"), SCORE, with_unseen())

    def test_imputers(self):
        transformer = ColumnTransformer(
            [
                ("before", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), ["income", "age"]),
                ("after", make_pipeline(StandardScaler(), SimpleImputer()), ["income"]),
                (
                    "text",
                    make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")),
                    ["branch"],
                ),
            ]
        )
        agree(make_pipeline(transformer, LogisticRegression()), ("age", "income", "branch"), TWO, with_unseen())

    def test_ordinal_codes(self):
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
        transformer = make_column_transformer((encoder, ["branch", "vip"]), remainder="passthrough")
        agree(make_pipeline(transformer, Ridge()), ("age", "branch", "vip"), SCORE, FRAME)

    @pytest.mark.parametrize(
        "estimator", [LinearRegression(), Ridge(), Lasso(0.01), ElasticNet(0.01), SGDRegressor(random_state=0)], ids=str
    )
    def test_regressors(self, estimator):
        agree(make_pipeline(StandardScaler(), estimator), NUMBERS, SCORE)
        if not isinstance(estimator, SGDRegressor):
            agree(estimator, NUMBERS, SCORE)

    @pytest.mark.parametrize("target", [TWO, THREE], ids=["two", "three"])
    @pytest.mark.parametrize(
        "estimator",
        [
            LogisticRegression(),
            LogisticRegression(fit_intercept=False),
            RidgeClassifier(),
            LinearSVC(),
            SGDClassifier(random_state=0),
            SGDClassifier(loss="log_loss", random_state=0),
        ],
        ids=str,
    )
    def test_classifiers(self, estimator, target):
        agree(make_pipeline(StandardScaler(), estimator), NUMBERS, target)

    def test_columns_by_position_mask_slice_and_remainder(self):
        transformer = ColumnTransformer(
            [
                ("position", StandardScaler(), [0]),
                ("mask", MinMaxScaler(), [False, True, False, False]),
                ("slice", "passthrough", slice(2, 3)),
                ("gone", "drop", ["income"]),
            ]
        )
        agree(make_pipeline(transformer, LinearRegression()), (*NUMBERS, "income"), SCORE)

    def test_selected_columns(self):
        agree(make_pipeline(StandardScaler(), SelectKBest(k=2), LogisticRegression()), NUMBERS, TWO)


class TestTrees:
    @pytest.mark.parametrize("target", [TWO, THREE, SCORE], ids=["two", "three", "number"])
    def test_bare(self, target):
        kind = lightgbm.LGBMRegressor if target is SCORE else lightgbm.LGBMClassifier
        model = kind(n_estimators=5, verbosity=-1, n_jobs=1)
        assert agree(model, (*NUMBERS, "income"), target).name == "lightgbm"

    @pytest.mark.parametrize(
        "encoder",
        [
            OneHotEncoder(handle_unknown="ignore", sparse_output=False),
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan),
        ],
        ids=str,
    )
    def test_behind_encoders(self, encoder):
        transformer = make_column_transformer((encoder, ["city"]), remainder=SimpleImputer())
        model = make_pipeline(transformer, lightgbm.LGBMClassifier(n_estimators=5, verbosity=-1, n_jobs=1))
        agree(model, ("age", "income", "city"), THREE, with_unseen())


class TestUnfoldable:
    @pytest.mark.parametrize(
        ("model", "names", "target", "words"),
        [
            (make_pipeline(StandardScaler(), AdaBoostClassifier(n_estimators=2)), NUMBERS, TWO, "AdaBoostClassifier"),
            (make_pipeline(PCA(2), LinearRegression()), NUMBERS, SCORE, "the step PCA"),
            (make_pipeline(MinMaxScaler(clip=True), LinearRegression()), NUMBERS, SCORE, "clips"),
            (make_pipeline(FunctionTransformer(np.abs), LinearRegression()), NUMBERS, SCORE, "function"),
            (SGDClassifier(loss="modified_huber"), NUMBERS, TWO, "SGDClassifier"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_says_what_is_in_the_way(self, model, names, target, words):
        what = signature(names, target)
        model.fit(as_trained(FRAME, what.inputs, "pandas"), target)
        with pytest.raises(Unfoldable, match=words):
            fold(model, what)

    def test_classes_of_its_own(self):
        what = signature(NUMBERS, TWO)
        model = LogisticRegression().fit(as_trained(FRAME, what.inputs, "pandas"), (TWO == "yes").astype(int))
        with pytest.raises(Unfoldable, match="classes"):
            fold(model, what)

    def test_a_stranger(self):
        with pytest.raises(Unfoldable, match="no rule for object"):
            fold(object(), signature(NUMBERS, TWO))
