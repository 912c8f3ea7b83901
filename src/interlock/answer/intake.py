"""A file to score, as chunks of rows in bounded memory: typed, checked against the signature, bad rows set apart.

Parquet is read a few pages at a time and only in the columns that are needed. A text column that is stored with a
dictionary stays encoded (as Enum), so that what is done with a text value is done once per distinct value and not once
a row. Large CSV and JSON lines are read piece by piece.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.answer.pieces import Piece, pieces
from interlock.data.casting import DTYPES, NOT_A, convert, logical
from interlock.data.opening import kind_of, refuse_nul, shown
from interlock.data.readers import BAD_SCHEMA, ROW, Unreadable, read_file
from interlock.data.signature import check, merge_bad, require, suspicious
from interlock.errors import DataRefused
from interlock.records import Column, ColumnType

CHUNK_ROWS = 131_072
"""Rows scored at a time: enough that the cost of a call vanishes, few enough that ten chunks in flight are small."""
_BUFFER_BYTES = 2**20
_DENSE_BYTES = 4.0
"""A text column that takes more bytes a row than this, uncompressed, was not stored as a dictionary of few values."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is read of a file: the ``inputs`` of the model, and of the columns present those that ``keep`` chooses.

    ``encoded``: text may stay dictionary-encoded. ``types``: known types of kept columns, for files of text.
    ``bad``: cells (row, column, reason) of a Parquet file that are known to be bad.
    """

    inputs: tuple[Column, ...]
    nullable: frozenset[str]
    keep: Callable[[Sequence[str]], tuple[str, ...]]
    encoded: bool
    types: Mapping[str, ColumnType]
    bad: pl.DataFrame | None = None

    def columns(self, present: Sequence[str], name: str) -> tuple[str, ...]:
        """Columns to copy; raises :class:`DataRefused` when an input is not among those ``present``."""
        require(present, self.inputs, shown(name))
        return self.keep(present)


class Chunk(NamedTuple):
    """Consecutive rows of a file: ``read`` of them, of which ``frame`` (the inputs) and ``kept`` hold the good ones.

    ``rows``: numbers of the good rows in the file, from 1, int64, shape (good,). ``kept``: Arrow arrays by column.
    ``bad``: the cells that broke the signature (row, column, reason).
    """

    read: int
    rows: NDArray[np.int64]
    frame: pl.DataFrame
    kept: dict[str, Any]
    bad: pl.DataFrame


class Intake(Protocol):
    """An open file. ``rows`` is their number when the file tells it, else None."""

    rows: int | None

    def chunks(self) -> Iterator[Chunk]:
        """All rows in order; raises :class:`Unreadable` where the file turns out to be broken."""
        ...


@contextmanager
def open_intake(path: Path, name: str, layout: Layout, scratch: Path) -> Iterator[Intake]:
    """Open a file by the suffix of ``name``; ``scratch`` is a folder for pieces of it.

    Raises :class:`Unreadable`, and :class:`DataRefused` when a column is missing.
    """
    found = kind_of(name)
    if found is not None and found[0] == "parquet":
        with _open_parquet(path, name, layout) as parquet:
            yield parquet
    else:
        with pieces(path, name, scratch) as parts:
            yield _TextIntake(parts, name, layout)


# ---- Parquet -----------------------------------------------------------------------------------------------------


@contextmanager
def _open_parquet(path: Path, name: str, layout: Layout) -> Iterator["_ParquetIntake"]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
        arrow = metadata.schema.to_arrow_schema()
        refuse_nul(arrow.names, name)
        schema = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([], arrow))).schema
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, name, error) from error
    kept = layout.columns(schema.names(), name)
    for column in layout.inputs:
        if logical(schema[column.name]) is None:
            raise DataRefused(
                f"Column '{shown(column.name)}' of {shown(name)} holds {schema[column.name]}, which is no plain value.",
                next_step=f"Write it as {column.type}.",
                file=name,
                column=column.name,
            )
    with pq.ParquetFile(
        path,
        metadata=metadata,
        read_dictionary=_stored_as_dictionary(metadata, layout),
        buffer_size=_BUFFER_BYTES,
        pre_buffer=False,
    ) as file:
        yield _ParquetIntake(file, path, name, layout, kept)


def _stored_as_dictionary(metadata: Any, layout: Layout) -> list[str]:
    """Text inputs whose column chunks are small enough to be dictionary pages of few values."""
    if not layout.encoded or not metadata.num_rows:
        return []
    text = {column.name for column in layout.inputs if column.type == "str"}
    sizes = dict.fromkeys(text, 0)
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for place in range(row_group.num_columns):
            chunk = row_group.column(place)
            if chunk.path_in_schema in text:
                sizes[chunk.path_in_schema] += chunk.total_uncompressed_size
    return sorted(name for name, size in sizes.items() if size <= _DENSE_BYTES * metadata.num_rows)


def _broken(path: Path, name: str, error: Exception) -> Unreadable:
    return Unreadable(
        f"{shown(name)} is not a whole Parquet file ({path.stat().st_size:,} bytes; {type(error).__name__}).",
        next_step="It was cut short or is damaged: send it again, whole, under a new name.",
        file=name,
    )


class _ParquetIntake:
    def __init__(self, file: Any, path: Path, name: str, layout: Layout, kept: tuple[str, ...]) -> None:
        self._file, self._path, self._name, self._layout, self._kept = file, path, name, layout, kept
        self.rows: int | None = file.metadata.num_rows

    def batches(self) -> Iterator[Any]:
        """Arrow record batches of the needed columns."""
        import pyarrow as pa

        needed = list(dict.fromkeys((*(column.name for column in self._layout.inputs), *self._kept)))
        try:
            yield from self._file.iter_batches(CHUNK_ROWS, columns=needed, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise _broken(self._path, self._name, error) from error

    def chunks(self) -> Iterator[Chunk]:
        """Type and check each batch."""
        before = 0
        bad = pl.DataFrame(schema=BAD_SCHEMA) if self._layout.bad is None else self._layout.bad
        decoders = {column.name: _Decoder() for column in self._layout.inputs}
        for batch in self.batches():
            series = _series(batch, decoders)
            kept = {name: batch.column(name) for name in self._kept}
            rows = np.arange(before + 1, before + batch.num_rows + 1)
            before += batch.num_rows
            known = bad.filter(pl.col("row").is_between(before - batch.num_rows + 1, before))
            yield _checked(series, kept, rows, self._layout, known)


def _series(batch: Any, decoders: Mapping[str, "_Decoder"]) -> list[pl.Series]:
    """The inputs of a batch as series, on the memory of Arrow where that is possible."""
    frame = as_frame({name: decoder.plain(batch.column(name)) for name, decoder in decoders.items()})
    return [decoder.text(frame[name]) for name, decoder in decoders.items()]


def as_frame(columns: Mapping[str, Any]) -> pl.DataFrame:
    """Arrow arrays as a frame. ``pl.Series(array)`` would import ``pyarrow.compute``, which takes 50 ms."""
    import pyarrow as pa

    return pl.DataFrame(pa.table(dict(columns)))


class _Decoder:
    """One column of consecutive batches: dictionary-encoded text as Enum where its dictionary allows.

    Batches mostly share their dictionary, so what was found out about it is kept.
    """

    def __init__(self) -> None:
        self._values: Any = None
        self._enum: pl.Enum | None = None
        self._narrow: pl.DataType = pl.UInt32()
        self._encoded = False

    def plain(self, array: Any) -> Any:
        """The array itself, or the codes of an encoded one, or its values where they cannot be an Enum."""
        import pyarrow as pa

        self._encoded = pa.types.is_dictionary(array.type)
        if not self._encoded:
            return array
        if self._values is None or not self._values.equals(array.dictionary):
            self._values, self._enum = array.dictionary, _enum(array.dictionary)
            self._narrow = pl.Series([], dtype=self._enum).to_physical().dtype if self._enum else pl.UInt32()
        self._encoded = self._enum is not None and len(self._values) <= len(array)
        return array.indices if self._encoded else array.cast(pa.large_string())

    def text(self, values: pl.Series) -> pl.Series:
        """What ``plain`` gave, as values."""
        if not self._encoded or self._enum is None:
            return values
        # A cast that looks for overflow costs as much as a prediction; codes are smaller than the dictionary.
        return values.cast(self._narrow, wrap_numerical=True).cat.to(self._enum)


def _enum(dictionary: Any) -> pl.Enum | None:
    """The values as an Enum, or None when they are no set of texts: empty text is missing, and none may come twice."""
    values = as_frame({"values": dictionary})["values"]
    strange = values.null_count() or (values == "").any() or not values.is_unique().all()
    return None if strange else pl.Enum(values)


# ---- text --------------------------------------------------------------------------------------------------------


class _TextIntake:
    def __init__(self, parts: Iterator[Piece], name: str, layout: Layout) -> None:
        self._parts, self._name, self._layout = parts, name.removesuffix(".gz"), layout
        self.rows: int | None = None

    def chunks(self) -> Iterator[Chunk]:
        """Read each piece whole, then hand it on in chunks."""
        inputs = self._layout.inputs
        types = {**self._layout.types, **{column.name: column.type for column in inputs}}
        for part in self._parts:
            reading = read_file(part.path, name=self._name, columns=inputs, types=types)
            kept = self._layout.columns(reading.columns, self._name)
            frame = reading.frame.with_columns(pl.col(ROW) + part.before)
            bad = reading.bad.with_columns(pl.col("row") + part.before)
            of_frame = pl.col("row").is_in(frame[ROW].implode())
            cells, lines = bad.filter(of_frame), bad.filter(~of_frame)
            if lines.height:
                yield _nothing_but(lines, reading.rows - frame.height, frame, kept, self._layout)
            for rows in frame.iter_slices(CHUNK_ROWS):
                yield _checked(
                    [rows[column.name] for column in inputs],
                    {name: rows[name].to_arrow() for name in kept},
                    rows[ROW].to_numpy(),
                    self._layout,
                    cells.filter(pl.col("row").is_between(rows[ROW][0], rows[ROW][-1])),
                )


def _nothing_but(lines: pl.DataFrame, read: int, frame: pl.DataFrame, kept: Sequence[str], layout: Layout) -> Chunk:
    """A chunk without a good row: lines of the file that are no record at all."""
    none = frame.clear()
    empty = _checked(
        [none[column.name] for column in layout.inputs],
        {name: none[name].to_arrow() for name in kept},
        none[ROW].to_numpy(),
        layout,
        lines.clear(),
    )
    return empty._replace(read=read, bad=lines)


# ---- both --------------------------------------------------------------------------------------------------------


def _checked(
    series: Sequence[pl.Series], kept: dict[str, Any], rows: NDArray[np.int64], layout: Layout, known: pl.DataFrame
) -> Chunk:
    """Give every input its type, find the cells that break the signature, and set their rows apart."""
    found = [known]
    typed = []
    for column, values in zip(layout.inputs, series, strict=True):
        if (values.dtype != DTYPES[column.type] and not isinstance(values.dtype, pl.Enum)) or values.dtype == pl.String:
            values, failed = convert(values, column.type)  # noqa: PLW2901
            if failed is not None:
                found.append(_cells(rows, failed, column))
        typed.append(values)
    frame = pl.DataFrame(typed)
    if known.height or len(found) > 1 or suspicious(layout.inputs, typed, nullable=layout.nullable):
        numbers = pl.Series(ROW, rows)
        bad = merge_bad(pl.concat(found), check(frame, layout.inputs, nullable=layout.nullable), numbers)
        good = ~numbers.is_in(bad["row"].implode())
        frame, mask = frame.filter(good), good.to_arrow()
        kept = {name: array.filter(mask) for name, array in kept.items()}
        return Chunk(len(rows), rows[good.to_numpy()], frame, kept, bad)
    return Chunk(len(rows), rows, frame, kept, known)


def _cells(rows: NDArray[np.int64], failed: pl.Series, column: Column) -> pl.DataFrame:
    places = rows[failed.fill_null(value=False).to_numpy()]
    return pl.DataFrame(
        {"row": places, "column": [column.name] * len(places), "reason": [NOT_A[column.type]] * len(places)},
        schema=BAD_SCHEMA,
    )
