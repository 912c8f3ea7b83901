import pickle
import sys
from typing import ClassVar

import msgspec
import polars as pl
import pytest

from interlock.model.compile import compile_model
from interlock.model.forms import load_form
from interlock.records import Signature, canonical
from model.plain_rows import ROWS, SIGNATURE


@pytest.fixture(autouse=True)
def _search_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


class Halves:
    """A model that the fold knows nothing of."""

    asked: ClassVar[list[int]] = []

    def predict(self, frame):
        self.asked.append(len(frame))
        return frame["x"].fillna(0.0) / 2


class Broken:
    def predict(self, frame):
        raise RuntimeError("no")


def compiled(tmp_path, model, signature=SIGNATURE):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.pkl").write_bytes(pickle.dumps(model))
    manifest = {
        "native": {"model": "model.pkl", "folders": ["."], "frames": "pandas", "predict": None},
        "task": "regression",
        "params": {},
        "seed": 0,
        "columns": [],
    }
    (tmp_path / "manifest.json").write_bytes(canonical(manifest))
    ROWS.write_ipc(tmp_path / "rows.arrow")
    call = {
        "bundle": str(tmp_path),
        "signature": msgspec.to_builtins(signature),
        "holdout": str(tmp_path / "rows.arrow"),
        "sample": str(tmp_path / "rows.arrow"),
        "output": str(tmp_path / "fast"),
        "answers": str(tmp_path / "answers.arrow"),
    }
    return compile_model(call)


class TestCompile:
    def test_a_linear_model(self, tmp_path):
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LinearRegression
        from sklearn.pipeline import make_pipeline

        signature = Signature(inputs=SIGNATURE.inputs[:2], output=SIGNATURE.output)
        frame = ROWS.select("x", "n").to_pandas()
        model = make_pipeline(SimpleImputer(), LinearRegression()).fit(frame, [1.0, 2.0, 4.0])
        result = compiled(tmp_path, model, signature)
        assert (result["form"], result["reason"]) == ("linear", "")
        assert result["parity"]["forms"]["native"]["holdout_ms"] > 0
        form = load_form(tmp_path / "fast", "linear", signature)
        assert form.answer(ROWS)["prediction"].to_list() == pytest.approx(list(model.predict(frame)), rel=1e-9)
        assert pl.read_ipc(tmp_path / "answers.arrow").height == 3

    def test_trees_are_kept_and_graphs_are_not_tried(self, tmp_path):
        from sklearn.ensemble import RandomForestRegressor

        signature = Signature(inputs=SIGNATURE.inputs[:2], output=SIGNATURE.output)
        frame = ROWS.select("x", "n").to_pandas()
        model = RandomForestRegressor(5, random_state=0).fit(frame, [1.0, 2.0, 4.0])
        result = compiled(tmp_path, model, signature)
        assert (result["form"], result["reason"]) == ("forest", "")
        forms = result["parity"]["forms"]
        assert {name: tried["verdict"] for name, tried in forms.items()} == {
            "native": "the user's own code",
            "forest": "kept",
            "onnx float64": "not tried",
            "onnx float32": "not tried",
        }
        assert 0 < forms["forest"]["one_row_ms"] < forms["native"]["one_row_ms"]
        assert forms["forest"]["rows"] > 3 + result["parity"]["made_rows"] / 2
        form = load_form(tmp_path / "fast", "forest", signature)
        assert form.answer(ROWS)["prediction"].to_list() == model.predict(frame).tolist()
        assert not any(path.suffix == ".pkl" for path in (tmp_path / "fast").iterdir())

    def test_a_graph_where_nothing_else_answers(self, tmp_path):
        pytest.importorskip("onnxruntime")
        from sklearn.impute import SimpleImputer
        from sklearn.neural_network import MLPRegressor
        from sklearn.pipeline import make_pipeline

        signature = Signature(inputs=SIGNATURE.inputs[:2], output=SIGNATURE.output)
        network = MLPRegressor(hidden_layer_sizes=(4,), solver="lbfgs", max_iter=5000, random_state=0)
        model = make_pipeline(SimpleImputer(), network).fit(ROWS.select("x", "n").to_pandas(), [1.0, 2.0, 4.0])
        result = compiled(tmp_path, model, signature)
        forms = result["parity"]["forms"]
        assert (result["form"], forms["onnx float64"]["verdict"]) == ("onnx", "kept")
        assert forms["linear"] == {"verdict": "refused", "reason": "no rule for MLPRegressor"}
        assert forms["onnx float32"]["verdict"] == "not tried"
        assert load_form(tmp_path / "fast", "onnx", signature).answer(ROWS).height == 3

    def test_an_unknown_model_is_native(self, tmp_path):
        Halves.asked.clear()
        result = compiled(tmp_path, Halves())
        assert set(Halves.asked) == {
            3,
            1,
        }  # the holdout and one row of it, and no made rows: there is nothing to compare
        assert (result["form"], result["reason"], result["answered"]) == ("native", "no rule for Halves", True)
        assert not (tmp_path / "fast").exists()
        assert pl.read_ipc(tmp_path / "answers.arrow")["prediction"].to_list() == [0.25, -0.5, 1.0]

    def test_a_model_that_fails_is_native_and_says_so(self, tmp_path):
        result = compiled(tmp_path, Broken())
        assert (result["form"], result["answered"]) == ("native", False)
        assert result["reason"] == "it failed on the holdout: RuntimeError"

    def test_a_model_that_cannot_answer(self, tmp_path):
        with pytest.raises(TypeError, match="a dict without a predict method"):
            compiled(tmp_path, {"weights": 1})
