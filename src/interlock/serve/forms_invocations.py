"""``POST /invocations`` as SageMaker and MLflow have it: one object with one of four members.

``dataframe_split`` (``columns``, ``data``; an ``index`` is left alone), ``dataframe_records``, ``instances`` (records,
lists of values, or values of the only column) and ``inputs`` (the same, or an object with a list for each column).
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from interlock.answer.reading import malformed
from interlock.model.rows import Row
from interlock.serve.forms import Asked, Form, How, Pen, Records

_MEMBERS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_ONE = f"Send one of {', '.join(_MEMBERS)}."


class _Invocation(msgspec.Struct, forbid_unknown_fields=True):
    dataframe_split: msgspec.UnsetType | msgspec.Raw = msgspec.UNSET
    dataframe_records: msgspec.UnsetType | msgspec.Raw = msgspec.UNSET
    instances: msgspec.UnsetType | msgspec.Raw = msgspec.UNSET
    inputs: msgspec.UnsetType | msgspec.Raw = msgspec.UNSET
    params: msgspec.UnsetType | dict[str, Any] | None = msgspec.UNSET


class _Split(msgspec.Struct, forbid_unknown_fields=True):
    data: list[list[Any]]
    columns: msgspec.UnsetType | list[str] | None = msgspec.UNSET
    index: msgspec.UnsetType | list[Any] | None = msgspec.UNSET


_Read: TypeAlias = tuple[Sequence[Row], int]
"""Rows, and how many names the member's objects have when each that is known is there once."""


def invocation_form(records: Records, pen: Pen) -> Form:
    """The form of ``/invocations`` for JSON; raises :class:`DataRefused`."""
    reader, members = records.reader, _Members(records)
    whole = msgspec.json.Decoder(_Invocation)

    def invocations(body: bytes, how: How) -> Asked:
        found = reader.decode(whole, body)
        given = [name for name in _MEMBERS if getattr(found, name) is not msgspec.UNSET]
        if len(given) != 1:
            raise malformed(f"The body has {len(given)} of the members that hold records.", _ONE)
        if found.params:
            raise malformed("The model takes no 'params'.", "Leave them out.")
        rows, names = getattr(members, given[0])(getattr(found, given[0]))
        reader.once(body, 1 + (found.params is not msgspec.UNSET) + names)
        return Asked(records.together(rows), pen.of("predictions", how))

    return invocations


class _Members:
    """What reads each member. The methods have the members' names."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._reader = reader = records.reader
        self._split = msgspec.json.Decoder(_Split)
        self._listed: Any = msgspec.json.Decoder(list[reader.record])  # type: ignore[name-defined]
        self._several = msgspec.json.Decoder(records.several)
        self._single = msgspec.json.Decoder(reader.record)
        self._by_column = msgspec.json.Decoder(dict[str, Any])

    def dataframe_split(self, raw: bytes) -> _Read:
        found: _Split = self._reader.decode(self._split, raw)
        members = sum(each is not msgspec.UNSET for each in msgspec.structs.astuple(found))
        self._records.bound(len(found.data))
        columns = found.columns or None
        if columns and len(set(columns)) != len(columns):
            raise malformed("'columns' names one twice.", "Name each once.")
        for row, values in enumerate(found.data):
            if columns and len(values) != len(columns):
                raise malformed(
                    f"Record {row} has {len(values)} values, 'columns' names {len(columns)}.", "Send one for each."
                )
        return [self._reader.listed(values, columns or None, row) for row, values in enumerate(found.data)], members

    def dataframe_records(self, raw: bytes) -> _Read:
        found = self._reader.decode(self._listed, raw)
        self._records.bound(len(found))
        return self._reader.rows(found), self._records.width * len(found)

    def instances(self, raw: bytes) -> _Read:
        found = self._reader.decode(self._several, raw)
        self._records.bound(len(found))
        return [self._records.row(value, row) for row, value in enumerate(found)], self._records.names(found)

    def inputs(self, raw: bytes) -> _Read:
        if not bytes(raw).lstrip().startswith(b"{"):
            return self.instances(raw)
        columns = self._reader.decode(self._by_column, raw)
        if not any(isinstance(values, list) for values in columns.values()):
            return [self._reader.row(self._reader.decode(self._single, raw))], len(columns)
        lists = _lists(columns)
        self._records.bound(len(next(iter(lists.values()))))
        rows = enumerate(zip(*lists.values(), strict=True))
        return [self._reader.listed(values, list(lists), row) for row, values in rows], len(columns)


def _lists(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns of equal length; one of lists of one value each is flattened, as tensors of shape (n, 1) are sent."""
    lists = {}
    for name, values in columns.items():
        if not isinstance(values, list):
            raise malformed("Some columns of 'inputs' are lists and some are not.", "Send a list for each column.")
        nested = bool(values) and all(isinstance(value, list) and len(value) == 1 for value in values)
        lists[name] = [value[0] for value in values] if nested else values
    if len({len(values) for values in lists.values()}) != 1:
        raise malformed("The columns of 'inputs' are not of one length.", "Send a value of each record in each.")
    return lists
