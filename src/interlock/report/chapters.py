"""The chapters about what was made, of what, and where it went: problem, data, model, packaging, deployment, lineage."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from interlock.data.profile import ColumnProfile
from interlock.records import BatchResult, Column, Event, FileResult, Policy, Release
from interlock.report import findings, pictures
from interlock.report.facts import BATCH_KINDS, LOCKS, Entry, R, Story
from interlock.report.page import Block, Facts, Figure, Gallery, Listing, Note, Section, Table, Text
from interlock.report.words import count, duration, exact, maybe, metric, number, percent, share, size, when

_MOST_ROWS = 100
_MOST_PICTURES = 36
_MOST_CATEGORIES = 6
_CODE = (".py", ".toml", ".sql", ".ipynb")

UNKNOWN = "not recorded"


def _lost(what: str) -> tuple[Block, ...]:
    return (Note(text=f"{what} is not recorded, so there is nothing to show here.", tone="warn"),)


# ---- problem -----------------------------------------------------------------------------------------------------


def problem(story: Story) -> Section:
    """Task, target, metric and the owner's rules."""
    output = story.model.record.signature.output if story.model else None
    rows: list[tuple[str, str, str]] = [("Task", story.task), ("Target column", story.target or UNKNOWN)]
    if output is not None and output.classes:
        rows.append(("Answer", f"one of {count(len(output.classes), 'class', 'classes')}: {_listed(output.classes)}"))
    elif output is not None and output.low is not None and output.high is not None:
        rows.append(("Answer", f"a number; {number(output.low)} to {number(output.high)} in training"))
    elif output is not None:
        rows.append(("Answer", f"{output.kind} of type {output.type}"))
    if story.receipt is not None:
        seen = story.receipt.record.evaluation
        rows.append(("Metric that decides", f"{metric(seen.metric)} ({'more' if seen.greater_is_better else 'less'} is better)"))
    blocks: list[Block] = [Facts(rows=tuple((name, value, "text") for name, value in rows))]
    if story.receipt is not None:
        blocks.append(_policy_table(story.receipt.record.policy))
    return Section(name="problem", title="Problem", blocks=tuple(blocks))


def _listed(values: tuple[object, ...], most: int = 12) -> str:
    shown = ", ".join(str(value) for value in values[:most])
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"


def _policy_table(policy: Policy) -> Table:
    rules = (
        ("Score of the candidate at least", "" if policy.at_least is None else exact(policy.at_least)),
        ("Gain over champion and baseline more than", exact(policy.min_gain)),
        ("Confidence of every comparison", percent(policy.confidence)),
        ("Columns judged slice by slice", ", ".join(policy.slices)),
        ("Rows that a slice needs to be judged", number(policy.min_slice_rows)),
        ("Too good to be true: share of error gone at once", percent(policy.too_good)),
        ("Times that one holdout may be asked", number(policy.max_asks)),
        ("Median time to answer one row, ms, at most", maybe(policy.max_latency_ms)),
        ("Size of the bundle, MB, at most", maybe(policy.max_size_mb)),
        ("A person must approve", "yes" if policy.approval else "no"),
    )
    return Table(
        title="Rules of the gate",
        columns=(("Rule", "text"), ("Asked", "number")),
        rows=tuple((rule, asked or "not asked") for rule, asked in rules),
    )


# ---- data --------------------------------------------------------------------------------------------------------


def data(story: Story) -> Section:
    """Files, snapshot, split, signature, profile."""
    blocks = (*_files(story), *_snapshot(story), *_signature(story), *_profile(story))
    return Section(name="data", title="Data", blocks=blocks)


def _files(story: Story) -> tuple[Block, ...]:
    records = [entry.record for entry in story.files]
    if not records:
        return (Text(text="No file is recorded for this snapshot."),)
    states = Counter(record.status for record in records)
    said = ", ".join(f"{states[state]} {state}" for state in ("accepted", "refused", "unreadable", "repeated") if states[state])
    rows_said = (
        f"{count(sum(r.accepted for r in records), 'row')} accepted, {number(sum(r.duplicates for r in records))} duplicates, "
        f"{number(sum(r.updated for r in records))} replaced older rows, {number(sum(r.quarantined for r in records))} quarantined"
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
            ("Event", "number"),
            ("Digest", "digest"),
        ),
        rows=tuple(_file_row(entry) for entry in shown),
        note="" if len(shown) == len(records) else f"The newest {len(shown)} of {len(records):,} files are listed.",
    )
    return Text(text=f"Before the snapshot was made, {count(len(records), 'file')} had landed: {said}; {rows_said}."), table, _remarks(shown)


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
        said = " ".join(part for part in (record.reason or same, *record.notes) if part)
        rows += [(_file_name(record), record.status, said)] if said else []
    return Table(
        title="What was said about them",
        columns=(("File", "code"), ("State", "flag"), ("Reason or note", "text")),
        rows=tuple(rows),
        empty="Nothing to note.",
    )


def _snapshot(story: Story) -> tuple[Block, ...]:
    if story.snapshot is None:
        return _lost("The snapshot")
    made, event = story.snapshot.record, story.snapshot.event
    facts = Facts(
        rows=(
            ("Snapshot", made.digest, "code"),
            ("Made", f"{when(event.at)}, ledger event {event.sequence}", "text"),
            ("Rows", f"{number(made.rows)} in {count(len(made.columns), 'column')}", "text"),
            ("For training", f"{number(made.training_rows)} ({share(made.training_rows, made.rows)})", "text"),
            ("Held out", f"{number(made.holdout_rows)} ({share(made.holdout_rows, made.rows)})", "text"),
            ("Split", made.split, "text"),
            ("Query", made.query, "code"),
            ("Join", " ".join(made.join_notes) or "nothing to note", "text"),
            ("Digest of the training rows", made.training_digest, "code"),
            ("Digest of the holdout rows", made.holdout_digest, "code"),
        )
    )
    table = Table(
        title="Sources as the snapshot saw them",
        columns=(("Source", "word"), ("Version", "number"), ("Rows", "number"), ("Files", "number"), ("Digest", "digest")),
        rows=tuple((s.source, number(s.version), number(s.rows), number(s.files), s.digest) for s in made.sources),
    )
    return facts, table


def _signature(story: Story) -> tuple[Block, ...]:
    if story.model is None:
        return _lost("The signature")
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
        return f"{total}: {_listed(named)}" if named else total
    if column.low is None or column.high is None:
        return "many" if column.type == "str" else ""
    low, high = (number(edge) if isinstance(edge, int | float) else edge for edge in (column.low, column.high))
    return f"{low} to {high}"


def _profile(story: Story) -> tuple[Block, ...]:
    if story.profile is None:
        return (Text(text="No reference profile is recorded, so the columns are not drawn."),)
    drawn = [picture for column in story.profile.columns[:_MOST_PICTURES] if (picture := _spread(column)) is not None]
    left = len(story.profile.columns) - len(drawn)
    title = "How the columns are spread" + (f" ({count(left, 'further column')} not drawn)" if left else "")
    return (Gallery(title=title, pictures=tuple(drawn)),)


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
    words = tuple(_instant(column.type, end) for end in ends)
    told = f"{number(sum(column.bins))} values from {words[0]} to {words[1]}"
    told += f"; {number(outside)} beyond the edges are not drawn" if outside else ""
    return pictures.histogram(column.name, found.edges, found.counts, description=told, ends=words)


def _instant(kind: str, value: float) -> str:
    """A profiled number as text: dates are days, times seconds since 1970."""
    if kind not in ("date", "datetime"):
        return number(value)
    moment_ = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(**{"days" if kind == "date" else "seconds": value})
    return moment_.strftime("%Y-%m-%d")


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


# ---- model and training ------------------------------------------------------------------------------------------


def model(story: Story) -> Section:
    """Form, parameters and the user's files."""
    if story.model is None:
        return Section(name="model", title="Model", blocks=_lost("The bundle"))
    bundle, event = story.model.record, story.model.event
    facts = Facts(
        rows=(
            ("Bundle", bundle.digest, "code"),
            ("Packed", f"{when(event.at)}, ledger event {event.sequence}", "text"),
            ("Form that answers", bundle.form, "text"),
            ("Why this form", bundle.form_reason, "text"),
            ("Digest of the code", bundle.code, "code"),
            ("Seed", str(bundle.seed), "text"),
        )
    )
    parity = _pairs("Parity: what was compared to keep that form", bundle.parity, "Nothing was compared.")
    params = _pairs("Parameters", bundle.params, "None: [params] is empty.")
    sources = [file for file in story.bundle_files if file.text is not None and file.path.endswith(_CODE)]
    listings = tuple(
        Listing(title=file.path, about=f"{size(file.size_bytes)}, {file.digest}", text=file.text or "", language=_language(file.path))
        for file in sources
    )
    said = "The user's files as they were packed; their bytes agree with the digests beside them." if listings else (
        "The user's files are not at hand."
    )
    return Section(name="model", title="Model", blocks=(facts, params, parity, Text(text=said), *listings))


def _language(path: str) -> str:
    return {"py": "python", "toml": "toml", "sql": "sql", "ipynb": "json"}.get(path.rsplit(".", 1)[-1], "")


def _pairs(title: str, values: dict[str, object], empty: str) -> Table:
    return Table(
        title=title,
        columns=(("Name", "code"), ("Value", "text")),
        rows=tuple((name, _value(values[name])) for name in sorted(values)),
        empty=empty,
    )


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return exact(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return "none" if value is None else str(value)


def training(story: Story) -> Section:
    """The run of the user's training function."""
    title = "Training and tuning"
    if story.training is None:
        return Section(name="training", title=title, blocks=_lost("The training"))
    run, event = story.training.record, story.training.event
    facts = Facts(
        rows=(
            ("Training", run.digest, "code"),
            ("Ended", f"{when(event.at)}, ledger event {event.sequence}", "text"),
            ("State", run.status, "flag"),
            ("Rows", number(run.rows), "text"),
            ("Seed", str(run.seed), "text"),
            ("Time", duration(run.seconds), "text"),
            ("Peak memory", size(run.peak_memory_bytes), "text"),
        )
    )
    metrics = Table(
        title="Metrics that training reported",
        columns=(("Metric", "text"), ("Value", "number")),
        rows=tuple((name, number(run.metrics[name])) for name in sorted(run.metrics)),
        empty="Training reported none.",
        note="As told by the user's code on rows of its own choice; the gate does not use them." if run.metrics else "",
    )
    tail: tuple[Block, ...] = (Text(text="Training printed nothing."),)
    if run.output_tail.strip():
        tail = (Listing(title="Output of training", about="its end, as it was printed", text=run.output_tail),)
    tuning = Text(text="No search over parameters is recorded: the parameters are those of the settings.")
    return Section(name="training", title=title, blocks=(facts, metrics, tuning, *tail))


# ---- packaging ---------------------------------------------------------------------------------------------------


def packaging(story: Story) -> Section:
    """Files of the bundle and the environment lock."""
    files = story.bundle_files
    if not files:
        return Section(name="packaging", title="Packaging", blocks=_lost("The list of the bundle's files"))
    said = (
        f"The bundle is named by the SHA-256 of its manifest, {story.candidate}, which lists "
        f"{count(len(files), 'file')} of {size(sum(file.size_bytes for file in files))} in all, each by its own digest. "
        "Every file is verified before the bundle is opened."
    )
    blocks: list[Block] = [Text(text=said)]
    blocks.append(
        Table(
            title="Files of the bundle",
            columns=(("File", "code"), ("Size", "number"), ("SHA-256", "code")),
            rows=tuple((file.path, size(file.size_bytes), file.digest) for file in files),
        )
    )
    mlflow = any(file.path == "MLmodel" for file in files)
    blocks.append(
        Text(
            text="The folder is a valid MLflow model: mlflow.pyfunc.load_model opens it as it is."
            if mlflow
            else "The folder holds no MLmodel file, so MLflow cannot open it."
        )
    )
    locks = [file for file in files if file.text is not None and file.path.rsplit("/", 1)[-1] in LOCKS]
    blocks += [
        Listing(title=file.path, about=f"{size(file.size_bytes)}, {file.digest}", text=file.text or "") for file in locks
    ]
    return Section(name="packaging", title="Packaging", blocks=tuple(blocks))


# ---- deployment --------------------------------------------------------------------------------------------------


def deployment(story: Story) -> Section:
    """Releases before and after, and the batches that this model answered."""
    return Section(name="deployment", title="Deployment", blocks=(*_served(story), _releases(story), _decisions(story), *_batches(story)))


def _served(story: Story) -> tuple[Block, ...]:
    if story.release is None:
        return (Text(text="This page tells of a decision; the releases of the project follow."),)
    if story.served is None:
        return (Text(text="This release has not published an audited batch so far, so it does not count as proven in service."),)
    return (Text(text=f"This release has really served: it published an audited batch, ledger event {story.served}."),)


def _releases(story: Story) -> Table:
    entries = story.releases[-_MOST_ROWS:]
    back = sum(entry.record.cause == "rollback" for entry in story.releases)
    said = f"{count(back, 'roll-back')} among {count(len(story.releases), 'release')}."
    return Table(
        title="Releases",
        columns=(
            ("Generation", "number"),
            ("Champion", "digest"),
            ("Last good", "digest"),
            ("Cause", "word"),
            ("Since", "word"),
            ("Event", "number"),
            ("Because", "text"),
        ),
        rows=tuple(_release_row(entry) for entry in reversed(entries)),
        empty="Nothing was released yet.",
        note=said if entries else "",
    )


def _release_row(entry: Entry[Release]) -> tuple[str, ...]:
    made = entry.record
    since, event = when(entry.event.at), number(entry.event.sequence)
    return number(made.generation), made.champion, made.last_good or "", made.cause, since, event, made.because


def _decisions(story: Story) -> Table:
    entries = story.decisions[-_MOST_ROWS:]
    return Table(
        title="Decisions of the gate",
        columns=(("Event", "number"), ("Candidate", "digest"), ("Verdict", "flag"), ("Decided", "word"), ("Reason", "text")),
        rows=tuple(
            (
                number(entry.event.sequence),
                entry.record.decision.candidate,
                entry.record.decision.verdict,
                when(entry.event.at),
                entry.record.decision.reason,
            )
            for entry in reversed(entries)
        ),
        note="" if len(entries) == len(story.decisions) else f"The newest {len(entries)} of {len(story.decisions):,}.",
    )


def _batches(story: Story) -> tuple[Block, ...]:
    records = [entry.record for entry in story.batches]
    if not records:
        return (Text(text="This model has not answered a batch so far."),)
    states = Counter(record.status for record in records)
    said = ", ".join(f"{states[state]} {state}" for state in (kind.split(".")[1] for kind in BATCH_KINDS) if states[state])
    answered = sum(record.scored for record in records if record.status == "published")
    shown = story.batches[-_MOST_ROWS:]
    table = Table(
        title="Batches that this model answered",
        columns=(
            ("File", "code"),
            ("State", "flag"),
            ("Release", "number"),
            ("Rows", "number"),
            ("Scored", "number"),
            ("Quarantined", "number"),
            ("Time", "number"),
            ("Event", "number"),
            ("Why", "text"),
        ),
        rows=tuple(_batch_row(entry) for entry in reversed(shown)),
        note="" if len(shown) == len(records) else f"The newest {len(shown)} of {len(records):,} batches are listed.",
    )
    return Text(text=f"{count(len(records), 'batch', 'batches')}: {said}; {count(answered, 'row')} published."), table, _audits(story)


def _batch_row(entry: Entry[BatchResult]) -> tuple[str, ...]:
    record = entry.record
    return (
        record.name,
        record.status,
        number(record.generation),
        number(record.rows),
        number(record.scored),
        number(record.quarantined),
        duration(record.seconds),
        number(entry.event.sequence),
        record.reason,
    )


def _audits(story: Story) -> Table:
    """Audits by rule over all batches of the model, and the newest failure of each."""
    passed: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    last: dict[str, str] = {}
    for entry in story.batches:
        for audit in entry.record.audits:
            (passed if audit.passed else failed)[audit.name] += 1
            if not audit.passed:
                last[audit.name] = f"{entry.record.name}: {audit.reason}"
    names = list(dict.fromkeys([*passed, *failed]))
    return Table(
        title="Audits of these batches",
        columns=(("Rule", "word"), ("Passed", "number"), ("Failed", "number"), ("Newest failure", "text")),
        rows=tuple((name, number(passed[name]), number(failed[name]), last.get(name, "")) for name in names),
    )


# ---- lineage -----------------------------------------------------------------------------------------------------


def lineage(story: Story) -> Section:
    """From rows to release, each step by digest and place in the ledger."""
    steps = _steps(story)
    picture = pictures.flow(
        "From rows to release",
        [(name, digest[:12], f"event {sequence}" if sequence else UNKNOWN) for name, digest, sequence, _ in steps],
        description=" → ".join(f"{name} {digest[:12]}" for name, digest, _, _ in steps),
    )
    table = Table(
        title="Steps",
        columns=(("Step", "word"), ("Digest", "code"), ("Event", "number"), ("When", "word")),
        rows=tuple((name, digest, str(sequence or ""), when(at)) for name, digest, sequence, at in steps),
        note="Snapshot, training and bundle are named by what they were made from, the evidence by its bytes; receipt and "
        "release by the hash of their entry in the ledger, which covers every entry before it.",
    )
    return Section(name="lineage", title="Lineage", blocks=(Figure(picture=picture), table))


def _steps(story: Story) -> list[tuple[str, str, int, str]]:
    """Name, digest, sequence and time of each step; empty and 0 where nothing is recorded."""
    receipt = story.receipt
    found: list[tuple[str, str, Event | None]] = [
        ("Snapshot", story.snapshot.record.digest if story.snapshot else "", _event(story.snapshot)),
        ("Training", story.training.record.digest if story.training else "", _event(story.training)),
        ("Bundle", story.candidate, _event(story.model)),
        ("Evidence", receipt.record.evaluation.evidence_digest if receipt else "", _event(receipt)),
        ("Receipt", receipt.event.hash if receipt else "", _event(receipt)),
    ]
    if story.release is not None:
        found.append(("Release", story.release.event.hash, story.release.event))
    return [(name, made, event.sequence if event else 0, event.at if event else "") for name, made, event in found]


def _event(entry: Entry[R] | None) -> Event | None:
    return entry.event if entry else None


# ---- resources ---------------------------------------------------------------------------------------------------


def resources(story: Story) -> Section:
    """Time, memory and bytes, stage by stage."""
    rows: list[tuple[str, str, str, str]] = []
    if story.turn is not None:
        rows += [(f"Turn: {step.name}", duration(step.seconds), "", "") for step in story.turn.steps]
        rows.append(("Turn in all", duration(story.turn.seconds), "", ""))
    if story.files:
        reads = [entry.record for entry in story.files]
        rows.append(
            ("Reading all files", duration(sum(r.seconds for r in reads)), "", size(sum(r.size_bytes for r in reads)))
        )
    if story.training is not None:
        run = story.training.record
        rows.append(("The user's training", duration(run.seconds), size(run.peak_memory_bytes), ""))
    if story.model is not None:
        rows.append(("Bundle", "", "", size(story.model.record.size_bytes)))
    if story.receipt is not None and story.receipt.record.evaluation.latency_ms is not None:
        rows.append(("One row answered (median)", duration(story.receipt.record.evaluation.latency_ms / 1000), "", ""))
    if story.batches:
        rows.append(("Answering all batches", duration(sum(e.record.seconds for e in story.batches)), "", ""))
    table = Table(
        title="Time, memory and size",
        columns=(("What", "text"), ("Time", "number"), ("Peak memory", "number"), ("Size", "number")),
        rows=tuple(rows),
        empty="Nothing is recorded.",
        note="" if story.turn else "The turn of the decision did not record its end, so its steps are not timed.",
    )
    return Section(name="resources", title="Resources used", blocks=(table,))
