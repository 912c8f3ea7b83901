"""A project that has its snapshot already: write files, train, pack, ask."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from interlock.model.bundle import open_bundle, pack
from interlock.model.contract import Contract, read_contract
from interlock.model.predictor import open_predictor
from interlock.model.runner import Runner
from interlock.model.train import Trained, train
from interlock.ports import Parts, Turn
from interlock.records import Bundle, Snapshot
from interlock.settings import Data, HoldoutSpec, Model, Script, Settings
from interlock.store.blobs import LocalBlobs
from interlock.testing.clock import ManualClock
from interlock.testing.fakes import MemoryLedger, MemoryTables

ROWS, HELD_OUT = 200, 40


def rows(count: int, seed: int = 0) -> pl.DataFrame:
    """a, b: Float64 features; kind: String, "high" when 2 a - b > 0; y: 2 a - b, exactly."""
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=count).round(3), draw.normal(size=count).round(3)
    frame = pl.DataFrame({"a": a, "b": b, "y": 2 * a - b})
    return frame.with_columns(kind=pl.when(pl.col("y") > 0).then(pl.lit("high")).otherwise(pl.lit("low")))


class Workbench:
    """One project in ``root``: its files, its snapshot, and what a turn would do with them."""

    def __init__(
        self,
        root: Path,
        files: dict[str, str],
        *,
        target: str = "y",
        params: dict[str, Any] | None = None,
        script: Script | None = None,
        **model: Any,
    ) -> None:
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        task = "regression" if target == "y" else "classification"
        given = {"name": "bench", "task": task, "target": target, "features": ("a", "b")} | model
        self.settings = Settings(
            model=Model(**given),
            params=params or {},
            script=script or Script(),
            data=Data(holdout=HoldoutSpec(fraction=0.2)),
            root=root,
        )
        clock = ManualClock()
        self.parts = Parts(
            settings=self.settings,
            clock=clock,
            ledger=MemoryLedger(clock),
            blobs=LocalBlobs(root / ".interlock" / "lake"),
            tables=MemoryTables(clock),
        )
        self.said: list[str] = []
        fence = self.parts.ledger.acquire("turn", ttl_s=60)
        self.turn = Turn(id="turn-1", fence=fence, say=self.said.append)
        self.holdout = rows(HELD_OUT, seed=1).select("a", "b", target)
        for name, frame in (("training", rows(ROWS).select("a", "b", target)), ("holdout", self.holdout)):
            frame.write_parquet(root / f"{name}.parquet")
            self.parts.blobs.put(f"snapshots/s/{name}.parquet", root / f"{name}.parquet")
        self.snapshot = Snapshot(
            digest="5" * 64, sources=(), query="", columns=("a", "b", target), rows=ROWS + HELD_OUT, training_rows=ROWS,
            holdout_rows=HELD_OUT, training_key="snapshots/s/training.parquet",
            holdout_key="snapshots/s/holdout.parquet", training_digest="1" * 64, holdout_digest="2" * 64, split="",
        )  # fmt: skip

    def contract(self) -> Contract:
        """The project's files, read."""
        return read_contract(self.settings)

    def train(self, runner: Runner) -> Trained:
        """Train once."""
        return train(self.parts, self.turn, self.contract(), self.snapshot, runner)

    def pack(self, runner: Runner) -> Bundle:
        """Train and pack."""
        trained, contract = self.train(runner), self.contract()
        return pack(self.parts, self.turn, trained=trained, contract=contract, snapshot=self.snapshot, runner=runner)

    def folder(self, bundle: Bundle) -> Path:
        """Where the verified bundle is."""
        return open_bundle(self.parts, bundle.digest).path

    def answers(self, bundle: Bundle, runner: Runner, frame: pl.DataFrame | None = None) -> pl.DataFrame:
        """Answers of the bundle on the holdout, through a fresh session."""
        with open_predictor(open_bundle(self.parts, bundle.digest), runner, self.settings) as predictor:
            return predictor.predict(self.holdout if frame is None else frame)
