"""Answers from an opened bundle: by its form in our own process, or by its native model in a worker process."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec
import polars as pl

from interlock.data.casting import DTYPES
from interlock.errors import DataRefused, Fault, UserCodeFailed
from interlock.model.bundle import Opened, session_arguments
from interlock.model.columns import spelled
from interlock.model.forms import Form, load_form
from interlock.model.native import OPEN_MODEL, packed, shape_answers, unpacked
from interlock.model.runner import Runner, Session
from interlock.records import Column, ColumnType, Signature
from interlock.settings import Settings
from interlock.units import seconds

INLINE_ROWS, INLINE_BYTES = 1_024, 256_000
"""Rows up to so many travel in the call itself, and not by files."""
CHILD_ROWS = 65_536
"""Rows handed to a worker process at a time; the deadline is for each such call."""
FEW_ROWS = 64
"""Up to so many rows travel as they are: to make a frame of them here costs more than the call."""
_AS_THEY_ARE: frozenset[ColumnType] = frozenset({"bool", "int", "float", "str"})


class Predictor(ABC):
    """Answers frames until it is closed. ``form`` says who answers: a form of our own, or ``native``."""

    form: str
    signature: Signature

    def predict(self, frame: pl.DataFrame, *, encoded: bool = False) -> pl.DataFrame:
        """One answer per row of ``frame``, in order: ``prediction`` and, where known, ``probability_0 …``.

        With ``encoded``, labels that are text may be an Enum of the classes. Columns beyond the signature are left
        alone. Raises :class:`DataRefused` when a column is missing or cannot be cast to its type, and
        :class:`UserCodeFailed` when the model has no usable answer.
        """
        answers = self._answer(fitting(frame, self.signature, encoded=self.form != "native"))
        if answers.height != frame.height:
            raise UserCodeFailed(
                f"The model gave {answers.height} answers for {frame.height} rows.",
                next_step="Return one answer per row.",
                cause="nonsense",
            )
        return answers if encoded else spelled(answers)

    def few(self, rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame | None:
        """The answers to rows of the signature, where it costs less than by a frame; else None. Else as predict."""
        del rows
        return None

    @abstractmethod
    def _answer(self, frame: pl.DataFrame) -> pl.DataFrame: ...

    def ready(self) -> None:
        """Load now what would be loaded with the first rows; raises :class:`UserCodeFailed` when it cannot be."""
        return

    def close(self) -> None:
        """Let go of what answers; harmless when done twice."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _InProcess(Predictor):
    def __init__(self, form: Form, signature: Signature) -> None:
        self.form = form.name
        self.signature = signature
        self._form = form

    def _answer(self, frame: pl.DataFrame) -> pl.DataFrame:
        return self._form.answer(frame)


class _InWorker(Predictor):
    """Starts its session with the first rows; a session that died is started anew for the next call."""

    def __init__(self, opened: Opened, runner: Runner, settings: Settings) -> None:
        self.form = "native"
        self.signature = opened.bundle.signature
        self._opened = opened
        self._runner = runner
        self._deadline_s = seconds(settings.model.predict_deadline)
        self._session: Session | None = None
        self._numbers = itertools.count()
        self._scratch = Path(runner.scratch) / f"predictor-{opened.bundle.digest[:12]}-{id(self):x}"
        types = {column.type for column in self.signature.inputs}
        self._takes_cells = bool(types) and types <= _AS_THEY_ARE

    def _answer(self, frame: pl.DataFrame) -> pl.DataFrame:
        if frame.is_empty():
            return shape_answers([], 0, self.signature.output)
        parts = [self._ask(part) for part in frame.iter_slices(CHILD_ROWS)]
        return pl.concat(parts)

    def few(self, rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame | None:
        """Send the values of a few rows column by column, where JSON has them as they are."""
        if not self._takes_cells or not 0 < len(rows) <= FEW_ROWS:
            return None
        with self._watched():
            outcome = self._living().call({"cells": list(zip(*rows, strict=True))}, deadline_s=self._deadline_s)
            return unpacked(outcome.value["given"])

    def _ask(self, frame: pl.DataFrame) -> pl.DataFrame:
        with self._watched():
            if frame.height <= INLINE_ROWS and frame.estimated_size() <= INLINE_BYTES:
                outcome = self._living().call({"given": packed(frame)}, deadline_s=self._deadline_s)
                return unpacked(outcome.value["given"])
            return self._by_files(frame)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """A call, after which a session that did not survive it is let go of."""
        try:
            yield
        except UserCodeFailed as error:
            if error.facts.get("cause") not in ("raised", "nonsense"):
                self.close()
            raise

    def _by_files(self, frame: pl.DataFrame) -> pl.DataFrame:
        number = next(self._numbers)
        self._scratch.mkdir(parents=True, exist_ok=True)
        rows, answers = self._scratch / f"{number}-rows.arrow", self._scratch / f"{number}-answers.arrow"
        frame.write_ipc(rows)
        try:
            self._living().call({"rows": str(rows), "answers": str(answers)}, deadline_s=self._deadline_s)
            return pl.read_ipc(answers)
        finally:
            rows.unlink(missing_ok=True)
            answers.unlink(missing_ok=True)

    def ready(self) -> None:
        """Load the model in its worker process."""
        self._living()

    def _living(self) -> Session:
        if self._session is None:
            self._scratch.mkdir(parents=True, exist_ok=True)  # where a confined model may write
            arguments = {
                "bundle": str(self._opened.path),
                "signature": msgspec.to_builtins(self.signature),
                "reads": [str(self._opened.path)],
                "writes": [str(self._scratch)],
                **session_arguments(self._opened.path, self._opened.bundle.seed),
            }
            self._session = self._runner.session(OPEN_MODEL, arguments, deadline_s=self._deadline_s)
        return self._session

    def close(self) -> None:
        """End the worker's session."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


def open_form(opened: Opened) -> Form:
    """The compiled form of a verified bundle; raises :class:`BundleCorrupt` when it cannot be read."""
    return load_form(opened.path / "fast", opened.bundle.form, opened.bundle.signature)


def open_predictor(opened: Opened, runner: Runner | None, settings: Settings) -> Predictor:
    """Make a predictor of a verified bundle: its compiled form in our own process, else its native model in a worker.

    Raises :class:`BundleCorrupt` when the form cannot be read, and :class:`Fault` when only user code can answer and
    there is no ``runner``.
    """
    bundle = opened.bundle
    if bundle.form != "native":
        return _InProcess(open_form(opened), bundle.signature)
    if runner is None:
        raise Fault(
            f"Bundle {bundle.digest[:12]} needs a worker process to answer.", next_step="Run 'interlock doctor'."
        )
    return _InWorker(opened, runner, settings)


def fitting(frame: pl.DataFrame, signature: Signature, *, encoded: bool = False) -> pl.DataFrame:
    """Select the columns of the signature, in order and of its types; ``encoded`` leaves dictionary-encoded text so.

    Raises :class:`DataRefused` when a column is missing or cannot be cast without loss.
    """
    for column in signature.inputs:
        if column.name not in frame.columns:
            raise DataRefused(
                f"Column '{column.name}' is missing: the rows have {frame.width} columns, "
                f"the model takes {len(signature.inputs)}.",
                next_step="Add the column, or release a model that does not need it.",
                column=column.name,
            )
    return pl.DataFrame([_cast(frame[column.name], column, encoded=encoded) for column in signature.inputs])


def _cast(series: pl.Series, column: Column, *, encoded: bool) -> pl.Series:
    wanted = DTYPES[column.type]
    is_encoded = isinstance(series.dtype, pl.Categorical | pl.Enum)
    if series.dtype == wanted or (encoded and is_encoded and column.type == "str"):
        return series
    try:
        result = series.cast(wanted)
        lossless = bool(result.cast(series.dtype).eq_missing(series).all())
    except pl.exceptions.PolarsError:
        lossless = False
    if not lossless:
        raise DataRefused(
            f"Column '{column.name}' is {series.dtype} and cannot be read as {column.type}.",
            next_step="Check the rows against the signature first.",
            column=column.name,
        )
    return result
