"""BentoML, one worker, without batching: ``MODEL=model.pkl bentoml serve with_bentoml:Rows``."""

import os
import pickle
from pathlib import Path
from typing import Any

import bentoml
import pandas as pd


@bentoml.service(workers=1)
class Rows:
    def __init__(self) -> None:
        self.model = pickle.loads(Path(os.environ["MODEL"]).read_bytes())

    @bentoml.api
    def predict(self, record: dict[str, Any]) -> dict[str, int]:
        return {"prediction": int(self.model.predict(pd.DataFrame([record]))[0])}
