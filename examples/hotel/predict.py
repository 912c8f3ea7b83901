"""Status of each booking: ``stayed``, ``cancelled`` or ``no_show``."""

from typing import Any

import pandas as pd
from features import derive


def predict(model: dict[str, Any], data: pd.DataFrame) -> pd.DataFrame:
    """Give one row per row of ``data``, in order: the status, and the probability of each status in sorted order."""
    probabilities = model["booster"].predict(derive(data, model["countries"]))
    answers = pd.DataFrame({"prediction": model["statuses"][probabilities.argmax(axis=1)]}, index=data.index)
    for place in range(probabilities.shape[1]):
        answers[f"probability_{place}"] = probabilities[:, place]
    return answers
