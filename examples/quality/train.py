"""Standard scaling, then AdaBoost. The model has a .predict of its own, so there is no predict.py."""

import pandas as pd
from sklearn.ensemble import AdaBoostClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def train(X: pd.DataFrame, y: pd.Series, n_estimators: int, learning_rate: float, seed: int) -> Pipeline:
    """Fit the pipeline. X: 30 measurements of each sample; y: 1 for malignant, 0 for benign."""
    model = make_pipeline(
        StandardScaler(),
        AdaBoostClassifier(n_estimators=n_estimators, learning_rate=learning_rate, random_state=seed),
    )
    model.fit(X, y)
    print(f"{len(X)} samples, {int(y.sum())} of them malignant")
    return model
