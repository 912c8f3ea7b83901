"""Three rows of five types of columns, and their signature."""

import polars as pl

from interlock.records import Column, Output, Signature

SIGNATURE = Signature(
    inputs=(
        Column(name="x", type="float", nullable=True, low=-1.0, high=2.0),
        Column(name="n", type="int", nullable=False, low=0.0, high=5.0),
        Column(name="c", type="str", nullable=False, categories=("a", "b")),
        Column(name="t", type="bool", nullable=False),
        Column(name="d", type="date", nullable=True),
    ),
    output=Output(kind="number", type="float"),
)
DTYPES = {"x": pl.Float64, "n": pl.Int64, "c": pl.String, "t": pl.Boolean, "d": pl.Date}
ROWS = pl.DataFrame(
    {"x": [0.5, -1.0, 2.0], "n": [0, 3, 5], "c": ["a", "b", "a"], "t": [True, False, True], "d": [None, None, None]},
    schema=DTYPES,
)
