"""The dossier of a release or a decision: one HTML page and one Markdown file that a reviewer can sign.

Written from recorded facts alone, for the reader who asks what is live, why, and on what evidence. Its parts follow
what model documentation is asked to hold: SR 11-7 (Federal Reserve and OCC, 2011) and model cards (Mitchell et al.,
2019). The same records give the same bytes.
"""

from pathlib import Path

from interlock.ports import Parts
from interlock.records import Record
from interlock.report import limits, making, opening, proof, rows, service, trial
from interlock.report.facts import Story, story_of_decision, story_of_release
from interlock.report.page import (
    Block,
    Bullets,
    Lines,
    Note,
    Page,
    Section,
    Table,
    Text,
    to_html,
    to_markdown,
)
from interlock.store.blobs import disk_faults, durable_write


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
    with disk_faults(folder):
        durable_write(Path(paths.html), to_html(page).encode())
        durable_write(Path(paths.markdown), to_markdown(page).encode())
    return paths


def compose(story: Story) -> Page:
    """The document of a story, as blocks; pure."""
    badge, tone = opening.badge(story)
    found = limits.limitations(story)
    return Page(
        title=story.name,
        subtitle=opening.subtitle(story),
        badge=badge,
        tone=tone,
        summary=opening.summary(story),
        headlines=opening.headlines(story),
        sections=(
            opening.overview(story),
            making.problem(story),
            rows.data(story),
            making.model(story),
            making.training(story),
            proof.validation(story),
            trial.testing(story),
            making.packaging(story),
            service.deployment(story),
            service.lineage(story),
            proof.decision(story),
            making.resources(story),
            _checking(story),
            Section(
                name="limitations",
                title="Limitations",
                blocks=(
                    Text(text="Found in the recorded facts, without judgement of their weight:"),
                    Bullets(items=found or ("None were found in the recorded facts.",)),
                ),
            ),
            _review(),
        ),
        footer=f"Drawn from the ledger up to entry {story.head.sequence} ({story.head.hash}). "
        "The same records give the same page. "
        + (
            "Rows are shown as aggregates, and as the notebook printed them."
            if story.notebook
            else "Rows are shown as aggregates only."
        ),
    )


# ---- closing -----------------------------------------------------------------------------------------------------


def _checking(story: Story) -> Section:
    commands = [("Recompute every hash of the ledger", "interlock verify")]
    if story.receipt is not None:
        commands.append(
            (
                "Recompute the scores and the decision from the evidence",
                f"interlock replay {story.receipt.event.sequence}",
            )
        )
    commands.append(("List what was live at any time", "interlock history"))
    if story.release is not None:
        commands.append(("Draw this page again", f"interlock report --release {story.release.record.generation}"))
    elif story.receipt is not None:
        commands.append(("Draw this page again", f"interlock report --decision {story.receipt.event.sequence}"))
    blocks: list[Block] = [
        Text(text="Nothing here has to be believed. On the machine that holds the project:"),
        Table(title="Commands", columns=(("To", "text"), ("Run", "code")), rows=tuple(commands)),
    ]
    if story.verification.broken_at is not None:
        blocks.append(
            Note(text=f"When this page was drawn the ledger did not verify: {story.verification.reason}", tone="bad")
        )
    return Section(name="checking", title="How to check it", blocks=tuple(blocks))


_ASKED = (
    ("Purpose and use", "Problem", "yes; intended use and limits of use are the owner's to state"),
    ("Data: source, quality, relevance", "Data", "yes; relevance is the reviewer's to judge"),
    (
        "Method and its assumptions",
        "Model, Training and tuning",
        "code and parameters; the reasons are the owner's to state",
    ),
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
