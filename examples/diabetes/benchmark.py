"""Time and quality of SimpleLinearRegression beside scikit-learn's closed form and its SGDRegressor.

    python benchmark.py                # 442 real rows, then 10 thousand to 1 million synthetic ones; about a minute
    python benchmark.py --rows 10000   # only this synthetic size
    python benchmark.py --repeats 9

Each model is fitted and asked ``--repeats`` times with other seeds; times, R² and slopes are medians. A ratio is the
time over that of the closed form on the same rows. R² is on rows that were not trained on.
"""

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from prepare import HOLDOUT_ROWS, table
from sklearn.linear_model import LinearRegression, SGDRegressor
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from train import SimpleLinearRegression

Floats = NDArray[np.float64]
SYNTHETIC_ROWS = (10_000, 100_000, 1_000_000)


@dataclass(frozen=True)
class Rows:
    """Rows to fit on and rows to judge on: X of shape (n, 1) in kg/m², y of shape (n,)."""

    name: str
    X: Floats
    y: Floats
    X_test: Floats
    y_test: Floats


@dataclass(frozen=True)
class Measured:
    """Medians over the repeats: seconds, R² on the held-out rows, and the line in the units of the data."""

    model: str
    fit_s: float
    predict_s: float
    r2: float
    slope: float
    intercept: float


def real() -> Rows:
    """Give the 422 + 20 patients of the example."""
    rows = table()
    X, y = rows[["bmi"]].to_numpy(), rows["progression"].to_numpy()
    return Rows("442 (diabetes)", X[:-HOLDOUT_ROWS], y[:-HOLDOUT_ROWS], X[-HOLDOUT_ROWS:], y[-HOLDOUT_ROWS:])


def synthetic(count: int, seed: int = 0) -> Rows:
    """Make ``count`` rows of the same shape: body-mass index 26.4 +- 4.4, the real line, noise of 62."""
    rng = np.random.default_rng(seed)
    X = rng.normal(26.4, 4.4, (count + 10_000, 1))
    y = 10.2 * X[:, 0] - 117.8 + rng.normal(0.0, 62.0, len(X))
    return Rows(f"{count:,}", X[:count], y[:count], X[count:], y[count:])


def closed_form(model: LinearRegression) -> tuple[float, float]:
    """Read slope and intercept of the closed form."""
    return float(model.coef_[0]), float(model.intercept_)


def scaled_sgd(model: Any) -> tuple[float, float]:
    """Read slope and intercept of a StandardScaler + SGDRegressor pipeline, back in the units of the data."""
    scaler, sgd = model[0], model[1]
    slope = float(sgd.coef_[0] / scaler.scale_[0])
    return slope, float(sgd.intercept_[0]) - slope * float(scaler.mean_[0])


def ours(model: SimpleLinearRegression) -> tuple[float, float]:
    """Read slope and intercept of the class of this example."""
    return model.slope_, model.intercept_


CONTENDERS: tuple[tuple[str, Callable[[int], Any], Callable[[Any], tuple[float, float]]], ...] = (
    ("LinearRegression", lambda _: LinearRegression(), closed_form),
    ("SGDRegressor", lambda seed: make_pipeline(StandardScaler(), SGDRegressor(random_state=seed)), scaled_sgd),
    ("SimpleLinearRegression", lambda seed: SimpleLinearRegression(seed=seed), ours),
)


def measure(rows: Rows, repeats: int) -> list[Measured]:
    """Fit and ask every contender ``repeats`` times, taking turns so that a busy machine troubles all of them alike."""
    seen: dict[str, list[tuple[float, ...]]] = {name: [] for name, _, _ in CONTENDERS}
    for seed in range(repeats):
        for name, make, line in CONTENDERS:
            model = make(seed)
            started = time.perf_counter()
            model.fit(rows.X, rows.y)
            fitted = time.perf_counter()
            model.predict(rows.X)
            ended = time.perf_counter()
            score = r2_score(rows.y_test, model.predict(rows.X_test))
            seen[name].append((fitted - started, ended - fitted, float(score), *line(model)))
    return [Measured(name, *(median(column) for column in zip(*runs, strict=True))) for name, runs in seen.items()]


def show(rows: Rows, results: list[Measured]) -> None:
    """Print one block of the table; the first result is what the ratios are taken against."""
    base = results[0]
    for result in results:
        print(
            f"{rows.name:<15} {result.model:<23} {result.fit_s * 1e3:>10.2f} {result.fit_s / base.fit_s:>8.1f}"
            f" {result.predict_s * 1e3:>11.3f} {result.predict_s / base.predict_s:>8.2f}"
            f" {result.r2:>8.4f} {result.slope:>8.3f} {result.intercept:>10.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, action="append", help="synthetic rows; may be given more than once")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, scikit-learn {sklearn.__version__},"
        f" {platform.machine()}; medians of {options.repeats}"
    )
    print(
        f"{'rows':<15} {'model':<23} {'fit ms':>10} {'ratio':>8} {'predict ms':>11} {'ratio':>8}"
        f" {'R2':>8} {'slope':>8} {'intercept':>10}"
    )
    for rows in [real()] if options.rows is None else []:
        show(rows, measure(rows, options.repeats))
    for count in options.rows or SYNTHETIC_ROWS:
        rows = synthetic(count)
        show(rows, measure(rows, options.repeats))


if __name__ == "__main__":
    main()
