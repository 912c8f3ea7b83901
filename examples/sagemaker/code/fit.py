"""Train a forest, as a SageMaker script does: arguments and SM_ variables in, a file in SM_MODEL_DIR out."""

import argparse
import os

import joblib
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score


def read(channel):
    """Read all files of a channel: no header, the label in the first column."""
    files = sorted(os.path.join(channel, name) for name in os.listdir(channel))
    rows = pd.concat([pd.read_csv(name, header=None) for name in files])
    return rows.iloc[:, 1:], rows.iloc[:, 0]


def train(args):
    X, y = read(args.train)
    model = RandomForestClassifier(
        n_estimators=args.n_estimators, min_samples_leaf=args.min_samples_leaf, random_state=args.random_state
    )
    model.fit(X.to_numpy(), y)
    X_valid, y_valid = read(args.validation)
    print(f"validation-accuracy: {accuracy_score(y_valid, model.predict(X_valid.to_numpy())):.4f}")
    joblib.dump(model, os.path.join(args.model_dir, "model.joblib"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--n-estimators", type=int, default=10)
    parser.add_argument("--min-samples-leaf", type=int, default=1)
    parser.add_argument("--random-state", type=int, default=0)
    parser.add_argument("--model-dir", type=str, default=os.environ.get("SM_MODEL_DIR"))
    parser.add_argument("--train", type=str, default=os.environ.get("SM_CHANNEL_TRAIN"))
    parser.add_argument("--validation", type=str, default=os.environ.get("SM_CHANNEL_VALIDATION"))
    train(parser.parse_known_args()[0])
