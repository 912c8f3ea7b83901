"""New files of an inbox become rows of a table: each file once, each row once, and nothing silently.

For each file, in name order: copied and hashed; known bytes are skipped or told as repeated; read; its columns settled;
bad cells quarantined, and the file refused whole above the share of bad rows; duplicates dropped; the rest appended in
one atomic commit under the file's digest; then the event and the documents in one transaction. A kill anywhere is cured
by running again: a commit that was made is found by its key and only recorded.
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import polars as pl

from interlock.data.dedupe import dedupe
from interlock.data.inbox import Arrival, Inbox, Staged, open_inbox
from interlock.data.layout import Layout, Settled, evolve, grown, settle, undecided
from interlock.data.opening import Unreadable, shown
from interlock.data.readers import BAD_SCHEMA, ROW, Reading, read_file, rows_as_json
from interlock.data.signature import check, drift_notes, merge_bad, without
from interlock.errors import DataRefused, NotFound, SettingsError, StoreFault
from interlock.ports import Parts, Turn
from interlock.records import FileResult, Record, digest, facts_of, timestamp
from interlock.settings import Settings, Source

HOLDOUT = "holdout"
"""Source name of the holdout's own inbox."""
_RACY_S = 2.0
_EMPTY_KEY = "is empty, but it is part of the key"


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

    @property
    def table(self) -> str:
        return f"sources/{self.name}"

    def layout(self) -> Layout:
        return self.parts.ledger.read("columns", self.name, Layout) or Layout()


def source_of(settings: Settings, name: str) -> Source:
    """The rules of a source; ``holdout`` has those of the first source and the inbox of the holdout.

    Raises :class:`NotFound` for a name that is not configured.
    """
    sources = settings.sources
    if name == HOLDOUT and settings.data.holdout.inbox:
        if HOLDOUT in sources:
            raise SettingsError(
                "A source is named 'holdout', and [data] holdout has an inbox of its own.",
                next_step="Give the source another name.",
            )
        first = next(iter(settings.row_sources.values()))
        return msgspec.structs.replace(first, inbox=settings.data.holdout.inbox)
    if name not in sources:
        raise NotFound(f"There is no source '{name}'.", next_step=f"Sources: {', '.join(sources)}.")
    return sources[name]


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
    inbox = open_inbox(parts.settings, source.inbox)
    arrivals = inbox.arrivals(turn.say)
    rules = digest([msgspec.to_builtins(source), parts.settings.bad_row_share(source)])
    base = parts.settings.home / "work" / turn.id
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ingest-", dir=base) as scratch:
        work = _Work(parts=parts, turn=turn, name=source_name, source=source, rules=rules, scratch=Path(scratch))
        _require_table(work)
        results = _all(work, inbox, arrivals)
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
    staged = inbox.stage(arrival, work.scratch / "arrival", work.turn.say)
    if staged is None:
        return None
    known = ledger.read("file", f"{work.name}/{staged.digest}", FileResult)
    now = _seen(work, arrival, staged)
    seen[key] = now
    if known is None or (known.status != "accepted" and _rules_changed(work, known, before, seen)):
        result, layout = _take(work, arrival, staged, now)
    elif before is not None and before.digest == staged.digest:
        with work.turn.transaction(ledger) as t:
            t.put("seen", key, now)
        return None
    else:
        result, layout = _repeated(arrival, staged, known), None
    result = msgspec.structs.replace(
        result, seconds=work.parts.clock.monotonic() - started, at=timestamp(work.parts.clock.now())
    )
    _record(work, result, now, layout)
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


# ---- one new file ----------------------------------------------------------------------------------------------------

_Outcome = tuple[FileResult, Layout | None]


class Pending(Record, frozen=True, kw_only=True):
    """Document ``pending``: the file whose rows are being committed, so that a kill leaves no commit unrecorded."""

    digest: str = ""
    seen: Seen | None = None


class _Facts(Record, frozen=True, kw_only=True):
    """What is written with the commit of a file, so that a retry only has to record it."""

    result: FileResult
    layout: Layout


def _recover(work: _Work) -> FileResult | None:
    """Record the commit of a turn that was killed before it could, even if the file has gone since."""
    pending = work.parts.ledger.read("pending", work.name, Pending)
    if pending is None or not pending.digest or pending.seen is None:
        return None
    outcome = _committed(work, pending.digest)
    if outcome is None:
        return None
    _record(work, outcome[0], pending.seen, outcome[1])
    return outcome[0]


def _committed(work: _Work, file_digest: str) -> _Outcome | None:
    commit = work.parts.tables.committed(work.table, file_digest)
    if commit is None:
        return None
    facts = msgspec.convert(commit.facts, _Facts)
    return msgspec.structs.replace(facts.result, table_version=commit.version), facts.layout


def _take(work: _Work, arrival: Arrival, staged: Staged, seen: Seen) -> _Outcome:
    """Read, decide, append; every outcome is a result. The layout is None when it stays as it was."""
    done = _committed(work, staged.digest)
    if done is not None:
        return done
    blank = FileResult(
        source=work.name,
        name=arrival.name,
        digest=staged.digest,
        size_bytes=staged.size_bytes,
        status="accepted",
        at=timestamp(work.parts.clock.now()),
    )
    try:
        return _accept(work, blank, _read(work, arrival, staged), seen)
    except Unreadable as error:
        work.parts.blobs.put(f"quarantine/{staged.digest}/{safe_name(arrival.name)}", staged.path)
        return _not_accepted(blank, "unreadable", error), None
    except DataRefused as error:
        return _not_accepted(blank, "refused", error), None


def _not_accepted(blank: FileResult, status: Literal["refused", "unreadable"], error: DataRefused) -> FileResult:
    counts = {name: error.facts[name] for name in ("rows", "quarantined", "duplicates") if name in error.facts}
    told = {"status": status, "reason": error.message, "next_step": error.next_step}
    return msgspec.structs.replace(blank, **told, **counts)


def safe_name(name: str) -> str:
    """A file name as one segment of a blob key: letters, digits, ``_ - .``, at most 80, never hidden."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[-80:] or "file"


def _read(work: _Work, arrival: Arrival, staged: Staged) -> Reading:
    columns = [column for column in work.layout().columns if not undecided(column)]
    # a key is never widened: its text decides on which side of the split a row lies
    keys = {column.name: column.type for column in columns if column.name in work.source.key}
    return read_file(
        staged.path,
        name=arrival.name,
        delimiter=work.source.delimiter,
        columns=columns or None,
        types={**keys, **work.source.types},
        scratch=work.scratch,
    )


def _accept(work: _Work, blank: FileResult, reading: Reading, seen: Seen) -> _Outcome:
    layout = work.layout()
    settled = settle(reading, layout, work.source, blank.name)
    bad = _bad_cells(work.source, settled, reading)
    rows_bad = bad["row"].n_unique() if bad.height else 0
    if rows_bad:
        _quarantine(work, blank, bad, reading)
        _refuse_bad(work, bad, reading.rows, rows_bad)
    good = without(settled.frame, bad)
    notes = (*settled.notes, *_soft(good, layout, work.source))
    result = msgspec.structs.replace(blank, rows=reading.rows, quarantined=rows_bad, notes=notes)
    if reading.rows == 0:
        return msgspec.structs.replace(result, notes=(*notes, "the file has a header and no rows")), None
    return _store(work, result, good, settled, seen)


def _bad_cells(source: Source, settled: Settled, reading: Reading) -> pl.DataFrame:
    """Every cell for which its row is left out: unreadable, breaking the signature, or an empty key."""
    frame = settled.frame
    found = [check(frame, settled.expected, nullable=settled.nullable)]
    for name in source.key:
        empty = frame[name].is_null().arg_true().cast(pl.UInt64)
        found.append(pl.DataFrame({"row": empty}).with_columns(column=pl.lit(name), reason=pl.lit(_EMPTY_KEY)))
    # a cell of a column that is left out anyway harms nobody
    kept = [*frame.columns, ""]
    return merge_bad(reading.bad.filter(pl.col("column").is_in(kept)), pl.concat(found), frame[ROW])


def _quarantine(work: _Work, blank: FileResult, bad: pl.DataFrame, reading: Reading) -> None:
    """Keep each bad cell with file, row, column and reason, and the row as JSON text."""
    rows = reading.frame.filter(pl.col(ROW).is_in(bad["row"].unique().implode()))
    raw = pl.concat([reading.raw, rows_as_json(rows)]).unique(subset="row", keep="first", maintain_order=True)
    cells = bad.join(raw, on="row", how="left", maintain_order="left")
    cells = cells.select(pl.lit(blank.digest).alias("file"), pl.lit(blank.name).alias("name"), *BAD_SCHEMA, "raw")
    facts = {"file": blank.digest, "name": blank.name, "cells": cells.height}
    work.parts.tables.append(f"quarantine/{work.name}", cells, commit_key=blank.digest, facts=facts)


def _refuse_bad(work: _Work, bad: pl.DataFrame, rows: int, rows_bad: int) -> None:
    """Raise :class:`DataRefused` when more rows are bad than the source allows."""
    allowed = work.parts.settings.bad_row_share(work.source)
    if rows_bad <= allowed * rows:
        return
    groups = bad.group_by("column", "reason", maintain_order=True).agg(pl.len(), pl.col("row").min())
    worst = [
        f"{count:,} x {_cell(column)} {reason} (first in row {row:,})"
        for column, reason, count, row in groups.sort("len", descending=True).head(3).iter_rows()
    ]
    raise DataRefused(
        f"{rows_bad:,} of {rows:,} rows are bad, {allowed:.2%} are allowed: {'; '.join(worst)}. Nothing was ingested.",
        next_step="Mend the file and send it again, or set types, nullable or max_bad_rows of the source.",
        rows=rows,
        quarantined=rows_bad,
    )


def _cell(column: str) -> str:
    return f"column '{shown(column, 40)}'" if column else "a row"


def _soft(good: pl.DataFrame, layout: Layout, source: Source) -> list[str]:
    """What is new but possible, in words: categories never seen, numbers outside of the range seen."""
    watched = [column for column in layout.columns if column.name not in source.key]
    notes = []
    for drift in drift_notes(good, [column for column in watched if column.type not in ("date", "datetime")]):
        if drift.unseen:
            notes.append(f"column '{drift.column}': {drift.unseen:,} rows hold a category never seen before")
        if drift.outside:
            notes.append(f"column '{drift.column}': {drift.outside:,} rows are outside of the range seen before")
    return notes


def _store(work: _Work, result: FileResult, good: pl.DataFrame, settled: Settled, seen: Seen) -> _Outcome:
    """Drop duplicates, evolve the table where columns changed, append under the file's digest."""
    tables, layout = work.parts.tables, work.layout()
    known = bool(layout.columns) and tables.version(work.table) is not None
    stored = evolve(tables.scan(work.table), settled.expected) if known else None
    values = [name for name in good.columns if name != ROW]
    kept = dedupe(good, stored, key=work.source.key, on_duplicate=work.source.on_duplicate, values=values)
    if kept.duplicates and work.source.on_duplicate == "refuse":
        raise DataRefused(
            f"{kept.duplicates:,} of {result.rows:,} rows are there already, and duplicates are refused. "
            "Nothing was ingested.",
            next_step='Take them out, or set on_duplicate = "keep-last" or "keep-first".',
            rows=result.rows,
            duplicates=kept.duplicates,
        )
    result = msgspec.structs.replace(
        result, accepted=kept.rows.height, duplicates=kept.duplicates, updated=kept.updated
    )
    if kept.rows.is_empty():
        return result, None
    after = grown(layout, settled, kept.rows, work.source, updated=kept.updated)
    with work.turn.transaction(work.parts.ledger) as t:
        t.put("pending", work.name, Pending(digest=result.digest, seen=seen))
    if stored is not None and settled.evolved:
        tables.replace(work.table, stored, commit_key=f"{result.digest}-columns", facts={"columns": len(after.columns)})
    return _append(work, result, kept.rows, after)


def _append(work: _Work, result: FileResult, rows: pl.DataFrame, layout: Layout) -> _Outcome:
    # the version of the table grows with every commit, recorded or not: a sequence that no retry can give out twice
    version = work.parts.tables.version(work.table)
    sequence = 0 if version is None else version + 1
    result = msgspec.structs.replace(result, sequence=sequence)
    lineage = {"_file": pl.lit(result.digest), "_row": pl.col(ROW), "_seq": pl.lit(sequence, pl.Int64)}
    frame = rows.select(*(column.name for column in layout.columns), **lineage)
    facts = facts_of(_Facts(result=result, layout=layout))
    commit = work.parts.tables.append(work.table, frame, commit_key=result.digest, facts=facts)
    return msgspec.structs.replace(result, table_version=commit.version), layout


def _record(work: _Work, result: FileResult, seen: Seen, layout: Layout | None) -> None:
    """The event and the documents that it changes, in one transaction."""
    with work.turn.transaction(work.parts.ledger) as t:
        t.append(f"file.{result.status}", f"{result.source}/{result.name}", facts_of(result))
        t.put("seen", f"{result.source}/{result.name}", seen)
        if result.status != "repeated":
            t.put("file", f"{result.source}/{result.digest}", result)
        if layout is not None:
            t.put("columns", result.source, layout)
            t.put("pending", result.source, Pending())
