"""Whole projects, small enough to run a turn in a second: the user's code needs numpy only."""

import csv
import random
from pathlib import Path

TRAIN = '''"""Nearest mean of each class: enough of a model to be better than the prior."""

import numpy as np


class NearestMean:
    def __init__(self, means, classes):
        self.means, self.classes = means, classes

    def predict(self, X):
        distance = ((np.asarray(X, dtype=float)[:, None, :] - self.means[None]) ** 2).sum(axis=2)
        return self.classes[distance.argmin(axis=1)]


def train(X, y):
    classes = np.unique(y)
    values = np.asarray(X, dtype=float)
    return NearestMean(np.stack([values[np.asarray(y) == label].mean(axis=0) for label in classes]), classes)
'''

TOML = """[model]
name = "parts"
task = "classification"
target = "ok"

[data]
inbox = "inbox"
key = ["part"]

[gate]
metric = "accuracy"

[batch]
inbox = "to_score"
output = "predictions"
"""


def write_rows(path: Path, first: int, count: int, *, labelled: bool = True, noise: float = 0.6, seed: int = 0) -> None:
    """Rows ``first`` … of a seeded table: a part is ok when its two measurements say so, but for some noise."""
    source = random.Random(seed * 1_000_003 + first)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["part", "width", "weight", *(["ok"] if labelled else [])])
        for number in range(first, first + count):
            width, weight = source.gauss(0, 1), source.gauss(0, 1)
            label = "yes" if width + weight + source.gauss(0, noise) > 0 else "no"
            writer.writerow([number, f"{width:.4f}", f"{weight:.4f}", *([label] if labelled else [])])


def make_project(folder: Path) -> Path:
    """A project with one file to learn from and one to score."""
    for name in ("inbox", "to_score"):
        (folder / name).mkdir(parents=True)
    (folder / "interlock.toml").write_text(TOML)
    (folder / "train.py").write_text(TRAIN)
    write_rows(folder / "inbox" / "a.csv", 0, 400)
    write_rows(folder / "to_score" / "today.csv", 10_000, 50, labelled=False)
    return folder
