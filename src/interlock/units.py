"""Durations, sizes and the plain types that settings are written with."""

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from interlock.errors import SettingsError

DURATION_PATTERN = r"^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)$"
_DURATION = re.compile(DURATION_PATTERN)
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
SIZE_PATTERN = r"^(\d+(?:\.\d+)?)\s*(MB|GB|TB)$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
SCHEMA_PATTERN = r"^(?!pg_)[a-z_][a-z0-9_]{0,62}$"

Duration = Annotated[
    str, Meta(pattern=DURATION_PATTERN, description="a number with ms, s, m, h, d or w, as 90s or 28d")
]
RATE_PATTERN = r"^(\d+(?:\.\d+)?) per (day|week|month|year)$"
_PER_YEAR = {"day": 365.25, "week": 365.25 / 7, "month": 12.0, "year": 1.0}
Rate = Annotated[str, Meta(pattern=RATE_PATTERN, description="a number per day, week, month or year, as 1 per year")]
Size = Annotated[str, Meta(pattern=SIZE_PATTERN, description="a number with MB, GB or TB, as 500MB or 4GB")]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Fraction = Annotated[float, Meta(gt=0.0, lt=1.0)]
Positive = Annotated[float, Meta(gt=0.0)]
NotNegative = Annotated[float, Meta(ge=0.0)]
Count = Annotated[int, Meta(ge=1)]
Character = Annotated[str, Meta(min_length=1, max_length=1)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN, description="letters, digits, '_', '.', '-'; at most 64")]


def per_year(rate: str) -> float:
    """A rate such as ``1 per year`` in times a year; raises :class:`SettingsError`."""
    match = re.match(RATE_PATTERN, rate)
    if match is None or float(match[1]) == 0.0:
        raise SettingsError(f"'{rate}' is not a rate.", next_step="Write a number above 0: 1 per year, 2 per month.")
    return float(match[1]) * _PER_YEAR[match[2]]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section of the settings: frozen, by keyword; an unknown key is an error."""


def seconds(duration: str) -> float:
    """Length of a duration such as ``90s`` or ``28d`` in seconds; raises :class:`SettingsError`."""
    match = _DURATION.match(duration)
    if match is None:
        raise SettingsError(
            f"'{duration}' is not a duration.", next_step="Write a number with ms, s, m, h, d or w: 90s, 28d."
        )
    return float(match[1]) * _UNIT_S[match[2]]
