"""What the loop costs: a first turn beside the user's own script, a turn with nothing new, and the help.

Every figure is the wall time of a cold process, the median of ``--repeats``. The user's own script reads the same CSV,
trains the same scikit-learn pipeline and saves it; the overhead is a first turn less that.

    python bench/turn.py [--rows 1000] [--repeats 7]
"""

import argparse
import csv
import importlib.metadata
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = """from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def train(X, y):
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
"""
OWN = """import pickle
import pandas as pd
from train import train

rows = pd.read_csv("inbox/rows.csv")
model = train(rows.drop(columns=["label"]), rows["label"])
with open("model.pkl", "wb") as file:
    pickle.dump(model, file)
"""
TOML = """[model]
name = "bench"
task = "classification"
target = "label"
[data]
inbox = "inbox"
"""


def make_project(folder: Path, rows: int) -> None:
    """A project with one CSV of eight numbers and a label that they explain for the most part."""
    source = random.Random(1)
    (folder / "inbox").mkdir(parents=True)
    (folder / "train.py").write_text(TRAIN)
    (folder / "own.py").write_text(OWN)
    (folder / "interlock.toml").write_text(TOML)
    with (folder / "inbox" / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{number}" for number in range(8)), "label"])
        for _ in range(rows):
            values = [source.gauss(0, 1) for _ in range(8)]
            writer.writerow([*(f"{value:.5f}" for value in values), int(sum(values[:3]) + source.gauss(0, 0.5) > 0)])


def timed(command: list[str], folder: Path) -> float:
    """Seconds until the command ends well."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    return time.perf_counter() - started


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=7)
    chosen = options.parse_args()
    interlock = [sys.executable, "-m", "interlock"]
    times: dict[str, list[float]] = {"own": [], "first turn": [], "nothing new": [], "help": []}
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch) / "project"
        make_project(project, chosen.rows)
        timed([*interlock, "run"], project)  # compiles bytecode, fills the disk cache
        for _ in range(chosen.repeats):
            shutil.rmtree(project / ".interlock")
            times["own"].append(timed([sys.executable, "own.py"], project))
            times["first turn"].append(timed([*interlock, "run"], project))
            times["nothing new"].append(timed([*interlock, "run"], project))
            times["help"].append(timed([*interlock, "--help"], project))
    report(times, chosen.rows)


def report(times: dict[str, list[float]], rows: int) -> None:
    """Print the table."""
    names = ("interlock", "scikit-learn", "pandas", "polars", "deltalake", "sqlalchemy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    count = len(times["own"])
    print(f"Python {platform.python_version()}, {versions}; {rows:,} rows; medians of {count} cold processes\n")
    print("| what | seconds | least | most |\n| --- | ---: | ---: | ---: |")
    labels = {
        "own": "the user's own script: read, train, save",
        "first turn": "`interlock run`, first turn",
        "nothing new": "`interlock run`, nothing new",
        "help": "`interlock --help`",
    }
    for name, label in labels.items():
        found = times[name]
        print(f"| {label} | {statistics.median(found):.2f} | {min(found):.2f} | {max(found):.2f} |")
    beyond = [turn - own for turn, own in zip(times["first turn"], times["own"], strict=True)]
    label = "first turn beyond the own script"
    print(f"| {label} | {statistics.median(beyond):.2f} | {min(beyond):.2f} | {max(beyond):.2f} |")


if __name__ == "__main__":
    main()
