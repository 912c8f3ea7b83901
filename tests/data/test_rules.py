from datetime import date, datetime
from typing import Any

import polars as pl
import pytest

from interlock.data.rules import Agreed, Contract, Rule, check_rules
from interlock.errors import DataRefused

NOON_AND_LATER = [datetime.fromisoformat("2024-01-01T12:00"), datetime.fromisoformat("2024-01-01T13:00")]


def broken(values: list[Any], kind: Any, value: Any = 0) -> list[int]:
    """Places of cells that break one rule."""
    frame = pl.DataFrame({"a": values, "other": values}, strict=False)
    cells = check_rules(frame, [Rule(column="a", name="named", kind=kind, value=value)])
    assert set(cells["column"]) <= {"a"}
    assert set(cells["reason"]) <= {"breaks 'named' of the contract"}
    return cells["row"].to_list()


@pytest.mark.parametrize(
    ("values", "kind", "value", "rows"),
    [
        (["x", None, ""], "required", 0, [1]),
        (["x", "y", None], "allowed", ("x", "z"), [1]),
        (["x"], "allowed", (), [0]),
        ([1, 2, None], "allowed", ("1", "x"), [1]),
        ([1.0, 2.5], "allowed", ("1",), [1]),
        ([True, False], "allowed", ("true",), [1]),
        ([date(2024, 1, 1), date(2024, 1, 2)], "allowed", ("2024-01-01",), [1]),
        (["N/A", "x", None], "forbidden", ("N/A", "-"), [0]),
        ([-1, 0, 1, None], "at-least", 0, [0]),
        ([-1, 0, 1, None], "above", 0, [0, 1]),
        ([-1, 0, 1, None], "at-most", 0, [2]),
        ([-1, 0, 1, None], "below", 0, [1, 2]),
        ([0, 1, 2], "at-least", 0.5, [0]),
        ([2**53 + 1, 2**53], "at-most", 2**53, [0]),
        ([date(2024, 1, 1), date(2023, 1, 1), None], "at-least", "2024-01-01", [1]),
        (
            [datetime.fromisoformat("2024-01-01T12:00"), datetime.fromisoformat("2024-01-01T13:00")],
            "at-most",
            "2024-01-01T12:00:00",
            [1],
        ),
        (["", "ab", "äöü", None], "shortest", 3, [0, 1]),
        (["", "ab", "äöü"], "longest", 2, [2]),
        (["a1", "1a", "a", None], "pattern", "^[a-z][0-9]", [1, 2]),
        (["xay", "y"], "pattern", "a", [1]),
        ([10, -5, 7, None], "multiple", 5, [2]),
    ],
)
def test_each_rule_finds_the_cells_that_break_it(values: list[Any], kind: str, value: Any, rows: list[int]) -> None:
    assert broken(values, kind, value) == rows


def test_a_cell_is_told_once_by_the_first_rule_that_it_breaks() -> None:
    frame = pl.DataFrame({"a": [5, 50]})
    rules = [
        Rule(column="a", name="low", kind="at-least", value=10),
        Rule(column="a", name="odd", kind="below", value=1),
    ]
    assert check_rules(frame, rules)["reason"].to_list() == [
        "breaks 'low' of the contract",
        "breaks 'odd' of the contract",
    ]


def test_a_rule_about_a_column_that_is_not_there_breaks_nothing() -> None:
    assert check_rules(pl.DataFrame({"b": [1]}), [Rule(column="a", name="required", kind="required")]).is_empty()


def test_a_required_column_must_be_there() -> None:
    columns = tuple(Agreed(name=name, path=f"schema[0].{name}", required=name != "c") for name in "abc")
    contract = Contract(file="c.yaml", digest="", columns=columns)
    contract.require(["b", "a"], "x.csv")
    with pytest.raises(DataRefused) as caught:
        contract.require(["c"], "x.csv")
    assert caught.value.message == (
        "Column 'a' and 1 more is missing from x.csv, and c.yaml requires it (schema[0].a). Nothing was ingested."
    )
    assert caught.value.facts["missing"] == ["a", "b"]
