"""The native model in a worker process: the only place where a model is unpickled and inference code is run.

Rows and answers travel as Arrow IPC, few of them in the call itself and many by files in the scratch. Whatever the
user's code answers is brought into one shape, a frame with ``prediction`` and ``probability_0 …``, or refused in words
that say what is wrong with it.
"""

import base64
import io
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import polars as pl

from interlock.data.casting import DTYPES
from interlock.errors import UserCodeFailed
from interlock.model.answers import COMPANIED, as_lists, check_ranking, check_text, companions
from interlock.model.calls import FEW, FrameKind, as_frame, of_arrays
from interlock.model.loader import Native
from interlock.records import Column, Output, Record, Signature

OPEN_MODEL = "interlock.model.native:open_model"
"""What a session of the runner calls; its result answers the session's calls."""
PREDICTION = "prediction"
_PREFIX = "probability_"
_TOLERANCE = 1e-6


class ModelCall(Record, frozen=True, kw_only=True):
    """One call of a session: where the rows are, and where the answers go (Arrow IPC files).

    A few rows come as ``given`` instead, and their answers go back as ``given``: an Arrow IPC stream in base64. Very
    few come as ``cells``, the values of each column of the signature; those answers go back as ``given`` too.
    """

    rows: str = ""
    answers: str = ""
    given: str = ""
    cells: list[list[Any]] | None = None


def packed(frame: pl.DataFrame) -> str:
    """A frame as text: an Arrow IPC stream in base64."""
    stream = io.BytesIO()
    frame.write_ipc_stream(stream)
    return base64.b64encode(stream.getvalue()).decode()


def unpacked(text: str) -> pl.DataFrame:
    """Inverse of :func:`packed`; read eagerly, which for a few rows is a tenth of what reading a file costs."""
    return pl.read_ipc_stream(io.BytesIO(base64.b64decode(text)))


def open_model(arguments: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Load the verified bundle in ``arguments["bundle"]``; ``arguments["signature"]`` is its signature as plain data.

    The callable answers a :class:`ModelCall` and gives the number of rows. It raises :class:`UserCodeFailed` when the
    answer is nonsense.
    """
    import msgspec

    native = Native(Path(arguments["bundle"]))
    signature = msgspec.convert(arguments["signature"], Signature)

    def answer(call: Mapping[str, Any]) -> dict[str, Any]:
        given, cells = call.get("given", ""), call.get("cells")
        process = os.getpid()
        if cells is not None:
            own = of_cells(cells, signature.inputs, native.kind)
            answers = _answered(native, signature, own, len(cells[0]))
        else:
            answers = answer_natively(native, signature, unpacked(given) if given else pl.read_ipc(call["rows"]))
        if os.getpid() != process:
            os._exit(0)  # a copy that the user's code forked: only one of us may write the answers
        if given or cells is not None:
            return {"rows": answers.height, "given": packed(answers)}
        answers.write_ipc(call["answers"])
        return {"rows": answers.height}

    return answer


def answer_natively(native: Native, signature: Signature, frame: pl.DataFrame) -> pl.DataFrame:
    """Let the user's code answer, and bring what it gives into shape; raises :class:`UserCodeFailed`."""
    return _answered(native, signature, as_trained(frame, signature.inputs, native.kind), frame.height)


def _answered(native: Native, signature: Signature, own: Any, rows: int) -> pl.DataFrame:
    answer = native.answer(own)
    probabilities = native.probabilities(own)
    result = shape_answers(answer, rows, signature.output)
    if probabilities is None or result.width > 1:
        return result
    return result.hstack(_own_probabilities(*probabilities, rows, signature.output))


# ---- rows in -----------------------------------------------------------------------------------------------------


def as_trained(frame: pl.DataFrame, columns: Sequence[Column], kind: str) -> Any:
    """Give the rows as the kind of frame that training saw, with the types that it saw.

    What may be missing is a matter of the signature, not of this call's rows: see :mod:`interlock.model.calls`.
    """
    gaps = [column.name for column in columns if column.nullable]
    names = [column.name for column in columns]
    return as_frame(frame if frame.columns == names else frame.select(names), cast(FrameKind, kind), gaps)


def of_cells(cells: Sequence[Sequence[Any]], columns: Sequence[Column], kind: str) -> Any:
    """As :func:`as_trained`, of the values of each column: bool, int, float, str, or None."""
    if kind != "pandas":
        series = [
            pl.Series(column.name, values, dtype=DTYPES[column.type])
            for column, values in zip(columns, cells, strict=True)
        ]
        return as_trained(pl.DataFrame(series), columns, kind)
    arrays = {column.name: _array(column, values) for column, values in zip(columns, cells, strict=True)}
    result = of_arrays(arrays)
    for column in columns:
        if column.nullable and column.type == "bool":
            result[column.name] = result[column.name].astype(object)
    return result


def _array(column: Column, values: Sequence[Any]) -> Any:
    """An array of Arrow, as it is made of a column of a frame; whole numbers that may be missing are floats."""
    import pyarrow as pa

    types = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "str": pa.large_string()}
    if column.type == "float" or (column.type == "int" and column.nullable):
        return pa.array([None if value is None else float(value) for value in values], types["float"])
    return pa.array(values, types[column.type])


# ---- answers out -------------------------------------------------------------------------------------------------


def _nonsense(message: str, next_step: str, **facts: Any) -> UserCodeFailed:
    return UserCodeFailed(message, next_step=next_step, cause="nonsense", **facts)


def shape_answers(answer: Any, rows: int, output: Output | None) -> pl.DataFrame:
    """Bring an answer into shape: ``prediction``, and probabilities when the answer is a frame that has them.

    Takes lists, numpy arrays of shape (rows,) or (rows, 1), Series and frames of pandas and Polars, and Arrow arrays
    and tables. Raises :class:`UserCodeFailed` when there are not ``rows`` answers, or one is missing, is not finite, or
    is not of the type (or among the classes) of ``output``. Rankings, text and answers of any kind may come in a frame
    with further columns, which are kept.
    """
    columns = _columns(_taken(answer, rows), lists=output is not None and output.kind == "ranking")
    if PREDICTION not in columns:
        if len(columns) != 1:
            listed = ", ".join(f"'{name}'" for name in list(columns)[:5])
            raise _nonsense(
                f"The prediction has {len(columns)} columns ({listed}) and none is called '{PREDICTION}'.",
                f"Return one value per row, or a frame with a column '{PREDICTION}'.",
            )
        columns = {PREDICTION: next(iter(columns.values()))}
    given = columns.pop(PREDICTION)
    prediction = _series(as_lists(given) if output is not None and output.kind == "ranking" else given)
    if len(prediction) != rows:
        raise _nonsense(
            f"The prediction has {len(prediction)} answers for {rows} rows.",
            "Return one answer per row of the data, in the same order.",
            answers=len(prediction),
            rows=rows,
        )
    checked = _check_prediction(prediction, output)
    further: list[pl.Series] = []
    if output is not None and output.kind in COMPANIED:
        further = companions({name: _series(value) for name, value in columns.items()}, rows)
    return pl.DataFrame([checked.alias(PREDICTION), *(further or _given_probabilities(columns, rows, output))])


def _taken(answer: Any, rows: int) -> Any:
    """What a generator or another iterator yields, as a list; raises :class:`UserCodeFailed` for more than ``rows``."""
    if not isinstance(answer, Iterator):
        return answer
    taken = list(itertools.islice(answer, rows + 1))
    if len(taken) > rows:
        raise _nonsense(
            f"The prediction is a {type(answer).__name__} of more than {rows} answers for {rows} rows.",
            "Return one answer per row of the data, in the same order.",
            rows=rows,
        )
    return taken


def _columns(answer: Any, *, lists: bool) -> dict[str, Any]:
    """Take an answer apart into named columns; one without names is the prediction (two-dimensional for ``lists``)."""
    if answer is None:
        raise _nonsense("The prediction is None.", "Return one answer per row; is a 'return' missing?")
    kind = type(answer)
    package = kind.__module__.split(".")[0]
    if kind.__name__ == "DataFrame" and package in ("pandas", "polars"):
        return {str(name): answer[name] for name in answer.columns}
    if package == "pyarrow" and hasattr(answer, "column_names"):
        return {str(name): answer[name] for name in answer.column_names}
    shape = getattr(answer, "shape", None)
    if shape is not None and len(shape) > 1 and not (lists and len(shape) == 2):
        if len(shape) > 2 or shape[1] != 1:
            raise _nonsense(
                f"The prediction is an array of shape {tuple(shape)}.",
                f"Return shape (rows,); give probabilities in a frame with '{PREDICTION}' and '{_PREFIX}0' ….",
            )
        answer = answer.reshape(-1)
    return {PREDICTION: answer}


def _series(values: Any) -> pl.Series:
    """Give one column of an answer as a Polars series; raises :class:`UserCodeFailed` when it is none."""
    if isinstance(values, pl.Series):
        return values
    package = type(values).__module__.split(".")[0]
    if package == "pandas":
        values = values.astype(object) if str(values.dtype) in ("category", "object") else values
        values = (
            [_clean(value) for value in values.tolist()] if values.dtype == object else values.reset_index(drop=True)
        )
    elif package == "pyarrow":
        values = pl.from_arrow(values)
    elif hasattr(values, "dtype") and getattr(values, "ndim", 1) == 1:
        values = [_clean(value) for value in values.tolist()] if values.dtype == object else values
    elif isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise _nonsense(f"The prediction is one {type(values).__name__}.", "Return one answer per row.")
    else:
        values = [_clean(value) for value in values]
    try:
        if isinstance(values, list) and any(type(value) is float for value in values):
            values = [float(value) if type(value) is int else value for value in values]
        return pl.Series(PREDICTION, values, strict=True)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise _nonsense(
            "The prediction mixes values of different types, or of a type that no table has.",
            "Return only numbers, only text or only booleans.",
        ) from error


def _clean(value: Any) -> Any:
    """Turn a numpy scalar into a Python value, and pandas' gaps into None."""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    return None if type(value).__name__ in ("NAType", "NaTType") else value


def _check_prediction(prediction: pl.Series, output: Output | None) -> pl.Series:
    missing = prediction.null_count()
    if prediction.dtype.is_float():
        missing += int(prediction.is_nan().sum())
    if missing:
        raise _nonsense(
            f"The prediction is missing (None or NaN) for {missing} of {len(prediction)} rows.",
            "Answer every row; fill what is missing in the data first.",
            missing=missing,
        )
    if output is None or output.kind == "any":
        return prediction
    if prediction.is_empty():
        return pl.Series(PREDICTION, [], dtype=_dtype_of(output))
    if output.kind == "ranking":
        return check_ranking(prediction, output)
    if output.kind == "text":
        return check_text(prediction)
    if output.kind == "number":
        return _check_numbers(prediction)
    return _check_labels(prediction, output)


def _dtype_of(output: Output) -> pl.DataType:
    if output.kind == "number":
        return pl.Float64()
    inner = DTYPES[output.type]
    return pl.List(inner) if output.kind == "ranking" else inner


def _check_numbers(prediction: pl.Series) -> pl.Series:
    if not prediction.dtype.is_numeric():
        raise _nonsense(
            f"The prediction is of type {prediction.dtype}, numbers were expected.",
            "Return numbers, or set model.task to what the answers are.",
        )
    numbers = prediction.cast(pl.Float64)
    infinite = int(numbers.is_infinite().sum())
    if infinite:
        raise _nonsense(
            f"The prediction is infinite for {infinite} rows.", "Look for an overflow or a division by zero."
        )
    return numbers


def _check_labels(prediction: pl.Series, output: Output) -> pl.Series:
    """Cast labels to the type of the target, without loss; every one must be a class."""
    wanted = DTYPES[output.type]
    if isinstance(prediction.dtype, pl.Categorical | pl.Enum):
        prediction = prediction.cast(pl.String)
    labels = prediction
    if prediction.dtype != wanted:
        countable = prediction.dtype.is_numeric() or prediction.dtype == pl.Boolean
        same_kind = countable and wanted in (pl.Int64, pl.Boolean)
        labels = prediction.cast(wanted, strict=False) if same_kind else prediction.clear(len(prediction))
        if labels.null_count() or (labels.cast(prediction.dtype) != prediction).any():
            raise _nonsense(
                f"The labels are of type {prediction.dtype}, the target is {output.type}.",
                "Return the labels as they are in the target column.",
            )
    if output.classes is not None:
        strange = _strangers(labels, output.classes)
        if strange:
            raise _nonsense(
                f"{strange} of {len(labels)} labels are none of the {len(output.classes)} classes of the target.",
                "Return the labels as they are in the target column.",
                strange=strange,
            )
    return labels


def _strangers(labels: pl.Series, classes: Sequence[Any]) -> int:
    """How many labels are none of the classes; a few are looked up here, which wakes no other thread."""
    if len(labels) <= FEW and labels.dtype in (pl.Int64, pl.String, pl.Boolean):
        known = frozenset(classes)
        return sum(label not in known for label in labels.to_list())
    return int((~labels.is_in(list(classes))).sum())


# ---- probabilities -----------------------------------------------------------------------------------------------


def _given_probabilities(columns: Mapping[str, Any], rows: int, output: Output | None) -> list[pl.Series]:
    """Take ``probability_<index>`` or ``probability_<label>`` columns of a frame, in the order of the classes."""
    given = {name.removeprefix(_PREFIX): value for name, value in columns.items() if name.startswith(_PREFIX)}
    classes = output.classes if output is not None else None
    if not given or classes is None:
        return []
    for names in ([str(label) for label in classes], [str(index) for index in range(len(classes))]):
        if set(names) == set(given):
            return _check_probabilities([_series(given[name]) for name in names], rows)
    raise _nonsense(
        f"The prediction has {len(given)} columns '{_PREFIX}…' that do not name the {len(classes)} classes.",
        f"Name them '{_PREFIX}0' to '{_PREFIX}{len(classes) - 1}' in sorted order of the labels, or by label.",
    )


def _own_probabilities(values: Any, own: Sequence[Any], rows: int, output: Output | None) -> list[pl.Series]:
    """Bring the columns of ``predict_proba`` into the order of the target's classes; none when they are others."""
    classes = output.classes if output is not None else None
    shape: tuple[int, ...] = getattr(values, "shape", ())
    if classes is None or len(shape) != 2 or shape[1] != len(own) or not set(own) <= set(classes):
        return []
    zeros = pl.repeat(0.0, rows, eager=True)
    series = [pl.Series(values[:, own.index(label)]) if label in own else zeros for label in classes]
    return _check_probabilities(series, rows)


def _check_probabilities(series: Sequence[pl.Series], rows: int) -> list[pl.Series]:
    result = []
    for index, column in enumerate(series):
        good = len(column) == rows and column.dtype.is_numeric() and not column.null_count()
        numbers = column.cast(pl.Float64) if good else column
        if not good or not numbers.is_between(-_TOLERANCE, 1.0 + _TOLERANCE).all():
            raise _nonsense(
                f"'{_PREFIX}{index}' is not a probability between 0 and 1 for every row.",
                "Return probabilities, one per row and class.",
            )
        result.append(numbers.alias(f"{_PREFIX}{index}"))
    return result
