"""The chapters about what became of it: releases, decisions and batches, and the way from rows to release."""

from collections import Counter

from interlock.records import BatchResult, Event, Release, short
from interlock.release.canary import Ended, summed
from interlock.report import pictures
from interlock.report.facts import BATCH_KINDS, Entry, R, Story
from interlock.report.page import Block, Figure, Section, Table, Text
from interlock.report.words import count, duration, number, when

_MOST_ROWS = 100


# ---- deployment ------------------------------------------------------------------------------------------------------


def deployment(story: Story) -> Section:
    """Releases before and after, and the batches that this model answered."""
    return Section(
        name="deployment",
        title="Deployment",
        blocks=(*_served(story), _releases(story), *_trials(story), _decisions(story), *_batches(story)),
    )


def _served(story: Story) -> tuple[Block, ...]:
    if story.release is None:
        return (Text(text="This page tells of a decision; the releases of the project follow."),)
    if story.served is None:
        told = "This release has not published an audited batch so far, nor come through a canary"
        return (Text(text=f"{told}: it is not yet proven in service."),)
    return (Text(text=f"This release has really served: ledger entry {story.served} proves it."),)


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
            ("Entry", "number"),
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


def _trials(story: Story) -> tuple[Block, ...]:
    """How the trials of challengers ended; nothing where there was none."""
    if not story.ended:
        return ()
    return (
        Table(
            title="Trials of challengers",
            columns=(
                ("Entry", "number"),
                ("Challenger", "digest"),
                ("Tried", "word"),
                ("Ended", "flag"),
                ("By", "word"),
                ("Answered", "number"),
                ("Failed", "number"),
                ("Time", "number"),
                ("Because", "text"),
            ),
            rows=tuple(_trial_row(entry) for entry in reversed(story.ended[-_MOST_ROWS:])),
            note="'Failed' are records that another model that learnt had an answer to.",
        ),
    )


def _trial_row(entry: Entry[Ended]) -> tuple[str, ...]:
    ended = entry.record
    seen = summed(ended.tallies)
    return (
        number(entry.event.sequence),
        ended.trial.challenger,
        ended.trial.way,
        ended.outcome,
        ended.by,
        number(seen.answered),
        number(seen.failed),
        duration(ended.elapsed_s),
        ended.because,
    )


def _decisions(story: Story) -> Table:
    entries = story.decisions[-_MOST_ROWS:]
    return Table(
        title="Decisions of the gate",
        columns=(
            ("Entry", "number"),
            ("Candidate", "digest"),
            ("Verdict", "flag"),
            ("Decided", "word"),
            ("Reason", "text"),
        ),
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
    states: Counter[str] = Counter(record.status for record in records)
    said = ", ".join(
        f"{states[state]} {state}" for state in (kind.split(".")[1] for kind in BATCH_KINDS) if states[state]
    )
    answered = sum(record.scored for record in records if record.status == "published")
    shown = story.batches[-_MOST_ROWS:]
    table = Table(
        title="Batches that this model answered",
        columns=(
            ("File", "code"),
            ("State", "flag"),
            ("Release", "number"),
            ("As", "word"),
            ("Rows", "number"),
            ("Scored", "number"),
            ("Quarantined", "number"),
            ("Time", "number"),
            ("Entry", "number"),
            ("Why", "text"),
        ),
        rows=tuple(_batch_row(entry) for entry in reversed(shown)),
        note="" if len(shown) == len(records) else f"The newest {len(shown)} of {len(records):,} batches are listed.",
    )
    return (
        Text(text=f"{count(len(records), 'batch', 'batches')}: {said}; {count(answered, 'row')} published."),
        table,
        _audits(story),
    )


def _batch_row(entry: Entry[BatchResult]) -> tuple[str, ...]:
    record = entry.record
    return (
        record.name,
        record.status,
        number(record.generation),
        record.tier,
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


# ---- lineage ---------------------------------------------------------------------------------------------------------


def lineage(story: Story) -> Section:
    """From rows to release, each step by digest and place in the ledger."""
    steps = _steps(story)
    picture = pictures.flow(
        "From rows to release",
        [
            (name, short(digest), f"entry {sequence}" if sequence else "not recorded")
            for name, digest, sequence, _ in steps
        ],
        description=" → ".join(f"{name} {short(digest)}".strip() for name, digest, _, _ in steps),
    )
    table = Table(
        title="Steps",
        columns=(("Step", "word"), ("Digest", "code"), ("Entry", "number"), ("When", "word")),
        rows=tuple((name, digest, str(sequence or ""), when(at)) for name, digest, sequence, at in steps),
        note="Snapshot, training and bundle are named by what they were made from, the evidence by its bytes; receipt "
        "and release by the hash of their entry in the ledger, which covers every entry before it.",
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
