"""A project's whole story, recorded fact by fact as the loop would, with no stage of the loop involved."""

import functools
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from interlock.data.profile import Profile, profile
from interlock.ports import Blobs, Ledger, Parts
from interlock.records import (
    Audit,
    BatchResult,
    Bundle,
    Check,
    Column,
    Comparison,
    Decision,
    Evaluation,
    FileResult,
    Output,
    Policy,
    Receipt,
    Record,
    Release,
    Score,
    Signature,
    SliceScore,
    Snapshot,
    SourceVersion,
    Training,
    canonical,
    facts_of,
)
from interlock.settings import Model, Settings
from interlock.testing.fakes import MemoryBlobs, MemoryLedger, MemoryTables

TRAIN = '''"""Train a model of stays."""

from sklearn.linear_model import LogisticRegression


def train(X, y, params, seed):
    return LogisticRegression(C=params["c"], random_state=seed).fit(X, y)
'''
LOCK = "numpy==2.4.1 --hash=sha256:" + "ab" * 32 + "\nscikit-learn==1.9.0\n"


class StoryClock:
    """Half a second passes with every look at it."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)

    def now(self) -> datetime:
        self.moment += timedelta(milliseconds=500)
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()


def name_of(text: str) -> str:
    """A digest to stand for something that these tests do not make."""
    return hashlib.sha256(text.encode()).hexdigest()


def frame_of(country: str, rows: int = 1_200) -> pl.DataFrame:
    """Bookings, of which most are in ``country``."""
    rng = np.random.default_rng(7)
    prices = rng.lognormal(4.6, 0.5, rows).round(2).tolist()
    days = [date(2025, 1, 1) + timedelta(days=int(day)) for day in rng.integers(0, 365, rows)]
    return pl.DataFrame(
        {
            "country": rng.choice([country, "FR", "IT", "NL", "PT"], size=rows, p=[0.5, 0.26, 0.14, 0.098, 0.002]),
            "lead_days": rng.gamma(2.0, 20.0, rows).round().astype(np.int64),
            "nights": rng.integers(1, 9, rows),
            "price": [None if lost else paid for lost, paid in zip(rng.random(rows) < 0.06, prices, strict=True)],
            "booked": days,
            "member": rng.random(rows) < 0.3,
        }
    )


@functools.cache
def profile_of(country: str, task: str) -> Profile:
    """What a bundle keeps of its training rows, and of its answers on the holdout."""
    features = profile(frame_of(country))
    rng = np.random.default_rng(5)
    labels = rng.choice(["cancelled", "no-show", "stayed"], 300)
    answers = profile(pl.DataFrame({"prediction": labels if task == "classification" else rng.gamma(3, 60, 300)}))
    return Profile(rows=features.rows, columns=(*features.columns, *answers.columns))


@functools.cache
def evidence_of(task: str, rows: int, champion: bool) -> bytes:
    """Truth and answers of ``rows`` held-out rows, as a Parquet file."""
    rng = np.random.default_rng(rows)
    columns: dict[str, Any] = {}
    if task == "classification":
        names = np.array(["cancelled", "no-show", "stayed"])
        odds = rng.dirichlet([1.2, 0.5, 2.2], rows)
        columns["truth"] = names[(odds.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1).clip(0, 2)]
        for who in ("candidate", "champion", "baseline") if champion else ("candidate", "baseline"):
            guess = odds if who == "candidate" else rng.dirichlet([1, 1, 2], rows)
            columns[f"{who}.prediction"] = names[guess.argmax(axis=1)]
            if who == "candidate":
                columns |= {f"{who}.probability_{index}": guess[:, index] for index in range(3)}
    else:
        columns["truth"] = rng.gamma(3.0, 60.0, rows)
        columns["candidate.prediction"] = columns["truth"] * 0.9 + rng.normal(18, 25, rows)
        columns["baseline.prediction"] = np.full(rows, 180.0)
    out = io.BytesIO()
    pl.DataFrame(columns).write_parquet(out)
    return out.getvalue()


@dataclass
class Teller:
    """Records a story into a ledger and blobs; each method is one stage's record."""

    ledger: Ledger
    blobs: Blobs
    task: str = "classification"
    name: str = "stay-or-go"
    turn: str = "20261120T080000-a1"
    country: str = "DE"
    reason: str = "Better than the champion: its lower bound is above 0."
    rows: int = 0
    releases: list[Release] = field(default_factory=list)
    bundles: dict[str, Bundle] = field(default_factory=dict)

    def record(self, kind: str, subject: str, record: Record, *documents: tuple[str, str, Any]) -> int:
        with self.ledger.transaction(turn=self.turn) as transaction:
            event = transaction.append(kind, subject, facts_of(record))
            for collection, key, value in documents:
                transaction.put(collection, key, value)
        return event.sequence

    # ---- data

    def file(self, name: str, status: str, *, rows: int = 0, **facts: Any) -> None:
        result = FileResult(
            source="bookings", name=name, digest=name_of(name), size_bytes=rows * 41 + 300, status=status, rows=rows,
            seconds=0.031, **facts,
        )  # fmt: skip
        self.rows += result.accepted
        self.record(f"file.{status}", f"bookings/{name}", result)

    def signature(self) -> Signature:
        number = self.task == "regression"
        return Signature(
            inputs=(
                Column(name="country", type="str", nullable=False, categories=(self.country, "FR", "IT", "NL", "PT")),
                Column(name="lead_days", type="int", nullable=False, low=0, high=182),
                Column(name="nights", type="int", nullable=False, low=1, high=8),
                Column(name="price", type="float", nullable=True, low=21.9, high=512.4),
                Column(name="booked", type="date", nullable=False, low="2025-01-01", high="2025-12-31"),
                Column(name="member", type="bool", nullable=False, categories=("false", "true")),
            ),
            output=Output(kind="number", type="float", low=12.0, high=913.5)
            if number
            else Output(kind="label", type="str", classes=("cancelled", "no-show", "stayed")),
        )

    def snapshot(self, label: str) -> Snapshot:
        held = self.rows // 5
        made = Snapshot(
            digest=name_of(f"snapshot {label}"),
            sources=(SourceVersion(source="bookings", version=1, rows=self.rows, files=2, digest=name_of("files")),),
            query="select * from bookings",
            columns=("booking_id", *self.signature().names, self.target),
            rows=self.rows,
            training_rows=self.rows - held,
            holdout_rows=held,
            training_key=f"snapshots/{label}/training.parquet",
            holdout_key=f"snapshots/{label}/holdout.parquet",
            training_digest=name_of(f"training rows {label}"),
            holdout_digest=name_of(f"holdout rows {label}"),
            split="20 % by md5 of booking_id",
            join_notes=("12 rows of bookings found no hotel and were dropped",),
        )
        self.record("snapshot.made", made.digest, made, ("snapshot", made.digest, made))
        return made

    @property
    def target(self) -> str:
        return "spent" if self.task == "regression" else "status"

    # ---- model

    def profile(self) -> Profile:
        return profile_of(self.country, self.task)

    def model(self, label: str, snapshot: Snapshot, *, kind: str = "model", profiled: bool = True) -> Bundle:
        files: dict[str, bytes] = {
            "MLmodel": b"flavors: {}\n",
            "requirements.txt": LOCK.encode(),
            "model.bin": b"\x00" * 4_096,
        }
        if kind == "model":
            files |= {"code/train.py": TRAIN.encode(), "code/interlock_loader.py": b"# made by the packer\n"}
        if profiled:
            files["profile.json"] = canonical(self.profile())
        manifest = canonical(
            {
                "label": f"{label} {self.task} {kind}",
                "files": [
                    {"path": path, "digest": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
                    for path, content in sorted(files.items())
                ],
            }
        )
        made = hashlib.sha256(manifest).hexdigest()
        for path, content in files.items():
            self.blobs.put(f"bundles/{made}/{path}", content)
        self.blobs.put(f"bundles/{made}/manifest.json", manifest)
        bundle = Bundle(
            digest=made,
            name=self.name,
            task=self.task,
            kind=kind,
            form="linear" if kind == "model" else "constant",
            form_reason="Answers equal those of the native model on 1,264 rows.",
            parity={
                "rows": 1_264,
                "largest_difference": 4.4e-16,
                "labels_differ": 0,
                "forms": {
                    "native": {"verdict": "the user's own code", "one_row_ms": 2.75, "holdout_ms": 31.5},
                    "linear": {"verdict": "kept", "reason": "", "one_row_ms": 0.0125, "holdout_ms": 1.75},
                    "onnx float64": {"verdict": "not tried", "reason": "another form agrees"},
                },
            },
            size_bytes=sum(map(len, files.values())),
            snapshot=snapshot.digest,
            code=name_of("code"),
            params={"c": 0.5, "columns": ["country", "price"], "balanced": True} if kind == "model" else {},
            seed=11,
            signature=self.signature(),
        )
        if kind == "model":
            self._training(label, snapshot, bundle)
        self.record("bundle.packed", made, bundle, ("bundle", made, bundle))
        self.bundles[label] = bundle
        return bundle

    def _training(self, label: str, snapshot: Snapshot, bundle: Bundle) -> None:
        run = Training(
            digest=name_of(f"training {label}"),
            snapshot=snapshot.digest,
            code=bundle.code,
            params=bundle.params,
            seed=bundle.seed,
            status="done",
            seconds=3.42,
            peak_memory_bytes=231_000_000,
            rows=snapshot.training_rows,
            metrics={"train_f1": 0.912, "iterations": 41.0},
            output_tail="epoch 40 loss 0.311\nepoch 41 loss 0.309\nconverged",
        )
        document = {"training": run, "bundle": bundle.digest}
        self.record("training.done", run.digest, run, ("training", run.digest, document))

    # ---- release

    def decide(
        self,
        candidate: Bundle,
        baseline: Bundle,
        snapshot: Snapshot,
        verdict: str,
        *,
        champion: Bundle | None = None,
        sliced: bool = True,
        **changes: Any,
    ) -> int:
        metric, greater = ("rmse", False) if self.task == "regression" else ("f1_macro", True)
        rows = snapshot.holdout_rows
        evidence = evidence_of(self.task, rows, champion is not None)
        key = f"evidence/{hashlib.sha256(evidence).hexdigest()}.parquet"
        self.blobs.put(key, evidence)
        values = {"candidate": (41.2, 0.7312), "champion": (44.9, 0.7055), "baseline": (97.8, 0.2411)}
        shown = {who: value[int(greater)] for who, value in values.items() if who != "champion" or champion}
        width = 0.024 if greater else 3.1
        comparisons = tuple(
            Comparison(
                against=who,
                gain=abs(shown["candidate"] - shown[who]) * (-0.2 if verdict == "keep" else 1),
                low=abs(shown["candidate"] - shown[who]) * (-0.2 if verdict == "keep" else 1) - width / 2,
                high=abs(shown["candidate"] - shown[who]) + width,
                standard_error=width / 3.3,
                alpha=0.0304,
                differing=41,
                method="paired bootstrap",
            )
            for who in ("champion", "baseline")
            if who in shown
        )
        facts: dict[str, Any] = {
            "candidate": candidate.digest,
            "champion": champion.digest if champion else None,
            "baseline": baseline.digest,
            "snapshot": snapshot.digest,
            "holdout_digest": snapshot.holdout_digest,
            "metric": metric,
            "greater_is_better": greater,
            "rows": rows,
            "seed": 11,
            "resamples": 2_000,
            "asks": 2.0 if champion else 1.0,
            "scores": {
                who: Score(metric=metric, value=value, low=value - width, high=value + width * 0.9)
                for who, value in shown.items()
            },
            "extra": {who: {"accuracy" if greater else "mae": value * 0.93} for who, value in shown.items()},
            "comparisons": comparisons,
            "slices": self._slices(rows) if sliced and champion else (),
            "latency_ms": 0.041,
            "size_bytes": candidate.size_bytes,
            "evidence_key": key,
            "evidence_digest": hashlib.sha256(evidence).hexdigest(),
        }
        evaluation = Evaluation(**(facts | changes))
        policy = Policy(
            metric=metric, at_least=0.4 if greater else None, slices=("country",), max_latency_ms=5.0, max_size_mb=20.0
        )
        decision = self._decision(evaluation, verdict)
        receipt = Receipt(evaluation=evaluation, policy=policy, decision=decision)
        sequence = self.record("gate.decided", candidate.digest, receipt)
        if verdict == "promote":
            self.release(candidate, baseline, "gate", decision.reason, receipt=sequence)
        return sequence

    def _slices(self, rows: int) -> tuple[SliceScore, ...]:
        table = (
            (self.country, 0.5, 0.741, 0.702),
            ("FR", 0.26, 0.722, 0.731),
            ("IT", 0.14, 0.699, 0.671),
            ("NL", 0.09, 0.75, 0.70),
        )
        large = [
            SliceScore(
                column="country",
                value=value,
                rows=int(rows * part),
                candidate=mine,
                champion=theirs,
                gain=mine - theirs,
                high=mine - theirs + 0.05,
            )
            for value, part, mine, theirs in table
        ]
        lone = SliceScore(column="country", value="PT", rows=2, candidate=1.0, champion=0.5, gain=0.5, high=0.9)
        return (*large, lone)

    def _decision(self, evaluation: Evaluation, verdict: str) -> Decision:
        passed = verdict == "promote"
        reasons = {
            "promote": self.reason,
            "keep": "Not better than the champion: f1_macro 0.700 against 0.705, and the gain's lower bound is -0.017.",
            "hold": "Too good to be true: 97% of the champion's error is gone at once.",
        }
        reason = reasons[verdict] if evaluation.champion else "Better than the baseline: 0.731 against 0.241."
        checks = (
            Check(
                name="at least", passed=True, on_fail="keep", observed=0.7312, required=0.4, reason="It reaches 0.400."
            ),
            Check(
                name="baseline",
                passed=True,
                on_fail="keep",
                observed=0.478,
                required=0.0,
                reason="Better than the baseline.",
            ),
            Check(
                name="champion",
                passed=passed,
                on_fail="keep" if verdict != "hold" else "hold",
                observed=0.0137,
                required=0.0,
                reason=reason,
            ),
            Check(
                name="holdout budget",
                passed=True,
                on_fail="hold",
                observed=evaluation.asks,
                required=100.0,
                reason="Asked twice.",
            ),
        )
        return Decision(
            verdict=verdict, candidate=evaluation.candidate, champion=evaluation.champion, reason=reason, checks=checks
        )

    def release(
        self, champion: Bundle, baseline: Bundle, cause: str, because: str, *, receipt: int | None = None
    ) -> Release:
        made = Release(
            generation=len(self.releases) + 1,
            champion=champion.digest,
            last_good=self.releases[-1].champion if self.releases else None,
            baseline=baseline.digest,
            cause=cause,
            because=because,
            receipt=receipt,
        )
        self.releases.append(made)
        self.record("release.made", str(made.generation), made, ("release", f"{made.generation:010d}", made))
        return made

    # ---- answers and turns

    def batch(self, name: str, status: str, *, rows: int = 500) -> None:
        release = self.releases[-1]
        good = status == "published"
        result = BatchResult(
            name=name,
            digest=name_of(name),
            status=status,
            generation=release.generation,
            model=release.champion,
            rows=rows,
            scored=rows - 3 if good else 0,
            quarantined=3,
            output=f"predictions/{name}" if good else "",
            form="linear",
            audits=(
                Audit(name="counts", passed=True, reason=f"{rows - 3} answers for {rows - 3} rows."),
                Audit(name="shift", passed=good, reason="PSI 0.04." if good else "PSI 2.31 is over the 1.00 allowed."),
            ),
            reason="" if good else "The answers are too far from those on the holdout: PSI 2.31.",
            seconds=0.084,
        )
        sequence = self.record(f"batch.{status}", name, result)
        if good:
            with self.ledger.transaction(turn=self.turn) as transaction:
                transaction.put("served", f"{release.generation:010d}", {"sequence": sequence})

    def end_turn(self, next_turn: str) -> None:
        facts: Mapping[str, Any] = {
            "turn": self.turn,
            "steps": [
                {"name": name, "note": "", "seconds": seconds, "failed": False}
                for name, seconds in (("ingest", 0.21), ("snapshot", 0.17), ("train", 3.9), ("judge", 0.62))
            ],
            "seconds": 5.1,
        }
        with self.ledger.transaction(turn=self.turn) as transaction:
            transaction.append("turn.ended", self.turn, facts)
        self.turn = next_turn


def tell_all(teller: Teller) -> dict[str, int]:
    """First release, a kept champion, a replaced one, batches; gives the ledger sequence of each decision."""
    teller.file(
        "week-1.csv",
        "accepted",
        rows=640,
        accepted=600,
        duplicates=36,
        quarantined=4,
        notes=("4 bad rows", *(f"note {n}" for n in range(9))),
    )
    teller.file("week-2.csv", "refused", rows=310, reason="31% of its rows break the signature; 1% are allowed.")
    teller.file("week-3.csv", "unreadable", reason="Line 12 has 9 fields, the head has 8.")
    teller.file("copy of week-1.csv", "repeated", rows=640, first_name="week-1.csv")
    first = teller.snapshot("one")
    model = teller.model("first", first)
    baseline = teller.model("prior", first, kind="baseline", profiled=False)
    decisions = {"first": teller.decide(model, baseline, first, "promote")}
    teller.batch("monday.csv", "published")
    teller.end_turn("20261121T080000-b2")
    teller.file("week-4.csv", "accepted", rows=600, accepted=600, updated=12)
    second = teller.snapshot("two")
    kept = teller.model("second", second)
    decisions["kept"] = teller.decide(kept, baseline, second, "keep", champion=model)
    teller.end_turn("20261122T080000-c3")
    teller.file("week-5.csv", "accepted", rows=590, accepted=590)
    third = teller.snapshot("three")
    better = teller.model("third", third)
    decisions["replaced"] = teller.decide(better, baseline, third, "promote", champion=model)
    teller.batch("tuesday.csv", "published")
    teller.batch("wednesday.csv", "refused")
    teller.end_turn("20261123T080000-d4")
    return decisions


@dataclass
class World:
    """A told story and the parts that it was told to."""

    parts: Parts
    teller: Teller
    decisions: dict[str, int]


@pytest.fixture
def empty(tmp_path: Path) -> Callable[..., World]:
    """An untold world; keywords go to the :class:`Teller`."""

    def make(**told: Any) -> World:
        ledger, blobs = MemoryLedger(StoryClock()), MemoryBlobs()
        teller = Teller(ledger, blobs, **told)
        model = Model(name=teller.name, task=teller.task, target=teller.target)
        parts = Parts(
            settings=Settings(model=model, root=tmp_path),
            clock=StoryClock(),
            ledger=ledger,
            blobs=blobs,
            tables=MemoryTables(tmp_path / "tables"),
        )
        return World(parts, teller, {})

    return make


@pytest.fixture
def world(empty: Callable[..., World]) -> Callable[..., World]:
    """A world in which everything was told; keywords go to the :class:`Teller`."""

    def make(**told: Any) -> World:
        made = empty(**told)
        made.decisions = tell_all(made.teller)
        return made

    return make
