"""The steps that a forecast takes: found in the times of training, kept in the signature, and counted on from its end.

A step is text: a number of months (``1mo``, ``3mo``, ``12mo``; ``1mo end`` where every time is the last day of its
month), of microseconds (``86400000000us``), or of whatever a column of whole numbers counts (``10``). Times whose steps
are not regular have none: of business days, nobody here knows the holidays.
"""

import calendar
import re
from datetime import date, datetime, timedelta
from typing import Any, Final

import polars as pl

from interlock.model.seasonal import CALENDAR_MONTHS, grid, positions
from interlock.records import Column

REGULAR: Final = 0.9
"""So many of the steps between training's times must be of one length; the others may be gaps."""
_LEAST_TIMES: Final = 3
_INT64: Final = 2**63
_STEP = re.compile(r"(\d+)(mo end|mo|us|)")


def step_of(times: pl.Series) -> str | None:
    """The step between the times of training (of a date, datetime or integer type); None where there is none."""
    known = times.drop_nulls().unique().sort()
    if len(known) < _LEAST_TIMES or not (known.dtype.is_temporal() or known.dtype.is_integer()):
        return None
    unit, step, _ = grid(known)
    if unit == "fixed":
        ticks = positions(known, unit, 1)
        is_regular = (ticks.diff().drop_nulls() == step).mean() >= REGULAR  # type: ignore[operator]
        return f"{step}{'us' if known.dtype.is_temporal() else ''}" if is_regular else None
    is_regular = (positions(known, unit, 1).diff().drop_nulls() == 1).mean() >= REGULAR  # type: ignore[operator]
    at_end = bool((known.dt.date() == known.dt.month_end().dt.date()).all())
    if not is_regular or not (at_end or known.dt.day().n_unique() == 1):
        return None
    return f"{CALENDAR_MONTHS[unit]}mo{' end' if at_end else ''}"


def steps_ahead(column: Column, count: int, after: Any = None) -> list[Any]:
    """The next ``count`` times after the last that training saw, or after a later one; ``column`` has a step.

    They are whole steps from the end of training. Raises :class:`ValueError` where ``after`` is before that, and
    :class:`OverflowError` for times that no calendar has.
    """
    found = _STEP.fullmatch(column.step or "")
    assert found is not None
    size, unit = int(found[1]), found[2]
    last: Any = int(column.high) if isinstance(column.high, int | float) else _moment(str(column.high))
    if isinstance(after, date) and not isinstance(after, datetime):
        after = datetime(after.year, after.month, after.day)  # noqa: DTZ001 - dates have no zone
    after = last if after is None else after
    if after < last:
        raise ValueError("before the end of training")
    if not unit or unit == "us":
        step = timedelta(microseconds=size) if unit else size
        ahead = [last + ((after - last) // step + place) * step for place in range(1, count + 1)]
        if not unit and ahead[-1] >= _INT64:
            raise OverflowError("more than 64 bits")
    else:
        first = (after.year * 12 + after.month - last.year * 12 - last.month) // size
        at_end = unit == "mo end"
        passed = first if _months_on(last, first * size, at_end=at_end) <= after else first - 1
        ahead = [_months_on(last, (passed + place) * size, at_end=at_end) for place in range(1, count + 1)]
    return [each.date() for each in ahead] if column.type == "date" else ahead


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=None)


def _months_on(last: datetime, months: int, *, at_end: bool) -> datetime:
    year, month = divmod(last.year * 12 + last.month - 1 + months, 12)
    if year > date.max.year:
        raise OverflowError("the calendar ends")
    length = calendar.monthrange(year, month + 1)[1]
    return last.replace(year=year, month=month + 1, day=length if at_end else min(last.day, length))
