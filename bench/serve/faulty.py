"""A model that fails in every way that the guard lists, when a record tells it to; and what the right answers are.

Records have three numbers, and ``mode``, which says what the model does. The answer is a sum of the numbers (task
regression), or its third (task classification: low, mid, high). Last good learnt without the third number, so that its
answers are others; it does not look at ``mode``. Sums are added from left to right, so that anybody gets the same bits.
"""

import csv
import json
import pickle
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from project import interlock

WEIGHTS: Final = (3.0, -2.0, 1.0)
MODES: Final = {
    "healthy": 0,
    "nan": 1,
    "infinite": 2,
    "far outside": 3,
    "a row too few": 4,
    "text for a number": 5,
    "raises": 6,
    "class outside": 7,
    "hangs": 8,
    "os._exit": 9,
    "segfault": 10,
    "memory": 11,
    "constant": 12,
    "None": 13,
    "endless loop": 14,
    "nothing at all": 15,
}
QUICK: Final = {
    "regression": (
        "nan",
        "infinite",
        "far outside",
        "a row too few",
        "text for a number",
        "raises",
        "None",
        "nothing at all",
    ),
    "classification": ("class outside", "a row too few", "raises", "None", "nothing at all"),
}
"""Failures that cost no process."""
SLOW: Final = ("hangs", "os._exit", "segfault", "memory", "endless loop")
CONSTANT: Final[dict[str, Any]] = {"regression": 0.5, "classification": "mid"}
_TRAIN = '''"""A sum with fixed order of adding, fitted by least squares."""

import numpy as np


class Plain:
    def __init__(self, weights, cuts):
        self.weights, self.cuts = weights, cuts

    def predict(self, X):
        a, b, c = (np.asarray(X[name], dtype=float) for name in ("a", "b", "c"))
        total = a * self.weights[0] + b * self.weights[1] + c * self.weights[2]
        if self.cuts is None:
            return total
        return np.array(["low", "mid", "high"])[np.digitize(total, self.cuts)]


def train(X, y):
    y = np.asarray(y)
    numbers = y.dtype.kind == "f"
    target = y if numbers else np.select([y == "low", y == "mid"], [-3.0, 0.0], 3.0)
    used = [{used}]
    found = np.linalg.lstsq(np.asarray(X[["a", "b", "c"]], dtype=float)[:, used], target.astype(float), rcond=None)[0]
    weights = [0.0, 0.0, 0.0]
    for place, weight in zip(used, found):
        weights[place] = float(weight)
    scale = 1.0 if numbers else sum(weight * weight for weight in weights) ** 0.5
    return Plain(weights, None if numbers else [-0.5 * scale, 0.5 * scale])
'''
_PREDICT = '''"""Answers as the model does, unless a record says otherwise."""

import ctypes
import os
import time

import numpy as np


def predict(model, X):
    modes = np.asarray(X["mode"], dtype=int)
    here = set(modes.tolist())
    if 6 in here:
        raise ValueError("no")
    if here & {8, 14}:
        while 14 in here:
            pass
        time.sleep(1000)
    if 9 in here:
        os._exit(3)
    if 10 in here:
        ctypes.string_at(0)
    if 11 in here:
        hoard = []
        while True:
            hoard.append(np.ones(4_000_000))
    if 15 in here:
        return None
    answers = np.asarray(model.predict(X))
    if not here - {0}:
        return answers
    if 4 in here:
        return answers[:-1]
    numbers = answers.dtype.kind == "f"
    answers = answers.astype(object)
    constant = 0.5 if numbers else "mid"
    wrong = {1: np.nan, 2: np.inf, 3: 1e9, 5: "text", 7: "perhaps", 12: constant, 13: None}
    for mode, answer in wrong.items():
        answers[modes == mode] = answer
    return answers.astype(float) if numbers and not here & {5, 13} else answers
'''
_TOML = """[model]
name = "faulty"
task = "{task}"
target = "y"
features = ["a", "b", "c", "mode"]
memory = "700MB"
{predict}
[data]
inbox = "inbox"
key = ["id"]
types = {{ a = "float", b = "float", c = "float", mode = "int" }}

[gate]
metric = "{metric}"

[batch]
inbox = "to_score"

[serve]
keys_file = "keys.toml"
deadline = "500ms"
"""
_METRICS = {"regression": "neg_mean_absolute_error", "classification": "accuracy"}


def write_rows(path: Path, task: str, first: int, count: int, *, labelled: bool = True) -> None:
    source = random.Random(first)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "a", "b", "c", "mode", *(["y"] if labelled else [])])
        for number in range(first, first + count):
            values = [round(source.gauss(0, 1), 4) for _ in WEIGHTS]
            total = sum(value * weight for value, weight in zip(values, WEIGHTS, strict=True)) + source.gauss(0, 0.3)
            label = (
                round(total, 5) if task == "regression" else "low" if total < -1.5 else "mid" if total < 1.5 else "high"
            )
            writer.writerow([number, *values, 0, *([label] if labelled else [])])


def make_faulty(folder: Path, task: str) -> Path:
    """The project, with the sane release and the faulty one after it, unless it is there."""
    if (folder / "made").exists():
        return folder
    for name in ("inbox", "to_score"):
        (folder / name).mkdir(parents=True)
    (folder / "interlock.toml").write_text(_TOML.format(task=task, metric=_METRICS[task], predict=""))
    (folder / "train.py").write_text(_TRAIN.replace("{used}", "0, 1"))
    write_rows(folder / "inbox" / "a.csv", task, 0, 2_000)
    write_rows(folder / "to_score" / "b.csv", task, 900_000, 50, labelled=False)
    interlock(folder, "run")
    (folder / "train.py").write_text(_TRAIN.replace("{used}", "0, 1, 2"))
    (folder / "predict.py").write_text(_PREDICT)
    (folder / "interlock.toml").write_text(
        _TOML.format(task=task, metric=_METRICS[task], predict='predict = "predict.py"')
    )
    write_rows(folder / "inbox" / "more.csv", task, 100_000, 1_000)
    interlock(folder, "run")
    interlock(folder, "keys", "bench", "--scope", "predict", "--scope", "read")
    (folder / "made").write_text("")
    return folder


def right_answers(project: Path) -> dict[str, Callable[[list[float]], Any]]:
    """What champion and last good answer to three numbers, each computed here from its own weights."""
    release = interlock(project, "status")["release"]
    assert release["last_good"] not in (None, release["champion"]), release
    sys.path.insert(0, str(project))
    try:
        return {
            "champion": _sum_of(project / ".interlock" / "lake" / "bundles", release["champion"]),
            "last-good": _sum_of(project / ".interlock" / "lake" / "bundles", release["last_good"]),
        }
    finally:
        sys.path.remove(str(project))
        sys.modules.pop("train", None)


def _sum_of(bundles: Path, digest: str) -> Callable[[list[float]], Any]:
    (path,) = bundles.glob(f"{digest}*/model/model.pkl")
    model = pickle.loads(path.read_bytes())
    weights, cuts = model.weights, model.cuts

    def answer(values: list[float]) -> Any:
        total = values[0] * weights[0] + values[1] * weights[1] + values[2] * weights[2]
        return total if cuts is None else "low" if total < cuts[0] else "mid" if total < cuts[1] else "high"

    return answer


def body(values: list[float], mode: str) -> bytes:
    """The record as JSON."""
    a, b, c = values
    return json.dumps({"a": a, "b": b, "c": c, "mode": MODES[mode]}).encode()
