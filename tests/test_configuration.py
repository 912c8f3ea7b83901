"""Settings from the file, environments, variables and --set; what is wrong is named with its line."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.configuration import find_project, json_schema, line_of, load_settings
from interlock.errors import NotFound, SettingsError
from interlock.settings import Dimension
from interlock.units import seconds

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
    sections = {
        "model",
        "params",
        "data",
        "script",
        "tune",
        "gate",
        "batch",
        "store",
        "lineage",
        "serve",
        "breaker",
        "canary",
        "load",
        "env",
    }
    assert sections == set(properties)
    assert json.dumps(schema)


# ---- [tune] ------------------------------------------------------------------------------------------------------

TUNE = BASE + "[tune]\ntrials = 5\n[tune.space]\n"


@pytest.mark.parametrize(
    ("line", "whole", "inside", "outside"),
    [
        ("x = { low = 1, high = 9 }", True, (1, 9), (0, 10, 2.5, True, "3")),
        ("x = { low = 1, high = 9, step = 4 }", True, (1, 5, 9), (3, 10)),
        ("x = { low = 1.0, high = 9 }", False, (1, 2.5), (0.9, 9.1, False)),
        ("x = { low = 0, high = 1, step = 0.1 }", False, (0.3, 0.7), (0.25,)),
        ("x = { choices = [1, false, 'a', 2.5] }", False, (1, False, "a", 2.5), (True, 0, "b", 1.0)),
    ],
)
def test_a_space_is_read_by_the_type_of_its_literals(
    line: str, whole: bool, inside: tuple[object, ...], outside: tuple[object, ...], project: Path
) -> None:
    dimension = load_settings(_write(project, TUNE + line)).tune.space["x"]
    assert dimension.choices or dimension.whole is whole
    assert all(dimension.holds(value) for value in inside)
    assert not any(dimension.holds(value) for value in outside)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x = { low = 3 }", "tune.space.x has neither choices nor both of low and high"),
        ("x = { low = 3, high = 3 }", "tune.space.x is empty: low is 3 and high is 3"),
        ("x = { low = 4, high = 3 }", "tune.space.x is empty"),
        ("x = { low = 0, high = 3, log = true }", "by order of magnitude"),
        ("x = { low = 1, high = 3, log = true, step = 1 }", "by order of magnitude"),
        ("x = { low = 1, high = 3, step = 5 }", "has a step of 5 between 1 and 3"),
        ("x = { low = 1, high = 3, step = 0 }", "has a step of 0"),
        ("x = { low = 1, high = inf }", "not finite"),
        ("x = { choices = [1] }", "two different choices or more"),
        ("x = { choices = [1, 1] }", "two different choices or more"),
        ("x = { choices = [1, nan] }", "not finite"),
        ("x = { choices = [1, 2], low = 1 }", "choices and a range"),
        ("x = { low = 1, hihg = 3 }", "Unknown key 'tune.space.x.hihg'"),
        ("'no name' = { low = 1, high = 3 }", "cannot be the name of a parameter"),
        ("x = { low = 1, high = 3 }\n[params]\nx = 4", "params.x is 4, which tune.space.x does not hold"),
        ("", "tune.trials is 5, and tune.space names no parameter"),
    ],
)
def test_an_impossible_space_is_refused(line: str, words: str, project: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(_write(project, TUNE + line))
    assert words in caught.value.message
    assert caught.value.next_step


def test_a_parameter_may_be_fixed_and_searched(project: Path) -> None:
    settings = load_settings(
        _write(project, TUNE + "x = { low = 1, high = 3 }\ny = { low = 1, high = 3 }\n[params]\nx = 2")
    )
    assert settings.offered_params == {"x": 2, "y": None}
    off = load_settings(project, overrides=["tune.trials=0"])
    assert off.offered_params == {"x": 2}


@given(st.integers(-1000, 1000), st.integers(1, 500), st.integers(1, 40), st.floats(-2000, 2000, allow_nan=False))
def test_what_a_range_holds_is_low_plus_whole_steps(low: int, width: int, step: int, value: float) -> None:
    step = min(step, width)
    dimension = Dimension(low=low, high=low + width, step=step)
    held = {number for number in range(low - 5, low + width + 6) if dimension.holds(number)}
    assert held == set(range(low, low + width + 1, step))
    assert not dimension.holds(value)


def test_the_variable_of_mlflow_is_taken_where_nothing_else_is_said(tmp_path: Path) -> None:
    (tmp_path / "interlock.toml").write_text('[model]\nname = "m"\ntask = "custom"\n[data]\ninbox = "in"\n')
    variables = {"MLFLOW_TRACKING_URI": "http://there:5000"}
    assert load_settings(tmp_path, variables=variables).tracking_uri == "http://there:5000"
    assert not load_settings(tmp_path).is_followed
    for said, found in (("http://here:1", "http://here:1"), ("off", "")):
        told = load_settings(tmp_path, variables=variables, overrides=[f"store.tracking={said}"])
        assert told.tracking_uri == found
    assert not load_settings(tmp_path, variables=variables, overrides=["store.tracking=off"]).is_followed
