"""A small project with a history worth telling, and the ways to tell it."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from e2e.small_project import TOML, make_project, write_rows
from interlock.app import open_parts
from interlock.cli.progress import Silent
from interlock.configuration import load_settings
from interlock.loop import run_turn
from interlock.outcome import TurnResult
from interlock.ports import Parts
from interlock.report.followers import tell
from interlock.report.following import Told


def made_story(folder: Path) -> Path:
    """Release 1 (which published a batch), a training that failed, release 2, and a candidate that was not better."""
    make_project(folder)
    good = (folder / "train.py").read_text()
    half_blind = good.replace("values = np.asarray(X, dtype=float)", "values = np.asarray(X, dtype=float) * [1, 0]")
    (folder / "interlock.toml").write_text(TOML + "\n[params]\ndepth = 3\nnested = { rate = 0.5 }\n")
    outcomes = []
    for code, rows in (
        (half_blind, 0),
        ("def train(X, y):\n    raise ValueError('no luck')\n", 0),
        (good, 1500),
        (good, 20),
    ):
        (folder / "train.py").write_text(code)
        if rows:
            write_rows(folder / "inbox" / f"more-{rows}.csv", 400 if rows == 1500 else 5000, rows)
        outcomes.append(turn(folder).outcome)
    assert outcomes == ["released", "failed", "released", "kept"]
    return folder


def turn(folder: Path, *overrides: str) -> TurnResult:
    """One turn in this process."""
    with opened(folder, *overrides) as parts:
        return run_turn(parts, Silent())


@contextlib.contextmanager
def opened(folder: Path, *overrides: str) -> Iterator[Parts]:
    """The project's parts, with settings overridden."""
    with open_parts(load_settings(folder, overrides=overrides)) as parts:
        yield parts


def copied(story: Path, to: Path, name: str) -> Path:
    """A copy of the story under another model name: another experiment and another registered model."""
    shutil.copytree(story, to)
    toml = (to / "interlock.toml").read_text()
    (to / "interlock.toml").write_text(toml.replace('name = "parts"', f'name = "{name}"'))
    return to


def told(folder: Path, *overrides: str, deadline_s: float = 120.0, again: bool = False) -> Told:
    """Tell the one follower that the overrides ask for."""
    with opened(folder, *overrides) as parts:
        found = tell(parts, lambda _: None, deadline_s=deadline_s, again=again)
    assert len(found) == 1, found
    return found[0]
