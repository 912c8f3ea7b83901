import io
import re
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from interlock.errors import BundleCorrupt, DataRefused, NotFound, SettingsError, UserCodeFailed
from interlock.model.bundle import Opened
from interlock.model.runner import Runner
from interlock.ports import Parts, Turn
from interlock.records import Bundle, Column, Output, Receipt, Signature, Snapshot, canonical, digest
from interlock.release import judge as room
from interlock.release import registry
from interlock.release.assess import Terms, assess, read_evidence
from interlock.release.gate import decide, policy_of
from interlock.settings import Data, Gate, HoldoutSpec, Model, Settings
from interlock.testing.clock import ManualClock
from interlock.testing.fakes import MemoryBlobs, MemoryLedger, MemoryTables


class Court:
    """A project with a pinned snapshot, whose models are plain functions of the rows."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **model) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.settings = Settings(
            model=Model(**{"name": "m", "task": "classification", "target": "y"} | model),
            data=Data(key=("id",), holdout=HoldoutSpec(fraction=0.5)),
            root=folder,
        )
        self.ledger, self.blobs = MemoryLedger(self.clock), MemoryBlobs()
        self.models: dict[str, object] = {}
        self.bundles: dict[str, Bundle] = {}
        monkeypatch.setattr(room, "open_bundle", lambda _, name: Opened(self.bundles[name], folder))
        monkeypatch.setattr(room, "open_predictor", lambda opened, *_: Answering(self, opened.bundle.digest))

    @property
    def parts(self) -> Parts:
        return Parts(
            settings=self.settings,
            clock=self.clock,
            ledger=self.ledger,
            blobs=self.blobs,
            tables=MemoryTables(self.folder),
        )

    def gate(self, **gate) -> None:
        self.settings = msgspec.structs.replace(self.settings, gate=Gate(**gate))

    def snapshot(self, rows: pl.DataFrame, name: str = "h") -> Snapshot:
        for part in ("training", "holdout"):
            buffer = io.BytesIO()
            rows.write_parquet(buffer)
            self.blobs.put(f"snapshots/{name}/{part}.parquet", buffer.getvalue())
        return Snapshot(
            digest=digest(name),
            sources=(),
            query="",
            columns=tuple(rows.columns),
            rows=rows.height,
            training_rows=rows.height,
            holdout_rows=rows.height,
            training_key=f"snapshots/{name}/training.parquet",
            holdout_key=f"snapshots/{name}/holdout.parquet",
            training_digest=digest(name),
            holdout_digest=digest(name),
            split="by key",
        )

    def bundle(self, name: str, answer, *, inputs=("x", "country"), classes=None) -> Bundle:
        kind = "label" if self.settings.model.task == "classification" else "number"
        made = Bundle(
            digest=digest(name),
            name=name,
            task=self.settings.model.task,
            kind="model",
            form="linear",
            size_bytes=1000,
            snapshot="s",
            code="c",
            signature=Signature(
                inputs=tuple(Column(name=one, type="float", nullable=False) for one in inputs),
                output=Output(kind=kind, type="str", classes=classes),
            ),
        )
        self.bundles[made.digest] = made
        self.models[made.digest] = answer
        return made

    def judge(self, candidate, champion, baseline, snapshot, runner=None):
        fence = self.ledger.acquire("turn", ttl_s=60.0)
        try:
            return room.judge(
                self.parts,
                Turn(id="t", fence=fence),
                candidate=candidate,
                champion=champion,
                baseline=baseline,
                snapshot=snapshot,
                runner=runner,
            )
        finally:
            self.ledger.release(fence)

    def receipt(self, evaluation) -> Receipt:
        policy = policy_of(self.settings)
        return Receipt(evaluation=evaluation, policy=policy, decision=decide(evaluation, policy))

    def record(self, evaluation):
        fence = self.ledger.acquire("turn", ttl_s=60.0)
        try:
            turn = Turn(id="t", fence=fence)
            return registry.record_decision(self.parts, turn, self.receipt(evaluation), evaluation.baseline)
        finally:
            self.ledger.release(fence)


class Answering:
    """A predictor that takes a millisecond of the court's clock for each call."""

    def __init__(self, court: Court, name: str) -> None:
        self.court, self.name, self.closed = court, name, False

    def predict(self, frame: pl.DataFrame) -> pl.DataFrame:
        assert list(frame.columns) == list(self.court.bundles[self.name].signature.names)
        self.court.clock.advance(0.001)
        answer = self.court.models[self.name](frame)
        return answer if isinstance(answer, pl.DataFrame) else pl.DataFrame({"prediction": answer})

    def close(self) -> None:
        self.closed = True


def people(count=300, seed=0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=count)
    return pl.DataFrame(
        {
            "id": np.arange(count),
            "x": x,
            "country": rng.choice(["DE", "FR", "IT"], count),
            "y": np.where(x + rng.normal(size=count) * 0.5 > 0, "yes", "no"),
        }
    )


def sign(frame):
    return pl.select(pl.when(frame["x"] > 0).then(pl.lit("yes")).otherwise(pl.lit("no"))).to_series()


def always_no(frame):
    return pl.Series(["no"] * frame.height)


def coin(seed):
    return lambda frame: pl.Series(np.random.default_rng(seed).choice(["no", "yes"], frame.height))


@pytest.fixture
def court(tmp_path, monkeypatch) -> Court:
    return Court(tmp_path, monkeypatch)


def test_everybody_answers_the_same_rows_and_the_evidence_is_kept(court):
    court.gate(slices=("country", "x"))
    rows = people()
    candidate, champion = court.bundle("c", sign, classes=("no", "yes")), court.bundle("a", coin(1))
    found = court.judge(candidate, champion, court.bundle("b", always_no), court.snapshot(rows))
    accuracy = (sign(rows) == rows["y"]).mean()
    assert found.extra["candidate"]["accuracy"] == pytest.approx(accuracy)
    assert set(found.scores) == {"candidate", "champion", "baseline", "shuffled"}
    assert [comparison.against for comparison in found.comparisons] == ["champion", "baseline", "shuffled"]
    assert all(one.low < one.gain for one in found.comparisons)
    assert (found.rows, found.asks, found.size_bytes, found.failures) == (300, 1.0, 1000, {})
    assert found.latency_ms == pytest.approx(1.0)
    frame, header = read_evidence(court.blobs.get(found.evidence_key))
    assert [model.who for model in header.models] == ["candidate", "champion", "baseline", "shuffled"]
    assert "x" not in frame.columns
    assert frame["candidate.prediction"].to_list() == sign(rows).to_list()
    assert frame["truth"].to_list() == rows["y"].to_list()
    assert {one.value for one in found.slices if one.column == "country"} == {"DE", "FR", "IT"}
    ranges = [one for one in found.slices if one.column == "x"]
    assert len(ranges) == 4
    assert sum(one.rows for one in ranges) == 300
    assert decide(found, policy_of(court.settings)).verdict == "promote"


def test_scoring_the_evidence_again_gives_the_same_bytes(court):
    court.gate(slices=("country",))
    found = court.judge(
        court.bundle("c", sign), court.bundle("a", coin(1)), court.bundle("b", always_no), court.snapshot(people())
    )
    again = room.reassess(court.parts, court.receipt(found))
    assert canonical(again) == canonical(found)
    court.blobs.delete(found.evidence_key)
    court.blobs.put(found.evidence_key, b"something else")
    with pytest.raises(BundleCorrupt, match="not those that were recorded"):
        room.reassess(court.parts, court.receipt(found))


def test_slices_are_compared_with_the_baseline_before_there_is_a_champion(court):
    court.gate(slices=("country",))
    found = court.judge(court.bundle("c", sign), None, court.bundle("b", always_no), court.snapshot(people()))
    assert [comparison.against for comparison in found.comparisons] == ["baseline", "shuffled"]
    assert all(one.champion < one.candidate for one in found.slices)


def test_probabilities_are_read_by_each_models_own_classes(court):
    rows = people().with_columns(y=pl.Series(["maybe", "no", "yes"] * 100))

    def certain(order):
        def answer(frame):
            chances = {
                f"probability_{i}": pl.Series([0.9 if i == 0 else 0.1 / 2] * frame.height) for i in range(len(order))
            }
            return pl.DataFrame({"prediction": [order[0]] * frame.height, **chances})

        return answer

    court.gate(metric="neg_log_loss")
    candidate = court.bundle("c", certain(["yes", "no", "maybe"]), classes=("yes", "no", "maybe"))
    baseline = court.bundle("b", certain(["no", "yes"]), classes=("no", "yes"))
    found = court.judge(candidate, None, baseline, court.snapshot(rows))
    mixed = -(np.log(0.9) + 2 * np.log(0.05)) / 3
    assert found.scores["candidate"].value == pytest.approx(-mixed)
    assert found.scores["baseline"].value < -mixed  # it gives 'maybe' no chance at all


def test_what_was_judged_before_is_not_judged_again(court):
    snapshot = court.snapshot(people())
    models = court.bundle("c", sign), court.bundle("a", coin(1)), court.bundle("b", always_no)
    first = court.judge(models[0], None, models[2], snapshot)
    court.record(first)
    court.models[models[0].digest] = None  # would fail if it were asked
    assert canonical(court.judge(models[0], None, models[2], snapshot)) == canonical(first)
    court.models[models[0].digest] = sign
    court.gate(confidence=0.99)
    stricter = court.judge(models[0], None, models[2], snapshot)
    assert stricter.asks == 2.0
    assert stricter.comparisons[0].alpha < first.comparisons[0].alpha


def test_asks_count_what_todays_rows_have_seen(court):
    models = court.bundle("c", sign), court.bundle("b", always_no)
    court.record(court.judge(models[0], None, models[1], court.snapshot(people(200), "first")))
    court.record(court.judge(court.bundle("d", coin(2)), models[0], models[1], court.snapshot(people(200), "first")))
    grown = court.judge(court.bundle("e", coin(3)), models[0], models[1], court.snapshot(people(400), "grown"))
    assert grown.asks == pytest.approx(1.0 + 2 * 0.5)
    other = people(100).with_columns(pl.col("id") + 10_000)
    fresh = court.judge(court.bundle("e", coin(3)), models[0], models[1], court.snapshot(other, "fresh"))
    assert fresh.asks == 1.0
    for info in list(court.blobs.list("evidence/")):
        court.blobs.delete(info.key)
    lost = court.judge(court.bundle("f", coin(4)), models[0], models[1], court.snapshot(people(400), "grown"))
    assert lost.asks == 3.0  # what they saw is not known any more: all of it


def test_a_champion_whose_columns_are_gone_is_a_matter_for_a_person(court):
    champion = court.bundle("a", None, inputs=("x", "bmi"))
    found = court.judge(court.bundle("c", sign), champion, court.bundle("b", always_no), court.snapshot(people()))
    assert found.failures["champion"].kind == "inputs-gone"
    assert "'bmi'" in found.failures["champion"].reason
    assert "champion" not in found.scores
    assert decide(found, policy_of(court.settings)).verdict == "hold"
    assert canonical(room.reassess(court.parts, court.receipt(found))) == canonical(found)


def failing(frame):
    raise UserCodeFailed("It raised.", cause="raised")


def test_a_champion_that_fails_is_a_matter_for_a_person(court):
    champion = court.bundle("a", failing)
    found = court.judge(court.bundle("c", sign), champion, court.bundle("b", always_no), court.snapshot(people()))
    assert found.failures["champion"].kind == "failed"
    assert decide(found, policy_of(court.settings)).verdict == "hold"


@pytest.mark.parametrize("problem", [BundleCorrupt("A byte was flipped."), NotFound("There is no bundle.")])
def test_a_champion_that_cannot_be_opened_is_a_matter_for_a_person(court, monkeypatch, problem):
    champion, opened = court.bundle("a", sign), room.open_bundle

    def broken(parts, digest):
        if digest == champion.digest:
            raise problem
        return opened(parts, digest)

    monkeypatch.setattr(room, "open_bundle", broken)
    found = court.judge(court.bundle("c", sign), champion, court.bundle("b", always_no), court.snapshot(people()))
    assert found.failures["champion"].kind == "failed"
    assert decide(found, policy_of(court.settings)).verdict == "hold"
    with pytest.raises(type(problem)):
        court.judge(champion, None, court.bundle("b", always_no), court.snapshot(people()))


def test_a_candidate_that_fails_is_told(court):
    with pytest.raises(UserCodeFailed, match=r"It raised\."):
        court.judge(court.bundle("c", failing), None, court.bundle("b", always_no), court.snapshot(people()))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda frame: [1.0] * (frame.height - 1), "answers for 300 rows"),
        (lambda frame: [float("nan")] + [1.0] * (frame.height - 1), "not a finite one, for 1 of 300"),
        (lambda frame: [None] + [1.0] * (frame.height - 1), "for 1 of 300"),
        (lambda frame: ["a"] * frame.height, "where numbers are due"),
    ],
)
def test_answers_that_cannot_be_scored(tmp_path, monkeypatch, answer, told):
    court = Court(tmp_path, monkeypatch, task="regression")
    rows = people().with_columns(y=pl.col("x") * 2)
    good = court.bundle("b", lambda frame: frame["x"])
    with pytest.raises(UserCodeFailed, match=told):
        court.judge(court.bundle("c", answer), None, good, court.snapshot(rows))


def test_nothing_to_judge_on(court):
    models = court.bundle("c", sign), None, court.bundle("b", always_no)
    with pytest.raises(DataRefused, match="None of the 300 held-out rows"):
        court.judge(*models, court.snapshot(people().with_columns(y=pl.lit(None, dtype=pl.String)), "empty"))
    with pytest.raises(SettingsError, match="no column 'y'"):
        court.judge(*models, court.snapshot(people().drop("y"), "without"))
    court.gate(slices=("contry",))
    with pytest.raises(SettingsError, match="Did you mean 'country'"):
        court.judge(*models, court.snapshot(people()))
    court.gate(also=("acuracy",))
    with pytest.raises(SettingsError, match="no metric 'acuracy'"):
        court.judge(*models, court.snapshot(people()))


def test_rows_without_a_truth_are_not_judged(court):
    rows = people().with_columns(y=pl.when(pl.col("id") < 10).then(None).otherwise(pl.col("y")))
    found = court.judge(court.bundle("c", sign), None, court.bundle("b", always_no), court.snapshot(rows))
    assert found.rows == 290


def terms_of(found):
    return Terms(
        metric=found.metric,
        greater_is_better=True,
        confidence=0.95,
        alpha=found.comparisons[0].alpha,
        min_slice_rows=50,
        seed=found.seed,
        resamples=found.resamples,
    )


def test_the_scale_of_a_forecast_is_the_change_within_each_series(tmp_path, monkeypatch):
    court = Court(tmp_path, monkeypatch, task="forecast")
    court.settings = msgspec.structs.replace(
        court.settings, data=Data(key=("shop", "day"), holdout=HoldoutSpec(last="1d", time="day"))
    )
    days = pl.date_range(pl.date(2026, 1, 1), pl.date(2026, 1, 10), eager=True)
    rows = pl.concat(
        pl.DataFrame({"shop": [shop] * 10, "day": days, "y": base + np.arange(10.0) * step})
        for shop, base, step in (("a", 0.0, 1.0), ("b", 1000.0, 3.0))
    )
    off = court.bundle("c", lambda frame: rows["y"] + 4.0, inputs=("shop", "day"))
    base = court.bundle("b", lambda frame: rows["y"] + 8.0, inputs=("shop", "day"))
    found = court.judge(off, None, base, court.snapshot(rows))
    assert found.metric == "neg_mean_absolute_error"
    assert found.extra["candidate"]["neg_mase"] == pytest.approx(-4.0 / 2.0)


def test_rows_held_out_by_time_are_judged_in_order_of_time(tmp_path, monkeypatch):
    """Two errors that stay for weeks: two moments of a day count as one, and weeks of them as a few."""
    court = Court(tmp_path, monkeypatch, task="forecast")
    holdout = HoldoutSpec(last="120d", time="day")
    court.settings = msgspec.structs.replace(court.settings, data=Data(key=("shop", "day"), holdout=holdout))
    days = pl.date_range(pl.date(2026, 1, 1), pl.date(2026, 4, 30), eager=True)
    waves = [np.sin(np.arange(120) / 30.0 + phase) * 3.0 for phase in (0.0, 1.0)]
    shops = [pl.DataFrame({"shop": shop, "day": days, "y": 0.0, "a": waves[0], "b": waves[1]}) for shop in "xy"]
    rows = pl.concat(shops).sample(fraction=1.0, shuffle=True, seed=1)
    candidate = court.bundle("c", lambda _: rows["a"], inputs=("day",))
    base = court.bundle("b", lambda _: rows["b"], inputs=("day",))
    found = court.judge(candidate, None, base, court.snapshot(rows))
    evidence, header = read_evidence(court.blobs.get(found.evidence_key))
    assert evidence["step"].to_list() == (rows["day"] - days[0]).dt.total_days().to_list()
    comparison, guessing = found.comparisons
    told = re.search(r"; (\d+) moments in time, worth (\d+), (\d+) degrees of freedom$", comparison.method)
    steps, worth, freedom = map(int, told.groups())
    assert (steps, freedom) == (120, 7)
    assert 1 <= worth < 20
    assert room.reassess(court.parts, court.receipt(found)) == found
    unordered = assess(evidence.drop("step"), header, terms_of(found))
    assert unordered.comparisons[0].standard_error < comparison.standard_error / 2.0
    assert unordered.scores["candidate"].low > found.scores["candidate"].low
    assert unordered.comparisons[1].low > guessing.low


def test_days_of_one_month_count_as_one_when_the_month_is_the_key(tmp_path, monkeypatch):
    """The way out for forecasts whose errors follow one another: see docs/how-to/holdout.md."""
    court = Court(tmp_path, monkeypatch, task="forecast")
    days = pl.date_range(pl.date(2026, 1, 1), pl.date(2026, 4, 30), eager=True)
    rows = pl.DataFrame({"day": days, "month": days.dt.strftime("%Y-%m"), "y": np.arange(120.0) % 7.0})
    off = court.bundle("c", lambda frame: rows["y"] + 1.0, inputs=("day",))
    base = court.bundle("b", lambda frame: rows["y"] + 2.0 + rows["day"].dt.month(), inputs=("day",))
    units, lows = [], []
    for name, key in (("by day", ()), ("by month", ("month",))):
        holdout = HoldoutSpec(last="120d", time="day", key=key)
        court.settings = msgspec.structs.replace(court.settings, data=Data(key=("day",), holdout=holdout))
        found = court.judge(off, None, base, court.snapshot(rows, name))
        units.append(found.units)
        lows.append(found.comparisons[0].low)
    assert units == [120, 4]
    assert lows[1] < lows[0]


OWN = """
def cost(y_true, y_pred):
    return float(((y_true == "yes") & (y_pred == "no")).mean() * 5 + ((y_true == "no") & (y_pred == "yes")).mean())


def text(y_true, y_pred):
    return "high"


def share(y_true, y_pred):
    return (y_true == y_pred).mean()
"""


@pytest.fixture
def runner(tmp_path):
    (tmp_path / "measures.py").write_text(OWN)
    with Runner(tmp_path, (), tmp_path / "work") as found:
        yield found


def test_a_metric_of_the_users_own_runs_in_a_worker_and_replays_without_it(court, runner):
    court.gate(
        metric="measures.py:cost", greater_is_better=False, also=("measures.py:share", "accuracy"), slices=("country",)
    )
    models = court.bundle("c", sign), court.bundle("a", coin(1)), court.bundle("b", always_no)
    rows = people()
    found = court.judge(*models, court.snapshot(rows), runner)
    answer, truth = sign(rows), rows["y"]
    missed, false = ((truth == "yes") & (answer == "no")).mean(), ((truth == "no") & (answer == "yes")).mean()
    assert found.scores["candidate"].value == pytest.approx(5 * missed + false)
    assert not found.greater_is_better
    assert found.comparisons[0].gain > 0.0
    assert found.comparisons[0].low < found.comparisons[0].gain
    assert found.extra["candidate"]["measures.py:share"] == pytest.approx((answer == truth).mean())
    assert len(found.slices) == 3
    assert decide(found, policy_of(court.settings)).verdict == "promote"
    (court.folder / "measures.py").unlink()
    assert canonical(room.reassess(court.parts, court.receipt(found))) == canonical(found)


def test_a_metric_that_gives_no_number_is_told(court, runner):
    court.gate(metric="measures.py:text")
    with pytest.raises(SettingsError, match="gave str where a finite number was due"):
        court.judge(court.bundle("c", sign), None, court.bundle("b", always_no), court.snapshot(people()), runner)
    court.gate(metric="../measures.py:cost")
    with pytest.raises(SettingsError, match="is not a metric"):
        court.judge(court.bundle("c", sign), None, court.bundle("b", always_no), court.snapshot(people()), runner)


def test_a_model_that_is_no_function_of_the_row_is_held(court):
    """Its answers are right as long as the rows come sorted, as the held-out ones happen to."""

    def sorted_answers(rows):
        return sign(rows.sort("x"))

    rows = people().sort("x")
    found = court.judge(
        court.bundle("c", sorted_answers),
        court.bundle("a", coin(1)),
        court.bundle("b", always_no),
        court.snapshot(rows),
    )
    assert found.consistency.different["order"] > 100
    decision = decide(found, policy_of(court.settings))
    assert decision.verdict == "hold"
    assert decision.reason.startswith("Not a function of the row: asked again, other answers came for ")
    assert "gate.row_by_row = false" in decision.reason
    assert canonical(room.reassess(court.parts, court.receipt(found))) == canonical(found)


def test_an_owner_may_say_that_the_whole_batch_counts(court):
    court.gate(row_by_row=False)
    rows = people().sort("x")
    found = court.judge(
        court.bundle("c", lambda rows: sign(rows.sort("x"))),
        court.bundle("a", coin(1)),
        court.bundle("b", always_no),
        court.snapshot(rows),
    )
    assert found.consistency is None
    decision = decide(found, policy_of(court.settings))
    assert decision.verdict == "promote"
    assert "consistent" not in {check.name for check in decision.checks}


def test_a_judgement_without_the_question_is_made_again_when_it_is_asked(court):
    rows = people().sort("x")
    bundles = court.bundle("c", lambda rows: sign(rows.sort("x"))), None, court.bundle("b", always_no)
    court.gate(row_by_row=False)
    court.record(court.judge(*bundles, court.snapshot(rows)))
    assert court.judge(*bundles, court.snapshot(rows)).consistency is None
    court.gate(row_by_row=True)
    assert court.judge(*bundles, court.snapshot(rows)).consistency.different["order"] > 100
