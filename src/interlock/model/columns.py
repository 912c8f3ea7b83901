"""Columns as arrays and answers as frames: what every form that answers in our own process is made with.

Shapes are stated in each docstring; ``rows`` is the height of the frame. Nothing here looks at more than one row at a
time, so that answers do not depend on how rows were cut into chunks.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.errors import UserCodeFailed

Floats: TypeAlias = NDArray[np.float64]
Key: TypeAlias = bool | int | float | str
Value: TypeAlias = bool | int | float | str

FORM_FILE = "form.json"
CHUNK_ROWS = 32_768
"""Rows scored at a time: one float64 column of a chunk (256 KiB) stays in the second-level cache."""

_POOL_LIMIT = 100_000
_SHOWN = 4_096


def numbers(series: pl.Series) -> NDArray[Any]:
    """View a column as numbers, shape (rows,): no copy when nothing is missing; missing values become NaN (float64)."""
    if series.dtype == pl.Boolean:
        series = series.cast(pl.Int8)
    if series.null_count():
        series = series.cast(pl.Float64).fill_null(math.nan)
    return series.to_numpy()


class Coder:
    """Turns the values of a column into positions in ``keys``: len(keys) for unknown, len(keys) + 1 for missing.

    Text is looked up once per *distinct* value when the column is Categorical or Enum, and by one hash lookup a row
    when it is String. Numbers are found by binary search, and bool is a number.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        self.size = len(keys)
        self._known: tuple[pl.Series, NDArray[np.intp]] | None = None
        self._same = np.arange(self.size + 2)
        self._text = all(isinstance(key, str) for key in keys)
        if self._text:
            self._enum = pl.Enum([str(key) for key in keys])
        else:
            plain = np.array([float(key) for key in keys])
            self._order = np.argsort(plain, kind="stable")
            self._sorted = plain[self._order]

    def codes(self, series: pl.Series) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """Codes, shape (rows,), and the position in ``keys`` of each code: ``positions[codes]`` has one entry a row."""
        if not self._text:
            return self._number_codes(series)
        dtype = series.dtype
        if isinstance(dtype, pl.Categorical):
            pool = dtype.categories.to_series()
            if len(pool) <= max(_POOL_LIMIT, len(series)):
                return self._pooled(series, pool)
        if isinstance(dtype, pl.Enum):
            return self._pooled(series, dtype.categories)
        return self._text_codes(series if dtype == pl.String else series.cast(pl.String))

    def _pooled(self, series: pl.Series, pool: pl.Series) -> tuple[NDArray[Any], NDArray[np.intp]]:
        known = self._known
        if known is None or not known[0].equals(pool):
            known = self._known = pool, self._positions(pool)
        codes = series.to_physical()
        if codes.null_count():
            codes = codes.cast(pl.UInt32).fill_null(len(pool))
        return codes.to_numpy(), known[1]

    def _positions(self, pool: pl.Series) -> NDArray[np.intp]:
        """The position in ``keys`` of each value of the pool, and last that of missing."""
        positions = pool.cast(pl.String).cast(self._enum, strict=False).to_physical().fill_null(self.size)
        return np.append(positions.to_numpy().astype(np.intp), self.size + 1)

    def _text_codes(self, series: pl.Series) -> tuple[NDArray[Any], NDArray[np.intp]]:
        result = places(series.cast(self._enum, strict=False), self.size)
        if series.null_count():
            result = np.where(series.is_null().to_numpy(), self.size + 1, result)
        return result, self._same

    def _number_codes(self, series: pl.Series) -> tuple[NDArray[Any], NDArray[np.intp]]:
        if series.dtype == pl.String or isinstance(series.dtype, pl.Categorical | pl.Enum):
            missing = series.is_null().to_numpy()
            return np.where(missing, self.size + 1, self.size), self._same
        values = numbers(series)
        place = np.searchsorted(self._sorted, values)
        np.minimum(place, self.size - 1, out=place)
        codes = np.where(self._sorted[place] == values, self._order[place], self.size)
        if values.dtype.kind == "f":
            codes[np.isnan(values)] = self.size + 1
        return codes, self._same


def places(coded: pl.Series, size: int) -> NDArray[Any]:
    """Places of the values of an Enum of ``size`` categories, shape (rows,), unsigned; ``size`` for null.

    Arrow shows the codes of a few categories in a third of the time that a plan of Polars for one column takes.
    """
    if size > _SHOWN:
        codes = coded.to_physical().cast(pl.UInt32)
        return (codes.fill_null(size) if codes.null_count() else codes).to_numpy()
    array = coded.to_arrow().indices
    validity, values = array.buffers()
    width = array.type.bit_width // 8
    result = np.frombuffer(values, dtype=f"u{width}", count=len(array), offset=array.offset * width)
    if not array.null_count:
        return result
    valid = np.unpackbits(np.frombuffer(validity, dtype=np.uint8), bitorder="little")
    return np.where(valid[array.offset : array.offset + len(array)], result, np.uint32(size))


def chunks(rows: int) -> Iterator[slice]:
    """Cut ``rows`` into slices of at most :data:`CHUNK_ROWS`."""
    for start in range(0, rows, CHUNK_ROWS):
        yield slice(start, min(start + CHUNK_ROWS, rows))


def _labels(classes: Sequence[Value], codes: NDArray[Any]) -> pl.Series:
    if all(isinstance(label, str) for label in classes):
        enum = pl.Enum([str(label) for label in classes])
        width = pl.Series([], dtype=enum).to_physical().to_numpy().dtype
        return pl.Series("prediction", codes.astype(width)).cat.to(enum)
    if len(codes) > CHUNK_ROWS:  # Polars has memory at hand for that; for few its plan costs more than the answer
        return pl.Series("prediction", list(classes)).gather(codes.astype(np.uint32))
    return pl.Series("prediction", np.array(classes)[codes.astype(np.intp)])


def spelled(answers: pl.DataFrame) -> pl.DataFrame:
    """Answers whose labels are plain text in place of an Enum of the classes."""
    if not any(isinstance(dtype, pl.Enum) for dtype in answers.dtypes):
        return answers
    return answers.with_columns(pl.col(pl.Enum).cast(pl.String))


def label_frame(classes: Sequence[Value], codes: NDArray[Any], probabilities: Floats | None) -> pl.DataFrame:
    """Make the answer frame of a classifier. Labels that are text are an Enum of the classes: see :func:`spelled`.

    ``codes``, shape (rows,), are positions in ``classes``; ``probabilities``, float64, has shape (classes, rows).
    """
    columns = [_labels(classes, codes)]
    if probabilities is not None:
        columns += [pl.Series(f"probability_{index}", row) for index, row in enumerate(probabilities)]
    return pl.DataFrame(columns)


def refusal(frame: pl.DataFrame, columns: Sequence[str], rows: NDArray[np.bool_]) -> UserCodeFailed:
    """Say which columns kept the model from answering, with counts and never with values."""
    bad = frame.filter(pl.Series(rows))
    counts = {name: int(bad[name].null_count()) for name in columns if bad[name].null_count()}
    where = ", ".join(f"'{name}' ({count} rows)" for name, count in list(counts.items())[:5])
    cause = (
        f"missing values in {where}" if where else "a category it was told to refuse, or a number that is not finite"
    )
    return UserCodeFailed(
        f"The model has no answer for {bad.height} of {frame.height} rows: {cause}.",
        next_step="Train with an imputer and handle_unknown='ignore', or leave these rows out.",
        cause="raised",
        rows=bad.height,
        missing=counts,
    )
