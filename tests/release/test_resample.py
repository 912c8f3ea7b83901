import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interlock.release import resample
from interlock.release.bounds import paired_gain, percentiles
from interlock.release.resample import (
    Labels,
    by_cells,
    by_ranks,
    by_sums,
    by_weights,
    from_draws,
    generator,
    midranks,
)


def accuracy(right, answered, true):
    del answered
    return right.sum(axis=1) / true.sum(axis=1)


def mean(means):
    return means[:, 0]


def two_answers(seed, rows, classes=3, skill=(0.6, 0.6)):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, rows)
    answers = [np.where(rng.random(rows) < s, truth, rng.integers(0, classes, rows)) for s in skill]
    return truth, answers


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
def test_midranks(values):
    assert np.array_equal(midranks(np.array(values, dtype=float)), stats.rankdata(values))


@pytest.mark.parametrize("classes", [3, 40])
def test_cells_have_the_variation_of_the_plain_bootstrap(classes):
    """Few cells are drawn by multinomial, many (40 labels) row by row: both are the bootstrap of rows."""
    truth, answers = two_answers(1, 400, classes)
    joint = by_cells(Labels(truth, answers, classes), accuracy, generator(0), 4000)
    hits = np.stack([answer == truth for answer in answers]).astype(float)
    assert joint.estimates == pytest.approx(hits.mean(axis=1))
    exact = np.cov(hits, bias=True) / 400
    assert joint.covariance == pytest.approx(exact, rel=0.12, abs=3e-5)


def test_tallies_are_those_of_each_class():
    truth, answers = np.array([0, 0, 1, 2, 2, 2]), [np.array([0, 1, 1, 2, 0, 2])]
    seen = []

    def spy(right, answered, true):
        seen.append((right[0].tolist(), answered[0].tolist(), true[0].tolist()))
        return right[:, 0]

    by_cells(Labels(truth, answers, 4), spy, generator(0), 1)
    assert seen[0] == ([1, 1, 2, 0], [2, 2, 2, 0], [2, 1, 3, 0])


def test_sums_have_the_variation_of_the_plain_bootstrap():
    rng = np.random.default_rng(2)
    losses = [rng.exponential(size=(300, 1)) for _ in range(2)]
    losses[1] += losses[0]
    exact = np.cov(np.hstack(losses).T, bias=True) / 300
    joint = by_sums(losses, mean, generator(0), 4000)
    assert joint.method == "bootstrap, multinomial weights"
    assert joint.covariance == pytest.approx(exact, rel=0.12)


def test_normal_means_agree_with_exact_weights(monkeypatch):
    rng = np.random.default_rng(3)
    truth = rng.normal(size=3000)
    parts = [np.stack([truth, truth**2, rng.normal(size=3000) ** 2 * s], axis=1) for s in (0.5, 0.6)]

    def r2(means):
        return 1.0 - means[:, 2] / (means[:, 1] - means[:, 0] ** 2)

    exact = by_sums(parts, r2, generator(0), 4000)
    monkeypatch.setattr(resample, "EXACT_ROWS", 0)
    normal = by_sums(parts, r2, generator(1), 4000)
    assert normal.method == "bootstrap, normal means"
    assert normal.covariance == pytest.approx(exact.covariance, rel=0.15)
    for alpha in (0.01, 0.05, 0.5):
        near = paired_gain(exact, 0, 1, alpha=alpha, differing=3000)
        other = paired_gain(normal, 0, 1, alpha=alpha, differing=3000)
        assert other.low == pytest.approx(near.low, abs=4e-3)


def test_ranks_give_delongs_published_variance():
    """Against DeLong's formula written out with loops: the paper's equations (4) to (6)."""
    rng = np.random.default_rng(4)
    positive = rng.random(60) < 0.4
    scores = [np.round(positive + rng.normal(size=60), 1) for _ in range(2)]
    structural = []
    for score in scores:
        kernel = [[(x > y) + 0.5 * (x == y) for y in score[~positive]] for x in score[positive]]
        structural.append((np.mean(kernel, axis=1), np.mean(kernel, axis=0)))
    expected = (
        np.cov([s[0] for s in structural]) / positive.sum() + np.cov([s[1] for s in structural]) / (~positive).sum()
    )
    joint = by_ranks(positive[:, None], [score[:, None] for score in scores])
    assert joint.estimates == pytest.approx([s[0].mean() for s in structural])
    assert joint.covariance == pytest.approx(expected)


def test_weights_are_the_plain_bootstrap():
    values = np.random.default_rng(5).exponential(size=200)
    joint = by_weights([lambda w: (w * values).sum(axis=1) / w.sum(axis=1)], 200, generator(0), 4000)
    assert joint.estimates[0] == pytest.approx(values.mean())
    assert joint.covariance[0, 0] == pytest.approx(values.var() / 200, rel=0.12)


def test_undefined_draws_count_for_nothing():
    draws = np.array([[1.0, np.nan, 3.0], [2.0, 5.0, 4.0]])
    joint = from_draws(np.array([2.0, 3.0]), draws, 10, "")
    assert joint.covariance == pytest.approx(np.array([[2.0, 2.0], [2.0, 2.0]]))
    assert percentiles(draws[0], 0.05) == (1.0, 3.0)


def test_many_labels_do_not_overflow_the_cells():
    truth, answers = two_answers(8, 2000, classes=3000)
    joint = by_cells(Labels(truth, [*answers, answers[0]], 3000), accuracy, generator(0), 20)
    assert joint.estimates == pytest.approx([(a == truth).mean() for a in (*answers, answers[0])])
    assert np.array_equal(joint.draws[0], joint.draws[2])


@pytest.mark.parametrize("rows", [50, 10_000])
def test_two_seeds_differ_and_one_repeats(rows):
    truth, answers = two_answers(9, rows)
    one, same, other = (by_cells(Labels(truth, answers, 3), accuracy, generator(s), 50).draws for s in (1, 1, 2))
    assert one.tobytes() == same.tobytes()
    assert one.tobytes() != other.tobytes()
    assert generator(1, 0).random() != generator(1, 1).random()


def test_two_thousand_resamples_of_ten_thousand_rows_are_quick():
    """Promised: 0.3 s. The bound here leaves room for a busy machine, yet a loop over resamples would not pass."""
    truth, answers = two_answers(10, 10_000)
    rng = np.random.default_rng(0)
    losses = [rng.exponential(size=(10_000, 1)) for _ in range(2)]
    started = time.process_time()
    by_cells(Labels(truth, answers, 3), accuracy, generator(0), 2000)
    by_sums(losses, mean, generator(0), 2000)
    by_ranks((truth == 0)[:, None], losses)
    assert time.process_time() - started < 0.9


# ---- rows that belong together -----------------------------------------------------------------------------------


def copied(times, *arrays):
    """Every row ``times`` times over, and the group of each."""
    return [np.repeat(array, times, axis=0) for array in arrays], np.repeat(np.arange(len(arrays[0])), times)


def averaged(values):
    return lambda weights: (weights * values[:, 0]).sum(axis=1) / weights.sum(axis=1)


def test_copies_of_rows_prove_no_more_than_the_rows():
    """Each family: five copies of a row, in one group, give the variation of the row alone."""
    rng = np.random.default_rng(6)
    truth, answers = two_answers(6, 150)
    losses = [rng.exponential(size=(150, 1)) for _ in range(2)]
    (many_truth, *many), groups = copied(5, truth, *answers, *losses)
    alone = [
        by_cells(Labels(truth, answers, 3), accuracy, generator(0), 4000),
        by_sums(losses, mean, generator(0), 4000),
        by_ranks((truth == 0)[:, None], losses),
        by_weights([averaged(x) for x in losses], 150, generator(0), 4000),
    ]
    together = [
        by_cells(Labels(many_truth, many[:2], 3, groups), accuracy, generator(1), 4000),
        by_sums(many[2:], mean, generator(1), 4000, groups),
        by_ranks((many_truth == 0)[:, None], many[2:], groups),
        by_weights(
            [lambda w, x=x[:, 0]: (w * x).sum(axis=1) / w.sum(axis=1) for x in many[2:]],
            750,
            generator(1),
            4000,
            groups,
        ),
    ]
    for one, other in zip(alone, together, strict=True):
        assert other.estimates == pytest.approx(one.estimates)
        spread = np.sqrt(np.diag(one.covariance))
        assert np.abs(other.covariance - one.covariance).max() < 0.12 * spread.max() ** 2
        assert other.units == one.units
        assert other.method.endswith("whole groups of rows")


def test_groups_of_one_row_change_nothing():
    rng = np.random.default_rng(7)
    losses = [rng.exponential(size=(80, 1)) for _ in range(2)]
    own = np.arange(80)
    truth, answers = two_answers(7, 80)
    plain, grouped = (by_sums(losses, mean, generator(0), 50, groups) for groups in (None, own))
    assert grouped.draws == pytest.approx(plain.draws)
    assert grouped.influence == pytest.approx(plain.influence)
    ranks, by_key = (by_ranks((truth == 0)[:, None], losses, groups) for groups in (None, own))
    assert by_key.covariance == pytest.approx(ranks.covariance)
    assert by_key.units == ranks.units
    grouped = by_cells(Labels(truth, answers, 3, own), accuracy, generator(0), 4000)
    cells = by_cells(Labels(truth, answers, 3), accuracy, generator(0), 4000)
    assert grouped.covariance == pytest.approx(cells.covariance, abs=0.1 * cells.covariance[0, 0])


def test_groups_of_unlike_size_weigh_as_many_rows_as_they_have():
    values = np.array([[1.0], [1.0], [1.0], [5.0]])
    joint = by_sums([values], mean, generator(0), 500, np.array([0, 0, 0, 1]))
    assert joint.estimates == pytest.approx([2.0])
    assert set(np.round(joint.draws[0], 6)) == {1.0, 2.0, 5.0}
    assert joint.units == 2
