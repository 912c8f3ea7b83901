import json
import re
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from data.conftest import make_project
from interlock.data.ingest import ingest
from interlock.data.layout import Layout, undecided
from interlock.data.odcs import TYPES, read_contract
from interlock.data.odcs_writer import Known, contract_document, contract_text
from interlock.data.rules import Contract
from interlock.records import Column

KNOWN = Known(project="shop", source="orders", inbox="data/in", format="csv", on_duplicate="keep-last")
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
WORDS = st.sampled_from(["no", "NO", "1", "2024-01-01", "", "null", "a b", "é", "1e5"]) | NAMES
NUMBERS = st.floats(-1e15, 1e15) | st.integers(-(2**40), 2**40).map(float)


@st.composite
def columns(draw: Any, name: str) -> Column:
    kind = draw(st.sampled_from(["bool", "int", "float", "str", "date", "datetime"]))
    found = Column(name=name, type=kind, nullable=draw(st.booleans()))
    if kind == "str":
        words = draw(st.none() | st.sets(WORDS, max_size=5))
        return msgspec.structs.replace(found, categories=None if words is None else tuple(sorted(words)))
    if kind in ("int", "float"):
        low, high = sorted(draw(st.tuples(NUMBERS, NUMBERS)))
        ends = (float(int(low)), float(int(high))) if kind == "int" else (low, high)
        return msgspec.structs.replace(found, low=ends[0], high=ends[1])
    if kind in ("date", "datetime"):
        return msgspec.structs.replace(found, low="2024-01-01", high="2024-12-31")
    return found


@st.composite
def layouts(draw: Any) -> Layout:
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique_by=str.casefold))
    found = tuple(draw(columns(name)) for name in names)
    key = draw(st.permutations(names))[: draw(st.integers(0, len(names)))]
    return Layout(columns=found, key=tuple(key))


def kept(layout: Layout) -> list[Column]:
    """What a contract says of the columns: nothing of the key's values, of dates' ranges, of both values of a bool."""
    found = []
    for column in layout.columns:
        numeric, held = column.type in ("int", "float"), column.name not in layout.key
        found.append(
            Column(
                name=column.name,
                type=column.type,
                nullable=column.nullable and held,
                categories=column.categories or None if column.type == "str" and held else None,
                low=column.low if numeric and held else None,
                high=column.high if numeric and held else None,
            )
        )
    return found


def said(contract: Contract) -> list[Column]:
    """The columns as a contract has them."""
    rules = {(rule.column, rule.kind): rule.value for rule in contract.rules if rule.name != "format"}

    def number(name: str, kind: str) -> float | None:
        value = rules.get((name, kind))
        return float(value) if isinstance(value, int | float) else None

    return [
        Column(
            name=each.name,
            type=each.type or "str",
            nullable=not each.required,
            categories=rules.get((each.name, "allowed")),  # type: ignore[arg-type]
            low=number(each.name, "at-least"),
            high=number(each.name, "at-most"),
        )
        for each in contract.columns
    ]


@given(layouts())
def test_a_signature_is_read_back_as_it_was_written(layout: Layout) -> None:
    text = contract_text(layout, KNOWN)
    assert text == contract_text(layout, KNOWN)
    contract = read_contract(text.encode(), file="c.yaml", source="orders")
    assert said(contract) == kept(layout)
    assert contract.key == layout.key
    assert contract.notes == ()


@given(layouts())
def test_without_values_there_are_none(layout: Layout) -> None:
    document = contract_document(layout, KNOWN, with_values=False)
    for column in document["schema"][0]["properties"]:
        assert "quality" not in column
        assert not {"minimum", "maximum"} & column.get("logicalTypeOptions", {}).keys()


OF_CONTRACT = {"apiVersion", "kind", "id", "name", "version", "status", "servers", "schema", "customProperties"}
OF_PROPERTY = {
    "name", "logicalType", "physicalType", "required", "primaryKey", "primaryKeyPosition", "unique", "quality",
    "logicalTypeOptions", "customProperties",
}  # fmt: skip
OPTIONS = {"integer": {"format", "minimum", "maximum"}, "number": {"minimum", "maximum"}, "timestamp": {"timezone"}}


@given(layouts(), st.sampled_from(["data/in", "s3://shop/in"]))
def test_what_is_written_keeps_the_rules_of_the_standard(layout: Layout, inbox: str) -> None:
    """Required and allowed keys, types and forms of version 3.1, as its JSON schema states them."""
    document = yaml.safe_load(contract_text(layout, msgspec.structs.replace(KNOWN, inbox=inbox)))
    assert set(document) == OF_CONTRACT
    assert (document["apiVersion"], document["kind"]) == ("v3.1.0", "DataContract")
    assert re.fullmatch(r"[0-9a-f-]{36}", document["id"])
    (server,) = document["servers"]
    place = {"local": {"path", "format"}, "s3": {"location", "format"}}[server["type"]]
    assert set(server) == {"server", "type"} | place
    (schema,) = document["schema"]
    assert set(schema) == {"name", "logicalType", "physicalType", "properties"}
    assert schema["logicalType"] == "object"
    for told in schema["properties"]:
        assert set(told) <= OF_PROPERTY
        assert told["logicalType"] in TYPES  # the schema of 3.2 refuses a property without one
        assert set(told.get("logicalTypeOptions", {})) <= OPTIONS.get(told.get("logicalType", ""), set())
        assert all(isinstance(told.get(flag, False), bool) for flag in ("required", "primaryKey", "unique"))
        for check in told.get("quality", []):
            assert check.keys() == {"type", "metric", "arguments", "mustBe"}
            assert (check["type"], check["metric"], check["mustBe"]) == ("library", "invalidValues", 0)
    for told in document["customProperties"]:
        assert set(told) == {"property", "value", "description"}


@pytest.fixture(scope="module")
def official() -> Any:
    """The standard's own JSON schema, as its publishers ship it, and their models of a document."""
    needed = "needs open-data-contract-standard, which ships the official schema"
    package = pytest.importorskip("open_data_contract_standard.model", reason=needed)
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
    schema = json.loads((Path(package.__file__).parent / "schema.json").read_text("utf-8"))
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    return validator(schema), package.OpenDataContractStandard


@given(layouts(), st.sampled_from(["data/in", "s3://shop/in"]), st.booleans(), st.sampled_from(["csv", "parquet"]))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_valid_by_the_official_schema(
    official: Any, layout: Layout, inbox: str, values: bool, kind: str
) -> None:
    schema, model = official
    known = msgspec.structs.replace(KNOWN, inbox=inbox, format=kind)
    text = contract_text(layout, known, with_values=values)
    faults = [f"{error.json_path}: {error.message}"[:300] for error in schema.iter_errors(yaml.safe_load(text))]
    assert faults == []
    assert model.from_string(text).schema_[0].name == "orders"


def test_the_official_schema_can_refuse(official: Any) -> None:
    schema, _ = official
    document = contract_document(Layout(columns=(Column(name="a", type="int", nullable=False),)), KNOWN)
    assert list(schema.iter_errors(document)) == []
    document["schema"][0]["properties"][0]["logicalType"] = "whole number"
    assert list(schema.iter_errors(document)) != []
    assert list(schema.iter_errors({**document, "kind": "Contract"})) != []


def test_identity_is_of_the_source_and_version_of_what_is_said() -> None:
    one = Layout(columns=(Column(name="a", type="int", nullable=False, low=1.0, high=2.0),))
    two = Layout(columns=(Column(name="a", type="int", nullable=False, low=1.0, high=3.0),))
    first, second = contract_document(one, KNOWN), contract_document(two, KNOWN)
    other = contract_document(one, msgspec.structs.replace(KNOWN, source="customers"))
    assert first["id"] == second["id"] != other["id"]
    assert first["version"] != second["version"]


def test_an_int_beyond_what_a_float_holds_has_no_bound() -> None:
    layout = Layout(columns=(Column(name="a", type="int", nullable=False, low=0.0, high=float(2**53)),))
    (told,) = contract_document(layout, KNOWN)["schema"][0]["properties"]
    assert told["logicalTypeOptions"] == {"format": "i64", "minimum": 0}


def test_a_column_that_never_had_a_value_keeps_its_type_open() -> None:
    column = Column(name="a", type="str", nullable=True, categories=())
    assert undecided(column)
    (told,) = contract_document(Layout(columns=(column,)), KNOWN)["schema"][0]["properties"]
    assert told["customProperties"] == [{"property": "typeIsOpen", "value": True, "description": "Any type is taken."}]
    text = contract_text(Layout(columns=(column,)), KNOWN)
    assert read_contract(text.encode(), file="c.yaml", source="orders").columns[0].type is None


CELLS = {
    "n": st.sampled_from(["1", "2", "-7", "", "x"]),
    "f": st.sampled_from(["0.5", "1e3", "", "2"]),
    "s": st.sampled_from(["no", "yes", "NO", "", "é"]),
    "d": st.sampled_from(["2024-01-01", "2023-05-05", ""]),
}
ROWS = st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=8)


@pytest.mark.slow
@settings(max_examples=25)
@given(ROWS, st.booleans())
def test_a_source_under_its_own_contract_takes_the_same_rows(rows: list[dict[str, str]], keyed: bool) -> None:
    """Export, read back, take the same file in: the same rows, the same signature."""
    content = "id,n,f,s,d\n" + "".join(f"{n},{','.join(row.values())}\n" for n, row in enumerate(rows))
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for name in ("first", "second"):
            root = Path(folder) / name
            root.mkdir()
            key = {"key": ("id",)} if keyed and name == "first" else {}
            project = make_project(root, max_bad_rows=1.0, **key)
            if name == "second" and found[0][1] is not None:
                (root / "c.yaml").write_text(contract_text(found[0][1], KNOWN))
                project.set(contract="c.yaml")
            project.put("a.csv", content)
            (result,) = ingest(project.parts, project.turn, "data")
            layout = project.parts.ledger.read("columns", "data", Layout)
            counts = (result.status, result.rows, result.accepted, result.duplicates, result.quarantined)
            stored = [] if layout is None else project.parts.tables.scan("sources/data").collect().to_dicts()
            found.append((counts, layout, stored))
        assert found[0] == found[1]
