from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.errors import ContractError
from interlock.model.calls import as_column, as_frame, bind, frame_kind, parameters_of
from interlock.model.entry import Entry

if TYPE_CHECKING:
    import pandas as pd

ENTRY = Entry(path="train.py", function="train", module="train", search=".")
OFFERS = {name: (lambda kind, name=name: (name, kind)) for name in ("data", "X", "y", "params")}


def for_checkers(data: "pd.DataFrame", X: pl.DataFrame) -> None: ...


def test_annotations_that_exist_for_type_checkers_are_read_as_text() -> None:
    kinds = {name: frame_kind(parameter.annotation) for name, parameter in parameters_of(for_checkers).items()}
    assert kinds == {"data": "pandas", "X": "polars"}


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (pl.DataFrame, "polars"),
        (pl.Series | None, "polars"),
        (pa.Table, "pyarrow"),
        (np.ndarray, "numpy"),
        ("pl.DataFrame", "polars"),
        ("pa.Table", "pyarrow"),
        ("np.ndarray", "numpy"),
        ("pd.DataFrame", "pandas"),
        (Any, "pandas"),
        (dict, "pandas"),
    ],
)
def test_the_annotation_decides_the_kind_of_frame(annotation: object, kind: str) -> None:
    assert frame_kind(annotation) == kind


def test_binding_covers_every_kind_of_parameter() -> None:
    def train(X: pl.DataFrame, y=None, /, data=None, *more, rate, left=9, **rest): ...

    positional, named = bind(train, ENTRY, OFFERS, {"rate": 0.1, "depth": 2})
    assert positional == [("X", "polars"), ("y", "pandas")]
    assert named == {"data": ("data", "pandas"), "rate": 0.1, "depth": 2}


def test_only_what_is_asked_for_is_computed() -> None:
    def refuse(_: object) -> None:
        raise AssertionError

    assert bind(lambda data: data, ENTRY, OFFERS | {"X": refuse}, {})[1] == {"data": ("data", "pandas")}


def test_what_is_not_on_offer_is_explained() -> None:
    with pytest.raises(ContractError, match=r"train\(dato\) in train\.py asks for 'dato'.* Did you mean 'data'"):
        bind(lambda dato: dato, ENTRY, OFFERS, {})


@given(
    st.sets(st.sampled_from(["rate", "depth", "alpha", "beta"])), st.sets(st.sampled_from(["rate", "depth", "alpha"]))
)
def test_a_function_that_binds_can_be_called(params: set[str], asked: set[str]) -> None:
    scope: dict[str, Any] = {}
    exec(f"def train(data, {', '.join(f'{name}=None' for name in sorted(asked))}): return locals()", scope)
    positional, named = bind(scope["train"], ENTRY, OFFERS, {name: name for name in params})
    expected = {name: name if name in params else None for name in asked}
    assert scope["train"](*positional, **named) == {"data": ("data", "pandas"), **expected}


FRAME = pl.DataFrame({"i": [1, 2], "b": [True, False], "s": ["a", None]})


def test_frames_take_the_kind_asked_for() -> None:
    assert as_frame(FRAME, "polars") is FRAME
    assert as_frame(FRAME, "pyarrow").column_names == ["i", "b", "s"]
    assert as_frame(FRAME.select("i"), "numpy").shape == (2, 1)
    assert [str(kind) for kind in as_frame(FRAME, "pandas").dtypes] == ["int64", "bool", "str"]
    assert [str(kind) for kind in as_frame(FRAME, "pandas", {"i", "b", "s"}).dtypes] == ["float64", "object", "str"]


def test_columns_take_the_kind_asked_for() -> None:
    column = FRAME["i"]
    assert as_column(column, "polars") is column
    assert as_column(column, "pyarrow").to_pylist() == [1, 2]
    assert as_column(column, "numpy").tolist() == [1, 2]
    assert as_column(column, "pandas").name == "i"


def test_bytes_stay_bytes_in_every_kind_of_frame() -> None:
    frame = pl.DataFrame({"image": [b"\xff\x00", None]})
    assert as_frame(frame, "pandas", ["image"])["image"].tolist() == [b"\xff\x00", None]
    assert as_frame(frame, "polars")["image"].to_list() == [b"\xff\x00", None]
    assert as_frame(frame, "pyarrow")["image"].to_pylist() == [b"\xff\x00", None]


EVERY_TYPE = {
    "b": pl.Boolean(),
    "i": pl.Int64(),
    "f": pl.Float64(),
    "s": pl.String(),
    "d": pl.Date(),
    "t": pl.Datetime("us"),
    "y": pl.Binary(),
}


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    rows, gaps = draw(st.integers(1, 4)), draw(st.booleans())
    made = {
        "b": st.booleans(),
        "i": st.integers(-(2**63), 2**63 - 1),
        "f": st.floats(allow_nan=False),
        "s": st.sampled_from(["", "a", "ü雪", "x y"]),
        "d": st.dates(),
        "t": st.datetimes(),
        "y": st.binary(max_size=5),
    }
    names = draw(st.lists(st.sampled_from(sorted(made)), min_size=1, unique=True))
    cell = {name: st.none() | each if gaps else each for name, each in made.items()}
    columns = [
        pl.Series(name, draw(st.lists(cell[name], min_size=rows, max_size=rows)), dtype=EVERY_TYPE[name])
        for name in names
    ]
    return pl.DataFrame(columns)


def same_to_the_bit(one: "pd.DataFrame", other: "pd.DataFrame") -> bool:
    """Whether user code cannot tell two frames apart: types, values, names, and how the numbers lie in memory."""
    assert one.dtypes.to_dict() == other.dtypes.to_dict()
    assert (one.columns.dtype, repr(one.columns), repr(one.index)) == (
        other.columns.dtype,
        repr(other.columns),
        repr(other.index),
    )
    for mine, theirs in zip(one.items(), other.items(), strict=True):
        assert repr(mine[1].tolist()) == repr(theirs[1].tolist())
    first, second = (frame.select_dtypes(["number"]).to_numpy() for frame in (one, other))
    assert (first.flags.c_contiguous, first.flags.writeable) == (second.flags.c_contiguous, second.flags.writeable)
    return first.dtype == second.dtype and first.tobytes() == second.tobytes()


@settings(deadline=None)  # the first one imports a library
@given(frames())
def test_a_frame_of_few_rows_is_the_frame_that_polars_makes(frame: pl.DataFrame) -> None:
    assert same_to_the_bit(as_frame(frame, "pandas"), frame.to_pandas())


def test_frames_of_the_same_columns_share_no_names_that_user_code_gives() -> None:
    first, second = as_frame(FRAME, "pandas"), as_frame(FRAME, "pandas")
    assert first.columns.get_loc("s") == second.columns.get_loc("s") == 2
    first.columns.name = "mine"
    first["more"] = 1
    for later in (second, as_frame(FRAME, "pandas")):
        assert later.columns.name is None
        assert list(later.columns) == ["i", "b", "s"]
