"""The file of answers in the making: kept columns, answers and lineage, encoded in a thread of its own.

Numbers are written plain (a dictionary or compression costs more than the model), constants and labels as dictionaries.
What the file is about is sealed into its footer, so that a file can be recognised when the record of it was lost.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from interlock.answer.audit import PREDICTION, PROBABILITY, Staged, Tally
from interlock.answer.intake import CHUNK_ROWS, Chunk
from interlock.answer.overlap import Behind
from interlock.errors import StoreFault, UserCodeFailed
from interlock.records import Record, Tier, canonical, moment
from interlock.store.blobs import disk_faults
from interlock.store.disk import sync_file

SEAL = b"interlock"
"""Key of the footer's metadata that holds the :class:`Seal` as JSON."""
MODEL, RELEASE, TIER, FILE, ROW_NUMBER, SCORED_AT = (
    "interlock_model",
    "interlock_release",
    "interlock_tier",
    "interlock_file",
    "interlock_row",
    "interlock_scored_at",
)
LINEAGE = (MODEL, RELEASE, TIER, FILE, ROW_NUMBER, SCORED_AT)


class Seal(Record, frozen=True, kw_only=True):
    """What one file of answers is: which file was scored by which model of which release, and what was counted.

    ``tier``: as what that model answered. ``classes``: what ``probability_0``, ``probability_1`` … are for, in order.
    """

    name: str
    file: str
    model: str
    generation: int
    tier: Tier = "champion"
    form: str
    classes: tuple[str | int | bool, ...] = ()
    at: str
    tally: Tally | None = None


class Stage:
    """A Parquet file being written. ``add`` takes chunks in order; ``finish`` makes it complete and durable.

    Leaving the block without ``finish`` removes the file. A disk that fails is raised as :class:`StoreFault`, by the
    call that comes after it.
    """

    def __init__(self, path: Path, seal: Seal) -> None:
        self._path, self._seal = path, seal
        self._writer: Any = None
        self._schema: Any = None
        self._behind: Behind[Any] = Behind(self._write)
        self._finished = False

    def __enter__(self) -> Self:
        self._behind.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            self._behind.__exit__(kind or GeneratorExit, error, trace)
            if self._writer is not None:
                self._writer.close()
            self._path.unlink(missing_ok=True)

    def add(self, chunk: Chunk, answers: pl.DataFrame) -> None:
        """Hand over a chunk and its answers; waits while the writer is behind.

        Raises :class:`UserCodeFailed` when the answers are of another type than those of the chunk before.
        """
        import pyarrow as pa

        rows = len(chunk.rows)
        if not rows:
            return
        arrays = dict(chunk.kept)
        arrays.update((name, answers[name].to_arrow()) for name in answers.columns)
        arrays.update(_lineage(self._seal, chunk.rows))
        fields = [pa.field(name, array.type, nullable=name not in LINEAGE) for name, array in arrays.items()]
        batch = pa.RecordBatch.from_arrays(list(arrays.values()), schema=pa.schema(fields))
        self._schema = self._schema or batch.schema
        if batch.schema != self._schema:
            batch = _as(batch, self._schema)
        self._behind.put(batch)

    def finish(self, tally: Tally) -> Staged:
        """Seal the footer with what was counted, make the content durable, and read back what the file says."""
        self._behind.__exit__(None, None, None)
        if self._writer is None:
            self._finished = True
            return Staged(rows=0, columns=(), nulls={})
        probable = self._schema is not None and any(name.startswith(PROBABILITY) for name in self._schema.names)
        classes = self._seal.classes if probable else ()
        sealed = msgspec.structs.replace(self._seal, tally=tally, classes=classes)
        with disk_faults(self._path):
            self._writer.add_key_value_metadata({SEAL: canonical(sealed)})
            self._writer.close()
            sync_file(self._path)
        self._finished = True
        return read_staged(self._path)[0]

    def _write(self, batch: Any) -> None:
        with disk_faults(self._path):
            if self._writer is None:
                self._writer = _open_writer(self._path, batch.schema)
            self._writer.write_batch(batch)


def _as(batch: Any, schema: Any) -> Any:
    import pyarrow as pa

    try:
        return batch.cast(schema)
    except (pa.ArrowException, ValueError) as error:
        odd = [field.name for field in batch.schema if field not in schema]
        raise UserCodeFailed(
            f"The answers changed their type between two chunks of rows (column '{(odd or ['?'])[0]}').",
            next_step="Let the inference function return one type, whatever the rows.",
            cause="nonsense",
        ) from error


# ---- encoding ----------------------------------------------------------------------------------------------------


def _open_writer(path: Path, schema: Any) -> Any:
    """A Parquet writer that spends on each column what it is worth: see the benchmark in ``bench/batch.py``.

    The mantissas of answers do not compress, and constants need neither compression nor statistics.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    constant = [name for name in LINEAGE if name != ROW_NUMBER]
    encoding, compression = {}, {}
    for field in schema:
        plain = pa.types.is_floating(field.type) or field.name in (*LINEAGE, PREDICTION)
        compression[field.name] = "none" if plain else "zstd"
        if pa.types.is_integer(field.type) or pa.types.is_temporal(field.type):
            encoding[field.name] = "DELTA_BINARY_PACKED"
    return pq.ParquetWriter(
        path,
        schema,
        compression=compression,
        use_dictionary=[field.name for field in schema if pa.types.is_dictionary(field.type)],
        column_encoding=encoding,
        write_statistics=[field.name for field in schema if field.name not in constant],
        store_schema=False,
        write_batch_size=CHUNK_ROWS,
    )


def _lineage(seal: Seal, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Lineage columns: constants as dictionaries of one value, which take a few bytes a chunk."""
    import pyarrow as pa

    values = {
        MODEL: pl.Series([seal.model]),
        RELEASE: pl.Series([seal.generation]),
        TIER: pl.Series([seal.tier]),
        FILE: pl.Series([seal.file]),
        SCORED_AT: pl.Series([moment(seal.at)], dtype=pl.Datetime("us", "UTC")),
    }
    zeros = _array(pa.int8(), np.zeros(len(rows), dtype=np.int8))
    result = {name: pa.DictionaryArray.from_arrays(zeros, value.to_arrow()) for name, value in values.items()}
    result[ROW_NUMBER] = _array(pa.int64(), rows)
    return {name: result[name] for name in LINEAGE}


def _array(type_: Any, values: NDArray[Any]) -> Any:
    """An Arrow array on the memory of ``values`` (``pa.array`` would import pandas, which takes a second)."""
    import pyarrow as pa

    return pa.Array.from_buffers(type_, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


# ---- reading back ------------------------------------------------------------------------------------------------


def read_staged(path: Path) -> tuple[Staged, Seal | None]:
    """What the footer of a file says, and its seal when it is one of ours.

    Raises :class:`StoreFault` when the file is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise StoreFault(
            f"{path} is not a whole Parquet file ({type(error).__name__}).",
            next_step="Move it away and run again.",
            path=str(path),
        ) from error
    return _staged(metadata), _seal(metadata.metadata or {})


def _seal(footer: Mapping[bytes, bytes]) -> Seal | None:
    try:
        return msgspec.json.decode(footer[SEAL], type=Seal)
    except (KeyError, msgspec.DecodeError):
        return None


def _staged(metadata: Any) -> Staged:
    nulls: dict[str, int | None] = {}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    places = [metadata.schema.column(place).path for place in range(metadata.num_columns)]
    names = [path.partition(".list.")[0] for path in places]  # a column of lists is stored as its elements
    for place, name in enumerate(names):
        found = [metadata.row_group(group).column(place).statistics for group in range(metadata.num_row_groups)]
        known = [one for one in found if one is not None and one.has_null_count]
        nulls[name] = sum(one.null_count for one in known) if len(known) == len(found) else None
        ranges = [one for one in known if one.has_min_max]
        if name.startswith(PROBABILITY) and ranges:
            low[name] = min(one.min for one in ranges)
            high[name] = max(one.max for one in ranges)
    return Staged(rows=metadata.num_rows, columns=tuple(names), nulls=nulls, low=low, high=high)


# ---- bad rows ----------------------------------------------------------------------------------------------------


class Quarantine:
    """A Parquet file of cells that broke the signature (row, column, reason); it is made when the first one comes."""

    def __init__(self, path: Path, seal: Seal) -> None:
        self._path, self._seal = path, seal
        self._writer: Any = None

    @property
    def path(self) -> Path | None:
        """The file, or None when no cell was bad."""
        return self._path if self._writer is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None and self._writer.is_open:
            self._writer.close()
            self._path.unlink(missing_ok=True)

    def add(self, bad: pl.DataFrame) -> None:
        """Write the findings of one chunk."""
        import pyarrow.parquet as pq

        if not bad.height:
            return
        table = bad.to_arrow()
        with disk_faults(self._path):
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd", store_schema=False)
            self._writer.write_table(table)

    def finish(self) -> None:
        """Seal the footer and make the content durable."""
        if self._writer is not None:
            with disk_faults(self._path):
                self._writer.add_key_value_metadata({SEAL: canonical(self._seal)})
                self._writer.close()
                sync_file(self._path)
