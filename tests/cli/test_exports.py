import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from interlock.app import open_parts
from interlock.cli import context
from interlock.cli.examine import examine
from interlock.cli.main import app
from interlock.configuration import load_settings
from interlock.data.ingest import ingest
from interlock.errors import InterlockError
from interlock.ports import Turn

TOML = """
[model]
name = "shop"
task = "custom"
[data]
inbox = "in"
key = ["id"]
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "interlock.toml").write_text(TOML)
    (tmp_path / "train.py").write_text("def train(data):\n    return None\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("id,x,y\n1,0.5,yes\n2,7,no\n")
    return tmp_path


def taken_in(root: Path) -> list[Any]:
    with open_parts(load_settings(root)) as parts:
        fence = parts.ledger.acquire("turn", ttl_s=60)
        found = ingest(parts, Turn(id="turn-1", fence=fence, say=lambda _: None), "data")
        parts.ledger.release(fence)
        return found


def interlock(root: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["-C", str(root), *words])


def test_a_contract_is_written_and_governs_the_source_from_then_on(shop: Path) -> None:
    taken_in(shop)
    file = shop / "c.yaml"
    told = interlock(shop, "export", "contract", "--output", str(file))
    assert (told.exit_code, told.output) == (0, f"wrote {file}\n")
    assert interlock(shop, "export", "contract").output == file.read_text()
    assert yaml.safe_load(file.read_text())["schema"][0]["name"] == "data"
    (shop / "interlock.toml").write_text(TOML.replace('key = ["id"]', 'contract = "c.yaml"\nmax_bad_rows = 0.9'))
    with open_parts(load_settings(shop)) as parts:
        assert parts.settings.data.key == ("id",)
    (shop / "in" / "b.csv").write_text("id,x,y\n3,8,yes\n4,1,maybe\n5,1,no\n")
    (result,) = taken_in(shop)
    assert (result.accepted, result.quarantined) == (1, 2)


def test_values_can_be_left_out(shop: Path) -> None:
    taken_in(shop)
    text = interlock(shop, "export", "contract", "--without-values").output
    assert "yes" not in text
    assert "imum" not in text
    assert "yes" in interlock(shop, "export", "contract").output


def test_as_json(shop: Path) -> None:
    taken_in(shop)
    found = json.loads(interlock(shop, "export", "contract", "--json").output)
    assert (found["source"], found["file"]) == ("data", "")
    assert yaml.safe_load(found["contract"])["kind"] == "DataContract"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "No rows were accepted yet from source 'data'."),
        (("--source", "nobody"), "There is no source 'nobody'."),
    ],
)
def test_what_is_not_known_cannot_be_written(shop: Path, words: tuple[str, ...], message: str) -> None:
    told = interlock(shop, "export", "contract", *words)
    assert isinstance(told.exception, InterlockError)
    assert told.exception.message == message


def test_a_folder_that_is_not_there(shop: Path) -> None:
    taken_in(shop)
    told = interlock(shop, "export", "contract", "-o", str(shop / "no" / "c.yaml"))
    assert isinstance(told.exception, InterlockError)
    assert told.exception.message.startswith("There is no folder for ")


def test_one_of_several_sources_must_be_named(shop: Path) -> None:
    (shop / "interlock.toml").write_text(
        '[model]\nname = "shop"\ntask = "custom"\n[data]\nquery = "select 1"\n'
        '[data.sources.a]\ninbox = "in"\n[data.sources.b]\ninbox = "b"\n'
    )
    told = interlock(shop, "export", "contract")
    assert isinstance(told.exception, InterlockError)
    assert told.exception.next_step == "Name it: --source a. Sources: a, b."


def test_doctor_reads_contracts(shop: Path) -> None:
    (shop / "interlock.toml").write_text(TOML + 'contract = "c.yaml"\n')

    def found() -> list[tuple[str, str]]:
        told = examine(context.Invocation(project=shop)).findings
        return [(each.state, each.fact) for each in told if each.name == "agreements"]

    assert found() == [("bad", "The contract c.yaml cannot be read: No such file or directory.")]
    (shop / "c.yaml").write_text(
        "apiVersion: v3.1.0\nkind: DataContract\nslaProperties: []\nschema: [{name: t, properties: [{name: id}]}]\n"
    )
    assert found() == [
        ("good", "c.yaml fixes 1 columns of 'data'"),
        ("note", "c.yaml: slaProperties is not enforced"),
    ]
