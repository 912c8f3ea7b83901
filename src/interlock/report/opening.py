"""How a dossier begins: the headline, the summary in words, and the overview."""

from interlock.records import Verdict
from interlock.report.facts import Story
from interlock.report.page import Align, Facts, Headline, Section, Tone
from interlock.report.words import OPPONENT, count, metric, number, percent, signed, when

_BADGES: dict[Verdict, tuple[str, Tone]] = {
    "promote": ("promoted", "good"),
    "keep": ("not released", "calm"),
    "hold": ("held for a person", "warn"),
}
_ENDS: dict[Verdict, str] = {
    "promote": "passed the gate",
    "keep": "was not released",
    "hold": "was held for a person to look at",
}


def subtitle(story: Story) -> str:
    """Which release or decision this is."""
    if story.release is not None:
        return f"Release {story.release.record.generation} · {story.task} · ledger entry {story.release.event.sequence}"
    assert story.receipt is not None
    return f"Decision of the gate · {story.task} · ledger entry {story.receipt.event.sequence}"


def badge(story: Story) -> tuple[str, Tone]:
    """The state in two or three words, and its colour."""
    if story.release is not None:
        later = _replaced_by(story)
        return ("in force", "good") if later is None else (f"replaced by release {later}", "calm")
    assert story.receipt is not None
    verdict = story.receipt.record.decision.verdict
    return _BADGES[verdict]


def _replaced_by(story: Story) -> int | None:
    """Generation that came next, None while this release is in force."""
    assert story.release is not None
    later = [e.record.generation for e in story.releases if e.record.generation > story.release.record.generation]
    return min(later, default=None)


def headlines(story: Story) -> tuple[Headline, ...]:
    """The few figures that a reader looks for first."""
    found = []
    if story.receipt is not None:
        seen, policy = story.receipt.record.evaluation, story.receipt.record.policy
        score = seen.scores.get("candidate")
        if score is not None:
            remark = f"{number(score.low)} to {number(score.high)}, {percent(policy.confidence)}"
            found.append(
                Headline(label=f"{metric(seen.metric)} on the holdout", value=number(score.value), remark=remark)
            )
        for comparison in seen.comparisons:
            label, remark = f"Gain over {OPPONENT[comparison.against]}", f"at least {signed(comparison.low)}"
            found.append(Headline(label=label, value=signed(comparison.gain), remark=remark))
    if story.snapshot is not None:
        made = story.snapshot.record
        remark = f"{number(made.training_rows)} to train, {number(made.holdout_rows)} held out"
        found.append(Headline(label="Rows", value=number(made.rows), remark=remark))
    return tuple(found)


def summary(story: Story) -> str:
    """One paragraph for a reader who reads no further."""
    sentences = [_what(story), _trained(story), _judged(story)]
    if story.receipt is not None:
        sentences.append(f"The gate's reason: {_sentence(story.receipt.record.decision.reason)}")
    sentences.append(_answered(story))
    return " ".join(sentence for sentence in sentences if sentence)


def _what(story: Story) -> str:
    if story.release is None:
        assert story.receipt is not None
        verdict = story.receipt.record.decision.verdict
        return f"A candidate for {story.name} {_ENDS[verdict]} on {when(story.receipt.event.at)}."
    made = story.release
    later = _replaced_by(story)
    since = when(made.event.at)
    if later is None:
        opening = f"Release {made.record.generation} of {story.name} has been in force since {since}."
    else:
        end = when(next(entry.event.at for entry in story.releases if entry.record.generation == later))
        opening = f"Release {made.record.generation} of {story.name} was in force from {since} to {end}."
    if made.record.cause == "gate" and made.record.challenger is None:
        return opening
    if made.record.cause == "gate":
        return f"{opening} It began a trial: {_sentence(made.record.because)}"
    way = {
        "rollback": "It was a roll-back",
        "approval": "A person approved it",
        "person": "A person released it",
        "breaker": "The breaker made it",
        "canary": "The trial of a challenger ended with it",
    }
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
        f"{number(abs(c.gain))} {'better' if c.gain > 0 else 'worse'} than {OPPONENT[c.against]}"
        if c.gain
        else f"level with {OPPONENT[c.against]}"
        for c in seen.comparisons
    ]
    told = f": {', '.join(gains)}" if gains else ""
    return f"On {count(seen.rows, 'held-out row')} it scored {number(score.value)} in {metric(seen.metric)}{told}."


def _answered(story: Story) -> str:
    published = [e.record for e in story.batches if e.record.status == "published"]
    refused = sum(e.record.status == "refused" for e in story.batches)
    if not story.batches:
        return ""
    rows = count(sum(record.scored for record in published), "row")
    said = f"It has answered {count(len(published), 'batch', 'batches')} with {rows}"
    return f"{said}; {count(refused, 'batch', 'batches')} did not pass the audit." if refused else f"{said}."


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def overview(story: Story) -> Section:
    """What is live, since when, why, and what stands behind it."""
    rows: list[tuple[str, str, Align]] = [("Model", story.name, "text")]
    if story.release is not None:
        made, event = story.release.record, story.release.event
        rows += [
            ("Release", str(made.generation), "text"),
            ("Made", f"{when(event.at)}, ledger entry {event.sequence}, turn {event.turn or 'none'}", "text"),
            ("Cause", made.cause, "text"),
            ("Because", made.because, "text"),
            ("Champion", made.champion, "code"),
            ("Last good", made.last_good or "", "code"),
            ("Baseline", made.baseline, "code"),
        ]
        if made.challenger is not None:
            rows.append(("Challenger", made.challenger, "code"))
    elif story.receipt is not None:
        decision = story.receipt.record.decision
        rows += [
            ("Verdict", decision.verdict, "flag"),
            ("Decided", f"{when(story.receipt.event.at)}, ledger entry {story.receipt.event.sequence}", "text"),
            ("Reason", decision.reason, "text"),
            ("Candidate", decision.candidate, "code"),
            ("Champion at the time", decision.champion or "none", "code"),
        ]
    rows.append(("Ledger", _chain(story), "text"))
    return Section(name="overview", title="Overview", blocks=(Facts(rows=tuple(rows)),))


def _chain(story: Story) -> str:
    found = story.verification
    if found.broken_at is None:
        return f"holds: {count(found.events, 'entry', 'entries')}, each sealed with the hash of the one before"
    return f"BROKEN at entry {found.broken_at}: {found.reason}"
