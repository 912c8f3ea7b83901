"""A straight line through one feature, found by stochastic gradient descent in plain numpy."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_DECAY_STEPS = 100.0
_FORGETTING = 3.0


class SimpleLinearRegression:
    """Least-squares line ``y = intercept + slope * x`` by mini-batch stochastic gradient descent.

    x and y are standardised first, which makes the loss a round bowl: one learning rate suits every data set.
    Step t uses the rate ``learning_rate / (1 + t / 100) ** 0.75``. The answer is a mean of the iterates (Polyak and
    Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992), whose noise falls like 1 / t where the last
    iterate alone would keep trembling about the optimum. Later iterates weigh more, iterate t about as ``t ** 3``, so
    that the way to the optimum is soon forgotten (polynomial-decay averaging, Shamir and Zhang, 2013, section 4).

    Cost, with n rows, E epochs actually run and batches of b rows:

    ========  ===================================  =========================================
    method    time                                 memory beyond the input
    ========  ===================================  =========================================
    fit       O(E n), in E * ceil(n / b) steps     O(n): standardised and shuffled copies
    predict   O(n)                                 O(n): the answer
    ========  ===================================  =========================================

    The closed form needs O(n) time once and no epochs: benchmark.py shows the difference.

    Parameters
    ----------
    learning_rate : rate of the first steps, on standardised data; above 0, at most 1.
    epochs : most passes over the rows, at least 1.
    batch_size : rows per step, at least 1; more than there are rows means all of them.
    tolerance : stop once the loss of the averaged line, in units of the variance of y, moved less than this in
        each of ``patience`` epochs on end.
    patience : see tolerance, at least 1.
    seed : seed of the shuffles; the same seed gives the same line.

    Raises
    ------
    ValueError : from the constructor and ``fit``, when a parameter or the data cannot be used; the message says which.
    """

    def __init__(
        self,
        *,
        learning_rate: float = 0.1,
        epochs: int = 200,
        batch_size: int = 32,
        tolerance: float = 1e-5,
        patience: int = 5,
        seed: int = 0,
    ) -> None:
        if not 0.0 < learning_rate <= 1.0:
            raise ValueError(f"learning_rate must be above 0 and at most 1, not {learning_rate}.")
        if min(epochs, batch_size, patience) < 1:
            raise ValueError("epochs, batch_size and patience must be at least 1.")
        if not tolerance >= 0.0:
            raise ValueError(f"tolerance must be 0 or more, not {tolerance}.")
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.tolerance = tolerance
        self.patience = patience
        self.seed = seed

    def fit(self, X: ArrayLike, y: ArrayLike) -> "SimpleLinearRegression":
        """Find the line.

        X: one feature, shape (n,) or (n, 1). y: shape (n,). Both finite, n >= 2. Sets ``slope_`` (units of y per
        unit of x), ``intercept_`` (units of y), ``losses_`` (mean squared error after each epoch, in units of the
        variance of y) and ``epochs_run_``. O(E n) time, O(n) memory. Raises ValueError.
        """
        x, target = _feature(X), _vector(y, "y")
        if x.shape != target.shape:
            raise ValueError(f"X has {x.size} rows and y has {target.size}.")
        if x.size < 2:
            raise ValueError(f"A line needs at least 2 rows, not {x.size}.")
        x_mean, x_scale = float(x.mean()), _scale(x)
        y_mean, y_scale = float(target.mean()), _scale(target)
        weights = self.__sgd((x - x_mean) / x_scale, (target - y_mean) / y_scale)
        self.slope_ = float(weights[1]) * y_scale / x_scale
        self.intercept_ = y_mean + y_scale * float(weights[0]) - self.slope_ * x_mean
        return self

    def predict(self, X: ArrayLike) -> Floats:
        """Give the heights of the line at X, shape (n,) or (n, 1); returns shape (n,), float64, in units of y.

        O(n) time and memory. Raises ValueError before ``fit`` and for values that are not finite.
        """
        if not hasattr(self, "slope_"):
            raise ValueError("Call fit first.")
        return self.intercept_ + self.slope_ * _feature(X)

    @staticmethod
    def __loss(weights: Floats, x: Floats, y: Floats) -> float:
        """Give the mean squared error of the line ``weights = (intercept, slope)``. O(n) time and memory."""
        residual = weights[0] + weights[1] * x - y
        return float(residual @ residual) / x.size

    def __sgd(self, x: Floats, y: Floats) -> Floats:
        """Descend on standardised x and y, shape (n,); returns (intercept, slope). O(E n) time, O(n) memory.

        The gradient of the mean squared error over a batch is ``2 / b * (sum(r), sum(r * x))`` with residuals r.
        """
        rng = np.random.default_rng(self.seed)
        batch = min(self.batch_size, x.size)
        weights, averaged = np.zeros(2), np.zeros(2)
        step, calm = 0, 0
        best = self.__loss(weights, x, y)
        self.losses_: list[float] = []
        for _ in range(self.epochs):
            for x_batch, y_batch in _batches(rng, x, y, batch):
                residual = weights[0] + weights[1] * x_batch - y_batch
                gradient = 2.0 / residual.size * np.array([residual.sum(), residual @ x_batch])
                weights = weights - self.learning_rate / (1.0 + step / _DECAY_STEPS) ** 0.75 * gradient
                step += 1
                averaged += (_FORGETTING + 1.0) / (step + _FORGETTING) * (weights - averaged)
            self.losses_.append(self.__loss(averaged, x, y))
            calm = calm + 1 if abs(best - self.losses_[-1]) < self.tolerance else 0
            best = self.losses_[-1]
            if calm >= self.patience:
                break
        self.epochs_run_ = len(self.losses_)
        return averaged


def _batches(rng: np.random.Generator, x: Floats, y: Floats, batch: int) -> Iterator[tuple[Floats, Floats]]:
    """Give every row once, in a fresh random order, ``batch`` rows at a time (the last batch may be smaller)."""
    order = rng.permutation(x.size)
    x, y = x[order], y[order]
    for start in range(0, x.size, batch):
        yield x[start : start + batch], y[start : start + batch]


def _vector(values: ArrayLike, name: str) -> Floats:
    """Give ``values`` as float64 of shape (n,), all finite; raises ValueError."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not the shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity.")
    return array


def _feature(values: ArrayLike) -> Floats:
    """Give one feature, shape (n,) or (n, 1), as shape (n,); raises ValueError."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    return _vector(array, "X")


def _scale(values: Floats) -> float:
    """Give the standard deviation, or 1 for a constant (whose slope is then 0)."""
    spread = float(values.std())
    return spread if spread > 0.0 else 1.0


def train(X: Any, y: Any, learning_rate: float, epochs: int, batch_size: int, tolerance: float, seed: int) -> Any:
    """Fit the line; X holds the column ``bmi``, y the progression, and the rest comes from ``[params]``."""
    model = SimpleLinearRegression(
        learning_rate=learning_rate, epochs=epochs, batch_size=batch_size, tolerance=tolerance, seed=seed
    )
    model.fit(X, y)
    print(f"progression = {model.intercept_:.1f} + {model.slope_:.2f} * bmi after {model.epochs_run_} epochs")
    return model
