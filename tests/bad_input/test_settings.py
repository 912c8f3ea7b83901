"""Settings that cannot be meant: told before anything runs, with exit code 2 and the line where it stands."""

from pathlib import Path

import pytest

from bad_input.kit import run, unharmed
from interlock.configuration import load_settings
from interlock.errors import Misuse

BASE = '[model]\nname = "m"\ntask = "classification"\ntarget = "ok"\n[data]\ninbox = "inbox"\nkey = ["part"]\n'
TEXTS: dict[str, tuple[bytes, str, str]] = {
    "unknown key": (f"{BASE}keys = 1\n".encode(), "Unknown key 'data.keys' (line 8).", "Did you mean 'key'?"),
    "wrong type": (
        f"{BASE}[gate]\nmin_gain = 'much'\n".encode(),
        "'gate.min_gain' (line 9): Expected float, got str.",
        "The gain must exceed this, beyond doubt.",
    ),
    "syntax": (
        f"{BASE}[gate\n".encode(),
        "interlock.toml is not valid TOML: Expected ']' at the end of a table declaration (at line 8, column 6).",
        "Mend that line.",
    ),
    "latin-1": (f"{BASE}# é\n".encode("latin-1"), "interlock.toml is not UTF-8 (byte 97).", "Save the file as UTF-8."),
    "not finite": (
        f"{BASE}[params]\na = nan\n".encode(),
        "[params] holds a number that is not finite.",
        "Leave it out, and let the code have its own default.",
    ),
    "target among features": (
        BASE.replace("[data]", 'features = ["ok"]\n[data]').encode(),
        "model.features names the target 'ok'.",
        "Take it out: the model may not see it.",
    ),
    "huge integer": (
        BASE.replace("[data]", "seed = 99999999999999999999\n[data]").encode(),
        "'model.seed' (line 5): Expected int <= 4294967295.",
        "Seed of everything random; recorded.",
    ),
    "several sources": (
        (
            BASE.split("[data]", maxsplit=1)[0] + '[data.sources.a]\ninbox = "a"\n[data.sources.b]\ninbox = "b"\n'
        ).encode(),
        "There are several sources and no data.query.",
        "Join them in SQL, by their names.",
    ),
    "two holdouts": (
        f'{BASE}holdout = {{ fraction = 0.2, inbox = "x" }}\n'.encode(),
        "data.holdout sets fraction and inbox.",
        'Set one of: { fraction = 0.2 }, { last = "28d", time = "date" }, { inbox = "…" }.',
    ),
    "a size": (
        BASE.replace("[data]", 'memory = "lots"\n[data]').encode(),
        "'model.memory' (line 5): Expected str of another form.",
        "Training or inference is stopped above this. Linux only. Write a number with MB, GB or TB, as 500MB or 4GB.",
    ),
    "a duration": (
        BASE.replace("[data]", 'deadline = "soon"\n[data]').encode(),
        "'model.deadline' (line 5): Expected str of another form.",
        "Training is stopped after this long. Write a number with ms, s, m, h, d or w, as 90s or 28d.",
    ),
    "one place for two things": (
        f'{BASE}[batch]\ninbox = "inbox"\n'.encode(),
        "batch.inbox and the inbox of source 'data' are the same place, inbox.",
        "Give each a folder of its own.",
    ),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_file_of_settings(tmp_path: Path, kind: str) -> None:
    content, message, next_step = TEXTS[kind]
    (tmp_path / "interlock.toml").write_bytes(content)
    with pytest.raises(Misuse) as caught:
        load_settings(tmp_path)
    assert caught.value.message == message
    assert caught.value.next_step == next_step
    assert caught.value.exit_code == 2


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "interlock.toml").write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert load_settings(tmp_path).model.name == "m"


def test_dates_among_the_parameters(tmp_path: Path) -> None:
    (tmp_path / "interlock.toml").write_text(f"{BASE}[params]\nsince = 2026-01-02\n")
    assert str(load_settings(tmp_path).params["since"]) == "2026-01-02"


OVERRIDES: dict[str, tuple[str, str, str]] = {
    "no equals sign": ("gate", "'--set gate' has no key and value.", "Write --set gate.at_least=0.5."),
    "an unknown key": ("gat.at_least=1", "Unknown key 'gat'.", "Did you mean 'gate'?"),
    "below a value": (
        "gate.metric.x=1",
        "'gate.metric': Expected str, got object.",
        "What decides: a scikit-learn name, or file.py:function(y_true, y_pred). Default by task.",
    ),
    "empty": ("=", "'--set =' has no key and value.", "Write --set gate.at_least=0.5."),
}


@pytest.mark.parametrize("kind", OVERRIDES)
def test_set_with_nonsense(tmp_path: Path, kind: str) -> None:
    override, message, next_step = OVERRIDES[kind]
    (tmp_path / "interlock.toml").write_text(BASE)
    with pytest.raises(Misuse) as caught:
        load_settings(tmp_path, overrides=[override])
    assert (caught.value.message, caught.value.next_step) == (message, next_step)


def test_an_environment_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "interlock.toml").write_text(f"{BASE}[env.prod.gate]\nat_least = 0.5\n")
    with pytest.raises(Misuse) as caught:
        load_settings(tmp_path, environment="prd")
    assert caught.value.message == "There is no [env.prd] in interlock.toml."
    assert caught.value.next_step == "Did you mean 'prod'?"


# ---- what only a turn can find -----------------------------------------------------------------------------------

TURNS: dict[str, tuple[list[str], str, str, int]] = {
    "a target that is no column": (
        ["model.target=okk"],
        "model.target names column 'okk', which the data does not have.",
        "Columns: part, width, weight, ok.",
        2,
    ),
    "a feature that is no column": (
        ["model.features=['wdth']"],
        "model.features names column 'wdth', which the data does not have.",
        "Columns: part, width, weight, ok.",
        2,
    ),
    "a time that is none": (
        ["data.holdout={last='1d',time='part'}"],
        "data.holdout.time names 'part', which is int and no date or time.",
        "Name a date or datetime column, or set its type under 'types' of the source.",
        2,
    ),
    "SQL that reads files": (
        ["data.query=select * from read_csv('/etc/passwd')"],
        (
            'data.query failed: Permission Error: Cannot access file "/etc/passwd" - file system '
            "operations are disabled "
            "by configuration"
        ),
        "Mend the SQL. Sources: data.",
        2,
    ),
    "SQL that never ends": (
        ["data.query=select a.* from data a, range(1000000000000) b", "data.query_deadline=300ms"],
        "data.query was stopped after its deadline of 0.3 s.",
        "Mend the SQL (does a join miss its condition?), or raise data.query_deadline.",
        2,
    ),
    "SQL without the key": (
        ["data.query=select width, weight, ok from data"],
        "data.query leaves out 'part', and rows of one key must not be learnt from and judged by at once.",
        "Select it too (a key is no feature), or name the columns to split by in data.holdout.key.",
        2,
    ),
    "SQL without rows": (
        ["data.query=select * from data where false"],
        "The training would have no rows (0 for training, 0 for the holdout).",
        "Send more rows, or change [data] holdout.",
        1,
    ),
}


@pytest.mark.parametrize("kind", TURNS)
def test_what_a_turn_finds(project: Path, kind: str) -> None:
    overrides, message, next_step, code = TURNS[kind]
    seen = run(project, *overrides).result
    assert seen.sentence == f"The turn could not do 'snapshot'. {message}"
    assert seen.next_step == next_step
    assert seen.exit_code == code
    unharmed(project)


def test_a_value_in_an_error_of_sql_is_told_and_not_recorded(project: Path) -> None:
    from bad_input.kit import MARKER, recorded

    seen = run(project, f"data.query=select * replace (cast('{MARKER}' || ok as integer) as width) from data")
    assert MARKER in seen.result.sentence, "the person who runs it needs the words"
    assert MARKER not in recorded(project)
    unharmed(project)
