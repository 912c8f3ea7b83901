import math

import numpy as np
import polars as pl
import pytest

from interlock.errors import BundleCorrupt, StoreFault
from interlock.model import trees
from interlock.model.forms import load_form
from interlock.records import Column, Signature


def stored(form, folder, **types):
    for name, content in form.files().items():
        (folder / name).write_bytes(content)
    inputs = tuple(Column(name=name, type=kind, nullable=True) for name, kind in types.items())
    return load_form(folder, form.name, Signature(inputs=inputs))


@pytest.fixture(scope="module")
def trained():
    import lightgbm as lgb

    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 3))
    x[::17, 1] = np.nan
    y = (x[:, 0] > 0).astype(int) + (x[:, 2] > 0.5)
    data = lgb.Dataset(x, y, params={"verbose": -1})
    params = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1, "seed": 1}
    return lgb.train(params, data, 5), x


class TestLightGbm:
    def test_same_as_the_package(self, trained, tmp_path):
        booster, x = trained
        spec = trees.Trees(
            features=tuple(trees.Plain(column=name) for name in "abc"), outputs=3, classes=("low", "mid", "high")
        )
        form = trees.LightGbm(spec, booster.model_to_string().encode())
        form = stored(form, tmp_path, a="float", b="float", c="float")
        frame = pl.DataFrame({name: x[:, i] for i, name in enumerate("abc")}).with_columns(pl.all().fill_nan(None))
        expected = booster.predict(x)
        answer = form.answer(frame)
        assert np.array_equal(answer.drop("prediction").to_numpy(), expected)
        assert answer["prediction"].to_list() == [("low", "mid", "high")[i] for i in expected.argmax(axis=1)]

    def test_wrong_width_and_garbage(self, trained):
        booster, _ = trained
        spec = trees.Trees(features=(trees.Plain(column="a"),), outputs=3)
        with pytest.raises(BundleCorrupt, match="takes 3 columns"):
            trees.LightGbm(spec, booster.model_to_string().encode())
        with pytest.raises(StoreFault, match="LightGBM"):
            trees.LightGbm(spec, b"tree\nnonsense")

    def test_mapped_and_plain_columns(self):
        spec = trees.Trees(
            features=(
                trees.Plain(column="x", shift=1.0, scale=2.0, offset=0.5, fill=3.0),
                trees.Mapped(column="c", keys=("a", "b"), values=(10.0, 20.0), unknown=-1.0, missing=None),
            ),
            outputs=1,
        )
        frame = pl.DataFrame({"x": [1, 2, None], "c": ["b", "zz", None]})
        matrix = spec.matrix(frame)
        assert matrix[0].tolist() == [0.5, 2.5, 4.5]
        assert matrix[1, :2].tolist() == [20.0, -1.0]
        assert math.isnan(matrix[1, 2])
