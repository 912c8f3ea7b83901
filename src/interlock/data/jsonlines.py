"""JSON lines, strictly: one object a line, no NaN or infinity, no key twice, no nesting."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl

from interlock.data.opening import Unreadable, check_names, shown
from interlock.data.raw import ROW, Raw

_KEY_END = re.compile(rb'"\s*:')
_DECODER = msgspec.json.Decoder(dict[str, Any])


def read_json(path: Path, name: str) -> Raw:
    """Read one object a line; a line that is none is a bad row. Raises :class:`Unreadable` when not one line is."""
    lines = _Lines([], [], [], [])
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                _take(text, number, lines)
            if lines.bad and not lines.records and text.lstrip().startswith(b"["):
                raise Unreadable(
                    f"{shown(name)} is a JSON array.", next_step="Write one object a line (JSON lines).", file=name
                )
    if not lines.records:
        raise Unreadable(
            f"{shown(name)} holds no JSON object that could be read ({len(lines.bad):,} lines are bad).",
            next_step="Write one object a line (JSON lines).",
            file=name,
        )
    check_names(tuple(dict.fromkeys(key for record in lines.records for key in record)), name)
    return _table(lines)


class _Lines(NamedTuple):
    """Objects and the numbers of their lines; cells and texts of the lines that are bad."""

    records: list[dict[str, Any]]
    numbers: list[int]
    bad: list[tuple[int, str, str]]
    raw: list[tuple[int, str]]


def _take(text: bytes, number: int, lines: _Lines) -> None:
    try:
        record = _DECODER.decode(text)
    except (msgspec.DecodeError, RecursionError):
        reason = _json_fault(text)
    else:
        # every key ends with a quote and a colon: as many of those as keys means that no key came twice
        reason = "" if len(_KEY_END.findall(text)) == len(record) else _doubled(text)
        if not reason:
            lines.records.append(record)
            lines.numbers.append(number)
            return
    lines.bad.append((number, "", reason))
    lines.raw.append((number, text.decode().strip()))


def _doubled(text: bytes) -> str:
    """Reason for a line that may hold a key twice, or empty."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in items}) < len(items):
            raise KeyError
        return dict(items)

    try:
        json.loads(text, object_pairs_hook=pairs)
    except KeyError:
        return "holds the same key twice"
    return ""


def _json_fault(text: bytes) -> str:
    """Why a line is no JSON object, in words that hold none of it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "is not valid JSON"
    return "holds NaN or an infinity, which JSON does not have" if isinstance(value, dict) else "is not a JSON object"


def _table(lines: _Lines) -> Raw:
    """One column for each key of any object; lists and objects inside are bad cells."""
    numbers, bad = lines.numbers, lines.bad
    whole = len(numbers) + len(bad)
    names = tuple(dict.fromkeys(key for record in lines.records for key in record))
    columns = [pl.Series(ROW, numbers, dtype=pl.Int64)]
    nested: set[int] = set()
    for name in names:
        values = [record.get(name) for record in lines.records]
        kinds = set(map(type, values)) - {type(None)}
        if kinds & {dict, list}:
            places = [place for place, value in enumerate(values) if isinstance(value, dict | list)]
            bad += [(numbers[place], name, "is a list or an object, not a plain value") for place in places]
            nested.update(places)
            values = [None if isinstance(value, dict | list) else value for value in values]
        columns.append(_json_series(name, values, kinds - {dict, list}))
    raw = [*lines.raw, *((numbers[place], json.dumps(lines.records[place])) for place in sorted(nested))]
    return Raw(pl.DataFrame(columns), names, whole, bad, raw)


def _json_series(name: str, values: list[Any], kinds: set[type]) -> pl.Series:
    """A column of one JSON kind as that type, of several kinds as text."""
    exact = {frozenset({bool}): pl.Boolean(), frozenset({int}): pl.Int64(), frozenset({float}): pl.Float64()}
    dtype = exact.get(frozenset(kinds)) or (pl.Float64() if kinds == {int, float} else None)
    if dtype is not None:
        try:
            return pl.Series(name, values, dtype=dtype, strict=dtype != pl.Float64())
        except (pl.exceptions.PolarsError, OverflowError, TypeError):
            pass
    if kinds <= {str}:
        return pl.Series(name, values, dtype=pl.String)
    return pl.Series(name, [None if value is None else _text(value) for value in values], dtype=pl.String)


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else json.dumps(value)
