"""The user's training function at work: the rows that it gets, what is kept of its answer, and how it is saved."""

import pickle
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from interlock.errors import ContractError, UserCodeFailed
from interlock.model.entry import Entry
from interlock.model.fit import MODEL_FILE, Rows, Task, apart, executed_path, save_model


class Constant:
    """A model that can be pickled by its name."""

    def predict(self, X: Any) -> list[int]:
        return [1] * len(X)


def task(folder: Path, source: str = "", *, order: str = "", needs_predict: bool = True, seed: int = 1) -> Task:
    (folder / "model").mkdir(exist_ok=True)
    frame = pl.DataFrame(
        {"a": range(50), "gap": [None, *range(49)], "t": [49 - n for n in range(50)], "y": [0, 1] * 25}
    )
    frame.write_parquet(folder / "rows.parquet")
    (folder / "fit.py").write_text(source)
    return Task(
        code=str(folder),
        entry=Entry(path="fit.py", function="train", module="fit", search="."),
        rows=str(folder / "rows.parquet"),
        features=("a", "gap"),
        target="y",
        order=order,
        params={"depth": 3},
        seed=seed,
        model_dir=str(folder / "model"),
        data_dir=str(folder / "data"),
        needs_predict=needs_predict,
    )


def test_the_validation_rows_are_drawn_by_the_seed(tmp_path: Path) -> None:
    learnt, valid = Rows(task(tmp_path), splits=True).parts
    assert (learnt.height, valid.height) == (40, 10)
    assert sorted(pl.concat([learnt, valid])["a"].to_list()) == list(range(50))
    assert Rows(task(tmp_path), splits=True).parts[1].equals(valid)
    assert not Rows(task(tmp_path, seed=2), splits=True).parts[1].equals(valid)


def test_or_they_are_the_newest(tmp_path: Path) -> None:
    _, valid = Rows(task(tmp_path, order="t"), splits=True).parts
    assert valid["a"].to_list() == list(range(10)), "the time runs against the order of the rows"


def test_both_parts_get_one_type_for_a_column_with_gaps(tmp_path: Path) -> None:
    rows = Rows(task(tmp_path), splits=True)
    assert rows.gaps == {"gap"}
    offers = rows.offers()
    kinds = {name: str(offers[name]("pandas")["gap"].dtype) for name in ("X", "X_valid")}
    assert kinds == {"X": "float64", "X_valid": "float64"}


def test_without_a_split_all_rows_are_learnt_from(tmp_path: Path) -> None:
    learnt, valid = Rows(task(tmp_path), splits=False).parts
    assert (learnt.height, valid.height) == (50, 0)
    assert learnt.columns == ["a", "gap", "y"], "only features and target"


def test_a_model_that_is_returned_is_pickled(tmp_path: Path) -> None:
    save_model(Constant(), task(tmp_path))
    assert isinstance(pickle.loads((tmp_path / "model" / MODEL_FILE).read_bytes()), Constant)


def test_a_model_that_saved_itself_stays_as_it_is(tmp_path: Path) -> None:
    made = task(tmp_path)
    (tmp_path / "model" / "weights.bin").write_bytes(b"w")
    save_model(None, made)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["weights.bin"]


def test_what_cannot_answer_or_be_saved_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserCodeFailed) as failed:
        save_model(None, task(tmp_path))
    assert failed.value.message == "train in fit.py returned nothing, and saved nothing into model_dir."
    with pytest.raises(ContractError) as wrong:
        save_model(7, task(tmp_path))
    assert wrong.value.message == (
        "train in fit.py returned builtins.int, which has no .predict, and the project names no inference file."
    )
    save_model(7, task(tmp_path, needs_predict=False))
    with pytest.raises(UserCodeFailed) as failed:
        save_model((n for n in [1]), task(tmp_path, needs_predict=False))
    assert "builtins.generator) cannot be saved: " in failed.value.message
    assert failed.value.recorded == (
        "The model that train in fit.py returned (builtins.generator) cannot be saved: TypeError."
    )
    assert not (tmp_path / "model" / MODEL_FILE).exists(), "no half a model is left"


def test_metrics_are_told_from_the_model() -> None:
    model = Constant()
    assert apart(model) == (model, {})
    assert apart((model, {"loss": 1})) == (model, {"loss": 1.0})


def test_an_executed_notebook_lies_beside_the_model(tmp_path: Path) -> None:
    assert executed_path(task(tmp_path)) == tmp_path / "notebook" / "executed.ipynb"


@pytest.mark.slow
def test_a_training_is_seeded_and_counted(tmp_path: Path) -> None:
    import subprocess
    import sys

    import msgspec

    source = (
        "import random\nimport numpy as np\n\ndef train(X, y, depth, model_dir):\n"
        "    open(model_dir + '/drawn', 'w').write(f'{random.random()} {np.random.rand()} {depth}')\n"
        "    return None, {'rows': len(X)}\n"
    )
    plain = msgspec.json.encode({"task": msgspec.to_builtins(task(tmp_path, source))}).decode()
    code = (
        "import json, sys; from interlock.model.fit import run_training; "
        "print(json.dumps(run_training(json.loads(sys.argv[1]))))"
    )
    drawn = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, plain], capture_output=True, check=True, cwd=tmp_path)
        told = msgspec.json.decode(done.stdout)
        assert (told["rows"], told["metrics"]) == (50, {"rows": 50.0})
        drawn.append((tmp_path / "model" / "drawn").read_text())
    assert drawn[0] == drawn[1]
    assert drawn[0].endswith(" 3")
