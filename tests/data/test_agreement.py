from typing import Any

import pytest

from interlock.configuration import load_settings
from interlock.data import slices
from interlock.data.agreement import Held, agreed, contract_of, with_contracts
from interlock.data.ingest import ingest
from interlock.data.plain_yaml import write_yaml
from interlock.data.snapshot import make_snapshot
from interlock.errors import SettingsError
from interlock.records import FileResult
from interlock.settings import HoldoutSpec, Source

HEAD = "id,x,y\n"


def contract(*properties: dict[str, Any], name: str = "data", **more: Any) -> str:
    schema = [{"name": name, "properties": list(properties), **more}]
    return write_yaml({"apiVersion": "v3.1.0", "kind": "DataContract", "id": "1", "version": "1", "schema": schema})


ID = {"name": "id", "logicalType": "integer", "primaryKey": True, "required": True}
X = {"name": "x", "logicalType": "number", "logicalTypeOptions": {"maximum": 10}}
Y = {
    "name": "y",
    "logicalType": "string",
    "required": True,
    "quality": [
        {"metric": "invalidValues", "name": "known labels", "arguments": {"validValues": ["no", "yes"]}, "mustBe": 0}
    ],
}


def run(project: Any) -> list[FileResult]:
    return ingest(project.parts, project.turn, "data")


def quarantined(project: Any) -> list[tuple[int, str, str]]:
    frame = project.parts.tables.scan("quarantine/data").collect()
    return sorted(frame.select("row", "column", "reason").rows())


def stored(project: Any) -> list[tuple[Any, ...]]:
    return project.parts.tables.scan("sources/data").collect().select("id", "x", "y").rows()


@pytest.fixture
def held(project: Any) -> Any:
    (project.root / "c.yaml").write_text(contract(ID, X, Y))
    project.set(contract="c.yaml", max_bad_rows=0.8)
    return project


def test_rows_that_break_a_rule_are_quarantined_with_its_name(held: Any) -> None:
    held.put("a.csv", HEAD + "1,0.5,yes\n2,10.5,no\n3,,no\n4,1,maybe\n5,1,\n6,10,secret\n")
    (result,) = run(held)
    assert (result.status, result.accepted, result.quarantined) == ("accepted", 2, 4)
    assert stored(held) == [(1, 0.5, "yes"), (3, None, "no")]
    assert quarantined(held) == [
        (2, "x", "breaks 'maximum' of the contract"),
        (4, "y", "breaks 'known labels' of the contract"),
        (5, "y", "breaks 'required' of the contract"),
        (6, "y", "breaks 'known labels' of the contract"),
    ]


def test_they_count_and_a_person_is_told_the_rule_and_no_value(held: Any) -> None:
    held.set(max_bad_rows=0.1)
    held.put("a.csv", HEAD + "1,0.5,yes\n2,10.5,no\n3,1,secret\n4,2,secret\n")
    (result,) = run(held)
    assert result.status == "refused"
    assert result.reason == (
        "3 of 4 rows are bad, 10.00% are allowed: 2 x column 'y' breaks 'known labels' of the contract (first in row 3)"
        "; 1 x column 'x' breaks 'maximum' of the contract (first in row 2). Nothing was ingested."
    )


def test_it_counts_in_files_that_come_in_slices(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_BYTES", 64)
    held.put("a.csv", HEAD + "".join(f"{n},{n},{'yes' if n % 2 else 'no'}\n" for n in range(40)))
    (result,) = run(held)
    assert (result.accepted, result.quarantined) == (11, 29)


def test_a_file_without_a_required_column_is_refused_the_first_one_too(held: Any) -> None:
    held.put("a.csv", "id,x\n1,2\n")
    (result,) = run(held)
    assert result.status == "refused"
    assert result.reason == (
        "Column 'y' is missing from a.csv, and c.yaml requires it (schema[0].properties[2]). Nothing was ingested."
    )


def test_a_column_that_is_not_required_may_be_missing_from_the_first_file(held: Any) -> None:
    held.put("a.csv", "id,y\n1,yes\n")
    (result,) = run(held)
    assert result.status == "accepted"
    assert "the contract names column 'x', which is not there" in result.notes


def test_its_types_hold_from_the_first_file_on(held: Any) -> None:
    (held.root / "c.yaml").write_text(contract(ID | {"logicalType": "string"}, X, Y))
    held.put("a.csv", HEAD + "007,1,yes\n8,2,no\n")
    run(held)
    assert stored(held) == [("007", 1.0, "yes"), ("8", 2.0, "no")]


def test_its_key_finds_duplicates(held: Any) -> None:
    held.put("a.csv", HEAD + "1,0.5,yes\n")
    held.put("b.csv", HEAD + "1,0.7,no\n")
    first, second = run(held)
    assert (first.updated, second.updated) == (0, 1)


def test_a_changed_contract_tries_refused_files_again(held: Any) -> None:
    held.set(max_bad_rows=0.0)
    held.put("a.csv", HEAD + "1,11,yes\n")
    assert [result.status for result in run(held)] == ["refused"]
    assert run(held) == []
    wider = X | {"logicalTypeOptions": {"maximum": 20}}
    (held.root / "c.yaml").write_text(contract(ID, wider, Y))
    assert [result.status for result in run(held)] == ["accepted"]
    (held.root / "c.yaml").write_text(contract(ID, X, Y))
    assert run(held) == []


def test_what_is_not_enforced_is_said_once_and_recorded(held: Any) -> None:
    note = "c.yaml: schema[0].properties[1].logicalTypeOptions.multipleOf is not enforced"
    (held.root / "c.yaml").write_text(contract(ID, X | {"logicalTypeOptions": {"multipleOf": 0.5}}, Y))
    held.put("a.csv", HEAD + "1,2,yes\n")
    run(held)
    run(held)
    assert held.said.count(note) == 1
    document = held.parts.ledger.read("contract", "data", Held)
    assert (document.file, document.notes) == ("c.yaml", (note,))
    events = held.parts.ledger.events(kinds=["contract.read"])
    assert [(event.subject, event.facts["digest"]) for event in events] == [("data", document.digest)]


def test_the_inbox_of_the_holdout_is_under_the_contract_of_its_source(held: Any) -> None:
    held.set(holdout=HoldoutSpec(inbox="held"))
    held.put("a.csv", HEAD + "1,11,yes\n2,1,yes\n", inbox="held")
    (result,) = ingest(held.parts, held.turn, "holdout")
    assert (result.accepted, result.quarantined) == (1, 1)


# ---- uniqueness


MAIL = {"name": "x", "logicalType": "string", "unique": True}


@pytest.fixture
def mails(project: Any) -> Any:
    (project.root / "c.yaml").write_text(contract(ID, MAIL, Y))
    project.set(contract="c.yaml", max_bad_rows=0.9)
    return project


def test_a_value_belongs_to_one_key_in_a_file_and_across_files(mails: Any) -> None:
    mails.put("a.csv", HEAD + "1,a@,yes\n2,a@,yes\n3,,no\n4,,no\n5,b@,no\n")
    (first,) = run(mails)
    assert (first.accepted, first.quarantined) == (4, 1)
    mails.put("b.csv", HEAD + "6,b@,yes\n7,c@,yes\n5,b@,yes\n")
    (second,) = run(mails)
    assert (second.accepted, second.quarantined, second.updated) == (2, 1, 1)
    cells = mails.parts.tables.scan("quarantine/data").collect()
    found = cells.select("name", "row", "column", "reason", "raw").rows()
    assert found == [
        ("a.csv", 2, "x", "breaks 'unique' of the contract", '{"id":"2","x":"a@","y":"yes"}'),
        ("b.csv", 1, "x", "breaks 'unique' of the contract", '{"id":"6","x":"b@","y":"yes"}'),
    ]


def test_a_value_that_its_row_has_given_up_is_free(mails: Any) -> None:
    mails.put("a.csv", HEAD + "1,a@,yes\n")
    mails.put("b.csv", HEAD + "1,b@,yes\n2,a@,yes\n")
    mails.put("c.csv", HEAD + "3,a@,yes\n")
    mails.put("d.csv", HEAD + "2,c@,yes\n")
    mails.put("e.csv", HEAD + "4,a@,yes\n")
    assert [(result.accepted, result.quarantined) for result in run(mails)] == [(1, 0), (2, 0), (0, 1), (1, 0), (1, 0)]


def test_without_a_key_a_whole_row_may_come_again(mails: Any) -> None:
    keyless = {"name": "id", "logicalType": "integer", "required": True}
    (mails.root / "c.yaml").write_text(contract(keyless, MAIL, Y))
    mails.put("a.csv", HEAD + "1,a@,yes\n1,a@,yes\n2,a@,yes\n")
    mails.put("b.csv", HEAD + "1,a@,yes\n3,a@,yes\n")
    counts = [(result.accepted, result.duplicates, result.quarantined) for result in run(mails)]
    assert counts == [(1, 1, 1), (0, 1, 1)]


def test_keep_first_lets_the_stored_row_keep_its_value(mails: Any) -> None:
    mails.set(on_duplicate="keep-first")
    mails.put("a.csv", HEAD + "1,a@,yes\n")
    mails.put("b.csv", HEAD + "1,b@,yes\n2,a@,yes\n")
    assert [(result.accepted, result.quarantined) for result in run(mails)] == [(1, 0), (0, 1)]


def test_columns_may_be_unique_together(mails: Any) -> None:
    check = {"metric": "duplicateValues", "arguments": {"properties": ["x", "y"]}, "mustBe": 0, "name": "pairs"}
    (mails.root / "c.yaml").write_text(contract(ID, MAIL | {"unique": False}, Y, quality=[check]))
    mails.put("a.csv", HEAD + "1,a@,yes\n2,a@,no\n3,a@,yes\n")
    (result,) = run(mails)
    assert (result.accepted, result.quarantined) == (2, 1)
    assert quarantined(mails) == [(3, "x", "breaks 'pairs' of the contract")]


# ---- with the settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key": ("x",)}, "data.key is ['x'], and c.yaml says otherwise (primaryKey of id)."),
        (
            {"types": {"x": "str"}},
            "data.types says str for column 'x', and c.yaml says otherwise (schema[0].properties[1].logicalType).",
        ),
        (
            {"nullable": ("y",)},
            "data.nullable names column 'y', and c.yaml says otherwise (schema[0].properties[2].required).",
        ),
        (
            {"optional": ("y",)},
            "data.optional names column 'y', and c.yaml says otherwise (schema[0].properties[2].required).",
        ),
    ],
)
def test_contradictions_name_both_places(held: Any, fields: dict[str, Any], message: str) -> None:
    held.set(**fields)
    for act in (lambda: run(held), lambda: with_contracts(held.parts.settings)):
        with pytest.raises(SettingsError) as caught:
            act()
        assert caught.value.message == message
        assert caught.value.next_step == "Take it out of the settings, or change the contract."


def test_settings_and_contract_complete_each_other(held: Any) -> None:
    held.set(types={"x": "float", "z": "int"}, nullable=("z", "*"))
    settings = with_contracts(held.parts.settings)
    (source,) = settings.sources.values()
    assert source.key == ("id",)
    assert source.types == {"id": "int", "x": "float", "y": "str", "z": "int"}
    assert source.nullable == ("z", "*", "x")
    assert with_contracts(settings) == settings


def test_a_project_of_several_sources_reads_one_document(held: Any) -> None:
    objects = [{"name": "a", "properties": [ID]}, {"name": "b", "properties": [{**X, "primaryKey": True}]}]
    text = write_yaml({"apiVersion": "v3.0.0", "kind": "DataContract", "schema": objects})
    (held.root / "c.yaml").write_text(text)
    sources = {"a": Source(inbox="in", contract="c.yaml"), "b": Source(inbox="b", contract="c.yaml")}
    held.set(contract="", inbox="", sources=sources)
    found = with_contracts(held.parts.settings).sources
    assert (found["a"].key, found["b"].key) == (("id",), ("x",))
    held.set(sources={"c": Source(inbox="in", contract="c.yaml")})
    with pytest.raises(SettingsError, match=r"schema has 2 objects \('a', 'b'\), and 0 of them are called 'c'"):
        with_contracts(held.parts.settings)


def test_new_columns_need_a_key_from_one_of_the_two(held: Any) -> None:
    held.set(new_columns="add")
    assert with_contracts(held.parts.settings).data.key == ("id",)
    (held.root / "c.yaml").write_text(contract({"name": "id"}))
    with pytest.raises(
        SettingsError, match=r"data.new_columns = 'add' needs a key, and c.yaml has none \(primaryKey\)"
    ):
        with_contracts(held.parts.settings)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.yaml", "The contract gone.yaml cannot be read: No such file or directory."),
        ("../c.yaml", "The contract ../c.yaml is no file of the project."),
        ("in", "The contract in cannot be read: Is a directory."),
    ],
)
def test_a_contract_is_a_file_of_the_project(held: Any, name: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        contract_of(held.parts.settings, Source(contract=name), "data")
    assert caught.value.message == message


def test_completing_is_idempotent(held: Any) -> None:
    found = contract_of(held.parts.settings, held.parts.settings.sources["data"], "data")
    once = agreed(held.parts.settings.sources["data"], found, "data")
    assert agreed(once, found, "data") == once


def test_a_contract_of_all_sources_is_refused_where_it_is_written(tmp_path: Any) -> None:
    (tmp_path / "interlock.toml").write_text(
        '[model]\nname="m"\ntask="custom"\n[data]\ncontract="c.yaml"\n[data.sources.a]\ninbox="a"\n'
    )
    with pytest.raises(SettingsError, match=r"\[data\] has a contract of its own and sources"):
        load_settings(tmp_path)


def test_a_snapshot_says_which_contracts_its_sources_were_held_against(project: Any) -> None:
    rows = HEAD + "".join(f"{n},{n % 10},{'yes' if n % 2 else 'no'}\n" for n in range(60))
    project.put("a.csv", rows)
    run(project)
    assert make_snapshot(project.parts, project.turn).contracts == {}
    (project.root / "c.yaml").write_text(contract(ID, X, Y))
    project.set(contract="c.yaml")
    project.put("b.csv", rows.replace("\n1", "\n7"))
    run(project)
    made = make_snapshot(project.parts, project.turn)
    document = project.parts.ledger.read("contract", "data", Held)
    assert made.contracts == {"data": document.digest}
    (event,) = project.parts.ledger.events(kinds=["snapshot.made"], subject=made.digest)
    assert event.facts["contracts"] == made.contracts
