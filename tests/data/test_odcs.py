from typing import Any

import pytest

from interlock.data.odcs import read_contract
from interlock.data.plain_yaml import write_yaml
from interlock.data.rules import Agreed, Contract, Rule, Unique
from interlock.errors import SettingsError

ORDERS = """
# A contract in the style of the standard's own examples.
apiVersion: v3.1.0
kind: DataContract
id: 53581432-6c55-4ba2-a65f-72344a91553a
name: orders
version: 1.1.0
domain: sales
status: active
tenant: shop
tags: [sales]
description:
  purpose: Orders of the web shop.
  usage: Forecasts only.
servers:
  - server: production
    type: s3
    location: s3://shop/orders
    format: csv
schema:
  - name: customers
    properties:
      - {name: id, logicalType: string}
  - name: orders
    logicalType: object
    physicalType: file
    description: One row for each order.
    dataGranularityDescription: order
    properties:
      - name: order
        physicalName: order_id
        businessName: Order
        logicalType: integer
        physicalType: bigint
        primaryKey: true
        primaryKeyPosition: 2
        required: true
        logicalTypeOptions: {minimum: 1, format: i32}
      - name: shop
        logicalType: string
        primaryKey: true
        primaryKeyPosition: 1
        required: true
        quality:
          - metric: invalidValues
            arguments: {validValues: [NO, SE, 47]}
            mustBe: 0
      - name: amount
        logicalType: number
        required: true
        logicalTypeOptions: {exclusiveMinimum: 0, maximum: 1e4}
        quality:
          - {name: mostly there, metric: nullValues, mustBeLessThan: 5, unit: percent}
      - name: mail
        logicalType: string
        unique: true
        classification: restricted
        examples: [a@b.c]
        logicalTypeOptions: {pattern: '^\\S+@\\S+$', maxLength: 80, format: email}
        quality:
          - {metric: missingValues, arguments: {missingValues: [null, N/A]}, mustBe: 0}
      - name: ordered
        logicalType: date
        logicalTypeOptions: {minimum: 2020-01-01, format: yyyy-MM-dd}
      - name: paid_at
        logicalType: timestamp
        logicalTypeOptions: {timezone: false, exclusiveMaximum: '2100-01-01T00:00:00'}
      - name: gift
        logicalType: boolean
      - name: lines
        logicalType: array
        items: {logicalType: string}
      - name: anything
        relationships: [{to: customers.id}]
    quality:
      - {metric: rowCount, mustBeGreaterThan: 10}
      - {metric: duplicateValues, arguments: {properties: [mail, ordered]}, mustBe: 0, name: one a day}
      - {type: sql, query: select 1, mustBe: 1, name: by hand}
      - {type: text, description: Please be nice.}
slaProperties:
  - {property: latency, value: 4, unit: d}
"""


def read(text: str, source: str = "orders") -> Contract:
    return read_contract(text.encode(), file="orders.yaml", source=source)


def document(**property: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v3.1.0",
        "kind": "DataContract",
        "id": "1",
        "version": "1",
        "schema": [{"name": "t", "properties": [{"name": "a", **property}]}],
    }


def column(**property: Any) -> Contract:
    return read(write_yaml(document(**property)))


def test_a_contract_in_the_style_of_the_standard() -> None:
    found = read(ORDERS)
    assert found.key == ("shop", "order_id")
    at = "schema[1].properties"
    assert found.columns == (
        Agreed(name="order_id", path=f"{at}[0]", type="int", required=True),
        Agreed(name="shop", path=f"{at}[1]", type="str", required=True),
        Agreed(name="amount", path=f"{at}[2]", type="float", required=True),
        Agreed(name="mail", path=f"{at}[3]", type="str"),
        Agreed(name="ordered", path=f"{at}[4]", type="date"),
        Agreed(name="paid_at", path=f"{at}[5]", type="datetime"),
        Agreed(name="gift", path=f"{at}[6]", type="bool"),
        Agreed(name="lines", path=f"{at}[7]"),
        Agreed(name="anything", path=f"{at}[8]"),
    )
    assert found.rules == (
        Rule(column="order_id", name="required", kind="required"),
        Rule(column="order_id", name="minimum", kind="at-least", value=1),
        Rule(column="order_id", name="format", kind="below", value=2**31),
        Rule(column="order_id", name="format", kind="at-least", value=-(2**31)),
        Rule(column="shop", name="required", kind="required"),
        Rule(column="shop", name="invalidValues", kind="allowed", value=("NO", "SE", "47")),
        Rule(column="amount", name="required", kind="required"),
        Rule(column="amount", name="exclusiveMinimum", kind="above", value=0),
        Rule(column="amount", name="maximum", kind="at-most", value=10_000.0),
        Rule(column="mail", name="pattern", kind="pattern", value=r"^\S+@\S+$"),
        Rule(column="mail", name="maxLength", kind="longest", value=80),
        Rule(column="mail", name="missingValues", kind="required"),
        Rule(column="mail", name="missingValues", kind="forbidden", value=("N/A",)),
        Rule(column="ordered", name="minimum", kind="at-least", value="2020-01-01"),
        Rule(column="paid_at", name="exclusiveMaximum", kind="below", value="2100-01-01T00:00:00"),
    )
    assert found.unique == (
        Unique(columns=("mail",), name="unique"),
        Unique(columns=("mail", "ordered"), name="one a day"),
    )
    assert found.notes == (
        "orders.yaml: slaProperties is not enforced",
        f"orders.yaml: {at}[2].quality[0]: 'mostly there' is not enforced",
        f"orders.yaml: {at}[3].logicalTypeOptions.format is not enforced",
        f"orders.yaml: {at}[4].logicalTypeOptions.format is not enforced",
        f"orders.yaml: {at}[7].items is not enforced",
        f"orders.yaml: {at}[7].logicalType: 'array' is no type of a column here, and any is taken",
        f"orders.yaml: {at}[8].relationships is not enforced",
        "orders.yaml: schema[1].quality[0]: 'rowCount' is not enforced",
        "orders.yaml: schema[1].quality[2]: 'by hand' is not enforced",
        "orders.yaml: schema[1].quality[3]: 'text' is not enforced",
    )


def test_the_digest_is_of_what_it_says_and_not_of_how() -> None:
    assert read(ORDERS).digest == read(ORDERS.replace("# A contract", "# The contract")).digest
    assert read(ORDERS).digest != read(ORDERS.replace("maximum: 1e4", "maximum: 2e4")).digest


def test_a_document_about_one_table_is_about_any_source() -> None:
    assert column().columns == (Agreed(name="a", path="schema[0].properties[0]"),)


@pytest.mark.parametrize(
    ("check", "rules"),
    [
        ({"rule": "nullCheck"}, [("nullCheck", "required", 0)]),
        ({"rule": "validValues", "validValues": ["x"]}, [("validValues", "allowed", ("x",))]),
        ({"metric": "nullValues", "mustBeLessThan": 1}, [("nullValues", "required", 0)]),
        ({"metric": "nullValues", "mustBe": 0, "name": "no gaps"}, [("no gaps", "required", 0)]),
        (
            {"metric": "invalidValues", "arguments": {"pattern": "^x"}, "mustBe": 0},
            [("invalidValues", "pattern", "^x")],
        ),
    ],
)
def test_rules_of_the_library(check: dict[str, Any], rules: list[Any]) -> None:
    found = column(logicalType="string", quality=[check])
    names = {"nullCheck": "nullValues", "validValues": "invalidValues"}
    assert [(rule.name, rule.kind, rule.value) for rule in found.rules] == [
        (names.get(name, name), kind, value) for name, kind, value in rules
    ]
    assert found.notes == ()


@pytest.mark.parametrize(
    "check",
    [
        {"metric": "nullValues", "mustBe": 3},
        {"metric": "nullValues"},
        {"metric": "nullValues", "mustBe": False},
        {"metric": "nullValues", "mustBe": 0, "unheardOf": 1},
        {"metric": "rowCount", "mustBe": 0},
        {"metric": "invalidValues", "mustBe": 0},
        {"metric": "invalidValues", "arguments": {"pattern": "(?=x)"}, "mustBe": 0},
        {"metric": "invalidValues", "arguments": {"pattern": "["}, "mustBe": 0},
        {"type": "custom", "engine": "soda", "implementation": "x"},
        {},
    ],
)
def test_what_is_not_enforced_is_told(check: dict[str, Any]) -> None:
    found = column(logicalType="string", quality=[check])
    assert found.rules == () == found.unique
    (note,) = found.notes
    assert note.startswith("orders.yaml: schema[0].properties[0].quality[0]")
    assert "enforced" in note


@pytest.mark.parametrize(
    ("logical", "options"),
    [
        ("string", {"minimum": 1}),
        ("date", {"minimum": 1}),
        ("integer", {"minimum": "1"}),
        ("integer", {"minimum": True}),
        ("integer", {"multipleOf": 0.5}),
        ("number", {"multipleOf": 2}),
        ("timestamp", {"timezone": True}),
        ("timestamp", {"defaultTimezone": "Europe/Oslo"}),
        ("integer", {"format": "i128"}),
        ("boolean", {"maxLength": 2}),
    ],
)
def test_an_option_that_does_not_fit_is_told(logical: str, options: dict[str, Any]) -> None:
    found = column(logicalType=logical, logicalTypeOptions=options)
    (name,) = options
    assert found.rules == ()
    assert found.notes == (f"orders.yaml: schema[0].properties[0].logicalTypeOptions.{name} is not enforced",)


def test_values_may_be_listed_as_an_enumeration() -> None:
    found = column(logicalType="integer", enum=[{"value": 1, "label": "one"}, {"value": 2}])
    assert found.rules == (Rule(column="a", name="enum", kind="allowed", value=("1", "2")),)


def test_version_3_0_has_no_timestamp() -> None:
    old = document(logicalType="date", physicalType="TIMESTAMP(6)") | {"apiVersion": "v3.0.2"}
    assert read(write_yaml(old)).columns[0].type == "datetime"
    assert column(logicalType="date", physicalType="TIMESTAMP(6)").columns[0].type == "date"


def test_notes_are_bounded() -> None:
    many = document() | {"schema": [{"name": "t", "properties": [{"name": f"c{n}", "map": {}} for n in range(80)]}]}
    notes = read(write_yaml(many)).notes
    assert len(notes) == 51
    assert notes[-1] == "orders.yaml: 30 more are not enforced"


P = "schema[0].properties"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "DataProduct"}, "orders.yaml: kind is 'DataProduct' and not DataContract."),
        ({"apiVersion": "v2.2.2"}, "orders.yaml: apiVersion is 'v2.2.2'."),
        ({"apiVersion": None}, "orders.yaml: apiVersion is missing."),
        ({"apiVersion": 3}, "orders.yaml: apiVersion is '3'."),
        (
            {"schema": None},
            "orders.yaml: schema has 0 objects (none), and 0 of them are called 'orders' as the source is.",
        ),
        (
            {"schema": [{"name": "a"}, {"name": "b"}]},
            "orders.yaml: schema has 2 objects ('a', 'b'), and 0 of them are called 'orders' as the source is.",
        ),
        ({"schema": {"name": "a"}}, "orders.yaml: schema is no list."),
        ({"schema": ["a"]}, "orders.yaml: schema[0] is no mapping of keys to values."),
        ({"schema": [{"name": "t"}]}, f"orders.yaml: {P} lists 0 columns, and 1 to 5,000 can be."),
        ({"properties": [{"logicalType": "string"}]}, f"orders.yaml: {P}[0].name is missing or no text."),
        ({"properties": [{"name": "a"}, {"name": "A"}]}, f"orders.yaml: {P} has 'a' and 'A', which are one name."),
        ({"properties": [{"name": "a"}, {"name": "a"}]}, f"orders.yaml: {P} has 'a' and 'a', which are one name."),
        (
            {"properties": [{"name": "a", "required": "yes"}]},
            f"orders.yaml: {P}[0].required is neither true nor false.",
        ),
        (
            {"properties": [{"name": "a", "primaryKey": True, "primaryKeyPosition": "1"}]},
            f"orders.yaml: {P}[0].primaryKeyPosition is no whole number.",
        ),
        ({"properties": [{"name": "a", "quality": {}}]}, f"orders.yaml: {P}[0].quality is no list."),
        (
            {"properties": [{"name": "a", "logicalType": "integer", "enum": [{"value": 1}, {"value": "x"}]}]},
            f"orders.yaml: {P}[0].enum[1] is no int, which the column is.",
        ),
        ({"properties": [{"name": "a", "enum": [{"value": [1]}]}]}, f"orders.yaml: {P}[0].enum[0] is no plain value."),
        (
            {"properties": [{"name": "a", "logicalType": "date", "logicalTypeOptions": {"minimum": "tomorrow"}}]},
            f"orders.yaml: {P}[0].logicalTypeOptions.minimum is no date.",
        ),
    ],
)
def test_what_is_no_contract_is_told_with_its_place(changed: dict[str, Any], message: str) -> None:
    whole = document() | {key: value for key, value in changed.items() if key != "properties"}
    if "properties" in changed:
        whole["schema"][0]["properties"] = changed["properties"]
    with pytest.raises(SettingsError) as caught:
        read(write_yaml(whole))
    assert caught.value.message == message
    assert caught.value.next_step


def test_a_text_that_is_no_mapping() -> None:
    for text in ("", "- a", "just words"):
        with pytest.raises(SettingsError, match=r"orders.yaml: the document is no mapping of keys to values"):
            read(text)
