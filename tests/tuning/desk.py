"""One project with rows and a snapshot, on which a search can be run without the rest of a turn."""

from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from e2e.small_project import write_rows
from interlock.app import open_parts
from interlock.configuration import load_settings
from interlock.data.ingest import ingest
from interlock.data.snapshot import make_snapshot, snapshot_frame
from interlock.model.contract import read_contract
from interlock.model.runner import Runner
from interlock.ports import Turn
from interlock.records import Snapshot
from interlock.store.engine import LocalEngine
from interlock.tuning.search import search
from interlock.tuning.standing import TrialRecord, TrialTable, Tuning

TOML = """[model]
name = "parts"
task = "classification"
target = "ok"
{model}
[data]
inbox = "inbox"
key = ["part"]
[gate]
metric = "{metric}"
[params]
tilt = 3.0
{params}
[tune]
trials = 6
{tune}
[tune.space]
tilt = {{ low = -4.0, high = 4.0 }}
{space}
"""

TRAIN = '''import json

import numpy as np


class Tilted:
    """Says yes when the measurements add up to more than the tilt."""

    def __init__(self, tilt):
        self.tilt = tilt

    def predict(self, X):
        spy("answered", X["width"])
        return np.where(X["width"] + X["weight"] > self.tilt, "yes", "no")


def spy(what, values):
    with open(HERE + what, "a") as file:
        file.write("".join(f"{value:.4f}\\n" for value in values))


def train(X, y, tilt):
    spy("learnt", X["width"])
    return Tilted(tilt)
'''


class Desk:
    """A project in ``root``; every call of :meth:`search` is a search in a turn of its own."""

    def __init__(self, root: Path, runner: Runner) -> None:
        self.root, self.runner = root, runner
        self.said: list[str] = []
        self.snapshot: Snapshot | None = None
        self.trials: tuple[TrialRecord, ...] = ()
        (root / "inbox").mkdir(parents=True)
        write_rows(root / "inbox" / "a.csv", 0, 200)
        self.write()

    def write(self, train: str = TRAIN, *, metric: str = "accuracy", **sections: str) -> None:
        """The settings and the training file, which knows this folder as ``HERE``.

        ``sections`` are more lines for model, params, tune and space.
        """
        more = dict.fromkeys(("model", "params", "tune", "space"), "") | sections
        (self.root / "interlock.toml").write_text(TOML.format(metric=metric, **more))
        (self.root / "train.py").write_text(f"HERE = {str(self.root) + '/'!r}\n{train}")

    def search(self, *, more: bool = False, **overrides: Any) -> Tuning:
        """Ingest, make a snapshot and search; keeps the table of trials."""
        settings = load_settings(self.root, overrides=[f"{key}={value}" for key, value in overrides.items()])
        with open_parts(settings) as parts:
            turn = Turn(id="t", fence=parts.ledger.acquire("turn", ttl_s=60), say=self.said.append)
            try:
                ingest(parts, turn, "data")
                self.snapshot = make_snapshot(parts, turn)
                engine = LocalEngine(self.runner.run_job, settings.tune.parallel)
                found = search(parts, turn, read_contract(settings), self.snapshot, engine, more=more)
                table = parts.blobs.get(found.trials_key)
                self.trials = msgspec.json.decode(table, type=TrialTable).trials
                return found
            finally:
                parts.ledger.release(turn.fence)

    def rows(self, key: str) -> pl.DataFrame:
        """Rows of the snapshot's part."""
        with open_parts(load_settings(self.root)) as parts:
            return snapshot_frame(parts, key).collect()

    def kinds(self) -> list[str]:
        """Kinds of the ledger's events about searches."""
        with open_parts(load_settings(self.root)) as parts:
            return [event.kind for event in parts.ledger.events() if event.kind.startswith("tune.")]

    def spied(self, name: str) -> list[str]:
        """What the user's code saw."""
        return (self.root / name).read_text().split()
