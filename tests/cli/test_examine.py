import importlib.util
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from e2e.small_project import make_project
from infra.postgres import PASSWORD, TestDatabase
from interlock.app import open_parts
from interlock.cli import examine as module
from interlock.cli.context import Invocation
from interlock.cli.examine import Finding, examine
from interlock.configuration import load_settings
from interlock.data.ingest import ingest
from interlock.data.snapshot import make_snapshot
from interlock.model import limits
from interlock.ports import Turn


def looked(project: Path, url: str) -> list[Finding]:
    """What doctor says about the state and the ledger."""
    found = examine(Invocation(project=project, overrides=[f"store.state={url}"]))
    assert PASSWORD not in "\n".join(found.lines())
    return [finding for finding in found.findings if finding.name in ("state", "ledger", "memory")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


def test_a_good_server_is_named_without_credentials(project: Path, pg: TestDatabase) -> None:
    state, fsync, ledger = looked(project, pg.url)
    assert state.state == "good"
    assert state.fact.startswith(f"postgresql://127.0.0.1:{pg.cluster.port}/{pg.name}, schema interlock, Postgres ")
    assert (fsync.state, fsync.fact) == ("note", "the server runs with fsync off")
    assert (ledger.state, ledger.fact) == ("good", "0 entries, the chain holds")


def test_an_empty_database_is_told_and_left_empty(project: Path, empty_pg: TestDatabase) -> None:
    *_, ledger = looked(project, empty_pg.url)
    assert (ledger.state, ledger.fact) == ("note", "no turn was run yet")
    assert empty_pg.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'interlock'") == [(0,)]


def test_what_would_stop_a_turn_is_bad(project: Path, pg: TestDatabase) -> None:
    pg.execute(f'ALTER DATABASE "{pg.name}" SET default_transaction_read_only = on')
    bad = [finding for finding in looked(project, pg.url) if finding.state == "bad"]
    assert [finding.fact for finding in bad] == ["the server is a replica or read-only"]
    (gone,) = looked(project, pg.cluster.url("absent"))
    assert (gone.state, gone.name) == ("bad", "memory")
    assert 'database "absent" does not exist' in gone.fact


def test_rights_that_are_missing_are_bad(project: Path, empty_pg: TestDatabase) -> None:
    empty_pg.execute("CREATE ROLE alien LOGIN PASSWORD 'a'")
    url = empty_pg.cluster.url(empty_pg.name, user="alien", password="a")
    bad = [finding.fact for finding in looked(project, url) if finding.state == "bad"]
    empty_pg.execute("DROP ROLE alien")
    assert bad == ["this role may not create the tables in schema interlock"]


# ---- what a project is looked at for -----------------------------------------------------------------------------


def told(project: Path, name: str, *overrides: str) -> list[tuple[str, str, str]]:
    """State, fact and next step of the findings of that name."""
    found = examine(Invocation(project=project, overrides=list(overrides)))
    return [(each.state, each.fact, each.next_step) for each in found.findings if each.name == name]


def test_a_good_project_is_healthy(project: Path) -> None:
    found = examine(Invocation(project=project))
    assert found.healthy
    assert [each.name for each in found.findings if each.state == "bad"] == []
    names = {each.name for each in found.findings}
    assert names >= {
        "python",
        "sqlite",
        "settings",
        "contract",
        "imports",
        "metric",
        "limits",
        "batch",
        "disk",
        "ledger",
    }
    assert told(project, "ledger") == [("note", "no turn was run yet", "interlock run")]
    assert told(project, "contract") == [("good", "packs train.py", "")]
    assert told(project, "imports") == [("good", "numpy, pandas", "")]
    assert told(project, "inbox data") == [("good", "inbox", "")]


def test_settings_that_cannot_be_read_end_the_examination(project: Path) -> None:
    (project / "interlock.toml").write_text("[modle]\n")
    found = examine(Invocation(project=project))
    assert not found.healthy
    assert [each.name for each in found.findings] == ["python", "sqlite", "settings"]
    assert found.findings[-1].fact.startswith("Unknown key 'modle'")
    assert found.lines()[-1].endswith("Next: Did you mean 'model'?")


def test_code_that_cannot_be_called_is_bad_and_the_rest_is_looked_at(project: Path) -> None:
    (project / "train.py").write_text("def fit(X): ...\n")
    ((state, fact, next_step),) = told(project, "contract")
    assert (state, fact) == ("bad", "train.py has no function 'train'. Functions found: fit.")
    assert next_step == "Name it 'train', or write train.py:function in interlock.toml."
    assert told(project, "metric") == [("good", "accuracy", "")]


def test_a_library_that_is_not_installed_is_bad(project: Path) -> None:
    text = (project / "train.py").read_text()
    (project / "train.py").write_text(f"import a_library_that_is_not_there\n{text}")
    ((state, fact, next_step),) = told(project, "imports")
    assert (state, fact) == ("bad", "not installed: a_library_that_is_not_there")
    assert next_step.startswith("Install them into /")


@pytest.mark.parametrize(
    ("metric", "fact", "next_step"),
    [
        ("acuracy", "There is no metric 'acuracy'.", "Did you mean 'accuracy'? Known: "),
        ("r2", "r2 is a metric of numbers, and a classification model answers with labels.", "Set gate.metric to "),
    ],
)
def test_a_metric_that_cannot_judge_is_bad(project: Path, metric: str, fact: str, next_step: str) -> None:
    ((state, found, step),) = told(project, "metric", f"gate.metric={metric}")
    assert (state, found) == ("bad", fact)
    assert step.startswith(next_step)


def test_limits_that_are_kept_and_those_that_cannot_be(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "can_watch", lambda: True)
    monkeypatch.setattr(limits, "landlock_version", lambda: 3)
    assert told(project, "limits") == [("good", "deadlines", "")]
    asked = ("model.memory=4GB", "model.confined=true")
    assert told(project, "limits", *asked) == [("good", "deadlines, memory 4GB, confined", "")]
    monkeypatch.setattr(limits, "landlock_version", lambda: 0)
    assert told(project, "limits", *asked) == [
        (
            "bad",
            "model.confined cannot be kept here: it needs Linux 5.13 or newer with Landlock switched on.",
            "Take model.confined out, or run on such a system.",
        )
    ]


def test_a_search_without_its_library_is_bad(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("tune.trials=5", "tune.space={a={low=0.0,high=1.0}}", "params={a=0.5}")
    assert told(project, "tune") == []
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: (name != "optuna" and found(name, *rest)) or None
    )
    assert told(project, "tune", *asked) == [
        (
            "bad",
            "[tune] needs Optuna, which is not installed",
            "pip install 'interlock[tune]', or set tune.trials to 0.",
        )
    ]
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: True)
    assert told(project, "tune", *asked) == [("good", "5 trials over a", "")]


@pytest.mark.parametrize("name", ["inbox data", "holdout", "batch"])
def test_an_inbox_that_is_not_there_is_bad(project: Path, name: str) -> None:
    asked = {"inbox data": "data.inbox=away", "holdout": "data.holdout={inbox='away'}", "batch": "batch.inbox=away"}
    assert told(project, name, asked[name]) == [("bad", "away is not there", "mkdir -p away")]


def test_an_inbox_on_a_bucket_is_not_asked(project: Path) -> None:
    found = told(project, "batch", "batch.inbox=s3://bucket/in")
    assert found == [("note", "s3://bucket/in is looked at when a turn runs", "")]


def test_a_disk_that_is_nearly_full_or_read_only_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1.94e9))
    ((state, fact, next_step),) = told(project, "disk")
    assert (state, fact) == ("note", "1.9 GB free")
    assert next_step == "Free some: a turn keeps a copy of the training rows."
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=5e9))
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    assert told(project, "disk") == [
        ("good", "5.0 GB free", ""),
        ("bad", f"{project} is read-only", "Allow writing there."),
    ]


# ---- what is known once rows were taken in -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a snapshot; nothing was trained. Do not change it."""
    root = make_project(tmp_path_factory.mktemp("begun") / "project")
    with open_parts(load_settings(root)) as parts:
        turn = Turn(id="t", fence=parts.ledger.acquire("turn", ttl_s=60))
        ingest(parts, turn, "data")
        make_snapshot(parts, turn)
        parts.ledger.release(turn.fence)
    return root


def test_names_that_are_columns_are_no_finding(begun: Path) -> None:
    assert told(begun, "columns", "gate.slices=['part']", "model.features=['width']") == []
    ((state, fact, _),) = told(begun, "ledger")
    assert (state, fact) == ("good", "2 entries, the chain holds")


@pytest.mark.parametrize(
    ("override", "fact", "next_step"),
    [
        ("model.target=okk", "model.target names 'okk'", "Did you mean 'ok'?"),
        ("gate.slices=['wdth']", "gate.slices names 'wdth'", "Did you mean 'width'?"),
        ("model.features=['weigth']", "model.features names 'weigth'", "Did you mean 'weight'?"),
        (
            "data.holdout={last='1d',time='zzzzzz'}",
            "data.holdout.time names 'zzzzzz'",
            "The columns: part, width, weight, ok.",
        ),
    ],
)  # fmt: skip
def test_names_that_are_no_columns_are_bad(begun: Path, override: str, fact: str, next_step: str) -> None:
    found = told(begun, "columns", override)
    assert found == [("bad", f"{fact}, which is no column of the newest snapshot", next_step)]


def test_under_another_query_columns_are_not_known(begun: Path) -> None:
    assert told(begun, "columns", "data.query=select *, 1 as more from data", "gate.slices=['more']") == []


def test_a_chain_that_does_not_hold_is_bad(begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun, tmp_path / "copy")
    with sqlite3.connect(tmp_path / "copy" / ".interlock" / "state.db") as database:
        database.execute("update events set subject = 'another' where sequence = 1")
    database.close()
    ((state, fact, next_step),) = told(tmp_path / "copy", "ledger")
    assert state == "bad"
    assert fact.startswith("entry 1: ")
    assert next_step == "Restore the state from a backup; do not promote until then."


CONTRACT = """apiVersion: v3.1.0
kind: DataContract
id: 1
status: active
schema:
  - name: data
    properties:
      - {name: part, logicalType: integer, required: true, primaryKey: true}
      - {name: width, logicalType: number, examples: [1.0]}
slaProperties: [{property: frequency, value: 1}]
"""


def test_a_contract_is_told_with_what_nobody_enforces(project: Path) -> None:
    pytest.importorskip("yaml", reason="needs the extra 'contract'")
    (project / "contract.yaml").write_text(CONTRACT)
    first, *notes = told(project, "agreements", "data.contract=contract.yaml")
    assert first == ("good", "contract.yaml fixes 2 columns of 'data'", "")
    assert {state for state, _, _ in notes} <= {"note"}
    ((state, fact, next_step),) = told(project, "agreements", "data.contract=away.yaml")
    assert (state, fact) == ("bad", "The contract away.yaml cannot be read: No such file or directory.")
    assert next_step == "Put it there, or mend 'contract' of the source."
