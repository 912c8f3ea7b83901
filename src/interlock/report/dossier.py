"""The dossier of a release or a decision: one HTML page and one Markdown file that a reviewer can sign.

Written from recorded facts alone, for the reader who asks what is live, why, and on what evidence. Its parts follow what
model documentation is asked to hold: SR 11-7 (Federal Reserve and OCC, 2011, section V, documentation) and model cards
(Mitchell et al., FAT* 2019, section 4). The same records give the same bytes.
"""

from pathlib import Path

from interlock.ports import Parts
from interlock.records import Record
from interlock.report import chapters, proof
from interlock.report.facts import Story, story_of_decision, story_of_release
from interlock.report.page import (
    Bullets,
    Facts,
    Headline,
    Lines,
    Note,
    Page,
    Section,
    Table,
    Text,
    Tone,
    to_html,
    to_markdown,
)
from interlock.report.words import count, metric, number, percent, signed, when
from interlock.store.blobs import durable_write


class DossierPaths(Record, frozen=True, kw_only=True):
    """Where the two files of a dossier were written."""

    html: str
    markdown: str


def write_dossier(parts: Parts, generation: int | None, folder: Path) -> DossierPaths:
    """Write the dossier of a release (default: the one in force) into ``folder``.

    Raises :class:`~interlock.errors.NothingToServe` when nothing was released yet,
    :class:`~interlock.errors.NotFound` for a generation that never was, and :class:`~interlock.errors.StoreFault`
    when the folder cannot be written.
    """
    story = story_of_release(parts, generation)
    assert story.release is not None
    return _write(story, folder, f"release-{story.release.record.generation:04d}")


def write_decision_dossier(parts: Parts, receipt_sequence: int, folder: Path) -> DossierPaths:
    """Write the dossier of a decision, whatever its verdict, by the ledger sequence of its receipt.

    Raises :class:`~interlock.errors.NotFound` when that event is no decision, and
    :class:`~interlock.errors.StoreFault` when the folder cannot be written.
    """
    return _write(story_of_decision(parts, receipt_sequence), folder, f"decision-{receipt_sequence:06d}")


def _write(story: Story, folder: Path, stem: str) -> DossierPaths:
    page = compose(story)
    paths = DossierPaths(html=str(folder / f"{stem}.html"), markdown=str(folder / f"{stem}.md"))
    durable_write(Path(paths.html), to_html(page).encode())
    durable_write(Path(paths.markdown), to_markdown(page).encode())
    return paths


def compose(story: Story) -> Page:
    """The document of a story, as blocks; pure."""
    badge, tone = _badge(story)
    limits = proof.limitations(story)
    return Page(
        title=story.name,
        subtitle=_subtitle(story),
        badge=badge,
        tone=tone,
        summary=_summary(story),
        headlines=_headlines(story),
        sections=(
            _overview(story),
            chapters.problem(story),
            chapters.data(story),
            chapters.model(story),
            chapters.training(story),
            proof.validation(story),
            proof.testing(story),
            chapters.packaging(story),
            chapters.deployment(story),
            chapters.lineage(story),
            proof.decision(story),
            chapters.resources(story),
            _checking(story),
            Section(
                name="limitations",
                title="Limitations",
                blocks=(
                    Text(text="Found in the recorded facts, without judgement of their weight:"),
                    Bullets(items=limits or ("None were found in the recorded facts.",)),
                ),
            ),
            _review(),
        ),
        footer=f"Drawn from the ledger up to event {story.head.sequence} ({story.head.hash}). The same records give the same "
        "page. Rows are shown as aggregates only.",
    )


# ---- opening -----------------------------------------------------------------------------------------------------


def _subtitle(story: Story) -> str:
    if story.release is not None:
        return f"Release {story.release.record.generation} · {story.task} · ledger event {story.release.event.sequence}"
    assert story.receipt is not None
    return f"Decision of the gate · {story.task} · ledger event {story.receipt.event.sequence}"


def _badge(story: Story) -> tuple[str, Tone]:
    if story.release is not None:
        later = _replaced_by(story)
        return ("in force", "good") if later is None else (f"replaced by release {later}", "calm")
    assert story.receipt is not None
    verdict = story.receipt.record.decision.verdict
    return {"promote": ("promoted", "good"), "keep": ("not released", "calm"), "hold": ("held for a person", "warn")}[verdict]  # type: ignore[return-value]


def _replaced_by(story: Story) -> int | None:
    """Generation that came next, None while this release is in force."""
    assert story.release is not None
    later = [e.record.generation for e in story.releases if e.record.generation > story.release.record.generation]
    return min(later, default=None)


def _headlines(story: Story) -> tuple[Headline, ...]:
    found = []
    if story.receipt is not None:
        seen, policy = story.receipt.record.evaluation, story.receipt.record.policy
        score = seen.scores.get("candidate")
        if score is not None:
            remark = f"{number(score.low)} to {number(score.high)}, {percent(policy.confidence)}"
            found.append(Headline(label=f"{metric(seen.metric)} on the holdout", value=number(score.value), remark=remark))
        for comparison in seen.comparisons:
            label, remark = f"Gain over {comparison.against}", f"at least {signed(comparison.low)}"
            found.append(Headline(label=label, value=signed(comparison.gain), remark=remark))
    if story.snapshot is not None:
        made = story.snapshot.record
        remark = f"{number(made.training_rows)} to train, {number(made.holdout_rows)} held out"
        found.append(Headline(label="Rows", value=number(made.rows), remark=remark))
    return tuple(found)


def _summary(story: Story) -> str:
    sentences = [_what(story), _trained(story), _judged(story)]
    if story.receipt is not None:
        sentences.append(f"The gate's reason: {_sentence(story.receipt.record.decision.reason)}")
    sentences.append(_answered(story))
    return " ".join(sentence for sentence in sentences if sentence)


def _what(story: Story) -> str:
    if story.release is None:
        assert story.receipt is not None
        verdict = story.receipt.record.decision.verdict
        end = {"promote": "passed the gate", "keep": "was not released", "hold": "was held for a person to look at"}[verdict]
        return f"A candidate for {story.name} {end} on {when(story.receipt.event.at)}."
    made = story.release
    later = _replaced_by(story)
    since = when(made.event.at)
    if later is None:
        opening = f"Release {made.record.generation} of {story.name} has been in force since {since}."
    else:
        end = next(e for e in story.releases if e.record.generation == later)
        opening = f"Release {made.record.generation} of {story.name} was in force from {since} to {when(end.event.at)}."
    if made.record.cause == "gate":
        return opening
    way = {"rollback": "It was rolled back to", "approval": "A person approved it", "person": "A person released it"}
    return f"{opening} {way[made.record.cause]}: {_sentence(made.record.because)}"


def _trained(story: Story) -> str:
    if story.training is None:
        return ""
    run = story.training.record
    return f"The model was trained on {count(run.rows, 'row')} with seed {run.seed}."


def _judged(story: Story) -> str:
    if story.receipt is None:
        return "No decision of the gate is recorded for it."
    seen = story.receipt.record.evaluation
    score = seen.scores.get("candidate")
    if score is None:
        return ""
    gains = [
        f"{number(abs(c.gain))} {'better' if c.gain > 0 else 'worse'} than the {c.against}" if c.gain else f"level with the {c.against}"
        for c in seen.comparisons
    ]
    told = f": {' and '.join(gains)}" if gains else ""
    return f"On {count(seen.rows, 'held-out row')} it scored {number(score.value)} in {metric(seen.metric)}{told}."


def _answered(story: Story) -> str:
    published = [e.record for e in story.batches if e.record.status == "published"]
    refused = sum(e.record.status == "refused" for e in story.batches)
    if not story.batches:
        return ""
    said = f"It has answered {count(len(published), 'batch', 'batches')} with {count(sum(r.scored for r in published), 'row')}"
    return f"{said}; {count(refused, 'batch', 'batches')} did not pass the audit." if refused else f"{said}."


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _overview(story: Story) -> Section:
    rows: list[tuple[str, str, str]] = [("Model", story.name, "text")]
    if story.release is not None:
        made, event = story.release.record, story.release.event
        rows += [
            ("Release", str(made.generation), "text"),
            ("Made", f"{when(event.at)}, ledger event {event.sequence}, turn {event.turn or 'none'}", "text"),
            ("Cause", made.cause, "text"),
            ("Because", made.because, "text"),
            ("Champion", made.champion, "code"),
            ("Last good", made.last_good or "", "code"),
            ("Baseline", made.baseline, "code"),
        ]
    elif story.receipt is not None:
        decision = story.receipt.record.decision
        rows += [
            ("Verdict", decision.verdict, "flag"),
            ("Decided", f"{when(story.receipt.event.at)}, ledger event {story.receipt.event.sequence}", "text"),
            ("Reason", decision.reason, "text"),
            ("Candidate", decision.candidate, "code"),
            ("Champion at the time", decision.champion or "none", "code"),
        ]
    rows.append(("Ledger", _chain(story), "text"))
    return Section(name="overview", title="Overview", blocks=(Facts(rows=tuple(rows)),))  # type: ignore[arg-type]


def _chain(story: Story) -> str:
    found = story.verification
    if found.broken_at is None:
        return f"holds: {count(found.events, 'event')}, each sealed with the hash of the one before"
    return f"BROKEN at event {found.broken_at}: {found.reason}"


# ---- closing -----------------------------------------------------------------------------------------------------


def _checking(story: Story) -> Section:
    rows = [("Recompute every hash of the ledger", "interlock verify")]
    if story.receipt is not None:
        rows.append(("Recompute the scores and the decision from the evidence", f"interlock replay {story.receipt.event.sequence}"))
    rows.append(("List what was live at any time", "interlock history"))
    if story.release is not None:
        rows.append(("Draw this page again", f"interlock report --release {story.release.record.generation}"))
    blocks = [
        Text(text="Nothing here has to be believed. On the machine that holds the project:"),
        Table(title="Commands", columns=(("To", "text"), ("Run", "code")), rows=tuple(rows)),
    ]
    if story.verification.broken_at is not None:
        blocks.append(Note(text=f"When this page was drawn the ledger did not verify: {story.verification.reason}", tone="bad"))  # type: ignore[arg-type]
    return Section(name="checking", title="How to check it", blocks=tuple(blocks))


_ASKED = (
    ("Purpose and use", "Problem", "yes; intended use and limits of use are the owner's to state"),
    ("Data: source, quality, relevance", "Data", "yes; relevance is the reviewer's to judge"),
    ("Method and its assumptions", "Model, Training and tuning", "code and parameters; the reasons are the owner's to state"),
    ("Evaluation, with uncertainty and by group", "Validation, Testing", "yes"),
    ("Reproducibility and provenance", "Packaging, Lineage", "yes"),
    ("Outcome and approval", "The decision, Deployment", "yes"),
    ("Limitations", "Limitations", "what follows from recorded facts"),
    ("People affected, fairness, ethics", "none", "no; the owner's to state"),
)


def _review() -> Section:
    table = Table(
        title="What a reviewer asks, and where it is answered",
        columns=(("Question", "text"), ("Part", "text"), ("Recorded", "text")),
        rows=_ASKED,
        note="After SR 11-7 (model risk management) and Model Cards (Mitchell et al., 2019).",
    )
    said = Text(text="To be filled in by hand; Interlock records facts and cannot sign for people.")
    stated = Lines(labels=("Intended use", "Uses that are out of scope", "People and groups affected"))
    signed_by = Lines(labels=("Owner, date", "Reviewer, date", "Remarks"))
    return Section(name="review", title="Review", blocks=(table, said, stated, signed_by))
