import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from interlock.errors import Conflict, ContractError, UserCodeFailed
from interlock.model.contract import read_contract
from interlock.model.runner import Runner
from interlock.model.train import Trained, notebook_place, train, training_digest
from interlock.ports import Parts, Turn
from interlock.records import Snapshot
from interlock.settings import Data as DataSettings
from interlock.settings import HoldoutSpec, Model, Settings, Store
from interlock.store.blobs import LocalBlobs
from interlock.testing.clock import ManualClock
from interlock.testing.fakes import MemoryLedger, MemoryTables

ROWS = 100


def training_rows() -> pl.DataFrame:
    """id: Int64 key; a, b: Float64 features; word: String; day: Date; gap: Int64 with a null; y = 2 a - b."""
    a = [float(i % 13) for i in range(ROWS)]
    b = [float(i % 7) for i in range(ROWS)]
    return pl.DataFrame(
        {
            "id": range(ROWS),
            "a": a,
            "b": b,
            "word": [f"w{i % 3}" for i in range(ROWS)],
            "day": pl.date_range(pl.date(2026, 1, 1), pl.date(2026, 4, 10), eager=True),
            "gap": [None if i == 5 else i for i in range(ROWS)],
            "y": [2 * p - q for p, q in zip(a, b, strict=True)],
        }
    )


class Project:
    """The parts of one project in ``root``, with ``train.py`` and what else a test writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = ManualClock()
        self.ledger = MemoryLedger(self.clock)
        self.fence = self.ledger.acquire("turn", ttl_s=60)
        self.blobs = LocalBlobs(root / ".interlock" / "lake")
        rows = training_rows()
        key = "snapshots/abc/training.parquet"
        path = root / "rows.parquet"
        rows.write_parquet(path)
        self.blobs.put(key, path)
        path.unlink()
        self.snapshot = Snapshot(
            digest="abc",
            sources=(),
            query="",
            columns=tuple(rows.columns),
            rows=125,
            training_rows=ROWS,
            holdout_rows=25,
            training_key=key,
            holdout_key="snapshots/abc/holdout.parquet",
            training_digest="t",
            holdout_digest="h",
            split="hash",
        )
        self.said: list[str] = []

    def write(self, path: str, source: str) -> None:
        """A file of the user."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(source)

    def settings(
        self, *, params: dict[str, object] | None = None, time: str | None = None, **model: object
    ) -> Settings:
        """Settings with ``model`` keys over the defaults of these tests."""
        values = {"name": "m", "task": "regression", "target": "y", "features": ("a", "b")} | model
        holdout = HoldoutSpec(last="7d", time=time) if time else HoldoutSpec(fraction=0.2)
        data = DataSettings(key=("id",), holdout=holdout)
        return Settings(model=Model(**values), params=params or {}, data=data, root=self.root)

    def parts(self, settings: Settings) -> Parts:
        """The ports, wired."""
        tables = MemoryTables(self.root / "tables")
        return Parts(settings=settings, clock=self.clock, ledger=self.ledger, blobs=self.blobs, tables=tables)

    def turn(self) -> Turn:
        """A turn that holds the lease."""
        return Turn(id="turn-1", fence=self.fence, say=self.said.append)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """One host for all tests: user code comes from the frozen copy, so the root does not matter."""
    root = tmp_path_factory.mktemp("shared")
    with Runner(root, ["pandas", "cloudpickle"], root / "scratch") as runner:
        yield runner


def trained(project: Project, runner: Runner, source: str, **kwargs: Any) -> Trained:
    """Write ``train.py`` and train."""
    project.write("train.py", source)
    settings = project.settings(**kwargs)
    return train(project.parts(settings), project.turn(), read_contract(settings), project.snapshot, runner)


def seen(project: Project, runner: Runner, signature: str, returned: str, **kwargs: Any) -> Any:
    """What the expression ``returned`` gives inside a training function with that signature."""
    source = (
        "import json, pathlib, inspect\nimport pandas, polars, pyarrow, numpy\n"
        f"def train({signature}):\n    value = {returned}\n"
        "    folder = inspect.currentframe().f_locals.get('model_dir')\n"
        "    pathlib.Path(folder, 'seen.json').write_text(json.dumps(value))\n"
    )
    return json.loads((Path(trained(project, runner, source, **kwargs).folder) / "seen.json").read_text())


def events(project: Project, kind: str) -> list[dict[str, Any]]:
    return [event.facts for event in project.ledger.events(kinds=[kind])]


def loaded(result: Trained, expression: str) -> Any:
    """Load the model in an interpreter of its own, from the frozen code, and evaluate an expression on it."""
    code = (
        f"import sys, json, pickle; sys.path.insert(0, {result.code!r}); "
        f"m = pickle.load(open({result.folder + '/model.pkl'!r}, 'rb')); print(json.dumps({expression}))"
    )
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)


LINE = """
import numpy

class Line:
    def __init__(self):
        self.__w = None

    def __solve(self, X, y):
        return numpy.linalg.lstsq(X.to_numpy(), y.to_numpy(), rcond=None)[0]

    def fit(self, X, y):
        self.__w = self.__solve(X, y)
        return self

    def __predict(self, X):
        return X @ self.__w

    def predict(self, X):
        return self.__predict(X)

def train(X, y):
    print("fitting")
    return Line().fit(X, y), {"r2": numpy.float64(1.0), "steps": 3, "odd": float("nan")}
"""


# ---- what is recorded --------------------------------------------------------------------------------------------


def test_a_training_is_saved_recorded_and_loads_again(project: Project, runner: Runner) -> None:
    result = trained(project, runner, LINE, params={"rate": 0.5})
    assert loaded(result, "[round(v, 6) for v in m.predict([[1.0, 0.0], [0.0, 1.0]]).tolist()]") == [2.0, -1.0]
    assert loaded(result, "type(m).__module__") == "train"
    training = result.training
    assert training.status == "done"
    assert training.metrics == {"r2": 1.0, "steps": 3.0}
    assert training.rows == ROWS
    assert training.seconds > 0
    assert training.peak_memory_bytes > 10_000_000
    assert training.params == {"rate": 0.5}
    assert training.output_tail == "fitting\nmetric odd is nan and was not recorded\n"
    assert [event["digest"] for event in events(project, "training.done")] == [training.digest]
    assert training.digest == training_digest(
        project.settings(params={"rate": 0.5}),
        read_contract(project.settings(params={"rate": 0.5})),
        project.snapshot,
    )


def test_the_digest_follows_everything_that_goes_in(project: Project) -> None:
    project.write("train.py", LINE)
    settings = project.settings()
    contract = read_contract(settings)
    base = training_digest(settings, contract, project.snapshot)
    others = [
        training_digest(project.settings(params={"a": 1}), contract, project.snapshot),
        training_digest(project.settings(seed=1), contract, project.snapshot),
        training_digest(project.settings(features=("b", "a")), contract, project.snapshot),
        training_digest(settings, msgspec.structs.replace(contract, code="x"), project.snapshot),
        training_digest(settings, contract, msgspec.structs.replace(project.snapshot, digest="x")),
    ]
    assert len({base, *others}) == 6


def test_a_failure_is_recorded_with_the_users_traceback(project: Project, runner: Runner) -> None:
    source = "def train(data):\n    print('so far')\n    return data['absent']\n"
    with pytest.raises(UserCodeFailed, match=r"train in train\.py raised KeyError: 'absent'"):
        trained(project, runner, source)
    (failed,) = events(project, "training.failed")
    assert failed["status"] == "failed"
    assert 'File "train.py", line 3, in train' in failed["error"]
    assert failed["output_tail"] == "so far\n"
    assert failed["seconds"] > 0
    assert failed["peak_memory_bytes"] > 10_000_000
    assert events(project, "training.done") == []


def test_the_deadline_of_the_settings_holds(project: Project, runner: Runner) -> None:
    with pytest.raises(UserCodeFailed, match="after its deadline of"):
        trained(project, runner, "import time\ndef train(data): time.sleep(600)\n", deadline="500ms")
    assert len(events(project, "training.failed")) == 1


# ---- what the function is given ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signature", "expression", "expected"),
    [
        ("data", "[type(data).__module__.split('.')[0], *data.columns]", ["pandas", "a", "b", "y"]),
        ("df: polars.DataFrame", "[type(df).__module__.split('.')[0], df.height]", ["polars", ROWS]),
        ("X: pyarrow.Table", "[type(X).__module__.split('.')[0], *X.column_names]", ["pyarrow", "a", "b"]),
        ("X: 'polars.DataFrame | None'", "type(X).__name__", "DataFrame"),
        ("X: numpy.ndarray, y: numpy.ndarray", "[X.shape, y.shape]", [[ROWS, 2], [ROWS]]),
        ("X_train, y_train", "[list(X_train.shape), y_train.name, len(y_train)]", [[ROWS, 2], "y", ROWS]),
        ("X, params", "params", {"rate": 0.5, "layers": [1, 2]}),
        ("X, rate, layers=()", "[rate, layers]", [0.5, [1, 2]]),
        ("X, **rest", "rest", {"rate": 0.5, "layers": [1, 2]}),
        ("X, /, seed, other=4, *more", "[seed, other]", [11, 4]),
        ("data_dir", "sorted(p.name for p in pathlib.Path(data_dir).iterdir())", ["training.parquet"]),
        (
            "data_dir, X_valid",
            "[polars.read_parquet(data_dir + f'/{n}.parquet').shape for n in ('training', 'valid')]",
            [[80, 3], [20, 3]],
        ),
    ],
)
def test_arguments_go_by_name(
    project: Project, runner: Runner, signature: str, expression: str, expected: object
) -> None:
    params = {"rate": 0.5, "layers": [1, 2]}
    before, star, _ = signature.partition(", *more")
    names = f"{before}, model_dir" if "=" not in before or star else f"{before}, model_dir=None"
    names = "X, model_dir, **rest" if "**rest" in signature else names
    names = "X, /, seed, model_dir, other=4, *more" if star else names
    assert seen(project, runner, names, expression, params=params, seed=11) == expected


VALID = (
    "[X_valid.index.size, sorted(X_valid['a'].tolist() + X['a'].tolist()), X_valid['b'].tolist(), len(y), len(y_valid)]"
)


def test_validation_rows_are_seeded_and_apart(project: Project, runner: Runner) -> None:
    signature = "X, y, X_valid, y_valid, model_dir"
    first = seen(project, runner, signature, VALID, seed=1)
    assert first[0] == 20
    assert first[1] == sorted(training_rows()["a"].to_list())
    assert first[3:] == [80, 20]
    assert seen(project, runner, signature, VALID, seed=1) == first
    assert seen(project, runner, signature, VALID, seed=2)[2] != first[2]


def test_validation_rows_are_the_newest_where_time_decides(project: Project, runner: Runner) -> None:
    kwargs = {"time": "day", "task": "forecast", "features": ("day", "a")}
    assert seen(project, runner, "X, X_valid, model_dir", "str(X_valid['day'].min())[:10]", **kwargs) == "2026-03-22"
    assert seen(project, runner, "X, X_valid, model_dir", "str(X['day'].max())[:10]", **kwargs) == "2026-03-21"
    assert seen(project, runner, "X, model_dir", "str(X['day'].dtype)", **kwargs) == "datetime64[ms]"


def test_columns_with_gaps_have_one_type_in_both_parts(project: Project, runner: Runner) -> None:
    types = "[str(X['gap'].dtype), str(X_valid['gap'].dtype), str(X['word'].dtype)]"
    kwargs = {"features": ("gap", "word")}
    assert seen(project, runner, "X, X_valid, model_dir", types, **kwargs) == ["float64", "float64", "str"]


def test_everything_random_is_seeded(project: Project, runner: Runner) -> None:
    source = "__import__('random').random(), numpy.random.random()"
    first = seen(project, runner, "X, model_dir", f"[{source}]", seed=1)
    assert seen(project, runner, "X, model_dir", f"[{source}]", seed=1) == first
    assert seen(project, runner, "X, model_dir", f"[{source}]", seed=2) != first


def test_a_column_named_like_the_target_stays_out_of_the_features(project: Project, runner: Runner) -> None:
    expected = ["a", "b", "word", "day", "gap"]
    assert seen(project, runner, "X, model_dir", "list(X.columns)", features=()) == expected


# ---- what it may return ------------------------------------------------------------------------------------------


def test_files_in_model_dir_are_the_model(project: Project, runner: Runner) -> None:
    result = trained(project, runner, "def train(X, model_dir):\n    open(model_dir + '/w.txt', 'w').write('1')\n")
    assert [path.name for path in Path(result.folder).iterdir()] == ["w.txt"]


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("pass", UserCodeFailed, "returned nothing, and saved nothing into model_dir"),
        ("return 3", ContractError, "returned builtins.int, which has no .predict"),
        ("return (3, {'a': 'b'})", ContractError, "returned builtins.tuple"),
        (
            "import threading\n    class M: predict = print\n    m = M()\n    m.lock = threading.Lock()\n    return m",
            UserCodeFailed,
            "cannot be saved: cannot pickle '_thread.lock' object",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(
    project: Project, runner: Runner, body: str, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=re.escape(said)):
        trained(project, runner, f"def train(data):\n    {body}\n")
    assert len(events(project, "training.failed")) == 1


def test_any_object_will_do_when_there_is_an_inference_file(project: Project, runner: Runner) -> None:
    project.write("predict.py", "def predict(model, data): ...\n")
    result = trained(project, runner, "def train(data):\n    return {'w': 2}\n", predict="predict.py")
    assert loaded(result, "m") == {"w": 2}


# ---- code --------------------------------------------------------------------------------------------------------


def test_the_frozen_copy_is_what_runs(project: Project, runner: Runner) -> None:
    project.write("lib/shapes.py", "SIDES = 4\n")
    source = f"""
import lib.shapes
def train(data, model_dir):
    open({str(project.root / "train.py")!r}, "w").write("edited while it runs")
    import late
    open(model_dir + "/m.txt", "w").write(str(lib.shapes.SIDES + late.X))
"""
    project.write("late.py", "X = 1\n")
    result = trained(project, runner, source)
    assert Path(result.folder, "m.txt").read_text() == "5"
    assert sorted(p.relative_to(result.code).as_posix() for p in Path(result.code).rglob("*") if p.is_file()) == [
        "late.py",
        "lib/shapes.py",
        "train.py",
    ]
    assert Path(result.code, "train.py").read_text() == source


@pytest.mark.parametrize("edit", ["change", "remove"])
def test_an_edit_after_the_contract_was_read_is_noticed(project: Project, runner: Runner, edit: str) -> None:
    project.write("train.py", LINE)
    settings = project.settings()
    contract = read_contract(settings)
    (project.root / "train.py").unlink()
    if edit == "change":
        project.write("train.py", LINE + "#")
    with pytest.raises(Conflict, match="changed while the turn was under way"):
        train(project.parts(settings), project.turn(), contract, project.snapshot, runner)


def test_files_that_are_not_packed_cannot_be_imported(project: Project) -> None:
    project.write("hidden.py", "")
    source = "import importlib\ndef train(data):\n    importlib.import_module('hid' + 'den')\n"
    with Runner(project.root, [], project.root) as own, pytest.raises(UserCodeFailed, match="No module named 'hidden'"):
        trained(project, own, source)


def test_a_file_with_the_name_of_a_loaded_module_is_explained(project: Project, runner: Runner) -> None:
    project.write("json.py", "def train(data): ...\n")
    with pytest.raises(
        ContractError, match=r"json\.py cannot be imported as 'json': .* has that name. Rename the file"
    ):
        trained(project, runner, "", train="json.py")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def deco(f):\n    return lambda rows: f(rows)\n@deco\ndef train(data): ...\n", "asks for 'rows'"),
        ("from numpy import ndarray as train\n", "is type, not a plain function"),
    ],
)
def test_signatures_that_only_running_tells_are_checked_then(
    project: Project, runner: Runner, source: str, said: str
) -> None:
    with pytest.raises(ContractError, match=said):
        trained(project, runner, source)


def test_a_package_can_hold_the_training_file(project: Project, runner: Runner) -> None:
    project.write("pkg/__init__.py", "")
    project.write("pkg/shapes.py", "class M:\n    def predict(self, X): return 1\n")
    project.write("pkg/fit.py", "from .shapes import M\ndef train(data): return M()\n")
    result = trained(project, runner, "", train="pkg/fit.py")
    assert loaded(result, "type(m).__module__") == "pkg.shapes"


def test_blobs_that_are_not_local_are_fetched(
    project: Project, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project.blobs, "local", lambda _: None)
    assert trained(project, runner, LINE).training.rows == ROWS


def test_where_an_executed_notebook_is_is_told_for_a_folder_and_a_bucket() -> None:
    given = Settings(model=Model(name="m", task="custom"), data=DataSettings(inbox="in"))
    assert notebook_place(given, "e" * 64) == f".interlock/lake/notebooks/{'e' * 64}.ipynb"
    bucket = msgspec.structs.replace(given, store=Store(lake="s3://bucket/lake/"))
    assert notebook_place(bucket, "e" * 64) == f"s3://bucket/lake/notebooks/{'e' * 64}.ipynb"
    assert notebook_place(given, "") == ""
