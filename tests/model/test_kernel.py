"""The end of a notebook: the model is taken out of its variables and saved, or it is said why not."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock.model.entry import Entry
from interlock.model.fit import MODEL_FILE, Task
from interlock.model.kernel import Start, environment, finish


class Constant:
    """A model that can be pickled by its name."""

    def predict(self, X: Any) -> list[int]:
        return [1] * len(X)


def finished(folder: Path, names: dict[str, Any]) -> dict[str, Any]:
    (folder / "model").mkdir(exist_ok=True)
    task = Task(
        code=str(folder),
        entry=Entry(path="model.ipynb", function="model", module="", search=".", kind="notebook"),
        rows="",
        features=(),
        target="y",
        order="",
        params={},
        seed=0,
        model_dir=str(folder / "model"),
        data_dir=str(folder / "data"),
        needs_predict=True,
    )
    start = Start(parent=0, folders=(), task=msgspec.to_builtins(task), result=str(folder / "result.json"))
    (folder / "start.json").write_bytes(msgspec.json.encode(start))
    finish(names, str(folder / "start.json"))
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def test_the_model_of_the_variable_is_saved_and_numbers_are_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = finished(tmp_path, {"model": Constant(), "metrics": {"loss": 1, "curve": [1, 2]}})
    assert told == {"metrics": {"loss": 1.0}}
    assert (tmp_path / "model" / MODEL_FILE).is_file()
    assert capsys.readouterr().err == "metrics that are not numbers were not recorded: curve\n"


def test_metrics_that_are_none_are_none(tmp_path: Path) -> None:
    assert finished(tmp_path, {"model": Constant(), "metrics": 7}) == {"metrics": {}}


def test_what_the_notebook_saved_itself_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    assert finished(tmp_path, {}) == {"metrics": {}}


def test_a_notebook_without_a_model_is_told(tmp_path: Path) -> None:
    told = finished(tmp_path, {"modle": Constant()})
    assert told["kind"] == "UserCodeFailed"
    assert told["message"] == ("model.ipynb has run, but no variable 'model' holds a model, and model_dir is empty.")
    assert told["next_step"].startswith("Assign the model to 'model', or name its variable")


def test_a_variable_that_cannot_answer_is_told(tmp_path: Path) -> None:
    told = finished(tmp_path, {"model": [1]})
    assert told["kind"] == "ContractError"
    assert told["message"].startswith("model in model.ipynb is builtins.list, which has no .predict")


def test_the_kernel_has_no_profile_of_the_person_who_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    found = environment(tmp_path)
    assert "MPLBACKEND" not in found
    assert found["IPYTHONDIR"] == str(tmp_path / "ipython")
    assert found["JUPYTER_NO_CONFIG"] == "1"
