"""Answers that are more than one label or number a row: rankings, text, and the columns that explain an answer."""

from collections.abc import Mapping
from typing import Any, NoReturn

import polars as pl

from interlock.data.casting import DTYPES
from interlock.errors import UserCodeFailed
from interlock.records import Output

COMPANIED = frozenset({"ranking", "text", "any"})
"""Kinds of answers that may come with further columns (a passage, a score), published beside the prediction."""
_RESERVED = ("interlock_", "probability_")
_MOST_COMPANIONS = 20


def _nonsense(message: str, next_step: str) -> NoReturn:
    raise UserCodeFailed(message, next_step=next_step, cause="nonsense")


def as_lists(values: Any) -> Any:
    """A two-dimensional array as a list of lists, and tuples or arrays in a sequence as lists; the rest as it is."""
    if getattr(values, "ndim", 1) == 2 and hasattr(values, "tolist"):
        return values.tolist()
    if isinstance(values, pl.Series) or type(values).__module__.partition(".")[0] == "pyarrow":
        return values
    plain = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(plain, list | tuple):
        return values
    return [list(item) if hasattr(item, "__iter__") and not isinstance(item, str | bytes) else item for item in plain]


def check_ranking(prediction: pl.Series, output: Output) -> pl.Series:
    """Lists of values of the target's type, shape (rows,): none missing, none empty, nothing twice in one list.

    Raises :class:`UserCodeFailed`.
    """
    if isinstance(prediction.dtype, pl.Array):
        prediction = prediction.cast(pl.List(prediction.dtype.inner))
    if not isinstance(prediction.dtype, pl.List):
        _nonsense(
            f"The prediction is of type {prediction.dtype}; a ranking is a list for each row, best first.",
            "Return a list of lists, or an array of shape (rows, k).",
        )
    wanted = pl.List(DTYPES[output.type])
    try:
        lists = prediction.cast(wanted)
    except pl.exceptions.PolarsError:
        _nonsense(
            f"The rankings hold {prediction.dtype.inner}, the target is {output.type}.",
            "Return what is found as it is named in the target column.",
        )
    empty = int(((lists.list.len() == 0) | lists.list.eval(pl.element().is_null().any()).list.first()).sum())
    if empty:
        _nonsense(
            f"{empty} of {len(lists)} rankings are empty or hold a missing value.", "Return at least one for each row."
        )
    repeated = int((lists.list.n_unique() < lists.list.len()).sum())
    if repeated:
        _nonsense(
            f"{repeated} of {len(lists)} rankings hold the same value twice.", "Return each at most once, best first."
        )
    return lists


def check_text(prediction: pl.Series) -> pl.Series:
    """Text, shape (rows,); raises :class:`UserCodeFailed` when it is something else."""
    if prediction.dtype != pl.String:
        _nonsense(f"The prediction is of type {prediction.dtype}, text was expected.", "Return one text for each row.")
    return prediction


def companions(columns: Mapping[str, pl.Series], rows: int) -> list[pl.Series]:
    """Further columns of an answer, as they are; raises :class:`UserCodeFailed` when one does not fit."""
    if len(columns) > _MOST_COMPANIONS:
        _nonsense(f"The answer has {len(columns)} columns beside the prediction.", f"At most {_MOST_COMPANIONS} fit.")
    for name, column in columns.items():
        if name.startswith(_RESERVED) or not name:
            _nonsense(f"The answer has a column '{name[:60]}', a name that is taken.", "Rename it.")
        if len(column) != rows:
            _nonsense(f"The answer's column '{name[:60]}' has {len(column)} values for {rows} rows.", "One per row.")
        inner = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype
        if not (inner.is_numeric() or inner in (pl.String, pl.Boolean, pl.Date) or isinstance(inner, pl.Datetime)):
            _nonsense(f"The answer's column '{name[:60]}' is {column.dtype}.", "Numbers, text, times or lists of them.")
    return [column.alias(name) for name, column in columns.items()]
