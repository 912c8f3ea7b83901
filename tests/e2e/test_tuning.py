"""Search, training, gate and dossier together, and a search that is killed in the middle."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from e2e.small_project import make_project, write_rows
from interlock.app import open_parts
from interlock.cli.operate import status_lines, status_of
from interlock.cli.progress import Silent
from interlock.configuration import load_settings
from interlock.errors import SettingsError
from interlock.loop import run_turn
from interlock.outcome import TurnResult
from interlock.records import Bundle
from interlock.report.dossier import write_dossier
from interlock.tuning.standing import TrialTable, Tuning, in_force

TRAIN = """import os
from pathlib import Path

import numpy as np


class Tilted:
    def __init__(self, tilt):
        self.tilt = tilt

    def predict(self, X):
        return np.where(X["width"] + X["weight"] > self.tilt, "yes", "no")


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def train(X, y, tilt, side):
    with open("calls", "a") as file:
        file.write(f"{tilt}/{side}\\n")
    kill = Path("kill-at")
    if kill.exists() and len(Path("calls").read_text().split()) == int(kill.read_text()):
        kill.unlink()
        os.kill(parent_of(parent_of(os.getpid())), 9)  # the turn: parent of the host of this process
        while True:
            pass
    return Tilted(tilt)
"""
TUNE = """
[params]
tilt = 3.0
[tune]
trials = {trials}
[tune.space]
tilt = {{ low = -4.0, high = 4.0 }}
side = {{ choices = ["a", "b"] }}
"""


def tuned_project(folder: Path, trials: int = 12) -> Path:
    make_project(folder)
    (folder / "train.py").write_text(TRAIN)
    text = (folder / "interlock.toml").read_text() + TUNE.format(trials=trials)
    (folder / "interlock.toml").write_text(text)
    return folder


def turn(project: Path, **kwargs: Any) -> TurnResult:
    with open_parts(load_settings(project)) as parts:
        return run_turn(parts, Silent(), **kwargs)


def table(project: Path) -> tuple[Tuning, list[tuple[Any, ...]]]:
    """The newest search, and number, state, parameters and score of every trial."""
    with open_parts(load_settings(project)) as parts:
        event = parts.ledger.events(kinds=["tune.done"], newest_first=True, limit=1)[0]
        found = msgspec.convert(event.facts, Tuning)
        trials = msgspec.json.decode(parts.blobs.get(found.trials_key), type=TrialTable).trials
    return found, [(trial.number, trial.state, trial.params, trial.score) for trial in trials]


@pytest.mark.slow
def test_a_tuned_model_is_released_and_its_parameters_stay_in_force(tmp_path: Path) -> None:
    project = tuned_project(tmp_path / "p", trials=6)
    first = turn(project)
    assert first.outcome == "released"
    assert [step.name for step in first.steps] == ["ingest", "snapshot", "tune", "train", "judge", "batch"]
    assert first.steps[2].note.startswith("best of 6 trials: accuracy 0.")
    with open_parts(load_settings(project)) as parts:
        best = in_force(parts.ledger).params
        assert parts.ledger.read("bundle", first.candidate, Bundle).params == best
        told = "\n".join(status_lines(status_of(parts)))
        assert f"tilt={best['tilt']:.4g}" in told

    assert [step.name for step in turn(project).steps] == ["ingest", "snapshot", "batch"]

    write_rows(project / "inbox" / "b.csv", 400, 100)
    second = turn(project)
    assert "tune" not in [step.name for step in second.steps]
    assert second.candidate != first.candidate
    with open_parts(load_settings(project)) as parts:
        assert parts.ledger.read("bundle", second.candidate, Bundle).params == best

    third = turn(project, search=True)
    assert "tune" in [step.name for step in third.steps]
    found, trials = table(project)
    assert found.snapshot == third.snapshot
    assert trials[0][2] == best


@pytest.mark.slow
def test_the_dossier_tells_of_the_search(tmp_path: Path) -> None:
    project = tuned_project(tmp_path / "p", trials=12)
    turn(project)
    with open_parts(load_settings(project)) as parts:
        paths = write_dossier(parts, None, tmp_path / "reports")
    found, trials = table(project)
    page, text = Path(paths.html).read_text(), Path(paths.markdown).read_text()
    for words in ("Course of the search", "Importance of the parameters", "Trials, best first", "all trials were made"):
        assert words in page
        assert words in text
    assert page.count('class="picture"') >= 2
    assert f"of {len(trials)} trials; the best" in text
    shares = [float(word.rstrip(".,")) for word in text.split("(PED-ANOVA): ")[1].split(" %")[0].split()[1:2]]
    assert shares[0] == pytest.approx(100 * max(found.importance.values()), abs=0.1)


def _command(project: Path) -> int:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "interlock", "--project", str(project), "run", "--json"],
        env=os.environ | {"PYTHONPATH": str(root / "src")},
        capture_output=True,
        timeout=100,
        check=False,
    )
    return done.returncode


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="finds its grandparent in /proc")
def test_a_search_that_is_killed_goes_on_and_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed = tuned_project(tmp_path / "whole", trials=8)
    assert _command(undisturbed) == 0
    killed = tuned_project(tmp_path / "cut", trials=8)
    for at in (1, 6):
        (killed / "kill-at").write_text(str(at))
        assert _command(killed) == -signal.SIGKILL
    assert _command(killed) == 0
    expected, trials = table(undisturbed)
    found, after = table(killed)
    assert after == trials
    assert (found.params, found.score, found.importance) == (expected.params, expected.score, expected.importance)
    calls = (killed / "calls").read_text().split()
    whole = (undisturbed / "calls").read_text().split()
    assert len(calls) == len(whole) + 2
    assert sorted(set(calls)) == sorted(set(whole))
    with open_parts(load_settings(killed)) as parts, open_parts(load_settings(undisturbed)) as peer:
        kinds = [[event.kind for event in side.ledger.events()] for side in (parts, peer)]
        assert kinds[0] == kinds[1]


def test_asking_for_a_search_where_nothing_is_searched_is_refused(project: Path) -> None:
    with pytest.raises(SettingsError, match=r"tune\.trials is 0"):
        turn(project, search=True)
