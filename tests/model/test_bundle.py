from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from interlock.errors import BundleCorrupt, Fault, NotFound, UserCodeFailed
from interlock.model.bundle import open_bundle, pack, pack_baseline
from interlock.model.contract import read_contract
from interlock.model.predictor import FEW_ROWS, open_predictor
from interlock.model.runner import Runner
from interlock.model.train import train
from interlock.ports import Parts, Turn
from interlock.records import Bundle, Snapshot
from interlock.settings import Data, HoldoutSpec, Model, Settings
from interlock.store.blobs import LocalBlobs
from interlock.testing.clock import ManualClock
from interlock.testing.fakes import MemoryBlobs, MemoryLedger, MemoryTables

PIPELINE = """
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

def train(X, y, seed):
    columns = make_column_transformer(
        (StandardScaler(), ["age"]), (OneHotEncoder(handle_unknown="ignore"), ["city"])
    )
    return make_pipeline(columns, LogisticRegression()).fit(X, y)
"""
OWN_CLASS = """
import numpy as np

class Line:
    def __init__(self, slope):
        self.slope = slope

    def predict(self, X):
        if getattr(X, "columns", None) is None:
            raise TypeError("not a frame")
        return X["age"].to_numpy() * self.slope

def train(X, y, slope):
    return Line(slope)
"""
ADA = """
from sklearn.ensemble import AdaBoostClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

def train(X, y, seed):
    return Pipeline([("scale", StandardScaler()), ("ada", AdaBoostClassifier(n_estimators=5, random_state=seed))]).fit(
        X[["age"]].rename(columns={}), y
    )
"""
TREES = """
import lightgbm
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

def train(X, y, seed):
    code = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer((code, ["city"]), remainder="passthrough")
    model = lightgbm.LGBMClassifier(n_estimators=4, verbosity=-1, n_jobs=1, random_state=seed)
    return make_pipeline(columns, model).fit(X, y)
"""
PREDICT = """
import pandas as pd
from rules import threshold

def predict(model, data: pd.DataFrame, params):
    old = data["age"] > threshold(params)
    share = old.astype(float)
    return pd.DataFrame({
        "prediction": old.map({True: "old", False: "young"}),
        "probability_old": share, "probability_young": 1 - share,
    })
"""


def rows(count, seed=0):
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 10, count)
    city = rng.choice(["Ávila", "Bern", "Cork"], count)
    score = (age - 40) / 10 + (city == "Bern") + rng.normal(size=count) / 2
    return pl.DataFrame({"age": age, "city": city, "score": score}).with_columns(
        band=pl.when(pl.col("score") > 0.5).then(pl.lit("old")).otherwise(pl.lit("young"))
    )


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runner")
    with Runner(folder, ["sklearn.pipeline", "sklearn.linear_model", "lightgbm", "pandas", "polars"], folder) as runner:
        yield runner


class Project:
    """A project with a snapshot, without ingest: rows are put where a snapshot would have put them."""

    def __init__(self, root: Path, *, task="classification", target="band", blobs=None, params=None, **files):
        for name, text in files.items():
            (root / f"{name}.py").write_text(text)
        model = Model(name="test", task=task, target=target, predict="predict.py" if "predict" in files else "")
        drop = {"band": "score", "score": "band"}[target]
        self.settings = Settings(
            model=msgspec.structs.replace(model, features=("age", "city")),
            params=params or {},
            data=Data(holdout=HoldoutSpec(fraction=0.2)),
            root=root,
        )
        clock = ManualClock()
        self.parts = Parts(
            settings=self.settings,
            clock=clock,
            ledger=MemoryLedger(clock),
            blobs=blobs or LocalBlobs(root / ".interlock" / "lake"),
            tables=MemoryTables(clock),
        )
        self.turn = Turn(id="turn-1", fence=self.parts.ledger.acquire("turn", ttl_s=60))
        training, holdout = rows(400).drop(drop), rows(100, seed=1).drop(drop)
        for name, frame in (("training", training), ("holdout", holdout)):
            path = root / f"{name}.parquet"
            frame.write_parquet(path)
            self.parts.blobs.put(f"snapshots/s/{name}.parquet", path)
        self.holdout = holdout
        self.snapshot = Snapshot(
            digest="5" * 64, sources=(), query="", columns=tuple(training.columns), rows=500, training_rows=400,
            holdout_rows=100, training_key="snapshots/s/training.parquet", holdout_key="snapshots/s/holdout.parquet",
            training_digest="1" * 64, holdout_digest="2" * 64, split="",
        )  # fmt: skip

    def pack(self, runner) -> Bundle:
        contract = read_contract(self.settings)
        trained = train(self.parts, self.turn, contract, self.snapshot, runner)
        return pack(self.parts, self.turn, trained=trained, contract=contract, snapshot=self.snapshot, runner=runner)

    def answers(self, bundle, runner=None, frame=None) -> pl.DataFrame:
        opened = open_bundle(self.parts, bundle.digest)
        with open_predictor(opened, runner, self.settings) as predictor:
            assert predictor.form == bundle.form
            return predictor.predict(self.holdout if frame is None else frame)


@pytest.fixture(scope="module")
def packed(tmp_path_factory, runner):
    project = Project(tmp_path_factory.mktemp("packed"), train=PIPELINE)
    return project, project.pack(runner)


class TestPack:
    def test_linear_pipeline_answers_in_process(self, packed):
        project, bundle = packed
        assert (bundle.form, bundle.form_reason, bundle.kind) == ("linear", "", "model")
        assert bundle.parity["holdout_rows"] == 100
        assert bundle.parity["made_rows"] > 10
        answers = project.answers(bundle)
        assert answers.columns == ["prediction", "probability_0", "probability_1"]
        assert set(answers["prediction"]) == {"old", "young"}
        assert (answers["prediction"] == project.holdout["band"]).mean() > 0.7
        assert bundle.signature.output.classes == ("old", "young")

    def test_same_inputs_give_the_same_bundle(self, packed, tmp_path, runner):
        _, first = packed
        again = Project(tmp_path, train=PIPELINE).pack(runner)
        assert again.digest == first.digest

    def test_recorded_once_with_its_training(self, packed):
        project, bundle = packed
        events = project.parts.ledger.events(kinds=["bundle.packed"])
        assert [event.subject for event in events] == [bundle.digest]
        [(_, document)] = project.parts.ledger.scan("training", dict)
        assert document["bundle"] == bundle.digest
        contract = read_contract(project.settings)
        assert bundle.code == contract.code

    def test_own_class_is_native(self, tmp_path, runner):
        project = Project(tmp_path, task="regression", target="score", params={"slope": 2.0}, train=OWN_CLASS)
        bundle = project.pack(runner)
        assert bundle.form == "native"
        assert "Line" in bundle.form_reason
        assert project.answers(bundle, runner)["prediction"].to_list() == (project.holdout["age"] * 2).to_list()

    def test_native_needs_a_runner(self, tmp_path, runner):
        project = Project(tmp_path, train=ADA)
        with pytest.raises(UserCodeFailed):
            project.answers(project.pack(runner), runner)
        with pytest.raises(Fault, match="worker process"):
            project.answers(project.parts.ledger.scan("bundle", Bundle)[0][1])

    def test_trees_in_a_pipeline(self, tmp_path, runner):
        project = Project(tmp_path, train=TREES)
        bundle = project.pack(runner)
        assert (bundle.form, bundle.form_reason) == ("lightgbm", "")
        assert project.answers(bundle).height == 100

    def test_own_predict_function_and_its_imports(self, tmp_path, runner):
        rules = "def threshold(params):\n    return params['age']\n"
        project = Project(tmp_path, train=PIPELINE, predict=PREDICT, rules=rules, params={"age": 45})
        bundle = project.pack(runner)
        assert (bundle.form, bundle.form_reason) == ("native", "the project has its own predict function")
        (tmp_path / "rules.py").write_text("raise RuntimeError('the project moved on')")
        answers = project.answers(bundle, runner)
        assert answers["prediction"].to_list() == ["old" if age > 45 else "young" for age in project.holdout["age"]]
        assert answers["probability_0"].to_list() == [float(age > 45) for age in project.holdout["age"]]
        given = project.holdout.select(bundle.signature.names).rows()
        with open_predictor(open_bundle(project.parts, bundle.digest), runner, project.settings) as predictor:
            few = predictor.few(given[:FEW_ROWS])
            assert few.equals(answers[:FEW_ROWS])
            assert predictor.few(given[: FEW_ROWS + 1]) is predictor.few([]) is None

    def test_bytes_of_another_turn_are_not_needed(self, tmp_path, runner):
        project = Project(tmp_path, train=PIPELINE, blobs=MemoryBlobs())
        bundle = project.pack(runner)
        first = project.answers(bundle)
        cached = project.settings.home / "cache" / "bundles" / bundle.digest / "fast" / "form.json"
        cached.write_bytes(cached.read_bytes().replace(b"0", b"1", 1))
        assert project.answers(bundle).equals(first)


class TestBaseline:
    def test_classification_is_the_prior(self, tmp_path):
        project = Project(tmp_path, train=PIPELINE)
        bundle = pack_baseline(project.parts, project.turn, snapshot=project.snapshot)
        answers = project.answers(bundle)
        assert (bundle.kind, bundle.form) == ("baseline", "constant")
        share = (rows(400)["band"] == "old").mean()
        assert answers["probability_0"].unique().to_list() == [share]
        assert answers["prediction"].unique().to_list() == ["old" if share >= 0.5 else "young"]
        again = pack_baseline(project.parts, project.turn, snapshot=project.snapshot)
        assert again.digest == bundle.digest
        assert len(project.parts.ledger.events(kinds=["bundle.packed"])) == 1

    def test_regression_is_the_mean(self, tmp_path):
        project = Project(tmp_path, task="regression", target="score", train=PIPELINE)
        bundle = pack_baseline(project.parts, project.turn, snapshot=project.snapshot)
        assert project.answers(bundle)["prediction"][0] == pytest.approx(rows(400)["score"].mean())


class TestOpen:
    def test_unknown(self, packed):
        with pytest.raises(NotFound):
            open_bundle(packed[0].parts, "0" * 64)

    def test_every_flipped_byte_is_found_and_its_file_named(self, packed):
        project, bundle = packed
        folder = open_bundle(project.parts, bundle.digest).path
        rng = np.random.default_rng(0)
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        assert {"manifest.json", "MLmodel", "model/model.pkl", "fast/form.json", "code/train.py"} <= set(names)
        for name in names:
            path = folder / name
            content = bytearray(path.read_bytes())
            place = int(rng.integers(len(content)))
            content[place] ^= 1 << int(rng.integers(8))
            with changed(path, bytes(content)), pytest.raises(BundleCorrupt, match=f"'{name}'") as caught:
                open_bundle(project.parts, bundle.digest)
            assert caught.value.next_step
        open_bundle(project.parts, bundle.digest)

    def test_missing_extra_and_linked_files(self, packed):
        project, bundle = packed
        folder = open_bundle(project.parts, bundle.digest).path
        form = folder / "fast" / "form.json"
        content = form.read_bytes()
        form.unlink()
        with pytest.raises(BundleCorrupt, match=r"'fast/form\.json' is missing"):
            open_bundle(project.parts, bundle.digest)
        form.symlink_to(folder / "profile.json")
        with pytest.raises(BundleCorrupt, match="link"):
            open_bundle(project.parts, bundle.digest)
        form.unlink()
        form.write_bytes(content)
        extra = folder / "code" / "sitecustomize.py"
        extra.write_text("")
        with pytest.raises(BundleCorrupt, match=r"'code/sitecustomize\.py' was not packed"):
            open_bundle(project.parts, bundle.digest)
        extra.unlink()
        open_bundle(project.parts, bundle.digest)

    def test_missing_and_extra_blobs(self, tmp_path):
        project = Project(tmp_path, train=PIPELINE, blobs=MemoryBlobs())
        bundle = pack_baseline(project.parts, project.turn, snapshot=project.snapshot)
        project.parts.blobs.put(f"bundles/{bundle.digest}/more.py", b"")
        with pytest.raises(BundleCorrupt, match=r"'more\.py' was not packed"):
            open_bundle(project.parts, bundle.digest)
        project.parts.blobs.delete(f"bundles/{bundle.digest}/more.py")
        project.parts.blobs.delete(f"bundles/{bundle.digest}/profile.json")
        with pytest.raises(BundleCorrupt, match=r"'profile\.json' is missing"):
            open_bundle(project.parts, bundle.digest)


class changed:  # noqa: N801 - reads as a statement
    def __init__(self, path, content):
        self.path, self.content = path, content

    def __enter__(self):
        self.before = self.path.read_bytes()
        self.path.chmod(0o644)
        self.path.write_bytes(self.content)

    def __exit__(self, *_):
        self.path.write_bytes(self.before)


class TestMlflow:
    def test_loads_as_a_model_folder(self, packed, pyfunc):
        project, bundle = packed
        folder = open_bundle(project.parts, bundle.digest).path
        model = pyfunc.load_model(str(folder))
        frame = project.holdout.drop("band").to_pandas()
        assert list(model.predict(frame)) == project.answers(bundle)["prediction"].to_list()
        assert [column.name for column in model.metadata.signature.inputs] == ["age", "city"]
        with pytest.raises(Exception, match="schema"):
            model.predict(frame[["age"]])
        assert open_bundle(project.parts, bundle.digest).path == folder

    def test_own_predict_function(self, tmp_path, runner, pyfunc):
        rules = "def threshold(params):\n    return params['age']\n"
        project = Project(tmp_path, train=PIPELINE, predict=PREDICT, rules=rules, params={"age": 45})
        bundle = project.pack(runner)
        model = pyfunc.load_model(str(open_bundle(project.parts, bundle.digest).path))
        answers = model.predict(project.holdout.drop("band").to_pandas())
        assert answers["prediction"].tolist() == project.answers(bundle, runner)["prediction"].to_list()
