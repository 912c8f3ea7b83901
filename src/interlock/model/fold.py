"""Fold a fitted scikit-learn or LightGBM model into a form, by reading its fitted attributes. Runs in a worker process.

Columns are followed through the transformers as *symbols*: an untouched column, a number under an affine map, an
indicator of a category, or an ordinal code. A final estimator then gives the weights. Only known classes of
scikit-learn and LightGBM are read, by exact type; anything else raises :class:`Unfoldable` with the reason in words.
What is folded here is a guess until :mod:`interlock.model.compile` has compared its answers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import msgspec

from interlock.model.columns import Key, Value
from interlock.model.forms import CategoryTerm, Form, Linear, Link, NumberTerm
from interlock.model.trees import LightGbm, Mapped, Plain, Trees
from interlock.records import ColumnType, Signature

_TREE_CATEGORIES = 512
"""A one-hot column of more categories than this is not spelled out for a tree model."""


class Unfoldable(Exception):
    """The model has no form; the message says which part is in the way."""


# ---- symbols -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raw:
    """An untouched column. A missing text counts as ``fill`` when that is given."""

    column: str
    type: ColumnType
    fill: str | None = None


@dataclass(frozen=True)
class Group:
    """A one-hot encoded column: the indicator of each key, of unknown and of missing.

    -1 means that no indicator is set, None that the value is refused.
    """

    column: str
    keys: tuple[Key, ...]
    indicator: tuple[int, ...]
    unknown: int | None
    missing: int | None


@dataclass(frozen=True)
class Indicator:
    """``scale`` times one indicator of a group, plus ``offset``."""

    group: Group
    index: int
    scale: float = 1.0
    offset: float = 0.0


Symbol: TypeAlias = Raw | Plain | Mapped | Indicator


def _number(symbol: Symbol, what: str) -> Plain | Mapped | Indicator:
    if not isinstance(symbol, Raw):
        return symbol
    if symbol.type not in ("int", "float", "bool"):
        raise Unfoldable(f"{what} reads '{symbol.column}', a column of type {symbol.type}")
    return Plain(column=symbol.column)


@dataclass(frozen=True)
class _Affine:
    """``(value - shift) / divisor * scale + offset``, in the order in which a scaler does it."""

    shift: float = 0.0
    divisor: float = 1.0
    scale: float = 1.0
    offset: float = 0.0


def _affine(symbol: Symbol, map_: _Affine, what: str) -> Symbol:
    """Give the symbol of a number under an affine map."""
    number = _number(symbol, what)
    shift, scale, offset = map_.shift, map_.scale / map_.divisor, map_.offset
    if isinstance(number, Plain):
        if number.untouched:
            return msgspec.structs.replace(number, shift=shift, divisor=map_.divisor, scale=map_.scale, offset=offset)
        return msgspec.structs.replace(
            number, scale=number.scale * scale, offset=(number.offset - shift) * scale + offset
        )
    if isinstance(number, Indicator):
        return replace(number, scale=number.scale * scale, offset=(number.offset - shift) * scale + offset)
    moved = [
        None if v is None else (v - shift) / map_.divisor * map_.scale + offset
        for v in (*number.values, number.unknown, number.missing)
    ]
    values = tuple(value for value in moved[:-2] if value is not None)
    return Mapped(column=number.column, keys=number.keys, values=values, unknown=moved[-2], missing=moved[-1])


# ---- transformers ------------------------------------------------------------------------------------------------


def _each(value: Any, count: int, default: float) -> list[float]:
    return [default] * count if value is None else [float(item) for item in value]


def _standard(step: Any, symbols: list[Symbol]) -> list[Symbol]:
    shifts = _each(step.mean_ if step.with_mean else None, len(symbols), 0.0)
    scales = _each(step.scale_ if step.with_std else None, len(symbols), 1.0)
    return [_affine(s, _Affine(m, k), "StandardScaler") for s, m, k in zip(symbols, shifts, scales, strict=True)]


def _min_max(step: Any, symbols: list[Symbol]) -> list[Symbol]:
    if step.clip:
        raise Unfoldable("MinMaxScaler clips")
    pairs = zip(symbols, step.min_, step.scale_, strict=True)
    return [_affine(s, _Affine(scale=float(k), offset=float(m)), "MinMaxScaler") for s, m, k in pairs]


def _max_abs(step: Any, symbols: list[Symbol]) -> list[Symbol]:
    if getattr(step, "clip", False):
        raise Unfoldable("MaxAbsScaler clips")
    return [_affine(s, _Affine(0.0, float(k)), "MaxAbsScaler") for s, k in zip(symbols, step.scale_, strict=True)]


def _robust(step: Any, symbols: list[Symbol]) -> list[Symbol]:
    shifts = _each(step.center_ if step.with_centering else None, len(symbols), 0.0)
    scales = _each(step.scale_ if step.with_scaling else None, len(symbols), 1.0)
    return [_affine(s, _Affine(m, k), "RobustScaler") for s, m, k in zip(symbols, shifts, scales, strict=True)]


def _impute(step: Any, symbols: list[Symbol]) -> list[Symbol]:
    if step.add_indicator:
        raise Unfoldable("SimpleImputer adds indicators")
    return [_filled(s, v) for s, v in zip(symbols, step.statistics_, strict=True)]


def _filled(symbol: Symbol, value: Any) -> Symbol:
    plain = plain_value(value)
    if isinstance(symbol, Raw) and symbol.type == "str":
        if not isinstance(plain, str):
            raise Unfoldable(f"SimpleImputer fills '{symbol.column}' with something that is no text")
        return replace(symbol, fill=symbol.fill if symbol.fill is not None else plain)
    number = _number(symbol, "SimpleImputer")
    if isinstance(number, Indicator):
        return number
    if isinstance(number, Mapped) and isinstance(plain, int | float):
        gaps = {name: float(plain) for name in ("unknown", "missing") if getattr(number, name) is None}
        return msgspec.structs.replace(number, **gaps)
    if not isinstance(number, Plain) or isinstance(plain, str) or plain is None or not math.isfinite(plain):
        raise Unfoldable("SimpleImputer fills something that is no plain number")
    if number.fill is not None:
        return number
    fill = float(plain)
    if not number.untouched:
        fill = (fill - number.offset) / number.scale * number.divisor + number.shift
    return msgspec.structs.replace(number, fill=fill)


def plain_value(value: Any) -> Value | None:
    """Turn a numpy scalar into a Python one; None, NaN and pandas' NA become None. Raises :class:`Unfoldable`."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool | int | float | str):
        return value
    raise Unfoldable(f"a value of type {type(value).__name__} among categories or classes")


def _one_hot(step: Any, symbols: list[Symbol]) -> list[Symbol]:
    drops = step.drop_idx_ if step.drop_idx_ is not None else [None] * len(symbols)
    infrequent = getattr(step, "infrequent_categories_", None) or [None] * len(symbols)
    result: list[Symbol] = []
    for symbol, categories, drop, rare in zip(symbols, step.categories_, drops, infrequent, strict=True):
        if not isinstance(symbol, Raw):
            raise Unfoldable("OneHotEncoder reads columns that another step made")
        values = [plain_value(category) for category in categories]
        group = _group(
            symbol, values, drop, set() if rare is None else {plain_value(v) for v in rare}, step.handle_unknown
        )
        width = max([*group.indicator, group.unknown or 0, group.missing or 0, -1]) + 1
        result += [Indicator(group, index) for index in range(width)]
    return result


def _group(
    symbol: Raw, values: list[Value | None], drop: int | None, rare: set[Value | None], handle_unknown: str
) -> Group:
    """Say which indicator each category sets. Infrequent ones share the last; a dropped one sets none."""
    common = [value for value in values if value not in rare]
    slot = {value: index for index, value in enumerate(common)} | dict.fromkeys(rare, len(common))
    if drop is not None:
        gone = slot[values[int(drop)]]
        slot = {v: -1 if i == gone else i - (i > gone) for v, i in slot.items()}
    unknown: int | None = -1
    if handle_unknown == "error":
        unknown = None
    elif handle_unknown == "infrequent_if_exist" and rare:
        unknown = slot[next(iter(rare))]
    missing = slot.get(symbol.fill, unknown) if symbol.fill is not None else slot.get(None, unknown)
    keys = tuple(value for value in values if value is not None)
    return Group(symbol.column, keys, tuple(slot[key] for key in keys), unknown, missing)


def _ordinal(step: Any, symbols: list[Symbol]) -> list[Symbol]:
    if step.handle_unknown == "error":
        raise Unfoldable("OrdinalEncoder refuses unknown categories")
    if getattr(step, "infrequent_categories_", None) and any(rare is not None for rare in step.infrequent_categories_):
        raise Unfoldable("OrdinalEncoder joins infrequent categories")
    result: list[Symbol] = []
    for symbol, categories in zip(symbols, step.categories_, strict=True):
        if not isinstance(symbol, Raw):
            raise Unfoldable("OrdinalEncoder reads columns that another step made")
        values = [plain_value(category) for category in categories]
        unknown = _float_or_none(step.unknown_value)
        codes = {value: float(index) for index, value in enumerate(values) if value is not None}
        missing = _float_or_none(step.encoded_missing_value) if None in values else unknown
        if symbol.fill is not None:
            missing = codes.get(symbol.fill, unknown)
        result.append(
            Mapped(
                column=symbol.column, keys=tuple(codes), values=tuple(codes.values()), unknown=unknown, missing=missing
            )
        )
    return result


def _float_or_none(value: Any) -> float | None:
    plain = plain_value(value)
    return None if plain is None else float(plain)


def _function(step: Any, symbols: list[Symbol]) -> list[Symbol]:
    if step.func is not None:
        raise Unfoldable("FunctionTransformer calls a function")
    return symbols


def _select(step: Any, symbols: list[Symbol]) -> list[Symbol]:
    return [symbol for symbol, kept in zip(symbols, step.get_support(), strict=True) if kept]


def _columns(step: Any, symbols: list[Symbol]) -> list[Symbol]:
    result: list[Symbol] = []
    for _, inner, chosen in step.transformers_:
        part = _chosen(chosen, symbols, getattr(step, "feature_names_in_", None))
        if isinstance(inner, str) and inner == "drop":
            continue
        result += transform(inner, part)
    return result


def _chosen(chosen: Any, symbols: list[Symbol], names: Any) -> list[Symbol]:
    """Resolve the columns of one transformer: names, positions, a slice or a mask."""
    if isinstance(chosen, slice):
        if isinstance(chosen.start, str) or isinstance(chosen.stop, str):
            raise Unfoldable("ColumnTransformer takes a slice of names")
        return symbols[chosen]
    items = [chosen] if isinstance(chosen, str | int) else list(chosen)
    by_name = {str(name): symbol for name, symbol in zip(names if names is not None else (), symbols, strict=False)}
    by_name |= {symbol.column: symbol for symbol in symbols if isinstance(symbol, Raw)}
    if items and all(isinstance(item, bool) or type(item).__name__ == "bool" for item in items):
        return [symbol for symbol, kept in zip(symbols, items, strict=True) if kept]
    return [by_name[item] if isinstance(item, str) else symbols[int(item)] for item in items]


def _steps(step: Any, symbols: list[Symbol]) -> list[Symbol]:
    for _, inner in step.steps:
        symbols = transform(inner, symbols)
    return symbols


_TRANSFORMERS: dict[str, Callable[[Any, list[Symbol]], list[Symbol]]] = {
    "ColumnTransformer": _columns,
    "FunctionTransformer": _function,
    "MaxAbsScaler": _max_abs,
    "MinMaxScaler": _min_max,
    "OneHotEncoder": _one_hot,
    "OrdinalEncoder": _ordinal,
    "Pipeline": _steps,
    "RobustScaler": _robust,
    "SimpleImputer": _impute,
    "StandardScaler": _standard,
    **dict.fromkeys(("GenericUnivariateSelect", "RFE", "RFECV", "SelectFdr", "SelectFpr", "SelectFromModel"), _select),
    **dict.fromkeys(("SelectFwe", "SelectKBest", "SelectPercentile", "VarianceThreshold"), _select),
}


def transform(step: Any, symbols: list[Symbol]) -> list[Symbol]:
    """Follow the symbols through one fitted transformer; raises :class:`Unfoldable`."""
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return symbols
    known = _TRANSFORMERS.get(type(step).__name__) if _from(step, "sklearn") else None
    if known is None:
        raise Unfoldable(f"no rule for the step {type(step).__name__}")
    return known(step, symbols)


def _from(thing: Any, package: str) -> bool:
    return type(thing).__module__.split(".")[0] == package


# ---- estimators --------------------------------------------------------------------------------------------------

_REGRESSORS = frozenset(  # whose predict is the plain linear one
    [
        "ARDRegression",
        "BayesianRidge",
        "ElasticNet",
        "ElasticNetCV",
        "HuberRegressor",
        "Lars",
        "LarsCV",
        "Lasso",
        "LassoCV",
        "LassoLars",
        "LassoLarsCV",
        "LassoLarsIC",
        "LinearRegression",
        "LinearSVR",
        "OrthogonalMatchingPursuit",
        "OrthogonalMatchingPursuitCV",
        "PassiveAggressiveRegressor",
        "QuantileRegressor",
        "Ridge",
        "RidgeCV",
        "SGDRegressor",
        "TheilSenRegressor",
    ]
)
_LABELLERS = frozenset(
    ("LinearSVC", "PassiveAggressiveClassifier", "Perceptron", "RidgeClassifier", "RidgeClassifierCV")
)


def follow(model: Any, signature: Signature) -> tuple[list[Symbol], list[Any]]:
    """Follow the columns through the leading steps of ``model``: the symbols, and the steps that are left.

    The last of those is the estimator; there are others where no rule knows a step.
    """
    symbols: list[Symbol] = [Raw(column.name, column.type) for column in signature.inputs]
    rest = _flat(model)
    while len(rest) > 1:
        try:
            symbols = transform(rest[0], symbols)
        except Unfoldable:
            break
        rest = rest[1:]
    return symbols, rest


def _flat(model: Any) -> list[Any]:
    """The steps of a pipeline, those of a pipeline at its end too."""
    if not (_from(model, "sklearn") and type(model).__name__ == "Pipeline"):
        return [model]
    steps = [step for _, step in model.steps]
    return [*steps[:-1], *_flat(steps[-1])]


def fold(model: Any, signature: Signature) -> list[Form]:
    """Give the forms that may answer as ``model`` does, likeliest first; raises :class:`Unfoldable`."""
    symbols, rest = follow(model, signature)
    if len(rest) > 1:
        transform(rest[0], symbols)  # says what is in the way
    final = rest[-1]
    classes = signature.output.classes if signature.output else None
    if _from(final, "sklearn"):
        return [_linear(final, link, symbols, classes) for link in _links(final)]
    if _from(final, "lightgbm"):
        return [_trees(final, symbols, classes)]
    raise Unfoldable(f"no rule for {type(final).__name__}")


def _links(final: Any) -> tuple[Link, ...]:
    name = type(final).__name__
    if name in _REGRESSORS:
        return ("number",)
    many = len(getattr(final, "classes_", ())) > 2
    if name in ("LogisticRegression", "LogisticRegressionCV"):
        return ("softmax", "one-vs-rest") if many else ("sigmoid",)
    if name == "SGDClassifier" and final.loss == "log_loss":
        return ("one-vs-rest",) if many else ("sigmoid",)
    if name in _LABELLERS or (name == "SGDClassifier" and final.loss != "modified_huber"):
        return ("largest",) if many else ("sign",)
    raise Unfoldable(f"no rule for {name}")


def _linear(final: Any, link: Link, symbols: Sequence[Symbol], classes: Sequence[Value] | None) -> Linear:
    """Fold the coefficients, shape (scores, symbols), into the symbols."""
    coefficients = [[float(value) for value in row] for row in _rows(final.coef_)]
    intercepts = [float(value) for value in _rows(final.intercept_)[0]]
    intercepts = intercepts * len(coefficients) if len(intercepts) == 1 else intercepts
    if link == "number" and len(coefficients) != 1:
        raise Unfoldable("it predicts several targets at once")
    if any(len(row) != len(symbols) for row in coefficients):
        raise Unfoldable("its coefficients do not match its columns")
    terms: list[NumberTerm | CategoryTerm] = []
    groups: dict[Group, dict[int, tuple[float, ...]]] = {}
    for symbol, weights in zip(symbols, zip(*coefficients, strict=True), strict=True):
        number = _number(symbol, type(final).__name__)
        if isinstance(number, Plain):
            terms.append(_number_term(number, weights))
            intercepts = [i + number.offset * w for i, w in zip(intercepts, weights, strict=True)]
        elif isinstance(number, Indicator):
            groups.setdefault(number.group, {})[number.index] = tuple(number.scale * w for w in weights)
            intercepts = [i + number.offset * w for i, w in zip(intercepts, weights, strict=True)]
        else:
            terms.append(_code_term(number, weights))
    terms += [_group_term(group, weights, len(coefficients)) for group, weights in groups.items()]
    labels = () if link == "number" else labels_of(final, classes)
    return Linear(link=link, intercepts=tuple(intercepts), terms=tuple(terms), classes=labels)


def _rows(values: Any) -> Any:
    """Give an array of one or two dimensions, or a bare number, as a list of rows."""
    import numpy as np

    return np.atleast_2d(np.asarray(values, dtype=np.float64)).tolist()


def labels_of(final: Any, classes: Sequence[Value] | None) -> tuple[Value, ...]:
    """The classes of a classifier; raises :class:`Unfoldable` when they are not those of the target."""
    own = tuple(plain_value(value) for value in final.classes_)
    if classes is None or own != tuple(classes):
        raise Unfoldable("its classes are not the labels of the target")
    return tuple(classes)


def _number_term(number: Plain, weights: tuple[float, ...]) -> NumberTerm:
    scaled = tuple(number.scale / number.divisor * weight for weight in weights)
    return NumberTerm(column=number.column, shift=number.shift, weights=scaled, fill=number.fill)


def _code_term(code: Mapped, weights: tuple[float, ...]) -> CategoryTerm:
    def times(value: float | None) -> tuple[float, ...] | None:
        return None if value is None else tuple(value * weight for weight in weights)

    table = tuple(tuple(value * weight for weight in weights) for value in code.values)
    return CategoryTerm(
        column=code.column, keys=code.keys, weights=table, unknown=times(code.unknown), missing=times(code.missing)
    )


def _group_term(group: Group, weights: Mapping[int, tuple[float, ...]], scores: int) -> CategoryTerm:
    zeros = (0.0,) * scores

    def row(index: int | None) -> tuple[float, ...] | None:
        return None if index is None else weights.get(index, zeros)

    table = tuple(weights.get(index, zeros) for index in group.indicator)
    return CategoryTerm(
        column=group.column, keys=group.keys, weights=table, unknown=row(group.unknown), missing=row(group.missing)
    )


# ---- trees -------------------------------------------------------------------------------------------------------


def _trees(final: Any, symbols: Sequence[Symbol], classes: Sequence[Value] | None) -> LightGbm:
    booster = final if type(final).__name__ == "Booster" else final.booster_
    if booster.pandas_categorical:
        raise Unfoldable("it was trained on pandas categories, which the signature's columns are not")
    features = matrix_columns(symbols, "LightGBM")
    outputs = booster.num_model_per_iteration()
    own = getattr(final, "classes_", None) if type(final).__name__ != "LGBMRegressor" else None
    labels = () if own is None else labels_of(final, classes)
    text: str = booster.model_to_string()
    return LightGbm(Trees(features=features, outputs=outputs, classes=labels), text.encode())


def matrix_columns(symbols: Sequence[Symbol], what: str) -> tuple[Plain | Mapped, ...]:
    """How to make the matrix that ``what`` reads; raises :class:`Unfoldable`."""
    return tuple(_matrix_column(_number(symbol, what)) for symbol in symbols)


def _matrix_column(number: Plain | Mapped | Indicator) -> Plain | Mapped:
    if not isinstance(number, Indicator):
        return number
    group = number.group
    if len(group.keys) > _TREE_CATEGORIES:
        raise Unfoldable(f"'{group.column}' has {len(group.keys)} one-hot categories")
    if group.unknown is None or group.missing is None:
        raise Unfoldable("OneHotEncoder refuses unknown categories")

    def value(index: int) -> float:
        return number.scale * (index == number.index) + number.offset

    values = tuple(value(index) for index in group.indicator)
    return Mapped(
        column=group.column, keys=group.keys, values=values, unknown=value(group.unknown), missing=value(group.missing)
    )
