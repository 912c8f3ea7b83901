from datetime import date

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import SettingsError
from interlock.release.slices import EMPTY, FEW_NUMBERS, MOST_VALUES, OTHERS, slice_columns


def sliced(values, training=None, **options):
    holdout = pl.DataFrame({"c": pl.Series(values, **options)})
    rows = holdout if training is None else pl.DataFrame({"c": pl.Series(training, **options)})
    (column,) = slice_columns(rows.lazy(), holdout, ["c"])
    assert column.name == "slice.c"
    return column.to_list()


def test_few_values_are_their_own_slices():
    assert sliced(["DE", None, "FR"]) == ["DE", EMPTY, "FR"]
    assert sliced([True, False, None]) == ["true", "false", EMPTY]
    assert sliced([3, 1, 3]) == ["3", "1", "3"]


def test_numbers_are_cut_at_training_quartiles():
    training = [float(value) for value in range(101)]
    assert sliced([-5.0, 24.9, 25.0, 50.0, 80.0, None, float("nan")], training) == [
        "below 25",
        "below 25",
        "25 to below 50",
        "50 to below 75",
        "75 and above",
        EMPTY,
        EMPTY,
    ]


def test_many_whole_numbers_and_dates_are_cut_too():
    assert set(sliced(list(range(100)))) == {"below 25", "25 to below 50", "50 to below 74", "74 and above"}
    days = [date(2026, 1, day) for day in range(1, 31)]
    assert sliced(days)[0] == "below 2026-01-08"


def test_the_tail_of_many_values_shares_a_slice():
    values = [f"v{number % 80:02}" for number in range(1000)] + ["v00"] * 5
    found = sliced(values)
    assert len(set(found)) == MOST_VALUES
    assert OTHERS in found
    assert found[0] == "v00"


@given(st.lists(st.none() | st.floats(-10, 10), min_size=1, max_size=60))
def test_every_row_is_in_exactly_one_slice(values):
    found = sliced(values, dtype=pl.Float64)
    assert len(found) == len(values)
    assert [label == EMPTY for label in found] == [value is None for value in values]


def test_an_unknown_column_names_the_nearest():
    with pytest.raises(SettingsError, match="Did you mean 'country'"):
        slice_columns(pl.LazyFrame({"country": ["DE"]}), pl.DataFrame({"country": ["DE"]}), ["contry"])


def test_the_limits_belong_to_the_values():
    """Twenty numbers are values, twenty-one are ranges; fifty texts are values, fifty-one share a slice."""
    assert set(sliced(list(range(FEW_NUMBERS)))) == {str(number) for number in range(FEW_NUMBERS)}
    assert len(set(sliced(list(range(FEW_NUMBERS + 1))))) == 4
    texts = [f"v{number:02}" for number in range(MOST_VALUES + 1)]
    assert sliced(texts[:-1]) == texts[:-1]
    assert sliced(texts) == [*texts[: MOST_VALUES - 1], OTHERS, OTHERS]


def test_edges_that_six_digits_do_not_tell_apart_are_written_out():
    training = [1_700_000_000 + number for number in range(101)]
    assert len(set(sliced(training))) == 4
    assert sliced(training)[0] == "below 1700000025"


def test_a_column_without_a_training_value_is_not_cut():
    assert sliced([1.5, 2.5], [None, None], dtype=pl.Float64) == ["1.5", "2.5"]


def test_without_columns_there_is_no_nearest():
    with pytest.raises(SettingsError, match="no column 'c'") as told:
        slice_columns(pl.LazyFrame(), pl.DataFrame(), ["c"])
    assert told.value.next_step == "Mend gate.slices."
    assert told.value.facts["column"] == "c"


def test_the_nearest_column_is_named_with_what_to_mend():
    with pytest.raises(SettingsError, match="no column 'contry' to slice by") as told:
        slice_columns(pl.LazyFrame(), pl.DataFrame({"city": ["x"], "country": ["DE"]}), ["contry"])
    assert told.value.next_step == "Did you mean 'country'? Mend gate.slices."
    assert told.value.facts["column"] == "contry"
    with pytest.raises(SettingsError) as told:
        slice_columns(pl.LazyFrame(), pl.DataFrame({"x": [1]}), ["country"])
    assert "Did you mean 'x'?" in told.value.next_step


def test_edges_are_values_of_the_training_rows():
    """Of five rows the second, third and fourth; of equal ones one; without NaN and nulls."""
    cut = ["below 2", "2 to below 3", "3 to below 4", "4 and above"]
    assert sliced([1.9, 2.0, 3.5, 4.0], [5.0, 3.0, 1.0, 4.0, 2.0]) == cut
    assert sliced([1.9, 2.0, 3.5, 4.0], [5.0, float("nan"), 3.0, 1.0, None, 4.0, 2.0, float("nan")]) == cut
    assert sliced([1.0, 2.0], [2.0, 2.0, 2.0]) == ["below 2", "2 and above"]
    assert sliced([1.0, 2.0, 3.0], [1.0, 3.0]) == ["1 to below 3", "1 to below 3", "3 and above"]
    assert sliced([0.1, 0.30000001], [0.2, 0.2, 0.3, 0.3]) == ["below 0.2", "0.3 and above"]


def test_few_dates_and_few_fractions_are_ranges_all_the_same():
    assert sliced([date(2026, 1, 2), None], [date(2026, 1, 2)]) == ["2026-01-02 and above", EMPTY]
    assert sliced([0.5, 1.5], [1.0]) == ["below 1", "1 and above"]


def test_whole_numbers_of_few_values_in_the_holdout_are_values_whatever_training_has():
    assert sliced([1, 2, 1], list(range(100))) == ["1", "2", "1"]


def test_an_empty_text_among_many_stays_empty():
    texts = [f"v{number:02}" for number in range(MOST_VALUES + 1)]
    assert sliced([*texts, None, "v50"])[-2:] == [EMPTY, "v50"]  # v50 is twice there, so v49 shares the last
    assert sliced([*texts, None, "v50"])[49] == OTHERS


def test_several_columns_keep_their_order():
    frame = pl.DataFrame({"a": ["x"], "b": [True]})
    assert [one.name for one in slice_columns(frame.lazy(), frame, ["b", "a"])] == ["slice.b", "slice.a"]
