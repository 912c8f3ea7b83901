"""Read the trees of scikit-learn's and XGBoost's fitted models into a ``forest``. Runs in a worker process.

What is read here is a guess until :mod:`interlock.model.compile` has compared its answers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from interlock.model.columns import Value
from interlock.model.fold import Raw, Symbol, Unfoldable, labels_of, matrix_columns, plain_value
from interlock.model.forest import Forest, Nodes, Shape, TreeForest
from interlock.model.trees import Mapped, Plain

_SETS = 256
_VOTING = frozenset(
    f"{name}{kind}"
    for name in ("DecisionTree", "ExtraTree", "RandomForest", "ExtraTrees")
    for kind in ("Classifier", "Regressor")
)
_ONE_TREE = frozenset(("DecisionTreeClassifier", "ExtraTreeClassifier"))
_BOOSTED = frozenset(("GradientBoostingClassifier", "GradientBoostingRegressor"))
_BINNED = frozenset(("HistGradientBoostingClassifier", "HistGradientBoostingRegressor"))
_XGBOOST = frozenset(("XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor", "Booster"))
_WEIGHTED = frozenset(("AdaBoostClassifier",))
SCIKIT_LEARN = _VOTING | _BOOSTED | _BINNED | _WEIGHTED
"""Names of the classes that are read."""


@dataclass
class _Tree:
    """One tree as its library numbers it. ``leaf`` (bool) says which nodes are leaves; ``values`` are of all nodes."""

    leaf: Any
    feature: Any
    threshold: Any
    left: Any
    right: Any
    missing_right: Any
    values: Any
    sets: Any = field(default_factory=lambda: np.zeros((0, _SETS), dtype=np.bool_))
    bits: Any = None


def is_ensemble(final: Any) -> bool:
    """Whether :func:`read` may know the estimator."""
    package, name = type(final).__module__.split(".")[0], type(final).__name__
    return (package == "sklearn" and name in SCIKIT_LEARN) or (package == "xgboost" and name in _XGBOOST)


def read(final: Any, symbols: Sequence[Symbol], classes: Sequence[Value] | None) -> list[TreeForest]:
    """Give the forests that may answer as ``final`` does; raises :class:`Unfoldable`."""
    name = type(final).__name__
    if name in _BINNED:
        return [_binned(final, symbols, classes)]
    features = matrix_columns(symbols, name)
    if name in _VOTING:
        return _voting(final, features, classes)
    if name in _BOOSTED:
        return [_boosted(final, features, classes)]
    if name in _WEIGHTED:
        return [_weighted(final, features, classes)]
    return [_xgboost(final, features, classes)]


# ---- arrays ------------------------------------------------------------------------------------------------------


def _joined(trees: Sequence[_Tree]) -> Nodes:
    """Number inner nodes first and leaves after them; raises :class:`Unfoldable` where a child precedes its parent."""
    sizes = [len(tree.leaf) for tree in trees]
    leaf = np.concatenate([tree.leaf for tree in trees])
    inner = ~leaf
    number = np.where(inner, np.cumsum(inner) - 1, inner.sum() + np.cumsum(leaf) - 1)
    starts = np.cumsum([0, *sizes[:-1]])
    sets = np.cumsum([0, *[len(tree.sets) for tree in trees][:-1]])

    def of_inner(name: str) -> Any:
        return np.concatenate([getattr(tree, name) for tree in trees])[inner]

    def children(name: str) -> Any:
        moved = np.concatenate([getattr(tree, name) + at for tree, at in zip(trees, starts, strict=True)])[inner]
        if (moved <= np.flatnonzero(inner)).any():
            raise Unfoldable("a tree numbers a child before its parent")
        return number[moved].astype(np.int32)

    bits = [
        np.full(len(tree.leaf), -1) if tree.bits is None else np.where(tree.bits >= 0, tree.bits + at, -1)
        for tree, at in zip(trees, sets, strict=True)
    ]
    return Nodes(
        feature=of_inner("feature").astype(np.int32),
        threshold=of_inner("threshold").astype(np.float64),
        left=children("left"),
        right=children("right"),
        missing_right=of_inner("missing_right").astype(np.bool_),
        bits=np.concatenate(bits)[inner].astype(np.int32),
        roots=number[starts].astype(np.int32),
        values=np.concatenate([tree.values for tree in trees])[leaf].astype(np.float64),
        members=np.concatenate([tree.sets for tree in trees]),
    )


def _grown(tree: Any, values: Any) -> _Tree:
    """A ``Tree`` of scikit-learn; ``values`` has shape (nodes, width)."""
    return _Tree(
        leaf=tree.children_left < 0,
        feature=tree.feature,
        threshold=tree.threshold,
        left=tree.children_left,
        right=tree.children_right,
        missing_right=~np.asarray(tree.missing_go_to_left, dtype=np.bool_),
        values=values,
    )


# ---- scikit-learn ------------------------------------------------------------------------------------------------


def _voting(final: Any, features: tuple[Plain | Mapped, ...], classes: Sequence[Value] | None) -> list[TreeForest]:
    """Trees whose leaves are averaged. Missing values are taken where the rows came as a dense array, else refused."""
    if final.n_outputs_ != 1:
        raise Unfoldable("it predicts several targets at once")
    labels = labels_of(final, classes) if hasattr(final, "classes_") else ()
    members = list(getattr(final, "estimators_", [final]))
    trees = [_grown(member.tree_, member.tree_.value[:, 0, :]) for member in members]
    nodes = _joined(trees)
    return [
        TreeForest(
            Forest(
                features=features,
                shape="shares" if labels else "number",
                base=(0.0,) * (len(labels) or 1),
                narrow=True,
                gaps=gaps,
                mean=len(members) > 1,
                classes=labels,
            ),
            nodes,
        )
        for gaps in (True, False)
    ]


def _weighted(final: Any, features: tuple[Plain | Mapped, ...], classes: Sequence[Value] | None) -> TreeForest:
    """Trees that vote with a weight each: for their class, and with a share of it against every other."""
    labels = labels_of(final, classes)
    members, weights = list(final.estimators_), np.asarray(final.estimator_weights_, dtype=np.float64)
    if len(labels) < 2:
        raise Unfoldable("it knows one class only")
    if any(type(member).__name__ not in _ONE_TREE or len(member.classes_) != len(labels) for member in members):
        raise Unfoldable("its members are no trees of all classes")
    own = np.arange(len(labels))
    trees = []
    for member, weight in zip(members, weights, strict=False):
        voted = member.tree_.value[:, 0, :].argmax(axis=1)
        trees.append(_grown(member.tree_, np.where(voted[:, None] == own, weight, -1 / (len(labels) - 1) * weight)))
    forest = Forest(
        features=features,
        shape="votes",
        base=(0.0,) * len(labels),
        narrow=True,
        gaps=False,
        over=float(weights.sum()),
        classes=labels,
    )
    return TreeForest(forest, _joined(trees))


def _boosted(final: Any, features: tuple[Plain | Mapped, ...], classes: Sequence[Value] | None) -> TreeForest:
    labels = labels_of(final, classes) if hasattr(final, "classes_") else ()
    if final.init_ != "zero" and type(final.init_).__name__ not in ("DummyClassifier", "DummyRegressor"):
        raise Unfoldable("its first guess is a model of its own")
    if len(labels) == 2:
        shape: Shape = "double-sigmoid-from" if final.loss == "exponential" else "sigmoid-from"
    else:
        shape = "softmax" if labels else "number"
    first = final._raw_predict_init(np.zeros((1, final.n_features_in_), dtype=np.float32))  # noqa: SLF001
    trees = [
        _grown(member.tree_, member.tree_.value[:, 0, :] * final.learning_rate)
        for stage in final.estimators_
        for member in stage
    ]
    base = tuple(np.asarray(first, dtype=np.float64)[0].tolist())
    forest = Forest(features=features, shape=shape, base=base, narrow=True, gaps=False, classes=labels)
    return TreeForest(forest, _joined(trees))


def _binned(final: Any, symbols: Sequence[Symbol], classes: Sequence[Value] | None) -> TreeForest:
    labels = labels_of(final, classes) if hasattr(final, "classes_") else ()
    if len(labels) == 2:
        shape: Shape = "sigmoid"
    elif labels:
        shape = "softmax"
    else:
        shape = "exponential" if type(final._loss.link).__name__ == "LogLink" else "number"  # noqa: SLF001
    forest = Forest(
        features=_remapped(final, symbols),
        shape=shape,
        base=tuple(np.asarray(final._baseline_prediction, dtype=np.float64).ravel().tolist()),  # noqa: SLF001
        narrow=False,
        gaps=True,
        classes=labels,
    )
    trees = [_from_bins(predictor) for stage in final._predictors for predictor in stage]  # noqa: SLF001
    return TreeForest(forest, _joined(trees))


def _from_bins(predictor: Any) -> _Tree:
    nodes = predictor.nodes
    words = np.ascontiguousarray(predictor.raw_left_cat_bitsets, dtype="<u4")
    sets = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").astype(np.bool_)
    return _Tree(
        leaf=nodes["is_leaf"].astype(np.bool_),
        feature=nodes["feature_idx"],
        threshold=nodes["num_threshold"],
        left=nodes["left"].astype(np.int64),
        right=nodes["right"].astype(np.int64),
        missing_right=~nodes["missing_go_to_left"].astype(np.bool_),
        values=nodes["value"][:, np.newaxis],
        sets=sets.reshape(-1, _SETS),
        bits=np.where(nodes["is_categorical"].astype(np.bool_), nodes["bitset_idx"].astype(np.int64), -1),
    )


def _remapped(final: Any, symbols: Sequence[Symbol]) -> tuple[Plain | Mapped, ...]:
    """The columns as the model's own preprocessor leaves them: coded categories first, then the numbers."""
    cased = final.is_categorical_
    if cased is None:
        return matrix_columns(symbols, type(final).__name__)
    encoder = final._preprocessor.named_transformers_["encoder"]  # noqa: SLF001
    coded = [symbol for symbol, is_cased in zip(symbols, cased, strict=True) if is_cased]
    plain = [symbol for symbol, is_cased in zip(symbols, cased, strict=True) if not is_cased]
    made = [_coded(symbol, known) for symbol, known in zip(coded, encoder.categories_, strict=True)]
    return (*made, *matrix_columns(plain, type(final).__name__))


def _coded(symbol: Symbol, categories: Any) -> Mapped:
    """A category's place among those that training saw; every other value counts as missing."""
    places: dict[Value, float] = {}
    for place, category in enumerate(categories):
        value = plain_value(category)
        if value is not None:
            places[value] = float(place)
    if isinstance(symbol, Raw) and symbol.fill is None:
        return Mapped(
            column=symbol.column, keys=tuple(places), values=tuple(places.values()), unknown=None, missing=None
        )
    if not isinstance(symbol, Mapped):
        raise Unfoldable("it takes a column as categories that another step made")
    found = [(key, places[value]) for key, value in zip(symbol.keys, symbol.values, strict=True) if value in places]

    def moved(value: float | None) -> float | None:
        return None if value is None else places.get(value)

    keys, values = tuple(key for key, _ in found), tuple(value for _, value in found)
    if len(keys) != len(symbol.keys) and moved(symbol.unknown) is not None:
        raise Unfoldable("it knows fewer categories than the step before it")
    return Mapped(
        column=symbol.column, keys=keys, values=values, unknown=moved(symbol.unknown), missing=moved(symbol.missing)
    )


# ---- XGBoost -----------------------------------------------------------------------------------------------------


def _xgboost(final: Any, features: tuple[Plain | Mapped, ...], classes: Sequence[Value] | None) -> TreeForest:
    booster = final if type(final).__name__ == "Booster" else final.get_booster()
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    if learner["gradient_booster"]["name"] != "gbtree":
        raise Unfoldable(f"its booster is {learner['gradient_booster']['name']}")
    model = learner["gradient_booster"]["model"]
    used = _used(final, booster, len(model["trees"]))
    labels = labels_of(final, classes) if type(final).__name__.endswith("Classifier") else ()
    objective = learner["objective"]["name"]
    outputs = max(int(learner["learner_model_param"]["num_class"]), 1)
    if model["tree_info"] != [number % outputs for number in range(len(model["trees"]))]:
        raise Unfoldable("its trees stand in another order")
    forest = Forest(
        features=features,
        shape=_objective(objective, labels),
        base=_intercepts(str(learner["learner_model_param"]["base_score"]), objective, outputs),
        narrow=True,
        gaps=True,
        beyond=True,
        single=True,
        classes=labels,
    )
    return TreeForest(forest, _joined([_from_json(tree) for tree in model["trees"][:used]]))


def _used(final: Any, booster: Any, trees: int) -> int:
    """How many trees answer: those up to the best round where training stopped early."""
    best = getattr(final, "best_iteration", None) if getattr(final, "early_stopping_rounds", None) else None
    if best is None or type(final).__name__ == "Booster":
        return trees
    return trees * (int(best) + 1) // int(booster.num_boosted_rounds())


def _objective(objective: str, labels: tuple[Value, ...]) -> Shape:
    if objective == "binary:logistic" and len(labels) == 2:
        return "sigmoid-f32"
    if objective == "multi:softprob" and len(labels) > 2:
        return "softmax-f32"
    if objective in ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror"):
        return "number"
    raise Unfoldable(f"no rule for its objective {objective}")


def _intercepts(text: str, objective: str, outputs: int) -> tuple[float, ...]:
    """What the sums begin with, float32; XGBoost writes it as a probability for ``binary:logistic``."""
    numbers = np.array([float(item) for item in text.strip("[]").split(",")], dtype=np.float32)
    if objective == "binary:logistic":
        one = np.float32(1.0)
        numbers = -np.log((one / numbers - one).astype(np.float64)).astype(np.float32)
    return tuple(float(number) for number in np.broadcast_to(numbers, (outputs,)))


def _from_json(tree: Any) -> _Tree:
    if any(tree["split_type"]):
        raise Unfoldable("it splits on categories of its own")
    conditions = np.array(tree["split_conditions"], dtype=np.float32)
    left = np.array(tree["left_children"], dtype=np.int64)
    if int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise Unfoldable("its leaves hold several numbers")
    # it goes left where the value is smaller: the same as not larger than the next smaller float32
    return _Tree(
        leaf=left < 0,
        feature=np.array(tree["split_indices"]),
        threshold=np.nextafter(conditions, np.float32(-np.inf)).astype(np.float64),
        left=left,
        right=np.array(tree["right_children"], dtype=np.int64),
        missing_right=np.array(tree["default_left"]) == 0,
        values=conditions[:, np.newaxis].astype(np.float64),
    )
