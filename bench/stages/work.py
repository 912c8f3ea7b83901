"""The eight pieces of work of every program in the comparison, as plain functions: no orchestrator is in here."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FEATURES = [f"x{place}" for place in range(8)]


def ingest(folder: str) -> pd.DataFrame:
    """All files that have landed, one row a key."""
    frames = [pd.read_csv(path) for path in sorted(Path(folder, "inbox").glob("*.csv"))]
    return pd.concat(frames).drop_duplicates("id", keep="last")


def check(rows: pd.DataFrame) -> pd.DataFrame:
    """Types and gaps."""
    assert rows[FEATURES].notna().all().all()
    assert all(kind == "float64" for kind in rows[FEATURES].dtypes)
    return rows


def split(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A fifth is held out."""
    held = np.random.default_rng(0).random(len(rows)) < 0.2
    return rows[~held], rows[held]


def train(training: pd.DataFrame):
    """The user's own model."""
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(training[FEATURES], training["label"])


def evaluate(model, training: pd.DataFrame, holdout: pd.DataFrame) -> dict[str, float]:
    """Macro F1 of the model and of a trivial one."""
    trivial = DummyClassifier().fit(training[FEATURES], training["label"])
    return {
        name: float(f1_score(holdout["label"], one.predict(holdout[FEATURES]), average="macro", zero_division=0))
        for name, one in (("model", model), ("trivial", trivial))
    }


def decide(scores: dict[str, float]) -> bool:
    """Better than nothing?"""
    return scores["model"] > scores["trivial"]


def predict(model, folder: str) -> str:
    """Score what waits."""
    rows = pd.read_csv(Path(folder, "to_score", "rows.csv"))
    target = Path(folder, "predictions.parquet")
    pd.DataFrame({"id": rows["id"], "prediction": model.predict(rows[FEATURES])}).to_parquet(target)
    return str(target)


def report(scores: dict[str, float], folder: str) -> None:
    """Say what happened."""
    Path(folder, "report.json").write_text(json.dumps(scores))


def save(model, folder: str) -> None:
    """Keep the model."""
    Path(folder, "model.pkl").write_bytes(pickle.dumps(model))
