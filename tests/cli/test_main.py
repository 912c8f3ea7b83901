"""The program's own options stand where a person puts them."""

from pathlib import Path

import pytest

from infra.program import run_program
from interlock.cli.main import in_front


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("status", "status"),
        ("--env prod status", "--env prod status"),
        ("serve --set serve.port=1 --insecure", "--set serve.port=1 serve --insecure"),
        ("run --json -C x --set=a=b --set c=d", "-C x --set=a=b --set c=d run --json"),
        ("run --env", "--env run"),
        ("predict -- --set a=b", "predict -- --set a=b"),
        ("run --settle", "run --settle"),
        ("", ""),
    ],
)
def test_options_of_every_verb_are_put_before_it(given: str, taken: str) -> None:
    assert in_front(given.split()) == taken.split()


def test_a_key_may_be_set_after_the_verb(tmp_path: Path) -> None:
    (tmp_path / "interlock.toml").write_text('[model]\nname = "m"\ntarget = "y"\n[data]\ninbox = "in"\n')
    code, told, _ = run_program("status", "--set", "gate.at_leest=1", "--project", str(tmp_path))
    assert code == 2
    assert "Did you mean 'at_least'" in told["error"]["message"] + told["error"]["next_step"]
