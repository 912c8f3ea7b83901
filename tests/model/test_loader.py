import pickle
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from interlock.model.loader import Native, _load_pyfunc
from interlock.records import canonical


class Doubler:
    classes_ = np.array(["no", "yes"])

    def predict(self, frame):
        return frame["x"] * 2

    def predict_proba(self, frame):
        return np.tile([0.25, 0.75], (len(frame), 1))


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A function that writes a bundle's native part and gives its folder."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(code=None, *, task="regression", model="model.pkl"):
        (tmp_path / "model").mkdir()
        (tmp_path / "code").mkdir()
        (tmp_path / "model" / "model.pkl").write_bytes(pickle.dumps(Doubler()))
        entry = None
        if code is not None:
            (tmp_path / "code" / "packed_predict.py").write_text(code)
            entry = {"module": "packed_predict", "function": "predict"}
        native = {"model": model, "folders": ["."], "frames": "pandas", "predict": entry}
        columns = [{"name": "x", "type": "float", "nullable": False}]
        manifest = {"native": native, "task": task, "params": {"k": 3}, "seed": 7, "columns": columns}
        (tmp_path / "manifest.json").write_bytes(canonical(manifest))
        return tmp_path

    yield write
    sys.modules.pop("packed_predict", None)


FRAME = pd.DataFrame({"extra": [0, 0], "x": [1.0, 2.0]})


def test_the_models_own_predict(packed):
    native = Native(packed())
    assert native.answer(FRAME).tolist() == [2.0, 4.0]
    assert native.probabilities(FRAME) is None


def test_probabilities_of_a_classifier(packed):
    values, classes = Native(packed(task="classification")).probabilities(FRAME)
    assert classes == ["no", "yes"]
    assert values.shape == (2, 2)


@pytest.mark.parametrize(
    "signature",
    ["model, data", "data, model", "model, df", "model, X, params", "model, X, /, k", "model, X, k=1, *, seed, **rest"],
)
def test_arguments_by_name(packed, signature):
    native = Native(packed(f"def predict({signature}):\n    return dict(locals())\n"))
    got = native.answer(FRAME)
    frame = next(got[name] for name in ("data", "df", "X") if name in got)
    assert frame is FRAME
    assert isinstance(got["model"], Doubler)
    assert got.get("k", 3) == 3
    assert got.get("seed", 7) == 7
    assert got.get("params", {"k": 3}) == {"k": 3}


def test_an_argument_that_nobody_offers(packed):
    native = Native(packed("def predict(model, data, threshold):\n    return None\n"))
    with pytest.raises(TypeError, match="'threshold'"):
        native.answer(FRAME)


def test_a_model_that_is_a_folder(packed):
    folder = packed("def predict(model, data):\n    return model\n", model=None)
    assert Native(folder).answer(FRAME) == str(folder / "model")


@pytest.mark.parametrize(
    ("head", "note", "type_"),
    [
        ("import pandas as pd", "pd.DataFrame", pd.DataFrame),
        ("import polars as pl", "pl.DataFrame", pl.DataFrame),
        ("import polars as pl", "'pl.DataFrame'", pl.DataFrame),
        ("import pyarrow as pa", "pa.Table", pa.Table),
        ("import numpy as np", "np.ndarray", np.ndarray),
        ("", "'Unknown'", pd.DataFrame),
    ],
)
def test_mlflow_gives_the_kind_of_frame_asked_for(packed, head, note, type_):
    code = f"{head}\n\ndef predict(model, data: {note}):\n    return type(data), data.shape\n"
    assert _load_pyfunc(str(packed(code))).predict(FRAME) == (type_, (2, 1))
