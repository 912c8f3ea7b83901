import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.model.columns import Coder, label_frame, places, spelled


class TestCoder:
    @given(
        values=st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "c", "", "Ä", "zz"])), min_size=1),
        keys=st.lists(st.sampled_from(["a", "b", "", "Ä", "q"]), unique=True, min_size=1),
        dtype=st.sampled_from([pl.String, pl.Categorical]),
    )
    @settings(deadline=None)
    def test_text(self, values, keys, dtype):
        codes, positions = Coder(keys).codes(pl.Series(values, dtype=dtype))
        size = len(keys)
        expected = [size + 1 if v is None else keys.index(v) if v in keys else size for v in values]
        assert positions[codes.astype(int)].tolist() == expected

    @given(
        values=st.lists(st.one_of(st.none(), st.integers(-3, 8)), min_size=1),
        keys=st.lists(st.integers(-2, 6), unique=True, min_size=1),
    )
    @settings(deadline=None)
    def test_numbers(self, values, keys):
        codes, positions = Coder(keys).codes(pl.Series(values, dtype=pl.Int64))
        size = len(keys)
        expected = [size + 1 if v is None else keys.index(v) if v in keys else size for v in values]
        assert positions[codes].tolist() == expected

    def test_bool(self):
        codes, positions = Coder([False, True]).codes(pl.Series([True, None, False]))
        assert positions[codes].tolist() == [1, 3, 0]


def test_labels_are_an_enum_until_they_are_spelled():
    answers = label_frame(["no", "yes"], np.array([True, False]), None)
    assert answers["prediction"].dtype == pl.Enum(["no", "yes"])
    assert spelled(answers)["prediction"].dtype == pl.String()
    assert spelled(answers)["prediction"].to_list() == ["yes", "no"]
    assert label_frame([3, 5], np.array([1, 0]), None)["prediction"].to_list() == [5, 3]


@pytest.mark.parametrize("size", [3, 300, 5_000])
def test_the_places_of_categories_are_found_by_arrow_and_by_polars(size):
    names = [str(place) for place in range(size)]
    coded = pl.Series(["1", None, names[-1], "0", None] * 3).cast(pl.Enum(names))
    assert places(coded, size).tolist() == [1, size, size - 1, 0, size] * 3
    assert places(coded[3:14], size).tolist() == ([1, size, size - 1, 0, size] * 3)[3:14]
    assert places(coded.drop_nulls(), size).tolist() == [1, size - 1, 0] * 3
    assert places(coded.clear(), size).tolist() == []


@pytest.mark.parametrize("classes", [(3, 1, 2), (2.5, 0.5, 1.5), (True, False), ("b", "a", "c")])
def test_labels_have_the_type_of_the_classes(classes):
    codes = np.array([1, 0, 1])
    assert spelled(label_frame(classes, codes, None))["prediction"].to_list() == [classes[code] for code in codes]
    assert label_frame(classes, codes > 0, None).height == 3
    many = spelled(label_frame(classes, np.tile(codes, 20_000), None))["prediction"]
    assert many.dtype == spelled(label_frame(classes, codes, None))["prediction"].dtype
    assert many.to_list() == [classes[code] for code in codes] * 20_000
