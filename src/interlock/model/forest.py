"""Decision trees as arrays, in numpy alone: the ``forest`` form of scikit-learn's and XGBoost's tree models.

A value goes right where it is larger than the threshold of the node; a missing one where the node says. Sums are taken
in the libraries' own order and precision, so that raw scores are theirs to the bit. Stored as ``form.json`` (typed,
strict) and ``.npy`` files read without pickle; every index is checked before the first answer, and a child stands
after its parent, so that no walk is endless.
"""

import io
import math
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.errors import BundleCorrupt
from interlock.model.columns import FORM_FILE, Floats, Value, label_frame, refusal
from interlock.model.trees import Mapped, Plain, matrix_of
from interlock.records import Record, canonical

Shape: TypeAlias = Literal[
    "number", "exponential", "shares", "sigmoid", "sigmoid-from", "double-sigmoid-from", "softmax", "sigmoid-f32",
    "softmax-f32", "votes",
]  # fmt: skip
"""How sums become answers. ``shares`` are the mean shares of the classes; ``…-from`` says yes from a score of 0 on.
``votes`` are those of boosting by weighted votes (Zhu, Zou, Rosset & Hastie, Statistics and Its Interface 2, 2009)."""

_BLOCK_ROWS = 8192
_LISTED = 200_000
"""So many inner nodes at most are kept as lists too (30 MB): one row is walked there faster than by numpy."""
_WALKED = 64
"""So many rows at most are walked one after the other: numpy's calls for a block cost, in any forest, about as many."""
_WHOLE = 20_000
"""In so many nodes at most, one row is compared with all of them at once."""
_KINDS = {
    "feature": "<i4", "threshold": "<f8", "right": "<i4", "left": "<i4", "missing_right": "|b1", "bits": "<i4",
    "roots": "<i4", "values": "<f8", "members": "|b1",
}  # fmt: skip


Given: TypeAlias = tuple[Value, tuple[float, ...] | None]
"""An answer: the prediction, and the shares of the classes."""


class Nodes(Record, frozen=True):
    """The trees. I inner nodes are numbered first, then L leaves; T trees.

    ``feature``, ``threshold`` (float64), ``left``, ``right``, ``missing_right`` (bool) and ``bits`` have shape (I,).
    ``bits`` is -1, or the row of ``members`` (bool, shape (sets, 256)) that lists the codes which go left. ``roots``
    has shape (T,), ``values`` (float64) shape (L, width).
    """

    feature: NDArray[np.int32]
    threshold: Floats
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    missing_right: NDArray[np.bool_]
    bits: NDArray[np.int32]
    roots: NDArray[np.int32]
    values: Floats
    members: NDArray[np.bool_]


class Forest(Record, frozen=True, kw_only=True, tag="forest", tag_field="form", forbid_unknown_fields=True):
    """What ``form.json`` holds. Tree ``t`` adds to output ``t % outputs`` where leaves hold one number.

    ``narrow``: values are rounded to float32 before they are compared. ``gaps``: a missing value is no reason to
    refuse a row; ``beyond``: nor is a number that float32 does not hold. ``base`` has one number an output;
    ``single`` adds in float32; ``mean`` divides the sum by the number of trees, ``over`` by itself.
    """

    name: ClassVar[str] = "forest"
    features: tuple[Plain | Mapped, ...]
    shape: Shape
    base: tuple[float, ...]
    narrow: bool
    gaps: bool
    beyond: bool = False
    single: bool = False
    mean: bool = False
    over: float | None = None
    classes: tuple[Value, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the matrix is made of, each once."""
        return tuple(dict.fromkeys(feature.column for feature in self.features))


class TreeForest:
    """The ``forest`` form. Raises :class:`BundleCorrupt` when the arrays are no trees."""

    name: ClassVar[str] = "forest"

    def __init__(self, forest: Forest, nodes: Nodes) -> None:
        self.forest = forest
        self.nodes = nodes
        self._inner = len(nodes.feature)
        _check(forest, nodes)
        self._feature = nodes.feature.astype(np.intp)
        self._children = np.stack([nodes.left, nodes.right], axis=1).ravel().astype(np.intp)
        self._cased = np.flatnonzero(nodes.bits >= 0)
        kind = np.float32 if forest.single else np.float64
        self._values = nodes.values.astype(kind)
        self._base = np.array(forest.base, dtype=kind)
        self._divisor = float(len(nodes.roots)) if forest.mean else forest.over
        self._walk = self._walker() if self._inner <= _LISTED else None
        # without that walk numpy sees to one row in all trees at once, or to all rows in one tree after the other
        self._alone = _WALKED if self._walk is not None else len(nodes.roots) // 2

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the matrix is made of."""
        return self.forest.columns

    @property
    def features(self) -> tuple[Plain | Mapped, ...]:
        """How the columns of the matrix are made."""
        return self.forest.features

    def thresholds(self) -> dict[int, list[float]]:
        """The numbers at which the trees split, by column of the matrix."""
        plain = self.nodes.bits < 0
        found: dict[int, list[float]] = {}
        for feature in np.unique(self.nodes.feature[plain]).tolist():
            of_it = self.nodes.threshold[plain & (self.nodes.feature == feature)]
            found[feature] = np.unique(of_it[np.isfinite(of_it)]).tolist()
        return found

    def files(self) -> dict[str, bytes]:
        """``form.json`` and one ``.npy`` file an array."""
        result = {FORM_FILE: canonical(self.forest)}
        for name, kind in _KINDS.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, getattr(self.nodes, name).astype(kind), allow_pickle=False)
            result[f"{name}.npy"] = content.getvalue()
        return result

    # -- frames --

    def answer(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Walk all trees level by level, a block of rows at a time."""
        width = len(self._base)
        sums = np.empty((width, frame.height), dtype=self._values.dtype)
        for start in range(0, frame.height, _BLOCK_ROWS):
            part = frame[start : start + _BLOCK_ROWS]
            matrix, bad = self._readable(matrix_of(self.forest.features, part).T)
            if bad.any():
                raise refusal(part, self.columns, bad)
            sums[:, start : start + part.height] = self._sums(matrix)
        return self._answered(*self._linked(sums))

    def _answered(self, codes: NDArray[Any], numbers: Floats) -> pl.DataFrame:
        if not self.forest.classes:
            return pl.DataFrame({"prediction": numbers[0]})
        return label_frame(self.forest.classes, codes, numbers)

    def _readable(self, matrix: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Rows as the trees see them, shape (rows, features), C order, and which of them the model refuses."""
        matrix = np.ascontiguousarray(matrix)
        if self.forest.narrow:
            with np.errstate(over="ignore"):
                matrix = matrix.astype(np.float32).astype(np.float64)
        bad: NDArray[np.bool_] = np.zeros(len(matrix), dtype=np.bool_)
        if self.forest.narrow and not self.forest.beyond:
            bad |= np.isinf(matrix).any(axis=1)
        if not self.forest.gaps:
            bad |= np.isnan(matrix).any(axis=1)
        return matrix, bad

    def _sums(self, matrix: Floats) -> Floats:
        """Sums over the trees, shape (outputs, rows)."""
        rows, width = matrix.shape
        gaps = bool(np.isnan(matrix).any())
        flat = matrix.ravel()
        places = np.arange(rows) * width
        sums = np.repeat(self._base[:, np.newaxis], rows, axis=1)
        for number, root in enumerate(self.nodes.roots.tolist()):
            leaves = self._leaves(flat, places, root, gaps)
            if self._values.shape[1] == 1:
                sums[number % len(sums)] += self._values[:, 0].take(leaves)
            else:
                sums += self._values.take(leaves, axis=0).T
        return sums if self._divisor is None else sums / self._divisor

    def _leaves(self, flat: Floats, places: NDArray[np.intp], root: int, gaps: bool) -> NDArray[np.intp]:
        """The leaf, counted from 0, that each row reaches in one tree. Rows that have arrived are walked no further."""
        inner = self._inner
        result = np.full(len(places), root, dtype=np.intp)
        if root >= inner:
            return result - inner
        rows, at = np.arange(len(places)), result
        while len(rows):
            turn = self._turns(flat.take(places + self._feature.take(at)), at, gaps)
            at = self._children.take(2 * at + turn)
            going = np.flatnonzero(at < inner)
            if len(going) < len(at):
                there = np.flatnonzero(at >= inner)
                result[rows.take(there)] = at.take(there)
                rows, places, at = rows.take(going), places.take(going), at.take(going)
        return result - inner

    def _turns(self, values: Floats, at: NDArray[np.intp], gaps: bool) -> NDArray[np.bool_]:
        """Whether ``values`` go right at the nodes ``at``."""
        turn: NDArray[np.bool_] = values > self.nodes.threshold.take(at)
        if len(self._cased):
            bits = self.nodes.bits.take(at)
            cased = np.flatnonzero(bits >= 0)
            codes = np.nan_to_num(values[cased], nan=0.0).astype(np.intp)
            turn[cased] = ~self.nodes.members[bits[cased], codes]
        if gaps:
            turn = np.where(np.isnan(values), self.nodes.missing_right.take(at), turn)
        return turn

    # -- rows --

    def answer_rows(self, rows: list[list[float]]) -> list[Given | None]:
        """Answers to rows of the matrix, to the bit those of :meth:`answer`; None where refused."""
        if self._walk is not None and len(rows) <= self._alone:
            return [self._walk(row) for row in rows]
        return self._at_once(rows)

    def _at_once(self, rows: list[list[float]]) -> list[Given | None]:
        matrix, bad = self._readable(np.array(rows, dtype=np.float64))
        good = np.flatnonzero(~bad).tolist()
        if len(good) > self._alone:
            sums = self._sums(matrix[good])
        elif good:
            sums = np.stack([self._row_sums(matrix[row]) for row in good], axis=1)
        else:
            sums = np.zeros((len(self._base), 0))
        codes, numbers = self._linked(sums)
        result: list[Given | None] = [None] * len(rows)
        classes = self.forest.classes
        for row, code, shares in zip(good, codes.tolist(), numbers.T.tolist(), strict=True):
            result[row] = (classes[code], tuple(shares)) if classes else (shares[0], None)
        return result

    def _row_sums(self, row: Floats) -> Floats:
        """Sums over the trees, shape (outputs,), added one after the other as for a block of rows."""
        return self._added(self._row_leaves(row))

    def _added(self, leaves: Any) -> Floats:
        """The values of one leaf a tree, added in the order of the trees: shape (outputs,)."""
        values = self._values[leaves]
        width = len(self._base)
        if values.shape[1] == 1:
            values = values.reshape(-1, width)
        sums: Floats = np.add.accumulate(np.concatenate([self._base[np.newaxis], values]), axis=0)[-1]
        return sums if self._divisor is None else sums / self._divisor

    def _row_leaves(self, row: Floats) -> Any:
        """The leaf of each tree, counted from 0, for one row."""
        gaps = bool(np.isnan(row).any())
        node = self.nodes.roots.astype(np.intp)
        waiting = np.flatnonzero(node < self._inner)
        while len(waiting):
            at = node[waiting]
            turn = self._turns(row.take(self._feature.take(at)), at, gaps)
            at = node[waiting] = self._children.take(2 * at + turn)
            waiting = waiting[at < self._inner]
        return node - self._inner

    def _walker(self) -> Callable[[list[float]], Given | None]:
        """What answers one row in plain Python: for one row, numpy's calls cost more than the steps they take."""
        forest, leaves = self.forest, self._values.tolist()
        reached = _walk(self.nodes)
        narrow = struct.Struct(f"<{len(forest.features)}f")  # the standard mode: the native one makes infinities
        base, classes, divisor = list(forest.base), forest.classes, self._divisor
        plain = forest.shape in ("number", "shares") and not forest.single

        def answer(row: list[float]) -> Given | None:
            try:
                values: Sequence[float] = narrow.unpack(narrow.pack(*row)) if forest.narrow else row
            except OverflowError:  # beyond float32
                return self._at_once([row])[0]
            gaps = any(map(math.isnan, values))
            if gaps and not forest.gaps:
                return None
            found = reached(values, gaps)
            if not plain:
                codes, numbers = self._linked(self._added(found)[:, np.newaxis])
                shares = numbers[:, 0].tolist()
                return (classes[int(codes[0])], tuple(shares)) if classes else (shares[0], None)
            if not classes:
                total = base[0]
                for leaf in found:
                    total += leaves[leaf][0]
                return (total if divisor is None else total / divisor), None
            sums = base
            for leaf in found:
                sums = [one + other for one, other in zip(sums, leaves[leaf], strict=True)]
            if divisor is not None:
                sums = [one / divisor for one in sums]
            return classes[sums.index(max(sums))], tuple(sums)

        return answer

    # -- links --

    def _linked(self, sums: Any) -> tuple[NDArray[Any], Floats]:
        """The code of each label, shape (rows,), and numbers, float64, shape (classes or 1, rows)."""
        with np.errstate(over="ignore"):
            return _LINKS[self.forest.shape](sums)


def _number(sums: Any) -> tuple[Any, Floats]:
    return sums[0], sums.astype(np.float64)


def _exponential(sums: Any) -> tuple[Any, Floats]:
    return sums[0], np.exp(sums)


def _shares(sums: Any) -> tuple[Any, Floats]:
    return sums.argmax(axis=0), sums


def _two(yes: Any) -> Any:
    return np.stack([1 - yes, yes])


def _sigmoid(sums: Any) -> tuple[Any, Floats]:
    return sums[0] > 0, _two(1.0 / (1.0 + np.exp(-sums[0])))


def _sigmoid_from(sums: Any) -> tuple[Any, Floats]:
    return sums[0] >= 0, _two(1.0 / (1.0 + np.exp(-sums[0])))


def _double_sigmoid_from(sums: Any) -> tuple[Any, Floats]:
    return sums[0] >= 0, _two(1.0 / (1.0 + np.exp(-2.0 * sums[0])))


def _softmax(sums: Any) -> tuple[Any, Floats]:
    powers = np.exp(sums - sums.max(axis=0))
    total = powers[0].copy()
    for power in powers[1:]:
        total += power
    return sums.argmax(axis=0), powers / total


def _votes(sums: Any) -> tuple[Any, Floats]:
    if len(sums) == 2:
        scores = sums[1] - sums[0]
        return scores > 0, _softmax(np.stack([-scores / 2, scores / 2]))[1]
    return sums.argmax(axis=0), _softmax(sums / (len(sums) - 1))[1]


def _exp_f32(scores: Any) -> Any:
    """``expf``: by way of float64, which rounds as the C library does (numpy's own float32 way does not)."""
    return np.exp(scores.astype(np.float64)).astype(np.float32)


def _sigmoid_f32(sums: Any) -> tuple[Any, Floats]:
    """XGBoost's sigmoid (``src/common/math.h``): ``1 / (exp(min(-x, 88.7)) + 1)`` in float32."""
    one = np.float32(1.0)
    yes = one / (_exp_f32(np.minimum(-sums[0], np.float32(88.7))) + one)
    return yes > 0.5, np.stack([one - yes, yes]).astype(np.float64)


def _softmax_f32(sums: Any) -> tuple[Any, Floats]:
    """XGBoost's softmax (``src/common/math.h``): float32 powers, summed in float64, divided in float32."""
    powers = _exp_f32(sums - sums.max(axis=0))
    total = powers[0].astype(np.float64)
    for power in powers[1:]:
        total += power
    shares = powers / total.astype(np.float32)
    return shares.argmax(axis=0), shares.astype(np.float64)


_LINKS = {
    "number": _number,
    "exponential": _exponential,
    "shares": _shares,
    "sigmoid": _sigmoid,
    "sigmoid-from": _sigmoid_from,
    "double-sigmoid-from": _double_sigmoid_from,
    "softmax": _softmax,
    "sigmoid-f32": _sigmoid_f32,
    "softmax-f32": _softmax_f32,
    "votes": _votes,
}


# ---- one row -----------------------------------------------------------------------------------------------------


def _walk(nodes: Nodes) -> Callable[[Sequence[float], bool], list[int]]:
    """What gives the leaf that a row reaches in each tree, counted from 0; told whether a value of it is missing."""
    feature, threshold, left, right, missing_right, bits, roots = (
        getattr(nodes, name).tolist()
        for name in ("feature", "threshold", "left", "right", "missing_right", "bits", "roots")
    )
    members, inner = nodes.members.tolist(), len(feature)
    cased = any(number >= 0 for number in bits)

    def carefully(values: Sequence[float], node: int) -> int:
        while node < inner:
            value = values[feature[node]]
            if math.isnan(value):
                turn = missing_right[node]
            elif bits[node] >= 0:
                turn = not members[bits[node]][int(value)]
            else:
                turn = value > threshold[node]
            node = right[node] if turn else left[node]
        return node - inner

    def reached(values: Sequence[float], gaps: bool) -> list[int]:
        if gaps or cased:
            return [carefully(values, root) for root in roots]
        found = []
        for node in roots:
            while node < inner:
                node = right[node] if values[feature[node]] > threshold[node] else left[node]  # noqa: PLW2901
            found.append(node - inner)
        return found

    return reached


# ---- loading -----------------------------------------------------------------------------------------------------


def load_forest(forest: Forest, folder: Path) -> TreeForest:
    """Read the arrays beside ``form.json``. Raises :class:`BundleCorrupt` naming what is wrong."""
    arrays: dict[str, Any] = {}
    for name, kind in _KINDS.items():
        try:
            with (folder / f"{name}.npy").open("rb") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, ValueError, MemoryError, EOFError, SyntaxError) as error:
            raise _corrupt(f"{name}.npy cannot be read: {type(error).__name__}") from error
        if array.dtype.str != kind or array.ndim != (2 if name in ("values", "members") else 1):
            raise _corrupt(f"{name}.npy is not of the type and shape of such an array")
        arrays[name] = array
    return TreeForest(forest, Nodes(**arrays))


def _corrupt(what: str) -> BundleCorrupt:
    return BundleCorrupt(f"The form 'forest' is damaged: {what}.", next_step="Pack again.", form="forest")


def _check(forest: Forest, nodes: Nodes) -> None:
    """Check every index and size; raises :class:`BundleCorrupt`."""
    inner, leaves, trees = len(nodes.feature), len(nodes.values), len(nodes.roots)
    everything = inner + leaves
    own = np.arange(inner)
    children = (nodes.left, nodes.right)
    equal = all(len(part) == inner for part in (nodes.threshold, *children, nodes.missing_right, nodes.bits))
    good = (
        equal
        and leaves > 0
        and trees > 0
        and all(bool(((part > own) & (part < everything)).all()) for part in children)
        and bool(((nodes.roots >= 0) & (nodes.roots < everything)).all())
        and bool(((nodes.feature >= 0) & (nodes.feature < len(forest.features))).all())
        and bool(((nodes.bits >= -1) & (nodes.bits < len(nodes.members))).all())
        and nodes.members.shape[1] == 256
        and not np.isnan(nodes.threshold).any()
    )
    if not good:
        raise _corrupt("an index or a size is out of range")
    width, outputs = nodes.values.shape[1], len(forest.base)
    if not _fits(forest, width, outputs) or (width == 1 and trees % outputs):
        raise _corrupt("its outputs are not those of its trees")
    for feature in np.unique(nodes.feature[nodes.bits >= 0]).tolist():
        made = forest.features[feature]
        codes = [*made.values, made.unknown, made.missing] if isinstance(made, Mapped) else [-1.0]
        if any(code is not None and not (0 <= code < 256 and code == int(code)) for code in codes):
            raise _corrupt("a category has a code that no set can hold")


def _fits(forest: Forest, width: int, outputs: int) -> bool:
    """Whether the sizes of leaves, outputs and classes go together."""
    classes = len(forest.classes)
    if forest.shape in ("number", "exponential"):
        return (width, outputs, classes) == (1, 1, 0)
    if forest.shape in ("shares", "votes"):
        return width == outputs == classes and classes > (forest.shape == "votes")
    if forest.shape.startswith("softmax"):
        return width == 1 and outputs == classes and classes > 1
    return (width, outputs, classes) == (1, 1, 2)
