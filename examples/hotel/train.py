"""LightGBM on what a booking tells, stopped as soon as more trees no longer help on bookings set aside."""

from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from features import derive

PATIENCE = 20


def train(
    X: pd.DataFrame,
    y: pd.Series,
    X_valid: pd.DataFrame,
    y_valid: pd.Series,
    params: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Give ``{"booster": …, "statuses": …, "countries": …}``, which predict.py understands.

    X_valid and y_valid, rows set aside from training, choose the number of trees by log loss. On data without a signal
    that number is so small that every answer is the most frequent status: the model then knows that it knows nothing.
    """
    countries = sorted(X["country_code"].dropna().unique())
    statuses, codes = np.unique(y.to_numpy(dtype=str), return_inverse=True)
    learn = lightgbm.Dataset(derive(X, countries), codes)
    codes_valid = np.searchsorted(statuses, y_valid.to_numpy(dtype=str))
    booster = lightgbm.train(
        {
            "objective": "multiclass",
            "num_class": len(statuses),
            "learning_rate": params["learning_rate"],
            "num_leaves": params["num_leaves"],
            "min_child_samples": params["min_child_samples"],
            "seed": seed,
            "num_threads": 2,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        },
        learn,
        num_boost_round=params["n_estimators"],
        valid_sets=[lightgbm.Dataset(derive(X_valid, countries), codes_valid, reference=learn)],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )
    print(f"{len(X)} bookings to learn from, {len(X_valid)} to stop by: {booster.best_iteration} trees per status")
    return {"booster": booster, "statuses": statuses, "countries": countries}
