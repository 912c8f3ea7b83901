"""A project whose release in force is a small linear classifier over two numbers and one category."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from interlock.answer.batch import score_inbox
from interlock.data.profile import Profile, profile
from interlock.errors import InterlockError, NotFound
from interlock.model.bundle import Opened
from interlock.model.forms import CategoryTerm, Constant, Linear, NumberTerm
from interlock.ports import Parts, Turn
from interlock.records import BatchResult, Bundle, Column, Output, Release, Signature, canonical, digest
from interlock.settings import Batch, Data, Model, Settings
from interlock.store.blobs import LocalBlobs
from interlock.testing.clock import ManualClock
from interlock.testing.fakes import MemoryLedger, MemoryTables

SIGNATURE = Signature(
    inputs=(
        Column(name="x", type="float", nullable=False, low=-4.0, high=4.0),
        Column(name="n", type="int", nullable=True, low=0.0, high=9.0),
        Column(name="colour", type="str", nullable=False, categories=("blue", "green", "red")),
    ),
    output=Output(kind="label", type="str", classes=("no", "yes")),
)
FORM = Linear(
    link="sigmoid",
    intercepts=(0.1,),
    terms=(
        NumberTerm(column="x", shift=0.0, weights=(1.5,)),
        NumberTerm(column="n", shift=4.5, weights=(-0.2,), fill=4.5),
        CategoryTerm(
            column="colour",
            keys=("blue", "green", "red"),
            weights=((0.5,), (0.0,), (-0.5,)),
            unknown=(0.0,),
            missing=None,
        ),
    ),
    classes=("no", "yes"),
)


def rows(count: int, seed: int = 0, **columns: Any) -> pl.DataFrame:
    """Rows as the model was trained on, with a key ``id``; ``columns`` are put over them."""
    draw = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "id": np.arange(count) + 1_000,
            "x": draw.normal(size=count),
            "n": draw.integers(0, 10, count),
            "colour": draw.choice(["blue", "green", "red"], count),
        }
    )
    return frame.with_columns(**{name: pl.Series(values) for name, values in columns.items()})


@dataclass
class Project:
    """One project on fakes; ``run`` is what a turn does with its batch inbox."""

    parts: Parts
    turn: Turn
    bundles: dict[str, Opened]
    damaged: dict[str, InterlockError] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    runners: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.parts.settings.root

    @property
    def clock(self) -> ManualClock:
        assert isinstance(self.parts.clock, ManualClock)
        return self.parts.clock

    def set(self, **fields: Any) -> None:
        settings = self.parts.settings
        changed = msgspec.structs.replace(settings, batch=msgspec.structs.replace(settings.batch, **fields))
        self.parts = replace(self.parts, settings=changed)

    def put(self, name: str, frame: pl.DataFrame) -> Path:
        path = self.root / "to_score" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".csv"):
            frame.write_csv(path)
        elif name.endswith(".jsonl"):
            frame.write_ndjson(path)
        else:
            frame.write_parquet(path)
        return path

    def run(self) -> list[BatchResult]:
        return score_inbox(self.parts, self.turn, self.runner)

    def runner(self) -> Any:
        self.runners.append("asked")
        return None

    def open(self, digest: str) -> Opened:
        """Stands for ``open_bundle``: a bundle, or what is wrong with it."""
        if digest in self.damaged:
            raise self.damaged[digest]
        if digest not in self.bundles:
            raise NotFound(f"There is no bundle {digest[:12]}.")
        return self.bundles[digest]

    def next_turn(self) -> None:
        self.clock.advance(60.0)
        self.turn = replace(self.turn, id=f"turn-{int(self.clock.monotonic())}")

    def published(self) -> dict[str, pl.DataFrame]:
        """Everything in the output folder by name, hidden files too."""
        folder = self.root / "predictions"
        return {path.name: pl.read_parquet(path) for path in sorted(folder.glob("*"))} if folder.is_dir() else {}

    def kinds(self) -> list[str]:
        return [
            event.kind
            for event in self.parts.ledger.events(kinds=["batch.published", "batch.refused", "batch.unreadable"])
        ]

    def release(
        self, opened: Opened, generation: int, last_good: Opened | None = None, baseline: Opened | None = None
    ) -> None:
        for each in (opened, last_good, baseline):
            if each is not None:
                self.bundles[each.bundle.digest] = each
        made = Release(
            generation=generation,
            champion=opened.bundle.digest,
            last_good=last_good.bundle.digest if last_good is not None else None,
            baseline=baseline.bundle.digest if baseline is not None else "b" * 64,
            cause="gate",
            because="better",
        )
        with self.turn.transaction(self.parts.ledger) as t:
            t.insert("release", f"{generation:010d}", made)

    def release_of(
        self, folder: Path, generation: int, *, last_good: Opened | None = None, form: Linear = FORM
    ) -> Opened:
        """Release a champion that answers by ``form``, with a baseline that always says "no"."""
        champion = opened_bundle(folder / f"champion-{generation}", form)
        baseline = baseline_bundle(folder / f"baseline-{generation}")
        for opened in (champion, baseline, *([last_good] if last_good else [])):
            self.bundles[opened.bundle.digest] = opened
        made = Release(
            generation=generation,
            champion=champion.bundle.digest,
            last_good=last_good.bundle.digest if last_good else None,
            baseline=baseline.bundle.digest,
            cause="gate",
            because="better",
        )
        with self.turn.transaction(self.parts.ledger) as t:
            t.insert("release", f"{generation:010d}", made)
        return champion


def baseline_bundle(folder: Path) -> Opened:
    """A bundle that says "no" to everything."""
    form = Constant(value="no", shares=(0.6, 0.4))
    (folder / "fast").mkdir(parents=True)
    for name, content in form.files().items():
        (folder / "fast" / name).write_bytes(content)
    (folder / "profile.json").write_bytes(canonical(Profile(rows=0, columns=())))
    bundle = Bundle(
        digest=digest([str(folder)]), name="demo", task="classification", kind="baseline", form="constant",
        size_bytes=1, snapshot="s" * 64, code="", signature=SIGNATURE,
    )  # fmt: skip
    return Opened(bundle=bundle, path=folder)


def opened_bundle(folder: Path, form: Linear = FORM, signature: Signature = SIGNATURE, kind: str = "linear") -> Opened:
    """A bundle folder with its form and its reference profile, as ``open_bundle`` would give it."""
    (folder / "fast").mkdir(parents=True)
    for name, content in form.files().items():
        (folder / "fast" / name).write_bytes(content)
    answers = form.answer(rows(2_000, seed=99))
    (folder / "profile.json").write_bytes(canonical(profile(answers)))
    bundle = Bundle(
        digest=digest([str(folder), form]),
        name="demo",
        task="classification",
        kind="model",
        form=kind,
        size_bytes=1,
        snapshot="s" * 64,
        code="c" * 64,
        signature=signature,
    )
    return Opened(bundle=bundle, path=folder)


def make_project(root: Path) -> Project:
    (root / "to_score").mkdir(parents=True)
    clock = ManualClock()
    settings = Settings(
        model=Model(name="demo", task="classification", target="y"),
        data=Data(inbox="in", key=("id",)),
        batch=Batch(inbox="to_score", output="predictions"),
        root=root,
    )
    ledger = MemoryLedger(clock)
    said: list[str] = []
    parts = Parts(
        settings=settings,
        clock=clock,
        ledger=ledger,
        blobs=LocalBlobs(root / ".interlock" / "lake"),
        tables=MemoryTables(root / ".interlock" / "tables"),
    )
    turn = Turn(id="turn-0", fence=ledger.acquire("turn", ttl_s=3_600.0), say=said.append)
    with turn.transaction(ledger) as t:
        t.put("columns", "data", {"columns": [Column(name="id", type="int", nullable=False), *SIGNATURE.inputs]})
    return Project(parts=parts, turn=turn, bundles={}, said=said)
