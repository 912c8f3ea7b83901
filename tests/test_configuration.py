"""Settings from the file, environments, variables and --set; what is wrong is named with its line."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.configuration import find_project, json_schema, line_of, load_settings
from interlock.errors import NotFound, SettingsError
from interlock.settings import seconds

BASE = """[model]
name = "parts"
task = "classification"
target = "ok"

[data]
inbox = "data"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "interlock.toml").write_text(BASE)
    return tmp_path


def _write(project: Path, text: str) -> Path:
    (project / "interlock.toml").write_text(text)
    return project


def test_defaults_are_those_of_the_design(project: Path) -> None:
    settings = load_settings(project)
    assert settings.gate.confidence == 0.95
    assert settings.data.max_bad_rows == 0.01
    assert settings.data.holdout.fraction == 0.2
    assert settings.home == project.resolve() / ".interlock"
    assert list(settings.sources) == ["data"]
    assert settings.sources["data"].inbox == "data"


def test_later_layers_win(project: Path) -> None:
    _write(project, BASE + "[gate]\nmin_gain = 0.1\n[env.prod.gate]\nmin_gain = 0.2\n")
    variables = {"INTERLOCK_GATE__MIN_GAIN": "0.3", "INTERLOCK_ENV": "ignored here"}
    assert load_settings(project).gate.min_gain == 0.1
    assert load_settings(project, environment="prod").gate.min_gain == 0.2
    assert load_settings(project, environment="prod", variables=variables).gate.min_gain == 0.3
    found = load_settings(project, environment="prod", variables=variables, overrides=["gate.min_gain=0.4"])
    assert found.gate.min_gain == 0.4
    assert found.environment == "prod"


def test_values_from_outside_are_typed(project: Path) -> None:
    found = load_settings(
        project,
        variables={"INTERLOCK_MODEL__NAME": "renamed", "INTERLOCK_GATE__SLICES": '["a", "b"]'},
        overrides=["gate.approval=true", "params.depth=3", "params.note=free text"],
    )
    assert found.model.name == "renamed"
    assert found.gate.slices == ("a", "b")
    assert found.gate.approval is True
    assert found.params == {"depth": 3, "note": "free text"}


def test_variables_take_the_spelling_of_the_file(project: Path) -> None:
    _write(project, BASE + "[params]\nN_Trees = 10\n")
    assert load_settings(project, variables={"INTERLOCK_PARAMS__N_TREES": "20"}).params == {"N_Trees": 20}


def test_a_holdout_is_replaced_whole(project: Path) -> None:
    _write(project, BASE + 'holdout = { fraction = 0.3 }\n[env.late.data]\nholdout = { inbox = "data/test" }\n')
    assert load_settings(project, environment="late").data.holdout.fraction is None


@pytest.mark.parametrize(
    ("text", "fact", "next_step"),
    [
        (BASE + "[gate]\nat_lest = 0.5\n", "'gate.at_lest' (line 9)", "'at_least'"),
        (BASE + "[gates]\nat_least = 0.5\n", "'gates' (line 8)", "'gate'"),
        (BASE + "[env.prod.gate]\nat_lest = 0.5\n", "'env.prod.gate.at_lest' (line 9)", "'at_least'"),
        (BASE + "zzz = 1\n", "'data.zzz' (line 8)", "keys here"),
        (BASE + '[gate]\nat_least = "much"\n', "'gate.at_least' (line 9)", "score must reach"),
        (BASE.replace('"parts"', '"a/../b"'), "'model.name' (line 2)", ""),
        (BASE.replace('"classification"', '"classify"'), "'model.task' (line 3)", "regression"),
        (BASE.replace('target = "ok"', 'target = "ok"\ndeadline = "60 days"'), "'model.deadline' (line 5)", "28d"),
        (BASE.replace('target = "ok"', ""), "model.target is empty", "[model]"),
        (BASE.replace('inbox = "data"', ""), "data.inbox is not set", "folder"),
        (BASE + 'holdout = { last = "28d" }\n', "last and time together", "time"),
        (BASE + 'holdout = { fraction = 0.1, inbox = "x" }\n', "fraction and inbox", "Set one"),
        (BASE + "[data.sources.a]\ninbox = 'x'\n", "an inbox of its own and sources", "one"),
        ("[model]\nname=1 2\n", "not valid TOML", "line"),
        ("[gate]\n", "no [model]", "[model]"),
        (BASE + "[store]\nstate = 'mysql://user:secret@host/db'\n", "'mysql' is not supported", "sqlite"),
        (BASE + "[store]\nstate = 'user:secret@host/db'\n", "'user' is not supported", "postgresql"),
        (BASE + "[store]\nstate = 'sqlite://relative.db'\n", "'sqlite' is not supported", "without options"),
        (BASE + "[store]\nstate = 'sqlite:///a.db?mode=ro'\n", "'sqlite' is not supported", "without options"),
        (BASE + "[store]\nschema = 'pg_mine'\n", "'store.schema'", "not beginning with pg_"),
        (BASE + "[store]\nschema = 'a; drop'\n", "'store.schema'", "Lower-case letters"),
        (BASE + '[batch]\ninbox = "./data"\n', "the same place", "own"),
        (BASE + '[batch]\ninbox = "x"\noutput = "x"\n', "batch.output and batch.inbox", "own"),
        (BASE + 'holdout = { inbox = "data" }\n', "data.holdout.inbox and the inbox", "own"),
        (BASE + 'new_columns = "add"\n', "needs a key", "key"),
        (BASE + "[params]\nrate = nan\n", "not finite", "default"),
        (BASE.replace('inbox = "data"', '[data.sources."a b"]\ninbox = "x"'), "'a b' cannot be", "letters"),
    ],
)
def test_what_is_wrong_is_named(project: Path, text: str, fact: str, next_step: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(_write(project, text))
    assert fact in caught.value.message
    assert next_step in caught.value.next_step
    assert "secret" not in str(caught.value)


def test_two_sources_need_a_query(project: Path) -> None:
    text = BASE.replace('[data]\ninbox = "data"', "[data.sources.a]\ninbox='a'\n[data.sources.b]\ninbox='b'")
    with pytest.raises(SettingsError, match=r"no data\.query"):
        load_settings(_write(project, text))


@pytest.mark.parametrize("text", ["gate.at_least", "=3", ""])
def test_a_set_without_a_value_is_refused(project: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="no key and value"):
        load_settings(project, overrides=[text])


def test_unknown_keys_from_outside_are_refused(project: Path) -> None:
    with pytest.raises(SettingsError, match="Unknown key 'gatee'"):
        load_settings(project, variables={"INTERLOCK_GATEE__X": "1"})
    with pytest.raises(SettingsError, match=r"There is no \[env\.prd\]"):
        load_settings(project, environment="prd")


def test_internal_fields_cannot_be_set(project: Path) -> None:
    with pytest.raises(SettingsError, match="Unknown key 'root'"):
        load_settings(project, overrides=["root=/"])


def test_the_project_is_found_from_below(project: Path) -> None:
    below = project / "a" / "b"
    below.mkdir(parents=True)
    assert find_project(below) == project.resolve()
    with pytest.raises(NotFound, match=r"interlock\.toml"):
        load_settings(below)


def test_a_file_that_is_not_text(project: Path) -> None:
    (project / "interlock.toml").write_bytes(b"\xff\xfe[model]")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load_settings(project)


@pytest.mark.parametrize(
    ("text", "expected"), [("250ms", 0.25), ("90s", 90), ("1.5h", 5400), ("28d", 28 * 86400), ("2w", 1209600)]
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


@given(st.text(max_size=8))
def test_a_duration_is_a_number_of_seconds_or_an_error(text: str) -> None:
    try:
        length = seconds(text)
    except SettingsError:
        length = 0.0
    assert length >= 0


def test_lines_of_inline_tables_are_those_of_their_key() -> None:
    assert line_of("[data]\nholdout = { fraction = 2 }\n", "data.holdout.fraction") == 2
    assert line_of("a = 1\n", "b.c") is None


def test_the_schema_knows_every_section() -> None:
    schema = json_schema()
    properties = schema["$defs"]["Settings"]["properties"]
    assert {"model", "params", "data", "gate", "batch", "store", "env"} == set(properties)
    assert json.dumps(schema)
