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
    affordable,
    by_cells,
    by_ranks,
    by_sums,
    by_weights,
    from_draws,
    generator,
    group_count,
    in_groups,
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


# ---- to the letter -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "resamples", "fewer"),
    [
        (10_000, 2_000, 2_000),
        (20_000, 2_000, 1_000),
        (20_001, 2_000, 999),
        (1_000_000, 2_000, 200),
        (1_000_000, 50, 50),
        (1, 2_000, 2_000),
        (0, 30_000_000, 20_000_000),
    ],
)
def test_twenty_million_weights_are_affordable_and_two_hundred_resamples_always(rows, resamples, fewer):
    assert affordable(rows, resamples) == fewer
    assert isinstance(affordable(rows, resamples), int)


def test_resamples_are_drawn_in_pieces_of_bounded_size(monkeypatch):
    assert list(resample._chunks(5, 1 << 20)) == [(0, 2), (2, 4), (4, 5)]
    assert list(resample._chunks(3, 1 << 30)) == [(0, 1), (1, 2), (2, 3)]
    assert list(resample._chunks(3, 0)) == [(0, 3)]
    assert list(resample._chunks(0, 7)) == []
    truth, answers = two_answers(3, 60)
    whole = by_cells(Labels(truth, answers, 3), accuracy, generator(0), 40)
    weighted = by_weights([averaged(truth[:, None])], 60, generator(0), 40)
    monkeypatch.setattr(resample, "_CELLS_AT_ONCE", 300)
    pieces = by_cells(Labels(truth, answers, 3), accuracy, generator(0), 40)
    assert np.isfinite(pieces.draws).all()
    assert pieces.draws.shape == whole.draws.shape == (2, 40)
    again = by_weights([averaged(truth[:, None])], 60, generator(0), 40)
    assert again.draws.tobytes() == weighted.draws.tobytes()


def test_every_way_names_itself_and_counts_its_units():
    rng = np.random.default_rng(0)
    truth, answers = np.array([0, 1, 1, 0]), [np.array([0, 1, 0, 0]), np.array([1, 1, 0, 0])]
    groups = np.array([0, 0, 1, 2])
    losses = [rng.exponential(size=(4, 1)) for _ in range(2)]
    known = [
        (by_cells(Labels(truth, answers, 2), accuracy, generator(0), 9), "bootstrap, multinomial over 4 cells", 4),
        (
            by_cells(Labels(truth, answers, 2, groups), accuracy, generator(0), 9),
            "bootstrap, 9 resamples, whole groups of rows",
            3,
        ),
        (by_sums(losses, mean, generator(0), 9), "bootstrap, multinomial weights", 4),
        (by_sums(losses, mean, generator(0), 9, groups), "bootstrap, multinomial weights, whole groups of rows", 3),
        (by_ranks(np.array([[True], [True], [False], [False]]), losses), "DeLong", 2),
        (by_weights([averaged(x) for x in losses], 4, generator(0), 9), "bootstrap, 9 resamples of rows", 4),
        (
            by_weights([averaged(x) for x in losses], 4, generator(0), 9, groups),
            "bootstrap, 9 resamples of rows, whole groups of rows",
            3,
        ),
    ]
    for joint, method, units in known:
        assert (joint.method, joint.units) == (method, units)
        assert joint.estimates.shape == (2,)
        assert joint.covariance.shape == (2, 2)
        assert joint.draws is None if method == "DeLong" else joint.draws.shape == (2, 9)
    assert by_cells(Labels(truth, answers, 2, groups), accuracy, generator(0), 0).draws.shape == (2, 0)


def test_the_covariance_of_draws_by_numbers():
    draws = np.array([[1.0, 2.0, 6.0, np.inf], [0.0, 4.0, 5.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    joint = from_draws(np.zeros(3), draws, 7, "named", draws)
    assert joint.covariance == pytest.approx(np.cov(draws[:, :3]))
    assert (joint.units, joint.method) == (7, "named")
    assert joint.draws is draws
    assert joint.influence is draws
    two = from_draws(np.zeros(3), draws[:, :2], 7, "")
    assert two.covariance == pytest.approx(np.cov(draws[:, :2]))
    for few in (draws[:, :1], draws[:, 3:], draws[:, :0]):
        assert from_draws(np.zeros(3), few, 7, "").covariance.tolist() == np.zeros((3, 3)).tolist()


def test_the_influence_of_a_row_is_the_slope_of_the_metric():
    """For a ratio of means x / y: (x_i - (x / y) y_i) / y; a component that never changes has no influence."""
    rng = np.random.default_rng(1)
    parts = np.stack([rng.exponential(size=40), 2.0 + rng.random(40), np.full(40, 3.0)], axis=1)
    joint = by_sums([parts, parts + 1.0], lambda m: m[:, 2] * m[:, 0] / m[:, 1], generator(0), 10)
    for model, values in enumerate((parts, parts + 1.0)):
        x, y, z = values.mean(axis=0)
        expected = z * ((values[:, 0] - x) / y - (values[:, 1] - y) * x / y**2)
        assert joint.influence[model] == pytest.approx(expected, rel=1e-5)


def test_normal_means_have_the_moments_of_the_means_and_repeat(monkeypatch):
    """Means and covariances of 20,000 draws are those of the bootstrap, a column that never changes included."""
    monkeypatch.setattr(resample, "EXACT_ROWS", 99)
    rng = np.random.default_rng(2)
    one = np.stack([5.0 + rng.normal(size=100), np.full(100, 2.0)], axis=1)
    two = np.stack([one[:, 0] + 0.3 * rng.normal(size=100), 1e-3 * rng.normal(size=100)], axis=1)
    joint = by_sums([one, two], lambda m: m[:, 0] * 1.0, generator(0), 20_000)
    assert joint.method == "bootstrap, normal means"
    exact = np.cov(np.stack([one[:, 0], two[:, 0]]), bias=True) / 100
    assert joint.covariance == pytest.approx(exact, rel=0.05)
    assert joint.draws.mean(axis=1) == pytest.approx([one[:, 0].mean(), two[:, 0].mean()], abs=4e-3)
    second = by_sums([one, two], lambda m: m[:, 1] * 1.0, generator(0), 20_000)
    assert second.draws[0] == pytest.approx(np.full(20_000, 2.0), abs=1e-12)
    assert second.draws[1].std() == pytest.approx(two[:, 1].std() / 10.0, rel=0.03)
    assert abs(np.corrcoef(joint.draws[0], second.draws[1])[0, 1]) < 0.25
    again = by_sums([one, two], lambda m: m[:, 0] * 1.0, generator(0), 20_000)
    assert again.draws.tobytes() == joint.draws.tobytes()
    monkeypatch.setattr(resample, "EXACT_ROWS", 100)
    assert by_sums([one, two], mean, generator(0), 10).method == "bootstrap, multinomial weights"
    monkeypatch.setattr(resample, "EXACT_ROWS", 0)
    none = by_sums([one, two], mean, generator(0), 0)
    assert none.draws.shape == (2, 0)
    assert none.estimates == pytest.approx([one[:, 0].mean(), two[:, 0].mean()])


def test_weights_are_counts_of_a_draw_of_rows_or_groups():
    for groups, count in ((None, 6), (np.array([0, 0, 1, 2, 2, 2]), 3)):
        seen = list(resample._weights(6, generator(0), 50, groups))
        assert [(start, stop) for start, stop, _ in seen] == [(0, 50)]
        weights = seen[0][2]
        assert weights.shape == (50, 6)
        firsts = weights if groups is None else weights[:, [0, 2, 3]]
        assert np.array_equal(firsts.sum(axis=1), np.full(50, count))
        assert weights.min() == 0.0
        if groups is not None:
            assert np.array_equal(weights[:, 0], weights[:, 1])
            assert np.array_equal(weights[:, 3], weights[:, 5])


def test_several_questions_about_the_same_rows_are_averaged():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 90)
    positive = truth[:, None] == np.arange(3)
    scores = [rng.random((90, 3)) + 0.5 * positive for _ in range(2)]
    joint = by_ranks(positive, scores)
    single = [by_ranks(positive[:, [k]], [score[:, [k]] for score in scores]) for k in range(3)]
    assert joint.estimates == pytest.approx(np.mean([one.estimates for one in single], axis=0))
    influence = np.mean([one.influence for one in single], axis=0)
    assert joint.influence == pytest.approx(influence)
    assert joint.covariance == pytest.approx(influence @ influence.T)
    assert joint.units == min(np.bincount(truth))


def test_ranks_of_groups_count_groups_of_either_kind():
    positive = np.array([[True], [True], [True], [False], [False], [False]])
    score = np.array([[0.9], [0.8], [0.2], [0.5], [0.1], [0.3]])
    joint = by_ranks(positive, [score], np.array([0, 0, 1, 1, 2, 3]))
    assert joint.units == 2
    alone = by_ranks(positive, [score])
    assert joint.influence[0] == pytest.approx(np.bincount([0, 0, 1, 1, 2, 3], weights=alone.influence[0]))


def test_cells_are_the_joint_answers_that_occur(monkeypatch):
    truth, answers = np.array([0, 2, 2, 0, 2]), [np.array([1, 0, 0, 1, 2]), np.array([1, 1, 1, 1, 0])]
    for limit in (1 << 20, 1):
        monkeypatch.setattr(resample, "_CELLS_BY_COUNT", limit)
        counts, members = resample._cells(truth, answers, 3)
        cells = {
            (truth[row], *(int(answer[row]) for answer in answers)): int(count)
            for count, row in zip(counts, members, strict=True)
        }
        assert cells == {(0, 1, 1): 2, (2, 0, 1): 2, (2, 2, 0): 1}
        assert counts.dtype == np.int64


@pytest.mark.parametrize("rows", [23, 24])
def test_three_cells_are_drawn_by_multinomial_from_24_rows_on(rows, monkeypatch):
    """Either way each draw has as many rows as there are, and as many of a cell as its share, in the mean."""
    counts = np.array([rows - 12, 8, 4])
    drawn = resample._drawn_cells(counts, rows, 4000, generator(0))
    assert np.array_equal(drawn.sum(axis=1), np.full(4000, rows))
    assert drawn.mean(axis=0) == pytest.approx(counts, abs=0.2)
    expected = rows * (np.diag(counts / rows) - np.outer(counts, counts) / rows**2)
    assert np.cov(drawn.T) == pytest.approx(expected, abs=0.5)
    assert resample._drawn_cells(counts, rows, 2, generator(0)).shape == (2, 3)


def test_areas_by_numbers():
    """Three of four pairs in order, one of them half: the area of each row's place among the other kind."""
    area, influence = resample._influence(np.array([True, True, False, False]), np.array([0.9, 0.4, 0.4, 0.1]))
    assert area == pytest.approx(3.5 / 4)
    assert influence == pytest.approx(np.array([0.125, -0.125, -0.125, 0.125]) / np.sqrt(2))


def test_a_group_is_counted_once_and_sums_are_by_group():
    groups = np.array([1, 0, 1])
    assert (group_count(groups, 3), group_count(None, 3), group_count(np.array([], dtype=np.int64), 0)) == (2, 3, 0)
    values = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    assert in_groups(values, groups).tolist() == [[2.0, 20.0], [4.0, 40.0]]


def all_of_them(means):
    """A metric that would notice a component too many, or one too few."""
    return means.sum(axis=1)


def test_each_model_is_finished_with_its_own_components_alone():
    rng = np.random.default_rng(4)
    one, other = rng.normal(1.0, 0.1, (60, 2)), rng.normal(5.0, 0.1, (60, 2))
    joint = by_sums([one, other], all_of_them, generator(1), 50)
    assert joint.estimates == pytest.approx([one.mean(axis=0).sum(), other.mean(axis=0).sum()])
    assert joint.draws.mean(axis=1) == pytest.approx(joint.estimates, abs=0.1)


def test_groups_are_finished_with_means_over_rows():
    rng = np.random.default_rng(5)
    values, groups = rng.normal([1.0, 7.0], 0.1, (60, 2)), np.repeat(np.arange(20), [1, 5] * 10)
    joint = by_sums([values, 2.0 * values], all_of_them, generator(1), 50, groups)
    whole = values.mean(axis=0).sum()
    assert joint.estimates == pytest.approx([whole, 2.0 * whole])
    assert joint.draws.mean(axis=1) == pytest.approx([whole, 2.0 * whole], rel=0.02)


def test_a_row_that_is_ranked_well_raises_the_area_and_the_rarer_kind_counts():
    positive = np.array([True] * 8 + [False] * 2)
    score = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 0.0, 2.0, 1.0])
    joint = by_ranks(positive[:, None], [score[:, None]])
    assert joint.units == 2
    assert joint.influence[0, 0] > 0.0 > joint.influence[0, 7]
