"""A project whose model has a form of its own, with columns of every type that a record may have."""

import csv
import random
from pathlib import Path

TRAIN = """from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def train(X, y):
    ready = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["colour", "size"]),
        (make_pipeline(SimpleImputer(), StandardScaler()), ["width", "rooms"]),
    )
    return make_pipeline(ready, LogisticRegression()).fit(X[["colour", "size", "width", "rooms"]], y)
"""
TOML = """[model]
name = "shades"
task = "classification"
target = "ok"

[data]
inbox = "inbox"
key = ["id"]
nullable = ["width"]

[gate]
metric = "accuracy"

[batch]
inbox = "to_score"
output = "predictions"
"""
COLUMNS = ["id", "colour", "size", "width", "rooms", "late", "day", "at"]


def record(number: int, source: random.Random) -> dict[str, object]:
    """One record, without its label."""
    return {
        "id": number,
        "colour": source.choice(["red", "grün", "blue, dark", 'a "quoted"']),
        "size": source.choice(["s", "m", "l"]),
        "width": None if source.random() < 0.1 else round(source.gauss(0, 1), 3),
        "rooms": source.randrange(1, 9),
        "late": source.random() < 0.5,
        "day": f"2026-{source.randrange(1, 13):02d}-{source.randrange(1, 28):02d}",
        "at": f"2026-01-{source.randrange(1, 28):02d}T{source.randrange(24):02d}:30:00",
    }


def make_linear_project(folder: Path) -> Path:
    """A project with one file to learn from and one to score."""
    source = random.Random(5)
    for name in ("inbox", "to_score"):
        (folder / name).mkdir(parents=True)
    (folder / "interlock.toml").write_text(TOML)
    (folder / "train.py").write_text(TRAIN)
    for name, first, count in (("inbox/a.csv", 0, 600), ("to_score/b.csv", 10_000, 40)):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            labelled = name.startswith("inbox")
            writer = csv.DictWriter(file, [*COLUMNS, *(["ok"] if labelled else [])])
            writer.writeheader()
            for number in range(first, first + count):
                made = record(number, source)
                if labelled:
                    score = float(made["width"] or 0) + (made["colour"] == "red") + float(str(made["rooms"])) / 5  # type: ignore[arg-type]
                    made["ok"] = "yes" if score + source.gauss(0, 0.4) > 1.2 else "no"
                writer.writerow({name: "" if value is None else value for name, value in made.items()})
    return folder
