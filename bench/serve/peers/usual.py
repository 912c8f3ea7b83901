"""The usual service: FastAPI, pydantic, pandas and a pickle, as tutorials have it.

MODEL=model.pkl uvicorn usual:app
"""

import os
import pickle
from pathlib import Path

import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = pickle.loads(Path(os.environ["MODEL"]).read_bytes())


class Record(BaseModel):
    x0: float
    x1: float
    x2: float
    x3: float
    x4: float
    x5: float
    c0: str
    c1: str
    c2: str
    c3: str


class Records(BaseModel):
    instances: list[Record]


@app.post("/predict")
def predict(record: Record) -> dict[str, int]:
    return {"prediction": int(model.predict(pd.DataFrame([record.model_dump()]))[0])}


@app.post("/batch")
def batch(records: Records) -> dict[str, list[int]]:
    frame = pd.DataFrame([each.model_dump() for each in records.instances])
    return {"predictions": [int(each) for each in model.predict(frame)]}
