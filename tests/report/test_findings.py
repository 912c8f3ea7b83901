"""Truth against answer as counts."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.report.findings import OTHER, SMALL, calibration_error, confusion, rebin, reliability, residuals


def test_confusion_counts_truth_by_answer() -> None:
    found = confusion(pl.Series(["a"] * 10 + ["b"] * 6), pl.Series(["a"] * 9 + ["b"] + ["b"] * 4 + ["a"] * 2))
    assert found.labels == ("a", "b")
    assert found.counts == ((9, 1), (2, 4))


def test_rare_classes_and_unknown_answers_are_folded() -> None:
    found = confusion(pl.Series(["a"] * 10 + ["rare"] * (SMALL - 1)), pl.Series(["new"] * 10 + ["a"] * (SMALL - 1)))
    assert found.labels == ("a", OTHER)
    assert found.counts == ((0, 10), (SMALL - 1, 0))


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")), max_size=200))
def test_confusion_keeps_every_row(rows: list[tuple[str, str]]) -> None:
    truth, answer = (
        pl.Series([true for true, _ in rows], dtype=pl.String),
        pl.Series([a for _, a in rows], dtype=pl.String),
    )
    assert sum(map(sum, confusion(truth, answer, most=3).counts)) == len(rows)


def test_a_calibrated_model_lies_on_the_diagonal() -> None:
    rng = np.random.default_rng(1)
    predicted = rng.random(20_000)
    truth = (rng.random(20_000) < predicted).astype(float)
    found = reliability(truth, predicted)
    assert len(found.rows) == 10
    assert sum(found.rows) == 20_000
    assert found.observed == pytest.approx(found.predicted, abs=0.04)
    assert calibration_error(found) < 0.02
    assert calibration_error(reliability(truth, np.full(20_000, 0.9))) > 0.3


def test_too_few_rows_make_no_bin() -> None:
    assert reliability(np.ones(SMALL - 1), np.ones(SMALL - 1)).rows == ()
    assert calibration_error(reliability(np.ones(2), np.ones(2))) == 0.0
    assert residuals(np.ones(SMALL - 1), np.ones(SMALL - 1)) is None


def test_residuals_count_every_row_and_skip_missing_ones() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(0, 1, 1_000)
    truth[:7] = np.nan
    found = residuals(truth, np.zeros(1_000))
    assert found is not None
    assert sum(found.counts) + found.below + found.above == 993
    assert 0 < found.below + found.above <= 12


def test_residuals_of_a_constant_gap_have_width() -> None:
    found = residuals(np.full(50, 3.0), np.full(50, 1.0))
    assert found is not None
    assert found.edges[0] < 2.0 < found.edges[-1]
    assert sum(found.counts) == 50


def test_rebin_spreads_bins_and_keeps_piles_where_they_are() -> None:
    assert rebin((0, 1, 1, 2), (10, 50, 10), bins=4).counts == (5, 5, 55, 5)
    assert rebin((3, 3), (7,)).counts == (7,)
    assert rebin((), ()) is None
    assert rebin((0, 1), (0,)) is None


def test_rebin_leaves_a_long_tail_out_and_says_how_much() -> None:
    found = rebin((0, 1, 2, 1_000), (500, 497, 3), bins=4)
    assert found.edges[-1] <= 2.0
    assert found.above >= 3
    assert sum(found.counts) + found.below + found.above == pytest.approx(1_000, abs=4)


@settings(max_examples=60)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30),
    st.data(),
)
def test_rebin_keeps_the_rows(edges: list[float], data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 10_000), min_size=len(edges) - 1, max_size=len(edges) - 1))
    found = rebin(sorted(edges), counts)
    if sum(counts) == 0:
        assert found is None
        return
    assert found is not None
    assert min(found.counts) >= 0
    # every bin is rounded on its own
    assert sum(found.counts) + found.below + found.above == pytest.approx(sum(counts), abs=len(found.counts) / 2 + 1)
