"""Answers for images, decoded as in training."""

from pixels import pixels


def predict(model, data):
    """One digit for each image."""
    return model.predict(pixels(data["image"]))
