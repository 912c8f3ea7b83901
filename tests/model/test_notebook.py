import json
from pathlib import Path
from typing import Any

import pytest

from interlock.errors import ContractError
from interlock.model.contract import Contract, code_digest, read_contract
from interlock.model.train import freeze
from interlock.settings import Data, Model, Settings


def notebook(*cells: tuple[str, str]) -> str:
    made = [
        {
            "cell_type": "code",
            "source": source,
            "metadata": {"tags": [tag]} if tag else {},
            "outputs": [],
            "execution_count": None,
        }
        for tag, source in cells
    ]
    metadata = {"language_info": {"name": "python"}}
    return json.dumps({"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4})


def contract(root: Path, text: str = "model.ipynb", **params: Any) -> Contract:
    model = Model(name="m", task="regression", train=text, target="y")
    return read_contract(Settings(root=root, model=model, params=params, data=Data()))


def test_asks_by_its_parameters_cell_and_by_reading(tmp_path: Path) -> None:
    cells = (
        ("parameters", "seed = 1\nother = 2\nalpha = 1.0"),
        ("", "m = fit(X, y, alpha)\nX_train = X\nmodel_dir = 'm'"),
    )
    (tmp_path / "model.ipynb").write_text(notebook(*cells))
    train = contract(tmp_path, alpha=3).train
    assert (train.kind, train.function) == ("notebook", "model")
    assert train.parameters == ("seed", "alpha", "X", "y")
    assert contract(tmp_path, "model.ipynb:m", alpha=3).train.function == "m"


def test_local_modules_of_its_cells_are_packed(tmp_path: Path) -> None:
    (tmp_path / "model.ipynb").write_text(notebook(("", "%autoreload 2\nfrom tools import clean\nmodel = clean(df)")))
    (tmp_path / "tools.py").write_text("import numpy\ndef clean(x): return x\n")
    made = contract(tmp_path)
    assert made.files == ("model.ipynb", "tools.py")
    assert "numpy" in made.preload


def test_outputs_neither_retrain_nor_travel(tmp_path: Path) -> None:
    path = tmp_path / "model.ipynb"
    path.write_text(notebook(("", "model = df")))
    before = contract(tmp_path)
    opened = json.loads(path.read_text())
    opened["cells"][0]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "a row"}]
    path.write_text(json.dumps(opened))
    assert contract(tmp_path).code == before.code == code_digest(tmp_path, before)
    freeze(tmp_path, before, tmp_path / "frozen")
    assert "a row" not in (tmp_path / "frozen" / "model.ipynb").read_text()
    path.write_text(notebook(("", "model = df + 1")))
    assert contract(tmp_path).code != before.code


@pytest.mark.parametrize(
    ("cells", "params", "said"),
    [
        ([("", "df = load()\nmodel = df")], {}, "never sees the rows"),
        ([("", "depth = 3\nmodel = f(df, depth)")], {"depth": 5}, "code cell 1 assigns 'depth'"),
        ([("parameters", "a = 1"), ("", "a = 2\nmodel = df")], {"a": 5}, "code cell 2 assigns 'a'"),
        ([("", "model = f(df, seed)")], {"seed": 5}, "both a key of"),
        ([("", "df\nx ==")], {}, "code cell 1, line 2"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, cells: Any, params: Any, said: str) -> None:
    (tmp_path / "model.ipynb").write_text(notebook(*cells))
    with pytest.raises(ContractError, match=said):
        contract(tmp_path, **params)


def test_a_parameter_that_is_read_first_may_be_assigned_later(tmp_path: Path) -> None:
    (tmp_path / "model.ipynb").write_text(notebook(("", "depth = min(depth, 9)\nmodel = f(df, depth)")))
    assert contract(tmp_path, depth=5).train.parameters == ("depth", "df")


@pytest.mark.parametrize("text", ["model.ipynb:not a name", "missing.ipynb", "../model.ipynb"])
def test_a_wrong_name_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.ipynb").write_text(notebook(("", "model = df")))
    with pytest.raises(ContractError):
        contract(tmp_path, text)


def test_missing_packages_are_told_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.ipynb").write_text(notebook(("", "model = df")))
    monkeypatch.setattr("interlock.model.notebook._NEEDED", ("no_such_package",))
    with pytest.raises(ContractError, match="no_such_package") as raised:
        contract(tmp_path)
    assert "interlock[notebook]" in raised.value.next_step
