import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.answer import predict
from interlock.answer.guard import FAULTS, Constancy, Limits, check_of, constancy_limit, sieve_of
from interlock.answer.predict import Seat
from interlock.data.profile import ColumnProfile, Profile
from interlock.errors import StoreFault, UserCodeFailed
from interlock.model.rows import answers_of
from interlock.records import Output, Signature

LIMITS = Limits()
LABELS = check_of(Output(kind="label", type="str", classes=("no", "yes")), LIMITS)
NUMBERS = check_of(Output(kind="number", type="float", low=10.0, high=30.0), LIMITS)


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (("yes", (0.25, 0.75)), None),
        (("yes", None), None),
        (("yes", (1.0 + 1e-7, -1e-7)), None),
        (("yes", (0.25, 0.74)), "probabilities"),
        (("yes", (1.5, -0.5)), "probabilities"),
        (("yes", (math.nan, 1.0)), "probabilities"),
        (("yes", (1.0, math.nan)), "probabilities"),
        (("yes", (math.inf, -math.inf)), "probabilities"),
        (("yes", (1.0,)), "probabilities"),
        (("maybe", (0.25, 0.75)), "class"),
        ((1, (0.25, 0.75)), "type"),
        ((None, None), "type"),
        ((["yes"], None), "type"),
    ],
)
def test_labels(given, cause):
    assert LABELS(given) == cause


def test_a_boolean_is_no_class_of_whole_numbers():
    check = check_of(Output(kind="label", type="int", classes=(0, 1)), LIMITS)
    assert check((1, None)) is None
    assert check((True, None)) == "type"
    assert check((1.0, None)) == "type"


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (20.0, None),
        (-10.0, None),
        (50.0, None),
        (-10.001, "range"),
        (50.001, "range"),
        (math.nan, "not-finite"),
        (math.inf, "not-finite"),
        (-math.inf, "not-finite"),
        (20, "type"),
        ("20", "type"),
        (None, "type"),
    ],
)
def test_numbers_may_reach_as_far_beyond_the_range_of_training_as_it_is_wide(value, cause):
    assert NUMBERS((value, None)) == cause


def test_without_a_reach_or_a_range_any_finite_number_will_do():
    for output, limits in (
        (Output(kind="number", type="float", low=0.0, high=1.0), Limits(reach=None)),
        (Output(kind="number", type="float"), LIMITS),
    ):
        check = check_of(output, limits)
        assert check((1.7e308, None)) is None
        assert check((math.inf, None)) == "not-finite"
    exact = check_of(Output(kind="number", type="float", low=0.0, high=1.0), Limits(reach=0.0))
    assert exact((1.0, None)) is None
    assert exact((1.0000001, None)) == "range"


@pytest.mark.parametrize("kind", ["text", "ranking", "any"])
def test_texts_rankings_and_the_rest(kind):
    check = check_of(Output(kind=kind, type="str"), LIMITS)
    good = {"text": "t", "ranking": ["a", "b"], "any": {"x": [1.0, "y"]}}[kind]
    assert check((good, {"score": 0.5, "list": [1.0]})) is None
    assert check((good, {"score": math.nan})) in ("not-finite", "type")
    assert check((None, None)) == "type"
    assert check(StoreFault("no")) == "raised"


def test_rankings_hold_something_of_the_type_of_the_target():
    check = check_of(Output(kind="ranking", type="int"), LIMITS)
    assert check(([1, 2], None)) is None
    assert check(([], None)) == "type"
    assert check((["1"], None)) == "type"


def test_anything_holds_no_number_that_json_lacks():
    check = check_of(None, LIMITS)
    assert check(([{"x": (1.0, math.nan)}], None)) == "not-finite"


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        ("raised", "raised"),
        ("exited", "died"),
        ("killed", "died"),
        ("deadline", "deadline"),
        ("memory", "memory"),
        ("nonsense", "type"),
    ],
)
@pytest.mark.parametrize("check", [LABELS, NUMBERS])
def test_an_error_is_told_by_its_cause(check, cause, told):
    assert check(UserCodeFailed("no", cause=cause)) == told
    assert told in FAULTS


# ---- constancy ---------------------------------------------------------------------------------------------------


def test_one_answer_to_different_records_is_noticed_after_the_limit():
    seen = Constancy(3)
    told = [seen.sees((place,), ("yes", (0.25, 0.75))) for place in range(6)]
    assert told == [False, False, False, True, True, True]
    assert not seen.sees((7,), ("no", (0.75, 0.25)))
    assert not seen.sees((8,), ("no", (0.75, 0.25)))


def test_the_same_record_again_is_no_evidence():
    seen = Constancy(3)
    assert not any(seen.sees((1,), ("yes", None)) for _ in range(100))


def reference(**fields):
    return Profile(rows=100, columns=(ColumnProfile(name="prediction", type="str", count=100, **fields),))


@settings(deadline=None)
@given(st.integers(1, 99))
def test_the_limit_is_beyond_chance(most):
    limit = constancy_limit(reference(categories={"a": most, "b": 100 - most}))
    share = max(most, 100 - most) / 100
    assert limit >= 50
    assert share**limit <= 1e-12
    assert limit == 50 or share ** (limit - 1) > 1e-12


def test_a_model_that_was_constant_on_its_holdout_may_be_so():
    assert constancy_limit(reference(categories={"a": 100})) is None
    assert constancy_limit(Profile(rows=0, columns=())) is None
    binned = Profile(rows=9, columns=(ColumnProfile(name="probability_0", type="float", count=100, bins=(0, 50, 50)),))
    assert constancy_limit(binned) == 50


# ---- many at once ------------------------------------------------------------------------------------------------

SHARES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 1.0 + 1e-7, -1e-7, 1.00009, 1.5, -0.5, math.nan, math.inf])
LABELLED = st.lists(st.tuples(st.sampled_from(["no", "yes", "perhaps", None]), SHARES, SHARES), max_size=40)
NUMBERED = st.lists(st.sampled_from([10.0, 20.0, -10.0, 50.0, 50.1, math.nan, math.inf, None]), max_size=40)


def labelled(found):
    schema = {"prediction": pl.String, "probability_0": pl.Float64, "probability_1": pl.Float64}
    return pl.DataFrame(found, schema=schema, orient="row")


@pytest.fixture(autouse=True, scope="module")
def _a_few_are_many():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "_MANY", 16)
        yield


def seat_of(output, limit=None):
    return Seat(
        tier="champion",
        model="m" * 64,
        signature=Signature(inputs=(), output=output),
        check=check_of(output, LIMITS),
        sieve=sieve_of(output, LIMITS),
        constancy=None if limit is None else Constancy(limit),
    )


@settings(max_examples=80, deadline=None)
@given(found=LABELLED, good=st.lists(st.sampled_from([("no", 0.75, 0.25), ("yes", 0.25, 0.75)]), min_size=16))
@pytest.mark.parametrize("shares", [True, False])
def test_many_labels_are_judged_as_each_is(shares, found, good):
    output = Output(kind="label", type="str", classes=("no", "yes"))
    for frame in (labelled([*good, *found]), labelled(good)):
        answers = answers_of(frame if shares else frame.select("prediction"), frame.height)
        one_by_one = [LABELS(each) for each in answers]
        assert seat_of(output).judged([()] * len(answers), answers) == one_by_one
        assert seat_of(output).judged([()] * len(answers), list(answers)) == one_by_one
        assert sieve_of(output, LIMITS)(list(answers)) == sieve_of(output, LIMITS)(answers)
        if sieve_of(output, LIMITS)(answers):
            assert not any(one_by_one)
        elif not any(one_by_one):  # the sieve may doubt what is good, only at the edge of the slack
            assert any(abs(sum(each[1] or (1.0,)) - 1.0) > 9e-5 for each in answers)


@settings(max_examples=80, deadline=None)
@given(found=NUMBERED)
def test_many_numbers_are_judged_as_each_is(found):
    output = Output(kind="number", type="float", low=10.0, high=30.0)
    answers = answers_of(
        pl.DataFrame({"prediction": [20.0] * 16 + found}, schema={"prediction": pl.Float64}), 16 + len(found)
    )
    one_by_one = [NUMBERS(each) for each in answers]
    assert seat_of(output).judged([()] * len(answers), answers) == one_by_one
    assert sieve_of(output, LIMITS)(answers) == (not any(one_by_one))
    assert seat_of(output).judged([()] * len(answers), list(answers)) == one_by_one
    assert sieve_of(output, LIMITS)(list(answers)) == (not any(one_by_one))


@pytest.mark.parametrize("odd", [UserCodeFailed("no"), ("no", None), ("no", (0.5,)), ("no", ("a", "b")), (None, None)])
def test_a_list_with_something_else_in_it_is_left_to_the_check(odd):
    sieve = sieve_of(Output(kind="label", type="str", classes=("no", "yes")), LIMITS)
    good = [("no", (0.75, 0.25)), ("yes", (0.25, 0.75))]
    assert sieve(good)
    assert not sieve([*good, odd])


def test_a_column_of_another_type_is_left_to_the_check():
    labels = sieve_of(Output(kind="label", type="int", classes=(0, 1)), LIMITS)
    assert labels(answers_of(pl.DataFrame({"prediction": [0, 1]}), 2))
    assert not labels(answers_of(pl.DataFrame({"prediction": [0.0, 1.0]}), 2))
    assert not labels(answers_of(pl.DataFrame({"prediction": [True, False]}), 2))
    numbers = sieve_of(Output(kind="number", type="float"), LIMITS)
    assert not numbers(answers_of(pl.DataFrame({"prediction": [1, 2]}), 2))
    assert sieve_of(Output(kind="text", type="str"), LIMITS) is None
    assert sieve_of(None, LIMITS) is None


@settings(max_examples=80, deadline=None)
@given(
    calls=st.lists(
        st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["no", "no", "no", "yes"])), min_size=16, max_size=60),
        max_size=5,
    )
)
@pytest.mark.parametrize("kind", [lambda answers: answers, list])
def test_runs_are_counted_over_many_as_over_each(kind, calls):
    output = Output(kind="label", type="str", classes=("no", "yes"))
    seat, scalar = seat_of(output, limit=12), Constancy(12)
    for call in calls:
        rows = [(row,) for row, _ in call]
        answers = kind(answers_of(pl.DataFrame({"prediction": [label for _, label in call]}), len(call)))
        expected = ["constant" if scalar.sees(row, each) else None for row, each in zip(rows, answers, strict=True)]
        assert seat.judged(rows, answers) == expected
        assert (seat.constancy._run, seat.constancy._answer, seat.constancy._row) == (
            scalar._run,
            scalar._answer,
            scalar._row,
        )


@pytest.mark.parametrize("labels", [pl.String(), pl.Enum(["no", "yes"]), pl.Enum(["yes"]), pl.Enum(["yes", "perhaps"])])
def test_labels_that_are_categories_are_known_by_them(labels):
    sieve = sieve_of(Output(kind="label", type="str", classes=("no", "yes")), LIMITS)
    answers = answers_of(pl.DataFrame({"prediction": pl.Series(["yes"] * 3, dtype=labels)}), 3)
    assert sieve(answers) == (not isinstance(labels, pl.Enum) or "perhaps" not in labels.categories)


@pytest.mark.parametrize("classes", [tuple(range(3)), tuple(range(40))])
def test_a_number_that_is_no_class_is_found_among_few_and_many(classes):
    sieve = sieve_of(Output(kind="label", type="int", classes=classes), LIMITS)
    assert sieve(answers_of(pl.DataFrame({"prediction": [0, 2, 1]}), 3))
    assert not sieve(answers_of(pl.DataFrame({"prediction": [0, 2, 41]}), 3))


def test_a_long_run_at_the_end_of_categories_is_remembered():
    seat, labels = seat_of(Output(kind="label", type="str", classes=("no", "yes")), limit=50), pl.Enum(["no", "yes"])
    answers = answers_of(pl.DataFrame({"prediction": pl.Series(["yes"] * 20 + ["no"] * 44, dtype=labels)}), 64)
    rows = [(place,) for place in range(64)]
    assert seat.judged(rows, answers) == [None] * 64
    assert seat.constancy._run == 43
    assert seat.judged([(place,) for place in range(64, 128)], answers)[0] is None
    more = answers_of(pl.DataFrame({"prediction": pl.Series(["no"] * 64, dtype=labels)}), 64)
    assert "constant" in seat.judged(rows, more)
