"""The loop on a small project, by the program itself: what a person types, and what they get."""

import csv
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from e2e.small_project import TOML, write_rows
from infra.program import interlock

pytestmark = pytest.mark.slow


def test_from_files_to_published_predictions_and_on(project: Path) -> None:
    first = interlock(project, "run")
    assert first["outcome"] == "released"
    assert first["release"]["generation"] == 1
    assert [file["status"] for file in first["files"]] == ["accepted"]
    assert [step["name"] for step in first["steps"]] == ["ingest", "snapshot", "train", "judge", "batch"]
    published = pl.read_parquet(next((project / "predictions").glob("*.parquet")))
    assert published.height == 50
    assert set(published["prediction"]) <= {"yes", "no"}
    assert published["interlock_release"].unique().to_list() == [1]
    assert published["interlock_model"].unique().to_list() == [first["candidate"]]

    again = interlock(project, "run")
    assert again["outcome"] == "unchanged"
    assert again["batches"] == []
    assert [step["name"] for step in again["steps"]] == ["ingest", "snapshot", "batch"]

    write_rows(project / "inbox" / "b.csv", 400, 20)
    kept = interlock(project, "run", code=1)
    assert kept["outcome"] == "kept"
    assert kept["decision"]["verdict"] == "keep"
    assert interlock(project, "status")["release"]["generation"] == 1
    assert interlock(project, "run")["outcome"] == "unchanged", "the same candidate is not judged twice"
    again = interlock(project, "--set", "gate.at_least=0.99", "run", code=1)
    assert again["decision"]["checks"][1]["name"] == "at least", "under other rules it is decided again"
    assert again["problems"] == []

    verified = interlock(project, "verify")
    assert verified["problems"] == []
    replayed = interlock(project, "replay", str(kept["receipt"]))
    assert replayed["differences"] == []


def test_a_worse_first_model_is_refused_naming_the_baseline(project: Path) -> None:
    write_rows(project / "inbox" / "a.csv", 0, 400, noise=1e6)
    refused = interlock(project, "run", code=1)
    assert refused["outcome"] == "kept"
    assert "baseline" in refused["sentence"]
    assert refused["batches"] == []
    assert not list(project.glob("predictions/*.parquet"))
    assert interlock(project, "predict", "to_score/today.csv", code=1)["error"]["code"] == "NothingToServe"


def test_a_better_model_replaces_and_rollback_returns(project: Path) -> None:
    good = (project / "train.py").read_text()
    half_blind = good.replace("values = np.asarray(X, dtype=float)", "values = np.asarray(X, dtype=float) * [1, 0]")
    assert half_blind != good
    (project / "train.py").write_text(half_blind)
    first = interlock(project, "run")
    write_rows(project / "inbox" / "b.csv", 400, 1500)
    (project / "train.py").write_text(good)
    second = interlock(project, "run")
    assert second["outcome"] == "released", second["sentence"]
    assert second["release"]["generation"] == 2
    assert second["release"]["last_good"] == first["candidate"]

    write_rows(project / "to_score" / "later.csv", 30_000, 20, labelled=False)
    assert interlock(project, "run")["batches"][0]["generation"] == 2
    back = interlock(project, "rollback", "--because", "the new one is slower")
    assert (back["generation"], back["champion"]) == (3, first["candidate"])
    assert interlock(project, "run")["outcome"] == "unchanged", "what a person took back does not return by itself"
    then = interlock(project, "history", "--at", second["at"])
    assert then["release"]["generation"] == 2
    assert len(interlock(project, "history")["releases"]) == 3


def test_broken_training_does_not_stop_scoring(project: Path) -> None:
    interlock(project, "run")
    (project / "train.py").write_text("def train(X, y):\n    raise ValueError('no luck today')\n")
    write_rows(project / "to_score" / "later.csv", 30_000, 20, labelled=False)
    failed = interlock(project, "run", code=3)
    assert failed["outcome"] == "failed"
    assert "no luck today" in failed["sentence"]
    assert [batch["status"] for batch in failed["batches"]] == ["published"]


def test_bad_rows_are_quarantined_and_a_bad_file_is_refused(project: Path) -> None:
    with (project / "inbox" / "a.csv").open("a", newline="") as file:
        csv.writer(file).writerow([400, "wide", "0.5", "yes"])
    write_rows(project / "inbox" / "b.csv", 500, 20)
    text = (project / "inbox" / "b.csv").read_text().splitlines()
    (project / "inbox" / "c.csv").write_text("\n".join([text[0], *(line.replace(",", ",x", 1) for line in text[1:])]))
    (project / "interlock.toml").write_text(
        TOML.replace('key = ["part"]', 'key = ["part"]\ntypes = { width = "float" }')
    )
    files = {file["name"]: file for file in interlock(project, "run", code=1)["files"]}
    assert (files["a.csv"]["accepted"], files["a.csv"]["quarantined"]) == (400, 1)
    assert files["b.csv"]["accepted"] == 20
    assert files["c.csv"]["status"] == "refused"
    assert "width" in files["c.csv"]["reason"]


def test_a_held_candidate_waits_for_a_person(project: Path) -> None:
    held = interlock(project, "--set", "gate.approval=true", "run", code=1)
    assert held["outcome"] == "held"
    made = interlock(project, "promote", str(held["receipt"]), "--because", "looked at it")
    assert (made["generation"], made["cause"]) == (1, "approval")
    assert interlock(project, "run")["batches"][0]["status"] == "published"


def test_a_flipped_byte_in_the_champion_is_named_and_another_answers(project: Path) -> None:
    champion = interlock(project, "run")["candidate"]
    model = project / ".interlock" / "lake" / "bundles" / champion / "model" / "model.pkl"
    model.chmod(0o644)
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    told = interlock(project, "verify", code=3)
    assert any("model.pkl" in problem for problem in told["problems"])
    write_rows(project / "to_score" / "later.csv", 30_000, 20, labelled=False)
    failed = interlock(project, "run", code=3)
    assert "model.pkl" in failed["sentence"]
    assert [batch["tier"] for batch in failed["batches"]] == ["baseline"]
    assert len(list((project / "predictions").glob("*.parquet"))) == 2


def test_evidence_and_rows_that_were_exchanged_are_found(project: Path) -> None:
    interlock(project, "run")
    lake = project / ".interlock" / "lake"
    evidence, holdout = next(lake.glob("evidence/*.parquet")), next(lake.glob("snapshots/*/holdout.parquet"))
    for path in (evidence, holdout):
        path.chmod(0o644)
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    told = interlock(project, "verify", code=3)
    assert len(told["problems"]) == 2
    assert evidence.name in told["problems"][0]
    assert "holdout rows" in told["problems"][1]
    (project / "train.py").write_text((project / "train.py").read_text() + "# changed\n")
    stopped = interlock(project, "run", code=3)
    assert stopped["problems"][0]["step"] == "judge"
    holdout.unlink()
    interlock(project, "run", code=1)


def test_a_release_that_was_written_by_hand_is_found(project: Path) -> None:
    interlock(project, "run")
    with sqlite3.connect(project / ".interlock" / "state.db") as database:
        database.execute("update documents set value = '{\"generation\": \"one\"}' where collection = 'release'")
    database.close()
    told = interlock(project, "verify", code=3)
    assert any("record 'release/" in problem and "cannot be read" in problem for problem in told["problems"])


def test_the_dossier_is_written_for_releases_and_refusals(project: Path) -> None:
    interlock(project, "run")
    paths = interlock(project, "report")
    page = Path(paths["html"]).read_text()
    assert "<html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert Path(paths["markdown"]).read_text().startswith("# ")
    write_rows(project / "inbox" / "b.csv", 400, 20)
    kept = interlock(project, "run", code=1)
    assert Path(interlock(project, "report", "--decision", str(kept["receipt"]))["html"]).is_file()


def test_two_turns_at_once(project: Path) -> None:
    fast = (project / "train.py").read_text()
    slow = fast.replace(
        "    classes = np.unique(y)", "    import time\n\n    time.sleep(4)\n    classes = np.unique(y)"
    )
    (project / "train.py").write_text(slow)
    first = subprocess.Popen([sys.executable, "-m", "interlock", "run", "--json"], cwd=project, stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None
        while not list((project / ".interlock").glob("work/*/*")):
            assert first.poll() is None
            os.sched_yield()
        told = interlock(project, "run", code=3)
        assert told["error"]["code"] == "LeaseHeld"
    finally:
        first.communicate(timeout=60)
    assert first.returncode == 0


GUESS = '''import numpy as np


class Nearest:
    """The label of the nearest training row: on noise, labels scattered by their shares."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def predict(self, X):
        values = np.asarray(X, dtype=float)
        return self.y[((values[:, None, :] - self.X[None]) ** 2).sum(axis=2).argmin(axis=1)]


def train(X, y):
    return Nearest(np.asarray(X, dtype=float), np.asarray(y))
'''


def test_guessing_by_class_shares_is_not_released_though_it_beats_the_constant_answer(project: Path) -> None:
    source = random.Random(5)
    with (project / "inbox" / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["part", "width", "weight", "ok"])
        for number in range(4000):
            label = source.choices(["yes", "no", "maybe"], weights=[60, 25, 15])[0]
            writer.writerow([number, f"{source.gauss(0, 1):.4f}", f"{source.gauss(0, 1):.4f}", label])
    (project / "train.py").write_text(GUESS)
    refused = interlock(project, "--set", "gate.metric=f1_macro", "run", code=1)
    checks = {check["name"]: check for check in refused["decision"]["checks"]}
    assert checks["baseline"]["passed"], "the constant answer alone would have let it through"
    assert not checks["shuffled"]["passed"]
    assert "guessing" in refused["sentence"]


def test_a_fault_of_ours_in_one_step_does_not_keep_the_champion_from_scoring(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interlock import loop
    from interlock.app import open_parts
    from interlock.cli.progress import Silent
    from interlock.configuration import load_settings

    interlock(project, "run")
    write_rows(project / "to_score" / "later.csv", 30_000, 20, labelled=False)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(loop, "make_snapshot", broken)
    with open_parts(load_settings(project)) as parts:
        result = loop.run_turn(parts, Silent())
        ended = parts.ledger.events(kinds=["turn.ended"], newest_first=True, limit=1)
    assert (result.outcome, result.exit_code) == ("failed", 3)
    assert "ZeroDivisionError inside Interlock" in result.sentence
    assert [batch.status for batch in result.batches] == ["published"]
    assert ended[0].facts["outcome"] == "failed"
