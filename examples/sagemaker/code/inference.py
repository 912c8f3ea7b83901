"""Answer requests, as a SageMaker endpoint does: body in, body out."""

import io
import json
import os

import joblib
import pandas as pd


def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "model.joblib"))


def input_fn(request_body, request_content_type):
    if request_content_type != "text/csv":
        raise ValueError(f"{request_content_type} is not supported")
    return pd.read_csv(io.StringIO(request_body), header=None).to_numpy()


def predict_fn(input_data, model):
    probabilities = model.predict_proba(input_data)
    return [
        {"prediction": model.classes_[row.argmax()]} | {f"probability_{i}": float(p) for i, p in enumerate(row)}
        for row in probabilities
    ]


def output_fn(prediction, accept):
    if accept != "application/json":
        raise ValueError(f"{accept} is not supported")
    return json.dumps({"predictions": prediction})
