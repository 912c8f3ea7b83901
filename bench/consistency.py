"""How much does an answer move when the row is asked in other company? Prints a table, writes nothing.

Each model answers 4,096 rows, then the same rows shuffled, alone, and in pieces of 7, 64 and 1,000. Shown: the largest
difference, relative to the root mean square of the answers, of which the gate lets pass
``interlock.release.consistency.TOLERANCE``.
"""

import platform
import warnings
from collections.abc import Callable
from itertools import pairwise

import lightgbm
import numpy as np
import sklearn
import xgboost
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.svm import SVR

from interlock.release.consistency import TOLERANCE

ROWS, COLUMNS = 4096, 30
Predict = Callable[[np.ndarray], np.ndarray]


def network(width: int) -> Predict:
    """Two hidden layers and one output in 32 bits, as torch would compute them on a processor."""
    rng = np.random.default_rng(width)
    sizes = [COLUMNS, width, width, 1]
    weights = [(rng.normal(size=(i, o)) / float(i) ** 0.5).astype(np.float32) for i, o in pairwise(sizes)]

    def predict(rows: np.ndarray) -> np.ndarray:
        hidden = rows.astype(np.float32)
        for weight in weights[:-1]:
            hidden = np.maximum(hidden @ weight, 0)
        return (hidden @ weights[-1])[:, 0]

    return predict


def models(X: np.ndarray, y: np.ndarray) -> dict[str, Predict]:
    few = slice(0, 800)
    return {
        "linear regression": LinearRegression().fit(X, y).predict,
        "logistic regression, probabilities": LogisticRegression().fit(X, np.digitize(y, [-0.5, 0.5])).predict_proba,
        "MLP, 64 bits": MLPRegressor(hidden_layer_sizes=(100, 100), max_iter=20).fit(X, y).predict,
        "random forest": RandomForestRegressor(50).fit(X, y).predict,
        "histogram boosting": HistGradientBoostingRegressor(max_iter=50).fit(X, y).predict,
        "support vectors": SVR().fit(X[few], y[few]).predict,
        "nearest neighbours": KNeighborsRegressor(10).fit(X, y).predict,
        "Gaussian process": GaussianProcessRegressor(alpha=0.5).fit(X[few], y[few]).predict,
        "LightGBM": lightgbm.LGBMRegressor(n_estimators=50, verbose=-1).fit(X, y).predict,
        "XGBoost": xgboost.XGBRegressor(n_estimators=50).fit(X, y).predict,
        **{f"network in 32 bits, {width} wide": network(width) for width in (64, 512, 2048)},
    }


def largest(predict: Predict, X: np.ndarray) -> list[float]:
    """Largest relative difference: shuffled, then in pieces of 1, 7, 64 and 1,000 rows."""
    whole = np.asarray(predict(X), dtype=np.float64)
    scale = float(np.sqrt(np.mean(whole**2)))
    order = np.random.default_rng(1).permutation(len(X))
    found = [float(np.abs(np.asarray(predict(X[order]), dtype=np.float64) - whole[order]).max()) / scale]
    for size in (1, 7, 64, 1000):
        starts = range(0, 256 if size == 1 else len(X) - size, size)
        gaps = [np.abs(np.asarray(predict(X[s : s + size]), dtype=np.float64) - whole[s : s + size]) for s in starts]
        found.append(max(float(gap.max()) for gap in gaps) / scale)
    return found


def main() -> None:
    warnings.filterwarnings("ignore")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, COLUMNS))
    y = X[:, 0] + 0.5 * X[:, 1] * X[:, 2] + rng.normal(size=ROWS)
    print(f"Python {platform.python_version()}, numpy {np.__version__}, scikit-learn {sklearn.__version__},")
    print(f"LightGBM {lightgbm.__version__}, XGBoost {xgboost.__version__}; let pass: {TOLERANCE:.0e}\n")
    print(f"{'model':<36} {'shuffled':>9} {'alone':>9} {'7 rows':>9} {'64':>9} {'1,000':>9}")
    for name, predict in models(X, y).items():
        print(f"{name:<36} " + " ".join(f"{one:9.1e}" for one in largest(predict, X)), flush=True)


if __name__ == "__main__":
    main()
