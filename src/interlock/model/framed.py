"""Rows that are a frame too, and answers that came as one: the one is made of the other when somebody asks for it.

Making tuples of a table costs more than to answer it, and most of it is never asked for by rows. What rows and answers
are is said in :mod:`interlock.model.rows`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, overload

import polars as pl

from interlock.errors import InterlockError, UserCodeFailed
from interlock.model.columns import spelled

Row: TypeAlias = tuple[Any, ...]
Extra: TypeAlias = tuple[float, ...] | Mapping[str, Any] | None
Answer: TypeAlias = tuple[Any, Extra]
Given: TypeAlias = Answer | InterlockError

_PREFIX = "probability_"


class Framed(Sequence[Row]):
    """Rows that are a frame too, of the types of the signature: who answers many at once takes the frame.

    The one is made of the other when somebody first asks for it.
    """

    __slots__ = ("_frame", "_rows", "_schema")

    def __init__(self, frame: pl.DataFrame | None, rows: Sequence[Row] | None = None) -> None:
        self._frame = frame
        self._rows = rows
        self._schema: Mapping[str, pl.DataType] = {}

    @classmethod
    def of(cls, rows: Sequence[Row], schema: Mapping[str, pl.DataType]) -> "Framed":
        """Rows whose frame will have this schema."""
        made = cls(None, rows)
        made._schema = schema
        return made

    @property
    def has_frame(self) -> bool:
        """Whether the frame is made already."""
        return self._frame is not None

    @property
    def frame(self) -> pl.DataFrame:
        """The frame."""
        if self._frame is None:
            assert self._rows is not None
            self._frame = frame_of(self._rows, self._schema)
        return self._frame

    def __len__(self) -> int:
        return self.frame.height if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        if self._rows is not None:
            return self._rows[place]
        return self.frame[place].rows() if isinstance(place, slice) else self.frame.row(place)

    def __iter__(self) -> Iterator[Row]:
        if self._rows is None:
            self._rows = self.frame.rows()
        return iter(self._rows)

    def select(self, names: Sequence[str]) -> "Framed":
        """Some of the columns."""
        return Framed(self.frame.select(names))

    def take(self, places: Sequence[int]) -> "Framed":
        """Some of the rows."""
        return self if len(places) == len(self) else Framed(self.frame[list(places)])


class FramedAnswers(Sequence[Given]):
    """Answers that came as a frame, as :func:`label_frame` makes one: pairs are made of it when they are asked for."""

    __slots__ = ("_given", "_spelled", "frame")

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        self._spelled: pl.DataFrame | None = None
        self._given: list[Given] | None = None

    @property
    def spelled(self) -> pl.DataFrame:
        """The frame, with labels as plain text."""
        if self._spelled is None:
            self._spelled = spelled(self.frame)
        return self._spelled

    def __len__(self) -> int:
        return self.frame.height

    @overload
    def __getitem__(self, place: int) -> Given: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Given]: ...
    def __getitem__(self, place: int | slice) -> Given | Sequence[Given]:
        if self._given is not None:
            return self._given[place]
        if isinstance(place, slice):
            return _pairs(spelled(self.frame[place]))
        return _pairs(spelled(self.frame[place]))[0]

    def __iter__(self) -> Iterator[Given]:
        return iter(self._all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._all() == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    def __repr__(self) -> str:
        return repr(self._all())

    def _all(self) -> list[Given]:
        if self._given is None:
            self._given = _pairs(self.spelled)
        return self._given


def _pairs(frame: pl.DataFrame) -> list[Given]:
    """Predictions with what comes beside them: nothing, probabilities in their order, or columns by name."""
    values = frame["prediction"].to_list()
    if frame.width == 1:
        return [(value, None) for value in values]
    others = pl.DataFrame([column for column in frame.get_columns() if column.name != "prediction"])
    if others.columns == [f"{_PREFIX}{place}" for place in range(others.width)]:
        return list(zip(values, others.rows(), strict=True))
    return list(zip(values, others.rows(named=True), strict=True))


def frame_of(rows: Sequence[Row], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """A frame of rows, of the types of ``schema``."""
    return pl.DataFrame(
        [
            pl.Series(name, [row[place] for row in rows], dtype=dtype)
            for place, (name, dtype) in enumerate(schema.items())
        ]
    )


def answers_of(frame: pl.DataFrame, rows: int) -> FramedAnswers:
    """The answers of a frame; raises :class:`UserCodeFailed` when they are not ``rows``."""
    if frame.height != rows:
        raise UserCodeFailed(
            f"The model gave {frame.height} answers for {rows} rows.",
            next_step="Return one answer per row.",
            cause="nonsense",
        )
    return FramedAnswers(frame)
