"""Status of each booking: ``stayed``, ``cancelled`` or ``no_show``."""

from typing import Any

import numpy as np
import pandas as pd
from features import derive


def predict(model: dict[str, Any], data: pd.DataFrame) -> np.ndarray:
    """Give one status per row of ``data``, in order."""
    probabilities = model["booster"].predict(derive(data, model["countries"]))
    return model["statuses"][probabilities.argmax(axis=1)]
