"""What every format hands to :mod:`interlock.data.readers`: a table with some columns typed and the others text."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import polars as pl

from interlock.records import ColumnType

ROW = "_row"
"""Column with the number of the row in the file (Int64, from 1)."""
FAILED = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
"""What Polars raises on a file that it cannot read."""


class Expected(NamedTuple):
    """What is expected of the columns of a file, known or not.

    For a file that is read in slices also what was found out about the whole of it beforehand: ``inferred`` types of
    columns that were neither known nor declared, and ``widened`` columns, known as int, that hold fractions somewhere.
    """

    known: Mapping[str, ColumnType]
    types: Mapping[str, ColumnType]
    inferred: Mapping[str, ColumnType] = MappingProxyType({})
    widened: frozenset[str] = frozenset()

    def type_of(self, column: str) -> ColumnType | None:
        """The type that was declared for a column, else the one that is known or was inferred, else None."""
        if column in self.widened:
            return "float"
        return self.types.get(column) or self.known.get(column) or self.inferred.get(column)


class Raw(NamedTuple):
    """A table as its format gave it: some columns typed, the others text; ``bad`` rows that are no record at all.

    ``rows`` does not count the ``empty`` ones, which are left out of ``frame``.
    """

    frame: pl.DataFrame
    names: tuple[str, ...]
    rows: int
    bad: list[tuple[int, str, str]]
    raw: list[tuple[int, str]]
    empty: int = 0
    notes: tuple[str, ...] = ()
