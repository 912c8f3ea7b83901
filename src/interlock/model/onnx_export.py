"""Write the steps of a scikit-learn model that no other form covers as an ONNX graph. Runs in a worker process.

``skl2onnx`` is needed where models are packed; where they answer, ``onnxruntime`` is enough.
"""

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

from interlock.errors import BundleCorrupt
from interlock.model.columns import Value
from interlock.model.fold import Symbol, Unfoldable, labels_of, matrix_columns
from interlock.model.onnx_graph import Graph, OnnxForm

_OPSET = 18
"""ONNX Runtime 1.19, the oldest that may be installed, knows it."""


def exported(
    steps: Sequence[Any], symbols: Sequence[Symbol], classes: Sequence[Value] | None, *, narrow: bool
) -> OnnxForm:
    """Convert ``steps``, the last of which is an estimator, that read a matrix of ``symbols``.

    Raises :class:`Unfoldable` when a package is missing, a column is text, or the converter does not know a step.
    """
    for package in ("onnxruntime", "skl2onnx"):
        if importlib.util.find_spec(package) is None:
            raise Unfoldable(f"the package '{package}' is not installed")
    features = matrix_columns(symbols, type(steps[0]).__name__)
    final = steps[-1]
    labels = labels_of(final, classes) if hasattr(final, "classes_") else ()
    probabilities = bool(labels) and hasattr(final, "predict_proba")
    graph = Graph(features=features, narrow=narrow, probabilities=probabilities, classes=labels)
    content = _converted(list(steps), len(features), classifies=bool(labels), narrow=narrow)
    try:
        return OnnxForm(graph, content)
    except BundleCorrupt as error:
        raise Unfoldable(f"ONNX: the runtime lacks an operator of {type(final).__name__} in this precision") from error


def _converted(steps: list[Any], width: int, *, classifies: bool, narrow: bool) -> bytes:
    from sklearn.pipeline import Pipeline

    model = steps[0] if len(steps) == 1 else Pipeline([(f"step{n}", step) for n, step in enumerate(steps)])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import skl2onnx
            from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

            kind = FloatTensorType if narrow else DoubleTensorType
            graph = skl2onnx.to_onnx(
                model,
                initial_types=[("X", kind([None, width]))],
                options={id(model): {"zipmap": False}} if classifies else None,
                target_opset={"": _OPSET, "ai.onnx.ml": 3},
            )
    except Exception as error:  # a library of many converters, each with errors of its own
        raise Unfoldable(f"ONNX: no conversion of {type(steps[-1]).__name__} ({type(error).__name__})") from error
    content: bytes = graph.SerializeToString()
    return content
