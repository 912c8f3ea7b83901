"""The chapters about the judgement: scores and gains with their intervals, and the decision check by check."""

from interlock.records import Check, Comparison, Evaluation, Score, Who
from interlock.release.metrics import span_of
from interlock.report import pictures
from interlock.report.facts import Story
from interlock.report.page import Block, Facts, Figure, Note, Section, Table, Text, lost
from interlock.report.words import OPPONENT, count, exact, maybe, metric, number, percent, signed, when

_ROLE: dict[str, pictures.Role] = {"champion": "champion", "baseline": "baseline", "shuffled": "ink"}
_WHO: tuple[Who, ...] = ("candidate", "champion", "baseline")


# ---- validation ------------------------------------------------------------------------------------------------------


def validation(story: Story) -> Section:
    """Scores with intervals, and the paired gains."""
    return Section(name="validation", title="Validation", blocks=_validation(story))


def _validation(story: Story) -> tuple[Block, ...]:
    if story.receipt is None:
        return lost("A decision of the gate")
    seen, policy = story.receipt.record.evaluation, story.receipt.record.policy
    opening = (
        f"Every model below answered the same {count(seen.rows, 'held-out row')} from its packed bytes. "
        f"Intervals and bounds come from {seen.resamples:,} resamples of those rows (seed {seen.seed}); "
        f"{'more' if seen.greater_is_better else 'less'} is better for {metric(seen.metric)}."
    )
    blocks: list[Block] = [Text(text=opening), Figure(picture=_score_picture(seen, policy.at_least, policy.confidence))]
    for who, failure in sorted(seen.failures.items()):
        blocks.append(Note(text=f"The {who} could not be scored: {failure.reason}", tone="warn"))
    blocks += [_score_table(seen, policy.confidence), *_gains(seen, policy.min_gain)]
    if seen.champion is None:
        blocks.append(Note(text="There was no champion to compare with: nothing was live when it was judged."))
    return tuple(blocks)


def _score_picture(seen: Evaluation, at_least: float | None, confidence: float) -> pictures.Picture:
    marks = [
        pictures.Mark(label=who.capitalize(), role=who, value=score.value, low=score.low, high=score.high)
        for who, score in _scores(seen)
    ]
    words = "; ".join(f"{who} {number(s.value)} ({number(s.low)} to {number(s.high)})" for who, s in _scores(seen))
    return pictures.intervals(
        f"{metric(seen.metric)} on the holdout",
        marks,
        rule=at_least,
        rule_label="" if at_least is None else f"required {exact(at_least)}",
        description=f"Score with its {percent(confidence)} interval: {words}.",
    )


def _scores(seen: Evaluation) -> list[tuple[Who, Score]]:
    return [(who, seen.scores[who]) for who in _WHO if who in seen.scores]


def _score_table(seen: Evaluation, confidence: float) -> Table:
    digests = {"candidate": seen.candidate, "champion": seen.champion or "", "baseline": seen.baseline}
    return Table(
        title=f"{metric(seen.metric)}, with {percent(confidence)} intervals",
        columns=(("Model", "text"), ("Bundle", "digest"), ("Score", "number"), ("Low", "number"), ("High", "number")),
        rows=tuple(
            (who.capitalize(), digests[who], number(score.value), number(score.low), number(score.high))
            for who, score in _scores(seen)
        ),
    )


def _gains(seen: Evaluation, min_gain: float) -> tuple[Block, ...]:
    if not seen.comparisons:
        return (Text(text="No paired comparison is recorded."),)
    span = span_of(seen.metric)
    beyond = any(max(-c.low, c.high) > span for c in seen.comparisons)
    limits = f" No gain of {metric(seen.metric)} can be beyond ±{exact(span)}: bounds are shown up to there."
    marks = [
        pictures.Mark(
            label=f"over {OPPONENT[c.against]}",
            role=_ROLE[c.against],
            value=c.gain,
            low=max(c.low, -span),
            high=min(c.high, span),
            shown=signed(c.gain),
        )
        for c in seen.comparisons
    ]
    words = "; ".join(
        f"over {OPPONENT[c.against]} {signed(c.gain)}, at least {signed(max(c.low, -span))}" for c in seen.comparisons
    )
    picture = pictures.intervals(
        "Paired gain of the candidate",
        marks,
        rule=min_gain,
        rule_label="no gain" if min_gain == 0 else f"least gain asked: {exact(min_gain)}",
        description=f"Gain with its lower bound, more is better: {words}.",
    )
    table = Table(
        title="Paired gains",
        columns=(
            ("Against", "word"),
            ("Gain", "number"),
            ("Lower bound", "number"),
            ("Upper bound", "number"),
            ("Standard error", "number"),
            ("Confidence", "number"),
            ("Rows that differ", "number"),
            ("Method", "text"),
        ),
        rows=tuple(_gain_row(comparison, span) for comparison in seen.comparisons),
        note="Gains are oriented so that more is better. The confidence includes the price of asking one holdout "
        f"several times.{limits if beyond else ''}",
    )
    return Figure(picture=picture), table


def _gain_row(comparison: Comparison, span: float) -> tuple[str, ...]:
    return (
        OPPONENT[comparison.against].removeprefix("the "),
        signed(comparison.gain),
        signed(max(comparison.low, -span)),
        signed(min(comparison.high, span)),
        number(comparison.standard_error),
        percent(1 - comparison.alpha),
        number(comparison.differing),
        comparison.method,
    )


# ---- decision --------------------------------------------------------------------------------------------------------


def decision(story: Story) -> Section:
    """The gate's verdict, check by check."""
    if story.receipt is None:
        return Section(name="decision", title="The decision", blocks=lost("A decision of the gate"))
    receipt, event = story.receipt.record, story.receipt.event
    facts = Facts(
        rows=(
            ("Verdict", receipt.decision.verdict, "flag"),
            ("Reason", receipt.decision.reason, "text"),
            ("Decided", f"{when(event.at)}, ledger entry {event.sequence}", "text"),
            ("Released as", _released_as(story), "text"),
        )
    )
    table = Table(
        title="Checks of the gate",
        columns=(
            ("Check", "word"),
            ("Result", "flag"),
            ("Observed", "number"),
            ("Required", "number"),
            ("Else", "word"),
            ("Reason", "text"),
        ),
        rows=tuple(_check_row(check) for check in receipt.decision.checks),
        empty="No check is recorded.",
        note="'Else' is the verdict when the check fails. The decision is a pure function of the evaluation and the "
        "policy, and can be replayed.",
    )
    return Section(name="decision", title="The decision", blocks=(facts, table))


def _check_row(check: Check) -> tuple[str, ...]:
    result = "passed" if check.passed else "failed"
    return check.name, result, maybe(check.observed), maybe(check.required), check.on_fail, check.reason


def _released_as(story: Story) -> str:
    assert story.receipt is not None
    found = [entry.record for entry in story.releases if entry.record.receipt == story.receipt.event.sequence]
    return ", ".join(f"release {made.generation} (by {made.cause})" for made in found) or "not released"
