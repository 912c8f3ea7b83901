import json
from datetime import date

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.data.casting import DTYPES
from interlock.errors import UserCodeFailed
from interlock.model.native import as_trained, of_cells, shape_answers
from interlock.records import Column, Output

NUMBER = Output(kind="number", type="float")
LABEL = Output(kind="label", type="str", classes=("no", "yes"))
WHOLE = Output(kind="label", type="int", classes=(0, 1))
TRUTH = Output(kind="label", type="bool", classes=(False, True))
ANY = Output(kind="any", type="str")


class TestShapes:
    @pytest.mark.parametrize(
        "answer",
        [
            [1, 2.5, 3],
            (1, 2.5, 3),
            (value for value in (1, 2.5, 3)),
            np.array([1, 2.5, 3]),
            np.array([[1], [2.5], [3]]),
            np.array([1, 2.5, 3], dtype=object),
            np.array([1, 2.5, 3], dtype=np.float32),
            pd.Series([1, 2.5, 3], index=[7, 8, 9]),
            pd.DataFrame({"whatever": [1, 2.5, 3]}),
            pd.DataFrame({"other": ["a", "b", "c"], "prediction": [1, 2.5, 3]}),
            pl.Series([1.0, 2.5, 3.0]),
            pl.DataFrame({"prediction": [1.0, 2.5, 3.0]}),
            pa.array([1, 2.5, 3]),
            pa.chunked_array([[1.0, 2.5], [3.0]]),
            pa.table({"prediction": [1, 2.5, 3]}),
            [np.float64(1), np.float64(2.5), np.int64(3)],
        ],
    )
    def test_numbers(self, answer):
        frame = shape_answers(answer, 3, NUMBER)
        assert frame.schema == {"prediction": pl.Float64}
        assert frame["prediction"].to_list() == [1.0, 2.5, 3.0]

    @pytest.mark.parametrize(
        "answer",
        [
            ["yes", "no"],
            np.array(["yes", "no"]),
            np.array(["yes", "no"], dtype=object),
            pd.Series(["yes", "no"], dtype="category"),
            pd.Series(["yes", "no"], dtype="str"),
            pd.Categorical(["yes", "no"]),
            pl.Series(["yes", "no"], dtype=pl.Categorical),
            pa.array(["yes", "no"]).dictionary_encode(),
        ],
    )
    def test_labels(self, answer):
        assert shape_answers(answer, 2, LABEL)["prediction"].to_list() == ["yes", "no"]

    @pytest.mark.parametrize("answer", [[1, 0], [1.0, 0.0], np.array([True, False]), np.array([1, 0], dtype=np.uint8)])
    def test_labels_of_a_neighbouring_type_are_cast_without_loss(self, answer):
        assert shape_answers(answer, 2, WHOLE)["prediction"].to_list() == [1, 0]
        assert shape_answers(answer, 2, TRUTH)["prediction"].to_list() == [True, False]

    def test_anything(self):
        assert shape_answers([date(2026, 1, 1)], 1, ANY)["prediction"].to_list() == [date(2026, 1, 1)]

    def test_no_rows(self):
        assert shape_answers([], 0, NUMBER).schema == {"prediction": pl.Float64}
        assert shape_answers([], 0, LABEL).schema == {"prediction": pl.String}

    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
    def test_numbers_are_not_changed(self, values):
        assert shape_answers(np.array(values), len(values), NUMBER)["prediction"].to_list() == values


class TestNonsense:
    @pytest.mark.parametrize(
        ("answer", "output", "words"),
        [
            (None, NUMBER, "is None"),
            (3.0, NUMBER, "one float"),
            ("yes", LABEL, "one str"),
            ({"prediction": [1]}, NUMBER, "one dict"),
            ([1.0, 2.0], NUMBER, "2 answers for 3 rows"),
            ([1.0, 2.0, None], NUMBER, "missing .* 1 of 3"),
            ([1.0, float("nan"), None], NUMBER, "missing .* 2 of 3"),
            (np.array([1.0, np.inf, -np.inf]), NUMBER, "infinite for 2"),
            (["1", "2", "3"], NUMBER, "String, numbers were expected"),
            ([1, "a", 2], NUMBER, "mixes"),
            ([object(), object(), object()], NUMBER, "mixes|Object"),
            (np.zeros((3, 2)), NUMBER, r"shape \(3, 2\)"),
            (pd.DataFrame({"a": [1, 2, 3], "b": [1, 2, 3]}), NUMBER, "2 columns"),
            (["yes", "no", "maybe"], LABEL, "1 of 3 labels are none of the 2 classes"),
            ([1, 0, 1], LABEL, "Int64, the target is str"),
            ([0.5, 0.0, 1.0], WHOLE, "Float64, the target is int"),
            (["0", "1", "1"], WHOLE, "String, the target is int"),
            ([0, 1, 2], TRUTH, "Int64, the target is bool"),
            (pd.Series(["yes", None, pd.NA]), LABEL, "missing .* 2 of 3"),
        ],
    )
    def test_is_told(self, answer, output, words):
        with pytest.raises(UserCodeFailed, match=words) as caught:
            shape_answers(answer, 3, output)
        assert caught.value.facts["cause"] == "nonsense"
        assert caught.value.next_step


class TestProbabilities:
    def test_by_index_and_by_label(self):
        answer = {"prediction": ["yes", "no"], "probability_0": [0.2, 0.9], "probability_1": [0.8, 0.1]}
        by_label = {"prediction": ["yes", "no"], "probability_yes": [0.8, 0.1], "probability_no": [0.2, 0.9]}
        expected = pl.DataFrame(answer)
        assert shape_answers(pd.DataFrame(answer), 2, LABEL).equals(expected)
        assert shape_answers(pl.DataFrame(by_label), 2, LABEL).equals(expected)

    @pytest.mark.parametrize("values", [[0.2, 1.9], [0.2, None], [0.2, float("nan")], ["a", "b"]])
    def test_out_of_range(self, values):
        answer = pl.DataFrame({"prediction": ["yes", "no"], "probability_0": values, "probability_1": [0.8, 0.1]})
        with pytest.raises(UserCodeFailed, match="probability_0"):
            shape_answers(answer, 2, LABEL)

    def test_too_few(self):
        answer = pl.DataFrame({"prediction": ["yes"], "probability_1": [0.8]})
        with pytest.raises(UserCodeFailed, match="do not name the 2 classes"):
            shape_answers(answer, 1, LABEL)


class TestRows:
    COLUMNS = tuple(
        Column(name=name, type=kind, nullable=nullable)
        for name, kind, nullable in [
            ("n", "int", False),
            ("m", "int", True),
            ("b", "bool", True),
            ("s", "str", True),
            ("f", "float", True),
            ("t", "datetime", True),
        ]
    )

    def test_pandas_types_do_not_depend_on_the_gaps_of_one_call(self):
        schema = {
            "n": pl.Int64,
            "m": pl.Int64,
            "b": pl.Boolean,
            "s": pl.String,
            "f": pl.Float64,
            "t": pl.Datetime("us"),
        }
        full = pl.DataFrame({"n": [1], "m": [1], "b": [True], "s": ["a"], "f": [1.0], "t": [0]}, schema=schema)
        gaps = pl.DataFrame({"n": [1], "m": [None], "b": [None], "s": [None], "f": [None], "t": [None]}, schema=schema)
        one, other = (as_trained(frame, self.COLUMNS, "pandas") for frame in (full, gaps))
        assert one.dtypes.to_dict() == other.dtypes.to_dict()
        assert str(one["m"].dtype) == "float64"
        assert str(one["n"].dtype) == "int64"

    @pytest.mark.parametrize(
        ("kind", "type_"),
        [("polars", pl.DataFrame), ("pyarrow", pa.Table), ("numpy", np.ndarray)],
    )
    def test_other_kinds(self, kind, type_):
        frame = pl.DataFrame({"x": [1.0], "n": [2]})
        columns = (Column(name="n", type="int", nullable=False),)
        result = as_trained(frame, columns, kind)
        assert isinstance(result, type_)
        assert result.shape == (1, 1)


CELLS = {
    "bool": st.booleans(),
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "str": st.sampled_from(["", "a", "ü雪", "x y"]),
}


@st.composite
def rows_of_a_signature(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=5))
    columns = [Column(name=f"c{place}", type=kind, nullable=draw(st.booleans())) for place, kind in enumerate(kinds)]
    cells = [CELLS[column.type] | st.none() if column.nullable else CELLS[column.type] for column in columns]
    return columns, draw(st.lists(st.tuples(*cells), min_size=1, max_size=4))


@settings(deadline=None)  # the first one imports a library
@given(rows_of_a_signature(), st.sampled_from(["pandas", "polars", "pyarrow", "numpy"]))
def test_rows_that_came_as_they_are_look_as_those_of_a_frame(made, kind):
    columns, rows = made
    sent = json.loads(json.dumps(list(zip(*rows, strict=True))))
    frame = pl.DataFrame(
        [
            pl.Series(column.name, [row[place] for row in rows], dtype=DTYPES[column.type])
            for place, column in enumerate(columns)
        ]
    )
    mine, theirs = of_cells(sent, columns, kind), as_trained(frame, columns, kind)
    if kind == "pandas":
        assert mine.dtypes.to_dict() == theirs.dtypes.to_dict()
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)
        numbers = [frame.select_dtypes(["number"]).to_numpy().tobytes() for frame in (mine, theirs)]
        assert numbers[0] == numbers[1]
    elif kind == "numpy":
        assert repr(mine.tolist()) == repr(theirs.tolist())
    else:
        assert mine.equals(theirs)


@pytest.mark.parametrize("kind", ["int", "str", "bool"])
def test_labels_are_looked_up_alike_one_by_one_and_by_columns(kind):
    known, strange = {"int": ((0, 1), 2), "str": (("no", "yes"), "may"), "bool": ((False,), True)}[kind]
    output = Output(kind="label", type=kind, classes=known)
    for rows in (3, 3_000):
        good = [known[place % len(known)] for place in range(rows)]
        assert shape_answers(good, rows, output)["prediction"].to_list() == good
        with pytest.raises(UserCodeFailed, match=f"2 of {rows} labels"):
            shape_answers([strange, *good[2:], strange], rows, output)
