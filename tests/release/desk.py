"""A release wing without models: evidence is written by hand, and bundles are digests that are intact or not."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from interlock.errors import BundleCorrupt
from interlock.ports import Ledger, Parts, Turn
from interlock.records import Evaluation, Receipt, digest
from interlock.release import judge as judge_module
from interlock.release import registry
from interlock.release.assess import Header, Witness, shuffled_answers, write_evidence
from interlock.release.gate import decide, policy_of
from interlock.settings import Gate, Model, Settings
from interlock.testing.clock import ManualClock
from interlock.testing.fakes import MemoryBlobs, MemoryTables

BASELINE = digest("baseline")


@dataclass
class Desk:
    """One project's registry, a person to act, and bundles that can be broken."""

    parts: Parts
    clock: ManualClock
    broken: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        fence = self.parts.ledger.acquire("turn", ttl_s=60.0)
        try:
            yield Turn(id="t", fence=fence, say=self.said.append)
        finally:
            self.parts.ledger.release(fence)

    def receipt(
        self, name: str, *, skill: float = 0.9, holdout: str = "h", asks: float = 1.0, **gate: object
    ) -> Receipt:
        """Judge a candidate that is right with probability ``skill``; the champion is right in 7 of 10 rows."""
        live = registry.current(self.parts.ledger)
        settings = Settings(model=self.parts.settings.model, gate=Gate(metric="accuracy", **gate))
        rng = np.random.default_rng([len(name), *name.encode()])
        truth = rng.integers(0, 2, 200)

        def answers(right: float) -> np.ndarray:
            return np.where(rng.random(200) < right, truth, 1 - truth)

        who = ["candidate", *(["champion"] if live else []), "baseline"]
        skills = {"candidate": skill, "champion": 0.7, "baseline": 0.5}
        columns = {"row": np.arange(200, dtype=np.uint64), "truth": truth}
        columns |= {f"{one}.prediction": answers(skills[one]) for one in who}
        models = tuple(Witness(who=one) for one in who)
        frame, shuffled = shuffled_answers(pl.DataFrame(columns), models[0], 0)
        header = Header(task="classification", models=(*models, shuffled), also=("f1_macro",))
        content = write_evidence(frame, header)
        sha = hashlib.sha256(content).hexdigest()
        self.parts.blobs.put(f"evidence/{sha}.parquet", content)
        facts = Evaluation(
            candidate=digest(name),
            champion=live.champion if live else None,
            baseline=BASELINE,
            snapshot=digest("snapshot"),
            holdout_digest=digest(holdout),
            metric="accuracy",
            greater_is_better=True,
            rows=200,
            seed=0,
            resamples=200,
            asks=asks,
            scores={},
            comparisons=(),
            evidence_key=f"evidence/{sha}.parquet",
            evidence_digest=sha,
        )
        policy = policy_of(settings)
        evaluation = judge_module._assessed(facts, policy, frame, header)
        return Receipt(evaluation=evaluation, policy=policy, decision=decide(evaluation, policy))

    def record(self, receipt: Receipt):
        with self.turn() as turn:
            return registry.record_decision(self.parts, turn, receipt, BASELINE)

    def promote(self, name: str, *, served: bool = False):
        """Let a clearly better candidate through the gate."""
        _, release = self.record(self.receipt(name, skill=0.95))
        assert release is not None
        if served:
            self.serve(release.generation)
        return release

    def serve(self, generation: int) -> None:
        with self.turn() as turn, turn.transaction(self.parts.ledger) as transaction:
            event = transaction.append("batch.published", "today.csv", {"generation": generation})
            registry.mark_served(transaction, generation, event.sequence)

    def roll_back(self, because: str = "it misbehaved", to: int | None = None):
        with self.turn() as turn:
            return registry.roll_back(self.parts, turn, because, to)


def make_desk(ledger: Ledger, clock: ManualClock, folder: Path) -> Desk:
    settings = Settings(
        model=Model(name="m", task="classification", target="y"), gate=Gate(metric="accuracy"), root=folder
    )
    return Desk(
        Parts(settings=settings, clock=clock, ledger=ledger, blobs=MemoryBlobs(), tables=MemoryTables(folder)), clock
    )


def opener(desk: Desk) -> Callable[[Parts, str], None]:
    """Stand in for opening a bundle."""

    def open_bundle(parts: Parts, name: str) -> None:
        assert parts is desk.parts
        if name in desk.broken:
            raise BundleCorrupt(f"Bundle {name[:12]}: model/model.pkl is not as packed.")

    return open_bundle
