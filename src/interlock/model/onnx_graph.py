"""The ``onnx`` form: a graph that ONNX Runtime answers, on a matrix made from the columns.

ONNX Runtime is imported when such a form is loaded and at no other time. Its one thread suits a server, where one row
is answered at a time; rows beyond go in calls of 4,096, which it answers faster than one large call.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.errors import BundleCorrupt, StoreFault
from interlock.model.columns import FORM_FILE, Floats, Value, label_frame, refusal
from interlock.model.trees import Mapped, Plain, matrix_of
from interlock.records import Record, canonical

GRAPH_FILE = "model.onnx"
_CALL_ROWS = 4096
_INPUT = "X"


class Graph(Record, frozen=True, kw_only=True, tag="onnx", tag_field="form", forbid_unknown_fields=True):
    """What ``form.json`` holds. The graph takes ``X``, shape (rows, features), float32 when ``narrow``, else float64.

    It gives numbers, shape (rows,) or (rows, 1), or labels (text, or whole numbers) and, with ``probabilities``,
    shape (rows, classes), those in the order of ``classes``.
    """

    name: ClassVar[str] = "onnx"
    features: tuple[Plain | Mapped, ...]
    narrow: bool
    probabilities: bool = False
    classes: tuple[Value, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the matrix is made of, each once."""
        return tuple(dict.fromkeys(feature.column for feature in self.features))


class OnnxForm:
    """The ``onnx`` form: a :class:`Graph` with the session that answers.

    Raises :class:`StoreFault` when ONNX Runtime is missing, and :class:`BundleCorrupt` when it refuses the graph.
    """

    name: ClassVar[str] = "onnx"

    def __init__(self, graph: Graph, content: bytes) -> None:
        self.graph = graph
        self._content = content
        self._session = _session(content)
        taken = self._session.get_inputs()
        wanted = "tensor(float)" if graph.narrow else "tensor(double)"
        outputs = [output.name for output in self._session.get_outputs()]
        if [(item.name, item.type) for item in taken] != [(_INPUT, wanted)] or len(outputs) < 1 + graph.probabilities:
            raise BundleCorrupt(f"{GRAPH_FILE} is no graph as {FORM_FILE} says.", next_step="Pack again.", form="onnx")
        self._outputs = outputs[: 1 + graph.probabilities]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the matrix is made of."""
        return self.graph.columns

    @property
    def features(self) -> tuple[Plain | Mapped, ...]:
        """How the columns of the matrix are made."""
        return self.graph.features

    def files(self) -> dict[str, bytes]:
        """``form.json`` and ``model.onnx``."""
        return {FORM_FILE: canonical(self.graph), GRAPH_FILE: self._content}

    def answer(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Answer in calls of 4,096 rows."""
        codes = np.empty(frame.height, dtype=np.intp)
        numbers = np.empty((len(self.graph.classes) if self.graph.probabilities else 1, frame.height))
        for start in range(0, frame.height, _CALL_ROWS):
            part = frame[start : start + _CALL_ROWS]
            rows = slice(start, start + part.height)
            codes[rows], numbers[:, rows], bad = self._asked(matrix_of(self.graph.features, part).T)
            if bad.any():
                raise refusal(part, self.columns, bad)
        if not self.graph.classes:
            return pl.DataFrame({"prediction": numbers[0]})
        return label_frame(self.graph.classes, codes, numbers if self.graph.probabilities else None)

    def answer_rows(self, rows: list[list[float]]) -> list[tuple[Value, tuple[float, ...] | None] | None]:
        """Answers to rows of the matrix; None where refused.

        A library's products of matrices may differ in the last bit with the number of rows in a call, so these agree
        with :meth:`answer` to rounding, and to the bit for rows asked one by one.
        """
        codes, numbers, bad = self._asked(np.array(rows, dtype=np.float64))
        classes, given = self.graph.classes, numbers.T.tolist()
        result: list[tuple[Value, tuple[float, ...] | None] | None] = []
        for code, row, refused in zip(codes.tolist(), given, bad.tolist(), strict=True):
            if refused:
                result.append(None)
            elif not classes:
                result.append((row[0], None))
            else:
                result.append((classes[code], tuple(row) if self.graph.probabilities else None))
        return result

    def _asked(self, matrix: Floats) -> tuple[NDArray[Any], Floats, NDArray[np.bool_]]:
        """Codes of labels, shape (rows,), numbers, shape (classes or 1, rows), and which rows are refused."""
        with np.errstate(over="ignore"):
            given = np.ascontiguousarray(matrix, dtype=np.float32 if self.graph.narrow else np.float64)
        bad = ~np.isfinite(given).all(axis=1)
        if bad.any():
            given[bad] = 0.0
        found = self._session.run(self._outputs, {_INPUT: given})
        if not self.graph.classes:
            numbers = np.asarray(found[0], dtype=np.float64).reshape(1, len(given))
            return np.zeros(len(given), dtype=np.intp), numbers, bad | ~np.isfinite(numbers[0])
        numbers = np.zeros((1, len(given)))
        if self.graph.probabilities:
            numbers = np.asarray(found[1], dtype=np.float64).T
            bad = bad | ~np.isfinite(numbers).all(axis=0)
        codes = np.array([self._places.get(label, 0) for label in np.asarray(found[0]).ravel().tolist()], dtype=np.intp)
        return codes, numbers, bad

    @cached_property
    def _places(self) -> dict[Any, int]:
        return {label: place for place, label in enumerate(self.graph.classes)}


def _session(content: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise StoreFault(
            "The package 'onnxruntime' is not installed.", next_step="Install it: pip install 'interlock[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class but this one
        raise BundleCorrupt(f"ONNX Runtime refuses {GRAPH_FILE}.", next_step="Pack again.", form="onnx") from error


def load_graph(graph: Graph, folder: Path) -> OnnxForm:
    """Read ``model.onnx`` beside ``form.json``; raises as :class:`OnnxForm` does."""
    try:
        content = (folder / GRAPH_FILE).read_bytes()
    except OSError as error:
        raise BundleCorrupt(f"{GRAPH_FILE} cannot be read.", next_step="Pack again.", form="onnx") from error
    return OnnxForm(graph, content)
