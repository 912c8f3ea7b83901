"""The chapter about testing: slices of the holdout, errors by kind, and further metrics."""

import polars as pl

from interlock.records import Evaluation, Policy, SliceScore, Who
from interlock.report import findings, pictures
from interlock.report.facts import Story
from interlock.report.page import Block, Figure, Gallery, Section, Table, Text, lost
from interlock.report.words import count, maybe, metric, number, share, signed

_WHO: tuple[Who, ...] = ("candidate", "champion", "baseline")
_MOST_SLICES = 40


def testing(story: Story) -> Section:
    """Slices, errors by kind, further metrics."""
    if story.receipt is None:
        return Section(name="testing", title="Testing", blocks=lost("A decision of the gate"))
    seen = story.receipt.record.evaluation
    blocks = (*_slices(seen, story.receipt.record.policy), *_errors(story), _extra(seen))
    return Section(name="testing", title="Testing", blocks=blocks)


def _slices(seen: Evaluation, policy: Policy) -> tuple[Block, ...]:
    shown = [row for row in seen.slices if row.rows >= findings.SMALL]
    if not shown:
        why = "no group of rows is large enough" if policy.slices else "[gate] slices names no column"
        return (Text(text=f"No slice of the holdout was judged: {why}."),)
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
        description=f"Candidate (round) and {other} ({'square' if seen.champion else 'diamond'}) on "
        f"{count(len(drawn), 'slice')}, least gain first. Least: {worst.column} = {worst.value}, "
        f"{signed(worst.gain)} on {count(worst.rows, 'row')}.",
    )
    hidden = len(seen.slices) - len(shown)
    return Figure(picture=picture), _slice_table(drawn, other, policy.min_slice_rows, (len(shown) - len(drawn), hidden))


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
                description=f"{count(len(found.rows), 'bin')} of equal size; "
                f"expected calibration error {number(error)}.",
            )
        )
    return (
        (Gallery(title="Calibration of the candidate's probabilities", pictures=tuple(drawn), told=True),)
        if drawn
        else ()
    )


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
