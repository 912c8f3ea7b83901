"""The records of one request as columns, for the prediction log: packed where answers are given, made text elsewhere.

A table that came as columns is logged as columns: rows of it would be made only to be taken apart again. It is packed
as a stream of Arrow IPC, whose text is written out anew (and not as views into what came), so that no text of a request
is kept but that of the columns and cells that are given here.
"""

import io
from typing import Final

import msgspec
import numpy as np
import polars as pl

_encode = msgspec.json.Encoder().encode
_PLAIN: Final = (pl.Boolean, pl.Int64, pl.Float64, pl.String)
_SMALL: Final = 1e-3
_LARGE: Final = 1e15
_PROBABILITY: Final = "probability_"
_ESCAPED: Final = r'["\\\x00-\x1f]'
"""What JSON cannot hold as it is; all else is written as it is."""


def packed(frame: pl.DataFrame) -> memoryview:
    """The columns of a frame, packed; by pyarrow and column by column, which no other thread has to wake up for."""
    import pyarrow as pa

    arrays = [column.to_arrow(compat_level=pl.CompatLevel.oldest()) for column in frame.get_columns()]
    batch = pa.RecordBatch.from_arrays(arrays, names=frame.columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return memoryview(sink.getvalue())


def unpacked(content: bytes) -> pl.DataFrame:
    """What :func:`packed` was given."""
    return pl.read_ipc_stream(io.BytesIO(content))


def is_plain(answers: pl.DataFrame) -> bool:
    """Whether :func:`answer_columns` knows such answers: plain values, with probabilities or nothing beside them."""
    names = [f"{_PROBABILITY}{place}" for place in range(answers.width - 1)]
    return answers.columns == ["prediction", *names] and all(
        dtype in _PLAIN if place == 0 else dtype == pl.Float64 for place, dtype in enumerate(answers.dtypes)
    )


def answer_columns(answers: pl.DataFrame) -> dict[str, pl.Series]:
    """Answers as the columns of the log: ``prediction`` as text, ``value``, ``probabilities``."""
    told = answers["prediction"]
    number = told.dtype != pl.String
    nothing = pl.Series([None], dtype=pl.List(pl.Float64)).new_from_index(0, answers.height)
    beside = answers.columns[1:]
    return {
        "prediction": _json(told) if number else told,
        "value": told.cast(pl.Float64)
        if number
        else pl.Series([None], dtype=pl.Float64).new_from_index(0, answers.height),
        "probabilities": answers.select(pl.concat_list(beside)).to_series() if beside else nothing,
    }


def json_rows(frame: pl.DataFrame) -> pl.Series:
    """Each row as the text of a JSON object, to the letter as msgspec writes the dictionary of the row."""
    heads = [f"{',' if place else '{'}{_encode(name).decode()}:" for place, name in enumerate(frame.columns)]
    parts: list[pl.Expr] = []
    for place, head in enumerate(heads):
        parts += [pl.lit(head), pl.col(str(place))]
    texts = pl.DataFrame([_json(column).alias(str(place)) for place, column in enumerate(frame.get_columns())])
    return texts.select(pl.concat_str([*parts, pl.lit("}")])).to_series()


def _json(values: pl.Series) -> pl.Series:
    """Each value as JSON writes it; ``null`` where it is missing."""
    if values.dtype in (pl.Int64, pl.Boolean) or (values.dtype == pl.Float64 and _is_ordinary(values)):
        return values.cast(pl.String).fill_null("null")
    if values.dtype != pl.String:  # no text of these has a comma
        texts = pl.Series([_encode(values.to_list())[1:-1].decode()]).str.split(",").explode()
        return texts[: len(values)]  # of no values the text is empty, and one
    if values.str.contains(_ESCAPED).any():
        return pl.Series([_encode(value).decode() for value in values.to_list()], dtype=pl.String)
    return pl.select(pl.format('"{}"', values).fill_null("null")).to_series()


def _is_ordinary(numbers: pl.Series) -> bool:
    """Whether no number is so large or small that Polars and JSON write its exponent in different ways."""
    sizes = np.abs(numbers.drop_nulls().to_numpy())
    return bool((((sizes >= _SMALL) & (sizes < _LARGE)) | (sizes == 0.0)).all())
