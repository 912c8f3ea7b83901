"""The files that a training program finds in its channels."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from interlock.errors import ContractError
from interlock.model.channels import numbers, write_channels
from interlock.model.entry import Entry
from interlock.model.fit import Task
from interlock.settings import Script

ROWS = pl.DataFrame({"a": [float(n) for n in range(20)], "b": list(range(20)), "y": ["u", "v"] * 10})


def task(folder: Path, frame: pl.DataFrame = ROWS, **script: Any) -> Task:
    frame.write_parquet(folder / "rows.parquet")
    return Task(
        code=str(folder),
        entry=Entry(path="fit.py", function="", module="fit", search=".", kind="script"),
        rows=str(folder / "rows.parquet"),
        features=tuple(name for name in frame.columns if name != "y"),
        target="y" if "y" in frame.columns else "",
        order="",
        params={},
        seed=1,
        model_dir=str(folder / "model"),
        data_dir=str(folder / "data"),
        needs_predict=False,
        script=Script(**script),
    )


def test_by_default_one_file_without_header_the_target_first(tmp_path: Path) -> None:
    folders = write_channels(task(tmp_path), ["train"], tmp_path / "in", header=False)
    (file,) = folders["train"].iterdir()
    assert file.name == "train.csv"
    assert file.read_text().splitlines()[:2] == ["u,0.0,0", "v,1.0,1"]
    assert len(file.read_text().splitlines()) == 20


def test_validation_and_test_share_a_fifth_of_the_training_rows(tmp_path: Path) -> None:
    made = task(tmp_path, target_first=False, format="parquet")
    folders = write_channels(made, ["train", "validation", "test", "code"], tmp_path / "in", header=False)
    parts = {name: pl.read_parquet(folder) for name, folder in folders.items() if name != "code"}
    assert {name: frame.height for name, frame in parts.items()} == {"train": 16, "validation": 2, "test": 2}
    assert sorted(pl.concat(parts.values())["b"].to_list()) == list(range(20)), "each row is in one of them"
    assert parts["train"].columns == ["a", "b", "y"]
    assert list(folders["code"].iterdir()) == []


def test_a_file_may_be_called_otherwise(tmp_path: Path) -> None:
    made = task(tmp_path, files={"train": "housing.csv"})
    folders = write_channels(made, ["train"], tmp_path / "in", header=True)
    assert (folders["train"] / "housing.csv").read_text().splitlines()[0] == "y,a,b"


def test_arrays_and_libsvm(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1.5, None], "b": [0, 2], "y": [1, 0]})
    made = task(tmp_path, frame, format="npy")
    folder = write_channels(made, ["train"], tmp_path / "npy", header=False)["train"]
    np.testing.assert_array_equal(np.load(folder / "x_train.npy"), [[1.5, 0.0], [np.nan, 2.0]])
    np.testing.assert_array_equal(np.load(folder / "y_train.npy"), [1, 0])
    made = task(tmp_path, frame, format="libsvm")
    folder = write_channels(made, ["train"], tmp_path / "svm", header=False)["train"]
    assert (folder / "train.libsvm").read_text() == "1 0:1.5 1:0\n0 1:2\n", "what is missing is left out"


def test_what_a_format_has_no_place_for_is_said(tmp_path: Path) -> None:
    with pytest.raises(ContractError) as caught:
        numbers(task(tmp_path, format="libsvm"), ROWS.select("y"))
    assert caught.value.message == "The column 'y' is String; libsvm files hold numbers only."
    assert caught.value.next_step == "Set script.format = 'csv', or leave the column out of model.features."
    bytes_ = pl.DataFrame({"picture": [b"x"], "y": ["u"]})
    with pytest.raises(
        ContractError, match="The column 'picture' holds bytes, and CSV files cannot carry them"
    ) as caught:
        write_channels(task(tmp_path, bytes_), ["train"], tmp_path / "in", header=False)
    assert caught.value.next_step.startswith("Set script.format = 'parquet'")
