from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import DataRefused
from interlock.model.entry import Entry
from interlock.model.fit import Rows, Task
from interlock.tuning.folds import split


@settings(deadline=None)
@given(st.integers(20, 300), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_drawn_folds_cover_every_row_once_and_never_mix(height: int, folds: int, seed: int) -> None:
    cut = split(height, None, folds, seed)
    assert len(cut) == folds
    assert sorted(np.concatenate([valid for _, valid in cut])) == list(range(height))
    for fit, valid in cut:
        assert sorted([*fit, *valid]) == list(range(height))


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=20, max_size=200), st.integers(1, 5))
def test_folds_in_time_are_later_than_what_was_learnt_from(times: list[int], folds: int) -> None:
    order = pl.Series(times)
    for fit, valid in split(len(times), order, folds, 0):
        assert not set(fit) & set(valid)
        assert order[fit].max() <= order[valid].min()


@pytest.mark.parametrize("ordered", [False, True])
def test_one_fold_is_the_split_that_a_training_function_gets(ordered: bool, tmp_path: Path) -> None:
    times = [(number * 37) % 101 for number in range(101)]
    frame = pl.DataFrame({"x": range(101), "t": times, "y": range(101)})
    frame.write_parquet(tmp_path / "rows.parquet")
    entry = Entry(path="train.py", function="train", module="train", search=".")
    task = Task(
        code="", entry=entry, rows=str(tmp_path / "rows.parquet"), features=("x",), target="y",
        order="t" if ordered else "", params={}, seed=5, model_dir="", data_dir="", needs_predict=False,
    )  # fmt: skip
    given_to_training = Rows(task, splits=True).parts
    ((fit, valid),) = split(101, frame["t"] if ordered else None, 1, 5)
    assert given_to_training[0]["x"].to_list() == frame["x"][fit].to_list()
    assert given_to_training[1]["x"].to_list() == frame["x"][valid].to_list()


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataRefused, match="2 training rows are too few"):
        split(2, None, 3, 0)
