"""What is counted while a file is scored: bad answers, new categories, repeated keys, and a sample of the answers.

Memory does not grow with the file: the sample is thinned, and keys are remembered up to ``KEYS_REMEMBERED``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from interlock.answer.audit import PREDICTION, PROBABILITY, Tally
from interlock.answer.intake import Chunk, as_frame
from interlock.records import Output, Signature

KEYS_REMEMBERED = 2_000_000
"""Hashes of keys that are kept (8 bytes each) to find repeats when the keys are not in ascending order."""
SAMPLE_ROWS = 100_000


def with_codes(answers: pl.DataFrame, output: Output | None) -> tuple[pl.DataFrame, int]:
    """Answers with text labels as Enum of the classes, and how many labels are none of the classes."""
    prediction = answers[PREDICTION]
    if output is None or output.kind != "label" or output.classes is None:
        return answers, 0
    classes = list(output.classes)
    if isinstance(prediction.dtype, pl.Enum) and prediction.dtype.categories.to_list() == classes:
        return answers, 0
    if isinstance(prediction.dtype, pl.Categorical | pl.Enum):
        prediction = prediction.cast(pl.String)
    if prediction.dtype == pl.String and all(isinstance(label, str) for label in classes):
        coded = _coded(prediction, [str(label) for label in classes])
        return answers.with_columns(coded), coded.null_count() - prediction.null_count()
    known = pl.Series(classes)
    if known.dtype.is_numeric() and prediction.dtype.is_numeric():
        prediction, known = prediction.cast(pl.Float64), known.cast(pl.Float64)
    if prediction.dtype != known.dtype:
        return answers, prediction.len() - prediction.null_count()
    return answers, int((~prediction.is_in(known.implode())).sum())


def _coded(labels: pl.Series, classes: list[str]) -> pl.Series:
    """Labels as Enum. Two comparisons are faster than a hash a row, and most classifiers have two classes."""
    enum = pl.Enum(classes)
    if len(classes) == 2 and not labels.null_count():
        second = labels == classes[1]
        if bool(((labels == classes[0]) | second).all()):
            return second.cast(pl.UInt8).cat.to(enum).alias(labels.name)
    return labels.cast(enum, strict=False)


class Counter:
    """Counts over the chunks of one file; ``tally`` gives the result."""

    def __init__(self, signature: Signature, keys: tuple[str, ...], seed: int) -> None:
        self._categories = [
            _Categories(column.name, column.categories)
            for column in signature.inputs
            if column.type == "str" and column.categories is not None
        ]
        self._keys = _Keys(keys)
        self._sample = _Sample(seed)
        self._read = self._scored = self._missing = self._unknown = self._outside = self._new_rows = 0
        self._bad_rows = 0
        self._gap = 0.0
        self._new: dict[str, int] = {}

    @property
    def read(self) -> int:
        """Rows of the file so far, good and bad."""
        return self._read

    def read_rows(self, chunk: Chunk) -> None:
        """Count the rows of a chunk, good and bad."""
        self._read += chunk.read
        self._bad_rows += chunk.read - chunk.frame.height

    def add(self, chunk: Chunk, answers: pl.DataFrame, unknown_labels: int) -> None:
        """Count the answers to the good rows of a chunk, of which there is at least one."""
        self._scored += chunk.frame.height
        self._unknown += unknown_labels
        self._missing += _not_finite(answers[PREDICTION]) - unknown_labels
        self._probabilities(answers)
        self._new_categories(chunk.frame)
        self._keys.add(chunk.kept)
        self._sample.add(answers)

    def _probabilities(self, answers: pl.DataFrame) -> None:
        shares = [answers[name] for name in answers.columns if name.startswith(PROBABILITY)]
        if not shares:
            return
        total = shares[0].to_numpy().copy()
        for share in shares[1:]:
            total += share.to_numpy()
        np.abs(np.subtract(total, 1.0, out=total), out=total)
        self._gap = float(np.fmax(self._gap, np.fmax.reduce(total)))
        # A comparison with NaN is False, so a missing probability counts as outside.
        if not all(low >= 0.0 and high <= 1.0 for low, high in map(_range, shares)):
            inside = np.ones(len(total), dtype=np.bool_)
            for share in shares:
                values = share.to_numpy()
                inside &= (values >= 0.0) & (values <= 1.0)
            self._outside += int(len(total) - inside.sum())

    def _new_categories(self, frame: pl.DataFrame) -> None:
        new_rows: pl.Series | None = None
        for categories in self._categories:
            new = categories.unseen(frame[categories.name])
            if new is None:
                continue
            self._new[categories.name] = self._new.get(categories.name, 0) + int(new.sum())
            new_rows = new if new_rows is None else new_rows | new
        if new_rows is not None:
            self._new_rows += int(new_rows.sum())

    def tally(self) -> Tally:
        """The counts so far."""
        return Tally(
            rows=self._read,
            scored=self._scored,
            quarantined=self._bad_rows,
            keys=self._keys.names,
            key_nulls=self._keys.nulls,
            key_repeats=self._keys.repeats(),
            new_category_rows=self._new_rows,
            new_categories=self._new,
            missing_answers=self._missing,
            unknown_labels=self._unknown,
            outside=self._outside,
            largest_gap=self._gap,
        )

    def sample(self) -> pl.DataFrame:
        """Some of the answers, evenly over the file, at most ``SAMPLE_ROWS`` times two."""
        return self._sample.frame()


def _range(values: pl.Series) -> tuple[float, float]:
    """Smallest and largest value, NaN when one is NaN or missing."""
    if values.null_count():
        return np.nan, np.nan
    numbers = values.to_numpy()
    return float(numbers.min()), float(numbers.max())


def _not_finite(values: pl.Series) -> int:
    """Nulls, and numbers that are NaN or infinite."""
    if not values.dtype.is_float() or np.isfinite(float(values.sum())):
        return values.null_count()
    return values.null_count() + int((~values.is_finite()).sum())


class _Categories:
    """The categories that training knew of one column. What was found out about an encoding is kept for the next."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        self._known = pl.Series(known, dtype=pl.String).implode()
        self._dtype: pl.Enum | None = None
        self._strange: pl.Series | None = None

    def unseen(self, values: pl.Series) -> pl.Series | None:
        """Which rows hold text that training never saw, or None when there is none. Missing is not new."""
        dtype = values.dtype
        if not isinstance(dtype, pl.Enum):
            new = (~values.is_in(self._known)).fill_null(value=False)
            return new if new.any() else None
        if self._dtype is None or not self._dtype.categories.equals(dtype.categories):
            strange = ~dtype.categories.is_in(self._known)
            self._dtype, self._strange = dtype, strange if strange.any() else None
        if self._strange is None:
            return None
        new = self._strange.gather(values.to_physical().cast(pl.UInt32)).fill_null(value=False)
        return new if new.any() else None


class _Keys:
    """Finds out whether keys repeat: proven by ascending order in no memory, else by the hashes of the first rows."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.nulls = 0
        self._ascending = len(names) == 1
        self._last: int | None = None
        self._rows = 0
        self._hashes: list[pl.Series] = []

    def add(self, kept: Mapping[str, Any]) -> None:
        if not self.names:
            return
        keys = as_frame({name: kept[name] for name in self.names})
        self.nulls += sum(keys[name].null_count() for name in self.names)
        self._rows += keys.height
        if self._ascending:
            self._ascending = self._ascends(keys.to_series())
        if self._rows <= KEYS_REMEMBERED:
            self._hashes.append(keys.hash_rows(seed=0))
        else:
            self._hashes.clear()

    def _ascends(self, keys: pl.Series) -> bool:
        if not (keys.dtype.is_integer() or keys.dtype.is_temporal()) or keys.null_count():
            return False
        values = keys.to_physical().to_numpy()
        before, self._last = self._last, int(values[-1])
        return bool((values[1:] > values[:-1]).all()) and (before is None or int(values[0]) > before)

    def repeats(self) -> int | None:
        """Rows whose key came before, or None when that is not known."""
        if not self.names or self._ascending:
            return 0
        if self._rows > KEYS_REMEMBERED:
            return None
        hashes = pl.concat(self._hashes) if self._hashes else pl.Series(dtype=pl.UInt64)
        return len(hashes) - hashes.n_unique()


class _Sample:
    """Every row has the same chance to be in it; when it grows past twice ``SAMPLE_ROWS``, half of it is dropped."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)
        self._rate = 1.0
        self._frames: list[pl.DataFrame] = []
        self._rows = 0

    def add(self, answers: pl.DataFrame) -> None:
        if self._rate < 1.0:
            rows = self._draw.binomial(answers.height, self._rate)
            places = np.sort(self._draw.integers(answers.height, size=rows)).astype(np.uint32)
            answers = answers[places]
        self._frames.append(answers)
        self._rows += answers.height
        while self._rows > 2 * SAMPLE_ROWS:
            whole = self.frame()
            half = whole.filter(pl.Series(self._draw.random(whole.height) < 0.5))
            self._frames, self._rows = [half], half.height
            self._rate /= 2

    def frame(self) -> pl.DataFrame:
        return pl.concat(self._frames) if self._frames else pl.DataFrame()
