"""A champion that is damaged while it is live: the last good model answers, by the program itself."""

import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from e2e.small_project import make_project, write_rows
from infra.program import interlock
from interlock.app import open_parts
from interlock.cli.progress import Silent
from interlock.configuration import load_settings
from interlock.loop import run_turn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two_releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A project with two releases that both served; the digests of the last good model and of the champion."""
    project = make_project(tmp_path_factory.mktemp("two") / "project")
    good = (project / "train.py").read_text()
    (project / "train.py").write_text(
        good.replace("values = np.asarray(X, dtype=float)", "values = np.asarray(X, dtype=float) * [1, 0]")
    )
    first = interlock(project, "run")
    write_rows(project / "inbox" / "b.csv", 400, 1500)
    (project / "train.py").write_text(good)
    write_rows(project / "to_score" / "more.csv", 20_000, 20, labelled=False)
    second = interlock(project, "run")
    assert second["release"]["last_good"] == first["candidate"], second["sentence"]
    return project, first["candidate"], second["candidate"]


@pytest.fixture
def project(two_releases: tuple[Path, str, str], tmp_path: Path) -> Path:
    shutil.copytree(two_releases[0], tmp_path / "project")
    write_rows(tmp_path / "project" / "to_score" / "later.csv", 30_000, 20, labelled=False)
    return tmp_path / "project"


def damage(project: Path, digest: str, name: str = "model/model.pkl") -> Path:
    """Flip a byte of a file of a bundle; gives the file and keeps the good one beside the project."""
    path = project / ".interlock" / "lake" / "bundles" / digest / name
    shutil.copy2(path, project.parent / "backup")
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def test_from_the_damage_to_the_way_back(project: Path, two_releases: tuple[Path, str, str]) -> None:
    _, good, champion = two_releases
    path = damage(project, champion)
    turn = interlock(project, "run", code=3)
    assert turn["outcome"] == "failed"
    assert turn["sentence"].startswith(
        f"20 predictions published from 1 file. The champion {champion[:12]} of release 2 is damaged: "
        "The bundle's file 'model/model.pkl' has the digest "
    )
    assert turn["sentence"].endswith(f" The last good model {good[:12]} answers in its place.")
    assert turn["next_step"] == (
        f"Restore .interlock/lake/bundles/{champion} from a backup, or release the last good model: "
        'interlock rollback --because "…".'
    )
    (batch_,) = turn["batches"]
    assert (batch_["status"], batch_["tier"], batch_["model"], batch_["generation"]) == (
        "published",
        "last-good",
        good,
        2,
    )
    published = pl.read_parquet(project / batch_["output"])
    assert (published.height, published["interlock_tier"].unique().to_list()) == (20, ["last-good"])
    assert published["interlock_model"].unique().to_list() == [good]
    assert (turn["release"]["generation"], turn["release"]["champion"]) == (2, champion), "nothing is replaced"

    status = interlock(project, "status")
    assert status["damage"]["tier"] == "last-good"
    assert status["damage"]["next_step"] == turn["next_step"]
    again = interlock(project, "run", code=3)
    assert again["sentence"].startswith("Nothing new to score. The champion ")
    by_hand = interlock(project, "predict", "to_score/later.csv", "-o", "mine.parquet")
    assert (by_hand["tier"], by_hand["next_step"]) == ("last-good", turn["next_step"])
    assert interlock(project, "verify", code=3)["problems"] != []

    path.write_bytes((project.parent / "backup").read_bytes())
    mended = interlock(project, "run")
    assert any("can be opened again" in note for note in mended["notes"])
    assert interlock(project, "status")["damage"] is None
    assert interlock(project, "verify")["problems"] == []
    kinds = [event["kind"] for event in interlock(project, "history", "--events")["events"]]
    assert (kinds.count("champion.damaged"), kinds.count("champion.mended")) == (1, 1)


def test_a_rollback_ends_it(project: Path, two_releases: tuple[Path, str, str]) -> None:
    _, good, champion = two_releases
    damage(project, champion)
    interlock(project, "run", code=3)
    assert interlock(project, "rollback", "--because", "damaged")["champion"] == good
    write_rows(project / "to_score" / "last.csv", 40_000, 20, labelled=False)
    after = interlock(project, "run")
    assert [(each["tier"], each["generation"]) for each in after["batches"]] == [("champion", 3)]
    assert interlock(project, "status")["damage"] is None


def test_with_both_damaged_the_baseline_answers_and_then_nobody(
    project: Path, two_releases: tuple[Path, str, str]
) -> None:
    _, good, champion = two_releases
    damage(project, champion)
    damage(project, good, "signature.json")
    turn = interlock(project, "run", code=3)
    assert [each["tier"] for each in turn["batches"]] == ["baseline"]
    assert "So with the last good model: The bundle's file 'signature.json'" in turn["sentence"]
    damage(project, turn["release"]["baseline"], "signature.json")
    write_rows(project / "to_score" / "last.csv", 40_000, 20, labelled=False)
    nobody = interlock(project, "run", code=3)
    assert nobody["batches"] == []
    assert nobody["sentence"].startswith("The turn could not do 'batch'. The bundle's file 'model/model.pkl' has")
    assert interlock(project, "status")["damage"]["tier"] is None


def test_a_champion_that_cannot_be_unpickled_here_is_stood_in_for(
    project: Path, two_releases: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are whole, and a library that it needs is gone: what a new environment does."""
    _, good, champion = two_releases
    from interlock.model.native import OPEN_MODEL
    from interlock.model.runner import Runner

    session = Runner.session

    def gone(runner: Runner, function: str, arguments: dict[str, Any], **rest: Any) -> Any:
        if function == OPEN_MODEL and champion in arguments["bundle"]:
            arguments = {**arguments, "bundle": str(project / "no such folder")}
        return session(runner, function, arguments, **rest)

    monkeypatch.setattr(Runner, "session", gone)
    with open_parts(load_settings(project)) as parts:
        result = run_turn(parts, Silent())
    assert [(each.status, each.tier, each.model) for each in result.batches] == [("published", "last-good", good)]
    assert f"The champion {champion[:12]} of release 2 cannot be loaded: " in result.sentence


KILLED = """
import importlib, os, signal, sys
from pathlib import Path
from interlock.app import open_parts
from interlock.cli.progress import Silent
from interlock.configuration import load_settings
from interlock.loop import run_turn

project, owner, name, after = Path(sys.argv[1]), importlib.import_module(sys.argv[2]), sys.argv[3], sys.argv[4] == "1"
original = getattr(owner, name)


def killed(*arguments, **named):
    if after:
        original(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)


setattr(owner, name, killed)
with open_parts(load_settings(project)) as parts:
    run_turn(parts, Silent())
"""
"""A turn, in a program of its own, that is killed at a call of one function: before it, or after it."""


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [("interlock.answer.tiers", "_note", True), ("interlock.answer.batch", "_record", False), ("os", "fsync", False)],
)
def test_a_kill_is_cured_by_the_next_turn(
    project: Path, two_releases: tuple[Path, str, str], owner: str, name: str, after: bool
) -> None:
    damage(project, two_releases[2])

    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(project), owner, name, str(int(after))], timeout=100, check=False
    )
    assert done.returncode == -signal.SIGKILL
    ended = interlock(project, "run", code=3)
    assert "answers in its place" in ended["sentence"]
    with sqlite3.connect(project / ".interlock" / "state.db") as database:
        counted = dict(database.execute("select kind, count(*) from events group by kind").fetchall())
    database.close()
    assert (counted["champion.damaged"], counted["batch.published"]) == (1, 3)
    assert len(list((project / "predictions").glob("later-*.parquet"))) == 1
    assert interlock(project, "run", code=3)["batches"] == []
