"""The rules that a staged batch is held against before anybody may see it. Pure: counts and profiles in, audits out.

Two witnesses are heard: the :class:`Tally`, which the scorer kept while it worked, and the :class:`Staged`, which is
what the footer of the finished file says about itself. A row that was lost between the two fails the audit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import polars as pl

from interlock.data.profile import ColumnProfile, Profile, profile, psi
from interlock.errors import DataRefused
from interlock.records import Audit, Output, Record
from interlock.settings import Batch

PREDICTION = "prediction"
PROBABILITY = "probability_"
SUM_TOLERANCE = 1e-6
"""Largest distance of the sum of a row's probabilities from 1: float32 models lose about 1e-7 a class."""
MIN_SHIFT_ROWS = 200
"""With fewer rows the distance of two distributions is mostly chance, so it is not judged."""
_SHOWN = 3


class Tally(Record, frozen=True, kw_only=True):
    """What the scorer counted over one file. ``key_repeats`` is None when too many unordered keys came to compare."""

    rows: int
    scored: int
    quarantined: int
    keys: tuple[str, ...] = ()
    key_nulls: int = 0
    key_repeats: int | None = 0
    new_category_rows: int = 0
    new_categories: dict[str, int] = msgspec.field(default_factory=dict)
    missing_answers: int = 0
    unknown_labels: int = 0
    outside: int = 0
    largest_gap: float = 0.0


class Staged(Record, frozen=True, kw_only=True):
    """What the footer of the finished file says: rows, columns, and nulls by column (None: no statistics)."""

    rows: int
    columns: tuple[str, ...]
    nulls: dict[str, int | None]
    low: dict[str, float] = msgspec.field(default_factory=dict)
    high: dict[str, float] = msgspec.field(default_factory=dict)


class Shift(Record, frozen=True, kw_only=True):
    """Distance (PSI) of this file's predictions from those on the holdout, or why it was not measured."""

    distance: float | None = None
    rows: int = 0
    column: str = ""
    skipped: str = ""


def audit(
    tally: Tally, staged: Staged, columns: Sequence[str], output: Output | None, rules: Batch, shift: Shift
) -> tuple[Audit, ...]:
    """Hold a staged batch against every rule; ``columns`` are those that the file must have, in order."""
    return (
        _bad_rows(tally, rules),
        _rows(tally, staged),
        _keys(tally, staged),
        _signature(tally, staged, columns, output),
        _finite(tally, staged),
        *_probabilities(tally, staged),
        _new_categories(tally, rules),
        _shift(shift, rules),
    )


def next_step(failed: Sequence[Audit]) -> str:
    """The one next thing to do about the first audit that failed."""
    return _NEXT_STEPS[failed[0].name] if failed else ""


_NEXT_STEPS: Mapping[str, str] = {
    "bad rows": "Mend the rows listed in the quarantine file, or raise batch.max_bad_rows.",
    "rows": "Send a file that holds rows; if it holds some, report this as a defect of Interlock.",
    "keys": "Fill in the key columns of the file, or choose other columns with batch.keep.",
    "signature": "Check what the inference function returns, train again, or roll back: interlock rollback.",
    "finite": "Check what the inference function returns for these rows, or roll back: interlock rollback.",
    "probabilities": "Check what the model's predict_proba returns, or roll back: interlock rollback.",
    "new categories": "Train with rows that hold these categories, or raise batch.max_new_categories.",
    "shift": "Look at what changed in the file; if the change is real, train on newer rows or raise batch.max_shift.",
}


def measure_shift(reference: Profile | None, sample: pl.DataFrame) -> Shift:
    """Largest PSI over the answer columns that ``reference`` knows, between it and a sample of the answers."""
    if sample.height < MIN_SHIFT_ROWS:
        return Shift(skipped=f"{sample.height:,} rows are too few to compare ({MIN_SHIFT_ROWS} are needed)")
    answers = [one for one in reference.columns if one.name in sample.columns] if reference is not None else []
    if not answers:
        return Shift(skipped="the bundle knows no answers on the holdout")
    if answers[0].count < MIN_SHIFT_ROWS:
        return Shift(skipped=f"the holdout's {answers[0].count:,} rows are too few ({MIN_SHIFT_ROWS} are needed)")
    known = Profile(rows=answers[0].count, columns=tuple(answers))
    pairs = [(known.column(now.name), now) for now in profile(sample, reference=known).columns]
    distances = {now.name: _distance(before, now) for before, now in pairs if before is not None}
    worst = max(distances, key=lambda name: distances[name])
    return Shift(distance=distances[worst], rows=sample.height, column=worst)


def _distance(before: ColumnProfile, now: ColumnProfile) -> float:
    """PSI, or infinity when the answers are of another kind than those on the holdout."""
    try:
        return psi(before, now)
    except DataRefused:
        return math.inf


# ---- one rule each -----------------------------------------------------------------------------------------------


def _bad_rows(tally: Tally, rules: Batch) -> Audit:
    share = tally.quarantined / tally.rows if tally.rows else 0.0
    reason = (
        f"{tally.quarantined:,} of {tally.rows:,} rows break the signature ({share:.2%}; batch.max_bad_rows is "
        f"{rules.max_bad_rows:.2%})"
    )
    return Audit(name="bad rows", passed=share <= rules.max_bad_rows, reason=reason)


def _rows(tally: Tally, staged: Staged) -> Audit:
    answered = tally.scored + tally.quarantined
    reason = (
        f"{tally.scored:,} of {tally.rows:,} rows answered, {tally.quarantined:,} quarantined; {staged.rows:,} written"
    )
    return Audit(
        name="rows",
        passed=answered == tally.rows and staged.rows == tally.scored and tally.scored > 0,
        reason=reason if tally.scored else f"{reason}; nothing to publish",
    )


def _keys(tally: Tally, staged: Staged) -> Audit:
    if not tally.keys:
        return Audit(name="keys", passed=True, reason="the file has no key column; rows are named by interlock_row")
    names = ", ".join(tally.keys[:_SHOWN])
    absent = [key for key in tally.keys if key not in staged.columns]
    if absent:
        return Audit(name="keys", passed=False, reason=f"key column '{absent[0]}' is not in the staged file")
    written = [staged.nulls.get(key) for key in tally.keys]
    nulls = sum(count for count in written if count is not None)
    if nulls != tally.key_nulls and None not in written:
        return Audit(name="keys", passed=False, reason=f"{nulls:,} empty keys written, {tally.key_nulls:,} read")
    if tally.key_nulls:
        return Audit(name="keys", passed=False, reason=f"{tally.key_nulls:,} rows have no key ({names})")
    if tally.key_repeats is None:
        return Audit(name="keys", passed=True, reason=f"present ({names}); too many unordered keys to look for repeats")
    if tally.key_repeats:
        return Audit(
            name="keys",
            passed=True,
            reason=f"present ({names}); {tally.key_repeats:,} rows repeat a key, in the file as in the answer",
        )
    return Audit(name="keys", passed=True, reason=f"present and unique ({names})")


def _signature(tally: Tally, staged: Staged, columns: Sequence[str], output: Output | None) -> Audit:
    if tuple(columns) != staged.columns:
        odd = [name for name in (*columns, *staged.columns) if (name in columns) != (name in staged.columns)]
        what = f"column '{odd[0]}' is there in one and not in the other" if odd else "the order differs"
        return Audit(name="signature", passed=False, reason=f"the staged file has other columns than expected: {what}")
    if tally.unknown_labels:
        classes = len(output.classes or ()) if output else 0
        reason = f"{tally.unknown_labels:,} answers are none of the {classes:,} classes, or of another type"
        return Audit(name="signature", passed=False, reason=reason)
    kind = "not declared by the model" if output is None else _described(output)
    return Audit(name="signature", passed=True, reason=f"{len(columns)} columns as expected; answers: {kind}")


def _described(output: Output) -> str:
    if output.kind == "label":
        return f"one of {len(output.classes or ()):,} classes"
    return {"number": "numbers", "ranking": "rankings, best first", "text": "text"}.get(output.kind, "anything")


def _finite(tally: Tally, staged: Staged) -> Audit:
    written = staged.nulls.get(PREDICTION) or 0
    missing = max(tally.missing_answers, written)
    reason = (
        f"{missing:,} rows have no answer, or one that is not finite" if missing else "every row has a finite answer"
    )
    return Audit(name="finite", passed=missing == 0, reason=reason)


def _probabilities(tally: Tally, staged: Staged) -> Iterator[Audit]:
    names = [name for name in staged.columns if name.startswith(PROBABILITY)]
    if not names:
        return
    low = min(staged.low.get(name, 0.0) for name in names)
    high = max(staged.high.get(name, 1.0) for name in names)
    nulls = sum(staged.nulls.get(name) or 0 for name in names)
    if tally.outside or nulls or low < 0.0 or high > 1.0:
        reason = f"{max(tally.outside, nulls):,} rows hold a probability that is missing or outside 0 to 1"
        yield Audit(name="probabilities", passed=False, reason=reason)
    elif not tally.largest_gap <= SUM_TOLERANCE:
        reason = f"the probabilities of a row miss the sum 1 by {tally.largest_gap:.3g}"
        yield Audit(name="probabilities", passed=False, reason=reason)
    else:
        yield Audit(name="probabilities", passed=True, reason="between 0 and 1, and every row sums to 1")


def _new_categories(tally: Tally, rules: Batch) -> Audit:
    share = tally.new_category_rows / tally.scored if tally.scored else 0.0
    reason = f"{tally.new_category_rows:,} rows hold a category never seen in training ({share:.2%}"
    if tally.new_categories:
        worst = sorted(tally.new_categories.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
        reason += "; " + ", ".join(f"'{name}' in {count:,}" for name, count in worst)
    reason += f"; batch.max_new_categories is {rules.max_new_categories:.0%})"
    return Audit(name="new categories", passed=share <= rules.max_new_categories, reason=reason)


def _shift(shift: Shift, rules: Batch) -> Audit:
    if shift.distance is None:
        return Audit(name="shift", passed=True, reason=f"not judged: {shift.skipped}")
    reason = (
        f"PSI {shift.distance:.3f} between {shift.rows:,} answers ('{shift.column}') and those on the holdout "
        f"(batch.max_shift is {rules.max_shift:g})"
    )
    passed = math.isfinite(shift.distance) and shift.distance <= rules.max_shift
    return Audit(name="shift", passed=passed, reason=reason)
