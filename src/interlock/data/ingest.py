"""New files of an inbox become rows of a table: each file once, each row once, and nothing silently.

For each file, in name order: copied and hashed; known bytes are skipped or told as repeated; read; its columns settled;
bad cells quarantined, and the file refused whole above the share of bad rows; duplicates dropped; the rest appended in
one atomic commit under the file's digest; then the event and the documents in one transaction. A kill anywhere is cured
by running again: a commit that was made is found by its key and only recorded.
"""

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import polars as pl

from interlock.data.agreement import held_against
from interlock.data.casting import DTYPES
from interlock.data.dedupe import dedupe, dedupe_large
from interlock.data.images import Gathering, Group, GroupRows, Known, by_groups, is_image
from interlock.data.inbox import Arrival, Inbox, Staged, is_table, open_inbox
from interlock.data.layout import Layout, differing_types, evolve, grown, undecided
from interlock.data.opening import Unreadable, safe_name, shown
from interlock.data.readers import BAD_SCHEMA, ROW
from interlock.data.row_index import RowIndex
from interlock.data.rules import Contract
from interlock.data.sift import Sifted, set_aside, sift
from interlock.data.slices import open_slices
from interlock.data.sources import source_of
from interlock.data.spool import Spool
from interlock.data.unique import not_unique
from interlock.errors import DataRefused, SettingsError, StoreFault
from interlock.ports import Parts, Turn
from interlock.records import FileResult, Record, facts_of, timestamp
from interlock.settings import Source

if TYPE_CHECKING:
    import numpy as np

_RACY_S = 2.0
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
class _Work:
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
        return f"sources/{self.name}"

    def layout(self) -> Layout:
        return self.parts.ledger.read("columns", self.name, Layout) or Layout()


def ingest(parts: Parts, turn: Turn, source_name: str) -> list[FileResult]:
    """Take in the new files of one source; one result for each file that something was decided about.

    Raises :class:`SettingsError` when the inbox is not configured or does not exist, and :class:`StoreFault` when rows
    that were accepted earlier are not in the lake any more.
    """
    source = source_of(parts.settings, source_name)
    if not source.inbox:
        raise SettingsError(
            f"Source '{source_name}' has no inbox.", next_step="Set 'inbox' of the source in interlock.toml."
        )
    images = source.files == "images"
    inbox = open_inbox(parts.settings, source.inbox, is_image if images else is_table)
    arrivals = inbox.arrivals(turn.note)
    source, contract, rules = held_against(parts, turn, source_name)
    base = parts.settings.home / "work" / turn.id
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ingest-", dir=base) as scratch:
        work = _Work(
            parts=parts,
            turn=turn,
            name=source_name,
            source=source,
            rules=rules,
            scratch=Path(scratch),
            contract=contract,
        )
        _require_table(work)
        for note in differing_types(work.layout(), source):
            turn.note(note)
        results = _all_images(work, inbox, arrivals) if images else _all(work, inbox, arrivals)
    if any(result.table_version is not None for result in results):
        parts.tables.maintain(f"sources/{source_name}")
    return results


def _require_table(work: _Work) -> None:
    """Raise :class:`StoreFault` when rows that were accepted are not in the lake: to go on would be to lose them."""
    known = [result for _, result in work.parts.ledger.scan("file", FileResult, prefix=f"{work.name}/")]
    newest = max((each.table_version for each in known if each.table_version is not None), default=None)
    there = work.parts.tables.version(work.table)
    if newest is not None and (there is None or there < newest):
        rows = sum(each.accepted for each in known)
        found = "is gone" if there is None else f"ends at version {there} of {newest}"
        raise StoreFault(
            f"The lake has lost rows: table {work.table}, to which {rows:,} rows were accepted, {found}.",
            next_step="Bring the lake back (store.lake names it; a backup), or move .interlock away to begin anew.",
            table=work.table,
        )


def _all(work: _Work, inbox: Inbox, arrivals: Sequence[Arrival]) -> list[FileResult]:
    results = [result for result in (_recover(work),) if result is not None]
    seen = dict(work.parts.ledger.scan("seen", Seen, prefix=f"{work.name}/"))
    for arrival in arrivals:
        result = _arrived(work, inbox, arrival, seen)
        if result is not None:
            results.append(result)
            work.turn.say(_told(result))
    return results


def _told(result: FileResult) -> str:
    if result.status == "accepted":
        return f"{shown(result.name)}: {result.accepted:,} of {result.rows:,} rows accepted"
    return f"{shown(result.name)}: {result.status}. {result.reason}"


def _arrived(work: _Work, inbox: Inbox, arrival: Arrival, seen: dict[str, Seen]) -> FileResult | None:
    """One file of the inbox: nothing new, repeated, or taken in."""
    ledger, key = work.parts.ledger, f"{work.name}/{arrival.name}"
    before = seen.get(key)
    unchanged = before is not None and before.trusted and before.version == arrival.version
    if before is not None and unchanged and (before.rules == work.rules or _settled(work, before.digest)):
        return None
    started = work.parts.clock.monotonic()
    staged = inbox.stage(arrival, work.scratch / "arrival", work.turn.note)
    if staged is None:
        return None
    known = ledger.read("file", f"{work.name}/{staged.digest}", FileResult)
    now = _seen(work, arrival, staged)
    seen[key] = now
    if known is None or (known.status != "accepted" and _rules_changed(work, known, before, seen)):
        found = _Incoming(arrival.name, staged.digest, staged.size_bytes, Pending(digest=staged.digest, seen=now))
        result, layout = _take(work, found, staged.path)
    elif before is not None and before.digest == staged.digest:
        with work.turn.transaction(ledger) as t:
            t.put("seen", key, now)
        return None
    else:
        result, layout = _repeated(arrival, staged, known), None
    result = msgspec.structs.replace(
        result, seconds=work.parts.clock.monotonic() - started, at=timestamp(work.parts.clock.now())
    )
    _record(work, result, Pending(seen=now), layout)
    return result


def _settled(work: _Work, file_digest: str) -> bool:
    """Say whether it was accepted; what was refused is tried again when the rules have changed."""
    known = work.parts.ledger.read("file", f"{work.name}/{file_digest}", FileResult)
    return known is not None and known.status == "accepted"


def _rules_changed(work: _Work, known: FileResult, before: Seen | None, seen: dict[str, Seen]) -> bool:
    """Say whether that refusal was under other settings than today's."""
    first = before if before is not None and before.digest == known.digest else seen.get(f"{work.name}/{known.name}")
    return first is None or first.digest != known.digest or first.rules != work.rules


def _seen(work: _Work, arrival: Arrival, staged: Staged) -> Seen:
    age_s = None if arrival.modified_s is None else work.parts.clock.now().timestamp() - arrival.modified_s
    return Seen(
        version=arrival.version,
        digest=staged.digest,
        rules=work.rules,
        trusted=age_s is None or age_s > _RACY_S,
    )


def _repeated(arrival: Arrival, staged: Staged, known: FileResult) -> FileResult:
    return FileResult(
        source=known.source,
        name=arrival.name,
        digest=staged.digest,
        size_bytes=staged.size_bytes,
        status="repeated",
        first_name=known.name,
        reason=f"Its bytes came before as {shown(known.name)} (then {known.status}).",
    )


# ---- images ----------------------------------------------------------------------------------------------------------


def _all_images(work: _Work, inbox: Inbox, arrivals: Sequence[Arrival]) -> list[FileResult]:
    """Do for images what :func:`_all` does for tables: each group of them is one file."""
    results = [result for result in (_recover(work),) if result is not None]
    ledger, start = work.parts.ledger, len(work.name) + 1
    known = {key[start:]: seen for key, seen in ledger.scan("seen", Known, prefix=f"{work.name}/")}
    files = ledger.scan("file", FileResult, prefix=f"{work.name}/")
    refreshed: dict[str, Known] = {}
    gathering = Gathering(
        inbox=inbox,
        known=known,
        verdict=by_groups({result.digest: result.status for _, result in files}, work.rules),
        keep=lambda path, name, called: work.parts.blobs.put(f"quarantine/{name}/{safe_name(called)}", path),
        rules=work.rules,
        withdraw=work.source.on_duplicate == "keep-last",
        now_s=work.parts.clock.now().timestamp(),
        scratch=work.scratch,
        say=work.turn.say,
    )
    for group in gathering.groups(arrivals, refreshed):
        results.append(_group(work, group))
        work.turn.say(_told(results[-1]))
    if refreshed:
        with work.turn.transaction(ledger) as t:
            for name, seen in refreshed.items():
                t.put("seen", f"{work.name}/{name}", seen)
    return results


def _group(work: _Work, group: Group) -> FileResult:
    started = work.parts.clock.monotonic()
    pending = Pending(digest=group.digest, images=group.known())
    result, layout = _take(work, _Incoming(group.name, group.digest, group.size_bytes, pending, group), work.scratch)
    result = msgspec.structs.replace(
        result, seconds=work.parts.clock.monotonic() - started, at=timestamp(work.parts.clock.now())
    )
    _record(work, result, Pending(images=group.known(accepted=result.status == "accepted")), layout)
    return result


# ---- one new file ----------------------------------------------------------------------------------------------------

_Outcome = tuple[FileResult, Layout | None]


class Pending(Record, frozen=True, kw_only=True):
    """Document ``pending``: the file whose rows are being committed, so that a kill leaves no commit unrecorded.

    With what is to be remembered of the file, or of each image of a group.
    """

    digest: str = ""
    seen: Seen | None = None
    images: dict[str, Known] = msgspec.field(default_factory=dict)


class _Incoming(NamedTuple):
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


def _recover(work: _Work) -> FileResult | None:
    """Record the commit of a turn that was killed before it could, even if the file has gone since."""
    pending = work.parts.ledger.read("pending", work.name, Pending)
    if pending is None or not pending.digest:
        return None
    outcome = _committed(work, pending.digest)
    if outcome is None:
        return None
    _record(work, outcome[0], pending, outcome[1])
    return outcome[0]


def _committed(work: _Work, file_digest: str) -> _Outcome | None:
    commit = work.parts.tables.committed(work.table, file_digest)
    if commit is None:
        return None
    facts = msgspec.convert(commit.facts, _Facts)
    return msgspec.structs.replace(facts.result, table_version=commit.version), facts.layout


def _take(work: _Work, found: _Incoming, path: Path) -> _Outcome:
    """Read, decide, append; every outcome is a result. The layout is None when it stays as it was."""
    done = _committed(work, found.digest)
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


def _accept(work: _Work, blank: FileResult, found: _Incoming, path: Path) -> _Outcome:
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


def _quarantine(work: _Work, blank: FileResult, sifted: Sifted) -> None:
    """Keep each bad cell with file, row, column and reason, and the row as JSON text."""
    lineage = (pl.lit(blank.digest).alias("file"), pl.lit(blank.name).alias("name"))
    cells = sifted.cells.lazy().select(*lineage, *BAD_SCHEMA, "raw")
    facts = {"file": blank.digest, "name": blank.name, "cells": sifted.cells.height}
    work.parts.tables.append(f"quarantine/{work.name}", cells, commit_key=blank.digest, facts=facts)


def _refuse_bad(work: _Work, sifted: Sifted) -> None:
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


def _store(work: _Work, result: FileResult, sifted: Sifted, pending: Pending) -> _Outcome:
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
    after = grown(layout, sifted.expected, sifted.good.frames(), source, updated=kept.updated)
    with work.turn.transaction(work.parts.ledger) as t:
        t.put("pending", work.name, pending)
    if stored is not None and sifted.evolved:
        tables.replace(work.table, stored, commit_key=f"{result.digest}-columns", facts={"columns": len(after.columns)})
    result = _append(work, result, sifted.good, after)
    if kept.entries is not None:
        _index(work, sifted).add(result, kept.entries)
    return result, after


def _stored(work: _Work, layout: Layout, sifted: Sifted) -> pl.LazyFrame | None:
    """The rows of the table as they shall look after the file; None when there are none."""
    known = bool(layout.columns) and work.parts.tables.version(work.table) is not None
    return evolve(work.parts.tables.scan(work.table), sifted.expected) if known else None


class _Kept(NamedTuple):
    """How many rows were dropped as duplicates, how many others replace older ones, and entries of the row index."""

    duplicates: int
    updated: int
    entries: "np.ndarray[Any, Any] | None" = None


def _deduped(work: _Work, sifted: Sifted, stored: pl.LazyFrame | None) -> _Kept:
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


def _accepted(work: _Work) -> list[FileResult]:
    """Files with rows in the table, in the order of their commits."""
    known = [result for _, result in work.parts.ledger.scan("file", FileResult, prefix=f"{work.name}/")]
    return sorted((each for each in known if each.accepted), key=lambda each: each.sequence)


def _index(work: _Work, sifted: Sifted) -> RowIndex:
    return RowIndex(
        folder=work.parts.settings.home / "cache" / "rows" / work.name,
        key=work.source.key,
        schema={column.name: DTYPES[column.type] for column in sifted.expected},
        files=tuple(_accepted(work)),
    )


def _append(work: _Work, result: FileResult, rows: Spool, layout: Layout) -> FileResult:
    # the version of the table grows with every commit, recorded or not: a sequence that no retry can give out twice
    version = work.parts.tables.version(work.table)
    sequence = 0 if version is None else version + 1
    result = msgspec.structs.replace(result, sequence=sequence)
    lineage = {"_file": pl.lit(result.digest), "_row": pl.col(ROW), "_seq": pl.lit(sequence, pl.Int64)}
    frame = rows.lazy().select(*(column.name for column in layout.columns), **lineage)
    facts = facts_of(_Facts(result=result, layout=layout))
    commit = work.parts.tables.append(work.table, frame, commit_key=result.digest, facts=facts)
    return msgspec.structs.replace(result, table_version=commit.version)


def _record(work: _Work, result: FileResult, found: Pending, layout: Layout | None) -> None:
    """The event and the documents that it changes, in one transaction."""
    with work.turn.transaction(work.parts.ledger) as t:
        t.append(f"file.{result.status}", f"{result.source}/{result.name}", facts_of(result))
        for name, seen in {**found.images, **({result.name: found.seen} if found.seen else {})}.items():
            t.put("seen", f"{result.source}/{name}", seen)
        if result.status != "repeated":
            t.put("file", f"{result.source}/{result.digest}", result)
        if layout is not None:
            t.put("columns", result.source, layout)
            t.put("pending", result.source, Pending())
