"""Sift a file, slice by slice: rows that fit the layout of their source, and cells that do not, with the reason."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import polars as pl

from interlock.data.layout import Layout, Settled, settle
from interlock.data.opening import safe_name, shown
from interlock.data.readers import BAD_SCHEMA, ROW, Reading, rows_as_json
from interlock.data.rules import Contract, check_rules
from interlock.data.signature import Drift, check, drift_notes, judged, merge_bad, widen, without
from interlock.data.slices import Widened
from interlock.data.spool import Spool
from interlock.errors import DataRefused
from interlock.ports import Blobs
from interlock.records import Column, FileResult
from interlock.settings import Source

KEPT_BYTES = 256 * 2**20
"""Largest file that is kept in quarantine when it cannot be read."""
_LATER = ("date", "datetime")
_EMPTY_KEY = "is empty, but it is part of the key"


class Readable(Protocol):
    """A file, or what is taken for one: its name for messages, and its rows; ``widened`` as in ``Slices``."""

    @property
    def name(self) -> str:
        """The name of it."""
        ...

    def readings(self, widened: frozenset[str] = frozenset()) -> Iterator[Reading]:
        """All rows, in order."""
        ...


class Fault(NamedTuple):
    """How often cells of one column are bad for one reason, and the first row where one is."""

    column: str
    reason: str
    times: int
    row: int

    @property
    def told(self) -> str:
        """For people."""
        cell = f"column '{shown(self.column, 40)}'" if self.column else "a row"
        return f"{self.times:,} x {cell} {self.reason} (first in row {self.row:,})"


class Sifted:
    """What a file holds.

    ``good``: rows as the table has them, with ``_row``. ``cells``: bad ones (row, column, reason, raw).

    ``expected``: the columns of the table as they shall be; ``evolved``: the stored rows must be rewritten first.
    """

    def __init__(self, scratch: Path) -> None:
        self.good, self.cells = Spool(scratch, "good"), Spool(scratch, "bad")
        self.rows, self.rows_bad, self.empty = 0, 0, 0
        self.expected: tuple[Column, ...] = ()
        self.evolved = False
        self._notes: dict[str, None] = {}
        self._faults: dict[tuple[str, str], tuple[int, int]] = {}
        self._drifts: dict[str, Drift] = {}
        self._empty: set[str] = set()

    def steady(self, layout: Layout, source: Source) -> frozenset[str]:
        """Columns in which no value is outside of what ``layout`` says already: they need not be looked at again."""
        watched = {column.name: column for column in _watched(layout, source)}
        return frozenset(
            column.name
            for column in self.expected
            if column == watched.get(column.name)
            and (column.nullable or column.name not in self._empty)
            and column.name not in self._drifts
            and (judged(column) or (column.type == "str" and column.categories is None))
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth telling of the file, in words."""
        empty = [f"{self.empty:,} empty rows were skipped"] if self.empty else []
        drifts = [self._drifts[column.name] for column in self.expected if column.name in self._drifts]
        return (*empty, *self._notes, *_told(drifts))

    def faults(self) -> list[Fault]:
        """What is wrong with bad cells, the most frequent first."""
        found = [Fault(*about, *counted) for about, counted in self._faults.items()]
        return sorted(found, key=lambda fault: -fault.times)

    def take(
        self, reading: Reading, settled: Settled, source: Source, layout: Layout, contract: Contract | None
    ) -> None:
        """Add the rows of one slice."""
        bad = _bad_cells(source, settled, reading, contract)
        if bad.height:
            self._blame(bad, reading.frame, reading.raw)
        self.expected = widen(self.expected, settled.expected) if self.expected else settled.expected
        self.evolved |= settled.evolved
        self._notes.update(dict.fromkeys(settled.notes))
        good = without(settled.frame, bad)
        self._watch(good, layout, source)
        self._empty.update(series.name for series in good.iter_columns() if series.null_count())
        self.good.add(good)

    def reject(self, bad: pl.DataFrame) -> None:
        """Take rows back that were good so far, for cells (row, column, reason) that only all rows together show."""
        if not bad.height:
            return
        named = pl.col(ROW).is_in(bad["row"].unique().implode())
        rows = self.good.lazy().filter(named).collect()
        self._blame(bad, rows, pl.DataFrame(schema={"row": pl.Int64(), "raw": pl.String()}))
        self.good.keep(self.good.lazy().select(~named).collect().to_series().to_numpy())

    def _blame(self, bad: pl.DataFrame, rows: pl.DataFrame, raw: pl.DataFrame) -> None:
        self.rows_bad += bad["row"].n_unique()
        self.cells.add(_with_raw(bad, rows, raw))
        groups = bad.group_by("column", "reason", maintain_order=True).agg(pl.len(), pl.col("row").min())
        for column, reason, count, row in groups.iter_rows():
            before = self._faults.get((column, reason), (0, row))
            self._faults[column, reason] = (before[0] + count, before[1])

    def _watch(self, good: pl.DataFrame, layout: Layout, source: Source) -> None:
        """Count what is new but possible: categories never seen, numbers outside of the range seen."""
        for drift in drift_notes(good, _watched(layout, source)):
            so_far = self._drifts.get(drift.column, Drift(column=drift.column, rows=0))
            self._drifts[drift.column] = Drift(
                column=drift.column,
                rows=so_far.rows + drift.rows,
                unseen=so_far.unseen + drift.unseen,
                outside=so_far.outside + drift.outside,
            )


def _watched(layout: Layout, source: Source) -> list[Column]:
    """Columns of which something new is worth telling: a new key or a later date is what is expected."""
    return [column for column in layout.columns if column.name not in source.key and column.type not in _LATER]


def sift(slices: Readable, layout: Layout, source: Source, scratch: Path, contract: Contract | None = None) -> Sifted:
    """Go through a file. Raises :class:`DataRefused` for columns that may not be as they are.

    A file that cannot be read to its end is :class:`~interlock.data.opening.Unreadable` first of all.
    """
    widened: frozenset[str] = frozenset()
    while True:
        sifted = Sifted(scratch)
        try:
            _take_all(sifted, slices.readings(widened), slices.name, (layout, source, contract))
        except Widened as more:
            sifted.good.clear()
            sifted.cells.clear()
            widened = more.columns
        else:
            return sifted


def _take_all(
    sifted: Sifted, readings: Iterator[Reading], file: str, by: tuple[Layout, Source, Contract | None]
) -> None:
    layout, source, contract = by
    refused: DataRefused | None = None
    for reading in readings:
        sifted.rows += reading.rows
        sifted.empty += reading.empty
        if refused is None:
            try:
                if contract is not None:
                    contract.require(reading.columns, file)
                settled = settle(reading, layout, source, file)
            except DataRefused as error:
                refused = error
            else:
                sifted.take(reading, settled, source, layout, contract)
    if refused is not None:
        raise refused


def _bad_cells(source: Source, settled: Settled, reading: Reading, contract: Contract | None) -> pl.DataFrame:
    """Every cell for which its row is left out: unreadable, breaking a rule or the signature, or an empty key."""
    frame = settled.frame
    found = [check_rules(frame, contract.rules)] if contract is not None else []
    found += [check(frame, settled.expected, nullable=settled.nullable)]
    for name in source.key:
        empty = frame[name].is_null().arg_true().cast(pl.UInt64)
        found.append(pl.DataFrame({"row": empty}).with_columns(column=pl.lit(name), reason=pl.lit(_EMPTY_KEY)))
    # a cell of a column that is left out anyway harms nobody
    kept = [*frame.columns, ""]
    return merge_bad(reading.bad.filter(pl.col("column").is_in(kept)), pl.concat(found), frame[ROW])


def _with_raw(bad: pl.DataFrame, frame: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """The bad cells, each with its row as JSON text; ``known`` (row, raw) is what is at hand of it."""
    rows = frame.filter(pl.col(ROW).is_in(bad["row"].unique().implode()))
    raw = pl.concat([known, rows_as_json(rows)]).unique(subset="row", keep="first", maintain_order=True)
    return bad.join(raw, on="row", how="left", maintain_order="left").select(*BAD_SCHEMA, "raw")


def _told(drifts: Iterable[Drift]) -> list[str]:
    notes = []
    for drift in drifts:
        if drift.unseen:
            notes.append(f"column '{drift.column}': {drift.unseen:,} rows hold a category never seen before")
        if drift.outside:
            notes.append(f"column '{drift.column}': {drift.outside:,} rows are outside of the range seen before")
    return notes


def set_aside(blobs: Blobs, path: Path, result: FileResult) -> FileResult:
    """Keep the bytes of a file that could not be read, unless that would fill the disk: it lies in the inbox still."""
    if result.size_bytes > KEPT_BYTES:
        note = f"not kept in quarantine: its {result.size_bytes:,} bytes are more than {KEPT_BYTES:,}"
        return msgspec.structs.replace(result, notes=(note,))
    blobs.put(f"quarantine/{result.digest}/{safe_name(result.name)}", path)
    return result
