"""A challenger behind a real server: it is promoted, dropped or kept in the shadow, and nobody gets a bad answer."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from e2e.followed_project import turn
from e2e.small_project import make_project, write_rows
from infra.program import interlock
from infra.server import Served, serving

pytestmark = pytest.mark.slow

ODD = '''"""Answers well but for one width."""

import numpy as np


def predict(model, X):
    answers = model.predict(X).astype(object)
    answers[np.asarray(X["width"], dtype=float) == 109] = float("nan")
    return answers
'''
CANARY = """
[canary]
share = 0.5
rows = 120
duration = "1s"
"""


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion, and rows and code for a better model, which gives NaN for one width."""
    folder = make_project(tmp_path_factory.mktemp("ready") / "project")
    good = (folder / "train.py").read_text()
    (folder / "train.py").write_text(good.replace("dtype=float)\n    return", "dtype=float) * [1, 0]\n    return"))
    assert turn(folder).outcome == "released"
    settings = (folder / "interlock.toml").read_text() + CANARY
    (folder / "interlock.toml").write_text(settings.replace('target = "ok"', 'target = "ok"\npredict = "predict.py"'))
    (folder / "train.py").write_text(good)
    (folder / "predict.py").write_text(ODD)
    write_rows(folder / "inbox" / "b.csv", 400, 1500)
    return folder


@pytest.fixture(scope="module")
def tried(ready: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after a turn: the better model is challenger."""
    folder = copied(ready, tmp_path_factory.mktemp("tried"))
    done = turn(folder)
    assert (done.outcome, done.released, done.exit_code) == ("canary", False, 0)
    assert "is challenger in canary at 50 %" in done.sentence
    assert turn(folder).outcome == "unchanged"
    return folder


def row(number: int) -> dict[str, float]:
    return {"width": number / 50 - 2.0, "weight": 0.25}


def models(served: Served, numbers: range) -> list[str]:
    """Which model answers each of some records."""
    with ThreadPoolExecutor(4) as people:
        found = list(people.map(lambda number: served.ask("/predict", row(number)), numbers))
    assert {status for status, _, _ in found} == {200}
    assert {reply["prediction"] for _, _, reply in found} <= {"yes", "no"}
    return [headers["interlock-model"] for _, headers, _ in found]


def ends(project: Path) -> list[dict[str, Any]]:
    """The receipts of trials that ended, in order."""
    entries = interlock(project, "history", "--events", "--limit", "1000")["events"]
    return [event for event in reversed(entries) if event["kind"] == "canary.ended"]


def copied(tried: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tried, tmp_path / "project"))


def test_a_good_challenger_gets_its_share_and_then_the_place_of_the_champion(tried: Path, tmp_path: Path) -> None:
    project = copied(tried, tmp_path)
    status = interlock(project, "status")
    champion, challenger = (status["release"][who][:12] for who in ("champion", "challenger"))
    with serving(project, "--insecure") as served:
        first = models(served, range(60))
        assert set(first) == {champion, challenger}
        assert 15 <= first.count(challenger) <= 45
        assert models(served, range(60)) == first, "the same record meets the same model"
    seen = interlock(project, "status")["trial"]
    assert (seen["seen"]["answered"], seen["seen"]["failed"]) == (2 * first.count(challenger), 0)
    assert seen["verdict"] == "go-on"
    with serving(project, "--insecure", before=("--set", "serve.workers=2")) as served:
        assert models(served, range(60)) == first, "after a restart and in every worker too"
        for start in range(100, 1_000, 40):
            models(served, range(start, start + 40))
            if any("is the champion now" in line for line in served.said):
                break
        served.wait_for("release 3 answers now")
        page = served.ask("/metrics")[2]
        assert "interlock_release_generation" in page
    status = interlock(project, "status")
    assert (status["release"]["cause"], status["release"]["champion"][:12]) == ("canary", challenger)
    assert (status["release"]["last_good"][:12], status["trial"]) == (champion, None)
    ended = ends(project)
    assert [(each["facts"]["outcome"], each["facts"]["by"]) for each in ended] == [("promoted", "evidence")]
    assert sum(tally["answered"] for tally in ended[0]["facts"]["tallies"]) >= 120
    assert interlock(project, "replay", str(ended[0]["sequence"]))["differences"] == []
    assert interlock(project, "verify")["problems"] == []
    assert "is the champion now" not in interlock(project, "run")["sentence"]
    assert interlock(project, "rollback", "--because", "a test")["champion"][:12] == champion


def test_a_newer_candidate_does_not_cut_a_trial_short(ready: Path, tmp_path: Path) -> None:
    project = copied(ready, tmp_path)
    first = turn(project, "canary.duration=1h")
    (project / "predict.py").write_text(ODD.replace("109", "110"))
    second = turn(project)
    assert (second.outcome, second.release) == ("unchanged", first.release)
    assert second.candidate != first.candidate
    assert second.notes[-1] == (
        f"candidate {second.candidate[:12]} is judged when the trial of {first.candidate[:12]} has ended"
    )
    interlock(project, "rollback", "--because", "a test")
    third = turn(project)
    assert (third.outcome, third.challenger) == ("canary", second.candidate)


def test_one_that_gives_no_number_is_dropped_and_none_of_its_answers_leaves(tried: Path, tmp_path: Path) -> None:
    project = copied(tried, tmp_path)
    champion = interlock(project, "status")["release"]["champion"]
    settings = (project / "interlock.toml").read_text()
    (project / "interlock.toml").write_text(settings + '[serve]\nkeys_file = "keys.toml"\n')
    keys = [interlock(project, "keys", name, "--scope", "predict")["key"] for name in "abcdef"]
    with serving(project) as served:
        found = [
            served.ask("/predict", {"width": 109.0, "weight": place / 10}, {"authorization": f"Bearer {key}"})
            for place in range(12)
            for key in keys
        ]
        served.wait_for("is not tried any more")
        served.wait_for("release 3 answers now")
    assert {(status, headers["interlock-tier"]) for status, headers, _ in found} == {(200, "champion")}
    assert {reply["prediction"] for _, _, reply in found} <= {"yes", "no"}
    status = interlock(project, "status")
    release = status["release"]
    assert (release["cause"], release["champion"], release["challenger"]) == ("canary", champion, None)
    assert "was dropped: it failed" in release["because"]
    assert interlock(project, "run")["outcome"] == "unchanged", "what was dropped is not tried again"
    assert interlock(project, "verify")["problems"] == []


def test_in_the_shadow_it_never_answers(tried: Path, tmp_path: Path) -> None:
    project = copied(tried, tmp_path)
    assert interlock(project, "rollback", "--because", "we try another")["challenger"] is None
    settings = (project / "interlock.toml").read_text()
    (project / "interlock.toml").write_text(settings.replace("share = 0.5", "share = 1.0\nshadow = true"))
    write_rows(project / "inbox" / "c.csv", 2_000, 1500)
    done = interlock(project, "run")
    assert done["outcome"] == "canary", done["sentence"]
    assert "in shadow at 100 %" in done["sentence"]
    champion, challenger = (done["release"][who][:12] for who in ("champion", "challenger"))
    with serving(project, "--insecure") as served:
        for start in range(0, 2_000, 40):
            answered = set(models(served, range(start, start + 40)))
            if any("is the champion now" in line for line in served.said):
                break
            assert answered == {champion}
        served.wait_for("answers now")
        assert set(models(served, range(40))) == {challenger}
    ended = ends(project)
    assert [each["facts"]["outcome"] for each in ended] == ["dropped", "promoted"]
    seen = ended[-1]["facts"]["tallies"][0]
    assert seen["compared"] >= 0.9 * seen["answered"] > 0
