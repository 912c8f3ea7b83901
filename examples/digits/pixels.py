"""Image files as rows of numbers, the same way in training and in inference."""

from io import BytesIO

import numpy as np
from PIL import Image

SIDE = 8


def pixels(images):
    """Grey values of images given as bytes, float32 (images, 64), from 0 to 255; larger images are made smaller."""
    rows = []
    for content in images:
        with Image.open(BytesIO(content)) as image:
            rows.append(np.asarray(image.convert("L").resize((SIDE, SIDE)), dtype=np.float32).ravel())
    return np.stack(rows)
