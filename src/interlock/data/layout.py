"""What the columns of a source look like, and what is decided when a file brings other ones.

New, missing and retyped columns: a clear decision each, never silent. What may not pass raises
:class:`~interlock.errors.DataRefused`; what may is told in the notes of the file.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import polars as pl

from interlock.data.casting import DTYPES, logical
from interlock.data.opening import same_but_for_case, shown
from interlock.data.readers import ROW, Reading
from interlock.data.signature import infer, widen
from interlock.errors import DataRefused
from interlock.records import Column, ColumnType, Record
from interlock.settings import Source

LINEAGE = {"_file": pl.String(), "_row": pl.Int64(), "_seq": pl.Int64()}


class Layout(Record, frozen=True, kw_only=True):
    """Document ``columns``: what a source looks like. ``mixed``: one key may have several rows, the newest counts."""

    columns: tuple[Column, ...] = ()
    key: tuple[str, ...] = ()
    mixed: bool = False


class Settled(NamedTuple):
    """A reading fitted to its source: frame with ``_row`` and ``columns``; the columns of the table as they shall be.

    ``expected`` is what the cells are checked against, ``nullable`` what may be empty beyond that; ``evolved`` tells
    that the stored table must be rewritten first (a column added, widened or typed).
    """

    frame: pl.DataFrame
    expected: tuple[Column, ...]
    nullable: frozenset[str]
    evolved: bool
    notes: tuple[str, ...]


def undecided(column: Column) -> bool:
    """No value was ever seen: its type is still open."""
    return column.type == "str" and column.nullable and column.categories == ()


def settle(reading: Reading, layout: Layout, source: Source, file: str) -> Settled:
    """Decide about every column of a reading. Raises :class:`DataRefused`, naming the column and the key to set."""
    if not layout.columns:
        return _first(reading, source, file)
    known = {column.name: column for column in layout.columns}
    _refuse_missing(reading, known, source, file)
    frame, notes = reading.frame, list(reading.notes)
    absent = [name for name in known if name not in reading.columns]
    notes += [f"column '{name}' is missing and left empty" for name in absent]
    open_ = {name for name, column in known.items() if undecided(column) and name in frame.columns}
    expected = [_retyped(column, frame, reading, source, notes) for column in layout.columns]
    added = _new_columns(reading, [name for name in reading.columns if name not in known], source, file, notes)
    _refuse_twins([*known, *added], file)
    expected += infer(frame.select(added)) if added else []
    frame = frame.select(
        ROW,
        *(
            pl.lit(None, DTYPES[column.type]).alias(column.name)
            if column.name in absent
            else pl.col(column.name).cast(DTYPES[column.type])
            for column in expected
        ),
    )
    evolved = bool(added) or any(known[column.name].type != column.type for column in expected if column.name in known)
    free = {*source.nullable, *absent, *added, *open_}
    return Settled(frame, tuple(expected), frozenset(free), evolved, tuple(notes))


def _first(reading: Reading, source: Source, file: str) -> Settled:
    """The first file of a source decides what it looks like."""
    for name in source.key:
        if name not in reading.columns:
            raise DataRefused(
                f"Column '{shown(name)}' of the key is missing from {shown(file)}.",
                next_step="Send the file with its key columns, or mend 'key' in interlock.toml.",
                column=name,
            )
    unknown = sorted({*source.types, *source.optional} - set(reading.columns) - set(source.optional))
    by = "the contract" if source.contract else "types"
    notes = [*reading.notes, *(f"{by} names column '{name}', which is not there" for name in unknown)]
    frame = reading.frame
    expected = tuple(
        Column(name=name, type=logical(frame.schema[name]) or "str", nullable=True)
        for name in frame.columns
        if name != ROW
    )
    return Settled(frame, expected, frozenset(), evolved=False, notes=tuple(notes))


def _refuse_missing(reading: Reading, known: Mapping[str, Column], source: Source, file: str) -> None:
    missing = [name for name in known if name not in reading.columns]
    wrong = [name for name in missing if name not in source.optional or name in source.key]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DataRefused(
            f"Column '{shown(wrong[0])}'{more} is missing from {shown(file)}"
            f" (it has {len(known) - len(missing)} of {len(known)} columns). Nothing was ingested.",
            next_step=f"Send the file with it, or add '{shown(wrong[0])}' to 'optional' of the source.",
            missing=missing,
        )


def _refuse_twins(names: Sequence[str], file: str) -> None:
    twins = same_but_for_case(names)
    if twins is not None:
        raise DataRefused(
            f"{shown(file)} adds column '{shown(twins[1])}' next to '{shown(twins[0])}': they differ in case only. "
            "Nothing was ingested.",
            next_step=f"Name it '{shown(twins[0])}', or give it another name.",
            columns=list(twins),
        )


def _retyped(column: Column, frame: pl.DataFrame, reading: Reading, source: Source, notes: list[str]) -> Column:
    """The column as it shall be: an int one with fractions becomes float, one that never had a value gets its type."""
    declared = source.types.get(column.name)
    if declared is not None and declared != column.type:
        by = "the contract" if source.contract else "'types'"
        return _declared(column, declared, by, notes)
    if column.name in reading.widened:
        notes.append(f"column '{column.name}' was int and holds fractions now: it became float")
        return _typed(column, "float")
    if undecided(column) and _valued(reading, column.name):
        seen = infer(frame.select(column.name))[0]
        notes.append(f"column '{column.name}' was always empty and is {seen.type} now")
        return _typed(seen, seen.type)
    return column


def _valued(reading: Reading, name: str) -> bool:
    """Say whether the column holds a value, here or anywhere in the file."""
    if reading.valued is not None:
        return name in reading.valued
    return name in reading.frame.columns and reading.frame[name].null_count() < reading.frame.height


def differing_types(layout: Layout, source: Source) -> Iterator[str]:
    """Tell where ``types`` differs from the rows that are stored: they are not recast by themselves."""
    for column in layout.columns:
        declared = source.types.get(column.name, column.type)
        if declared == column.type or undecided(column):
            continue
        told = f"'types' says {declared} for column '{shown(column.name)}', and its stored rows are {column.type}: "
        if widens(column.type, declared):
            yield told + "they become so with the next file"
        else:
            yield told + f"files are refused until it says {column.type} (or str), or the source is a new one"


def widens(stored: ColumnType, declared: ColumnType) -> bool:
    """Tell whether stored values can become of another type with nothing lost."""
    as_text = declared == "str" and stored != "bytes"
    return as_text or (stored, declared) in {("int", "float"), ("date", "datetime")}


def _declared(column: Column, kind: ColumnType, by: str, notes: list[str]) -> Column:
    """The owner gave a column another type than its stored rows have: widen where nothing is lost, else refuse."""
    if undecided(column):
        return _typed(column, kind)
    if not widens(column.type, kind):
        raise DataRefused(
            f"{by} says {kind} for column '{shown(column.name)}', and its stored rows are {column.type}.",
            next_step=f"Take it out of {by}, or say {column.type} (or str); a new source may have another type.",
            column=column.name,
        )
    notes.append(f"column '{column.name}' was {column.type} and became {kind}, as {by} says")
    return msgspec.structs.replace(_typed(column, kind), low=None, high=None)


def _typed(column: Column, kind: ColumnType) -> Column:
    kept = column.categories if kind in ("str", "bool") else None
    return msgspec.structs.replace(column, type=kind, nullable=undecided(column) or column.nullable, categories=kept)


def _new_columns(reading: Reading, new: Sequence[str], source: Source, file: str, notes: list[str]) -> list[str]:
    """Columns to add, by the source's rule for new ones."""
    if not new:
        return []
    listed = ", ".join(f"'{shown(name, 40)}'" for name in new[:5]) + (" …" if len(new) > 5 else "")
    if source.new_columns == "refuse":
        raise DataRefused(
            f"{shown(file)} has {len(new)} columns that were not there before: {listed}. Nothing was ingested.",
            next_step='Take them out, or set new_columns = "add" (or "ignore") for the source.',
            columns=list(new),
        )
    if source.new_columns == "ignore":
        notes.append(f'new columns were left out: {listed} (new_columns = "add" keeps them)')
        return []
    notes.append(f"new columns were added: {listed}; older rows are empty there")
    return [name for name in new if name in reading.frame.columns]


def evolve(stored: pl.LazyFrame, columns: Sequence[Column]) -> pl.LazyFrame:
    """Stored rows as the table shall look: columns added as nulls, types widened, lineage kept."""
    have = stored.collect_schema()
    cells = [
        pl.col(column.name).cast(DTYPES[column.type])
        if column.name in have
        else pl.lit(None, DTYPES[column.type]).alias(column.name)
        for column in columns
    ]
    return stored.select(*cells, *LINEAGE)


def grown(
    layout: Layout, expected: Sequence[Column], good: Iterable[pl.DataFrame], source: Source, *, updated: int
) -> Layout:
    """The layout after a file's good rows, in one or more frames; columns left out of them stay as they are."""
    types = {column.name: column.type for column in expected}
    seen: tuple[Column, ...] = ()
    for frame in good:
        found = infer(frame.drop(ROW), types=types)
        seen = widen(seen, found) if seen else found
    old = {column.name for column in layout.columns}
    columns = seen if not old else widen(expected, seen)
    if old:  # a column that is added was empty in every older row
        columns = tuple(
            column if column.name in old else msgspec.structs.replace(column, nullable=True) for column in columns
        )
    changed_key = bool(layout.columns) and layout.key != source.key
    return Layout(columns=columns, key=source.key, mixed=layout.mixed or updated > 0 or changed_key)
