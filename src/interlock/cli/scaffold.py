"""``interlock init``: a project that runs as it is, from a data file or from made-up rows."""

import csv
import random
import re
import shutil
from pathlib import Path

from interlock.errors import Misuse, NotFound
from interlock.records import Column, Record
from interlock.settings import FILE_NAME

_TRAIN = '''"""Train a scikit-learn pipeline. Interlock calls `train` by the names of its parameters."""

from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import {estimator}
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder


def train(X, y, seed, n_estimators):
    """Fit on the training rows; the rows that judge the model are never shown here."""
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude="number")),
        remainder="passthrough",
        sparse_threshold=0,  # missing numbers are fine, but not in a sparse matrix
    )
    return make_pipeline(columns, {estimator}(n_estimators=n_estimators, random_state=seed)).fit(X, y)
'''

_TOML = """# Every key: docs/reference/configuration.md
[model]
name   = "{name}"
task   = "{task}"
train  = "train.py"
target = {target}

[params]
n_estimators = 100

[data]
inbox   = "data/inbox"               # drop CSV, Parquet or JSON lines files here
{key}
holdout = {{ fraction = 0.2 }}         # rows kept for judging, chosen by a hash

[gate]
confidence = 0.95

[batch]
inbox  = "data/to_score"             # files here are scored by the release in force
output = "data/predictions"
"""

_KEY = 'key     = ["part"]                   # names a row: found again across all files, and not a feature'
_HINT = '# key   = ["id"]                     # columns that name a row, if it has any; they are no features then'
IGNORED = ".interlock/\nreports/\ndata/predictions/\n__pycache__/\n"


class Scaffold(Record, frozen=True, kw_only=True):
    """What was written, and what to do now."""

    folder: str
    files: tuple[str, ...]
    next_step: str
    notes: tuple[str, ...] = ()


def scaffold(folder: Path, *, data: Path | None, target: str) -> Scaffold:
    """Write a new project into ``folder``.

    Raises :class:`Misuse` when a project is there already or ``data`` comes without ``target``, and :class:`NotFound`
    when there is no such data file or it has no such column.
    """
    if (folder / FILE_NAME).exists():
        raise Misuse(f"There is a project in {folder.resolve()} already.", next_step="Name another folder.")
    if data is not None and not data.is_file():
        raise NotFound(f"There is no file {data}.", next_step="Name a CSV, Parquet or JSON lines file.")
    if target and data is None:
        raise Misuse("--target needs --data.", next_step="Name the data file that has this column: --data FILE.")
    if data is not None and not target:
        raise Misuse("--data needs --target.", next_step="Name the column to predict: --target COLUMN.")
    task = task_of(data, target) if data is not None else "classification"
    estimator = "RandomForestClassifier" if task == "classification" else "RandomForestRegressor"
    written = [
        write(
            folder / FILE_NAME,
            _TOML.format(
                name=project_name(folder),
                task=task,
                target=quoted(target or "passed"),
                key=_KEY if data is None else _HINT,
            ),
        ),
        write(folder / "train.py", _TRAIN.format(estimator=estimator)),
        write(folder / ".gitignore", IGNORED),
    ]
    inbox = folder / "data" / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    (folder / "data" / "to_score").mkdir(parents=True, exist_ok=True)
    if data is not None:
        written.append(Path(shutil.copy(data, inbox / data.name)))
    else:
        written += [_made_up(inbox / "parts.csv", rows=600, labelled=True)]
        written += [_made_up(folder / "data" / "to_score" / "today.csv", rows=50, labelled=False)]
    where = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    return Scaffold(folder=str(folder), files=tuple(str(path) for path in written), next_step=f"{where}interlock run")


def project_name(folder: Path) -> str:
    """Name of the model, after its folder."""
    return (re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-._") or "model")[:64]


def write(path: Path, text: str) -> Path:
    """Write a new file; raises :class:`Misuse` when it is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise Misuse(f"{path} exists and would be overwritten.", next_step="Move it away, or name another folder.")
    path.write_text(text, encoding="utf-8")
    return path


def quoted(text: str) -> str:
    """Text as a TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def task_of(data: Path, target: str) -> str:
    """Classification for text, truth values and few distinct integers; else regression."""
    from interlock.data.readers import read_file
    from interlock.data.signature import infer

    frame = read_file(data, name=data.name, delimiter=None, columns=None, types={}).frame
    if target not in frame.columns:
        names = ", ".join(name for name in frame.columns if not name.startswith("_"))
        raise NotFound(f"{data.name} has no column '{target}'.", next_step=f"Its columns: {names}.")
    column: Column = infer(frame.select(target))[0]
    few = column.type == "int" and frame[target].n_unique() <= 20
    return "classification" if column.type in ("str", "bool") or few else "regression"


def _made_up(path: Path, *, rows: int, labelled: bool) -> Path:
    """Rows of a made-up quality check, the same on every machine: a part passes when wear and load allow it."""
    source = random.Random(7 if labelled else 8)  # noqa: S311 - example rows, not secrets
    with path.open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["part", "supplier", "temperature", "load", *(["passed"] if labelled else [])])
        for number in range(rows):
            supplier = source.choice(["north", "south", "west"])
            temperature, load = round(source.gauss(60, 10), 1), round(source.uniform(0, 1), 3)
            worn = (temperature - 60) / 10 + 3 * load + (supplier == "south") + source.gauss(0, 0.6)
            label = ["yes" if worn < 2 else "no"] if labelled else []
            writer.writerow([number, supplier, temperature, load, *label])
    return path
