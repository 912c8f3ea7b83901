import numpy as np
import polars as pl
import pytest

from interlock.errors import UserCodeFailed
from interlock.release.consistency import TOLERANCE, measure
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
