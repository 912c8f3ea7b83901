"""The model libraries that people use: each trains, is packed, answers in fresh processes, and loads in MLflow.

Every model is asked by two sessions forked one after the other, in a host that has the library imported: threads of
OpenMP do not survive a fork, and a library that started some while it was imported would hang here.
"""

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from interlock.model.runner import Runner
from model.workbench import Workbench

pytestmark = pytest.mark.slow
PRELOAD = ("torch", "xgboost", "lightgbm", "sklearn.pipeline", "sklearn.linear_model", "statsmodels.api", "pandas")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("runner")
    there = [name for name in PRELOAD if importlib.util.find_spec(name.split(".")[0]) is not None]
    with Runner(folder, there, folder) as runner:
        yield runner


TORCH = """
import torch

def train(X, y, seed):
    torch.manual_seed(seed)
    model = torch.nn.Linear(2, 1)
    inputs, wanted = (torch.tensor(part.to_numpy(), dtype=torch.float32) for part in (X, y))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss = ((model(inputs).squeeze(1) - wanted) ** 2).mean()
        loss.backward()
        optimizer.step()
    return model, {"loss": loss.item()}
"""
TORCH_PREDICT = """
import torch

def predict(model, data):
    with torch.no_grad():
        return model.eval()(torch.tensor(data.to_numpy(), dtype=torch.float32)).squeeze(1).numpy()
"""
STATE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 1)

    def forward(self, x):
        return self.inner(x)

def train(X, y, model_dir):
    net, size = Net(), len(X)
    inputs = torch.cat([torch.tensor(X.to_numpy(), dtype=torch.float32), torch.ones(size, 1)], dim=1)
    found = torch.linalg.lstsq(inputs, torch.tensor(y.to_numpy(), dtype=torch.float32).unsqueeze(1)).solution
    with torch.no_grad():
        net.inner.weight.copy_(found[:2].T)
        net.inner.bias.copy_(found[2])
    torch.save(net.state_dict(), model_dir + "/model.pth")

def model_fn(model_dir):
    net = Net()
    net.load_state_dict(torch.load(model_dir + "/model.pth", weights_only=True))
    return net
"""
XGB = """
import xgboost

def train(X, y, seed):
    return xgboost.XGBRegressor(n_estimators=60, max_depth=4, n_jobs=2, random_state=seed).fit(X, y)
"""
XGB_NATIVE = """
import xgboost

def train(X, y, seed):
    rows = xgboost.DMatrix(X, label=y)
    return xgboost.train({"max_depth": 4, "nthread": 2, "seed": seed}, rows, num_boost_round=60)
"""
XGB_PREDICT = """
import xgboost

def predict(model, X):
    return model.predict(xgboost.DMatrix(X))
"""
LGB = """
import lightgbm

def train(X, y, seed):
    return lightgbm.LGBMRegressor(n_estimators=90, min_child_samples=2, n_jobs=2, verbosity=-1, random_state=seed).fit(X, y)
"""  # noqa: E501
LGB_NATIVE = """
import lightgbm

def train(X, y, seed):
    rows = lightgbm.Dataset(X, label=y)
    return lightgbm.train({"min_data_in_leaf": 2, "num_threads": 2, "verbosity": -1, "seed": seed}, rows, 90)
"""
FORMULA = """
import statsmodels.formula.api as smf

def train(data):
    return smf.ols("y ~ a + b", data=data).fit()
"""
GLM = """
import statsmodels.api as sm

def train(X, y):
    return sm.GLM(y, sm.add_constant(X), family=sm.families.Gaussian()).fit()
"""
GLM_PREDICT = """
import statsmodels.api as sm

def predict(model, X):
    return model.predict(sm.add_constant(X, has_constant="add"))
"""
POLARS = """
import numpy as np
import polars as pl

def train(data: pl.DataFrame):
    assert isinstance(data, pl.DataFrame)
    return np.linalg.lstsq(data.select("a", "b").to_numpy(), data["y"].to_numpy(), rcond=None)[0]
"""
POLARS_PREDICT = """
import polars as pl

def predict(model, data: pl.DataFrame) -> pl.Series:
    return data.select(prediction=pl.col("a") * model[0] + pl.col("b") * model[1]).to_series()
"""
ARROW = """
import numpy as np
import pyarrow as pa

def train(X: pa.Table, y: pa.Array):
    assert isinstance(X, pa.Table)
    columns = np.column_stack([column.to_numpy() for column in X.columns])
    return np.linalg.lstsq(columns, np.asarray(y), rcond=None)[0]
"""
ARROW_PREDICT = """
import pyarrow as pa
import pyarrow.compute as pc

def predict(model, data: pa.Table):
    return pc.add(pc.multiply(data["a"], model[0]), pc.multiply(data["b"], model[1]))
"""
PIPELINE = """
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

def train(X, y):
    return make_pipeline(PolynomialFeatures(2), LinearRegression()).fit(X, y)
"""
CASES = {
    "torch-module": ("torch", TORCH, TORCH_PREDICT, 0.05),
    "torch-state-dict": ("torch", STATE, None, 0.001),
    "xgboost-sklearn": ("xgboost", XGB, None, 1.5),
    "xgboost-booster": ("xgboost", XGB_NATIVE, XGB_PREDICT, 1.5),
    "lightgbm-sklearn": ("lightgbm", LGB, None, 1.5),
    "lightgbm-booster": ("lightgbm", LGB_NATIVE, None, 1.5),
    "statsmodels-formula": ("statsmodels", FORMULA, None, 1e-9),
    "statsmodels-glm": ("statsmodels", GLM, GLM_PREDICT, 1e-9),
    "polars": ("polars", POLARS, POLARS_PREDICT, 1e-9),
    "pyarrow": ("pyarrow", ARROW, ARROW_PREDICT, 1e-9),
    "sklearn-pipeline": ("sklearn", PIPELINE, None, 1e-9),
}


@pytest.mark.parametrize("name", CASES)
def test_a_model_of_the_library_goes_all_the_way(name: str, tmp_path: Any, runner: Runner, pyfunc: Any) -> None:
    library, source, predict, tolerance = CASES[name]
    pytest.importorskip(library)
    files = {"train.py": source, **({"predict.py": predict} if predict else {})}
    bench = Workbench(tmp_path, files, predict="predict.py" if predict else "", deadline="60s", predict_deadline="60s")
    bundle = bench.pack(runner)
    first, again = bench.answers(bundle, runner), bench.answers(bundle, runner)
    assert first.equals(again)
    errors = (first["prediction"] - bench.holdout["y"]).abs()
    assert float(errors.median()) <= tolerance / 5
    assert float(errors.max()) <= tolerance
    one = bench.answers(bundle, runner, bench.holdout[:1])
    assert one["prediction"].to_list() == pytest.approx(first["prediction"].to_list()[:1], rel=1e-5)
    model = pyfunc.load_model(str(bench.folder(bundle)))
    loaded = np.asarray(model.predict(bench.holdout.drop("y").to_pandas()), dtype=float).reshape(-1)
    assert loaded.tolist() == pytest.approx(first["prediction"].to_list(), rel=1e-6, abs=1e-9)
