"""How long does a model take to answer one row, and 100,000, by itself and by its compiled form? Prints a table.

One row: the median of many calls; natively a pandas frame of one row into ``predict`` and ``predict_proba``, as a
worker process asks them (the way to that process and back is not counted); by the form a tuple, as the server does.
Many rows: the best of three, from the same Polars frame. Times are those of the processor, to be taken with one thread.
A form is shown only where it agrees with the model on 4,000 rows and on the made ones.

``OMP_NUM_THREADS=1 python bench/forms.py [--rows 100000] [--only WORDS]``
"""

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import onnxruntime
import polars as pl
import sklearn
import xgboost
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from interlock.model.candidates import candidates
from interlock.model.edges import made_rows
from interlock.model.fold import Unfoldable
from interlock.model.native import as_trained, shape_answers
from interlock.model.parity import cases_of, check_parity
from interlock.model.rows import rows_of
from interlock.records import Column, Output, Signature

TRAINING = 4_000
TREES = 100


def data(rows: int) -> pl.DataFrame:
    """Eight numbers, two of them with gaps, one count and one text."""
    rng = np.random.default_rng(1)
    frame = pl.DataFrame({f"x{i}": rng.normal(size=rows) for i in range(8)})
    frame = frame.with_columns(n=rng.integers(0, 50, rows), c=rng.choice(["a", "b", "c", "d", "e"], rows))
    gap = pl.Series(rng.random(rows) < 0.05)
    return frame.with_columns(pl.when(~gap).then(pl.col("x6", "x7")))


def score(frame: pl.DataFrame) -> Any:
    x = [frame[f"x{i}"].to_numpy() for i in range(4)]
    noise = np.random.default_rng(2).normal(size=frame.height)
    return x[0] * x[1] + np.sin(2 * x[2]) + (frame["c"] == "a").to_numpy() + 0.3 * noise


def kinds() -> dict[str, Any]:
    return {
        "logistic regression": LogisticRegression(max_iter=500),
        "decision tree": DecisionTreeClassifier(max_depth=8, random_state=0),
        f"random forest, {TREES} trees, full depth": RandomForestClassifier(TREES, random_state=0),
        f"random forest, {TREES} trees, depth 8, numbers": RandomForestRegressor(TREES, max_depth=8, random_state=0),
        f"extra trees, {TREES}, full depth": ExtraTreesClassifier(TREES, random_state=0),
        f"gradient boosting, {TREES} trees, depth 3": GradientBoostingClassifier(n_estimators=TREES, random_state=0),
        f"histogram boosting, {TREES} trees, 31 leaves": HistGradientBoostingClassifier(
            max_iter=TREES, early_stopping=False
        ),
        f"XGBoost, {TREES} trees, depth 6": xgboost.XGBClassifier(n_estimators=TREES, n_jobs=1),
        f"AdaBoost, {TREES} trees, depth 1": AdaBoostClassifier(n_estimators=TREES, random_state=0),
        f"LightGBM, {TREES} trees, 31 leaves": lightgbm.LGBMClassifier(n_estimators=TREES, verbose=-1, n_jobs=1),
        "network, two layers of 64": MLPClassifier((64, 64), max_iter=30, random_state=0),
        "support vectors": SVC(),
        "naive Bayes": GaussianNB(),
        "nearest neighbours": KNeighborsClassifier(),
    }


def microseconds(ask: Callable[[], Any]) -> float:
    """Processor time of a call: the median of many groups of calls."""
    started = time.process_time()
    ask()
    calls = max(int(0.002 / max(time.process_time() - started, 1e-7)), 1)
    took: list[float] = []
    while len(took) < 200 and sum(took) < 0.5:
        started = time.process_time()
        for _ in range(calls):
            ask()
        took.append(time.process_time() - started)
    return statistics.median(took) / calls * 1e6


def seconds(ask: Callable[[], Any]) -> float:
    """Processor time of a call: the least of a few."""
    took: list[float] = []
    while len(took) < 3 and sum(took) < 5:
        started = time.process_time()
        ask()
        took.append(time.process_time() - started)
    return min(took)


def measured(name: str, final: Any, rows: pl.DataFrame) -> str:
    train = rows[:TRAINING]
    target = score(train)
    numbers = type(final).__name__.endswith("Regressor")
    labels = target if numbers else (target > 0.5).astype(int)
    output = Output(kind="number", type="float") if numbers else Output(kind="label", type="int", classes=(0, 1))
    types = {pl.Float64: "float", pl.Int64: "int", pl.String: "str"}
    what = Signature(
        inputs=tuple(
            Column(name=column.name, type=types[type(column.dtype)], nullable=column.null_count() > 0)  # type: ignore[arg-type]
            for column in rows.get_columns()
        ),
        output=output,
    )
    prepare = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), [name for name in rows.columns if name != "c"]),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["c"]),
    )
    model = make_pipeline(prepare, final).fit(as_trained(train, what.inputs, "pandas"), labels)

    def natively(frame: pl.DataFrame) -> pl.DataFrame:
        given = as_trained(frame, what.inputs, "pandas")
        answer = shape_answers(model.predict(given), frame.height, output)
        if not hasattr(model, "predict_proba"):
            return answer
        shares = model.predict_proba(given)
        return answer.with_columns(
            pl.Series(f"probability_{place}", shares[:, place]).cast(pl.Float64) for place in range(shares.shape[1])
        )

    made = {"the holdout": rows[TRAINING : 2 * TRAINING], **made_rows(train, what)._asdict()}
    cases = cases_of(natively, made)
    form = None
    for candidate in candidates(model, what):
        try:
            offered = candidate.make()
        except Unfoldable:
            continue
        form = next((one for one in offered if check_parity(one, cases).agrees), None)
        if form is not None:
            break
    one, tuples = rows[:1], rows.rows()[:1]
    alone, many = microseconds(lambda: natively(one)), seconds(lambda: natively(rows))
    if form is None:
        return f"| {name} | none agrees | {alone:,.0f} | | | {many:.2f} | | |"
    single = rows_of(form, what)
    short, block = microseconds(lambda: single.answers(tuples)), seconds(lambda: form.answer(rows))
    return (
        f"| {name} | {candidate.name} | {alone:,.0f} | {short:,.1f} | {alone / short:,.0f} x "
        f"| {many:.2f} | {block:.2f} | {many / block:.1f} x |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--only", default="", help="kinds with one of these words, separated by commas")
    asked = parser.parse_args()
    rows = data(asked.rows)
    warnings.simplefilter("ignore")
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, scikit-learn {sklearn.__version__}, xgboost "
        f"{xgboost.__version__}, lightgbm {lightgbm.__version__}, onnxruntime {onnxruntime.__version__}\n"
    )
    print(f"| model | form | one row, us | by form | | {rows.height:,} rows, s | by form | |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, final in kinds().items():
        if not any(word in name for word in asked.only.split(",")):
            continue
        print(measured(name, final, rows), flush=True)


if __name__ == "__main__":
    main()
