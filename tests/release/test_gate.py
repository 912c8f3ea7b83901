import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interlock.errors import SettingsError
from interlock.records import Comparison, Consistency, Evaluation, Failure, Policy, Score, SliceScore, canonical
from interlock.release.gate import decide, figure, figures, level, policy_of
from interlock.release.metrics import error_of
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
    assert "for 0 of 4,096 with the rows shuffled and 1 of 158 alone or in small pieces. Let an answer" in labels.reason
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
    assert decide(hopeful(gain=0.0, low=0.0), POLICY).reason.endswith("and the gain's lower bound is 0.")
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


# ---- every check, to the letter ----------------------------------------------------------------------------------


def test_the_policy_takes_every_rule_of_the_settings():
    rules = {
        "metric": "neg_median_absolute_error",
        "at_least": -3.5,
        "min_gain": 0.25,
        "confidence": 0.9,
        "slices": ("sex", "age"),
        "min_slice_rows": 7,
        "too_good": 0.5,
        "max_asks": 3,
        "max_latency_ms": 4.0,
        "max_size_mb": 5.0,
        "approval": True,
        "row_by_row": False,
    }
    model = Model(name="m", task="regression", target="y")
    assert policy_of(Settings(model=model, gate=Gate(**rules))) == Policy(**rules)


def told(decision):
    return [(one.name, one.passed, one.on_fail, one.observed, one.required) for one in decision.checks]


def test_a_decision_lists_every_check_with_what_was_seen_and_asked():
    policy = Policy(
        metric="f1_macro", at_least=0.4, min_gain=0.01, max_latency_ms=2.0, max_size_mb=3.0, max_asks=50, too_good=0.8
    )
    decision = decide(evaluation(slices=(slice_score(high=0.02),), consistency=again(0, 0)), policy)
    assert (decision.verdict, decision.candidate, decision.champion) == ("promote", "c" * 64, "a" * 64)
    alpha = level(0.95, 1.0)
    gone = 1.0 - error_of(0.55, 1.0) / error_of(0.5, 1.0)
    assert told(decision) == [
        ("evidence", True, "keep", alpha, pytest.approx(alpha)),
        ("at least", True, "keep", 0.55, 0.4),
        ("baseline", True, "keep", 0.18, 0.0),
        ("shuffled", True, "keep", 0.25, 0.0),
        ("champion", True, "keep", 0.02, 0.01),
        ("slices", True, "keep", 0.02, 0.0),
        ("latency", True, "keep", 1.5, 2.0),
        ("size", True, "keep", 2.0, 3.0),
        ("consistent", True, "hold", 0.0, 0.0),
        ("too good", True, "hold", gone, 0.8),
        ("holdout budget", True, "hold", 1.0, 50.0),
    ]
    assert [one.reason for one in decision.checks] == [
        "Judged by f1_macro on 400 held-out rows.",
        "f1_macro of 0.550 reaches the 0.400 that gate.at_least asks for.",
        "Better than the baseline: f1_macro 0.550 against 0.330, and the gain's lower bound is 0.180.",
        (
            "Better than guessing, its own answers shuffled: f1_macro 0.550 against 0.250, and the gain's lower bound "
            "is 0.250."
        ),
        (
            "Better than the champion: f1_macro 0.550 against 0.500, and the gain's lower bound is 0.020, above the "
            "0.010 asked."
        ),
        "None of 1 slices is worse beyond doubt; the lowest is country is FR (120 rows): f1_macro 0.310 against 0.440.",
        "1.5 ms for one row is within the budget of 2.",
        "2 MB is within the budget of 3.",
        (
            "Asked again, the same rows got the same answers: 4,096 with the rows shuffled and 158 alone or in small "
            "pieces."
        ),
        "10% of the champion's error is gone.",
        "Comparison number 1 on these held-out rows, made at the level 0.03; 50 are allowed.",
    ]


def test_a_decision_lists_every_check_that_fails():
    policy = Policy(
        metric="accuracy", at_least=0.6, min_gain=0.01, max_latency_ms=1.0, max_size_mb=1.0, max_asks=1, too_good=0.1
    )
    facts = evaluation(
        asks=2.0,
        comparisons=(comparison(low=0.01), comparison("baseline", 0.1, 0.0)),
        guessing=(comparison("shuffled", 0.1, -0.1),),
        slices=(slice_score(), slice_score("DE", high=-0.03)),
        consistency=again(2, 3),
    )
    facts = msgspec.structs.replace(facts, scores={**facts.scores, "candidate": score(0.56)})
    decision = decide(facts, policy)
    assert (decision.verdict, decision.candidate, decision.champion) == ("keep", "c" * 64, "a" * 64)
    assert told(decision) == [
        ("evidence", False, "keep", level(0.95, 1.0), pytest.approx(level(0.95, 2.0))),
        ("at least", False, "keep", 0.56, 0.6),
        ("baseline", False, "keep", 0.0, 0.0),
        ("shuffled", False, "keep", -0.1, 0.0),
        ("champion", False, "keep", 0.01, 0.01),
        ("slices", False, "keep", -0.03, 0.0),
        ("latency", False, "keep", 1.5, 1.0),
        ("size", False, "keep", 2.0, 1.0),
        ("consistent", False, "hold", 5 / 4254, 0.0),
        ("too good", False, "hold", pytest.approx(0.12), 0.1),
        ("holdout budget", False, "hold", 2.0, 1.0),
    ]
    by_name = {one.name: one.reason for one in decision.checks}
    assert by_name["slices"].startswith("Worse than the champion where country is DE (120 rows)")
    assert by_name["latency"] == "1.5 ms for one row is over the budget of 1."
    assert by_name["too good"].startswith("Too good to be true: 12% of the champion's error is gone at once. Look for")
    assert by_name["holdout budget"] == (
        "The holdout is worn out: this is comparison number 2 on its rows, and 1 are allowed. Hold out fresh rows."
    )


def test_what_could_not_be_measured_or_compared_fails_with_its_limit():
    facts = evaluation(
        latency_ms=None,
        comparisons=(),
        guessing=(),
        failures={"champion": Failure(kind="failed", reason="it hung.")},
    )
    decision = decide(facts, msgspec.structs.replace(POLICY, max_latency_ms=1.0))
    assert told(decision)[:5] == [
        ("evidence", True, "keep", 0.0, pytest.approx(level(0.95, 1.0))),
        ("baseline", False, "keep", None, None),
        ("shuffled", False, "keep", None, None),
        ("champion", False, "hold", None, None),
        ("latency", False, "keep", None, 1.0),
    ]
    by_name = {one.name: one.reason for one in decision.checks}
    assert by_name["baseline"] == "It was not compared with the baseline."
    assert by_name["shuffled"] == "It was not compared with guessing, its own answers shuffled."
    assert by_name["champion"] == "The champion failed on the held-out rows, so nothing was compared: it hung."
    assert by_name["latency"] == "Its latency was not measured, and the budget is 1 ms for one row."
    gone = msgspec.structs.replace(facts, failures={"champion": Failure(kind="inputs-gone", reason="no bmi.")})
    champion = check(decide(gone, POLICY), "champion")
    assert (champion.passed, champion.on_fail) == (False, "hold")
    assert "nothing was compared: no bmi." in champion.reason


def test_a_first_model_is_measured_by_the_baseline_alone():
    first = evaluation(
        champion=None,
        scores={"candidate": score(0.55), "baseline": score(0.33)},
        comparisons=(comparison("baseline", 0.22, 0.18),),
    )
    decision = decide(first, POLICY)
    assert (decision.champion, told(decision)[3]) == (None, ("champion", True, "keep", None, None))
    found = check(decision, "too good")
    assert (found.observed, found.reason) == (0.0, "Some error is left.")
    assert check(decision, "shuffled").reason.startswith(
        "Better than guessing, its own answers shuffled: f1_macro 0.550 against nan"
    )


def test_approval_is_told_as_a_check():
    asked = decide(evaluation(), msgspec.structs.replace(POLICY, approval=True))
    assert told(asked)[-1] == ("approval", False, "hold", None, None)
    assert asked.reason.startswith("Better than the champion")
    assert asked.reason.endswith("A person's word is asked for (gate.approval).")


def test_a_reason_to_keep_comes_before_a_reason_to_hold():
    """Worn out, at first in the list of doubts, and not better: nobody is called for it."""
    worn = evaluation(asks=101.0, comparisons=(comparison(low=-0.1, alpha=1e-7), comparison("baseline", 0.2, 0.1)))
    assert decide(worn, POLICY).verdict == "keep"


# ---- where exactly the lines are -----------------------------------------------------------------------------------


def test_evidence_at_the_level_asked_for_is_enough_and_a_hundredth_looser_is_not():
    strictest = level(0.95, 1.0) * (1.0 + 1e-9)
    for alpha, passed in ((strictest, True), (1.01 * strictest, False)):
        found = (comparison(alpha=alpha), comparison("baseline", 0.2, 0.1))
        assert check(decide(evaluation(comparisons=found), POLICY), "evidence").passed == passed
    loosest = (comparison(), comparison("baseline", 0.2, 0.1, alpha=0.05))
    reason = check(decide(evaluation(comparisons=loosest), POLICY), "evidence").reason
    assert reason == "Judged at the level 0.05, and the rules ask for 0.03: judge it again."


def test_a_cost_at_its_ceiling_is_low_enough():
    cost = evaluation(metric="m.py:cost", greater_is_better=False)
    decision = decide(cost, Policy(metric="m.py:cost", at_least=0.55))
    assert check(decision, "at least").passed
    assert check(decision, "at least").reason == "cost of 0.550 reaches the 0.550 that gate.at_least asks for."
    assert check(decision, "too good").reason == "What a perfect cost would be is not known: not judged."
    assert told(decision)[-2] == ("too good", True, "hold", None, None)


@pytest.mark.parametrize(
    ("differing", "alpha", "words"),
    [
        (5, 0.5**5, "the gain's lower bound is -0.010"),
        (5, 0.5**5 * 0.99, "they differ on 5 rows only, too few to prove anything at the level 0.031"),
        (1, 0.03, "they differ on 1 row only, too few to prove anything at the level 0.03"),
        (2, 0.03, "they differ on 2 rows only, too few"),
    ],
)
def test_two_to_the_minus_differing_rows_is_the_smallest_level(differing, alpha, words):
    few = comparison(gain=0.01, low=-0.01, differing=differing, alpha=alpha)
    reason = check(decide(evaluation(comparisons=(few, comparison("baseline", 0.2, 0.1))), POLICY), "champion").reason
    assert f"Not better than the champion: f1_macro 0.550 against 0.500, and {words}" in reason
    proven = comparison(gain=0.03, low=0.01, differing=1)
    reason = check(decide(evaluation(comparisons=(proven,)), POLICY), "champion").reason
    assert reason.endswith("the gain's lower bound is 0.010.")


def test_slices_at_the_line():
    """Thirty rows are judged; an upper bound of nothing is no proof of harm; the lowest of many is named."""
    assert decide(evaluation(slices=(slice_score(rows=30),)), POLICY).verdict == "keep"
    level_with = decide(evaluation(slices=(slice_score(high=0.0),)), POLICY)
    assert level_with.verdict == "promote"
    assert check(level_with, "slices").observed == 0.0
    small = check(decide(evaluation(slices=(slice_score(rows=29), slice_score(rows=3))), POLICY), "slices")
    assert (small.passed, small.on_fail, small.observed, small.required) == (True, "keep", None, None)
    assert small.reason == "None of the 2 slices has 30 rows: shown, not judged."
    several = (slice_score("DE", high=0.3), slice_score("FR", high=0.1), slice_score("IT", high=-0.5, rows=29))
    best = check(decide(evaluation(slices=several), POLICY), "slices")
    assert (best.observed, "country is FR" in best.reason, "None of 2" in best.reason) == (0.1, True, True)


@pytest.mark.parametrize(("length", "shown"), [(40, "x" * 40), (41, "x" * 39 + "…")])
def test_long_values_of_a_slice_are_cut(length, shown):
    found = check(decide(evaluation(slices=(slice_score("x" * length),)), POLICY), "slices")
    assert f"country is {shown} (120 rows)" in found.reason


@pytest.mark.parametrize(
    ("asked", "different", "share"), [((1, 0), (1, 0), 1.0), ((0, 0), (0, 0), 0.0), ((3, 1), (0, 1), 0.25)]
)
def test_the_share_of_answers_that_change(asked, different, share):
    facts = Consistency(
        asked=dict(zip(("order", "alone"), asked, strict=True)),
        different=dict(zip(("order", "alone"), different, strict=True)),
        largest=None,
        tolerance=1e-5,
    )
    assert check(decide(evaluation(consistency=facts), POLICY), "consistent").observed == share


@pytest.mark.parametrize(
    ("metric", "champion", "candidate", "gone", "passed"),
    [
        ("f1_macro", 0.5, 0.75, 0.5, False),
        ("f1_macro", 0.5, 0.74, pytest.approx(0.48), True),
        ("f1_macro", 1.0, 0.9, 0.0, True),
        ("f1_macro", 0.5, 0.4, pytest.approx(-0.2), True),
        ("neg_mean_absolute_error", -1.5e-12, -1e-12, 1.0, False),
        ("neg_mean_absolute_error", -1.5e-12, -1.1e-12, pytest.approx(1 - 1.1 / 1.5), True),
        ("neg_mean_absolute_error", -4.0, -0.5, pytest.approx(0.875), False),
    ],
)
def test_how_much_of_the_champions_error_is_gone(metric, champion, candidate, gone, passed):
    scores = {**evaluation().scores, "candidate": score(candidate), "champion": score(champion)}
    found = check(decide(evaluation(metric=metric, scores=scores), Policy(metric=metric, too_good=0.5)), "too good")
    assert (found.observed, found.passed) == (gone, passed)
    if champion == 0.5 and candidate == 0.4:
        assert found.reason == "0% of the champion's error is gone."
    if gone == 1.0:
        assert found.reason.startswith(f"Too good to be true: no error at all on 400 rows ({metric}). Look for")


def test_the_size_is_in_millions_of_bytes():
    found = check(decide(evaluation(size_bytes=2_345_678), msgspec.structs.replace(POLICY, max_size_mb=2.0)), "size")
    assert (found.observed, found.reason) == (2.345678, "2.35 MB is over the budget of 2.")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.01, "0.010"),
        (0.00999, "0.00999"),
        (-0.5, "-0.500"),
        (99.9, "99.900"),
        (100.0, "100"),
        (-123.456, "-123"),
        (1.0, "1.000"),
    ],
)
def test_a_figure(value, shown):
    assert figure(value) == shown


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        (0.5, 0.51, ("0.500", "0.510")),
        (0.5, 0.5001, ("0.5000", "0.5001")),
        (0.5, 0.50001, ("0.50000", "0.50001")),
        (0.5, 0.500001, ("0.500000", "0.500001")),
        (0.5, 0.5000001, ("0.500", "0.500")),
        (1e-9, 2e-9, ("1e-09", "2e-09")),
        (99_999.5, 1.0, ("99999.500", "1.000")),
        (1.0, 100_000.0, ("1", "100000")),
        (-100_000.0, 1.0, ("-100000", "1")),
        (123_456.7, 1.0, ("123457", "1")),
    ],
)
def test_two_figures(one, other, shown):
    assert figures(one, other) == shown


# ---- what fresh rows would have shown ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "differing", "freedom"),
    [
        (None, 300, 299),
        (None, 2, 1),
        (None, 1, 1),
        (None, 3, 2),
        (2, 300, 1),
        (3, 300, 2),
        (400, 4, 3),
        (150, 300, 149),
    ],
)
@pytest.mark.parametrize("asks", [1.0, 1.5, 2.0, 30.0])
def test_fresh_rows_would_have_done_where_students_t_at_the_first_level_says_so(units, differing, freedom, asks):
    """The distance from gain to bound shrinks by the ratio of the two cuts: just above it the reason says so."""
    alpha = level(0.95, asks)
    ratio = stats.t.isf(level(0.95, 1.0), freedom) / stats.t.isf(alpha, freedom)
    for share, fresh in ((1.001, True), (0.999, False)):
        gain = 0.04 * ratio * share
        one = comparison(gain=gain, low=gain - 0.04, differing=differing, alpha=alpha)
        found = (one, comparison("baseline", 0.22, 0.18, alpha=alpha))
        facts = evaluation(comparisons=found, asks=asks, edition=2, units=units)
        reason = check(decide(facts, POLICY), "champion").reason
        assert ("a first question would have passed" in reason) == (fresh and one.low <= 0.0)


def test_a_level_of_one_half_has_no_first_question():
    """Student's t at 0.5 is 0: it would promise that any gain passes."""
    one = comparison(gain=0.02, low=-0.04, alpha=0.125)
    facts = evaluation(comparisons=(one, comparison("baseline", 0.2, 0.1)), asks=2.0, edition=2, units=400)
    assert "first question" not in check(decide(facts, POLICY), "champion").reason


def test_rows_beyond_counting_are_not_promised():
    """Four hundred rows, a reach of 0.06 and 0.84 standard errors of 0.01: 1e9 rows at a gain of 4.326e-5."""
    for gain, promised in ((4.33e-5, True), (4.32e-5, False)):
        reason = decide(hopeful(gain=gain, low=gain - 0.06), POLICY).reason
        assert ("about 1,000,000,000 rows would show it" in reason) == promised
        assert ("were this one real" in reason) == promised


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
