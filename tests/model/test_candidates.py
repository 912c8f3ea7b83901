"""What is tried for which model."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from interlock.model.candidates import candidates
from interlock.model.fold import Unfoldable
from interlock.records import Column, Output, Signature

SIGNATURE = Signature(
    inputs=tuple(Column(name=name, type="float", nullable=False) for name in "ab"),
    output=Output(kind="number", type="float"),
)
X = np.random.default_rng(0).normal(size=(60, 2))
Y = X[:, 0] * 2 - X[:, 1]


def names(model):
    return [one.name for one in candidates(model, SIGNATURE)]


def test_the_likeliest_comes_first_and_graphs_are_spare():
    offered = candidates(RandomForestRegressor(3).fit(X, Y), SIGNATURE)
    assert [(one.name, one.spare) for one in offered] == [
        ("forest", False),
        ("onnx float64", True),
        ("onnx float32", True),
    ]
    assert names(Ridge().fit(X, Y))[0] == "linear"


def test_a_model_of_nobody_knows_who_is_offered_no_graph():
    class Own:
        pass

    [only] = candidates(Own(), SIGNATURE)
    with pytest.raises(Unfoldable, match="no rule for Own"):
        only.make()


def test_a_search_is_what_it_found():
    search = GridSearchCV(make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [0.1, 1.0]}, cv=2).fit(X, Y)
    [form] = candidates(search, SIGNATURE)[0].make()
    assert form.name == "linear"


def test_a_step_without_a_rule_is_named_and_goes_into_the_graph():
    trees = make_pipeline(StandardScaler(), PCA(2), RandomForestRegressor(3)).fit(X, Y)
    first, double, _ = candidates(trees, SIGNATURE)
    with pytest.raises(Unfoldable, match="no rule for the step PCA"):
        first.make()
    with pytest.raises(Unfoldable, match="lacks an operator of RandomForestRegressor"):
        double.make()
    _, graph, _ = candidates(make_pipeline(StandardScaler(), PCA(2), Ridge()).fit(X, Y), SIGNATURE)
    [form] = graph.make()
    assert [feature.column for feature in form.features] == ["a", "b"]
    assert not form.features[0].untouched
