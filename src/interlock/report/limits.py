"""What limits a model, as far as the recorded facts tell: the sentences that nobody likes to write by hand."""

from interlock.records import Bundle, Evaluation
from interlock.report.facts import Story
from interlock.report.words import count, metric, number, share

_SMALL_HOLDOUT = 200
_WIDE = 0.1
_MANY_EMPTY = 0.2


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
        shares = "" if seen.asks == round(seen.asks) else " (earlier ones count by the share of rows in common)"
        found.append(
            f"This holdout was asked {number(seen.asks)} times by then{shares}, of at most {policy.max_asks}; "
            "each asking costs confidence."
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
        found.append(
            f"{count(bad, 'row')} of the files ({share(bad, whole)}) broke the signature and are not in the data."
        )
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
    why = f" ({bundle.form_reason.rstrip('.')})" if bundle.form_reason else ""
    return [f"No compiled form answers for this model{why}, so the user's own code does."]
