"""A challenger behind a real server: it is promoted, dropped or kept in the shadow, and nobody gets a bad answer."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.followed_project import opened, turn
from e2e.small_project import make_project, write_rows
from infra.program import interlock
from infra.server import Served, serving
from interlock.cli.operate import operator_turn, verify_project
from interlock.records import Release
from interlock.release.canary import Ended, summed
from interlock.release.latency import median_s
from interlock.release.registry import replay, roll_back
from interlock.release.standing import current, ended_at
from interlock.serve.keys import add_key

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
rows = 200
duration = "1s"
slower = 100.0
"""
SLOW = ODD.replace("import numpy as np\n", "import time\n\nimport numpy as np\n").replace(
    "    answers = ", "    time.sleep(0.05)\n    answers = ", 1
)


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
    return {"width": number * 37 % 101 / 25 - 2.0, "weight": number / 1_000}


def models(served: Served, numbers: range, tiers: tuple[str, ...] = ("champion", "challenger")) -> list[str]:
    """Which model answers each of some records, as one of ``tiers``."""
    with ThreadPoolExecutor(4) as people:
        found = list(people.map(lambda number: served.ask("/predict", row(number)), numbers))
    assert {status for status, _, _ in found} == {200}
    assert {reply["prediction"] for _, _, reply in found} <= {"yes", "no"}
    assert {headers["interlock-tier"] for _, headers, _ in found} <= set(tiers)
    return [headers["interlock-model"] for _, headers, _ in found]


def in_force(project: Path) -> Release:
    with opened(project) as parts:
        found = current(parts.ledger)
    assert found is not None
    return found


def end(project: Path) -> Ended:
    """The receipt of the last trial that ended; it replays, and the memory of the project is sound."""
    with opened(project) as parts:
        event = parts.ledger.events(kinds=["canary.ended"], newest_first=True, limit=1)[0]
        assert replay(parts, event.sequence).agrees
        assert verify_project(parts).sound
        found = ended_at(parts.ledger, event.sequence)
    assert found is not None
    return found


def rolled_back(project: Path) -> Release:
    with opened(project) as parts, operator_turn(parts) as operator:
        return roll_back(parts, operator, "a test")


def copied(tried: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tried, tmp_path / "project"))


def test_a_good_challenger_gets_its_share_and_then_the_place_of_the_champion(tried: Path, tmp_path: Path) -> None:
    project = copied(tried, tmp_path)
    begun = in_force(project)
    champion, challenger = begun.champion[:12], str(begun.challenger)[:12]
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
    made = in_force(project)
    assert (made.generation, made.cause, made.champion, made.challenger) == (3, "canary", begun.challenger, None)
    assert made.last_good == begun.champion
    ended = end(project)
    assert (ended.outcome, ended.by) == ("promoted", "evidence")
    assert sum(tally.answered for tally in ended.tallies) >= 200
    assert len(ended.tallies) in (2, 3), "of each process that was asked"
    assert turn(project).outcome == "unchanged"
    assert rolled_back(project).champion == begun.champion


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


def test_one_that_gives_no_number_is_dropped_and_none_of_its_answers_leaves(tried: Path, tmp_path: Path) -> None:
    project = copied(tried, tmp_path)
    before = in_force(project)
    keys = [add_key(project / "keys.toml", name, ("predict",)) for name in "abcdef"]
    with serving(project, before=("--set", "serve.keys_file=keys.toml")) as served:
        found = [
            served.ask("/predict", {"width": 109.0, "weight": place / 10}, {"authorization": f"Bearer {key}"})
            for place in range(12)
            for key in keys
        ]
        served.wait_for("is not tried any more")
        served.wait_for("release 3 answers now")
    assert {(status, headers["interlock-tier"]) for status, headers, _ in found} == {(200, "champion")}
    assert {reply["prediction"] for _, _, reply in found} <= {"yes", "no"}
    made = in_force(project)
    assert (made.cause, made.champion, made.challenger) == ("canary", before.champion, None)
    ended = end(project)
    assert (ended.outcome, ended.by, ended.because) == ("dropped", "evidence", made.because)
    assert 4 <= sum(tally.failed for tally in ended.tallies) <= 6, "as soon as the evidence is enough"
    assert turn(project).outcome == "unchanged", "what was dropped is not tried again"


def test_in_the_shadow_it_never_answers(ready: Path, tmp_path: Path) -> None:
    project = copied(ready, tmp_path)
    done = turn(project, "canary.share=1.0", "canary.shadow=true")
    assert done.outcome == "canary", done.sentence
    assert "in shadow at 100 %" in done.sentence
    begun = in_force(project)
    with serving(project, "--insecure") as served:
        for start in range(0, 2_000, 40):
            if set(models(served, range(start, start + 40), ("champion",))) != {begun.champion[:12]}:
                break
        served.wait_for("is the champion now")
        served.wait_for("release 3 answers now")
        assert set(models(served, range(40))) == {str(begun.challenger)[:12]}
    ended = end(project)
    assert (ended.outcome, ended.trial.shadow) == ("promoted", True)
    assert ended.tallies[0].compared >= 0.9 * ended.tallies[0].answered > 0


def test_one_that_takes_longer_than_it_may_is_dropped_with_both_times_in_the_receipt(
    ready: Path, tmp_path: Path
) -> None:
    """With as many false drops allowed as make a few duels enough."""
    project = copied(ready, tmp_path)
    (project / "predict.py").write_text(SLOW)
    done = turn(project, "canary.slower=3", "breaker.rated_load=1", "breaker.false_trips=1000000 per day")
    assert done.outcome == "canary", done.sentence
    with serving(project, "--insecure", before=("--set", "canary.slower=3")) as served:
        for start in range(0, 8_000, 40):
            models(served, range(start, start + 40))
            if any("is not tried any more" in line for line in served.said):
                break
        told = served.wait_for("is not tried any more")
    ended = end(project)
    assert (ended.outcome, ended.by) == ("dropped", "evidence")
    assert ended.because in told
    assert "duels it took more than 3 times as long" in ended.because
    seen = summed(ended.tallies)
    assert seen.failed == 0
    assert 3 <= seen.slower <= seen.duels <= 2 * seen.slower
    assert median_s(seen.times["challenger"]) > 0.048 > 2 * median_s(seen.times["champion"])
