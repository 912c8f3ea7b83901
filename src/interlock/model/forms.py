"""What may answer in our own process: forms that are loaded from JSON, arrays, text or a graph, never from a pickle.

A form is a folder: ``form.json`` (typed, strict; floats in shortest round-trip decimal, so bit-exact) and, for
LightGBM, ``booster.txt``, for forests ``.npy`` arrays, for ONNX ``model.onnx``. ``constant``, ``ranked`` and
``seasonal`` are the baselines; ``linear``, ``lightgbm``, ``forest`` and ``onnx`` are what
:mod:`interlock.model.compile` makes of a user's model when the answers are the same.

Answers are a frame with ``prediction`` and, for classifiers that know them, ``probability_0 …`` (float64).
"""

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeAlias

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.errors import BundleCorrupt
from interlock.model.columns import (
    CHUNK_ROWS,
    FORM_FILE,
    Coder,
    Floats,
    Key,
    Value,
    chunks,
    label_frame,
    numbers,
    refusal,
)
from interlock.model.forest import Forest, load_forest
from interlock.model.onnx_graph import Graph, load_graph
from interlock.model.seasonal import Seasonal
from interlock.model.trees import BOOSTER_FILE, LightGbm, Trees
from interlock.records import Record, Signature, canonical


class Form(Protocol):
    """Something that answers in our own process."""

    name: ClassVar[str]

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns that it reads."""
        ...

    def answer(self, frame: pl.DataFrame) -> pl.DataFrame:
        """One answer per row, in order; raises :class:`UserCodeFailed` for rows the model itself would refuse."""
        ...

    def files(self) -> dict[str, bytes]:
        """Give the content of each file that :func:`load_form` needs to make the same form."""
        ...


# ---- constant ----------------------------------------------------------------------------------------------------


class Constant(Record, frozen=True, tag="constant", tag_field="form", forbid_unknown_fields=True):
    """The same answer for every row: the commonest label with the share of every class, or the mean."""

    name: ClassVar[str] = "constant"
    value: Value
    shares: tuple[float, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """None: it looks at nothing."""
        return ()

    def answer(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Repeat the value and the shares."""
        columns = [pl.repeat(self.value, frame.height, eager=True, dtype=_dtype(self.value)).alias("prediction")]
        for index, share in enumerate(self.shares):
            columns.append(pl.repeat(share, frame.height, eager=True, dtype=pl.Float64).alias(f"probability_{index}"))
        return pl.DataFrame(columns)

    def files(self) -> dict[str, bytes]:
        """``form.json``."""
        return {FORM_FILE: canonical(self)}


def _dtype(value: Value) -> pl.DataType:
    kinds: dict[type, pl.DataType] = {bool: pl.Boolean(), int: pl.Int64(), float: pl.Float64(), str: pl.String()}
    return kinds[type(value)]


class Ranked(Record, frozen=True, tag="ranked", tag_field="form", forbid_unknown_fields=True):
    """The same ranking for every row: the most frequent values first."""

    name: ClassVar[str] = "ranked"
    values: tuple[Value, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """None: it looks at nothing."""
        return ()

    def answer(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Repeat the ranking."""
        one = pl.Series("prediction", [list(self.values)], dtype=pl.List(_dtype(self.values[0])))
        return pl.DataFrame([one.new_from_index(0, frame.height)])

    def files(self) -> dict[str, bytes]:
        """``form.json``."""
        return {FORM_FILE: canonical(self)}


# ---- linear ------------------------------------------------------------------------------------------------------


class NumberTerm(Record, frozen=True, tag="number", tag_field="kind", forbid_unknown_fields=True):
    """Adds ``(x - shift) * weights``; a missing x counts as ``fill``, and without ``fill`` it is refused."""

    column: str
    shift: float
    weights: tuple[float, ...]
    fill: float | None = None


class CategoryTerm(Record, frozen=True, tag="category", tag_field="kind", forbid_unknown_fields=True):
    """Adds the weights of the row's category. ``unknown`` and ``missing`` are None where the model refuses them."""

    column: str
    keys: tuple[Key, ...]
    weights: tuple[tuple[float, ...], ...]
    unknown: tuple[float, ...] | None
    missing: tuple[float, ...] | None


Link: TypeAlias = Literal["number", "sigmoid", "softmax", "one-vs-rest", "sign", "largest"]
"""How scores become answers. ``sign`` and ``largest`` give labels without probabilities."""


class Linear(Record, frozen=True, dict=True, tag="linear", tag_field="form", forbid_unknown_fields=True):
    """Folded linear algebra over scaled numbers and one-hot categories: k scores a row, then a link.

    ``intercepts`` has one entry a score. ``classes`` are in the order of the probabilities.
    """

    name: ClassVar[str] = "linear"
    link: Link
    intercepts: tuple[float, ...]
    terms: tuple[NumberTerm | CategoryTerm, ...]
    classes: tuple[Value, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the terms, each once."""
        return tuple(dict.fromkeys(term.column for term in self.terms))

    def answer(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Score in chunks; raises :class:`UserCodeFailed` when a row has a value that the model refuses."""
        scores = self.scores(frame)
        bad = np.isnan(scores[0])
        if bad.any():
            raise refusal(frame, self.columns, bad)
        if self.link == "number":
            return pl.DataFrame({"prediction": scores[0]})
        if self.link in ("sign", "sigmoid"):
            codes = scores[0] > 0
            return label_frame(self.classes, codes, self._probabilities(scores))
        return label_frame(self.classes, scores.argmax(axis=0), self._probabilities(scores))

    def scores(self, frame: pl.DataFrame) -> Floats:
        """Raw scores, shape (k, rows), float64; NaN where a value is refused."""
        result: Floats = np.empty((len(self.intercepts), frame.height))
        readers = [adder.reader(frame[adder.column]) for adder in self._adders]
        buffer = np.empty(min(CHUNK_ROWS, frame.height))
        with np.errstate(invalid="ignore", over="ignore"):
            for part in chunks(frame.height):
                block = result[:, part]
                block[:] = np.asarray(self.intercepts)[:, np.newaxis]
                for add in readers:
                    add(block, part, buffer[: block.shape[1]])
        return result

    @cached_property
    def _adders(self) -> "list[_Numbers | _Categories]":
        """The terms, made ready once: the tables of a thousand categories cost more than a chunk of rows."""
        return [_Numbers(term) if isinstance(term, NumberTerm) else _Categories(term) for term in self.terms]

    def _probabilities(self, scores: Floats) -> Floats | None:
        """Turn scores into probabilities, shape (classes, rows); destroys ``scores``."""
        if self.link in ("sign", "largest"):
            return None
        result = np.empty((2, scores.shape[1])) if self.link == "sigmoid" else scores
        with np.errstate(over="ignore"):
            for part in chunks(scores.shape[1]):
                if self.link == "sigmoid":
                    _expit(scores[0, part], out=result[1, part])
                    np.subtract(1.0, result[1, part], out=result[0, part])
                elif self.link == "softmax":
                    _softmax(scores[:, part])
                else:
                    _one_vs_rest(scores[:, part])
        return result

    def files(self) -> dict[str, bytes]:
        """``form.json``."""
        return {FORM_FILE: canonical(self)}


def _expit(scores: Floats, *, out: Floats) -> None:
    """Write ``1 / (1 + exp(-scores))`` into ``out``."""
    np.negative(scores, out=out)
    np.exp(out, out=out)
    np.add(out, 1.0, out=out)
    np.divide(1.0, out, out=out)


def _softmax(scores: Floats) -> None:
    """Replace scores, shape (classes, rows), by their softmax."""
    scores -= scores.max(axis=0)
    for row in scores:
        np.exp(row, out=row)
    scores /= _total(scores)


def _one_vs_rest(scores: Floats) -> None:
    """Replace scores, shape (classes, rows), by each class's own share of the sum; uniform where all are zero."""
    for row in scores:
        _expit(row, out=row)
    scores[:, _total(scores) == 0] = 1.0
    scores /= _total(scores)


def _total(shares: Floats) -> Floats:
    """Sum over the classes, one by one: numpy's own order of summing depends on the number of rows."""
    result: Floats = shares[0].copy()
    for row in shares[1:]:
        result += row
    return result


_Add: TypeAlias = Callable[[Floats, slice, Floats], None]
"""Adds rows of one column, those of a slice, to a block of scores, shape (k, rows), with a buffer for ``rows``."""


class _Numbers:
    """Adds one number column to the scores, chunk by chunk."""

    def __init__(self, term: NumberTerm) -> None:
        self.column = term.column
        self._term = term

    def reader(self, series: pl.Series) -> _Add:
        """What adds the values of ``series``."""
        term, values = self._term, numbers(series)
        fill = term.fill if values.dtype.kind == "f" else None
        last = len(term.weights) - 1

        def add(block: Floats, part: slice, buffer: Floats) -> None:
            np.subtract(values[part], term.shift, out=buffer)
            if fill is not None:
                np.copyto(buffer, fill - term.shift, where=np.isnan(buffer))
            for index, weight in enumerate(term.weights):
                scaled = np.multiply(buffer, weight, out=buffer if index == last else None)
                block[index] += scaled

        return add


class _Categories:
    """Adds one category column: a table of weights, one row a code, taken by code."""

    def __init__(self, term: CategoryTerm) -> None:
        self.column = term.column
        width = len(term.weights[0]) if term.weights else len(term.unknown or term.missing or ())
        refused = (math.nan,) * width
        self._table = np.array([*term.weights, term.unknown or refused, term.missing or refused])
        self._coder = Coder(term.keys)
        self._known: tuple[NDArray[np.intp], Floats] | None = None
        """The weights in the order of the codes that came last: most often the next ones have the same."""

    def reader(self, series: pl.Series) -> _Add:
        """What adds the weights of the values of ``series``."""
        codes, positions = self._coder.codes(series)
        known = self._known
        if known is None or known[0] is not positions:
            known = self._known = positions, np.ascontiguousarray(self._table[positions].T)
        tables = known[1]
        places = np.empty(min(CHUNK_ROWS, len(codes)), dtype=np.intp)

        def add(block: Floats, part: slice, buffer: Floats) -> None:
            rows = places[: len(buffer)]
            rows[:] = codes[part]
            for index, table in enumerate(tables):
                np.take(table, rows, out=buffer, mode="clip")
                block[index] += buffer

        return add


# ---- loading -----------------------------------------------------------------------------------------------------

_Stored: TypeAlias = Constant | Ranked | Seasonal | Linear | Trees | Forest | Graph
_FORMS: dict[str, type[_Stored]] = {
    kind.name: kind for kind in (Constant, Ranked, Seasonal, Linear, Trees, Forest, Graph)
}


def load_form(folder: Path, name: str, signature: Signature) -> Form:
    """Load the form called ``name`` from its folder.

    Raises :class:`BundleCorrupt` when the file is not such a form or reads columns that the signature lacks, and
    :class:`StoreFault` when LightGBM is needed and not installed.
    """
    kind = _FORMS.get(name)
    if kind is None:
        raise BundleCorrupt(f"'{name}' is no form that this version knows.", next_step="Upgrade Interlock.", form=name)
    try:
        stored = msgspec.json.decode((folder / FORM_FILE).read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise BundleCorrupt(
            f"{FORM_FILE} is not a form '{name}': {error}.", next_step="Pack again.", form=name
        ) from error
    absent = [column for column in stored.columns if column not in signature.names]
    if absent:
        raise BundleCorrupt(
            f"{FORM_FILE} reads '{absent[0]}', which the signature lacks.", next_step="Pack again.", form=name
        )
    if isinstance(stored, Forest):
        return load_forest(stored, folder)
    if isinstance(stored, Graph):
        return load_graph(stored, folder)
    if isinstance(stored, Trees):
        return LightGbm(stored, (folder / BOOSTER_FILE).read_bytes())
    return stored
