"""The chapters about the judgement: validation, testing, the decision, and what limits it."""

import polars as pl

from interlock.records import Bundle, Check, Comparison, Evaluation, Score, SliceScore, Who
from interlock.report import findings, pictures
from interlock.report.facts import Story
from interlock.report.page import Block, Facts, Figure, Gallery, Note, Section, Table, Text
from interlock.report.words import count, exact, maybe, metric, number, percent, share, signed, when

_WHO: tuple[Who, ...] = ("candidate", "champion", "baseline")
_MOST_SLICES = 40
_SMALL_HOLDOUT = 200
_WIDE = 0.1
_MANY_EMPTY = 0.2

ABSENT = Note(text="No decision of the gate is recorded for this model, so there is nothing to show here.", tone="warn")


# ---- validation --------------------------------------------------------------------------------------------------


def validation(story: Story) -> Section:
    """Scores with intervals, and the paired gains."""
    return Section(name="validation", title="Validation", blocks=_validation(story))


def _validation(story: Story) -> tuple[Block, ...]:
    if story.receipt is None:
        return (ABSENT,)
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
        blocks.append(Note(text="There was no champion to compare with: this was the first model to be judged for release."))
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
    marks = [
        pictures.Mark(label=f"over the {c.against}", role=c.against, value=c.gain, low=c.low, high=c.high, shown=signed(c.gain))
        for c in seen.comparisons
    ]
    words = "; ".join(f"over the {c.against} {signed(c.gain)}, at least {signed(c.low)}" for c in seen.comparisons)
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
            ("Method", "word"),
        ),
        rows=tuple(_gain_row(comparison) for comparison in seen.comparisons),
        note="Gains are oriented so that more is better. The confidence includes the price of asking one holdout "
        "several times.",
    )
    return Figure(picture=picture), table


def _gain_row(comparison: Comparison) -> tuple[str, ...]:
    return (
        comparison.against,
        signed(comparison.gain),
        signed(comparison.low),
        signed(comparison.high),
        number(comparison.standard_error),
        percent(1 - comparison.alpha),
        number(comparison.differing),
        comparison.method,
    )


# ---- testing -----------------------------------------------------------------------------------------------------


def testing(story: Story) -> Section:
    """Slices, errors by kind, further metrics."""
    if story.receipt is None:
        return Section(name="testing", title="Testing", blocks=(ABSENT,))
    seen = story.receipt.record.evaluation
    blocks = (*_slices(seen, story.receipt.record.policy.min_slice_rows), *_errors(story), _extra(seen))
    return Section(name="testing", title="Testing", blocks=blocks)


def _slices(seen: Evaluation, judged_from: int) -> tuple[Block, ...]:
    shown = [row for row in seen.slices if row.rows >= findings.SMALL]
    if not shown:
        return (Text(text="No slice of the holdout was looked at: [gate] slices names no column, or no group is large enough."),)
    worst = min(shown, key=lambda row: row.gain)
    other = "champion" if seen.champion else "baseline"
    drawn = sorted(shown, key=lambda row: (row.gain, row.column, row.value))[:_MOST_SLICES]
    picture = pictures.pairs(
        f"{metric(seen.metric)} by slice",
        [
            pictures.Pair(label=f"{r.column} = {r.value}", rows=r.rows, candidate=r.candidate, other=r.champion)
            for r in drawn
        ],
        other="champion" if seen.champion else "baseline",
        description=f"Candidate (round) and {other} ({'square' if seen.champion else 'diamond'}) on {count(len(drawn), 'slice')}, "
        f"least gain first. Least: {worst.column} = {worst.value}, {signed(worst.gain)} on {count(worst.rows, 'row')}.",
    )
    hidden = len(seen.slices) - len(shown)
    return Figure(picture=picture), _slice_table(drawn, other, judged_from, (len(shown) - len(drawn), hidden))


def _slice_table(rows: list[SliceScore], other: str, judged_from: int, left_out: tuple[int, int]) -> Table:
    notes = [f"Slices of fewer than {count(judged_from, 'row')} are shown, not judged."]
    notes += [f"{count(left_out[0], 'further slice')} with larger gains not listed."] if left_out[0] else []
    notes += [f"{count(left_out[1], 'slice')} of fewer than {findings.SMALL} rows left out."] if left_out[1] else []
    return Table(
        title="Slices, least gain first",
        columns=(
            ("Column", "text"),
            ("Value", "text"),
            ("Rows", "number"),
            ("Candidate", "number"),
            (other.capitalize(), "number"),
            ("Gain", "number"),
            ("Gain at most", "number"),
            ("Judged", "word"),
        ),
        rows=tuple(
            (
                row.column,
                row.value,
                number(row.rows),
                number(row.candidate),
                number(row.champion),
                signed(row.gain),
                signed(row.high),
                "yes" if row.rows >= judged_from else "no",
            )
            for row in rows
        ),
        note=" ".join(notes),
    )


def _errors(story: Story) -> tuple[Block, ...]:
    """Pictures of where the candidate errs, by task."""
    if story.evidence is None:
        return (Text(text="The evidence of the holdout is not at hand, so errors cannot be drawn by kind."),)
    evidence = story.evidence
    if not {"truth", "candidate.prediction"} <= set(evidence.columns):
        return ()
    truth, answer = evidence["truth"], evidence["candidate.prediction"]
    if story.task == "classification":
        return (*_confusion(truth, answer), *_calibration(story, evidence))
    if truth.dtype.is_numeric() and answer.dtype.is_numeric():
        return _numeric_errors(truth, answer)
    return ()


def _confusion(truth: pl.Series, answer: pl.Series) -> tuple[Block, ...]:
    found = findings.confusion(truth, answer)
    if not found.labels:
        return ()
    total = sum(map(sum, found.counts))
    right = sum(line[index] for index, line in enumerate(found.counts) if found.labels[index] != findings.OTHER)
    picture = pictures.matrix(
        "Confusion matrix",
        found.labels,
        found.counts,
        description=f"{number(right)} of {count(total, 'row')} on the diagonal ({share(right, total)}). "
        "Rows are the truth, columns the candidate's answer; shade is the share of the row.",
    )
    table = Table(
        title="Confusion matrix in numbers",
        columns=(("True class", "text"), *((label, "number") for label in found.labels), ("Answered right", "number")),
        rows=tuple(
            (label, *(number(cell) for cell in line), "" if label == findings.OTHER else share(line[index], sum(line)))
            for index, (label, line) in enumerate(zip(found.labels, found.counts, strict=True))
        ),
    )
    return Figure(picture=picture), table


def _calibration(story: Story, evidence: pl.DataFrame) -> tuple[Block, ...]:
    """Reliability of the probability of each class, two classes only by the second."""
    output = story.model.record.signature.output if story.model else None
    classes = list(output.classes or ()) if output else []
    drawn: list[pictures.Picture] = []
    for index, label in enumerate(classes):
        column = f"candidate.probability_{index}"
        if column not in evidence.columns or (len(classes) == 2 and index == 0) or len(classes) > 4:
            continue
        hits = (evidence["truth"].cast(pl.String) == pl.Series([label]).cast(pl.String)[0]).cast(pl.Float64)
        found = findings.reliability(hits.to_numpy(), evidence[column].cast(pl.Float64).to_numpy())
        if not found.rows:
            continue
        error = findings.calibration_error(found)
        drawn.append(
            pictures.calibration(
                f"Class {label}",
                list(zip(found.predicted, found.observed, strict=True)),
                axes=("mean predicted probability", "share observed"),
                unit=True,
                description=f"{count(len(found.rows), 'bin')} of equal size; expected calibration error {number(error)}.",
            )
        )
    return (Gallery(title="Calibration of the candidate's probabilities", pictures=tuple(drawn), told=True),) if drawn else ()


def _numeric_errors(truth: pl.Series, answer: pl.Series) -> tuple[Block, ...]:
    true, predicted = truth.cast(pl.Float64).to_numpy(), answer.cast(pl.Float64).to_numpy()
    blocks: list[Block] = []
    spread = findings.residuals(true, predicted)
    if spread is not None:
        gap = pl.Series(true - predicted).drop_nulls().drop_nans()
        middle = [number(float(gap.quantile(q, "linear") or 0.0)) for q in (0.05, 0.5, 0.95)]
        blocks.append(
            Figure(
                picture=pictures.histogram(
                    "Residuals: truth minus prediction",
                    spread.edges,
                    spread.counts,
                    large=True,
                    description=f"Median {middle[1]}; nine in ten rows lie between {middle[0]} and {middle[2]}. "
                    f"{count(spread.below + spread.above, 'row')} beyond the edges not drawn.",
                )
            )
        )
    found = findings.reliability(true, predicted)
    if found.rows:
        blocks.append(
            Figure(
                picture=pictures.calibration(
                    "Mean truth by prediction",
                    list(zip(found.predicted, found.observed, strict=True)),
                    axes=("mean prediction", "mean truth"),
                    unit=False,
                    description=f"Mean truth against mean prediction in {count(len(found.rows), 'bin')} of equal size; "
                    "on the diagonal the model is right on average.",
                )
            )
        )
    return tuple(blocks)


def _extra(seen: Evaluation) -> Table:
    """Further metrics: one row a metric, one column a model."""
    who = [name for name in _WHO if name in seen.extra]
    names = sorted({shown for name in who for shown in seen.extra[name]})
    return Table(
        title="Further metrics on the holdout",
        columns=(("Metric", "text"), *((name.capitalize(), "number") for name in who)),
        rows=tuple((metric(shown), *(maybe(seen.extra[name].get(shown)) for name in who)) for shown in names),
        empty="None were asked for: [gate] also is empty.",
        note="Shown for the reader; they do not decide." if names else "",
    )


# ---- decision ----------------------------------------------------------------------------------------------------


def decision(story: Story) -> Section:
    """The gate's verdict, check by check."""
    if story.receipt is None:
        return Section(name="decision", title="The decision", blocks=(ABSENT,))
    receipt, event = story.receipt.record, story.receipt.event
    facts = Facts(
        rows=(
            ("Verdict", receipt.decision.verdict, "flag"),
            ("Reason", receipt.decision.reason, "text"),
            ("Decided", f"{when(event.at)}, ledger event {event.sequence}", "text"),
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
        note="'Else' is the verdict when the check fails. The decision is a pure function of the evaluation and the policy, "
        "and can be replayed.",
    )
    return Section(name="decision", title="The decision", blocks=(facts, table))


def _check_row(check: Check) -> tuple[str, ...]:
    result = "passed" if check.passed else "failed"
    return check.name, result, maybe(check.observed), maybe(check.required), check.on_fail, check.reason


def _released_as(story: Story) -> str:
    assert story.receipt is not None
    found = [entry.record for entry in story.releases if entry.record.receipt == story.receipt.event.sequence]
    return ", ".join(f"release {made.generation} (by {made.cause})" for made in found) or "not released"


# ---- limitations -------------------------------------------------------------------------------------------------


def limitations(story: Story) -> tuple[str, ...]:
    """What the recorded facts say against leaning on this model too hard, one sentence each."""
    found: list[str] = []
    if story.receipt is not None:
        found += _evaluation_limits(story, story.receipt.record.evaluation)
    found += _data_limits(story)
    if story.model is not None:
        found += _model_limits(story.model.record)
    return (*found, *story.missing)


def _evaluation_limits(story: Story, seen: Evaluation) -> list[str]:
    assert story.receipt is not None
    policy, verdict = story.receipt.record.policy, story.receipt.record.decision
    found = []
    if seen.rows < _SMALL_HOLDOUT:
        found.append(f"The holdout is small: {count(seen.rows, 'row')}. Scores may move by their whole interval.")
    score = seen.scores.get("candidate")
    if score is not None and score.high - score.low > 2 * _WIDE * max(abs(score.value), 1e-12):
        spread = f"{number(score.low)} to {number(score.high)}"
        found.append(f"The interval of {metric(seen.metric)} is wide: {spread} around {number(score.value)}.")
    found += [f"The {who} could not be scored: {failure.reason}" for who, failure in sorted(seen.failures.items())]
    if seen.champion is None:
        found.append("Compared with the baseline only: there was no champion when it was judged.")
    if seen.asks > 1:
        found.append(
            f"This holdout was asked {number(seen.asks)} times by then (at most {policy.max_asks}); each asking costs confidence."
        )
    if not seen.slices:
        found.append("No slices were judged: nothing is known about single groups of rows.")
    thin = sum(row.rows < policy.min_slice_rows for row in seen.slices)
    if thin:
        found.append(f"{count(thin, 'slice')} had fewer than {policy.min_slice_rows} rows and could not be judged.")
    if seen.latency_ms is None:
        found.append("The time to answer one row was not measured.")
    if story.release is not None:
        found += [f"Released although the check '{c.name}' failed: {c.reason}" for c in verdict.checks if not c.passed]
    return found


def _data_limits(story: Story) -> list[str]:
    records = [entry.record for entry in story.files]
    bad, whole = sum(r.quarantined for r in records), sum(r.rows for r in records)
    refused = sum(r.status in {"refused", "unreadable"} for r in records)
    found = []
    if bad:
        found.append(f"{count(bad, 'row')} of the files ({share(bad, whole)}) broke the signature and are not in the data.")
    if refused:
        found.append(f"{count(refused, 'file')} could not be used; what they held is not in the data.")
    if story.snapshot is not None:
        found += [f"Join: {note}" for note in story.snapshot.record.join_notes]
    for column in story.profile.columns if story.profile else ():
        if column.count and column.nulls / column.count > _MANY_EMPTY:
            found.append(f"Column {column.name} is empty in {share(column.nulls, column.count)} of the rows.")
    stopped = [e.record for e in story.batches if e.record.status == "refused"]
    if stopped:
        found.append(f"{count(len(stopped), 'batch', 'batches')} of its answers failed the audit and did not leave.")
    return found


def _model_limits(bundle: Bundle) -> list[str]:
    if bundle.form != "native":
        return []
    why = f": {bundle.form_reason}" if bundle.form_reason else "."
    return [f"No compiled form answers for this model, so the user's own code does{why}"]
