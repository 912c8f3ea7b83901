"""The part of the training chapter about a search for parameters: what was chosen, out of what, and what mattered."""

from interlock.report.facts import Story
from interlock.report.page import Block, Facts, Figure, Table, Text
from interlock.report.pictures import course, shares
from interlock.report.words import count, duration, metric, number, percent
from interlock.tuning.standing import Tuning, params_text

_MOST_TRIALS = 100


def tuning(story: Story) -> tuple[Block, ...]:
    """Blocks about the search whose parameters the training used."""
    if story.tuning is None:
        return (Text(text="No search over parameters is recorded: the parameters are those of the settings."),)
    found, event = story.tuning.record, story.tuning.event
    said = (
        f"The parameters were searched for on the training rows ({_rows(found)}). The best of many trials looks better "
        "there than it is; the gate judges on the holdout, which no trial saw."
    )
    facts = Facts(
        rows=(
            ("Search", f"{found.digest}, ledger entry {event.sequence}", "code"),
            ("Chosen", params_text(found.params), "code"),
            ("Score of its trial", _score(found, found.score), "text"),
            ("Score of the parameters before", _score(found, found.start_score), "text"),
            (
                "Trials",
                f"{found.complete} complete, {found.pruned} given up early, {found.failed} failed; {found.ended}",
                "text",
            ),
            ("How", f"{found.sampler}, pruner {found.pruner}, seed {found.seed}, {found.parallel} at once", "text"),
            ("Time of all trials", duration(found.seconds), "text"),
        )
    )
    return (Text(text=said), facts, *_figures(story, found), *_table(story, found))


def _rows(found: Tuning) -> str:
    if found.folds == 1:
        return f"{number(found.fit_rows[0])} to learn from, {number(found.valid_rows[0])} to score on"
    return f"{count(found.folds, 'fold')}, {number(sum(found.valid_rows))} rows to score on in all"


def _score(found: Tuning, score: float | None) -> str:
    return "not measured" if score is None else f"{metric(found.metric)} {number(score)}"


def _figures(story: Story, found: Tuning) -> list[Block]:
    blocks: list[Block] = []
    scores = [trial.score for trial in story.trials]
    known = [score for score in scores if score is not None]
    if len(known) > 1:
        best = max(known) if found.greater_is_better else min(known)
        first = 1 + scores.index(best)
        reached = f"the best, {number(best)}, was first reached by trial {first}"
        told = f"{metric(found.metric)} of {len(known)} trials; {reached}."
        picture = course("Course of the search", scores, more_is_better=found.greater_is_better, description=told)
        blocks.append(Figure(picture=picture))
    if found.importance:
        parts = sorted(found.importance.items(), key=lambda part: (-part[1], part[0]))
        told = "Share of each parameter in what made trials good (PED-ANOVA): " + ", ".join(
            f"{name} {percent(round(share, 3))}" for name, share in parts
        )
        blocks.append(Figure(picture=shares("Importance of the parameters", parts, description=f"{told}.")))
    return blocks


def _table(story: Story, found: Tuning) -> list[Block]:
    if not story.trials:
        return []
    sign = -1.0 if found.greater_is_better else 1.0
    ranked = sorted(story.trials, key=lambda t: (t.score is None, sign * (t.score or 0.0), t.number))
    rows = tuple(
        (
            str(trial.number),
            trial.state,
            "" if trial.score is None else number(trial.score),
            params_text(trial.params),
            duration(trial.seconds),
            trial.reason,
        )
        for trial in ranked[:_MOST_TRIALS]
    )
    left = len(ranked) - len(rows)
    return [
        Table(
            title="Trials, best first",
            columns=(
                ("Trial", "number"),
                ("State", "word"),
                ("Score", "number"),
                ("Parameters", "code"),
                ("Time", "number"),
                ("Reason", "text"),
            ),
            rows=rows,
            note=f"{count(left, 'trial')} more in the blob {found.trials_key}." if left else "",
        )
    ]
