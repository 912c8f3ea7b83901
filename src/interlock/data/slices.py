"""Read a large file in slices of whole records, each as :mod:`interlock.data.readers` reads a whole file.

Every decision that needs all rows (the type of a column seen for the first time, an int column that holds fractions) is
made before the first slice is handed out or by beginning again, so that slices give the same rows and
the same bad cells as one reading of the whole file. Reading holds a few slices at once. JSON lines are read whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from interlock.data.casting import infer_text, like_names
from interlock.data.delimited import Shape, csv_shape, malformed, read_csv, read_text
from interlock.data.jsonlines import read_json
from interlock.data.opening import inspect_text, plain
from interlock.data.raw import Expected, Raw
from interlock.data.readers import (
    ParquetRows,
    Reading,
    finish,
    format_of,
    numbered,
    open_parquet,
    parquet_faults,
    read_parquet,
)
from interlock.records import Column, ColumnType

SLICE_BYTES = 8 * 2**20
"""How much of a text file is parsed at once, and an eighth of the cells of a Parquet file."""
MAX_RECORD_BYTES = 64 * 2**20
"""A longer record is a quote without end; a file that is read whole knows no such limit."""


class Widened(Exception):
    """A slice holds fractions in columns that the slices before it were read as int: read the file from the start."""

    def __init__(self, columns: frozenset[str]) -> None:
        super().__init__(f"fractions in {len(columns)} columns")
        self.columns = columns


@dataclass(frozen=True, kw_only=True)
class Slices:
    """A file that was found fit to be parsed. ``whole``: it is small, and handed out as one reading."""

    path: Path
    name: str
    kind: str
    layout: Expected
    slice_bytes: int
    shape: Shape | None = None
    parquet: ParquetRows | None = None
    valued: frozenset[str] | None = None
    whole: bool

    def readings(self, widened: frozenset[str] = frozenset()) -> Iterator[Reading]:
        """One reading for each slice, in order; at least one, of no rows for a file without any.

        ``widened`` columns are read as float although they are known as int. Raises :class:`Unreadable`, and
        :class:`Widened` when there are more of those.
        """
        layout = self.layout._replace(widened=widened)
        if self.whole:
            yield finish(self._raw_whole(layout), layout)
            return
        for raw in self._raw(layout):
            reading = finish(raw, layout)
            if set(reading.widened) > widened:
                raise Widened(widened.union(reading.widened))
            yield replace(reading, valued=self.valued)

    def _raw_whole(self, layout: Expected) -> Raw:
        if self.kind == "json":
            return read_json(self.path, self.name)
        if self.shape is not None:
            return read_csv(self.path.read_bytes(), self.name, self.shape, layout)
        return read_parquet(self.path, self.name, layout)

    def _raw(self, layout: Expected) -> Iterator[Raw]:
        before = 0
        if self.shape is not None:
            for part in _csv_parts(self.path, self.name, self.slice_bytes):
                raw = read_csv(part, self.name, self.shape, layout, before=before)
                before += raw.rows + raw.empty
                yield raw
            return
        for frame in self._parquet_frames():
            assert self.parquet is not None
            yield numbered(self.parquet, frame, before)
            before += frame.height

    def text(self) -> Iterator[pl.DataFrame]:
        """The columns that are text in the file, slice by slice; what is malformed is left to :meth:`readings`."""
        if self.shape is None:
            for frame in self._parquet_frames():
                yield frame.select(pl.col(pl.String))
            return
        for part in _csv_parts(self.path, self.name, self.slice_bytes):
            found = read_text(part, self.shape)
            if found is not None:
                yield found

    def _parquet_frames(self) -> Iterator[pl.DataFrame]:
        assert self.parquet is not None
        rows = max(1, self.slice_bytes // (8 * max(len(self.parquet.names), 1)))
        with parquet_faults(self.path, self.name):
            yield from self.parquet.rows.collect_batches(chunk_size=rows, maintain_order=True)


@contextmanager
def open_slices(
    path: Path,
    *,
    name: str,
    delimiter: str | None = None,
    columns: Sequence[Column] | None = None,
    types: Mapping[str, ColumnType] | None = None,
    scratch: Path,
    slice_bytes: int | None = None,
) -> Iterator[Slices]:
    """Open ``path`` as :func:`~interlock.data.readers.read_file` does, to be read in slices while the block lasts.

    A text file goes through once to see that it is text with lines of a bearable length, and once more when columns
    are to be typed for the first time. Raises :class:`Unreadable`.
    """
    kind, gz = format_of(path, name)
    size = SLICE_BYTES if slice_bytes is None else slice_bytes
    layout = Expected({column.name: column.type for column in columns or ()}, types or {})
    with plain(path, name, gz=gz, scratch=scratch) as file:
        shape, parquet, whole = None, None, True
        if kind != "parquet":
            inspect_text(file, name)
        if kind == "csv":
            shape = csv_shape(file, name, delimiter, layout)
            whole = file.stat().st_size <= size
        elif kind == "parquet":
            parquet = open_parquet(file, name, layout)
            whole = parquet.height * len(parquet.names) * 8 <= size
        found = Slices(
            path=file,
            name=name,
            kind=kind,
            layout=layout,
            slice_bytes=size,
            shape=shape,
            parquet=parquet,
            whole=whole,
        )
        yield found if whole else _typed(found)


def _csv_parts(path: Path, name: str, size: int) -> Iterator[bytes]:
    """Slices of whole records, the header before each. Raises :class:`Unreadable` for a record without end."""
    header, wanted, first = b"", size, True
    end = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < end or first:
            start = file.tell()
            data = file.read(wanted)
            last = start + len(data) >= end
            cut = len(data) if last else _last_end(data) if header else _first_end(data)
            if not cut and not last:  # not one record ends in there
                if wanted > max(MAX_RECORD_BYTES, size):
                    raise malformed(name)
                wanted *= 2
                file.seek(start)
                continue
            wanted = size
            if not header:
                header = data[: _first_end(data) or cut]
                file.seek(start + len(header))
                continue
            file.seek(start + cut)
            first = False
            yield b"".join((header, memoryview(data)[:cut]))


def _first_end(data: bytes) -> int:
    """Length of the first record of ``data``, its line end included; 0 when it does not end in there."""
    start, quotes = 0, 0
    while (end := data.find(b"\n", start)) >= 0:
        quotes += data.count(b'"', start, end)
        start = end + 1
        if quotes % 2 == 0:
            return start
    return 0


def _last_end(data: bytes) -> int:
    """Length of the whole records of ``data``, which begins with one; 0 when there is none."""
    if data.find(b'"') < 0:
        return data.rfind(b"\n") + 1
    inside, end = data.count(b'"'), len(data)
    while (found := data.rfind(b"\n", 0, end)) >= 0:
        inside -= data.count(b'"', found + 1, end)
        if inside % 2 == 0:
            return found + 1
        end = found
    return 0


# ---- types that only the whole file can tell -------------------------------------------------------------------------


def _typed(found: Slices) -> Slices:
    """The same file, with a type for each column that has none yet, inferred over all of its rows."""
    names = found.shape.names if found.shape else found.parquet.names if found.parquet else ()
    new = [name for name in names if name not in found.layout.known]
    if not new:
        return replace(found, valued=frozenset())
    kinds: dict[str, set[str]] = {}
    valued: set[str] = set()
    for frame in found.text():
        for name in new:
            if name in frame.columns:
                values = frame[name].drop_nulls()
                valued.update([name] if (values != "").any() else [])
                if found.layout.type_of(name) is None:
                    kinds.setdefault(name, set()).add(_kind(values))
    if found.parquet is not None:
        taken = [name for name in found.parquet.rows.collect_schema().names() if name in new]
        typed = found.parquet.rows.select(pl.col(taken).exclude(pl.String))
        counts = typed.null_count().collect(engine="streaming")
        valued.update(name for name in counts.columns if counts[name].item() < found.parquet.height)
    inferred = {name: join_kinds(each) for name, each in kinds.items()}
    return replace(found, layout=found.layout._replace(inferred=inferred), valued=frozenset(valued))


def _kind(values: pl.Series) -> str:
    """What one slice says about a column: a logical type, or what becomes one by what the other slices say."""
    if values.is_empty():
        return "empty"
    kind = infer_text(values)
    if kind not in ("int", "str") or like_names(values):
        return "long" if kind == "int" else kind
    if kind == "str" and values.head(10).cast(pl.Float64, strict=False).null_count() == 0:
        numbers = values.cast(pl.Float64, strict=False)
        return "str" if numbers.null_count() or numbers.is_finite().any() else "not finite"
    return kind


def join_kinds(kinds: set[str]) -> ColumnType:
    """The type of a column whose slices are of these kinds: what ``infer_text`` says about all of it at once."""
    kinds = kinds - {"empty"}
    if len(kinds) == 1:
        (only,) = kinds
        if only in ("int", "float", "bool", "date", "datetime"):
            return only  # type: ignore[return-value]
    if kinds in ({"int", "long"}, {"long"}):
        return "int"
    # a whole number that is as long as a name makes the column one, as soon as it is not whole numbers throughout
    return "float" if kinds and kinds <= {"int", "float", "not finite"} and kinds != {"not finite"} else "str"
