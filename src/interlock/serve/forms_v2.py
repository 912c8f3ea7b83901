"""The Open Inference Protocol, version 2: tensors become rows, answers become tensors. No HTTP here.

A request has one tensor for each column, of shape (n,) or (n, 1); or, where every column is a number, one tensor of
shape (n, columns) in the order of the signature. Tensors are JSON, or bytes behind the JSON (the extension for binary
tensors: little endian, texts with their length in four bytes in front). Types are read as those of files are.
"""

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import msgspec
import numpy as np
import polars as pl

from interlock import __version__
from interlock.answer.predict import Answered, Live
from interlock.answer.reading import bad_field, malformed
from interlock.answer.tabular import rows_of_frame
from interlock.model.rows import Framed
from interlock.records import Column, Signature
from interlock.serve.forms import (
    JSON,
    Asked,
    Form,
    How,
    Pen,
    Records,
    Written,
    class_names,
    encode,
    share_columns,
    shares_of,
    values_of,
)

BINARY: Final = b"application/octet-stream"
_HEADER: Final = b"inference-header-content-length"
_NUMPY: Final[Mapping[str, str]] = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_DATATYPES: Final[Mapping[str, str]] = {"bool": "BOOL", "int": "INT64", "float": "FP64"}
"""Of columns and answers; all others are BYTES."""
_NUMERIC: Final = frozenset(_DATATYPES)
_MOST_DIMENSIONS: Final = 8
_PROTOCOL: Final = "Send what the Open Inference Protocol describes, one tensor for each column: GET /openapi.json."


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Inference(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[_Output] | None = None


# ---- what the server and the model are ---------------------------------------------------------------------------


def server_metadata() -> dict[str, Any]:
    """What ``GET /v2`` says."""
    return {"name": "interlock", "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(name: str, live: Live) -> dict[str, Any]:
    """What ``GET /v2/models/{name}`` says."""
    signature = live.seats[0].signature
    outputs = [_described("prediction", _answer_type(signature), [-1])]
    names = class_names(live, live.seats[0].tier)
    if names is not None:
        outputs.append(_described("probabilities", "FP64", [-1, len(names)]))
    return {
        "name": name,
        "versions": [str(live.generation)],
        "platform": "interlock",
        "inputs": [_described(column.name, datatype_of(column), [-1]) for column in live.columns],
        "outputs": outputs,
    }


def datatype_of(column: Column) -> str:
    """The protocol's type of a column's tensor."""
    return _DATATYPES.get(column.type, "BYTES")


def _described(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _answer_type(signature: Signature) -> str:
    output = signature.output
    if output is None or output.kind not in ("label", "number"):
        return "BYTES"
    return "FP64" if output.kind == "number" else _DATATYPES.get(output.type, "BYTES")


# ---- inference ---------------------------------------------------------------------------------------------------


def v2_form(records: Records, pen: Pen, name: str) -> Form:
    """The form of ``…/infer`` of the model ``name``; raises :class:`DataRefused`."""
    reader = records.reader
    decoder = msgspec.json.Decoder(_Inference)

    def infer(body: bytes, how: How) -> Asked:
        told, binary = body, memoryview(b"")
        if how.json_bytes is not None:
            if how.json_bytes > len(body):
                raise malformed("Inference-Header-Content-Length is larger than the body.", _PROTOCOL)
            told, binary = body[: how.json_bytes], memoryview(body)[how.json_bytes :]
        asked: _Inference = reader.decode(decoder, told)
        reader.once(told, -1)  # names may stand at any depth: look at each
        outputs = _outputs(asked, pen)
        return Asked(
            _rows(asked, binary, records), _Writer(name, asked, outputs, how.probabilities is not False).written
        )

    return infer


def _outputs(asked: _Inference, pen: Pen) -> list[_Output] | None:
    """The outputs that were asked for; None for all."""
    for output in asked.outputs or ():
        if output.name not in ("prediction", *(("probabilities",) if pen.labels else ())):
            raise malformed(f"There is no output '{output.name[:60]}'.", "GET /v2/models/{name} lists them.")
    return asked.outputs or None


def _rows(asked: _Inference, binary: memoryview, records: Records) -> Framed:
    """The rows of all tensors; raises :class:`DataRefused`."""
    columns = records.reader.columns
    tensors: dict[str, tuple[_Input, Any]] = {}
    for given in asked.inputs:
        if given.name in tensors:
            raise malformed(f"The input '{given.name[:60]}' is there twice.", _PROTOCOL)
        if not 0 < len(given.shape) <= _MOST_DIMENSIONS or min(given.shape) < 0:
            _refuse(given, "has a shape that no such tensor has")
        records.bound(given.shape[0])
        count = math.prod(given.shape)
        if count > records.most_rows * max(len(columns), 1):
            _refuse(given, "has a shape that no such tensor has")
        values, binary = _values(given, count, binary)
        tensors[given.name] = given, values
    if len(binary):
        raise malformed(f"{len(binary)} bytes are left after the last tensor.", _PROTOCOL)
    whole = _matrix(tensors, columns)
    if whole is not None:
        records.bound(whole.height)
        return rows_of_frame(whole, columns)
    series = [_series(*tensors[column.name], column) for column in columns if column.name in tensors]
    heights = {len(each) for each in series}
    if len(heights) > 1:
        raise malformed("The tensors are not of one length.", _PROTOCOL)
    records.bound(max(heights, default=0))
    return rows_of_frame(pl.DataFrame(series), columns)


def _refuse(given: _Input, why: str) -> NoReturn:
    raise malformed(f"The input '{given.name[:60]}' {why}.", _PROTOCOL)


def _values(given: _Input, count: int, binary: memoryview) -> tuple[Any, memoryview]:
    """The values of a tensor, flat (an array, or a list of what JSON or BYTES held), and the bytes that are left."""
    if given.datatype not in _NUMPY and given.datatype != "BYTES":
        _refuse(given, "is of a type that is not taken here")
    size = given.parameters.get("binary_data_size")
    if size is None:
        if given.data is msgspec.UNSET:
            _refuse(given, "has no data")
        flat = _flat(given, count)
        return flat, binary
    if given.data is not msgspec.UNSET or not isinstance(size, int) or isinstance(size, bool):
        _refuse(given, "has data twice, or a size that is no whole number")
    if not 0 <= size <= len(binary):
        _refuse(given, "has more bytes than there are")
    taken, left = binary[:size], binary[size:]
    if given.datatype == "BYTES":
        return _texts(given, taken, count), left
    kind = np.dtype(_NUMPY[given.datatype])
    if size != count * kind.itemsize:
        _refuse(given, "has another number of bytes than its shape and type say")
    if given.datatype == "BOOL":
        return np.frombuffer(taken, dtype="u1") != 0, left
    return np.frombuffer(taken, dtype=kind), left


def _flat(given: _Input, count: int) -> list[Any]:
    """Data that may be nested as the shape says, or flat."""
    values: list[Any] = given.data  # type: ignore[assignment]
    for _ in given.shape[1:]:
        if values and all(isinstance(value, list) for value in values):
            values = [each for value in values for each in value]
    if len(values) != count:
        _refuse(given, "has another number of values than its shape says")
    return values


def _texts(given: _Input, taken: memoryview, count: int) -> list[bytes]:
    found: list[bytes] = []
    place = 0
    while place < len(taken):
        if place + 4 > len(taken):
            _refuse(given, "is cut short")
        length = struct.unpack_from("<I", taken, place)[0]
        place += 4 + length
        if place > len(taken):
            _refuse(given, "is cut short")
        found.append(bytes(taken[place - length : place]))
    if len(found) != count:
        _refuse(given, "has another number of values than its shape says")
    return found


def _matrix(tensors: Mapping[str, tuple[_Input, Any]], columns: Sequence[Column]) -> pl.DataFrame | None:
    """The one tensor of all columns as a frame; None when there is a tensor for each column."""
    if len(tensors) != 1 or not columns:
        return None
    ((given, values),) = tensors.values()
    if len(given.shape) != 2 or given.shape[1] != len(columns) or (given.name == columns[0].name and len(columns) == 1):
        return None
    if given.datatype == "BYTES" or any(column.type not in _NUMERIC for column in columns):
        _refuse(given, "holds all columns, which is for models that take numbers only")
    width = len(columns)
    return pl.DataFrame(
        [
            _series(msgspec.structs.replace(given, shape=[given.shape[0]]), values[place::width], column)
            for place, column in enumerate(columns)
        ]
    )


def _series(given: _Input, values: Any, column: Column) -> pl.Series:
    """One column's values; raises :class:`DataRefused`."""
    if len(given.shape) > 1 and math.prod(given.shape[1:]) != 1:
        _refuse(given, "is to have the shape (n) or (n, 1)")
    if isinstance(values, np.ndarray):
        return pl.Series(column.name, values.astype(np.float32) if values.dtype == np.float16 else values)
    if given.datatype == "BYTES":
        return _bytes_series(values, column)
    kind: type | tuple[type, ...] = bool if given.datatype == "BOOL" else (int, float)
    number = given.datatype != "BOOL"
    kinds = {*map(type, values)}
    if not kinds <= ({int, float} if number else {bool}):
        for row, value in enumerate(values):
            if value is not None and (not isinstance(value, kind) or (number and isinstance(value, bool))):
                raise bad_field(column.name, f"is not of the type {given.datatype}", row)
    if given.datatype.startswith("FP"):
        if kinds == {float}:
            return pl.Series(column.name, values, dtype=pl.Float64)
        return pl.Series(column.name, [None if value is None else float(value) for value in values], dtype=pl.Float64)
    if any(isinstance(value, float) and value != value // 1 for value in values):
        row = next(row for row, value in enumerate(values) if isinstance(value, float) and value != value // 1)
        raise bad_field(column.name, f"is not of the type {given.datatype}", row)
    try:
        dtype = pl.Boolean if not number else pl.Int64
        return pl.Series(column.name, [None if value is None else int(value) for value in values]).cast(dtype)
    except (pl.exceptions.PolarsError, OverflowError, TypeError):
        raise bad_field(column.name, "holds a number of more than 64 bits") from None


def _bytes_series(values: Sequence[Any], column: Column) -> pl.Series:
    """Texts, or the bytes of a column of bytes (in JSON as base64)."""
    if column.type != "bytes" and {*map(type, values)} == {str}:
        return pl.Series(column.name, values, dtype=pl.String)
    found: list[Any] = []
    for row, value in enumerate(values):
        try:
            if column.type == "bytes":
                found.append(base64.b64decode(value, validate=True) if isinstance(value, str) else value)
            else:
                found.append(value.decode() if isinstance(value, bytes) else value)
        except (UnicodeDecodeError, binascii.Error, ValueError):
            raise bad_field(column.name, "is not UTF-8, or not base64", row) from None
        if found[-1] is not None and not isinstance(found[-1], str | bytes):
            raise bad_field(column.name, "is not text", row)
    return pl.Series(column.name, found, dtype=pl.Binary if column.type == "bytes" else pl.String)


# ---- the reply ---------------------------------------------------------------------------------------------------


class _Writer:
    """Writes the answers of one request. ``shares``: probabilities are told where the request names no outputs."""

    def __init__(self, name: str, asked: _Inference, outputs: list[_Output] | None, shares: bool) -> None:
        self._name = name
        self._asked = asked
        self._outputs = outputs
        self._shares = shares

    def written(self, answered: Answered, live: Live) -> Written:
        """The reply; outputs that are asked for as binary stand behind the JSON."""
        tensors = self._tensors(answered, live)
        wanted = self._outputs if self._outputs is not None else [_Output(name) for name in tensors]
        everything = self._asked.parameters.get("binary_data_output") is True
        told, tail = [], []
        for output in wanted:
            if output.name not in tensors:
                continue
            tensor, values = tensors[output.name]
            if output.parameters.get("binary_data", everything) is True:
                raw = _packed(tensor["datatype"], values)
                told.append({**tensor, "parameters": {"binary_data_size": len(raw)}})
                tail.append(raw)
            else:
                told.append({**tensor, "data": values})
        reply = {"model_name": self._name, "model_version": str(live.generation), "outputs": told}
        if self._asked.id is not None:
            reply["id"] = self._asked.id
        head = encode(reply)
        if not tail:
            return Written(head, JSON.encode())
        return Written(b"".join((head, *tail)), BINARY, ((_HEADER, b"%d" % len(head)),))

    def _tensors(self, answered: Answered, live: Live) -> dict[str, tuple[dict[str, Any], list[Any]]]:
        """Outputs by name: what describes each, and its values, flat."""
        values = values_of(answered)
        datatype = _answer_type(live.seats[0].signature)
        if datatype == "BYTES":
            values = [value if isinstance(value, str) else encode(value).decode() for value in values]
        found = {"prediction": (_described("prediction", datatype, [len(values)]), values)}
        names = class_names(live, live.seats[0].tier)
        asked = any(output.name == "probabilities" for output in self._outputs or ())
        if names is not None and (asked or (self._shares and self._outputs is None)):
            columns = share_columns(answered, live)
            if columns is not None:
                flat = np.column_stack([column.to_numpy() for column in columns]).ravel().tolist()
                found["probabilities"] = _described("probabilities", "FP64", [len(values), len(names)]), flat
                return found
            told = shares_of(answered, live)
            flat = [0.0 if each is None else each.get(name, 0.0) for each in told for name in names]
            if all(each is not None for each in told):
                found["probabilities"] = _described("probabilities", "FP64", [len(told), len(names)]), flat
            elif asked:
                raise malformed("The model that answered gives no probabilities.", "Ask for 'prediction' only.")
        return found


def _packed(datatype: str, values: Sequence[Any]) -> bytes:
    if datatype == "BYTES":
        texts = [value.encode() for value in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.array(values, dtype=_NUMPY[datatype]).tobytes()
