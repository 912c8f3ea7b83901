"""Is this answer acceptable? Asked of every answer before anybody sees it.

Pure: an answer and the output of the signature in, the name of what is wrong out. What is wrong is a *fault* of the
model, by its cause; the words for people are in :data:`FAULTS`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from operator import ne
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.data.profile import ColumnProfile, Profile
from interlock.errors import InterlockError
from interlock.model.columns import places
from interlock.model.rows import FramedAnswers, Given, Row
from interlock.records import Output, Record

Cause: TypeAlias = Literal[
    "raised", "type", "not-finite", "range", "class", "probabilities", "constant", "deadline", "died", "memory", "count"
]
FAULTS: Mapping[str, str] = {
    "raised": "the model refused the record or raised an exception",
    "type": "the answer is not of the type of the target",
    "not-finite": "the answer is not a finite number",
    "range": "the answer is far outside of what training saw",
    "class": "the label is none of the classes of the target",
    "probabilities": "the probabilities are no probabilities, or do not sum to 1",
    "constant": "different records were given one and the same answer, too often to be chance",
    "deadline": "the model did not answer in time",
    "died": "the process of the model ended",
    "memory": "the process of the model took too much memory",
    "count": "the model gave another number of answers than there were records",
}

Check: TypeAlias = Callable[[Given], "Cause | None"]

PROBABILITY_SLACK: Final = 1e-6
"""How far one probability may lie outside of 0 to 1."""
SUM_SLACK: Final = 1e-4
"""How far the sum of the probabilities may be from 1: networks in 32 bits are off by 1e-6."""
_LARGEST: Final = 1.7976931348623157e308
_TYPES: Mapping[str, type] = {"str": str, "int": int, "bool": bool}


class Limits(Record, frozen=True, kw_only=True):
    """How strict to be. ``reach``: numbers may lie so many times the range of training beyond its ends; None: any."""

    reach: float | None = 1.0


def check_of(output: Output | None, limits: Limits) -> Check:
    """The check for answers of one signature: None for a good answer, else the cause."""
    if output is None or output.kind == "any":
        return _any
    if output.kind == "label":
        return _label_check(output)
    if output.kind == "number":
        return _number_check(output, limits)
    return _text if output.kind == "text" else _ranking_check(output)


Sieve: TypeAlias = Callable[[Sequence[Given]], bool]
"""Whether all answers are good for certain, found by columns. Where it says no, each is asked about by itself."""
_FRAME_TYPES: Final[Mapping[str, pl.DataType]] = {"str": pl.String(), "int": pl.Int64(), "bool": pl.Boolean()}
_FEW: Final = 16
"""So many classes are quicker compared one by one."""
_SURE: Final = 0.99
"""The sieve takes so much of the slack: the order of summing, which decides at the very edge, is left to the check."""


def sieve_of(output: Output | None, limits: Limits) -> Sieve | None:
    """The check over columns; None for answers that are no columns of plain values."""
    if output is None or output.kind not in ("label", "number"):
        return None
    if output.kind == "number":
        framed, listed = _number_sieves(output, limits)
    elif output.classes is not None:
        framed, listed = _label_sieve(output, output.classes), _label_list_sieve(output, output.classes)
    else:
        return None
    return lambda given: framed(given) if isinstance(given, FramedAnswers) else listed(given)


_Framed: TypeAlias = Callable[[FramedAnswers], bool]


def _number_sieves(output: Output, limits: Limits) -> tuple[_Framed, Sieve]:
    low, high = _reach(output, limits)

    def listed(given: Sequence[Given]) -> bool:
        if set(map(type, given)) != {tuple}:
            return False
        values = [each[0] for each in given]  # type: ignore[index]
        return set(map(type, values)) == {float} and all(low <= value <= high for value in values)

    return lambda given: _all_within(given.frame["prediction"], low, high), listed


def _label_list_sieve(output: Output, classes: Sequence[str | int | bool]) -> Sieve:
    kind, known, count = _TYPES.get(output.type, str), frozenset(classes), len(classes)

    def sieve(given: Sequence[Given]) -> bool:
        if set(map(type, given)) != {tuple}:
            return False
        labels, shares = zip(*given, strict=True)
        if set(map(type, labels)) != {kind} or not known.issuperset(labels):
            return False
        if shares.count(None) == len(shares):
            return True
        if None in shares or set(map(len, shares)) != {count}:
            return False
        table = np.array(shares)
        if table.dtype != np.float64:
            return False
        total = table.sum(axis=1)
        return bool((table >= -PROBABILITY_SLACK).all() and (np.abs(total - 1.0) <= _SURE * SUM_SLACK).all())

    return sieve


def _label_sieve(output: Output, classes: Sequence[str | int | bool]) -> _Framed:
    kind = _FRAME_TYPES.get(output.type, pl.String())
    known = pl.Series(list(classes))
    numbers = None if kind == pl.String else known.to_numpy()
    texts = frozenset(classes)

    def all_known(labels: pl.Series) -> bool:
        if isinstance(labels.dtype, pl.Enum) and kind == pl.String:
            return texts.issuperset(labels.dtype.categories)
        if labels.dtype != kind:
            return False
        if numbers is None:
            return bool(labels.is_in(known.implode()).all())
        given = labels.to_numpy()
        if len(numbers) > _FEW:
            return bool(np.isin(given, numbers).all())
        return sum(np.count_nonzero(given == each) for each in numbers) == len(given)

    names = [f"probability_{place}" for place in range(len(classes))]

    def sieve(given: FramedAnswers) -> bool:
        frame = given.frame
        labels = frame["prediction"]
        if known.dtype != kind or frame.columns[1:] not in ([], names):
            return False
        if labels.null_count() or not all_known(labels):
            return False
        if frame.width == 1:
            return True
        shares = [frame[name] for name in names]
        if not all(_all_within(each, -PROBABILITY_SLACK, _LARGEST) for each in shares):
            return False
        total = sum((each.to_numpy() for each in shares), np.zeros(frame.height))
        return bool((np.abs(total - 1.0) <= _SURE * SUM_SLACK).all())

    return sieve


def _all_within(values: pl.Series, low: float, high: float) -> bool:
    if values.dtype != pl.Float64 or values.null_count():
        return False
    numbers = values.to_numpy()
    return bool(((numbers >= low) & (numbers <= high)).all())


def _reach(output: Output, limits: Limits) -> tuple[float, float]:
    """How far a number may lie."""
    low, high = -_LARGEST, _LARGEST
    if limits.reach is not None and output.low is not None and output.high is not None:
        slack = limits.reach * (output.high - output.low)
        low, high = max(low, output.low - slack), min(high, output.high + slack)
    return low, high


def _failure(given: InterlockError) -> Cause:
    cause = given.facts.get("cause", "raised")
    if cause in ("deadline", "memory"):
        return "deadline" if cause == "deadline" else "memory"
    if cause in ("exited", "killed"):
        return "died"
    return "type" if cause == "nonsense" else "raised"


def _label_check(output: Output) -> Check:
    kind = _TYPES.get(output.type, str)
    classes = None if output.classes is None else frozenset(output.classes)
    count = len(output.classes or ())

    def check(given: Given) -> Cause | None:
        if type(given) is not tuple:
            return _failure(given)  # type: ignore[arg-type]
        label, shares = given
        if type(label) is not kind:
            return "type"
        if classes is not None and label not in classes:
            return "class"
        if shares is not None:
            if len(shares) != count or not min(shares) >= -PROBABILITY_SLACK:  # type: ignore[operator]
                return "probabilities"
            if not abs(sum(shares) - 1.0) <= SUM_SLACK:  # type: ignore[arg-type]
                return "probabilities"
        return None

    return check


def _number_check(output: Output, limits: Limits) -> Check:
    low, high = _reach(output, limits)

    def check(given: Given) -> Cause | None:
        if type(given) is not tuple:
            return _failure(given)  # type: ignore[arg-type]
        value = given[0]
        if type(value) is not float:
            return "type"
        if low <= value <= high:
            return None
        return "range" if math.isfinite(value) else "not-finite"

    return check


def _text(given: Given) -> Cause | None:
    if isinstance(given, InterlockError):
        return _failure(given)
    return None if type(given[0]) is str and _is_finite(given[1]) else "type"


def _ranking_check(output: Output) -> Check:
    kind = _TYPES.get(output.type, object)

    def check(given: Given) -> Cause | None:
        if isinstance(given, InterlockError):
            return _failure(given)
        found = given[0]
        if type(found) is not list or not found or not all(isinstance(each, kind) for each in found):
            return "type"
        return None if _is_finite(given[1]) else "not-finite"

    return check


def _any(given: Given) -> Cause | None:
    if isinstance(given, InterlockError):
        return _failure(given)
    if given[0] is None:
        return "type"
    return None if _is_finite(given[0]) and _is_finite(given[1]) else "not-finite"


def _is_finite(value: Any) -> bool:
    """Whether no number in it is NaN or infinite."""
    if type(value) is float:
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(_is_finite(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_finite(item) for item in value)
    return True


# ---- one answer for everything -----------------------------------------------------------------------------------

_CHANCE: Final = 1e-12
_FEWEST: Final = 50


class Constancy:
    """Notices a model that gives different records one and the same answer.

    ``limit`` equal answers in a row to records that differ are too many: where the most frequent answer on the holdout
    had the share p, so many in a row have the probability p ** limit, at most 1e-12.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._run = 0
        self._answer: Given | None = None
        self._row: Row = ()

    def sees(self, row: Row, given: Given) -> bool:
        """Say whether with this answer the run is too long."""
        if given == self._answer:
            if row != self._row:
                self._run += 1
                self._row = row
            return self._run >= self.limit
        self._run, self._answer, self._row = 0, given, row
        return False

    def passes(self, rows: Sequence[Row], given: Sequence[Given]) -> bool:
        """Take in many answers at once; False, and nothing is taken in, where a run may come near the limit.

        They must be good, as a sieve finds them to be.
        """
        if not given:
            return True
        if isinstance(given, FramedAnswers):
            differs = np.zeros(len(given) - 1, dtype=bool)
            for column in reversed(given.frame.get_columns()):  # of probabilities hardly two in a row are equal
                values = _comparable(column)
                differs |= values[1:] != values[:-1]
                if differs.all():
                    break
        else:
            differs = np.fromiter(map(ne, given, islice(given, 1, None)), dtype=bool, count=len(given) - 1)
        starts = np.concatenate(([0], np.flatnonzero(differs) + 1))
        lengths = np.diff(starts, append=len(given))
        if max(self._run + 1 + int(lengths[0]), int(lengths.max())) >= self.limit:
            return False
        last = int(starts[-1])
        if last:
            self._answer = None
        for row, each in zip(rows[last:], given[last:], strict=True):
            self.sees(row, each)
        return True


def _comparable(column: pl.Series) -> NDArray[Any]:
    """The values of a column, which has no nulls, as an array of which neighbours can be compared."""
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.to_numpy()
    if isinstance(column.dtype, pl.Enum):
        return places(column, len(column.dtype.categories))
    return column.rle_id().to_numpy()


def constancy_limit(reference: Profile | None) -> int | None:
    """The limit for a model with these answers on its holdout; None where they were (nearly) constant, or not kept."""
    if reference is None:
        return None
    told = reference.column("probability_0") or reference.column("prediction")
    if told is None or told.count == 0:
        return None
    share = _largest_share(told)
    if share > 0.999:
        return None
    return max(_FEWEST, math.ceil(math.log(_CHANCE) / math.log(max(share, 0.01))))


def _largest_share(column: ColumnProfile) -> float:
    """Of all values, the share of the most frequent one, or an upper bound of it."""
    counts = column.bins if column.categories is None else (*column.categories.values(), column.other)
    return max(counts, default=0) / column.count
