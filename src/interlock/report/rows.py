"""The chapter about the data: files, snapshot, signature, and how the columns are spread."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from interlock.data.profile import ColumnProfile
from interlock.records import Column, FileResult
from interlock.report import findings, pictures
from interlock.report.facts import Entry, Story
from interlock.report.page import Block, Facts, Gallery, Section, Table, Text, lost
from interlock.report.words import count, listed, maybe, number, share, when

_MOST_ROWS = 100
_MOST_NOTES = 4
_MOST_PICTURES = 36
_MOST_CATEGORIES = 6


def data(story: Story) -> Section:
    """Files, snapshot, split, signature, profile."""
    blocks = (*_files(story), *_snapshot(story), *_signature(story), *_profile(story))
    return Section(name="data", title="Data", blocks=blocks)


def _files(story: Story) -> tuple[Block, ...]:
    records = [entry.record for entry in story.files]
    if not records:
        return (Text(text="No file is recorded for this snapshot."),)
    states = Counter(record.status for record in records)
    said = ", ".join(
        f"{states[state]} {state}" for state in ("accepted", "refused", "unreadable", "repeated") if states[state]
    )
    rows_said = (
        f"{count(sum(r.accepted for r in records), 'row')} accepted, "
        f"{count(sum(r.duplicates for r in records), 'duplicate')}, "
        f"{number(sum(r.updated for r in records))} replaced older rows, "
        f"{number(sum(r.quarantined for r in records))} quarantined"
    )
    shown = story.files[-_MOST_ROWS:]
    table = Table(
        title="Files, and what became of them",
        columns=(
            ("File", "code"),
            ("State", "flag"),
            ("Rows", "number"),
            ("Accepted", "number"),
            ("Duplicates", "number"),
            ("Replaced", "number"),
            ("Quarantined", "number"),
            ("Entry", "number"),
            ("Digest", "digest"),
        ),
        rows=tuple(_file_row(entry) for entry in shown),
        note="" if len(shown) == len(records) else f"The newest {len(shown)} of {len(records):,} files are listed.",
    )
    return (
        Text(text=f"Before the snapshot was made, {count(len(records), 'file')} had landed: {said}; {rows_said}."),
        table,
        _remarks(shown),
    )


def _file_row(entry: Entry[FileResult]) -> tuple[str, ...]:
    record = entry.record
    counts = (record.rows, record.accepted, record.duplicates, record.updated, record.quarantined, entry.event.sequence)
    return _file_name(record), record.status, *(number(value) for value in counts), record.digest


def _file_name(record: FileResult) -> str:
    return f"{record.source}/{record.name}"


def _remarks(entries: Sequence[Entry[FileResult]]) -> Table:
    """Why files were not used, and what was noted about those that were."""
    rows = []
    for record in (entry.record for entry in entries):
        same = f"The same bytes as {record.first_name}." if record.status == "repeated" else ""
        notes = [note.rstrip(".") for note in record.notes[:_MOST_NOTES]]
        more = len(record.notes) - len(notes)
        notes += [f"and {count(more, 'further note')}"] if more else []
        said = " ".join(part for part in (record.reason or same, f"{'; '.join(notes)}." if notes else "") if part)
        rows += [(_file_name(record), record.status, said)] if said else []
    return Table(
        title="What was said about them",
        columns=(("File", "code"), ("State", "flag"), ("Reason or note", "text")),
        rows=tuple(rows),
        empty="Nothing to note.",
    )


def _snapshot(story: Story) -> tuple[Block, ...]:
    if story.snapshot is None:
        return lost("The snapshot")
    made, event = story.snapshot.record, story.snapshot.event
    facts = Facts(
        rows=(
            ("Snapshot", made.digest, "code"),
            ("Made", f"{when(event.at)}, ledger entry {event.sequence}", "text"),
            ("Rows", f"{number(made.rows)} in {count(len(made.columns), 'column')}", "text"),
            ("For training", f"{number(made.training_rows)} ({share(made.training_rows, made.rows)})", "text"),
            ("Held out", f"{number(made.holdout_rows)} ({share(made.holdout_rows, made.rows)})", "text"),
            ("Split", made.split, "text"),
            ("Query", made.query or "none, the source as it is", "code" if made.query else "text"),
            ("Join", " ".join(made.join_notes) or "nothing to note", "text"),
            ("Digest of the training rows", made.training_digest, "code"),
            ("Digest of the holdout rows", made.holdout_digest, "code"),
        )
    )
    table = Table(
        title="Sources as the snapshot saw them",
        columns=(
            ("Source", "word"),
            ("Version", "number"),
            ("Rows", "number"),
            ("Files", "number"),
            ("Digest", "digest"),
        ),
        rows=tuple((s.source, number(s.version), number(s.rows), number(s.files), s.digest) for s in made.sources),
    )
    return facts, table


def _signature(story: Story) -> tuple[Block, ...]:
    if story.model is None:
        return lost("The signature")
    known = {column.name: column for column in story.profile.columns} if story.profile else {}
    table = Table(
        title="Signature: what the model takes",
        columns=(
            ("Column", "code"),
            ("Type", "word"),
            ("May be empty", "word"),
            ("Empty", "number"),
            ("Mean", "number"),
            ("Std. dev.", "number"),
            ("Values", "text"),
        ),
        rows=tuple(_column_row(column, known.get(column.name)) for column in story.model.record.signature.inputs),
        note=f"Categories with fewer than {findings.SMALL} rows are counted, not named.",
    )
    return (table,)


def _column_row(column: Column, profile: ColumnProfile | None) -> tuple[str, ...]:
    numeric = profile is not None and column.type in ("int", "float")
    return (
        column.name,
        column.type,
        "yes" if column.nullable else "no",
        share(profile.nulls, profile.count) if profile else "",
        maybe(profile.mean) if profile and numeric else "",
        maybe(profile.std) if profile and numeric else "",
        _values(column, profile),
    )


def _values(column: Column, profile: ColumnProfile | None) -> str:
    """Range or categories of a column; a category is named only where the profile shows enough rows of it."""
    if column.categories is not None:
        rows = (profile.categories or {}) if profile else {}
        named = tuple(name for name in column.categories if rows.get(name, 0) >= findings.SMALL)
        total = count(len(column.categories), "category", "categories")
        return f"{total}: {listed(named)}" if named else total
    if column.low is None or column.high is None:
        if column.type == "bytes" and profile is not None and profile.low is not None and profile.high is not None:
            return f"{number(profile.low)} to {number(profile.high)} bytes each"
        return "many" if column.type == "str" else ""
    low, high = (number(edge) if isinstance(edge, int | float) else edge for edge in (column.low, column.high))
    return f"{low} to {high}"


def _profile(story: Story) -> tuple[Block, ...]:
    if story.profile is None:
        return (Text(text="No reference profile is recorded, so the columns are not drawn."),)
    takes = set(story.model.record.signature.names) if story.model else set()
    columns = story.profile.columns
    features = [column for column in columns if column.name in takes]
    answers = [column for column in columns if column.name not in takes]
    return (
        *_gallery("How the columns are spread in the training rows", features),
        *_gallery("How the model's answers are spread on the holdout", answers),
    )


def _gallery(title: str, columns: Sequence[ColumnProfile]) -> tuple[Block, ...]:
    drawn = [picture for column in columns[:_MOST_PICTURES] if (picture := _spread(column)) is not None]
    if not drawn:
        return ()
    left = len(columns) - len(drawn)
    return (
        Gallery(title=f"{title} ({count(left, 'further one')} not drawn)" if left else title, pictures=tuple(drawn)),
    )


def _spread(column: ColumnProfile) -> pictures.Picture | None:
    if column.categories is not None:
        return _named(column, column.categories)
    if column.low is None or column.high is None:
        return None
    # A whole number fills the room up to the next one, so that the largest has a bin too.
    top = column.high + 1 if column.type in ("int", "date") else column.high
    bins = int(min(24, top - column.low)) if column.type in ("int", "date") else 24
    found = findings.rebin((column.low, *column.edges, top), column.bins, bins=max(bins, 1))
    if found is None:
        return None
    outside = found.below + found.above
    ends = (column.low, column.high) if not outside else (found.edges[0], found.edges[-1])
    unit = " bytes" if column.type == "bytes" else ""
    words = (_instant(column.type, ends[0]), _instant(column.type, ends[1]))
    told = f"{number(sum(column.bins))} values{unit and ' of'} from {words[0]} to {words[1]}"
    told += f"; {number(outside)} beyond the edges are not drawn" if outside else ""
    return pictures.histogram(column.name, found.edges, found.counts, description=told, ends=words)


def _instant(kind: str, value: float) -> str:
    """A profiled number as text: dates are days, times seconds since 1970."""
    if kind not in ("date", "datetime"):
        return number(value)
    since = timedelta(days=value) if kind == "date" else timedelta(seconds=value)
    return (datetime(1970, 1, 1, tzinfo=UTC) + since).strftime("%Y-%m-%d")


def _named(column: ColumnProfile, categories: Mapping[str, int]) -> pictures.Picture | None:
    large = [(name, rows) for name, rows in categories.items() if rows >= findings.SMALL]
    large.sort(key=lambda item: (-item[1], item[0]))
    shown = large[:_MOST_CATEGORIES]
    rest = column.count - column.nulls - sum(rows for _, rows in shown)
    shown += [(findings.OTHER, rest)] if rest > 0 else []
    if not shown:
        return None
    told = ", ".join(f"{name} {number(rows)}" for name, rows in shown)
    return pictures.bars(column.name, [name for name, _ in shown], [rows for _, rows in shown], description=told)
