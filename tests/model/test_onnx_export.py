"""Models that only a graph can stand for: converted, held against the library, loaded from its folder."""

import subprocess
import sys
import warnings

import numpy as np
import polars as pl
import pytest
from sklearn.decomposition import PCA
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from interlock.errors import BundleCorrupt, StoreFault
from interlock.model.candidates import candidates
from interlock.model.edges import made_rows
from interlock.model.fold import Unfoldable
from interlock.model.forms import load_form
from interlock.model.native import as_trained
from interlock.model.parity import cases_of, check_parity, difference
from interlock.model.rows import answers_of, rows_of
from model.test_ensembles import FRAME, NUMBER, SEEN, THREE, columns, natively, signature

pytest.importorskip("onnxruntime")


def graph(final, target, *, narrow=False):
    """Train; the form, what the signature is, and the native model."""
    what = signature(target)
    model = make_pipeline(columns(), SimpleImputer(), StandardScaler(), final)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(as_trained(FRAME[:SEEN], what.inputs, "pandas"), target[:SEEN])
        name = "onnx float32" if narrow else "onnx float64"
        [form] = next(one for one in candidates(model, what) if one.name == name).make()
    return form, what, natively(model, what)


@pytest.mark.parametrize(
    ("final", "target"),
    [
        (MLPClassifier((8,), max_iter=20, random_state=0), THREE),
        (MLPRegressor(hidden_layer_sizes=(8,), max_iter=20, random_state=0), NUMBER),
        (SVC(), THREE),
        (GaussianNB(), THREE),
        (GaussianProcessRegressor(alpha=0.1), NUMBER),
        (make_pipeline(PCA(2), LogisticRegression()), THREE),
    ],
    ids=lambda item: type(item).__name__,
)
def test_answers_of_float64_graphs_are_the_models(final, target, tmp_path):
    form, what, own = graph(final, target)
    made = {"the holdout": FRAME[SEEN:], **made_rows(FRAME[:SEEN], what)._asdict()}
    found = check_parity(form, cases_of(own, made))
    assert (found.agrees, found.reason) == (True, "")
    for name, content in form.files().items():
        (tmp_path / name).write_bytes(content)
    again = load_form(tmp_path, "onnx", what)
    rows = FRAME[SEEN : SEEN + 20]
    assert again.answer(rows).equals(form.answer(rows))
    singles = [rows_of(again, what).answers([row])[0] for row in rows.rows()]
    alone = [answers_of(again.answer(rows[place]), 1)[0] for place in range(20)]
    assert repr(singles) == repr(alone)
    assert [one[0] for one in rows_of(again, what).answers(rows.rows())] == pytest.approx([one[0] for one in singles])


def test_float32_graphs_are_found_out():
    form, _, own = graph(MLPRegressor(hidden_layer_sizes=(8,), max_iter=20, random_state=0), NUMBER, narrow=True)
    assert difference(own(FRAME[SEEN:]), form.answer(FRAME[SEEN:]))[1].startswith("differs by")


def test_a_missing_value_is_refused_alone():
    what = signature(THREE)
    model = make_pipeline(columns(), StandardScaler(), GaussianNB())
    whole = FRAME.with_columns(pl.col("g").fill_null(1.0))
    model.fit(as_trained(whole, what.inputs, "pandas"), THREE)
    [form] = candidates(model, what)[1].make()
    good, bad = rows_of(form, what).answers([(0.1, 3, "x", 1.0), (0.1, 3, "x", None)])
    assert good[0] in ("low", "mid", "high")
    assert bad.facts["cause"] == "raised"


def test_more_rows_than_a_call_takes():
    form, *_ = graph(GaussianNB(), THREE)
    frame = pl.concat([FRAME] * 20)
    whole = form.answer(frame)
    assert whole.height == 10_000
    assert np.allclose(whole[9_500:].drop("prediction").to_numpy(), form.answer(FRAME).drop("prediction").to_numpy())


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08\x07"])
def test_bytes_that_are_no_graph(content, tmp_path):
    form, what, _ = graph(GaussianNB(), THREE)
    for name, stored in form.files().items():
        (tmp_path / name).write_bytes(stored)
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BundleCorrupt, match=r"model\.onnx"):
        load_form(tmp_path, "onnx", what)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(BundleCorrupt, match="cannot be read"):
        load_form(tmp_path, "onnx", what)


def test_without_the_package(monkeypatch):
    form, _, _ = graph(GaussianNB(), THREE)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(StoreFault, match="not installed") as caught:
        type(form)(form.graph, form.files()["model.onnx"])
    assert "interlock[onnx]" in str(caught.value)


def test_what_the_converter_does_not_know_says_so():
    with pytest.raises(Unfoldable, match="no conversion of KernelRidge"):
        graph(KernelRidge(), NUMBER)


def test_nothing_is_imported_before_such_a_form_is_loaded():
    code = "import sys, interlock.model.compile; print([n for n in ('onnxruntime', 'skl2onnx', 'onnx', 'treelite', "
    code += "'xgboost', 'sklearn') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
