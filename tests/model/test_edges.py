import math

import numpy as np
import polars as pl

from interlock.model.edges import made_rows, split_rows
from interlock.model.trees import Mapped, Plain
from interlock.records import Column, Signature
from model.plain_rows import DTYPES, ROWS, SIGNATURE


class TestMadeRows:
    def test_known_values_are_calm_and_the_rest_is_risky(self):
        made = made_rows(ROWS, SIGNATURE)
        assert made.calm.schema == made.risky.schema == DTYPES
        assert {-1.0, 0.5, 2.0} <= set(made.calm["x"])
        assert set(made.calm["c"]) == {"a", "b"}
        assert set(made.calm["t"]) == {True, False}
        assert made.calm["x"].null_count() == 0
        assert {1e12, -1e12, None} <= set(made.risky["x"])
        assert {"", "A"} <= set(made.risky["c"]) - {"a", "b"}
        assert made.risky["n"].null_count() == 0

    def test_bytes_are_not_varied(self):
        signature = Signature(inputs=(Column(name="image", type="bytes", nullable=True), SIGNATURE.inputs[1]))
        rows = ROWS.select(pl.lit(b"\xff").alias("image"), "n")
        made = made_rows(rows, signature)
        assert set(made.calm["image"]) == {b"\xff"}
        assert set(made.risky["image"]) == {b"\xff", None}

    def test_without_rows(self):
        made = made_rows(ROWS.clear(), SIGNATURE)
        assert made.calm.height == made.risky.height == 0

    def test_what_float32_cannot_hold_stands_apart(self):
        made = made_rows(ROWS, SIGNATURE)
        assert {1e39, -1e39} <= set(made.far["x"])
        assert not {1e39, -1e39} & {*made.calm["x"], *made.risky["x"]}


class TestSplitRows:
    def test_a_threshold_and_its_neighbours_in_both_precisions(self):
        rows = split_rows(ROWS, SIGNATURE, (Plain(column="x"),), {0: [0.1]})
        narrow = float(np.float32(0.1))
        steps = [float(np.nextafter(np.float32(0.1), np.float32(to))) for to in (-1, 1)]
        assert set(rows["x"]) == {0.1, math.nextafter(0.1, 0), math.nextafter(0.1, 1), narrow, *steps}
        assert rows.schema == ROWS.schema

    def test_whole_numbers_lie_on_both_sides(self):
        rows = split_rows(ROWS, SIGNATURE, (Plain(column="n"),), {0: [2.5, 7.0]})
        assert set(rows["n"]) == {1, 2, 3, 4, 6, 7, 8}

    def test_thresholds_of_scaled_columns_are_taken_back(self):
        feature = Plain(column="x", shift=3.0, divisor=2.0, scale=4.0, offset=1.0)
        rows = split_rows(ROWS, SIGNATURE, (feature,), {0: [9.0]})
        assert 7.0 in set(rows["x"])

    def test_categories_are_left_alone_and_the_number_is_bounded(self):
        coded = Mapped(column="c", keys=("a", "b"), values=(0.0, 1.0), unknown=None, missing=None)
        assert split_rows(ROWS, SIGNATURE, (coded,), {0: [0.5]}).is_empty()
        many = split_rows(ROWS, SIGNATURE, (Plain(column="x"),), {0: [float(i) for i in range(50_000)]})
        assert 5_000 < many.height <= 6_000
        assert split_rows(ROWS.clear(), SIGNATURE, (Plain(column="x"),), {0: [0.1]}).is_empty()
