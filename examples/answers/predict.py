"""The answer, and where it stands: the page, and the span of characters in it."""

import pandas as pd


def predict(model, X):
    """One row for each question: ``prediction``, ``page``, ``start`` and ``end``."""
    found = [model.answer(question) for question in X["question"].fillna("")]
    return pd.DataFrame(found, columns=["prediction", "page", "start", "end"])
