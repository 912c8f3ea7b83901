"""The eight stages as a script that tracks with MLflow and registers the model, as its guide shows."""

import sys

import mlflow
import mlflow.sklearn
import work
from mlflow.models import infer_signature

folder = sys.argv[1]
mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
mlflow.set_experiment("bench")
with mlflow.start_run():
    training, holdout = work.split(work.check(work.ingest(folder)))
    model = work.train(training)
    scores = work.evaluate(model, training, holdout)
    mlflow.log_metrics(scores)
    if work.decide(scores):
        signature = infer_signature(training[work.FEATURES], model.predict(training[work.FEATURES]))
        mlflow.sklearn.log_model(
            model,
            name="model",
            signature=signature,
            registered_model_name="bench",
            pip_requirements=["scikit-learn"],
        )
        client = mlflow.MlflowClient()
        newest = max(int(version.version) for version in client.search_model_versions("name='bench'"))
        client.set_registered_model_alias("bench", "champion", str(newest))
        champion = mlflow.sklearn.load_model("models:/bench@champion")
        mlflow.log_artifact(work.predict(champion, folder))
    work.report(scores, folder)
    mlflow.log_artifact(f"{folder}/report.json")
