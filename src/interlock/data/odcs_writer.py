"""Write the signature of a source as a contract in the Open Data Contract Standard (ODCS 3.1).

The same signature gives the same bytes. Of the rows themselves nothing is written but what the signature keeps: the
values of columns with few of them, and ranges of numbers; nothing of the key, whose next value is a new one, no range
of dates, which go on, and no values at all when it is asked to be without.
"""

import uuid
from typing import Any

from interlock.data.layout import Layout, undecided
from interlock.data.odcs import OPEN
from interlock.data.plain_yaml import write_yaml
from interlock.records import Column, ColumnType, Record, digest, short

_EXACT = 2**53
_WRITTEN: dict[ColumnType, tuple[str, str]] = {
    "bool": ("boolean", "BOOLEAN"),
    "int": ("integer", "BIGINT"),
    "float": ("number", "DOUBLE"),
    "str": ("string", "VARCHAR"),
    "date": ("date", "DATE"),
    "datetime": ("timestamp", "TIMESTAMP"),
}
"""logicalType, and the physicalType that the rows have in the lake (in SQL's words)."""
_DUPLICATES = {
    "keep-last": "A key that comes again replaces the row that was there.",
    "keep-first": "A key that comes again is left out; the row that was there stays.",
    "refuse": "A file with a key that is there already is refused whole.",
}


class Known(Record, frozen=True, kw_only=True):
    """What a contract says beside the columns. inbox: as in the settings. format: that of the first accepted file."""

    project: str
    source: str
    inbox: str
    format: str
    on_duplicate: str


def contract_text(layout: Layout, known: Known, *, with_values: bool = True) -> str:
    """The contract as YAML."""
    return write_yaml(contract_document(layout, known, with_values=with_values))


def contract_document(layout: Layout, known: Known, *, with_values: bool = True) -> dict[str, Any]:
    """The contract as mappings and lists; its ``id`` is of project and source, its ``version`` of what it says."""
    schema = {
        "name": known.source,
        "logicalType": "object",
        "physicalType": "file",
        "properties": [_property(column, layout.key, with_values=with_values) for column in layout.columns],
    }
    duplicates = _DUPLICATES[known.on_duplicate] if layout.key else "A row that comes again as it was is left out."
    return {
        "apiVersion": "v3.1.0",
        "kind": "DataContract",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:interlock:{known.project}:{known.source}")),
        "name": f"{known.project}.{known.source}",
        "version": f"1.0.0+{short(digest([schema, known.on_duplicate]))}",
        "status": "active",
        "servers": [_server(known)],
        "schema": [schema],
        "customProperties": [{"property": "onDuplicate", "value": known.on_duplicate, "description": duplicates}],
    }


def _server(known: Known) -> dict[str, Any]:
    if known.inbox.startswith("s3://"):
        return {"server": "inbox", "type": "s3", "location": known.inbox, "format": known.format}
    return {"server": "inbox", "type": "local", "path": known.inbox, "format": known.format}


def _property(column: Column, key: tuple[str, ...], *, with_values: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"name": column.name}
    told["logicalType"], told["physicalType"] = _WRITTEN.get(column.type, _WRITTEN["str"])
    if undecided(column) or column.type not in _WRITTEN:  # the standard's schema wants a type all the same
        told["customProperties"] = [{"property": OPEN, "value": True, "description": "Any type is taken."}]
    told["required"] = column.name in key or not column.nullable
    if column.name in key:
        told["primaryKey"] = True
        told["primaryKeyPosition"] = key.index(column.name) + 1
        if len(key) == 1:
            told["unique"] = True
    with_values = with_values and column.name not in key
    options = _options(column, with_values=with_values)
    if options:
        told["logicalTypeOptions"] = options
    if with_values and column.type == "str" and column.categories:
        told["quality"] = [
            {
                "type": "library",
                "metric": "invalidValues",
                "arguments": {"validValues": list(column.categories)},
                "mustBe": 0,
            }
        ]
    return told


def _options(column: Column, *, with_values: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"format": "i64"} if column.type == "int" else {}
    if column.type == "datetime":
        options["timezone"] = False
    if with_values:
        bounds = {"minimum": _bound(column, column.low), "maximum": _bound(column, column.high)}
        options |= {name: bound for name, bound in bounds.items() if bound is not None}
    return options


def _bound(column: Column, value: float | str | None) -> int | float | None:
    """An end of the range of a number; None where it is not known exactly."""
    if value is None or isinstance(value, str) or column.type not in ("int", "float"):
        return None
    if column.type == "int":  # the signature keeps ranges as floats
        return int(value) if abs(value) < _EXACT else None
    return value
