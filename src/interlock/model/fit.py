"""The training function at work, inside a worker process: arguments by name in, a saved model out."""

import importlib
import math
import numbers
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from interlock.errors import ContractError, UserCodeFailed, bounded
from interlock.model.calls import FrameKind, as_column, as_frame, bind, load_function, parameters_of
from interlock.model.entry import Entry
from interlock.settings import Script

MODEL_FILE = "model.pkl"
VALID_SHARE = 0.2
"""Share of the training rows that become ``X_valid`` and ``y_valid`` when the function asks for them."""
_METRICS = 200
Report = Callable[[int, float], None]
"""``report(step, value)``: how far a training is; a search ends trials by it, the ordinary training ignores it."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What :func:`run_training` is asked to do; paths are local.

    ``rows`` is a Parquet file with at least ``features`` and ``target``. ``order`` names the column after which rows
    are ordered in time, if they are: then the newest rows are the validation rows, else they are drawn with ``seed``.
    ``references`` are the Parquet files of the sources for reference, by name.
    """

    code: str
    entry: Entry
    rows: str
    features: tuple[str, ...]
    target: str
    order: str
    params: dict[str, Any]
    seed: int
    model_dir: str
    data_dir: str
    needs_predict: bool
    name: str = ""
    script: Script = Script()
    search: tuple[str, ...] = ()
    references: dict[str, str] = {}


def executed_path(task: Task) -> Path:
    """Where a notebook is written as it is executed."""
    return Path(task.model_dir).parent / "notebook" / "executed.ipynb"


def _unheard(step: int, value: float) -> None:
    """Nobody listens in the ordinary training."""
    del step, value


def run_training(arguments: Mapping[str, Any], report: Report | None = None) -> dict[str, Any]:
    """Call the user's training function and save what it returns; gives its metrics and row count.

    ``report`` is what the function gets under that name.

    Raises :class:`ContractError` when the function or its answer does not fit, :class:`UserCodeFailed` when the answer
    cannot be saved, and whatever the user's code raises.
    """
    task = msgspec.convert(arguments["task"], Task)
    function = load_function(Path(task.code), task.entry)
    rows = Rows(task, splits=bool({"X_valid", "y_valid"} & set(parameters_of(function))))
    offers = rows.offers() | {"report": lambda _: report or _unheard}
    positional, named = bind(function, task.entry, offers, task.params)
    random.seed(task.seed)
    numpy = importlib.import_module("numpy")
    numpy.random.seed(task.seed)  # the generator that the user's libraries use when they are told nothing
    started = time.perf_counter()
    process = os.getpid()
    answer = function(*positional, **named)
    if os.getpid() != process:
        os._exit(0)  # a copy that the function forked came back too: only one of us may save the model
    elapsed = time.perf_counter() - started
    model, metrics = apart(answer)
    save_model(model, task)
    return {"rows": rows.count, "metrics": metrics, "function_seconds": elapsed}


class Rows:
    """The training rows, in whatever shape is asked for; read once, when something is."""

    def __init__(self, task: Task, *, splits: bool) -> None:
        self.task = task
        self.splits = splits

    @property
    def count(self) -> int:
        """Rows in the file, those held back for validation included."""
        return int(pl.scan_parquet(self.task.rows).select(pl.len()).collect().item())

    @cached_property
    def parts(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Rows to learn from and rows to validate on; the second is empty unless the function asks for it."""
        columns = [*self.task.features, *([self.task.target] if self.task.target else [])]
        frame = pl.read_parquet(self.task.rows, columns=columns)
        if not self.splits:
            return frame, frame.clear()
        valid = self._valid(frame)
        return frame.filter(~valid), frame.filter(valid)

    @cached_property
    def gaps(self) -> frozenset[str]:
        """Columns with an empty cell in any row, so that both parts get the same types."""
        counts = [part.null_count() for part in self.parts]
        return frozenset(name for name in counts[0].columns if any(count[name].item() for count in counts))

    def _valid(self, frame: pl.DataFrame) -> pl.Series:
        """True for ``VALID_SHARE`` of the rows: bool, one per row."""
        import numpy as np

        size = round(VALID_SHARE * frame.height)
        if self.task.order:
            times = pl.read_parquet(self.task.rows, columns=[self.task.order]).to_series()
            chosen = times.arg_sort(nulls_last=False).to_numpy()[frame.height - size :]
        else:
            chosen = np.random.default_rng(self.task.seed).permutation(frame.height)[:size]
        mask = np.zeros(frame.height, dtype=bool)
        mask[chosen] = True
        return pl.Series(mask)

    def offers(self) -> dict[str, Callable[[FrameKind], Any]]:
        """Everything that a parameter may ask for, by name."""
        task = self.task
        return {
            "data": lambda kind: as_frame(self.parts[0], kind, self.gaps),
            "df": lambda kind: as_frame(self.parts[0], kind, self.gaps),
            "X": lambda kind: self._inputs(0, kind),
            "X_train": lambda kind: self._inputs(0, kind),
            "y": lambda kind: self._target(0, kind),
            "y_train": lambda kind: self._target(0, kind),
            "X_valid": lambda kind: self._inputs(1, kind),
            "y_valid": lambda kind: self._target(1, kind),
            "params": lambda _: dict(task.params),
            "seed": lambda _: task.seed,
            "data_dir": lambda _: self._folder(),
            "model_dir": lambda _: task.model_dir,
            **{name: partial(_reference, path) for name, path in task.references.items()},
        }

    def _inputs(self, part: int, kind: FrameKind) -> Any:
        return as_frame(self.parts[part].select(self.task.features), kind, self.gaps)

    def _target(self, part: int, kind: FrameKind) -> Any:
        if not self.task.target:
            raise ContractError(
                f"{self.task.entry.function} in {self.task.entry.path} asks for the target; the project names none.",
                next_step="Set model.target in interlock.toml.",
            )
        return as_column(self.parts[part][self.task.target], kind)

    def _folder(self) -> str:
        folder = Path(self.task.data_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.parts[0].write_parquet(folder / "training.parquet")
        if self.splits:
            self.parts[1].write_parquet(folder / "valid.parquet")
        for name, path in self.task.references.items():
            shutil.copyfile(path, folder / f"{name}.parquet")
        return str(folder)


def _reference(path: str, kind: FrameKind) -> Any:
    """All rows of a source for reference."""
    frame = pl.read_parquet(path)
    return as_frame(frame, kind, [name for name in frame.columns if frame[name].null_count()])


def apart(answer: Any) -> tuple[Any, dict[str, float]]:
    """Split ``(model, metrics)``; anything else is the model. Metrics that are not finite are left out, and said."""
    if not (isinstance(answer, tuple) and len(answer) == 2 and _are_metrics(answer[1])):
        return answer, {}
    metrics = {name: float(value) for name, value in list(answer[1].items())[:_METRICS]}
    for name, value in metrics.items():
        if not math.isfinite(value):
            sys.stderr.write(f"metric {name} is {value} and was not recorded\n")
    return answer[0], {name: value for name, value in metrics.items() if math.isfinite(value)}


def _are_metrics(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(item, numbers.Real) for name, item in value.items())
    )


def save_model(model: Any, task: Task) -> None:
    """Save what training gave, unless it saved itself into ``model_dir``.

    Raises :class:`ContractError` when it cannot answer, :class:`UserCodeFailed` when it cannot be saved.
    """
    where = f"{task.entry.function} in {task.entry.path}"
    folder = Path(task.model_dir)
    if model is None:
        if any(path.is_file() for path in folder.rglob("*")):
            return
        raise UserCodeFailed(
            f"{where} returned nothing, and saved nothing into model_dir.",
            next_step="Return the model, or take a parameter model_dir and save into it.",
        )
    if task.needs_predict and not callable(getattr(model, "predict", None)):
        verb = "is" if task.entry.kind == "notebook" else "returned"
        raise ContractError(
            f"{where} {verb} {_kind(model)}, which has no .predict, and the project names no inference file.",
            next_step="Give an object with .predict, or set model.predict in interlock.toml.",
        )
    path = folder / MODEL_FILE
    try:
        with path.open("wb") as file:
            importlib.import_module("cloudpickle").dump(model, file)
        path.chmod(0o644)  # whatever the umask is now
    except Exception as error:
        path.unlink(missing_ok=True)
        failed = UserCodeFailed(
            f"The model that {where} returned ({_kind(model)}) cannot be saved: {bounded(str(error), 300)}.",
            next_step="Keep open files, locks and connections out of it, or save it into model_dir yourself.",
        )
        failed.recorded = f"The model that {where} returned ({_kind(model)}) cannot be saved: {type(error).__name__}."
        raise failed from error


def _kind(model: object) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"
