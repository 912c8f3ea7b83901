"""Answers to a few rows at a time, given as tuples: the same bits as for a frame, without the cost of making one.

A *row* holds the values of a signature's inputs in their order: bool, int, float (finite), str, date, datetime, bytes,
or None for missing. An *answer* is a pair: the prediction, and what comes with it (the probabilities of the classes in
their order, or further columns by name), or None. A row that the model refuses is answered by an error, alone.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Any, Protocol, TypeAlias

import numpy as np
import polars as pl

from interlock.data.casting import DTYPES
from interlock.errors import InterlockError, UserCodeFailed
from interlock.model.columns import Key, Value
from interlock.model.forest import TreeForest
from interlock.model.forms import CategoryTerm, Constant, Form, Linear, NumberTerm, Ranked
from interlock.model.framed import Answer, Extra, Framed, FramedAnswers, Given, Row, answers_of, frame_of
from interlock.model.onnx_graph import OnnxForm
from interlock.model.trees import LightGbm, Mapped, Plain
from interlock.records import ColumnType, Signature

__all__ = [
    "FRAMED",
    "MANY",
    "SEVERAL",
    "Answer",
    "Extra",
    "FrameRows",
    "Framed",
    "FramedAnswers",
    "Given",
    "Row",
    "Rows",
    "answers_of",
    "frame_of",
    "refused",
    "rows_of",
    "schema_of",
    "taker",
]

_EXP_LIMIT = 709.782712893384
"""``exp`` of more than this is infinite."""
MANY = 1_024
"""From so many rows on a frame is quicker: with two classes it breaks even at about 2,000, with four at 500."""
SEVERAL = 32
"""From so many rows on, rows of one score are added up by columns."""
FRAMED = 256
"""From so many rows on a frame is quicker where it is there already. For one score to make one is never quicker."""


def _is_large(rows: Framed) -> bool:
    """Whether a frame that is there is quicker."""
    return rows.has_frame and len(rows) >= FRAMED


def _is_worth(rows: Framed) -> bool:
    """Whether a frame is quicker, be it that one has to be made."""
    return len(rows) >= MANY or _is_large(rows)


class Rows(Protocol):
    """Answers rows."""

    @property
    def gathers(self) -> bool:
        """Whether many rows together cost much less than one after the other."""
        ...

    def answers(self, rows: Sequence[Row]) -> Sequence[Given]:
        """One answer or error per row, in order."""
        ...


def rows_of(form: Form, signature: Signature) -> Rows:
    """What answers rows as ``form`` answers frames of ``signature``, to the bit."""
    if isinstance(form, Constant):
        return _Same((form.value, form.shares or None))
    if isinstance(form, Ranked):
        return _Same((list(form.values), None))
    if isinstance(form, Linear) and all(_is_plain(term, signature) for term in form.terms):
        return _LinearRows(form, signature)
    if isinstance(form, LightGbm | TreeForest | OnnxForm):
        matrix = _Matrix(form.features, signature)
        if matrix.readable:
            few = _TreeRows(form, matrix) if isinstance(form, LightGbm) else _MatrixRows(form, matrix)
            return _FewOrMany(few, FrameRows(form.answer, signature))
    return FrameRows(form.answer, signature)


def refused(rows: int = 1) -> UserCodeFailed:
    """The model has no answer for a row: a value is missing or of a category that it was told to refuse."""
    return UserCodeFailed(
        f"The model has no answer for {rows} of the rows: a value is missing, not finite, or of an unknown category.",
        next_step="Train with an imputer and handle_unknown='ignore', or send what is missing.",
        cause="raised",
        rows=rows,
    )


class _Same:
    """One answer for all."""

    gathers = False

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def answers(self, rows: Sequence[Row]) -> list[Given]:
        return [self._answer] * len(rows)


class FrameRows:
    """Makes a frame of the rows. Rows that are refused together are asked again in halves, down to one."""

    gathers = True

    def __init__(self, answer: Callable[[pl.DataFrame], pl.DataFrame], signature: Signature) -> None:
        self._answer = answer
        self._schema = schema_of(signature)

    def together(self, rows: Sequence[Row]) -> Sequence[Given]:
        """Ask for all at once; raises :class:`UserCodeFailed` when the model refuses any."""
        frame = rows.frame if isinstance(rows, Framed) else frame_of(rows, self._schema)
        return answers_of(self._answer(frame), len(rows))

    def answers(self, rows: Sequence[Row]) -> Sequence[Given]:
        """Ask for all at once, and in halves where that is refused."""
        try:
            return self.together(rows)
        except InterlockError as error:
            if len(rows) == 1:
                return [error]
        half = len(rows) // 2
        return [*self.answers(rows[:half]), *self.answers(rows[half:])]


def taker(places: Sequence[int]) -> Callable[[Row], Row]:
    """What takes the values at some places of a row."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda row: tuple(row[place] for place in places)


def schema_of(signature: Signature) -> dict[str, pl.DataType]:
    """The types of a frame with the inputs of ``signature``."""
    return {column.name: DTYPES[column.type] for column in signature.inputs}


# ---- linear ------------------------------------------------------------------------------------------------------

_NUMERIC: frozenset[ColumnType] = frozenset({"bool", "int", "float"})


def _is_plain(term: NumberTerm | CategoryTerm, signature: Signature) -> bool:
    """Whether a term's values can be looked up as they are, without spelling one type as another."""
    kind = next(column.type for column in signature.inputs if column.name == term.column)
    if isinstance(term, NumberTerm):
        return kind in _NUMERIC
    return kind == "str" or (kind in _NUMERIC and not _is_text(term.keys))


def _is_text(keys: Sequence[Key]) -> bool:
    return all(isinstance(key, str) for key in keys)


class _LinearRows:
    """:class:`Linear`, term by term in its order: floats are added as the frames' way adds them."""

    gathers = False

    def __init__(self, form: Linear, signature: Signature) -> None:
        self._form, self._link, self._classes = form, form.link, form.classes
        self._intercepts = form.intercepts
        places = {column.name: (place, column.type) for place, column in enumerate(signature.inputs)}
        self._terms = [_Term(term, *places[term.column]) for term in form.terms]
        self._runs = _runs(self._terms) if len(form.intercepts) == 1 else []

    def answers(self, rows: Sequence[Row]) -> Sequence[Given]:
        single = len(self._intercepts) == 1
        if single and len(rows) < SEVERAL:
            return [self._one(row) for row in rows]
        if isinstance(rows, Framed) and (_is_large(rows) if single else _is_worth(rows)):
            with suppress(UserCodeFailed):  # one by one tells which row it was
                return answers_of(self._form.answer(rows.frame), len(rows))
        if not single:
            return [self._several(row) for row in rows]
        found = self._together(rows)
        return [self._one(row) for row in rows] if found is None else found

    def _together(self, rows: Sequence[Row]) -> list[Given] | None:
        """By columns what :meth:`_one` does by rows, to the bit; None where a row is refused."""
        columns = list(zip(*rows, strict=True))
        scores = np.full(len(rows), self._intercepts[0])
        with np.errstate(invalid="ignore", over="ignore"):
            for numbers, tables in self._runs:
                for place, shift, weight, filled in numbers:
                    values = columns[place]
                    missing = None in values
                    moved = [filled if value is None else value - shift for value in values] if missing else values
                    column = np.array(moved, dtype=np.float64)
                    scores += (column if missing else column - shift) * weight
                for place, weight_of, default, numeric in tables:
                    keys = columns[place]
                    if numeric:
                        keys = tuple(None if key is None else float(key) for key in keys)
                    scores += np.array([weight_of(key, default) for key in keys])
            if np.isnan(scores).any():
                return None
            if self._link == "number":
                return [(score, None) for score in scores.tolist()]
            low, high = self._classes[:2]
            labels = [high if above else low for above in (scores > 0).tolist()]
            if self._link == "sign":
                return [(label, None) for label in labels]
            shares = 1.0 / (np.exp(-scores) + 1.0)
        return list(zip(labels, zip((1.0 - shares).tolist(), shares.tolist(), strict=True), strict=True))

    def _one(self, row: Row) -> Given:
        score = self._intercepts[0]
        for numbers, tables in self._runs:
            for place, shift, weight, filled in numbers:
                value = row[place]
                score += (filled if value is None else value - shift) * weight
            for place, weight_of, default, numeric in tables:
                value = row[place]
                score += weight_of(float(value) if numeric and value is not None else value, default)
        if math.isnan(score):
            return refused()
        if self._link == "number":
            return score, None
        label = self._classes[score > 0]
        if self._link == "sign":
            return label, None
        share = _expit(score)
        return label, (1.0 - share, share)

    def _several(self, row: Row) -> Given:
        scores = list(self._intercepts)
        for term in self._terms:
            value = row[term.place]
            if term.table is None:
                moved = term.filled if value is None else value - term.shift
                for index, weight in enumerate(term.weights):
                    scores[index] += moved * weight
            else:
                for index, weight in enumerate(term.found(value)):
                    scores[index] += weight
        if math.isnan(scores[0]):
            return refused()
        label = self._classes[scores.index(max(scores))]
        if self._link == "largest":
            return label, None
        return label, (_softmax(scores) if self._link == "softmax" else _one_vs_rest(scores))


class _Term:
    """One term, ready to look up. ``table`` is None for a number; its key None is what a missing value adds."""

    def __init__(self, term: NumberTerm | CategoryTerm, place: int, kind: ColumnType) -> None:
        self.place = place
        self.numeric = kind in _NUMERIC
        self.table: dict[Any, tuple[float, ...]] | None = None
        self.weights: tuple[float, ...] = ()
        self.default: tuple[float, ...] = (math.nan,)
        self.shift, self.filled = 0.0, math.nan
        if isinstance(term, NumberTerm):
            self.shift, self.weights = term.shift, term.weights
            self.filled = math.nan if term.fill is None else term.fill - term.shift
            return
        width = len(term.weights[0]) if term.weights else len(term.unknown or term.missing or ())
        nothing = (math.nan,) * width
        text = _is_text(term.keys)
        keys = term.keys if text else [float(key) for key in term.keys]
        # of equal numbers the frames' way finds the first
        self.table = dict(reversed(list(zip(keys, term.weights, strict=True))))
        self.table[None] = term.missing or nothing
        self.default = term.unknown or nothing

    def found(self, value: Any) -> tuple[float, ...]:
        """The weights of a category."""
        assert self.table is not None
        if self.numeric and value is not None:
            return self.table.get(float(value), self.default)
        return self.table.get(value, self.default)


_Run: TypeAlias = tuple[list[tuple[int, float, float, float]], list[tuple[int, Callable[..., float], float, bool]]]


def _runs(terms: Sequence[_Term]) -> list[_Run]:
    """The terms of a single score in their order, numbers and tables apart: a loop then asks less."""
    runs: list[_Run] = []
    for term in terms:
        if not runs or (term.table is None and runs[-1][1]):
            runs.append(([], []))
        if term.table is None:
            runs[-1][0].append((term.place, term.shift, term.weights[0], term.filled))
        else:
            table = {key: weights[0] for key, weights in term.table.items()}
            runs[-1][1].append((term.place, table.get, term.default[0], term.numeric))
    return runs


def _expit(score: float) -> float:
    """``1 / (1 + exp(-score))``, as numpy finds it for a column."""
    return 1.0 / ((math.inf if -score > _EXP_LIMIT else float(np.exp(-score))) + 1.0)


def _softmax(scores: list[float]) -> tuple[float, ...]:
    largest = max(scores)
    powers = np.exp(np.array([score - largest for score in scores])).tolist()
    total = powers[0]
    for power in powers[1:]:
        total += power
    return tuple(power / total for power in powers)


def _one_vs_rest(scores: list[float]) -> tuple[float, ...]:
    shares = [_expit(score) for score in scores]
    total = shares[0]
    for share in shares[1:]:
        total += share
    if total == 0:
        return tuple(1.0 / float(len(shares)) for _ in shares)
    return tuple(share / total for share in shares)


# ---- trees -------------------------------------------------------------------------------------------------------

_Reader: TypeAlias = Callable[[Row], float]


class _FewOrMany:
    """A few rows one way, and a frame of many the way of frames."""

    def __init__(self, few: Rows, many: FrameRows) -> None:
        self._few, self._many = few, many
        self.gathers = few.gathers

    def answers(self, rows: Sequence[Row]) -> Sequence[Given]:
        way = self._many if isinstance(rows, Framed) and _is_worth(rows) else self._few
        return way.answers(rows)


class _Matrix:
    """Makes the matrix of a tree model, shape (rows, features), row by row."""

    def __init__(self, features: Sequence[Plain | Mapped], signature: Signature) -> None:
        places = {column.name: (place, column.type) for place, column in enumerate(signature.inputs)}
        readers = [_reader(feature, *places[feature.column]) for feature in features]
        self._ready = [reader for reader in readers if reader is not None]
        self.readable = len(self._ready) == len(readers)
        """Whether every column can be read from rows; else only a frame can spell it."""

    def of(self, rows: Sequence[Row]) -> list[list[float]]:
        """The matrix, row by row."""
        readers = self._ready
        return [[reader(row) for reader in readers] for row in rows]


class _TreeRows:
    """:class:`LightGbm` on a matrix made row by row; one call of the booster for all."""

    gathers = True

    def __init__(self, form: LightGbm, matrix: _Matrix) -> None:
        self._form = form
        self._matrix = matrix

    def answers(self, rows: Sequence[Row]) -> list[Given]:
        trees, raw = self._form.trees, self._form.predict_rows(np.array(self._matrix.of(rows)))
        if not trees.classes:
            return [(row[0], None) for row in raw.tolist()]
        if trees.outputs == 1:
            raw = np.stack([1.0 - raw[:, 0], raw[:, 0]], axis=1)
        best = raw.argmax(axis=1).tolist()
        return [(trees.classes[at], tuple(row)) for at, row in zip(best, raw.tolist(), strict=True)]


class _MatrixRows:
    """:class:`TreeForest` or :class:`OnnxForm` on a matrix made row by row."""

    def __init__(self, form: TreeForest | OnnxForm, matrix: _Matrix) -> None:
        self._form = form
        self._matrix = matrix
        self.gathers = isinstance(form, OnnxForm)  # rows walk through trees one after the other, but for very many

    def answers(self, rows: Sequence[Row]) -> list[Given]:
        given = self._form.answer_rows(self._matrix.of(rows))
        return [refused() if answer is None else answer for answer in given]


def _reader(feature: Plain | Mapped, place: int, kind: ColumnType) -> _Reader | None:
    """What reads one column of the matrix from a row; None when only a frame can."""
    if isinstance(feature, Mapped):
        return _mapped(feature, place, kind)
    fill = math.nan if feature.fill is None else feature.fill
    shift, divisor, scale, offset = feature.shift, feature.divisor, feature.scale, feature.offset

    def untouched(row: Row) -> float:
        value = row[place]
        return fill if value is None else float(value)

    def number(row: Row) -> float:
        value = row[place]
        return ((fill if value is None else value) - shift) / divisor * scale + offset

    if kind not in _NUMERIC:
        return None
    return untouched if feature.untouched else number


def _mapped(feature: Mapped, place: int, kind: ColumnType) -> Callable[[Row], float] | None:
    text = _is_text(feature.keys)
    if kind != "str" and (text or kind not in _NUMERIC):
        return None
    unknown = math.nan if feature.unknown is None else feature.unknown
    missing = math.nan if feature.missing is None else feature.missing
    keys: list[Value] = list(feature.keys) if text else [float(key) for key in feature.keys]
    table: dict[Any, float] = dict(reversed(list(zip(keys, feature.values, strict=True))))
    table[None] = missing
    if kind == "str":
        return lambda row: table.get(row[place], unknown)

    def found(row: Row) -> float:
        value = row[place]
        if value is None:
            return missing
        return table.get(float(value), unknown)

    return found
