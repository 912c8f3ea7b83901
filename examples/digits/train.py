"""A logistic regression on grey values."""

from pixels import pixels
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def train(X, y, C):
    """Decode the images and fit."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=500)).fit(pixels(X["image"]), y)
