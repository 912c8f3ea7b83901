"""Read a contract in the Open Data Contract Standard (ODCS, version 3) as rules for one source: bytes in, record out.

https://bitol-io.github.io/open-data-contract-standard/ says what the fields mean. What states something about data
and is not enforced becomes a note with its JSON path; what only describes is passed over.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from interlock.data.casting import convert
from interlock.data.opening import same_but_for_case, shown
from interlock.data.plain_yaml import read_yaml
from interlock.data.rules import Agreed, Contract, Kind, Rule, Unique
from interlock.errors import SettingsError
from interlock.records import ColumnType, digest

VERSIONS = re.compile(r"v3\.[012]\.\d+")
TYPES: dict[str, ColumnType] = {
    "string": "str", "integer": "int", "number": "float", "boolean": "bool", "date": "date", "timestamp": "datetime",
}  # fmt: skip
MAX_NOTES = 50
OPEN = "typeIsOpen"
"""Custom property (true) of a column that never had a value: whatever ``logicalType`` says, any type is taken."""
_MAX_COLUMNS = 5_000
_INTEGERS = {f"{sign}{bits}" for sign in "iu" for bits in (8, 16, 32, 64)}
_BOUNDS: dict[str, Kind] = {
    "minimum": "at-least", "exclusiveMinimum": "above", "maximum": "at-most", "exclusiveMaximum": "below",
}  # fmt: skip
_LENGTHS: dict[str, Kind] = {"minLength": "shortest", "maxLength": "longest"}
_OLDER = {"nullCheck": "nullValues", "duplicateCount": "duplicateValues", "validValues": "invalidValues"}
"""Names of library rules before version 3.1, and their names since."""
_NONE_AT_ALL = ({"mustBe": 0}, {"mustBeLessThan": 1}, {"mustBeLessOrEqualTo": 0})

_PLAIN = {
    "id", "name", "physicalName", "physicalType", "logicalType", "description", "businessName", "tags", "synonyms",
    "customProperties", "authoritativeDefinitions", "deprecated",
}  # fmt: skip
"""Keys of an object or a property that only describe it (or are looked at elsewhere)."""
_OF_CONTRACT = _PLAIN | {
    "version", "kind", "apiVersion", "tenant", "status", "servers", "dataProduct", "domain", "context", "schema",
    "support", "price", "team", "roles", "contractCreatedTs", "slaDefaultElement",
}  # fmt: skip
_OF_OBJECT = _PLAIN | {"properties", "quality", "dataGranularityDescription", "context"}
_OF_PROPERTY = _PLAIN | {
    "primaryKey", "primaryKeyPosition", "logicalTypeOptions", "required", "unique", "quality", "enum", "examples",
    "classification", "semanticType", "criticalDataElement", "encryptedName", "transformSourceObjects",
    "transformLogic", "transformDescription", "partitioned", "partitionKeyPosition",
}  # fmt: skip
_OF_CHECK = {
    "id", "name", "description", "type", "metric", "rule", "arguments", "dimension", "severity", "unit", "tags",
    "businessImpact", "authoritativeDefinitions", "customProperties", "method", "validValues", "schedule", "scheduler",
}  # fmt: skip


def read_contract(data: bytes, *, file: str, source: str) -> Contract:
    """What the document says of the source: its only schema object, or the one of that name.

    Raises :class:`SettingsError`, naming the place, for what is no contract of version 3.
    """
    return _Reader(read_yaml(data, file), file).contract(source)


class _Reader:
    """One document: walks it, and gathers rules and notes. ``at`` is always the JSON path of what is looked at."""

    def __init__(self, document: Any, file: str) -> None:
        self._document, self._file = document, file
        self._notes: list[str] = []
        self._rules: list[Rule] = []
        self._unique: list[Unique] = []

    def contract(self, source: str) -> Contract:
        document = self._mapping(self._document, "the document")
        if document.get("kind", "DataContract") != "DataContract":
            raise self._wrong("kind", f"is '{_word(document['kind'])}' and not DataContract")
        version = document.get("apiVersion")
        if not isinstance(version, str) or not VERSIONS.fullmatch(version):
            found = "is missing" if version is None else f"is '{_word(version)}'"
            raise self._wrong("apiVersion", found, "Interlock reads v3.0 to v3.2 of the standard: write v3.1.0.")
        self._note_others(document, _OF_CONTRACT, "")
        place, chosen = self._object(document, source)
        at = f"schema[{place}]"
        self._note_others(chosen, _OF_OBJECT, at)
        properties = self._list(chosen.get("properties"), f"{at}.properties")
        if not properties or len(properties) > _MAX_COLUMNS:
            raise self._wrong(
                f"{at}.properties", f"lists {len(properties):,} columns, and 1 to {_MAX_COLUMNS:,} can be"
            )
        columns, keys = [], []
        for number, each in enumerate(properties):
            where = f"{at}.properties[{number}]"
            known = self._mapping(each, where)
            columns.append(self._column(known, where, version))
            if self._flag(known, "primaryKey", where):
                keys.append((self._position(known, where), columns[-1].name))
        self._refuse_twins([column.name for column in columns], f"{at}.properties")
        self._object_checks(chosen, at, {column.name for column in columns})
        return Contract(
            file=self._file,
            digest=digest(self._document),
            key=tuple(name for _, name in sorted(keys, key=lambda each: each[0])),
            columns=tuple(columns),
            rules=tuple(self._rules),
            unique=tuple(self._unique),
            notes=self._bounded_notes(),
        )

    # ---- the parts ---------------------------------------------------------------------------------------------------

    def _object(self, document: Mapping[str, Any], source: str) -> tuple[int, Mapping[str, Any]]:
        objects = [
            self._mapping(each, f"schema[{n}]") for n, each in enumerate(self._list(document.get("schema"), "schema"))
        ]
        if len(objects) == 1:
            return 0, objects[0]
        named = [n for n, each in enumerate(objects) if source in (each.get("name"), each.get("physicalName"))]
        if len(named) == 1:
            return named[0], objects[named[0]]
        names = ", ".join(f"'{_word(each.get('name'))}'" for each in objects[:10]) or "none"
        raise self._wrong(
            "schema",
            f"has {len(objects)} objects ({names}), and {len(named)} of them are called '{source}' as the source is",
            "Give the source the name of its object, as [data.sources.NAME].",
        )

    def _column(self, known: Mapping[str, Any], at: str, version: str) -> Agreed:
        name = known.get("physicalName") or known.get("name")
        if not isinstance(name, str) or not name:
            raise self._wrong(f"{at}.name", "is missing or no text")
        self._note_others(known, _OF_PROPERTY, at)
        kind = self._type(known, at, version)
        required = self._flag(known, "required", at)
        if required:
            self._rules.append(Rule(column=name, name="required", kind="required"))
        if self._flag(known, "unique", at):
            self._unique.append(Unique(columns=(name,), name="unique"))
        options = self._mapping(known.get("logicalTypeOptions") or {}, f"{at}.logicalTypeOptions")
        for option, value in options.items():
            self._option(name, kind, option, value, f"{at}.logicalTypeOptions.{option}")
        if "enum" in known:
            values = [
                self._mapping(each, f"{at}.enum").get("value") for each in self._list(known["enum"], f"{at}.enum")
            ]
            self._values(name, kind, "allowed", "enum", values, f"{at}.enum")
        for number, check in enumerate(self._list(known.get("quality"), f"{at}.quality")):
            self._check(name, kind, self._mapping(check, f"{at}.quality[{number}]"), f"{at}.quality[{number}]")
        return Agreed(name=name, path=at, type=kind, required=required)

    def _type(self, known: Mapping[str, Any], at: str, version: str) -> ColumnType | None:
        name = known.get("logicalType")
        customs = self._list(known.get("customProperties"), f"{at}.customProperties")
        if name is None or any(isinstance(each, dict) and _is_open(each) for each in customs):
            return None
        kind = TYPES.get(name) if isinstance(name, str) else None
        physical = str(known.get("physicalType", "")).lower()
        if kind == "date" and version.startswith("v3.0.") and physical.startswith(("timestamp", "datetime")):
            return "datetime"  # version 3.0 knows no timestamp
        if kind is None:
            self._note(f"{at}.logicalType", f"'{_word(name)}' is no type of a column here, and any is taken")
        return kind

    def _option(self, column: str, kind: ColumnType | None, option: str, value: Any, at: str) -> None:
        """One of ``logicalTypeOptions``."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        ordered = number if kind in ("int", "float") else isinstance(value, str) and kind in ("date", "datetime")
        if option in _BOUNDS and ordered:
            if isinstance(value, str) and convert(pl.Series([value]), kind or "str")[1] is not None:
                raise self._wrong(at, f"is no {kind}", "Write it as 2024-12-31, or 2024-12-31T23:59:59.")
            self._rules.append(Rule(column=column, name=option, kind=_BOUNDS[option], value=value))
        elif option in _LENGTHS and kind == "str" and isinstance(value, int) and not isinstance(value, bool):
            self._rules.append(Rule(column=column, name=option, kind=_LENGTHS[option], value=value))
        elif option == "pattern" and kind == "str":
            self._pattern(column, option, value, at)
        elif option == "multipleOf" and kind == "int" and isinstance(value, int) and value > 0:
            self._rules.append(Rule(column=column, name=option, kind="multiple", value=value))
        elif option == "format" and kind == "int" and value in _INTEGERS:
            self._rules += _within(column, value)
        elif (option, value) not in {("timezone", False), ("defaultTimezone", "UTC"), ("defaultTimezone", "Etc/UTC")}:
            self._note(at, "is not enforced")

    def _check(self, column: str, kind: ColumnType | None, check: Mapping[str, Any], at: str) -> None:
        """A rule of ``quality``: those of the library that allow no row at all are enforced."""
        metric = self._metric(check, at)
        if metric is None:
            return
        given = self._mapping(check.get("arguments") or {}, f"{at}.arguments")
        name = _named(check, metric)
        if metric == "nullValues":
            self._rules.append(Rule(column=column, name=name, kind="required"))
        elif metric == "duplicateValues":
            self._unique.append(Unique(columns=(column,), name=name))
        elif metric == "missingValues" and isinstance(given.get("missingValues"), list):
            values = given["missingValues"]
            if None in values or "" in values:
                self._rules.append(Rule(column=column, name=name, kind="required"))
            listed = [value for value in values if value not in (None, "")]
            self._values(column, kind, "forbidden", name, listed, f"{at}.arguments.missingValues")
        elif metric == "invalidValues" and {*given, *check} & {"validValues", "pattern"}:
            if "pattern" in given:
                self._pattern(column, name, given["pattern"], f"{at}.arguments.pattern")
            values = given.get("validValues", check.get("validValues"))
            if values is not None:
                where = f"{at}.arguments.validValues"
                self._values(column, kind, "allowed", name, self._list(values, where), where)
            for other in sorted(given.keys() - {"validValues", "pattern"}):
                self._note(f"{at}.arguments.{other}", "is not enforced")
        else:
            self._note(at, f"'{name}' is not enforced")

    def _metric(self, check: Mapping[str, Any], at: str) -> str | None:
        """The library's rule, when it is one that forbids each row that breaks it; else a note."""
        found = check.get("metric", check.get("rule"))
        metric = _OLDER.get(found, found) if isinstance(found, str) else None
        limits = {key: value for key, value in check.items() if key.startswith(("mustBe", "mustNotBe"))}
        older = not limits and found in ("validValues", "nullCheck")
        others = check.keys() - limits.keys() - _OF_CHECK
        strict = limits in _NONE_AT_ALL and not isinstance(next(iter(limits.values())), bool)
        if check.get("type", "library") == "library" and metric and (strict or older) and not others:
            return metric
        self._note(at, f"'{_named(check, metric or str(check.get('type', 'it')))}' is not enforced")
        return None

    def _object_checks(self, chosen: Mapping[str, Any], at: str, columns: set[str]) -> None:
        for number, each in enumerate(self._list(chosen.get("quality"), f"{at}.quality")):
            where = f"{at}.quality[{number}]"
            check = self._mapping(each, where)
            metric = self._metric(check, where)
            given = self._mapping(check.get("arguments") or {}, f"{where}.arguments").get("properties")
            if (
                metric == "duplicateValues"
                and isinstance(given, list)
                and given
                and columns.issuperset(map(str, given))
            ):
                self._unique.append(Unique(columns=tuple(map(str, given)), name=_named(check, metric)))
            elif metric is not None:
                self._note(where, f"'{_named(check, metric)}' is not enforced")

    def _pattern(self, column: str, name: str, value: Any, at: str) -> None:
        try:
            pl.Series([""]).str.contains(value if isinstance(value, str) else "[", strict=True)
        except pl.exceptions.PolarsError:
            self._note(at, "is no regular expression that can be enforced (there is no look-around, no back-reference)")
        else:
            self._rules.append(Rule(column=column, name=name, kind="pattern", value=value))

    def _values(self, column: str, kind: ColumnType | None, what: Kind, name: str, values: list[Any], at: str) -> None:
        """A list of allowed or forbidden values, each of which must fit the column."""
        texts = []
        for number, value in enumerate(values):
            if not isinstance(value, str | int | float):
                raise self._wrong(f"{at}[{number}]", "is no plain value")
            texts.append(str(value).lower() if isinstance(value, bool) else str(value))
        if kind not in (None, "str"):
            failed = convert(pl.Series(texts, dtype=pl.String), kind)[1]
            if failed is not None:
                raise self._wrong(f"{at}[{failed.arg_true()[0]}]", f"is no {kind}, which the column is")
        if texts or what == "allowed":
            self._rules.append(Rule(column=column, name=name, kind=what, value=tuple(texts)))

    # ---- shapes, notes and errors ------------------------------------------------------------------------------------

    def _mapping(self, value: Any, at: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong(at, "is no mapping of keys to values")
        return value

    def _list(self, value: Any, at: str) -> list[Any]:
        if value is not None and not isinstance(value, list):
            raise self._wrong(at, "is no list")
        return value or []

    def _flag(self, known: Mapping[str, Any], key: str, at: str) -> bool:
        value = known.get(key, False)
        if not isinstance(value, bool):
            raise self._wrong(f"{at}.{key}", "is neither true nor false")
        return value

    def _position(self, known: Mapping[str, Any], at: str) -> int:
        value = known.get("primaryKeyPosition", -1)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(f"{at}.primaryKeyPosition", "is no whole number")
        return value

    def _refuse_twins(self, names: list[str], at: str) -> None:
        twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
        twins = (twice, twice) if twice is not None else same_but_for_case(names)
        if twins is not None:
            raise self._wrong(at, f"has '{_word(twins[0])}' and '{_word(twins[1])}', which are one name")

    def _note_others(self, known: Mapping[str, Any], usual: set[str], at: str) -> None:
        for key in known:
            if key not in usual:
                self._note(f"{at}.{shown(key, 60)}".lstrip("."), "is not enforced")

    def _note(self, at: str, what: str) -> None:
        self._notes.append(
            f"{shown(self._file)}: {at} {what}" if what[0] != "'" else f"{shown(self._file)}: {at}: {what}"
        )

    def _bounded_notes(self) -> tuple[str, ...]:
        more = len(self._notes) - MAX_NOTES
        return (*self._notes[:MAX_NOTES], *([f"{shown(self._file)}: {more} more are not enforced"] if more > 0 else []))

    def _wrong(self, at: str, what: str, next_step: str = "") -> SettingsError:
        return SettingsError(
            f"{shown(self._file)}: {at} {what}.",
            next_step=next_step or "Mend it as the Open Data Contract Standard says (version 3).",
            place=at,
        )


def _within(column: str, integer: str) -> Iterator[Rule]:
    """The range of i8 … u64, as far as it is narrower than that of a column of whole numbers (i64)."""
    bits = int(integer[1:])
    if integer[0] == "u":
        yield Rule(column=column, name="format", kind="at-least", value=0)
    high = 2 ** (bits - (integer[0] == "i"))
    if high < 2**63:
        yield Rule(column=column, name="format", kind="below", value=high)
        if integer[0] == "i":
            yield Rule(column=column, name="format", kind="at-least", value=-high)


def _named(check: Mapping[str, Any], metric: str) -> str:
    name = check.get("name")
    return shown(name, 60) if isinstance(name, str) and name else metric


def _is_open(custom: Mapping[str, Any]) -> bool:
    return custom.get("property") == OPEN and custom.get("value") is True


def _word(value: Any) -> str:
    return shown(str(value), 40)
