"""The user's own metric, called in a worker process: on all rows, on resamples of them, and on slices."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.errors import SettingsError
from interlock.model.calls import load_function
from interlock.model.entry import Entry
from interlock.records import Record
from interlock.release.resample import Integers, generator

CHILD = "interlock.release.own_metric:measure"
"""What the runner calls."""
_ROWS_BUDGET = 2_000_000
_FEWEST, _MOST = 100, 500
Array = NDArray[Any]


class Sample(Record, frozen=True, kw_only=True):
    """Values of a user's metric: one for each model, and resamples of each (None where the function gave no number)."""

    estimates: tuple[float, ...]
    draws: tuple[tuple[float | None, ...], ...] = ()


class Measured(Record, frozen=True, kw_only=True):
    """A user's metric on all rows and on slices, which are named ``<column>=<value>``."""

    whole: Sample
    slices: dict[str, Sample] = {}  # noqa: RUF012 - msgspec copies it


def entry_of(metric: str) -> Entry:
    """Read ``file.py:function``; raises :class:`SettingsError` when the text is something else."""
    path, _, function = metric.partition(":")
    file = Path(path)
    if file.suffix != ".py" or not file.stem.isidentifier() or not function.isidentifier() or ".." in file.parts:
        raise SettingsError(
            f"'{metric}' is not a metric.",
            next_step="Write file.py:function, with a file of the project.",
            metric=metric,
        )
    search = file.parent.as_posix()
    return Entry(path=file.as_posix(), function=function, module=file.stem, search=search)


def arguments(
    root: Path, metrics: Sequence[str], deciding: str, evidence: Path, models: Sequence[str], seed: int
) -> dict[str, Any]:
    """Make the arguments of :func:`measure`; only the ``deciding`` metric is resampled and sliced."""
    entries = [entry_of(metric) for metric in metrics]
    folders = dict.fromkeys([*(str(root / entry.search) for entry in entries), str(root)])
    return {
        "folders": list(folders),
        "seed": seed,
        "label": "the metric " + ", ".join(metrics),
        "root": str(root),
        "evidence": str(evidence),
        "metrics": list(metrics),
        "deciding": deciding,
        "models": list(models),
        "reads": [str(evidence)],
        "writes": [str(evidence.parent / "metric")],
    }


def measure(given: Mapping[str, Any]) -> dict[str, Any]:
    """Call each metric on the evidence; metric -> :class:`Measured`, as plain data. Runs user code."""
    frame = pl.read_parquet(given["evidence"])
    truth = frame["truth"].to_numpy()
    answers = [frame[f"{model}.prediction"].to_numpy() for model in given["models"]]
    units = (frame["row"].rank("dense").cast(pl.Int64) - 1).to_numpy()
    measured = {}
    for metric in given["metrics"]:
        score = load_function(Path(given["root"]), entry_of(metric))
        resamples = _resamples(len(truth)) if metric == given["deciding"] else 0
        whole = [_number(metric, score(truth, answer)) for answer in answers]
        slices = {}
        for name, rows in _slices(frame):
            part = _tried(score, truth, answers, rows)
            if resamples and None not in part:
                drawn = _drawn_rows(units[rows], given["seed"], _FEWEST)
                slices[name] = {"estimates": part, "draws": _drawn(score, truth, answers, [rows[d] for d in drawn])}
        draws = _drawn(score, truth, answers, _drawn_rows(units, given["seed"], resamples))
        measured[metric] = {"whole": {"estimates": whole, "draws": draws}, "slices": slices}
    return measured


def _resamples(rows: int) -> int:
    return int(min(_MOST, max(_FEWEST, _ROWS_BUDGET // max(rows, 1))))


def _slices(frame: pl.DataFrame) -> list[tuple[str, Integers]]:
    """Row numbers of every slice, by its name."""
    found = []
    for column in frame.columns:
        if column.startswith("slice."):
            labels = frame[column].to_numpy()
            found += [
                (f"{column.removeprefix('slice.')}={value}", np.flatnonzero(labels == value))
                for value in frame[column].unique().sort()
            ]
    return found


Score = Callable[[Array, Array], Any]


def _drawn_rows(units: Integers, seed: int, resamples: int) -> Iterator[Integers]:
    """Row numbers drawn with replacement, ``resamples`` times; rows of one unit (of one key) are drawn together."""
    rng = generator(seed)
    rows, count = len(units), len(np.unique(units))
    starts = np.flatnonzero(np.diff(np.sort(units), prepend=-1))
    members = [] if count == rows else np.split(np.argsort(units, kind="stable"), starts[1:])
    for _ in range(resamples):
        drawn = rng.integers(0, count, count, dtype=np.int64)
        yield np.concatenate([members[unit] for unit in drawn]) if members else drawn


def _drawn(score: Score, truth: Array, answers: list[Array], drawn: Iterable[Integers]) -> list[list[float | None]]:
    """Values on the rows drawn, the same rows for every model."""
    values = [_tried(score, truth, answers, rows) for rows in drawn]
    return [list(one) for one in zip(*values, strict=True)] if values else [[] for _ in answers]


def _tried(score: Score, truth: Array, answers: list[Array], rows: Integers) -> list[float | None]:
    """Values on some of the rows; None where the function does not cope with so few or so uniform ones."""
    values: list[float | None] = []
    for answer in answers:
        try:
            value = float(score(truth[rows], answer[rows]))
        except Exception:  # noqa: BLE001 - the user's function: a class may be missing among these rows
            return [None for _ in answers]
        values.append(value if np.isfinite(value) else None)
    return values


def _number(metric: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise SettingsError(
            f"The metric {metric} gave {type(value).__name__} where a finite number was due.",
            next_step="Let it return one float for (y_true, y_pred).",
            metric=metric,
        )
    return number
