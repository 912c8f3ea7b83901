"""Compare the answers of a form with those of the native model. Runs in a worker process.

Agreement means equal labels, and numbers with ``|form - native| <= rtol * |native| + ATOL * scale``, where ``scale`` is
1 for probabilities and the largest ``|native|`` of the compared rows for numbers; and where one refuses a row, the
other refuses it too. ``rtol`` is :data:`RTOL`, or :data:`RTOL_SINGLE` where every number that the native model gave is
a float32 one, because then it was rounded to that.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import polars as pl

from interlock.model.columns import spelled
from interlock.model.forms import Form
from interlock.model.native import PREDICTION
from interlock.records import Record

RTOL = 1e-9
RTOL_SINGLE = 2.0**-22
"""Two steps of float32."""
ATOL = 1e-12

Answer: TypeAlias = Callable[[pl.DataFrame], pl.DataFrame]


class Parity(Record, frozen=True, kw_only=True):
    """What a comparison of rows found; ``largest_gap`` is ``|form - native|`` as a share of what is allowed."""

    agrees: bool
    reason: str = ""
    rows: int = 0
    largest_gap: float = 0.0
    rtol: float = RTOL


class Case(Record, frozen=True, kw_only=True):
    """Rows to compare on and the native answers to them; None where the native model refuses them."""

    name: str
    rows: pl.DataFrame
    native: pl.DataFrame | None


def cases_of(own: Answer, made: Mapping[str, pl.DataFrame]) -> list[Case]:
    """Ask the native model about made rows, by the name of the kind."""
    return [
        Case(name=name, rows=rows, native=answers)
        for name, frame in made.items()
        for rows, answers in _answered_or_refused(own, frame)
    ]


def check_parity(form: Form, cases: Iterable[Case]) -> Parity:
    """Compare with the native answers; stops at the first gap."""
    rows, largest, rtol = 0, 0.0, RTOL
    for case in cases:
        got = _refusal_or(lambda frame: spelled(form.answer(frame)), case.rows)
        rows += case.rows.height
        if case.native is None or got is None:
            if (case.native is None) != (got is None):
                who = "refuses" if got is None else "answers"
                return Parity(agrees=False, reason=f"{who} {case.name} where the model does not", rows=rows)
            continue
        gap, reason = difference(case.native, got)
        rtol = max(rtol, _rtol(case.native)) if case.native.height > 1 else rtol
        if reason:
            return Parity(agrees=False, reason=f"{reason} on {case.name}", rows=rows)
        largest = max(largest, gap)
    return Parity(agrees=True, rows=rows, largest_gap=largest, rtol=rtol)


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
    largest, rtol = 0.0, _rtol(native)
    for name in native.columns:
        one, other = native[name], form[name]
        if one.dtype != other.dtype:
            return 0.0, f"answers {other.dtype} instead of {one.dtype}"
        if not one.dtype.is_float() or (name == PREDICTION and native.width > 1):
            differing = int((one != other).sum())
            if differing:
                return 0.0, f"differs in {differing} of {one.len()} labels"
        else:
            largest = max(largest, _gap(one, other, rtol, probability=name != PREDICTION))
    return largest, f"differs by {largest:.3g} times the allowed amount" if largest > 1.0 else ""


def _rtol(native: pl.DataFrame) -> float:
    """How much rounding is allowed beside numbers of such precision."""
    floats = [column for column in native.get_columns() if column.dtype.is_float()]
    single = all(bool((column.cast(pl.Float32).cast(pl.Float64) == column).all()) for column in floats)
    return RTOL_SINGLE if single else RTOL


def _gap(native: pl.Series, form: pl.Series, rtol: float, *, probability: bool) -> float:
    if native.is_empty():
        return 0.0
    if form.is_nan().any():
        return math.inf
    scale = 1.0 if probability else float(native.abs().max() or 0.0)  # type: ignore[arg-type]
    allowed = native.abs() * rtol + max(ATOL * scale, 1e-300)
    ratio = ((form - native).abs() / allowed).max()
    assert isinstance(ratio, float)
    return ratio
