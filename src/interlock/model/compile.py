"""Find the fastest form that gives the native model's answers; keep the native model when none does. In a worker.

A form is kept only when it agrees with the native model on rows of the holdout and on made rows: every category, a
category never seen, gaps, range ends, extremes. Agreement means equal labels, and numbers with
``|form - native| <= RTOL * |native| + ATOL * scale``, where ``scale`` is 1 for probabilities and the largest
``|native|`` of the compared rows for numbers; and where one refuses a row, the other refuses it too.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl

from interlock.errors import InterlockError, bounded
from interlock.model.columns import spelled
from interlock.model.fold import Unfoldable, fold
from interlock.model.forms import Form
from interlock.model.loader import Native
from interlock.model.native import PREDICTION, answer_natively
from interlock.records import Column, Record, Signature

COMPILE_MODEL = "interlock.model.compile:compile_model"
"""What the runner calls."""
RTOL = 1e-9
ATOL = 1e-12
_BASE_ROWS = 8
_ONE_ROW_CALLS = 5
_ONE_ROW_BUDGET_S = 0.1
_UNSEEN = "\u2205 never seen"
_REASON_CHARS = 300

Answer = Callable[[pl.DataFrame], pl.DataFrame]


class CompileCall(Record, frozen=True, kw_only=True):
    """What to compile: a bundle draft with its native part, and rows as Arrow IPC files.

    ``holdout`` are the rows to agree on, ``sample`` a few training rows to make rows from. ``output`` is the folder for
    the form's files, ``answers`` the Arrow IPC file for the native model's answers on ``holdout``.
    """

    bundle: str
    signature: Signature
    holdout: str
    sample: str
    output: str
    answers: str


class Compiled(Record, frozen=True, kw_only=True):
    """The form that was kept and why. ``answered`` is False when the native model failed on the holdout itself."""

    form: str
    reason: str
    answered: bool
    parity: dict[str, Any]


def compile_model(arguments: Mapping[str, Any]) -> Any:
    """Compile as a :class:`CompileCall` says and give a :class:`Compiled`, both as plain data.

    Raises only what loading the native model raises: a model that no form fits is answered by its own code.
    """
    call = msgspec.convert(dict(arguments), CompileCall)
    native = Native(Path(call.bundle))
    rows = {name: pl.read_ipc(path) for name, path in (("holdout", call.holdout), ("sample", call.sample))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept, form = _compile(native, call.signature, rows["holdout"], rows["sample"], Path(call.answers))
    if form is not None:
        Path(call.output).mkdir(parents=True)
        for name, content in form.files().items():
            (Path(call.output) / name).write_bytes(content)
    return msgspec.to_builtins(kept)


def _compile(
    native: Native, signature: Signature, holdout: pl.DataFrame, sample: pl.DataFrame, answers: Path
) -> tuple[Compiled, Form | None]:
    def own(frame: pl.DataFrame) -> pl.DataFrame:
        return answer_natively(native, signature, frame)

    try:
        expected, seconds = _timed(own, holdout)
    except Exception as error:  # noqa: BLE001 - user code; the judge will meet and tell the same failure
        return Compiled(
            form="native", reason=f"it failed on the holdout: {_words(error)}", answered=False, parity={}
        ), None
    expected.write_ipc(answers)
    parity: dict[str, Any] = {"holdout_rows": holdout.height, "native_s": seconds}
    if holdout.height:
        parity["native_one_row_ms"] = _one_row_ms(own, holdout)
    if native.function is not None:
        reason = "the project has its own predict function"
        return Compiled(form="native", reason=reason, answered=True, parity=parity), None
    try:
        candidates = fold(native.model, signature)
    except Unfoldable as error:
        return Compiled(form="native", reason=str(error), answered=True, parity=parity), None
    except Exception as error:  # noqa: BLE001 - a model of another version may lack any attribute
        return Compiled(
            form="native", reason=f"it could not be read: {_words(error)}", answered=True, parity=parity
        ), None
    reason = ""
    for form in candidates:
        found = check_parity(own, form, holdout, expected, made_rows(sample, signature))
        if found.agrees:
            took = _timed(form.answer, holdout)[1]
            parity |= {"rtol": RTOL, "atol": ATOL, "made_rows": found.made_rows, "largest_gap": found.largest_gap}
            parity |= {"form_s": took, "form_one_row_ms": _one_row_ms(form.answer, holdout) if holdout.height else 0.0}
            return Compiled(form=form.name, reason="", answered=True, parity=parity), form
        reason = reason or f"the form '{form.name}' {found.reason}"
    return Compiled(form="native", reason=reason, answered=True, parity=parity), None


def _words(error: Exception) -> str:
    """What may be recorded of it: an exception of user code may hold values of the data in its words."""
    text = error.message if isinstance(error, InterlockError) else type(error).__name__
    return bounded(" ".join(text.split()), _REASON_CHARS)


def _timed(answer: Answer, frame: pl.DataFrame) -> tuple[pl.DataFrame, float]:
    started = time.perf_counter()
    result = answer(frame)
    return result, time.perf_counter() - started


def _one_row_ms(answer: Answer, frame: pl.DataFrame) -> float:
    """Median time to answer one row, in milliseconds; fewer calls when they are slow."""
    took: list[float] = []
    while len(took) < _ONE_ROW_CALLS and sum(took) < _ONE_ROW_BUDGET_S:
        took.append(_timed(answer, frame[:1])[1])
    return statistics.median(took) * 1e3


# ---- made rows ---------------------------------------------------------------------------------------------------


class MadeRows(NamedTuple):
    """Rows at the edges of what a model may meet. ``calm`` ones are ordinary, ``risky`` ones may be refused."""

    calm: pl.DataFrame
    risky: pl.DataFrame


def made_rows(sample: pl.DataFrame, signature: Signature) -> MadeRows:
    """Vary one column at a time of a few training rows: known categories and range ends (calm), the rest (risky)."""
    base = sample.select(signature.names).head(_BASE_ROWS)
    calm, risky = [base], [base.clear()]
    if base.is_empty():
        return MadeRows(base, base)
    for number, column in enumerate(signature.inputs):
        row = base[number % base.height]
        dtype = base.schema[column.name]
        for target, values in ((calm, _calm_values(column)), (risky, _risky_values(column))):
            if values:
                varied = pl.Series(column.name, values).cast(dtype, strict=False)
                others = pl.concat([row] * len(values))
                target.append(others.with_columns(varied))
    return MadeRows(pl.concat(calm), pl.concat(risky))


def _calm_values(column: Column) -> list[Any]:
    if column.type == "bool":
        return [False, True]
    if column.type == "str":
        return list(column.categories or ())
    if column.type in ("int", "float") and isinstance(column.low, int | float) and isinstance(column.high, int | float):
        middle = (column.low + column.high) / 2
        values = [column.low, column.high, float(round(middle)), middle]
        return [int(value) for value in values] if column.type == "int" else [float(value) for value in values]
    return []


def _risky_values(column: Column) -> list[Any]:
    gap: list[Any] = [None] if column.nullable else []
    if column.type == "str":
        known = list(column.categories or ())[:1]
        return [*gap, _UNSEEN, "", *[f" {value}" for value in known], *[str(value).swapcase() for value in known]]
    if column.type == "int":
        return [*gap, 0, -1, 1, 2**31, -(2**31), 10**12]
    if column.type == "float":
        return [*gap, 0.0, -0.0, -1.0, 1e-300, 1e6, -1e6, 1e12, -1e12]
    return gap


# ---- parity ------------------------------------------------------------------------------------------------------


class Parity(Record, frozen=True, kw_only=True):
    """What a comparison found. ``largest_gap`` is the largest ``|form - native|`` as a share of what is allowed."""

    agrees: bool
    reason: str = ""
    made_rows: int = 0
    largest_gap: float = 0.0


def check_parity(own: Answer, form: Form, holdout: pl.DataFrame, expected: pl.DataFrame, made: MadeRows) -> Parity:
    """Compare with the native answers, ``expected`` on ``holdout`` and ``own`` elsewhere; stops at the first gap."""
    count, largest = 0, 0.0
    for name, frame, wanted in _cases(own, holdout, expected, made):
        got = _refusal_or(lambda rows: spelled(form.answer(rows)), frame)
        if wanted is None or got is None:
            if (wanted is None) != (got is None):
                who = "refuses" if got is None else "answers"
                return Parity(agrees=False, reason=f"{who} {name} where the model does not")
        else:
            gap, reason = difference(wanted, got)
            if reason:
                return Parity(agrees=False, reason=f"{reason} on {name}")
            largest = max(largest, gap)
        count += frame.height
    return Parity(agrees=True, made_rows=count - holdout.height, largest_gap=largest)


def _cases(
    own: Answer, holdout: pl.DataFrame, expected: pl.DataFrame, made: MadeRows
) -> Iterator[tuple[str, pl.DataFrame, pl.DataFrame | None]]:
    """Name, rows and native answers of everything to compare; None where the model refuses the rows."""
    yield "the holdout", holdout, expected
    for frame in made:
        for rows, answers in _answered_or_refused(own, frame):
            yield "made rows", rows, answers


def _answered_or_refused(own: Answer, frame: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, pl.DataFrame | None]]:
    """Cut a frame, by halves, into parts that the model answers and single rows that it refuses (None)."""
    if frame.is_empty():
        return
    answers = _refusal_or(own, frame)
    if answers is not None or frame.height == 1:
        yield frame, answers
        return
    middle = frame.height // 2
    yield from _answered_or_refused(own, frame[:middle])
    yield from _answered_or_refused(own, frame[middle:])


def _refusal_or(answer: Answer, frame: pl.DataFrame) -> pl.DataFrame | None:
    try:
        return answer(frame)
    except Exception:  # noqa: BLE001 - whatever the model raises, it has no answer for these rows
        return None


def difference(native: pl.DataFrame, form: pl.DataFrame) -> tuple[float, str]:
    """Largest gap as a share of the allowed one, and what is wrong in words (empty when the frames agree)."""
    if native.columns != form.columns or native.height != form.height:
        return 0.0, f"answers {', '.join(form.columns)} instead of {', '.join(native.columns)}"
    largest = 0.0
    for name in native.columns:
        one, other = native[name], form[name]
        if one.dtype != other.dtype:
            return 0.0, f"answers {other.dtype} instead of {one.dtype}"
        if not one.dtype.is_float() or (name == PREDICTION and native.width > 1):
            differing = int((one != other).sum())
            if differing:
                return 0.0, f"differs in {differing} of {one.len()} labels"
        else:
            largest = max(largest, _gap(one, other, probability=name != PREDICTION))
    return largest, f"differs by {largest:.3g} times the allowed amount" if largest > 1.0 else ""


def _gap(native: pl.Series, form: pl.Series, *, probability: bool) -> float:
    if native.is_empty():
        return 0.0
    scale = 1.0 if probability else float(native.abs().max() or 0.0)  # type: ignore[arg-type]
    allowed = native.abs() * RTOL + max(ATOL * scale, 1e-300)
    ratio = ((form - native).abs() / allowed).max()
    assert isinstance(ratio, float)
    return ratio
