"""Values as people read them: numbers, sizes, times, counts, and user text made harmless to look at."""

import math
import unicodedata
from collections.abc import Sequence

OPPONENT = {"champion": "the champion", "baseline": "the baseline", "shuffled": "guessing"}
"""Whom a candidate is compared with; guessing is its own answers in shuffled order."""
_MINUS = "\N{MINUS SIGN}"
_SILENT = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def plain(text: str, limit: int = 200) -> str:
    """``text`` on one line: control, format and private characters are spelled out, what is beyond ``limit`` is cut."""
    shown = "".join(
        f"\\u{ord(character):04x}" if unicodedata.category(character) in _SILENT else character
        for character in text[: limit + 1]
    )
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def number(value: float) -> str:
    """A number for people: whole ones in full, four decimals near one, four significant digits above ten."""
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    size_ = abs(value)
    if size_ >= 1e9 or size_ < 1e-4:
        return f"{value:.3e}"
    if size_ < 1e-3:
        return f"{value:.6f}"
    return f"{value:,.{max(0, min(4, 3 - math.floor(math.log10(size_))))}f}"


def exact(value: float) -> str:
    """A number that somebody wrote down, with the digits that they wrote."""
    return f"{value:.12g}"


def signed(value: float) -> str:
    """:func:`number` with its sign, for gains."""
    return f"+{number(value)}" if value > 0 else number(value).replace("-", _MINUS)


def maybe(value: float | None) -> str:
    """:func:`number`, or nothing where nothing was measured."""
    return "" if value is None else number(value)


def share(part: float, whole: float) -> str:
    """``part`` of ``whole`` in per cent, or nothing of nothing."""
    if whole == 0:
        return ""
    return f"{100 * part / whole:.1f} %" if 0 < part < whole else ("0 %" if part <= 0 else "100 %")


def percent(value: float) -> str:
    """A fraction in per cent without superfluous digits: 0.95 is ``95 %``."""
    return f"{100 * value:.4g} %"


def size(size_bytes: int) -> str:
    """Bytes in powers of 1,000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            amount = size_bytes / scale
            return f"{amount:.1f} {unit}" if amount < 100 else f"{amount:,.0f} {unit}"
    return count(size_bytes, "byte")


def duration(seconds: float) -> str:
    """Seconds in the unit that fits."""
    if 0 < seconds < 1e-3:
        return f"{1e6 * seconds:.3g} µs"
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def when(timestamp: str) -> str:
    """A recorded time to the second, e.g. ``2026-11-21 02:30:52 UTC``."""
    return f"{timestamp[:10]} {timestamp[11:19]} UTC" if len(timestamp) >= 19 else timestamp


def count(amount: int, noun: str, plural: str = "") -> str:
    """``1 row``, ``1,200 rows``."""
    return f"{amount:,} {noun if amount == 1 else plural or f'{noun}s'}"


def metric(name: str) -> str:
    """A metric's name without the file that it is defined in."""
    return name.rpartition(":")[2]


def listed(values: Sequence[object], most: int = 12) -> str:
    """The first values, and how many more there are."""
    shown = ", ".join(str(value) for value in values[:most])
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"
