import json
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from interlock.errors import UserCodeFailed
from interlock.model.hooks import Hooks, decode, encode, open_model, plain
from interlock.model.runner import Runner
from interlock.settings import Script
from model.workbench import HELD_OUT, Workbench

FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.5, 0.25, -1.0]})
ANSWERS = [1.5, 3.75, 7.0]
MODULE = "hooks_under_test"


class Line:
    """2 a - b of an array or a frame."""

    def predict(self, X: Any) -> Any:
        values = np.asarray(X)
        return 2 * values[:, 0] - values[:, 1]


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hooks]]:
    """Hooks of a module with that source; its functions are those that ``found`` names."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make(source: str, *found: str, model: Any = None, **spec: Any) -> Hooks:
        (tmp_path / f"{MODULE}.py").write_text(source)
        (tmp_path / "model").mkdir(exist_ok=True)
        given = {"module": MODULE, "found": list(found), "content_type": "", "accept": "", "rows_per_call": 0}
        given |= {"header": False, "names": ["a", "b"]} | spec
        return Hooks(given, tmp_path / "model", Line() if model is None else model)

    yield make
    sys.modules.pop(MODULE, None)


# ---- rows in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "read"),
    [
        ("content_type == 'text/csv'", "np.loadtxt(io.StringIO(body), delimiter=',')"),
        ("content_type == 'application/json'", "np.array(json.loads(body))"),
        ("content_type == 'application/x-npy'", "np.load(io.BytesIO(body))"),
        (
            "content_type == 'text/libsvm'",
            "np.array([[float(c.split(':')[1]) for c in row.split()] for row in body.splitlines()])",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("otherwise", ["raise ValueError(content_type)", "return None"])
def test_input_fn_is_offered_types_until_it_takes_one(
    hooks: Callable[..., Hooks], test: str, read: str, otherwise: str
) -> None:
    source = f"""
import io, json
import numpy as np
def input_fn(body, content_type):
    if {test}:
        return {read}
    {otherwise}
"""
    made = hooks(source, "input_fn")
    assert made.answer(FRAME).tolist() == ANSWERS
    assert made.answer(FRAME[:2]).tolist() == ANSWERS[:2]


def test_a_type_that_was_taken_is_kept_and_one_that_is_set_is_the_only_one(hooks: Callable[..., Hooks]) -> None:
    source = """
seen = []
def input_fn(body, kind):
    seen.append(kind)
    if kind != 'application/json': raise KeyError(kind)
    import json
    return json.loads(body)
"""
    made = hooks(source, "input_fn")
    made.answer(FRAME)
    made.answer(FRAME)
    assert sys.modules[MODULE].seen == ["text/csv", "application/json", "application/json"]
    with pytest.raises(KeyError, match="text/csv"):
        hooks(source, "input_fn", content_type="text/csv").answer(FRAME)
    sys.modules.pop(MODULE)
    made = hooks("def input_fn(body, kind):\n    raise RuntimeError('never')", "input_fn")
    with pytest.raises(ValueError, match=r"none of the content types text/csv, .*refused with RuntimeError: never"):
        made.answer(FRAME)


def test_without_input_fn_predict_fn_gets_what_training_saw(hooks: Callable[..., Hooks]) -> None:
    source = (
        "def predict_fn(data, model):\n    return [str(getattr(data, 'columns', type(data).__name__))] * len(data)\n"
    )
    assert "'a', 'b'" in hooks(source, "predict_fn").answer(FRAME)[0]
    assert hooks(source, "predict_fn", names=[1, 2]).answer(FRAME)[0] == "ndarray"
    words = FRAME.assign(b=["x", "y", "z"])
    assert "[1, 2]" in hooks(source, "predict_fn", names=[1, 2]).answer(words)[0]
    sys.modules.pop(MODULE)
    source = source.replace("predict_fn(data,", "predict_fn(data: 'pd.DataFrame',")
    assert "[1, 2]" in hooks(source, "predict_fn", names=[1, 2]).answer(FRAME)[0]
    sys.modules.pop(MODULE)
    source = source.replace("pd.DataFrame", "np.ndarray")
    assert hooks(source, "predict_fn").answer(FRAME)[0] == "ndarray"


def test_a_context_is_passed_where_it_is_asked_for(hooks: Callable[..., Hooks]) -> None:
    source = """
def model_fn(folder, context):
    return context
def predict_fn(data, model, context):
    return [model is None and context is None] * len(data)
"""
    assert hooks(source, "model_fn", "predict_fn").answer(FRAME) == [True] * 3


def test_rows_one_by_one_for_functions_that_answer_one_record(hooks: Callable[..., Hooks]) -> None:
    source = "def predict_fn(data, model):\n    return model.predict(data)[0]\n"
    assert hooks(source, "predict_fn", rows_per_call=1).answer(FRAME) == ANSWERS


# ---- answers out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "json.dumps(p.tolist())",
        "json.dumps({'predictions': p.tolist()})",
        "json.dumps({'score': [[v] for v in p]}).encode()",
        "(json.dumps(p.tolist()), 'application/json')",
        "('\\n'.join(map(str, p)), 'text/csv')",
        "(','.join(map(str, p)), 'text/csv; charset=utf-8')",
        "('\\n'.join(f'{v},rest' for v in p), 'text/csv')",
        "(npy(p), 'application/x-npy')",
        "'\\n'.join(json.dumps(v) for v in p)",
        "p",
    ],
)
def test_output_fn_is_read_back(hooks: Callable[..., Hooks], body: str) -> None:
    source = f"""
import io, json
import numpy as np
def npy(p):
    file = io.BytesIO()
    np.save(file, p)
    return file.getvalue()
def output_fn(p, accept):
    return {body}
"""
    assert list(hooks(source, "output_fn").answer(FRAME)) == ANSWERS


def test_output_fn_may_give_one_type_only(hooks: Callable[..., Hooks]) -> None:
    source = """
def output_fn(p, accept):
    if accept != 'text/csv': raise ValueError(accept)
    return '\\n'.join('high' if v > 3 else 'low' for v in p)
"""
    assert hooks(source, "output_fn").answer(FRAME) == ["low", "high", "high"]
    with pytest.raises(ValueError, match="application/json"):
        hooks(source, "output_fn", accept="application/json").answer(FRAME)


def test_transform_fn_does_everything(hooks: Callable[..., Hooks]) -> None:
    source = """
import json
def transform_fn(model, body, kind, accept):
    assert (kind, accept) == ('application/json', 'application/json')
    return json.dumps(model.predict(json.loads(body)).tolist()), accept
"""
    assert hooks(source, "transform_fn").answer(FRAME) == ANSWERS


def test_bodies_and_answers_of_every_type() -> None:
    assert encode(FRAME, "text/csv", header=False) == "1.0,0.5\n2.0,0.25\n3.0,-1.0\n"
    assert encode(FRAME, "text/csv", header=True).startswith("a,b\n")
    assert json.loads(encode(FRAME, "application/json", header=True)) == FRAME.to_numpy().tolist()
    assert encode(FRAME[:1], "text/libsvm", header=False) == "0:1 1:0.5\n"
    with pytest.raises(ValueError, match="cannot be written as image/png"):
        encode(FRAME, "image/png", header=False)
    assert decode("1\n2.5\nx\n", "text/csv", 3) == [1, 2.5, "x"]
    assert plain([{"prediction": 1}, {"prediction": 2}])["prediction"].tolist() == [1, 2]
    assert plain({"a": 1, "b": 2}) == {"a": 1, "b": 2}
    assert plain(np.array(3.0)).tolist() == [3.0]


# ---- models ------------------------------------------------------------------------------------------------------


def test_the_model_folder_is_in_the_environment_while_code_is_loaded(hooks: Callable[..., Hooks]) -> None:
    source = """
import os
HERE = os.environ['SM_MODEL_DIR']
def model_fn(folder):
    assert folder == HERE == os.environ['SM_MODEL_DIR']
"""
    hooks(source, "model_fn")
    import os

    assert "SM_MODEL_DIR" not in os.environ
    assert "SAGEMAKER_BASE_DIR" not in os.environ


@pytest.mark.parametrize("name", ["model.joblib", "model.pkl", "model", "xgboost-model"])
def test_without_model_fn_the_one_saved_file_is_opened(tmp_path: Path, name: str) -> None:
    joblib.dump(LinearRegression().fit(FRAME, ANSWERS), tmp_path / name)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text("")
    assert open_model(tmp_path).predict(FRAME) == pytest.approx(ANSWERS)


@pytest.mark.filterwarnings("ignore")  # LightGBM's remarks on so small a table
def test_xgboost_and_lightgbm_files_are_opened_by_their_ending(tmp_path: Path) -> None:
    xgboost, lightgbm = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    booster = xgboost.train({"max_depth": 1, "nthread": 1}, xgboost.DMatrix(FRAME.to_numpy(), ANSWERS), 2)
    for name in ("model.json", "xgboost-model"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        booster.save_model(str(tmp_path / "saved.json"))
        (tmp_path / "saved.json").rename(tmp_path / name)
        assert type(open_model(tmp_path)).__name__ == "Booster"
        (tmp_path / name).unlink()
    data = lightgbm.Dataset(np.arange(90.0).reshape(-1, 1), np.arange(90.0), params={"verbosity": -1})
    lightgbm.train({"verbosity": -1, "num_threads": 1}, data, 2).save_model(str(tmp_path / "model.txt"))
    assert type(open_model(tmp_path)).__module__ == "lightgbm.basic"


def test_two_models_need_a_model_fn(tmp_path: Path) -> None:
    for name in ("one.pkl", "two.pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(1))
    with pytest.raises(FileNotFoundError, match=r"no model_fn.* saved were: one\.pkl, two\.pkl"):
        open_model(tmp_path)


# ---- in a bundle -------------------------------------------------------------------------------------------------

FIT = """
import argparse, os
import joblib
import pandas as pd
from sklearn.linear_model import {estimator}

{hooks}
if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-dir", default=os.environ["SM_MODEL_DIR"])
    parser.add_argument("--train", default=os.environ["SM_CHANNEL_TRAIN"])
    args, _ = parser.parse_known_args()
    rows = pd.concat([pd.read_csv(os.path.join(args.train, name), header=None) for name in os.listdir(args.train)])
    joblib.dump({estimator}().fit(rows.iloc[:, 1:], rows.iloc[:, 0]), os.path.join(args.model_dir, "model.joblib"))
"""
MODEL_FN = 'def model_fn(model_dir):\n    return joblib.load(os.path.join(model_dir, "model.joblib"))\n'


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("runner")
    with Runner(folder, ["pandas", "joblib", "sklearn.linear_model"], folder) as runner:
        yield runner


def test_a_program_is_trained_packed_and_answers_with_probabilities(
    tmp_path: Path, runner: Runner, pyfunc: Any
) -> None:
    source = FIT.format(estimator=LogisticRegression.__name__, hooks=MODEL_FN)
    bench = Workbench(tmp_path, {"train.py": source}, target="kind")
    bundle = bench.pack(runner)
    answers = bench.answers(bundle, runner)
    assert answers.columns == ["prediction", "probability_0", "probability_1"]
    assert (answers["prediction"] == bench.holdout["kind"]).mean() > 0.8
    assert bundle.form == "native"
    model = pyfunc.load_model(str(bench.folder(bundle)))
    assert list(model.predict(bench.holdout.drop("kind").to_pandas())) == answers["prediction"].to_list()


def test_without_any_function_the_saved_model_answers(tmp_path: Path, runner: Runner) -> None:
    bench = Workbench(tmp_path, {"train.py": FIT.format(estimator=LinearRegression.__name__, hooks="")})
    answers = bench.answers(bench.pack(runner), runner)
    assert answers["prediction"].to_list() == pytest.approx(bench.holdout["y"].to_list())


def test_all_functions_in_a_file_of_their_own(tmp_path: Path, runner: Runner, pyfunc: Any) -> None:
    inference = """
import io, json, os
import joblib
import pandas as pd
from words import WORDS

def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "model.joblib"))

def input_fn(request_body, request_content_type):
    if request_content_type == "text/csv":
        return pd.read_csv(io.StringIO(request_body), header=None).to_numpy()
    raise ValueError(request_content_type)

def predict_fn(input_data, model):
    return model.predict(input_data)

def output_fn(prediction, accept):
    return json.dumps({"predictions": [WORDS[value > 0] for value in prediction]}), accept
"""
    program = FIT.format(estimator="LogisticRegression", hooks="")
    files = {"train.py": program, "inference.py": inference, "words.py": "WORDS = {True: 'high', False: 'low'}"}
    files["train.py"] = program.replace("rows.iloc[:, 0])", "rows.iloc[:, 0] == 'high')")
    bench = Workbench(tmp_path, files, target="kind", predict="inference.py")
    bundle = bench.pack(runner)
    answers = bench.answers(bundle, runner)
    assert (answers["prediction"] == bench.holdout["kind"]).mean() > 0.8
    model = pyfunc.load_model(str(bench.folder(bundle)))
    assert list(model.predict(bench.holdout.drop("kind").to_pandas())) == answers["prediction"].to_list()


def test_a_class_of_the_program_itself_is_found_again(tmp_path: Path, runner: Runner) -> None:
    source = """
import os, pickle
class Twice:
    def predict(self, X):
        return 2 * X[:, 0] - X[:, 1]
def model_fn(model_dir):
    return pickle.load(open(os.path.join(model_dir, "m"), "rb"))
if __name__ == "__main__":
    with open(os.path.join(os.environ["SM_MODEL_DIR"], "m"), "wb") as file:
        pickle.dump(Twice(), file)
"""
    bench = Workbench(tmp_path, {"train.py": source})
    answers = bench.answers(bench.pack(runner), runner)
    assert answers["prediction"].to_list() == pytest.approx(bench.holdout["y"].to_list())


def test_a_returned_model_goes_to_predict_fn(tmp_path: Path, runner: Runner) -> None:
    files = {
        "train.py": "def train(X, y):\n    return {'slope': 2.0}\n",
        "predict.py": "def predict_fn(data, model):\n    return model['slope'] * data['a'] - data['b']\n",
    }
    bench = Workbench(tmp_path, files, predict="predict.py")
    answers = bench.answers(bench.pack(runner), runner)
    assert answers["prediction"].to_list() == pytest.approx(bench.holdout["y"].to_list())


def test_too_few_answers_are_refused(tmp_path: Path, runner: Runner) -> None:
    source = FIT.format(
        estimator="LinearRegression", hooks=MODEL_FN + "def predict_fn(data, model):\n    return [1.0]\n"
    )
    bench = Workbench(tmp_path, {"train.py": source})
    bundle = bench.pack(runner)
    with pytest.raises(UserCodeFailed, match=f"1 answers for {HELD_OUT} rows"):
        bench.answers(bundle, runner)
    (tmp_path / "again").mkdir()
    again = Workbench(tmp_path / "again", {"train.py": source}, script=Script(rows_per_call=1))
    assert again.answers(again.pack(runner), runner)["prediction"].to_list() == [1.0] * HELD_OUT
