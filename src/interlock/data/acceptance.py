"""One new file: read, its columns settled, its bad cells set aside, its duplicates dropped, the rest appended at once.

The commit carries the file's digest as its key, and what is to be recorded, so that a retry finds it and only records.
"""

import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import polars as pl

from interlock.data.casting import DTYPES
from interlock.data.dedupe import dedupe, dedupe_large
from interlock.data.images import Group, GroupRows, Known
from interlock.data.layout import Layout, evolve, grown, undecided
from interlock.data.opening import Unreadable
from interlock.data.readers import BAD_SCHEMA, ROW
from interlock.data.row_index import RowIndex
from interlock.data.rules import Contract
from interlock.data.sift import Sifted, set_aside, sift
from interlock.data.slices import open_slices
from interlock.data.spool import Spool
from interlock.data.unique import not_unique
from interlock.errors import DataRefused
from interlock.ports import Parts, Turn
from interlock.records import FileResult, Record, facts_of, timestamp
from interlock.settings import Source

COMPARED_ROWS = 500_000
"""Up to so many rows, stored and new, duplicates are found by comparing rows, and beyond by the index of hashes."""


class Seen(Record, frozen=True, kw_only=True):
    """Document ``seen``: the bytes found under a name, so that an unchanged file is not hashed again.

    ``trusted``: the file was older than two seconds when this was written, so that a later change must show in
    ``version`` (git's rule for racy entries). ``rules``: digest of the source's settings that the file
    was held against.
    """

    version: str
    digest: str
    rules: str
    trusted: bool


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that one source's ingest needs."""

    parts: Parts
    turn: Turn
    name: str
    source: Source
    rules: str
    scratch: Path
    contract: Contract | None = None

    @property
    def table(self) -> str:
        """Name of the table that the rows go to."""
        return f"sources/{self.name}"

    def layout(self) -> Layout:
        """What the source looks like so far."""
        return self.parts.ledger.read("columns", self.name, Layout) or Layout()


Outcome = tuple[FileResult, Layout | None]


class Pending(Record, frozen=True, kw_only=True):
    """Document ``pending``: the file whose rows are being committed, so that a kill leaves no commit unrecorded.

    With what is to be remembered of the file, or of each image of a group.
    """

    digest: str = ""
    seen: Seen | None = None
    images: dict[str, Known] = msgspec.field(default_factory=dict)


class Incoming(NamedTuple):
    """A new file, or a group of images: its name, its digest, its size, and what is to be remembered of it."""

    name: str
    digest: str
    size_bytes: int
    pending: Pending
    group: Group | None = None


class _Facts(Record, frozen=True, kw_only=True):
    """What is written with the commit of a file, so that a retry only has to record it."""

    result: FileResult
    layout: Layout


def committed(work: Work, file_digest: str) -> Outcome | None:
    """Find the commit of a file, made earlier and perhaps not recorded."""
    commit = work.parts.tables.committed(work.table, file_digest)
    if commit is None:
        return None
    facts = msgspec.convert(commit.facts, _Facts)
    return msgspec.structs.replace(facts.result, table_version=commit.version), facts.layout


def take(work: Work, found: Incoming, path: Path) -> Outcome:
    """Read, decide, append; every outcome is a result. The layout is None when it stays as it was."""
    done = committed(work, found.digest)
    if done is not None:
        return done
    blank = FileResult(
        source=work.name,
        name=found.name,
        digest=found.digest,
        size_bytes=found.size_bytes,
        status="accepted",
        at=timestamp(work.parts.clock.now()),
    )
    try:
        return _accept(work, blank, found, path)
    except Unreadable as error:
        return set_aside(work.parts.blobs, path, _not_accepted(blank, "unreadable", error)), None
    except DataRefused as error:
        return _not_accepted(blank, "refused", error), None


def _not_accepted(blank: FileResult, status: Literal["refused", "unreadable"], error: DataRefused) -> FileResult:
    counts = {name: error.facts[name] for name in ("rows", "quarantined", "duplicates") if name in error.facts}
    told = {"status": status, "reason": error.message, "next_step": error.next_step}
    return msgspec.structs.replace(blank, **told, **counts)


def _accept(work: Work, blank: FileResult, found: Incoming, path: Path) -> Outcome:
    layout = work.layout()
    columns = [column for column in layout.columns if not undecided(column)]
    # a key is never widened: its text decides on which side of the split a row lies
    keys = {column.name: column.type for column in columns if column.name in work.source.key}
    types = {**keys, **work.source.types}
    with (
        tempfile.TemporaryDirectory(prefix="rows-", dir=work.scratch) as scratch,
        open_slices(
            path,
            name=blank.name,
            delimiter=work.source.delimiter,
            columns=columns or None,
            types=types,
            scratch=work.scratch,
        )
        if found.group is None
        else nullcontext(GroupRows(found.group, work.source.label, columns, types)) as slices,
    ):
        sifted = sift(slices, layout, work.source, Path(scratch), work.contract)
        if work.contract is not None and work.contract.unique:
            names = [column.name for column in sifted.expected]
            unique = work.contract.unique
            sifted.reject(not_unique(sifted.good, _stored(work, layout, sifted), unique, work.source, names))
        if sifted.rows_bad:
            _quarantine(work, blank, sifted)
            _refuse_bad(work, sifted)
        result = msgspec.structs.replace(blank, rows=sifted.rows, quarantined=sifted.rows_bad, notes=sifted.notes)
        if sifted.rows == 0:
            return msgspec.structs.replace(result, notes=(*result.notes, "the file has a header and no rows")), None
        return _store(work, result, sifted, found.pending)


def _quarantine(work: Work, blank: FileResult, sifted: Sifted) -> None:
    """Keep each bad cell with file, row, column and reason, and the row as JSON text."""
    lineage = (pl.lit(blank.digest).alias("file"), pl.lit(blank.name).alias("name"))
    cells = sifted.cells.lazy().select(*lineage, *BAD_SCHEMA, "raw")
    facts = {"file": blank.digest, "name": blank.name, "cells": sifted.cells.height}
    work.parts.tables.append(f"quarantine/{work.name}", cells, commit_key=blank.digest, facts=facts)


def _refuse_bad(work: Work, sifted: Sifted) -> None:
    """Raise :class:`DataRefused` when more rows are bad than the source allows."""
    allowed, rows, rows_bad = work.parts.settings.bad_row_share(work.source), sifted.rows, sifted.rows_bad
    if rows_bad <= allowed * rows:
        return
    worst = [fault.told for fault in sifted.faults()[:3]]
    raise DataRefused(
        f"{rows_bad:,} of {rows:,} rows are bad, {allowed:.2%} are allowed: {'; '.join(worst)}. Nothing was ingested.",
        next_step="Mend what is bad or take it out, or set max_bad_rows of the source."
        if work.source.files == "images"
        else "Mend the file and send it again, or set types, nullable or max_bad_rows of the source.",
        rows=rows,
        quarantined=rows_bad,
    )


def _store(work: Work, result: FileResult, sifted: Sifted, pending: Pending) -> Outcome:
    """Drop duplicates, evolve the table where columns changed, append under the file's digest."""
    tables, layout, source = work.parts.tables, work.layout(), work.source
    stored = _stored(work, layout, sifted)
    kept = _deduped(work, sifted, stored)
    if kept.duplicates and source.on_duplicate == "refuse":
        raise DataRefused(
            f"{kept.duplicates:,} of {result.rows:,} rows are there already, and duplicates are refused. "
            "Nothing was ingested.",
            next_step='Take them out, or set on_duplicate = "keep-last" or "keep-first".',
            rows=result.rows,
            duplicates=kept.duplicates,
        )
    result = msgspec.structs.replace(
        result, accepted=sifted.good.height, duplicates=kept.duplicates, updated=kept.updated
    )
    if not result.accepted:
        return result, None
    steady = sifted.steady(layout, source)
    changing = [ROW, *(column.name for column in sifted.expected if column.name not in steady)]
    after = grown(layout, sifted.expected, sifted.good.frames(changing), source, updated=kept.updated)
    with work.turn.transaction(work.parts.ledger) as t:
        t.put("pending", work.name, pending)
    if stored is not None and sifted.evolved:
        tables.replace(work.table, stored, commit_key=f"{result.digest}-columns", facts={"columns": len(after.columns)})
    result = _append(work, result, sifted.good, after)
    if kept.entries is not None:
        _index(work, sifted).add(result, kept.entries.frames())
    return result, after


def _stored(work: Work, layout: Layout, sifted: Sifted) -> pl.LazyFrame | None:
    """The rows of the table as they shall look after the file; None when there are none."""
    known = bool(layout.columns) and work.parts.tables.version(work.table) is not None
    return evolve(work.parts.tables.scan(work.table), sifted.expected) if known else None


class _Kept(NamedTuple):
    """How many rows were dropped as duplicates, how many others replace older ones, and entries of the row index."""

    duplicates: int
    updated: int
    entries: Spool | None = None


def _deduped(work: Work, sifted: Sifted, stored: pl.LazyFrame | None) -> _Kept:
    """Drop from the good rows what is there already: by comparing rows, or by an index where there are many."""
    source, good = work.source, sifted.good
    values = [column.name for column in sifted.expected]
    many = sum(each.accepted for each in _accepted(work)) + good.height > COMPARED_ROWS
    if good.height and (many or good.spilled):
        index = _index(work, sifted)
        try:
            found = dedupe_large(
                good, stored, key=source.key, on_duplicate=source.on_duplicate, values=values, index=index
            )
        except ValueError:
            work.turn.say(f"the row index of {work.table} does not fit its rows: they are compared one by one")
        else:
            return _Kept(found.duplicates, found.updated, found.entries)
    rows = pl.concat(list(good.frames()))
    kept = dedupe(rows, stored, key=source.key, on_duplicate=source.on_duplicate, values=values)
    good.clear()
    good.add(kept.rows)
    return _Kept(kept.duplicates, kept.updated)


def _accepted(work: Work) -> list[FileResult]:
    """Files with rows in the table, in the order of their commits."""
    known = [result for _, result in work.parts.ledger.scan("file", FileResult, prefix=f"{work.name}/")]
    return sorted((each for each in known if each.accepted), key=lambda each: each.sequence)


def _index(work: Work, sifted: Sifted) -> RowIndex:
    return RowIndex(
        folder=work.parts.settings.home / "cache" / "rows" / work.name,
        key=work.source.key,
        schema={column.name: DTYPES[column.type] for column in sifted.expected},
        files=tuple(_accepted(work)),
    )


def _append(work: Work, result: FileResult, rows: Spool, layout: Layout) -> FileResult:
    # the version of the table grows with every commit, recorded or not: a sequence that no retry can give out twice
    version = work.parts.tables.version(work.table)
    sequence = 0 if version is None else version + 1
    result = msgspec.structs.replace(result, sequence=sequence)
    lineage = {"_file": pl.lit(result.digest), "_row": pl.col(ROW), "_seq": pl.lit(sequence, pl.Int64)}
    frame = rows.lazy().select(*(column.name for column in layout.columns), **lineage)
    facts = facts_of(_Facts(result=result, layout=layout))
    commit = work.parts.tables.append(work.table, frame, commit_key=result.digest, facts=facts)
    return msgspec.structs.replace(result, table_version=commit.version)
