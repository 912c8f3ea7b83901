import warnings
from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as peer
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import SettingsError
from interlock.release.resample import generator
from interlock.release.score import METRICS, Answers, Metric, Problem, Undefined

TASKS = ("classification", "regression", "forecast")

LABEL_PEERS = {
    "accuracy": peer.accuracy_score,
    "balanced_accuracy": peer.balanced_accuracy_score,
    "matthews_corrcoef": peer.matthews_corrcoef,
    **{
        f"{name}_{average}": lambda t, p, score=score, average=average: score(t, p, average=average, zero_division=0)
        for name, score in (("f1", peer.f1_score), ("precision", peer.precision_score), ("recall", peer.recall_score))
        for average in ("macro", "micro", "weighted")
    },
}
NUMBER_PEERS = {
    "r2": peer.r2_score,
    "neg_mean_squared_error": lambda t, p: -peer.mean_squared_error(t, p),
    "neg_root_mean_squared_error": lambda t, p: -peer.root_mean_squared_error(t, p),
    "neg_mean_absolute_error": lambda t, p: -peer.mean_absolute_error(t, p),
    "neg_mean_absolute_percentage_error": lambda t, p: -peer.mean_absolute_percentage_error(t, p),
    "neg_median_absolute_error": lambda t, p: -peer.median_absolute_error(t, p),
}


def labelled(truth, *answers, classes=None, probabilities=()):
    classes = classes or int(max(np.max(truth), *(np.max(a) for a in answers))) + 1
    chances = list(probabilities) or [None] * len(answers)
    return Problem(
        answers=tuple(Answers(labels=np.asarray(a), probabilities=c) for a, c in zip(answers, chances, strict=True)),
        classes=tuple(range(classes)),
        codes=np.asarray(truth),
    )


def numbers(truth, *answers, scale=None):
    return Problem(
        answers=tuple(Answers(numbers=np.asarray(a, dtype=float)) for a in answers),
        numbers=np.asarray(truth, dtype=float),
        scale=scale,
    )


codes = st.integers(2, 4).flatmap(
    lambda k: st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=1, max_size=40)
)


@pytest.mark.parametrize("name", LABEL_PEERS)
@given(pairs=codes)
@settings(max_examples=20, deadline=None)
def test_metrics_of_labels_equal_scikit_learns(name, pairs):
    truth, answer = map(np.array, zip(*pairs, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = LABEL_PEERS[name](truth, answer)
    assert METRICS[name].values(labelled(truth, answer, classes=4))[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
@given(pairs=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
@settings(max_examples=20, deadline=None)
def test_binary_metrics_are_those_of_the_greater_label(name, pairs):
    truth, answer = map(np.array, zip(*pairs, strict=True))
    score = getattr(peer, f"{name}_score")
    expected = score(truth, answer, zero_division=0, pos_label=1)
    assert METRICS[name].values(labelled(truth, answer, classes=2))[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", NUMBER_PEERS)
@given(
    pairs=st.lists(
        st.tuples(st.floats(-1e3, 1e3, allow_subnormal=False), st.floats(-1e3, 1e3, allow_subnormal=False)),
        min_size=3,
        max_size=40,
    )
)
@settings(max_examples=20, deadline=None)
def test_metrics_of_numbers_equal_scikit_learns(name, pairs):
    truth, answer = map(np.array, zip(*pairs, strict=True))
    truth = truth + np.arange(len(truth))  # never constant
    expected = NUMBER_PEERS[name](truth, answer)
    assert METRICS[name].values(numbers(truth, answer))[0] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def chances(rng, truth, classes, sharpness=1.0):
    raw = rng.exponential(size=(len(truth), classes)) + sharpness * (truth[:, None] == np.arange(classes))
    return np.round(raw / raw.sum(axis=1, keepdims=True), 2) + 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_probabilities_equal_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, 60)
    two = chances(rng, truth, 2)
    two /= two.sum(axis=1, keepdims=True)
    binary = labelled(truth, truth, probabilities=[two])
    assert METRICS["roc_auc"].values(binary)[0] == pytest.approx(peer.roc_auc_score(truth, two[:, 1]))
    assert METRICS["roc_auc_ovr"].values(binary)[0] == pytest.approx(peer.roc_auc_score(truth, two[:, 1]))
    assert METRICS["average_precision"].values(binary)[0] == pytest.approx(
        peer.average_precision_score(truth, two[:, 1])
    )
    assert METRICS["neg_brier_score"].values(binary)[0] == pytest.approx(-peer.brier_score_loss(truth, two[:, 1]))
    assert METRICS["neg_log_loss"].values(binary)[0] == pytest.approx(-peer.log_loss(truth, two))
    truth = np.r_[0, 1, 2, 0, 1, 2, rng.integers(0, 3, 60)]
    three = chances(rng, truth, 3)
    three /= three.sum(axis=1, keepdims=True)
    many = labelled(truth, truth, probabilities=[three])
    assert METRICS["roc_auc_ovr"].values(many)[0] == pytest.approx(peer.roc_auc_score(truth, three, multi_class="ovr"))
    assert METRICS["neg_log_loss"].values(many)[0] == pytest.approx(-peer.log_loss(truth, three))
    assert METRICS["neg_brier_score"].values(many)[0] == pytest.approx(-peer.brier_score_loss(truth, three))


def test_a_class_that_a_model_was_sure_could_not_be_costs_a_finite_loss():
    sure = np.array([[1.0, 0.0], [1.0, 0.0]])
    value = METRICS["neg_log_loss"].values(labelled([0, 1], [0, 0], probabilities=[sure]))[0]
    assert value == pytest.approx(-peer.log_loss([0, 1], sure))


def test_forecast_errors():
    problem = numbers([10.0, 0.0, 30.0], [12.0, 0.0, 24.0], scale=4.0)
    assert METRICS["neg_mase"].values(problem) == (pytest.approx(-(2 + 0 + 6) / 3 / 4),)
    assert METRICS["neg_smape"].values(problem) == (pytest.approx(-(2 * 2 / 22 + 0 + 2 * 6 / 54) / 3),)
    with pytest.raises(Undefined, match="never changes"):
        METRICS["neg_mase"].values(numbers([1.0], [1.0], scale=0.0))


def perfect_and_poor(metric: Metric):
    rng = np.random.default_rng(3)
    if metric.truth == "labels":
        truth = np.r_[0, 0, 1, 1, rng.integers(0, 2, 30)]
        right, wrong = np.eye(2)[truth], np.eye(2)[1 - truth]
        return labelled(truth, truth, 1 - truth, probabilities=[right, wrong])
    truth = rng.normal(size=30)
    return numbers(truth, truth, truth + 1 + rng.random(30), scale=1.0)


@pytest.mark.parametrize("name", METRICS)
def test_more_is_better_and_the_best_is_known(name):
    metric = METRICS[name]
    perfect, poor = metric.values(perfect_and_poor(metric))
    assert perfect == pytest.approx(metric.best)
    assert poor < perfect


def middling(metric: Metric):
    rng = np.random.default_rng(4)
    if metric.truth == "labels":
        truth = rng.integers(0, 2, 60)
        answers = [np.where(rng.random(60) < 0.7, truth, 1 - truth) for _ in range(2)]
        return labelled(truth, *answers, probabilities=[chances(rng, truth, 2) for _ in range(2)])
    truth = rng.normal(size=60)
    return numbers(truth, truth + rng.normal(size=60), truth + rng.normal(size=60), scale=1.0)


@pytest.mark.parametrize("name", METRICS)
def test_resampling_brackets_the_estimate_and_repeats_bit_for_bit(name):
    metric = METRICS[name]
    problem = middling(metric)
    one = metric.joint(problem, generator(7), 200)
    two = metric.joint(problem, generator(7), 200)
    assert one.covariance.tobytes() == two.covariance.tobytes()
    if one.draws is not None:
        assert one.draws.tobytes() == two.draws.tobytes()
        assert one.draws.tobytes() != metric.joint(problem, generator(8), 200).draws.tobytes()
        assert np.all(one.draws.min(axis=1) <= one.estimates + 1e-12)
        assert np.all(one.draws.max(axis=1) >= one.estimates - 1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_rows_on_which_answers_differ_are_counted(name):
    problem = perfect_and_poor(METRICS[name])
    assert METRICS[name].differing(problem, 0, 1) == problem.rows
    assert METRICS[name].differing(problem, 0, 0) == 0


def test_undefined_is_said_not_guessed():
    with pytest.raises(Undefined, match="no finite value"):
        METRICS["r2"].values(numbers([2.0, 2.0], [1.0, 2.0]))
    with pytest.raises(Undefined, match="two rows of each class"):
        METRICS["roc_auc"].values(labelled([1, 1], [1, 1], classes=2, probabilities=[np.full((2, 2), 0.5)]))
    with pytest.raises(Undefined, match="no rows"):
        METRICS["accuracy"].values(labelled(np.array([], dtype=int), np.array([], dtype=int), classes=2))
    with pytest.raises(Undefined, match="positive"):
        METRICS["average_precision"].values(labelled([0, 0], [0, 0], classes=2, probabilities=[np.full((2, 2), 0.5)]))


def test_slices_keep_the_classes():
    problem = labelled([0, 1, 2, 2], [0, 1, 1, 2])
    part = problem.where(np.array([False, False, True, True]))
    assert part.rows == 2
    assert METRICS["accuracy"].values(part) == (0.5,)


def test_names_are_scikit_learns():
    known = set(peer.get_scorer_names())
    assert set(METRICS) - known == {"neg_smape", "neg_mase"}


def test_a_metric_of_two_classes_names_the_one_for_many():
    with pytest.raises(SettingsError, match="'roc_auc_ovr'"):
        METRICS["roc_auc"].values(labelled([0, 1, 2], [0, 1, 2]))
    with pytest.raises(SettingsError, match="'f1_macro'"):
        METRICS["f1"].values(labelled([0, 1, 2], [0, 1, 2]))
    with pytest.raises(SettingsError, match="needs probabilities"):
        METRICS["neg_log_loss"].values(labelled([0, 1], [0, 1]))


def test_the_rows_of_a_slice_keep_their_groups_numbered_without_gaps():
    problem = replace(numbers([1.0, 2.0, 3.0, 4.0], [1, 2, 3, 5]), groups=np.array([0, 1, 2, 2]))
    part = problem.where(np.array([True, False, True, True]))
    assert part.groups.tolist() == [0, 1, 1]
    assert part.numbers.tolist() == [1.0, 3.0, 4.0]
    assert part.answers[0].numbers.tolist() == [1.0, 3.0, 5.0]
    chances = labelled([0, 1, 1], [0, 1, 1], probabilities=[np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])])
    assert chances.where(np.array([True, False, True])).answers[0].probabilities.tolist() == [[0.9, 0.1], [0.3, 0.7]]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_counts_rows_of_one_key_as_one(name):
    """Six copies of each row, by key, spread like the rows; taken one by one they would spread far less."""
    metric = METRICS[name]
    single = middling(metric)
    copies = np.repeat(np.arange(60), 6)
    many = replace(single.reordered(copies), groups=copies)
    many = replace(
        many, **{k: getattr(single, k)[copies] for k in ("codes", "numbers") if getattr(single, k) is not None}
    )
    alone, by_key = (metric.joint(one, generator(3), 1000) for one in (single, many))
    assert by_key.estimates == pytest.approx(alone.estimates)
    assert by_key.units == alone.units
    assert np.sqrt(by_key.covariance[0, 0]) == pytest.approx(np.sqrt(alone.covariance[0, 0]), rel=0.25)
    assert metric.differing(many, 0, 1) == metric.differing(single, 0, 1)


def test_one_model_alone_and_answers_dealt_anew():
    problem = numbers([1.0, 2.0, 3.0], [1, 2, 3], [3, 2, 1])
    assert METRICS["neg_mean_absolute_error"].values(problem.only(1)) == pytest.approx((-4 / 3,))
    dealt = problem.reordered(np.array([2, 1, 0]))
    assert METRICS["neg_mean_absolute_error"].values(dealt) == pytest.approx((-4 / 3, 0.0))
    assert dealt.numbers.tolist() == [1.0, 2.0, 3.0]


def test_r2_of_a_target_far_from_zero_and_of_a_tiny_one():
    truth = np.random.default_rng(0).normal(size=50)
    answer = truth + 0.1
    for scale, shift in ((1.0, 1e3), (1e-7, 0.0)):
        mine = METRICS["r2"].values(numbers(scale * truth + shift, scale * answer + shift))[0]
        assert mine == pytest.approx(peer.r2_score(truth, answer))


def test_a_class_of_two_rows_has_a_curve_and_one_of_one_has_none():
    up = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    for name in ("roc_auc", "roc_auc_ovr"):
        assert METRICS[name].values(labelled([0, 0, 1, 1], [0, 0, 1, 1], probabilities=[up])) == (1.0,)
    with pytest.raises(Undefined, match="two rows of each class"):
        METRICS["roc_auc"].values(labelled([0, 0, 0, 1], [0, 0, 0, 1], probabilities=[up]))
    with pytest.raises(Undefined, match="two rows of each class"):
        METRICS["roc_auc"].values(labelled([0, 1, 1, 1], [0, 1, 1, 1], probabilities=[up]))


def test_a_metric_that_lacks_probabilities_names_itself_and_a_way_out():
    for name in ("neg_log_loss", "neg_brier_score", "roc_auc", "average_precision"):
        with pytest.raises(SettingsError, match=f"^{name} needs probabilities") as told:
            METRICS[name].values(labelled([0, 1, 0, 1], [0, 1, 0, 1]))
        assert told.value.facts["metric"] == name
        assert "predict_proba" in told.value.next_step


# ---- to the letter -----------------------------------------------------------------------------------------------


@given(
    rows=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=12),
    name=st.sampled_from(["average_precision", "neg_median_absolute_error"]),
)
@settings(max_examples=60, deadline=None)
def test_a_weight_is_a_number_of_copies(rows, name):
    """Weighting rows by 0, 1, 2 … gives what the metric gives on so many copies of them, ties included."""
    truth, level, weights = (np.array(column) for column in zip(*rows, strict=True))
    truth[0], weights[0] = 1, max(weights[0], 1)
    up = level / 4.0
    problem = labelled(truth, truth, classes=2, probabilities=[np.stack([1 - up, up], axis=1)])
    if name == "neg_median_absolute_error":
        problem = numbers(truth, up)
    copies = np.repeat(np.arange(len(truth)), weights)
    statistic = METRICS[name].statistic(problem, problem.answers[0])
    weighted = statistic(weights[None, :].astype(float))[0]
    if name == "average_precision":
        expected = peer.average_precision_score(truth[copies], up[copies])
    else:
        expected = -peer.median_absolute_error(truth[copies], up[copies])
    assert weighted == pytest.approx(expected)
    none = statistic(np.where(truth == 1, 0.0, 1.0)[None, :]) if name == "average_precision" else np.array([np.nan])
    assert np.isnan(none[0])


def test_the_number_of_rows_is_that_of_the_truth():
    assert numbers([1.0, 2.0, 3.0], [1, 2, 3]).rows == 3
    assert labelled([0, 1], [0, 1]).rows == 2
    assert Problem(answers=()).rows == 0
    ranked = Problem(answers=(), codes=np.array([1, 2]), numbers=np.array([1.0]))
    assert ranked.rows == 2


def test_rows_of_every_kind_of_answer_can_be_taken():
    everything = Answers(
        labels=np.array([0, 1]),
        probabilities=np.eye(2),
        numbers=np.array([0.5, 1.5]),
        ranking=np.array([[1, 2], [3, 4]]),
        tokens=np.array([[5, 6], [7, 8]]),
    )
    taken = everything.where(np.array([1]))
    assert taken.labels.tolist() == [1]
    assert taken.probabilities.tolist() == [[0.0, 1.0]]
    assert taken.numbers.tolist() == [1.5]
    assert taken.ranking.tolist() == [[3, 4]]
    assert taken.tokens.tolist() == [[7, 8]]
    text = Problem(answers=(everything,), codes=np.array([0, 1]), tokens=np.array([[9], [8]]), groups=np.array([4, 7]))
    part = text.where(np.array([False, True]))
    assert (part.codes.tolist(), part.tokens.tolist(), part.groups.tolist(), part.numbers) == ([1], [[8]], [0], None)
    assert part.answers[0].tokens.tolist() == [[7, 8]]
    assert Problem(answers=(Answers(),), numbers=np.array([1.0, 2.0])).where(np.array([True, False])).codes is None


def test_what_is_undefined_names_its_metric_and_the_rows():
    with pytest.raises(Undefined, match="r2 has no finite value on these 2 rows") as told:
        METRICS["r2"].values(numbers([2.0, 2.0], [1.0, 2.0]))
    assert told.value.facts["metric"] == "r2"
    with pytest.raises(Undefined, match="accuracy has no value: there are no rows"):
        METRICS["accuracy"].values(labelled(np.array([], dtype=int), np.array([], dtype=int), classes=2))
    nobody = labelled([0, 0], [0, 0], classes=2, probabilities=[np.full((2, 2), 0.5)])
    for name in ("roc_auc", "roc_auc_ovr", "average_precision"):
        with pytest.raises(Undefined, match=f"^{name} has no value") as told:
            METRICS[name].values(nobody)
        assert told.value.facts["metric"] == name
    for name, instead in (
        ("f1", "f1_macro"),
        ("precision", "precision_macro"),
        ("recall", "recall_macro"),
        ("roc_auc", "roc_auc_ovr"),
        ("average_precision", "roc_auc_ovr"),
    ):
        three = labelled([0, 1, 2], [0, 1, 2], probabilities=[np.eye(3)])
        with pytest.raises(SettingsError, match=f"^{name} is for two classes, and there are 3") as told:
            METRICS[name].values(three)
        assert told.value.facts["metric"] == name
        assert told.value.next_step == f"Set gate.metric to '{instead}'."


def test_tallies_by_numbers():
    """Right, answered and true members of three classes; the third is neither answered nor true."""
    right, answered, true = (np.array([row], dtype=float) for row in ([2, 1, 0], [4, 1, 0], [3, 2, 0]))
    known = {
        "accuracy": 3 / 5,
        "balanced_accuracy": (2 / 3 + 1 / 2) / 2,
        "precision_macro": (2 / 4 + 1) / 2,
        "precision_weighted": (3 * 2 / 4 + 2 * 1) / 5,
        "recall_macro": (2 / 3 + 1 / 2) / 2,
        "recall_weighted": 3 / 5,
        "f1_macro": (4 / 7 + 2 / 3) / 2,
        "f1_weighted": (3 * 4 / 7 + 2 * 2 / 3) / 5,
        "f1_micro": 3 / 5,
        "matthews_corrcoef": (3 * 5 - (4 * 3 + 1 * 2)) / np.sqrt((25 - 17) * (25 - 13)),
    }
    for name, value in known.items():
        assert METRICS[name].tally(right, answered, true) == pytest.approx([value]), name
    two = tuple(one[:, :2] for one in (right, answered, true))
    for name, value in (("precision", 1.0), ("recall", 0.5), ("f1", 2 / 3)):
        assert METRICS[name].tally(*two) == pytest.approx([value]), name


def test_losses_by_numbers():
    chances = np.array([[0.25, 0.75], [0.5, 0.5]])
    two = labelled([1, 0], [1, 0], probabilities=[chances])
    assert METRICS["neg_log_loss"].values(two)[0] == pytest.approx((np.log(0.75) + np.log(0.5)) / 2)
    assert METRICS["neg_brier_score"].values(two)[0] == pytest.approx(-(0.25**2 + 0.5**2) / 2)
    three = labelled([2, 0], [1, 0], probabilities=[np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])])
    assert METRICS["neg_brier_score"].values(three)[0] == pytest.approx(-(0.04 + 0.09 + 0.25) / 2)
    flat = numbers([0.0, 4.0], [1.0, 1.0])
    assert METRICS["neg_mean_absolute_percentage_error"].values(flat)[0] == pytest.approx(
        -peer.mean_absolute_percentage_error([0.0, 4.0], [1.0, 1.0])
    )
    assert METRICS["neg_smape"].values(flat)[0] == pytest.approx(-(2.0 + 2 * 3 / 5) / 2)
    perfect = METRICS["neg_mean_absolute_error"].values(numbers([1.0, 2.0], [1.0, 2.0]))[0]
    assert str(perfect) == "0.0"
    assert str(METRICS["neg_root_mean_squared_error"].values(numbers([1.0, 2.0], [1.0, 2.0]))[0]) == "0.0"


def test_a_metric_knows_what_truth_it_needs():
    kinds = {"labels": "labels", "probabilities": "labels", "numbers": "numbers"}
    assert {metric.truth for metric in METRICS.values() if metric.reads == "probabilities"} == {"labels"}
    assert all(metric.truth == kinds[metric.reads] for metric in METRICS.values())


def test_the_greater_label_of_one_is_that_one():
    assert METRICS["f1"].values(labelled([0, 0], [0, 0], classes=1)) == (1.0,)


def test_r2_by_the_means_of_a_resample():
    """Means of y, y squared and squared error: of a resample the first is not 0, however the rows were centred."""
    finish = METRICS["r2"].finish
    found = finish(np.array([[0.5, 1.0, 0.2], [0.0, 1e-3, 1e10], [1.0, 1.0, 0.5]]))
    assert found[0] == pytest.approx(1.0 - 0.2 / 0.75)
    assert found[1] == pytest.approx(1.0 - 1e13)
    assert np.isnan(found[2])


def test_r2_looks_at_the_target_from_its_middle():
    """A target of 1e8 and a few hundredths: its squares alone have no digit left for the hundredths."""
    rng = np.random.default_rng(0)
    small = rng.normal(size=500) * 0.05
    far = numbers(1e8 + small, 1e8 + small * 0.5)
    near = numbers(small, small * 0.5)
    assert METRICS["r2"].values(far)[0] == pytest.approx(METRICS["r2"].values(near)[0], rel=1e-6)
