"""The user's functions, imported and called: inside a worker process only.

Arguments are matched by name, and frames take the kind that the parameter's annotation asks for. Training and inference
use the same code here, so that both see the same types.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl

from interlock.data.casting import DTYPES
from interlock.errors import ContractError
from interlock.model.entry import Entry, misfit, offered

FrameKind = Literal["pandas", "polars", "pyarrow", "numpy"]
FEW: Final = 1_024
"""Up to so many rows it takes longer to wake other threads than to do their part of the work."""
_PLAIN: Final = frozenset(DTYPES.values())
_OLDEST: Final = pl.CompatLevel.oldest()


def load_function(folder: Path, entry: Entry) -> Callable[..., Any]:
    """Import the user's file from ``folder``, which is on ``sys.path``, and give its function. Runs user code.

    Raises :class:`ContractError` when another module already has the file's name, or the name is not a function.
    """
    module = importlib.import_module(entry.module)
    expected = (folder / entry.path).resolve()
    actual = getattr(module, "__file__", None)
    if actual is None or Path(actual).resolve() != expected:
        raise ContractError(
            f"{entry.path} cannot be imported as '{entry.module}': {actual or 'a built-in module'} has that name.",
            next_step="Rename the file.",
            path=entry.path,
        )
    function = getattr(module, entry.function, None)
    if not callable(function) or inspect.isclass(function) or inspect.iscoroutinefunction(function):
        raise ContractError(
            f"{entry.function} in {entry.path} is {type(function).__name__}, not a plain function.",
            next_step=f"Write def {entry.function}(…) at the top level of the file.",
            path=entry.path,
        )
    return function  # type: ignore[no-any-return]


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters by name, annotations evaluated where they can be; empty for a callable that does not tell."""
    for evaluate in (True, False):
        try:
            return dict(inspect.signature(function, eval_str=evaluate).parameters)
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue  # an annotation that exists for type checkers only
        except ValueError:
            break
    return {}


def bind(
    function: Callable[..., Any],
    entry: Entry,
    offers: Mapping[str, Callable[[FrameKind], Any]],
    params: Mapping[str, Any],
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments for ``function``: each parameter gets what is on offer under its name, and only that is computed.

    ``offers`` gives the standard names, each as a function of the kind of frame asked for; ``params`` the keys of
    ``[params]``, all of which go to ``**kwargs``.
    Raises :class:`ContractError` when a parameter without default is not on offer.
    """
    positional: list[Any] = []
    named: dict[str, Any] = {}
    parameters = parameters_of(function)
    offer = offered(tuple(offers), params)
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update({key: value for key, value in params.items() if key not in parameters})
        elif name not in offer:
            if parameter.default is parameter.empty:
                raise misfit(entry.path, f"{entry.function}{inspect.signature(function)}", name, offer)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(parameter.default)
        else:
            value = offers[name](frame_kind(parameter.annotation)) if name in offers else params[name]
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                named[name] = value
    return positional, named


def frame_kind(annotation: object) -> FrameKind:
    """The kind of frame that an annotation asks for; pandas when it does not say."""
    text = str(annotation)  # "<class 'polars…'>", a union, or a string whose names exist for type checkers only
    if "polars." in text or text.startswith("pl."):
        return "polars"
    if "pyarrow." in text or text.startswith("pa."):
        return "pyarrow"
    return "numpy" if "ndarray" in text else "pandas"


def as_frame(frame: pl.DataFrame, kind: FrameKind, gaps: Collection[str] = ()) -> Any:
    """Rows as the user wants to see them.

    pandas gets numbers in numpy types, strings in pandas' own string type and dates as ``datetime64[ms]``. It has no
    missing integers or booleans: those columns of ``gaps`` are float64 and object, whether or not these rows have any.
    """
    if kind == "polars":
        return frame
    if kind == "pyarrow":
        return frame.to_arrow()
    if kind == "numpy":
        return frame.to_numpy()
    types = frame.schema
    loose = {name for name in types if name in gaps and types[name].is_integer()}
    columns = [column.cast(pl.Float64) if column.name in loose else column for column in frame.get_columns()]
    if columns and frame.height <= FEW and _PLAIN.issuperset(types.dtypes()):
        result = of_arrays({column.name: column.to_arrow(compat_level=_OLDEST) for column in columns})
    else:
        result = (pl.DataFrame(columns) if loose else frame).to_pandas()
    for name in types:
        if name in gaps and types[name] == pl.Boolean:
            result[name] = result[name].astype(object)
    return result


def of_arrays(arrays: Mapping[str, Any]) -> Any:
    """A frame of pandas with these arrays of Arrow as columns, block by block as Polars makes it.

    No thread is woken for a column, and frames of the same columns share what pandas knows of their names.
    """
    import pyarrow as pa

    names = tuple(arrays)
    result = pa.Table.from_arrays(list(arrays.values()), names).to_pandas(date_as_object=False, use_threads=False)
    result.columns = _labels(names).view()  # a name that user code gives to it is its own
    return result


@functools.lru_cache(maxsize=16)
def _labels(names: tuple[str, ...]) -> Any:
    import pandas as pd

    found = pd.Index(list(names))
    assert found.is_unique  # looked up now, and found by every view of it
    return found


def as_column(column: pl.Series, kind: FrameKind) -> Any:
    """One column (the target) as the user wants to see it."""
    if kind == "polars":
        return column
    if kind == "pyarrow":
        return column.to_arrow()
    return column.to_numpy() if kind == "numpy" else column.to_pandas()
