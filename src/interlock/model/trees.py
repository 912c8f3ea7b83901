"""LightGBM's own text model, called through LightGBM's C interface: no pickle, and no import of the package.

``import lightgbm`` imports pandas and scikit-learn (two seconds); the shared library alone loads in milliseconds.
Source: LightGBM's ``include/LightGBM/c_api.h``.
"""

import ctypes
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from interlock.errors import BundleCorrupt, StoreFault
from interlock.model.columns import FORM_FILE, Coder, Floats, Key, Value, chunks, label_frame, numbers
from interlock.records import Record, canonical

BOOSTER_FILE = "booster.txt"
_BY_ONE_THREAD = 1_024


class Plain(Record, frozen=True, tag="plain", tag_field="kind", forbid_unknown_fields=True):
    """A matrix column ``(x - shift) / divisor * scale + offset``; missing is NaN, or ``fill`` before the arithmetic.

    Both a divisor and a scale, because scalers divide or multiply and a tree's threshold sees the last bit of either.
    """

    column: str
    shift: float = 0.0
    scale: float = 1.0
    offset: float = 0.0
    fill: float | None = None
    divisor: float = 1.0

    @property
    def untouched(self) -> bool:
        """Whether the numbers are those of the column itself."""
        return (self.shift, self.scale, self.offset, self.divisor) == (0.0, 1.0, 0.0, 1.0)


class Mapped(Record, frozen=True, tag="mapped", tag_field="kind", forbid_unknown_fields=True):
    """A matrix column with one number a category. ``unknown`` and ``missing`` are None for NaN."""

    column: str
    keys: tuple[Key, ...]
    values: tuple[float, ...]
    unknown: float | None
    missing: float | None


def _plain(feature: Plain, values: Floats) -> Floats:
    if feature.fill is not None:
        values = np.where(np.isnan(values), feature.fill, values)
    if feature.untouched:
        return values
    return (values - feature.shift) / feature.divisor * feature.scale + feature.offset


def matrix_of(features: Sequence[Plain | Mapped], frame: pl.DataFrame) -> Floats:
    """Shape (features, rows), float64."""
    result: Floats = np.empty((len(features), frame.height))
    for row, feature in zip(result, features, strict=True):
        if isinstance(feature, Plain):
            row[:] = _plain(feature, numbers(frame[feature.column]))
        else:
            others = [math.nan if value is None else value for value in (feature.unknown, feature.missing)]
            codes, positions = Coder(feature.keys).codes(frame[feature.column])
            row[:] = np.array([*feature.values, *others])[positions][codes]
    return result


class Trees(Record, frozen=True, tag="lightgbm", tag_field="form", forbid_unknown_fields=True):
    """LightGBM's own text model over a matrix made from the columns. ``classes`` is empty for numbers."""

    name: ClassVar[str] = "lightgbm"
    features: tuple[Plain | Mapped, ...]
    outputs: int
    classes: tuple[Value, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the matrix is made of, each once."""
        return tuple(dict.fromkeys(feature.column for feature in self.features))

    def matrix(self, frame: pl.DataFrame) -> Floats:
        """Shape (features, rows), float64: column-major rows for the booster."""
        return matrix_of(self.features, frame)


class LightGbm:
    """The ``lightgbm`` form: :class:`Trees` with the booster that reads them.

    Raises :class:`StoreFault` when LightGBM is missing or refuses the text, and :class:`BundleCorrupt` when the text
    takes another number of columns than the matrix has.
    """

    name: ClassVar[str] = "lightgbm"

    def __init__(self, trees: Trees, text: bytes) -> None:
        self.trees = trees
        self._text = text
        self._library = _lightgbm_library()
        self._handle = ctypes.c_void_p()
        self._single: ctypes.c_void_p | None = None
        rounds = ctypes.c_int()
        self._check(
            self._library.LGBM_BoosterLoadModelFromString(text, ctypes.byref(rounds), ctypes.byref(self._handle)),
        )
        width = ctypes.c_int()
        self._check(self._library.LGBM_BoosterGetNumFeature(self._handle, ctypes.byref(width)))
        if width.value != len(trees.features):
            raise BundleCorrupt(f"{BOOSTER_FILE} takes {width.value} columns, {FORM_FILE} makes {len(trees.features)}.")

    def __del__(self) -> None:
        if getattr(self, "_single", None):
            self._library.LGBM_FastConfigFree(self._single)
        if getattr(self, "_handle", None):
            self._library.LGBM_BoosterFree(self._handle)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the matrix is made of."""
        return self.trees.columns

    @property
    def features(self) -> tuple[Plain | Mapped, ...]:
        """How the columns of the matrix are made."""
        return self.trees.features

    def thresholds(self) -> dict[int, list[float]]:
        """The numbers at which the trees split, by column of the matrix."""
        found: dict[int, set[float]] = {}
        split: list[int] = []
        for line in self._text.decode().splitlines():
            name, _, value = line.partition("=")
            if name == "split_feature":
                split = [int(item) for item in value.split()]
            elif name == "threshold":
                for feature, item in zip(split, value.split(), strict=True):
                    found.setdefault(feature, set()).add(float(item))
        return {feature: sorted(values) for feature, values in found.items()}

    def files(self) -> dict[str, bytes]:
        """``form.json`` and ``booster.txt``."""
        return {FORM_FILE: canonical(self.trees), BOOSTER_FILE: self._text}

    def answer(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Predict in chunks; labels are the class of the largest probability, the first of equals."""
        raw: Floats = np.empty((self.trees.outputs, frame.height))
        for part in chunks(frame.height):
            raw[:, part] = self._ask(self.trees.matrix(frame[part]), by_row=False).T
        classes = self.trees.classes
        if not classes:
            return pl.DataFrame({"prediction": raw[0]})
        if self.trees.outputs == 1:
            raw = np.stack([1.0 - raw[0], raw[0]])
        return label_frame(classes, raw.argmax(axis=0), raw)

    def predict_rows(self, matrix: "np.ndarray[Any, Any]") -> Floats:
        """Ask for a matrix of shape (rows, features): shape (rows, outputs), the same numbers as by frames."""
        return self._ask(matrix, by_row=True)

    def _ask(self, matrix: "np.ndarray[Any, Any]", *, by_row: bool) -> Floats:
        """Ask the booster for a matrix of shape (rows, features), or the other way round; shape (rows, outputs).

        A single row, which is the same bytes either way, goes the booster's own short way; a few wake no threads.
        """
        matrix = np.ascontiguousarray(matrix, dtype=np.float64)  # its bytes are read as such, whatever they were
        rows, width = matrix.shape if by_row else matrix.shape[::-1]
        result: Floats = np.empty((rows, self.trees.outputs))
        length = ctypes.c_int64()
        given, wanted = ctypes.c_void_p(matrix.ctypes.data), ctypes.c_void_p(result.ctypes.data)
        if rows == 1:
            code = self._library.LGBM_BoosterPredictForMatSingleRowFast(
                self._fast(), given, ctypes.byref(length), wanted
            )
        else:
            double, transformed = 1, 0
            code = self._library.LGBM_BoosterPredictForMat(
                self._handle,
                given,
                double,
                ctypes.c_int32(rows),
                ctypes.c_int32(width),
                int(by_row),
                transformed,
                0,
                -1,
                b"num_threads=1" if rows <= _BY_ONE_THREAD else b"",
                ctypes.byref(length),
                wanted,
            )
        self._check(code)
        if length.value != result.size:
            raise StoreFault(f"LightGBM gave {length.value} numbers where {result.size} were expected.")
        return result

    def _fast(self) -> ctypes.c_void_p:
        """What LightGBM prepares once for single rows."""
        if self._single is None:
            config = ctypes.c_void_p()
            double, transformed = 1, 0
            self._check(
                self._library.LGBM_BoosterPredictForMatSingleRowFastInit(
                    self._handle,
                    transformed,
                    0,
                    -1,
                    double,
                    ctypes.c_int32(len(self.trees.features)),
                    b"",
                    ctypes.byref(config),
                )
            )
            self._single = config
        return self._single

    def _check(self, code: int) -> None:
        if code != 0:
            raise StoreFault(f"LightGBM: {self._library.LGBM_GetLastError().decode(errors='replace')}")


def _drop(_: bytes) -> None:
    """Keep LightGBM's own lines out of our output; what matters is an error code."""


_drop_log = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_drop)


def _lightgbm_library() -> ctypes.CDLL:
    """Load the shared library of the installed ``lightgbm`` package without importing the package."""
    found = importlib.util.find_spec("lightgbm")
    places = list(found.submodule_search_locations or []) if found else []
    for place in places:
        for path in sorted(Path(place).glob("**/lib_lightgbm.*")):
            library = ctypes.CDLL(str(path))
            library.LGBM_GetLastError.restype = ctypes.c_char_p
            library.LGBM_RegisterLogCallback(_drop_log)
            return library
    raise StoreFault("The package 'lightgbm' is not installed.", next_step="Install it: pip install lightgbm")
