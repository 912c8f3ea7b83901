"""JSON lines, strictly: one object a line, no NaN or infinity, no key twice, no nesting."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from interlock.data.opening import Unreadable, check_names, shown
from interlock.data.raw import ROW, Raw

_KEY_END = re.compile(rb'"\s*:')


def read_json(path: Path, name: str) -> Raw:
    decoder = msgspec.json.Decoder(dict[str, Any])
    records: list[dict[str, Any]] = []
    numbers: list[int] = []
    bad: list[tuple[int, str, str]] = []
    raw: list[tuple[int, str]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            if not (records or bad) and text.lstrip().startswith(b"["):
                raise Unreadable(
                    f"{shown(name)} is one JSON array.", next_step="Write one object a line (JSON lines).", file=name
                )
            try:
                record = decoder.decode(text)
            except (msgspec.DecodeError, RecursionError):
                record, reason = {}, _json_fault(text)
            else:
                reason = "" if len(_KEY_END.findall(text)) == len(record) else _doubled(text)
                reason = (
                    reason or next((f"{key}" for key in record if not key.strip()), "") and "has a key without a name"
                )
            if reason:
                bad.append((number, "", reason))
                raw.append((number, text.decode().strip()))
            else:
                records.append(record)
                numbers.append(number)
    if not records:
        raise Unreadable(
            f"{shown(name)} holds no JSON object that could be read ({len(bad):,} lines are bad).",
            next_step="Write one object a line (JSON lines).",
            file=name,
        )
    return _records_frame(records, numbers, bad, raw)


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


def _records_frame(
    records: list[dict[str, Any]], numbers: list[int], bad: list[tuple[int, str, str]], raw: list[tuple[int, str]]
) -> Raw:
    names = tuple(dict.fromkeys(key for record in records for key in record))
    columns = [pl.Series(ROW, numbers, dtype=pl.Int64)]
    nested: set[int] = set()
    for name in names:
        values = [record.get(name) for record in records]
        kinds = set(map(type, values)) - {type(None)}
        if kinds & {dict, list}:
            for place, value in enumerate(values):
                if isinstance(value, dict | list):
                    bad.append((numbers[place], name, "is a list or an object, not a plain value"))
                    nested.add(place)
            values = [None if isinstance(value, dict | list) else value for value in values]
            kinds -= {dict, list}
        columns.append(_json_series(name, values, kinds))
    raw += [(numbers[place], json.dumps(records[place])) for place in sorted(nested)]
    return Raw(pl.DataFrame(columns), names, len(records) + sum(column == "" for _, column, _ in bad), bad, raw)


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


def _text(value: str | int | float | bool) -> str:  # noqa: FBT001
    return value if isinstance(value, str) else json.dumps(value)
