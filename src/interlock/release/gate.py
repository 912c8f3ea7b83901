"""Shall it go live? A pure function of the evidence and the owner's rules.

Every check says in words what was seen and what was asked. What speaks against the candidate (``keep``) comes before
what a person must look at (``hold``): nobody is called to look at a model that would not be released anyway. The
first check that fails gives the verdict and its sentence.

**Better** means: the one-sided lower bound of the paired gain lies above the asked gain. A tie keeps the champion.
The candidate must beat the baseline, its own answers in shuffled order (what they are worth when they know nothing of
the rows) *and* the champion; each is tested at the full level, because a false release needs all of them to err
(intersection-union test: Berger, Technometrics 24, 1982).

**The holdout budget.** A holdout that is asked again and again is learnt by heart, one answer at a time. Comparison
number k on one holdout is therefore made at the level ::

    alpha_k = (1 - confidence) * 6 / (pi^2 k^2)          sum over all k = 1 - confidence

What this guarantees: as long as all that comes back is "not released", the next candidate cannot depend on the
holdout, whoever chooses it and however cleverly, because there is only one such history; so by the union bound the
probability that *any* candidate that is no better is released, up to and including the first release, is at most ``1
- confidence`` (to the accuracy of the bounds themselves). This is the argument of the Ladder (Blum & Hardt, ICML
2015: only improvements beyond doubt leak) and of the reusable holdout (Dwork, Feldman, Hardt, Pitassi, Reingold &
Roth, Science 349, 2015), with Bonferroni's alpha spent along 1/k^2.

What it does not: a release tells something (which of the k candidates it was), so after p releases on one holdout the
number of histories, and with it the bound, grows by a factor of at most k^p; people who read the scores and tune by
them learn more than "not released"; and where the rows overlap in part, ``asks`` counts earlier comparisons by the
share of today's rows that they had seen, which is exact for the same and for disjoint rows and a plausible rule
between. Hence also a plain cap, ``max_asks``, beyond which a person must look or the holdout be renewed.
"""

import math
from collections.abc import Iterator

from interlock.records import Check, Comparison, Consistency, Decision, Evaluation, Policy, SliceScore
from interlock.release.bounds import student
from interlock.release.metrics import METRICS, chosen_metric, error_of, span_of
from interlock.settings import Settings

_NAMED = {
    "baseline": "the baseline",
    "champion": "the champion",
    "shuffled": "guessing, its own answers shuffled",
}


def policy_of(settings: Settings) -> Policy:
    """Read the gate's rules from the settings; raises :class:`~interlock.errors.SettingsError` on an unknown metric."""
    gate = settings.gate
    return Policy(
        metric=chosen_metric(gate.metric, settings.model.task),
        at_least=gate.at_least,
        min_gain=gate.min_gain,
        confidence=gate.confidence,
        slices=gate.slices,
        min_slice_rows=gate.min_slice_rows,
        too_good=gate.too_good,
        max_asks=gate.max_asks,
        max_latency_ms=gate.max_latency_ms,
        max_size_mb=gate.max_size_mb,
        approval=gate.approval,
        row_by_row=gate.row_by_row,
    )


def level(confidence: float, asks: float) -> float:
    """Level at which comparison number ``asks`` (1 and up, fractions allowed) of one holdout is made."""
    return (1.0 - confidence) * 6.0 / (math.pi**2 * max(asks, 1.0) ** 2)


def decide(evaluation: Evaluation, policy: Policy) -> Decision:
    """Answer ``promote``, ``keep`` or ``hold``, with a reason for each check. Pure: the same facts, the same answer."""
    checks = tuple(_checks(evaluation, policy))
    if policy.approval and all(check.passed for check in checks):
        checks = (*checks, _approval(checks, evaluation))
    failed = [check for wanted in ("keep", "hold") for check in checks if not check.passed and check.on_fail == wanted]
    return Decision(
        verdict=failed[0].on_fail if failed else "promote",
        candidate=evaluation.candidate,
        champion=evaluation.champion,
        reason=failed[0].reason if failed else _why_promoted(checks, evaluation),
        checks=checks,
    )


def _checks(evaluation: Evaluation, policy: Policy) -> Iterator[Check]:
    yield _fits(evaluation, policy)
    if policy.at_least is not None:
        yield _at_least(evaluation, policy.at_least)
    yield _beats(evaluation, _comparison(evaluation, "baseline"), 0.0, "baseline")
    yield _beats(evaluation, _comparison(evaluation, "shuffled"), 0.0, "shuffled")
    yield _beats_champion(evaluation, policy)
    if evaluation.slices:
        yield _slices(evaluation, policy)
    if policy.max_latency_ms is not None:
        yield _within(evaluation, "latency", "ms for one row", evaluation.latency_ms, policy.max_latency_ms)
    if policy.max_size_mb is not None:
        yield _within(evaluation, "size", "MB", evaluation.size_bytes / 1e6, policy.max_size_mb)
    if evaluation.consistency is not None and policy.row_by_row:
        yield _consistent(evaluation.consistency)
    yield _too_good(evaluation, policy)
    yield _holdout_budget(evaluation, policy)


def _approval(checks: tuple[Check, ...], evaluation: Evaluation) -> Check:
    """Asked only for what would be released."""
    reason = f"{_why_promoted(checks, evaluation)} A person's word is asked for (gate.approval)."
    return Check(name="approval", passed=False, on_fail="hold", reason=reason)


# ---- is it better? -----------------------------------------------------------------------------------------------


def _fits(evaluation: Evaluation, policy: Policy) -> Check:
    """Evidence gathered under other rules proves nothing under these."""
    strictest = level(policy.confidence, evaluation.asks) * (1.0 + 1e-9)
    loose = max((comparison.alpha for comparison in evaluation.comparisons), default=0.0)
    if evaluation.metric != policy.metric:
        passed, reason = False, f"Judged by {evaluation.metric}, and the rules ask for {policy.metric}: judge it again."
    elif loose > strictest:
        passed = False
        reason = f"Judged at the level {loose:.2g}, and the rules ask for {strictest:.2g}: judge it again."
    else:
        passed = True
        together = evaluation.units is not None and evaluation.units < evaluation.rows
        keys = f" of {evaluation.units:,} keys; those of one key count as one" if together else ""
        reason = f"Judged by {policy.metric} on {evaluation.rows:,} held-out rows{keys}."
    return Check(name="evidence", passed=passed, on_fail="keep", observed=loose, required=strictest, reason=reason)


def _at_least(evaluation: Evaluation, floor: float) -> Check:
    value = evaluation.scores["candidate"].value
    passed = value >= floor if evaluation.greater_is_better else value <= floor
    shown, asked = figures(value, floor)
    verb = "reaches" if passed else "does not reach"
    reason = f"{_metric(evaluation)} of {shown} {verb} the {asked} that gate.at_least asks for."
    return Check(name="at least", passed=passed, on_fail="keep", observed=value, required=floor, reason=reason)


def _comparison(evaluation: Evaluation, against: str) -> Comparison | None:
    return next((found for found in evaluation.comparisons if found.against == against), None)


def _beats_champion(evaluation: Evaluation, policy: Policy) -> Check:
    if evaluation.champion is None:
        return Check(
            name="champion",
            passed=True,
            on_fail="keep",
            reason="There is no champion yet: the baseline is the one to beat.",
        )
    failure = evaluation.failures.get("champion")
    if failure is None:
        return _beats(evaluation, _comparison(evaluation, "champion"), policy.min_gain, "champion")
    if failure.kind == "inputs-gone":
        reason = f"The champion cannot answer today's rows, so nothing was compared: {failure.reason}"
        return Check(name="champion", passed=False, on_fail="hold", reason=reason)
    reason = f"The champion failed on the held-out rows, so nothing was compared: {failure.reason}"
    return Check(name="champion", passed=False, on_fail="hold", reason=reason)


def _beats(evaluation: Evaluation, comparison: Comparison | None, asked: float, other: str) -> Check:
    """Hold the lower bound of the gain against what is asked; a missing comparison proves nothing."""
    if comparison is None:
        return Check(name=other, passed=False, on_fail="keep", reason=f"It was not compared with {_NAMED[other]}.")
    passed = comparison.low > asked
    return Check(
        name=other,
        passed=passed,
        on_fail="keep",
        observed=comparison.low,
        required=asked,
        reason=_beats_reason(evaluation, comparison, asked, other, passed=passed),
    )


def _beats_reason(evaluation: Evaluation, comparison: Comparison, asked: float, other: str, *, passed: bool) -> str:
    verdict = f"{'Better' if passed else 'Not better'} than {_NAMED[other]}"
    if comparison.differing == 0:
        return f"{verdict}: it gives the same answers on all {evaluation.rows:,} held-out rows."
    mine, theirs = figures(evaluation.scores["candidate"].value, _score(evaluation, other))
    low = comparison.low if evaluation.edition < 3 else max(comparison.low, -span_of(evaluation.metric))
    bound = f"the gain's lower bound is {figure(low)}"
    if low > comparison.low:
        bound += ", the least that it can be"
    if not passed and 0.5**comparison.differing > comparison.alpha:
        rows = f"{comparison.differing} row{'s' * (comparison.differing != 1)}"
        bound = f"they differ on {rows} only, too few to prove anything at the level {comparison.alpha:.2g}"
    more = f", above the {figure(asked)} asked" if passed and asked else f" ({figure(asked)} is asked)" if asked else ""
    prospect = "" if passed or evaluation.edition == 1 else _prospect(evaluation, comparison, asked)
    return f"{verdict}: {_metric(evaluation)} {mine} against {theirs}, and {bound}{more}.{prospect}"


def _prospect(evaluation: Evaluation, comparison: Comparison, asked: float) -> str:
    """Tell what these rows could have shown, and how many would show this gain four times in five, were it real.

    The distance from gain to bound shrinks with the root of the number of rows; 0.84 standard errors more make an even
    chance one of 80 %.
    """
    reach, beyond = comparison.gain - comparison.low, comparison.gain - asked
    if not reach > 0.0:
        return ""
    text = f" On {evaluation.rows:,} rows only a gain above {figure(asked + reach)} is proven"
    if evaluation.edition >= 3 and asked + reach >= span_of(evaluation.metric):
        text = f" On {evaluation.rows:,} rows no gain can be proven"
    if beyond <= 0.0:
        return f"{text}."
    rows = evaluation.rows * ((reach + 0.84 * comparison.standard_error) / beyond) ** 2
    if rows > 1e9:
        return f"{text}."
    fresh = comparison.gain - reach * _relief(evaluation, comparison) > asked
    worn = " (fewer that were never asked: a first question would have passed)" if fresh else ""
    return f"{text}; were this one real, about {float(f'{rows:.2g}'):,.0f} rows{worn} would show it four times in five."


def _relief(evaluation: Evaluation, comparison: Comparison) -> float:
    """Share of the distance from gain to bound that a first question to the holdout would have needed."""
    first = comparison.alpha * max(evaluation.asks, 1.0) ** 2
    freedom = max(1, min(evaluation.units or evaluation.rows, comparison.differing) - 1)
    return student(first, freedom) / student(comparison.alpha, freedom) if first < 0.5 else 1.0


def _score(evaluation: Evaluation, who: str) -> float:
    found = evaluation.scores.get(who)
    return math.nan if found is None else found.value


def _slices(evaluation: Evaluation, policy: Policy) -> Check:
    """No judged slice may be worse beyond doubt; the upper bounds carry Bonferroni's share of each slice."""
    judged = [found for found in evaluation.slices if found.rows >= policy.min_slice_rows]
    if not judged:
        reason = f"None of the {len(evaluation.slices)} slices has {policy.min_slice_rows} rows: shown, not judged."
        return Check(name="slices", passed=True, on_fail="keep", reason=reason)
    worst = min(judged, key=lambda found: found.high)
    passed = worst.high >= 0.0
    told = _slice_told(evaluation, worst)
    reason = (
        f"None of {len(judged)} slices is worse beyond doubt; the lowest is {told}."
        if passed
        else f"Worse than the champion where {told}, and the gain's upper bound is {figure(worst.high)}."
    )
    return Check(name="slices", passed=passed, on_fail="keep", observed=worst.high, required=0.0, reason=reason)


def _slice_told(evaluation: Evaluation, found: SliceScore) -> str:
    mine, theirs = figures(found.candidate, found.champion)
    value = found.value if len(found.value) <= 40 else f"{found.value[:39]}…"
    return f"{found.column} is {value} ({found.rows:,} rows): {_metric(evaluation)} {mine} against {theirs}"


# ---- budgets and doubts ------------------------------------------------------------------------------------------


def _within(evaluation: Evaluation, name: str, unit: str, observed: float | None, limit: float) -> Check:
    if observed is None:
        reason = f"Its {name} was not measured, and the budget is {limit:g} {unit}."
        return Check(name=name, passed=False, on_fail="keep", required=limit, reason=reason)
    passed = observed <= limit
    shown = f"{observed:.3g} {unit}"
    if evaluation.edition >= 3:
        shown = f"Its {name} of {f'{observed:,.0f}' if observed >= 100.0 else f'{observed:.3g}'} {unit}"
    reason = f"{shown} is within the budget of {limit:g}." if passed else f"{shown} is over the budget of {limit:g}."
    return Check(name=name, passed=passed, on_fail="keep", observed=observed, required=limit, reason=reason)


_AGAIN = {"order": "with the rows shuffled", "alone": "alone or in small pieces"}


def _consistent(found: Consistency) -> Check:
    """The evidence is about a function of the row; a model that is none is another model in another batch."""
    different, asked = sum(found.different.values()), sum(found.asked.values())
    passed = different == 0
    if passed:
        told = " and ".join(f"{found.asked[way]:,} {words}" for way, words in _AGAIN.items())
        reason = f"Asked again, the same rows got the same answers: {told}."
    else:
        told = " and ".join(
            f"{found.different[way]:,} of {found.asked[way]:,} {words}" for way, words in _AGAIN.items()
        )
        size = f"; the largest difference is {figure(found.largest)} of their size" if found.largest else ""
        reason = (
            f"Not a function of the row: asked again, other answers came for {told}{size}. Let an answer depend on its "
            "row alone, or set gate.row_by_row = false if the model needs its whole batch."
        )
    return Check(
        name="consistent",
        passed=passed,
        on_fail="hold",
        observed=different / max(asked, 1),
        required=0.0,
        reason=reason,
    )


def _too_good(evaluation: Evaluation, policy: Policy) -> Check:
    """A sudden jump towards perfection is more often a leak of the target than a better model."""
    metric = METRICS.get(evaluation.metric)
    if metric is None:
        reason = f"What a perfect {_metric(evaluation)} would be is not known: not judged."
        return Check(name="too good", passed=True, on_fail="hold", reason=reason)
    error = error_of(evaluation.scores["candidate"].value, metric.best)
    before = _score(evaluation, "champion")
    gone = 1.0 - error / error_of(before, metric.best) if before < metric.best else 0.0
    suspicion = "Look for a column that tells the target, or for held-out rows that training saw."
    if error <= 1e-12:
        gone, passed = 1.0, False
        reason = (
            f"Too good to be true: no error at all on {evaluation.rows:,} rows ({_metric(evaluation)}). {suspicion}"
        )
    elif gone >= policy.too_good:
        passed = False
        reason = f"Too good to be true: {gone:.0%} of the champion's error is gone at once. {suspicion}"
    else:
        passed = True
        reason = (
            "Some error is left." if math.isnan(before) else f"{max(gone, 0.0):.0%} of the champion's error is gone."
        )
    return Check(name="too good", passed=passed, on_fail="hold", observed=gone, required=policy.too_good, reason=reason)


def _holdout_budget(evaluation: Evaluation, policy: Policy) -> Check:
    asked = f"{evaluation.asks:.3g}"
    if evaluation.edition >= 3 and evaluation.asks != round(evaluation.asks):
        asked = f"{asked} (an earlier one counts by the share of these rows that it was asked on)"
    passed = evaluation.asks <= policy.max_asks
    reason = (
        f"Comparison number {asked} on these held-out rows, made at the level "
        f"{level(policy.confidence, evaluation.asks):.2g}; {policy.max_asks} are allowed."
        if passed
        else f"The holdout is worn out: this is comparison number {asked} on its rows, and {policy.max_asks} are "
        "allowed. Hold out fresh rows."
    )
    return Check(
        name="holdout budget",
        passed=passed,
        on_fail="hold",
        observed=evaluation.asks,
        required=float(policy.max_asks),
        reason=reason,
    )


# ---- words -------------------------------------------------------------------------------------------------------


def _why_promoted(checks: tuple[Check, ...], evaluation: Evaluation) -> str:
    decisive = "baseline" if evaluation.champion is None else "champion"
    return next(check.reason for check in checks if check.name == decisive)


def _metric(evaluation: Evaluation) -> str:
    return evaluation.metric.rpartition(":")[2]


def figure(value: float) -> str:
    """Three digits after the point for a number near one, three significant ones for any other."""
    if value == 0.0:
        return "0"
    return f"{value:.3f}" if 0.01 <= abs(value) < 100.0 else f"{value:.3g}"


def figures(one: float, other: float) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart, six at most."""
    for digits in (3, 4, 5, 6):
        texts = (f"{one:.{digits}f}", f"{other:.{digits}f}")
        if texts[0] != texts[1]:
            return texts if max(abs(one), abs(other)) < 1e5 else (f"{one:.6g}", f"{other:.6g}")
    return figure(one), figure(other)
