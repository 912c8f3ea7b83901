import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import SettingsError
from interlock.records import Comparison, Consistency, Evaluation, Failure, Policy, Score, SliceScore, canonical
from interlock.release.gate import decide, figures, level, policy_of
from interlock.settings import Gate, Model, Settings

POLICY = Policy(metric="f1_macro")


def comparison(against="champion", gain=0.05, low=0.02, differing=80, alpha=None):
    return Comparison(
        against=against,
        gain=gain,
        low=low,
        high=gain + (gain - low),
        standard_error=0.01,
        alpha=level(0.95, 1.0) if alpha is None else alpha,
        differing=differing,
        method="bootstrap",
    )


def score(value):
    return Score(metric="f1_macro", value=value, low=value - 0.05, high=value + 0.05)


GUESSING = (comparison("shuffled", 0.3, 0.25),)


def evaluation(*, guessing=GUESSING, **changes):
    facts = Evaluation(
        candidate="c" * 64,
        champion="a" * 64,
        baseline="b" * 64,
        snapshot="5" * 64,
        holdout_digest="d" * 64,
        metric="f1_macro",
        greater_is_better=True,
        rows=400,
        seed=0,
        resamples=2000,
        asks=1.0,
        scores={"candidate": score(0.55), "champion": score(0.50), "baseline": score(0.33), "shuffled": score(0.25)},
        comparisons=(comparison(), comparison("baseline", 0.22, 0.18)),
        latency_ms=1.5,
        size_bytes=2_000_000,
    )
    changed = msgspec.structs.replace(facts, **changes)
    return msgspec.structs.replace(changed, comparisons=(*changed.comparisons, *guessing))


def check(decision, name):
    return next(found for found in decision.checks if found.name == name)


def slice_score(value="FR", rows=120, high=-0.02):
    return SliceScore(column="country", value=value, rows=rows, candidate=0.31, champion=0.44, gain=-0.13, high=high)


def test_better_than_both_is_promoted_and_says_why():
    decision = decide(evaluation(), POLICY)
    assert decision.verdict == "promote"
    assert (
        decision.reason
        == "Better than the champion: f1_macro 0.550 against 0.500, and the gain's lower bound is 0.020."
    )
    assert all(found.passed for found in decision.checks)


def test_without_a_champion_the_baseline_is_the_one_to_beat():
    first = evaluation(
        champion=None,
        scores={"candidate": score(0.55), "baseline": score(0.33)},
        comparisons=(comparison("baseline", 0.22, 0.18),),
    )
    decision = decide(first, POLICY)
    assert decision.verdict == "promote"
    assert decision.reason.startswith("Better than the baseline: f1_macro 0.550 against 0.330")
    assert "no champion yet" in check(decision, "champion").reason


def test_not_better_than_the_baseline_names_the_facts():
    poor = evaluation(
        scores={"candidate": score(0.334), "champion": score(0.3), "baseline": score(0.331)},
        comparisons=(comparison(), comparison("baseline", 0.003, -0.012)),
    )
    decision = decide(poor, POLICY)
    assert decision.verdict == "keep"
    assert (
        decision.reason
        == "Not better than the baseline: f1_macro 0.334 against 0.331, and the gain's lower bound is -0.012."
    )


def test_a_tie_keeps_the_champion():
    same = evaluation(comparisons=(comparison(gain=0.0, low=0.0, differing=0), comparison("baseline", 0.2, 0.1)))
    decision = decide(same, POLICY)
    assert decision.verdict == "keep"
    assert decision.reason == "Not better than the champion: it gives the same answers on all 400 held-out rows."


def test_a_gain_at_the_asked_one_is_not_beyond_it():
    policy = msgspec.structs.replace(POLICY, min_gain=0.02)
    decision = decide(evaluation(), policy)
    assert decision.verdict == "keep"
    assert "(0.020 is asked)" in decision.reason
    assert decide(evaluation(), msgspec.structs.replace(POLICY, min_gain=0.019)).verdict == "promote"


def test_too_few_differing_rows_are_named():
    few = evaluation(comparisons=(comparison(gain=0.01, low=0.0, differing=3), comparison("baseline", 0.2, 0.1)))
    assert "they differ on 3 rows only" in decide(few, POLICY).reason


def test_a_missing_comparison_proves_nothing():
    decision = decide(evaluation(comparisons=(comparison("baseline", 0.2, 0.1),)), POLICY)
    assert decision.verdict == "keep"
    assert decision.reason == "It was not compared with the champion."


def test_the_floor():
    decision = decide(evaluation(), msgspec.structs.replace(POLICY, at_least=0.6))
    assert decision.verdict == "keep"
    assert decision.reason == "f1_macro of 0.550 does not reach the 0.600 that gate.at_least asks for."
    assert decide(evaluation(), msgspec.structs.replace(POLICY, at_least=0.55)).verdict == "promote"
    cost = evaluation(metric="m.py:cost", greater_is_better=False)
    policy = Policy(metric="m.py:cost", at_least=0.5)
    assert not check(decide(cost, policy), "at least").passed
    assert check(decide(cost, msgspec.structs.replace(policy, at_least=0.6)), "at least").passed


def test_a_worse_slice_keeps_the_champion_and_is_named():
    worse = evaluation(slices=(slice_score("DE", high=0.1), slice_score("FR")))
    decision = decide(worse, POLICY)
    assert decision.verdict == "keep"
    assert decision.reason == (
        "Worse than the champion where country is FR (120 rows): f1_macro 0.310 against 0.440, "
        "and the gain's upper bound is -0.020."
    )


def test_small_slices_are_shown_not_judged():
    decision = decide(evaluation(slices=(slice_score(rows=29),)), POLICY)
    assert decision.verdict == "promote"
    assert "shown, not judged" in check(decision, "slices").reason


def test_budgets_of_time_and_size():
    tight = msgspec.structs.replace(POLICY, max_latency_ms=1.0, max_size_mb=2.0)
    decision = decide(evaluation(), tight)
    assert decision.verdict == "keep"
    assert not check(decision, "latency").passed
    assert check(decision, "size").passed
    assert not check(decide(evaluation(latency_ms=None), tight), "latency").passed
    assert not check(decide(evaluation(size_bytes=2_000_001), tight), "size").passed


@pytest.mark.parametrize(("value", "verdict"), [(1.0, "hold"), (0.951, "hold"), (0.94, "promote")])
def test_too_good_to_be_true_is_held(value, verdict):
    decision = decide(evaluation(scores={**evaluation().scores, "candidate": score(value)}), POLICY)
    assert decision.verdict == verdict
    if verdict == "hold":
        assert decision.reason.startswith("Too good to be true")
        assert "column that tells the target" in decision.reason


def test_a_first_model_may_leave_the_baseline_far_behind():
    first = evaluation(
        champion=None,
        scores={"candidate": score(0.97), "baseline": score(0.33)},
        comparisons=(comparison("baseline", 0.6, 0.5),),
    )
    assert decide(first, POLICY).verdict == "promote"
    perfect = msgspec.structs.replace(first, scores={**first.scores, "candidate": score(1.0)})
    assert decide(perfect, POLICY).verdict == "hold"


def test_a_worn_out_holdout_is_held():
    alpha = level(0.95, 101.0)
    found = (comparison(alpha=alpha), comparison("baseline", 0.2, 0.1, alpha=alpha))
    worn = evaluation(asks=101.0, comparisons=found, guessing=(comparison("shuffled", 0.3, 0.2, alpha=alpha),))
    decision = decide(worn, POLICY)
    assert decision.verdict == "hold"
    assert "worn out" in decision.reason
    assert decide(worn, msgspec.structs.replace(POLICY, max_asks=101)).verdict == "promote"


def test_approval_is_asked_last_and_only_for_what_would_be_released():
    policy = msgspec.structs.replace(POLICY, approval=True)
    assert decide(evaluation(), policy).verdict == "hold"
    tie = evaluation(comparisons=(comparison(gain=0.0, low=-0.01), comparison("baseline", 0.2, 0.1)))
    assert decide(tie, policy).verdict == "keep"


def test_a_champion_that_cannot_answer():
    scores = {"candidate": score(0.55), "baseline": score(0.33)}
    only = (comparison("baseline", 0.22, 0.18),)
    gone = evaluation(
        scores=scores, comparisons=only, failures={"champion": Failure(kind="inputs-gone", reason="it takes 'bmi'.")}
    )
    decision = decide(gone, POLICY)
    assert decision.verdict == "hold"
    assert decision.reason == "The champion cannot answer today's rows, so nothing was compared: it takes 'bmi'."
    broken = evaluation(
        scores=scores, comparisons=only, failures={"champion": Failure(kind="failed", reason="it hung.")}
    )
    assert decide(broken, POLICY).verdict == "hold"


def test_evidence_gathered_under_other_rules_proves_nothing():
    assert "asks for" not in check(decide(evaluation(), POLICY), "evidence").reason
    assert decide(evaluation(), Policy(metric="accuracy")).reason == (
        "Judged by f1_macro, and the rules ask for accuracy: judge it again."
    )
    strict = decide(evaluation(), msgspec.structs.replace(POLICY, confidence=0.99))
    assert strict.verdict == "keep"
    assert "judge it again" in strict.reason
    assert decide(evaluation(), msgspec.structs.replace(POLICY, confidence=0.9)).verdict == "promote"


def test_levels_spend_the_whole_budget_and_no_more():
    spent = [level(0.95, k) for k in range(1, 200_000)]
    assert spent == sorted(spent, reverse=True)
    assert sum(spent) < 0.05
    assert sum(spent) == pytest.approx(0.05, rel=1e-4)
    assert level(0.95, 0.3) == level(0.95, 1.0)


numbers = st.floats(-1, 1)


@given(low=numbers, base_low=numbers, asks=st.integers(1, 200), value=st.floats(0, 1), approval=st.booleans())
def test_the_verdict_is_that_of_the_first_failing_check(low, base_low, asks, value, approval):
    alpha = level(0.95, asks)
    facts = evaluation(
        asks=float(asks),
        scores={**evaluation().scores, "candidate": score(value)},
        comparisons=(comparison(low=low, alpha=alpha), comparison("baseline", 0.2, base_low, alpha=alpha)),
    )
    policy = msgspec.structs.replace(POLICY, approval=approval)
    decision = decide(facts, policy)
    assert canonical(decision) == canonical(decide(facts, policy))
    failing = [found for found in decision.checks if not found.passed]
    assert (decision.verdict == "promote") == (not failing)
    if any(found.on_fail == "keep" for found in failing):
        assert decision.verdict == "keep"
    if decision.verdict == "promote":
        assert low > 0.0
        assert base_low > 0.0
    if failing:
        assert decision.reason in {found.reason for found in failing if found.on_fail == decision.verdict}
    assert all(found.reason.endswith((".", ")")) for found in decision.checks)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_figures_tell_different_numbers_apart(one, other):
    shown = figures(one, other)
    if abs(one - other) > 2e-6 * max(1.0, abs(one), abs(other)):
        assert shown[0] != shown[1] or math.isclose(one, other, rel_tol=1e-5)


def test_policy_comes_from_the_settings():
    settings = Settings(
        model=Model(name="m", task="regression", target="y"), gate=Gate(at_least=0.4, slices=("sex",), approval=True)
    )
    policy = policy_of(settings)
    assert (policy.metric, policy.at_least, policy.slices, policy.approval) == ("r2", 0.4, ("sex",), True)
    assert set(Policy.__struct_fields__) <= set(Gate.__struct_fields__)
    with pytest.raises(SettingsError):
        policy_of(msgspec.structs.replace(settings, gate=Gate(metric="acuracy")))


def test_answers_that_are_worth_no_more_than_guesses_are_kept_out():
    """The constant baseline scores less than scattered guesses under a macro F1; the shuffled answers do not."""
    first = evaluation(
        champion=None,
        comparisons=(comparison("baseline", 0.07, 0.05),),
        guessing=(comparison("shuffled", 0.001, -0.02),),
    )
    decision = decide(first, POLICY)
    assert decision.verdict == "keep"
    assert decision.reason.startswith("Not better than guessing, its own answers shuffled: f1_macro 0.550")


def test_without_a_look_at_guessing_nothing_is_released():
    assert decide(evaluation(guessing=()), POLICY).verdict == "keep"


def again(order, alone, largest=None):
    return Consistency(
        asked={"order": 4096, "alone": 158},
        different={"order": order, "alone": alone},
        largest=largest,
        tolerance=1e-5,
    )


def test_a_model_that_is_no_function_of_the_row_is_held():
    decision = decide(evaluation(consistency=again(1234, 5, 0.21)), POLICY)
    assert decision.verdict == "hold"
    assert decision.reason == (
        "Not a function of the row: asked again, other answers came for 1,234 of 4,096 with the rows shuffled and "
        "5 of 158 alone or in small pieces; the largest difference is 0.210 of their size. Let an answer depend on its "
        "row alone, or set gate.row_by_row = false if the model needs its whole batch."
    )
    found = check(decision, "consistent")
    assert (found.observed, found.required) == (1239 / 4254, 0.0)
    labels = decide(evaluation(consistency=again(0, 1)), POLICY)
    assert labels.verdict == "hold"
    assert "5 of" not in labels.reason
    assert "largest" not in labels.reason
    assert decide(evaluation(consistency=again(9, 9)), Policy(metric="f1_macro", row_by_row=False)).verdict == "promote"


def test_consistent_answers_are_told():
    decision = decide(evaluation(consistency=again(0, 0, 1e-9)), POLICY)
    assert decision.verdict == "promote"
    assert check(decision, "consistent").reason == (
        "Asked again, the same rows got the same answers: 4,096 with the rows shuffled and 158 alone or in small "
        "pieces."
    )


def hopeful(gain=0.02, low=-0.04, asks=1.0, **changes):
    alpha = level(0.95, asks)
    found = (comparison(gain=gain, low=low, alpha=alpha), comparison("baseline", 0.22, 0.18, alpha=alpha))
    shuffled = (comparison("shuffled", 0.3, 0.2, alpha=alpha),)
    return evaluation(comparisons=found, guessing=shuffled, asks=asks, edition=2, units=400, **changes)


def test_a_gain_that_is_not_proven_tells_how_many_rows_it_would_take():
    """Reach 0.06 and 0.84 standard errors of 0.01, over a gain of 0.02, squared: 11.7 times as many rows."""
    assert decide(hopeful(), POLICY).reason == (
        "Not better than the champion: f1_macro 0.550 against 0.500, and the gain's lower bound is -0.040. On 400 rows "
        "only a gain above 0.060 is proven; were this one real, about 4,700 rows would show it four times in five."
    )
    asked = decide(hopeful(), msgspec.structs.replace(POLICY, min_gain=0.01)).reason
    assert "only a gain above 0.070 is proven; were this one real, about 19,000 rows" in asked


def test_no_rows_are_promised_for_a_gain_that_is_none():
    for gain in (0.0, -0.01):
        reason = decide(hopeful(gain=gain, low=gain - 0.06), POLICY).reason
        assert reason.endswith("On 400 rows only a gain above 0.060 is proven.")
    assert decide(hopeful(gain=1e-7, low=-0.06), POLICY).reason.endswith("is proven.")
    assert "On 400 rows" not in decide(hopeful(gain=0.0, low=0.0), POLICY).reason
    assert "On 400 rows" not in decide(msgspec.structs.replace(hopeful(), edition=1), POLICY).reason


def test_a_much_asked_holdout_tells_that_fresh_rows_would_have_done():
    """At the 30th question Student's t reaches 4.1 standard errors, at the first 1.9: 0.0188 of the 0.04."""
    told = decide(hopeful(low=-0.02, asks=30.0), POLICY).reason
    assert "(fewer that were never asked: a first question would have passed)" in told
    assert "never asked" not in decide(hopeful(low=-0.05, asks=30.0), POLICY).reason
    assert "never asked" not in decide(hopeful(low=-0.02), POLICY).reason


def test_rows_of_one_key_are_told_to_count_once():
    keyed = decide(evaluation(edition=2, units=40), POLICY)
    assert check(keyed, "evidence").reason == (
        "Judged by f1_macro on 400 held-out rows of 40 keys; those of one key count as one."
    )
    assert check(decide(evaluation(edition=2, units=400), POLICY), "evidence").reason.endswith("400 held-out rows.")


# ---- words of the third edition ----------------------------------------------------------------------------------


def reason(name, *, edition=3, **changes):
    return check(decide(evaluation(edition=edition, **changes), POLICY), name).reason


def test_a_bound_is_told_no_further_than_the_metric_goes():
    wide = (comparison(gain=0.05, low=-2.5, differing=6), comparison("baseline", 0.22, 0.18))
    told = reason("champion", comparisons=wide)
    assert "the gain's lower bound is -1.000, the least that it can be." in told
    assert "On 400 rows no gain can be proven" in told
    before = reason("champion", comparisons=wide, edition=2)
    assert "the gain's lower bound is -2.500." in before, "older receipts replay in their words"
    assert "On 400 rows only a gain above 2.550 is proven" in before


def test_a_metric_without_a_lowest_value_has_no_such_end():
    wide = (comparison(gain=0.05, low=-2.5), comparison("baseline", 0.22, 0.18))
    assert "the gain's lower bound is -2.500." in reason("champion", comparisons=wide, metric="r2")
    assert "the gain's lower bound is -2.500." in reason("champion", comparisons=wide, metric="own.py:f")
    both = "the gain's lower bound is -2.000, the least that it can be."
    assert both in reason("champion", comparisons=wide, metric="matthews_corrcoef")


def test_a_fractional_comparison_says_what_it_counts():
    told = "Comparison number 1.35 (an earlier one counts by the share of these rows that it was asked on) on these"
    assert reason("holdout budget", asks=1.35).startswith(told)
    assert reason("holdout budget", asks=2.0).startswith("Comparison number 2 on these held-out rows")
    assert reason("holdout budget", asks=1.35, edition=2).startswith("Comparison number 1.35 on these held-out rows")


@pytest.mark.parametrize(("size", "shown"), [(4_000_000, "4"), (2_147_000_000, "2,147"), (1_234, "0.00123")])
def test_a_budget_names_what_is_over_it(size, shown):
    policy = msgspec.structs.replace(POLICY, max_size_mb=0.001)
    facts = evaluation(edition=3, size_bytes=size)
    assert check(decide(facts, policy), "size").reason == f"Its size of {shown} MB is over the budget of 0.001."
    old = check(decide(msgspec.structs.replace(facts, edition=2), policy), "size").reason
    assert "Its size" not in old
