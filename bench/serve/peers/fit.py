"""Train the pipeline of ``bench/serve`` with the libraries of this interpreter, and save it as each server wants it.

python bench/serve/peers/fit.py PROJECT FOLDER
"""

import importlib.util
import json
import pickle
import sys
from pathlib import Path

import pandas as pd


def main(project: Path, folder: Path) -> None:
    sys.path.insert(0, str(project))
    from train import train  # type: ignore[import-not-found]

    rows = pd.concat([pd.read_csv(path) for path in sorted((project / "inbox").glob("*.csv"))])
    model = train(rows.drop(columns=["id", "y"]), rows["y"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pkl").write_bytes(pickle.dumps(model))
    if importlib.util.find_spec("mlserver_sklearn") is not None:
        import joblib

        joblib.dump(model, folder / "model.joblib")
        (folder / "settings.json").write_text(json.dumps({"debug": False, "parallel_workers": 0}))
        settings = {
            "name": "bench",
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": "./model.joblib", "version": "1"},
        }
        (folder / "model-settings.json").write_text(json.dumps(settings))
    if importlib.util.find_spec("mlflow") is not None:
        import mlflow.sklearn

        if not (folder / "mlflow").exists():
            kinds = {"serialization_format": "cloudpickle"}
            mlflow.sklearn.save_model(model, folder / "mlflow", pip_requirements=["scikit-learn"], **kinds)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
