"""The rows of a training program as files: one folder for each channel, in the formats that SageMaker's examples read.

Validation and test channels hold rows taken out of the training rows; the holdout is not among them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.errors import ContractError
from interlock.model.calls import as_frame
from interlock.model.fit import Rows, Task

VALIDATION = frozenset({"validation", "valid", "val", "eval", "evaluation", "dev"})
TEST = frozenset({"test", "testing"})
CODE = "code"
"""A channel of that name holds the user's files, not rows."""
_SUFFIX = {"csv": "csv", "parquet": "parquet", "libsvm": "libsvm", "npy": "npy"}


def write_channels(task: Task, names: Sequence[str], base: Path, *, header: bool) -> Mapping[str, Path]:
    """Write the rows of every channel below ``base``; gives the folder of each.

    Channels for validation and for test get a fifth of the training rows; where both are asked for, half of it each.
    A source for reference is the channel of its name, whole, as CSV with a header. Any other channel gets the rest.
    Raises :class:`ContractError` for values that the format has no place for.
    """
    rows = Rows(task, splits=bool((VALIDATION | TEST) & set(names)))
    learn, aside = rows.parts
    both = bool(VALIDATION & set(names)) and bool(TEST & set(names))
    odd = pl.int_range(aside.height, eager=True) % 2 == 1
    folders: dict[str, Path] = {}
    for name in names:
        folders[name] = base / name
        folders[name].mkdir(parents=True)
        if name == CODE:
            continue
        if name in task.references:
            _write_csv(pl.read_parquet(task.references[name]), folders[name] / f"{name}.csv")
            continue
        frame = learn
        if name in VALIDATION | TEST:
            frame = aside.filter(odd if name in TEST else ~odd) if both else aside
        _write(task, name, frame, folders[name], header=header)
    return folders


def _write(task: Task, name: str, frame: pl.DataFrame, folder: Path, *, header: bool) -> None:
    target = [task.target] if task.target else []
    script = task.script
    frame = frame.select([*target, *task.features] if script.target_first else [*task.features, *target])
    path = folder / script.files.get(name, f"{name}.{_SUFFIX[script.format]}")
    if script.format == "csv":
        _write_csv(frame, path, header=header)
    elif script.format == "parquet":
        frame.write_parquet(path)
    elif script.format == "npy":
        np.save(folder / f"x_{name}.npy", numbers(task, frame.select(task.features)))
        if target:
            np.save(folder / f"y_{name}.npy", as_frame(frame.select(target), "numpy").reshape(-1))
    else:
        path.write_bytes(_libsvm(task, frame))


def _write_csv(frame: pl.DataFrame, path: Path, *, header: bool = True) -> None:
    for name, kind in frame.schema.items():
        if kind == pl.Binary:
            raise ContractError(
                f"The column '{name}' holds bytes, and CSV files cannot carry them.",
                next_step="Set script.format = 'parquet', or leave the column out of model.features.",
                column=name,
            )
    frame.write_csv(path, include_header=header)


def numbers(task: Task, frame: pl.DataFrame) -> NDArray[np.float64]:
    """All columns as float64 of shape (rows, columns), missing ones as NaN."""
    for name, kind in frame.schema.items():
        if not (kind.is_numeric() or kind == pl.Boolean):
            raise ContractError(
                f"The column '{name}' is {kind}; {task.script.format} files hold numbers only.",
                next_step="Set script.format = 'csv', or leave the column out of model.features.",
                column=name,
            )
    return frame.select(pl.all().cast(pl.Float64).fill_null(float("nan"))).to_numpy()


def _libsvm(task: Task, frame: pl.DataFrame) -> bytes:
    """Lines ``target 0:value 1:value …``, counted from 0 as XGBoost reads them; what is missing is left out."""
    labels = numbers(task, frame.select(task.target)).reshape(-1) if task.target else np.zeros(frame.height)
    lines = [
        f"{label:.17g} " + " ".join(f"{index}:{value:.17g}" for index, value in enumerate(row) if not np.isnan(value))
        for label, row in zip(labels.tolist(), numbers(task, frame.select(task.features)), strict=True)
    ]
    return "".join(f"{line}\n" for line in lines).encode()
