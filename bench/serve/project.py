"""The model that every server of these programs answers with, the rows that it is asked, and projects that release it.

``Pipeline(ColumnTransformer(StandardScaler, OneHotEncoder), LogisticRegression)`` over six numbers and four texts (of
5, 24, 120 and 300 values), trained on 20,000 made rows. Two releases of it: the first learnt from four of the columns,
the second from all, so that the first is last good and the two can be told apart by their probabilities.
"""

import csv
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

CARDINALITIES = (5, 24, 120, 300)
NUMBERS = [f"x{place}" for place in range(6)]
TEXTS = [f"c{place}" for place in range(len(CARDINALITIES))]
FEATURES = [*NUMBERS, *TEXTS]
TRAINING_ROWS = 20_000
TRAIN = """from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def train(X, y):
    scaled = ("numbers", StandardScaler(), {numbers!r})
    coded = ("texts", OneHotEncoder(handle_unknown="ignore"), {texts!r})
    steps = [("columns", ColumnTransformer([scaled, coded])), ("model", LogisticRegression(max_iter=300))]
    return Pipeline(steps).fit(X, y)
"""
OWN = """def predict(model, data):
    return model.predict(data)
"""
TOML = """[model]
name = "bench"
task = "classification"
target = "y"
features = {features}
{model}
[data]
inbox = "inbox"
key = ["id"]

[gate]
metric = "accuracy"

[batch]
inbox = "to_score"

[serve]
keys_file = "keys.toml"
{serve}
"""


def record(source: random.Random) -> dict[str, Any]:
    """One record, without its label."""
    made: dict[str, Any] = {name: round(source.gauss(place, 1 + place), 4) for place, name in enumerate(NUMBERS)}
    for name, size in zip(TEXTS, CARDINALITIES, strict=True):
        made[name] = f"{name}-{source.randrange(size):04d}"
    return made


def records(count: int, seed: int = 7) -> list[dict[str, Any]]:
    """Records to ask about."""
    source = random.Random(seed)
    return [record(source) for _ in range(count)]


def label(made: dict[str, Any], source: random.Random) -> int:
    score = made["x0"] - 0.4 * (made["x1"] - 1) + 0.3 * (int(made["c1"][3:]) % 5 - 2) + 0.2 * (made["x2"] - 2)
    return int(score + source.gauss(0, 1) > 0)


def write_rows(path: Path, first: int, count: int, *, labelled: bool = True) -> None:
    source = random.Random(1_000_003 + first)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *FEATURES, *(["y"] if labelled else [])])
        for number in range(first, first + count):
            made = record(source)
            writer.writerow([number, *made.values(), *([label(made, source)] if labelled else [])])


def make_project(folder: Path, *, model: str = "", serve: str = "", files: dict[str, str] | None = None) -> Path:
    """The project with its two releases, unless it is there. ``files`` are of the user's own code, as predict.py."""
    if (folder / "made").exists():
        return folder
    for name in ("inbox", "to_score"):
        (folder / name).mkdir(parents=True)
    (folder / "interlock.toml").write_text(TOML.format(features=json.dumps(FEATURES), model=model, serve=serve))
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    write_rows(folder / "inbox" / "a.csv", 0, TRAINING_ROWS)
    write_rows(folder / "to_score" / "b.csv", 900_000, 100, labelled=False)
    (folder / "train.py").write_text(TRAIN.format(numbers=NUMBERS[:2], texts=TEXTS[:2]))
    interlock(folder, "run")
    (folder / "train.py").write_text(TRAIN.format(numbers=NUMBERS, texts=TEXTS))
    write_rows(folder / "inbox" / "more.csv", 100_000, 1_000)
    interlock(folder, "run")
    interlock(folder, "keys", "bench", "--scope", "predict", "--scope", "read")
    found = interlock(folder, "status")["release"]
    assert found["generation"] == 2, found
    assert found["last_good"], found
    (folder / "made").write_text("")
    return folder


def interlock(folder: Path, *words: str) -> dict[str, Any]:
    """Run a verb; its object. What ``keys`` made is kept in ``key.txt``."""
    command = [sys.executable, "-m", "interlock", *words, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        sys.exit(f"interlock {' '.join(words)} failed in {folder}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    if words[0] == "keys":
        (folder / "key.txt").write_text(found["key"])
    return found


# ---- requests ----------------------------------------------------------------------------------------------------


def bearer(folder: Path) -> dict[str, str]:
    """The header that opens the project's server."""
    return {"Authorization": f"Bearer {(folder / 'key.txt').read_text()}"}


def http(path: str, body: bytes, headers: dict[str, str] | None = None, kind: str = "application/json") -> bytes:
    """The bytes of one request."""
    told = {"Host": "127.0.0.1", "Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def encoded(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def as_v2(rows: list[dict[str, Any]]) -> bytes:
    """Rows as the Open Inference Protocol has them, one tensor a column, to be decoded as a frame."""
    count = len(rows)
    inputs: list[dict[str, Any]] = [
        {"name": name, "shape": [count, 1], "datatype": "FP64", "data": [row[name] for row in rows]} for name in NUMBERS
    ]
    inputs += [
        {
            "name": name,
            "shape": [count, 1],
            "datatype": "BYTES",
            "data": [row[name] for row in rows],
            "parameters": {"content_type": "str"},
        }
        for name in TEXTS
    ]
    return encoded({"parameters": {"content_type": "pd"}, "inputs": inputs})


def as_arrow(rows: list[dict[str, Any]]) -> bytes:
    """Rows as a stream of Arrow IPC."""
    import io

    import polars as pl

    body = io.BytesIO()
    pl.DataFrame(rows).write_ipc_stream(body)
    return body.getvalue()
