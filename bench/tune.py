"""What a trial costs beyond the user's training: the driver's part, and the process it runs in.

The driver's part is one ask and one tell of the study, the record of the trial included, over 50 trials of three
parameters; beside it the same trials by Optuna's own ``optimize`` on its journal, on SQLite and in memory. The whole
trial is a search over a project whose training does next to nothing, through worker processes, per trial.

    python bench/tune.py [--repeats 5] [--trials 50]
"""

import argparse
import importlib.metadata
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import optuna

from interlock.app import open_parts
from interlock.configuration import load_settings
from interlock.data.ingest import ingest
from interlock.data.snapshot import make_snapshot
from interlock.model.contract import read_contract
from interlock.model.runner import Runner
from interlock.ports import Turn
from interlock.settings import Dimension, Tune
from interlock.store.engine import LocalEngine
from interlock.tuning.search import search
from interlock.tuning.study import Study, require_optuna
from interlock.tuning.trial import TrialEnd

TRAIN = """import numpy as np

class Above:
    def __init__(self, tilt):
        self.tilt = tilt

    def predict(self, X):
        return np.where(X["a"] > self.tilt, "yes", "no")

def train(X, y, tilt):
    return Above(tilt)
"""
TOML = """[model]
name = "bench"
task = "classification"
target = "y"
[data]
inbox = "inbox"
key = ["id"]
[tune]
trials = {trials}
[tune.space]
tilt = {{ low = -3.0, high = 3.0 }}
"""
SPACE = {
    "a": Dimension(low=0.001, high=1.0, log=True),
    "b": Dimension(low=1, high=40),
    "c": Dimension(choices=("x", "y", "z")),
}


def score(a: float, b: float, c: str) -> float:
    return (a - 0.1) ** 2 + (b - 7) ** 2 / 100 + (c == "x")


def ours(folder: Path, trials: int) -> None:
    tune = Tune(trials=trials, space=SPACE)
    study = Study(folder / "own.log", "q", tune, seed=1, greater_is_better=False)
    while study.begun < trials:
        asked = study.ask()
        study.complete(asked, TrialEnd(score=score(**asked.params), seconds=0.0))
        study.records()


def peer(storage: Callable[[Path], object]) -> Callable[[Path, int], None]:
    def run(folder: Path, trials: int) -> None:
        study = optuna.create_study(storage=storage(folder), sampler=optuna.samplers.TPESampler(seed=1))
        study.optimize(
            lambda t: score(
                t.suggest_float("a", 0.001, 1.0, log=True),
                t.suggest_int("b", 1, 40),
                t.suggest_categorical("c", ("x", "y", "z")),
            ),
            n_trials=trials,
        )

    return run


def journal(folder: Path) -> object:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "peer.log"))
    return optuna.storages.JournalStorage(backend)


DRIVERS = {
    "Interlock (Optuna ask and tell, journal)": ours,
    "Optuna optimize, journal": peer(journal),
    "Optuna optimize, SQLite": peer(lambda folder: f"sqlite:///{folder / 'peer.db'}"),
    "Optuna optimize, in memory": peer(lambda _: None),
}


def whole(trials: int) -> float:
    """Seconds a trial of a search through worker processes, those of the host's start not counted."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "inbox").mkdir()
        (root / "train.py").write_text(TRAIN)
        (root / "interlock.toml").write_text(TOML.format(trials=trials))
        lines = [f"{n},{(n * 37 % 100) / 50 - 1},{'yes' if n * 37 % 100 > 50 else 'no'}" for n in range(1000)]
        (root / "inbox" / "rows.csv").write_text("\n".join(["id,a,y", *lines]) + "\n")
        settings = load_settings(root)
        contract = read_contract(settings)
        with open_parts(settings) as parts, Runner(root, contract.preload, root / "scratch") as runner:
            turn = Turn(id="bench", fence=parts.ledger.acquire("turn", ttl_s=600))
            ingest(parts, turn, "data")
            snapshot = make_snapshot(parts, turn)
            runner.start()
            runner.call("interlock.testing.engine:double", {"number": 1}, deadline_s=60)
            started = time.perf_counter()
            search(parts, turn, contract, snapshot, LocalEngine(runner.run_job))
            return (time.perf_counter() - started) / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=50)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    require_optuna()
    took: dict[str, list[float]] = {name: [] for name in DRIVERS}
    for _ in range(chosen.repeats):
        for name, run in DRIVERS.items():
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                run(Path(folder), chosen.trials)
                took[name].append((time.perf_counter() - started) / chosen.trials * 1e3)
    trial = [whole(chosen.trials) * 1e3 for _ in range(chosen.repeats)]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("optuna", "numpy", "polars"))
    sys.stdout.write(f"Python {platform.python_version()}, {versions}; {chosen.trials} trials of three parameters; ")
    sys.stdout.write(
        f"medians of {chosen.repeats} runs\n\n| a trial | ms | least | most |\n| --- | ---: | ---: | ---: |\n"
    )
    for name, times in [*took.items(), ("Interlock, whole trial in its own process, training of 0 s", trial)]:
        sys.stdout.write(f"| {name} | {statistics.median(times):.1f} | {min(times):.1f} | {max(times):.1f} |\n")


if __name__ == "__main__":
    main()
