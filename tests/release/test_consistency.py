import numpy as np
import polars as pl
import pytest

from interlock.errors import UserCodeFailed
from interlock.release import consistency
from interlock.release.consistency import TOLERANCE, measure
from interlock.release.resample import generator
from interlock.testing.clock import ManualClock


def rows(count=300, seed=0):
    return pl.DataFrame({"x": np.random.default_rng(seed).normal(size=count)})


def asked_again(model, held=None, clock=None):
    held = rows() if held is None else held

    def ask(frame):
        answer = model(frame)
        return answer if isinstance(answer, pl.DataFrame) else pl.DataFrame({"prediction": answer})

    return measure(ask, held, ask(held), 0, clock or ManualClock())


def label(x):
    return np.where(x > 0, "up", "down")


def test_a_function_of_the_row_is_consistent():
    for model in (lambda f: 2.0 * f["x"].to_numpy(), lambda f: label(f["x"].to_numpy())):
        found = asked_again(model)
        assert found.different == {"order": 0, "alone": 0}
        assert found.asked == {"order": 300, "alone": 7 + 7 + 7 + 64 + 64 + 9}
        assert not found.largest


def test_answers_in_another_order_are_found():
    """The holdout happens to be sorted, so that sorted answers fit it; shuffled rows give them away."""
    found = asked_again(lambda f: np.sort(f["x"].to_numpy()), rows().sort("x"))
    assert found.different["order"] > 290
    assert found.largest > 1.0


def test_a_model_that_looks_at_the_batch_is_found():
    def centred(frame):
        return (frame["x"] - frame["x"].mean()).to_numpy()

    found = asked_again(centred)
    assert found.different["order"] == 0
    assert found.different["alone"] == found.asked["alone"]


def test_a_model_that_fills_from_the_row_before_is_found():
    found = asked_again(lambda f: f["x"].shift(1).fill_null(0.0).to_numpy())
    assert found.different["order"] > 290


def test_chance_is_found():
    rng = np.random.default_rng(3)
    found = asked_again(lambda f: np.where(rng.random(f.height) < 0.05, "up", "down"))
    assert 5 < found.different["order"] < 60
    assert found.largest is None


def test_the_last_digits_are_let_pass():
    def noisy(size):
        rng = np.random.default_rng(0)
        return lambda f: 1e6 * (f["x"].to_numpy() + size * rng.uniform(-1, 1, f.height))

    assert sum(asked_again(noisy(0.1 * TOLERANCE)).different.values()) == 0
    assert sum(asked_again(noisy(10 * TOLERANCE)).different.values()) > 100


def test_a_tie_may_fall_either_way_but_nothing_else():
    rng = np.random.default_rng(1)

    def unsure(margin):
        def answer(frame):
            flipped = rng.random(frame.height) < 0.5
            up = np.full(frame.height, 0.5 + margin)
            return pl.DataFrame(
                {"prediction": np.where(flipped, "a", "b"), "probability_0": 1 - up, "probability_1": up}
            )

        return answer

    assert sum(asked_again(unsure(1e-7)).different.values()) == 0
    assert sum(asked_again(unsure(1e-3)).different.values()) > 100


def test_probabilities_that_move_are_found_where_labels_stay():
    def moving(frame):
        up = np.clip(0.8 + 0.1 * frame["x"].mean() * np.ones(frame.height), 0, 1)
        return pl.DataFrame({"prediction": ["up"] * frame.height, "probability_0": 1 - up, "probability_1": up})

    found = asked_again(moving)
    assert found.different["alone"] == found.asked["alone"]
    assert 0.001 < found.largest < 0.5


def test_whole_numbers_must_be_the_same_and_large_labels_are_not_rounded_away():
    rng = np.random.default_rng(2)
    found = asked_again(lambda f: 10**9 + rng.integers(0, 2, f.height))
    assert found.different["order"] > 100
    assert sum(asked_again(lambda f: np.full(f.height, 10**9)).different.values()) == 0


def test_a_model_that_cannot_answer_a_row_alone():
    def needs_many(frame):
        if frame.height < 5:
            raise UserCodeFailed("It raised ValueError: too few rows.", next_step="")
        return frame["x"].to_numpy()

    found = asked_again(needs_many)
    assert found.different == {"order": 0, "alone": 9}  # the nine pieces of one row


@pytest.mark.parametrize("count", [1, 2, 10])
def test_tiny_holdouts(count):
    found = asked_again(lambda f: f["x"].to_numpy(), rows(count))
    assert found.asked == {"order": count, "alone": count}
    assert sum(found.different.values()) == 0


def test_time_is_bounded():
    clock = ManualClock()

    def slow(frame):
        clock.advance(1.0)
        return frame["x"].to_numpy()

    found = asked_again(slow, clock=clock)
    assert found.asked == {"order": 300, "alone": 1 + 1 + 7 + 1}
    large = asked_again(slow, rows(10_000), clock)
    assert large.asked["order"] == 4096


# ---- to the letter -----------------------------------------------------------------------------------------------


def second_time(first, again):
    """Ask for ten rows whose answers were ``first``; whoever asks again gets ``again``, by row."""
    held, answers = pl.DataFrame({"x": np.arange(len(first))}), pl.Series("prediction", again)
    before = pl.DataFrame({"prediction": pl.Series(first)})
    return measure(
        lambda frame: pl.DataFrame({"prediction": answers[frame["x"].to_list()]}), held, before, 0, ManualClock()
    )


def test_a_missing_answer_is_another_answer_and_not_the_largest_difference():
    found = second_time([1.0] * 10, [1.0] * 9 + [None])
    assert found.different == {"order": 1, "alone": 1}
    assert found.largest == 0.0
    infinite = second_time([1.0] * 10, [1.0] * 8 + [float("inf"), float("nan")])
    assert infinite.different == {"order": 2, "alone": 2}
    assert infinite.largest == 0.0


@pytest.mark.parametrize(
    ("first", "apart", "different", "largest"),
    [
        ([3.0, -3.0] * 5, 3.0 * 0.9e-5, 0, 0.9e-5),
        ([3.0, -3.0] * 5, 3.0 * 1.1e-5, 10, 1.1e-5),
        ([0.0] * 10, 0.9e-5, 0, 0.9e-5),
        ([0.0] * 10, TOLERANCE, 0, TOLERANCE),
        ([0.0] * 10, 1.1e-5, 10, 1.1e-5),
        ([float("inf")] + [4.0] * 9, 1.1e-5, 10, 1.1e-5),
        ([1e-3] * 10, 1.1e-8, 10, 1.1e-5),
    ],
)
def test_differences_are_measured_by_the_root_mean_square_of_the_answers(first, apart, different, largest):
    found = second_time(first, [value + apart for value in first])
    assert found.different == {"order": different, "alone": different}
    assert found.largest == pytest.approx(largest, rel=1e-6)


def test_numbers_that_become_words_are_other_answers():
    found = second_time([1.0] * 10, ["1.0"] * 10)
    assert (found.different, found.largest) == ({"order": 10, "alone": 10}, None)
    back = second_time(["1"] * 10, [1] * 10)
    assert (back.different, back.largest) == ({"order": 10, "alone": 10}, None)


def test_whole_numbers_that_become_fractions_are_numbers():
    found = second_time([2] * 10, [2.0] * 9 + [2.5])
    assert (found.different, found.largest) == ({"order": 1, "alone": 1}, 0.5)


def test_rankings_are_compared_place_by_place():
    first = [["a", "b"]] * 10
    found = second_time(first, [*first[:8], ["b", "a"], ["a"]])
    assert (found.different, found.largest) == ({"order": 2, "alone": 2}, None)
    assert second_time(first, ["a"] * 10).different == {"order": 10, "alone": 10}
    assert second_time(["a"] * 10, first).different == {"order": 10, "alone": 10}


def test_answers_too_few_or_too_many_count_for_all_the_rows_of_their_piece():
    def model(frame):
        return frame["x"].to_numpy() if frame.height != 7 else np.zeros(6)

    found = asked_again(model)
    assert found.different == {"order": 0, "alone": 21}
    assert found.largest == 0.0


def test_the_seed_chooses_the_order():
    seen = {}
    for seed in (0, 0, 1):
        orders = []

        def ask(frame, orders=orders):
            orders.append(tuple(frame["x"].to_list()))
            return pl.DataFrame({"prediction": frame["x"]})

        measure(ask, rows(20), rows(20).rename({"x": "prediction"}), seed, ManualClock())
        seen.setdefault(seed, []).append(orders)
        assert sorted(orders[0]) == sorted(rows(20)["x"].to_list())
        assert sum(orders[1:], ()) == orders[0]
        assert [len(one) for one in orders[1:]] == [1, 1, 7, 1, 10]
        own = generator(seed, consistency._STREAM).permutation(20)
        assert orders[0] == tuple(rows(20)["x"].gather(own).to_list())
    assert seen[0][0] == seen[0][1]
    assert seen[0][0] != seen[1][0]


def test_pieces_end_with_the_rows_and_with_the_time():
    """Ten rows are four pieces, and no empty one after; half a second is still in time."""
    sizes = []
    clock = ManualClock()
    clock.advance(100.0)

    def ask(frame):
        sizes.append(frame.height)
        clock.advance(0.125)
        return pl.DataFrame({"prediction": frame["x"]})

    found = measure(ask, rows(10), rows(10).rename({"x": "prediction"}), 0, clock)
    assert sizes == [10, 1, 1, 7, 1]
    assert found.tolerance == TOLERANCE
    sizes.clear()
    measure(ask, rows(300), rows(300).rename({"x": "prediction"}), 0, clock)
    assert sizes == [300, 1, 1, 7, 1, 64]


def unsure(first, again, labels=("a", "b")):
    """Probabilities ``first`` of the second class, then ``again``; the label goes from one to the other."""
    held = pl.DataFrame({"x": range(10)})

    def answers(frame, up, label):
        return pl.DataFrame(
            {"prediction": [label] * frame.height, "probability_0": 1.0 - up, "probability_1": up}
        ).with_columns(pl.col("probability_0", "probability_1").cast(pl.Float64))

    before = answers(held, first, labels[0])
    return measure(lambda frame: answers(frame, again, labels[1]), held, before, 0, ManualClock())


@pytest.mark.parametrize(
    ("first", "again", "different"),
    [
        (0.5, 0.5, 0),
        (0.5 + 0.9e-5, 0.5 + 0.9e-5, 0),
        (0.5 + 1.1e-5, 0.5 + 1.1e-5, 10),
        (0.5, 0.5 + 0.9e-5, 0),
        (0.5, 0.5 + 1.1e-5, 10),
    ],
)
def test_a_label_may_change_only_within_the_tolerance_of_a_tie(first, again, different):
    found = unsure(first, again)
    assert found.different == {"order": different, "alone": different}
    assert found.largest == pytest.approx(abs(first - again), abs=1e-12)


def test_one_column_of_probabilities_knows_no_tie():
    held = pl.DataFrame({"x": range(10)})
    before = pl.DataFrame({"prediction": ["a"] * 10, "probability_0": [0.5] * 10, "other": [1.0] * 10})

    def ask(frame):
        return pl.DataFrame({"prediction": ["b"] * frame.height, "probability_0": [0.5] * frame.height})

    found = measure(ask, held, before, 0, ManualClock())
    assert found.different == {"order": 10, "alone": 10}
    fewer = measure(lambda frame: ask(frame).drop("probability_0"), held, before, 0, ManualClock())
    assert (fewer.different, fewer.largest) == ({"order": 10, "alone": 10}, None)


@pytest.mark.parametrize(("chances", "different"), [((0.1, 0.2, 0.7), 10), ((0.2, 0.4, 0.4), 0)])
def test_of_three_classes_the_two_likeliest_may_tie(chances, different):
    held = pl.DataFrame({"x": range(10)})
    columns = {f"probability_{place}": pl.lit(chance) for place, chance in enumerate(chances)}
    before, now = (pl.DataFrame({"prediction": [label] * 10}).with_columns(**columns) for label in "ab")
    found = measure(lambda frame: now.head(frame.height), held, before, 0, ManualClock())
    assert found.different == {"order": different, "alone": different}
