"""Which rows a large table holds already, told by two hashes of each row instead of by the rows themselves.

An entry is 16 bytes: a hash of the key and a hash of the other columns (without a key: two hashes of the whole row).
Entries lie in files on this machine (pairs of native uint64), each for a run of consecutive accepted files of one source,
and are a cache: what is missing is made again from the table, and a file whose name does not say exactly what is asked
is not opened.

Two rows are taken for the same only when both hashes agree, 128 bits: among 10^7 new and 10^9 stored rows that happens by
chance once in 10^22 times. The hashes are Polars'; its version is part of a file's name.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from interlock.records import FileResult, digest
from interlock.store.disk import make_folder, sync_folder, temporary_beside

if TYPE_CHECKING:
    import numpy as np

_NAME = re.compile(r"^(\d{12})-(\d{12})-([0-9a-f]{24})\.u64$")
_FORMAT = 1
_MERGE_FILES = 24
_BATCH_ROWS = 2**20
_BUILD_ROWS = 2**21
_SEED = 0x1E7
ENTRY = ("_key", "_rest")


class Found(NamedTuple):
    """For each row asked for: is its key there, and is the newest row of that key the same?"""

    there: "np.ndarray[Any, Any]"
    same: "np.ndarray[Any, Any]"


def entries(key: Sequence[str], values: Sequence[str]) -> list[pl.Expr]:
    """Expressions for the two hashes of a row of ``values``, of which ``key`` names it (none: all of them do)."""
    others = [name for name in values if name not in key] if key else list(values)
    return [_hash(list(key) or list(values), _SEED).alias(ENTRY[0]), _hash(others, _SEED << 16).alias(ENTRY[1])]


def _hash(names: Sequence[str], seed: int) -> pl.Expr:
    """The sum, modulo 2^64, of the hashes of the columns, each with a seed of its own."""
    if not names:
        return pl.repeat(0, pl.len(), dtype=pl.UInt64)
    return pl.sum_horizontal(pl.col(name).hash(seed + place) for place, name in enumerate(names))


@dataclass(frozen=True, kw_only=True)
class RowIndex:
    """The index of one source's table, for one key and one set of typed columns."""

    folder: Path
    key: tuple[str, ...]
    schema: Mapping[str, pl.DataType]
    files: tuple[FileResult, ...]

    def find(self, stored: pl.LazyFrame, wanted: "np.ndarray[Any, Any]") -> Found:
        """Look rows up by their ``wanted`` entries (rows x 2, uint64); what is not indexed yet is, from ``stored``.

        ``stored`` has the columns of ``schema`` and the lineage. Raises ValueError when it does not hold the rows that
        the ledger says were accepted.
        """
        import numpy as np

        order = np.argsort(wanted[:, 0])
        keys, rest = wanted[order, 0], wanted[order, 1]
        there, newest = np.zeros(len(keys), dtype=bool), np.zeros(len(keys), dtype=np.uint64)
        # a table of the leading bits leaves few of the stored entries to be searched for
        shift = np.uint64(64 - min(28, max(10, len(keys).bit_length() + 4)))
        maybe = np.zeros(2 ** (64 - int(shift)), dtype=bool)
        maybe[keys >> shift] = True
        for stored_keys, stored_rest in self._all(stored):
            likely = np.flatnonzero(maybe[stored_keys >> shift])
            candidates = stored_keys[likely]
            # equal keys among those wanted lie next to each other: a hit marks the first, and is spread below
            places = np.minimum(np.searchsorted(keys, candidates), len(keys) - 1)
            hit = keys[places] == candidates
            there[places[hit]] = True
            newest[places[hit]] = stored_rest[likely[hit]]  # in order: of several, the last one counts
        first = np.searchsorted(keys, keys)
        there, newest = there[first], newest[first]
        found = Found(np.empty_like(there), np.empty_like(there))
        found.there[order] = there
        found.same[order] = there & (newest == rest)
        return found

    def add(self, result: FileResult, rows: "np.ndarray[Any, Any]") -> None:
        """Keep the entries of rows that were just appended, in order; call it when the commit is known to be made."""
        _write(self.folder / self._name([result]), [rows.tobytes()])

    # ---- files of entries

    def _all(self, stored: pl.LazyFrame) -> Iterator[tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]]:
        import numpy as np

        for path, rows in self._complete(stored):
            if path.stat().st_size != 16 * rows:
                raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes for {rows:,} rows")
            with path.open("rb") as file:
                for _ in range(0, rows, _BATCH_ROWS):
                    part = np.fromfile(file, dtype=np.uint64, count=2 * _BATCH_ROWS).reshape(-1, 2)
                    yield part[:, 0], part[:, 1]

    def _complete(self, stored: pl.LazyFrame) -> list[tuple[Path, int]]:
        """Files that cover all accepted rows, in order, made where they are missing; and how many rows each has."""
        make_folder(self.folder)
        have = self._listed()
        covered: list[tuple[Path, int]] = []
        start = 0
        while start < len(self.files):
            end = have.get(start, 0)
            if not end:
                end = start + 1
                while end < len(self.files) and end not in have and self._rows(start, end + 1) <= _BUILD_ROWS:
                    end += 1
                self._build(stored, start, end)
            rows = self._rows(start, end)
            covered.append((self.folder / self._name(self.files[start:end]), rows))
            start = end
        if len(covered) > _MERGE_FILES:
            target = self.folder / self._name(self.files)
            _write(target, (span for path, _ in covered for span in _spans(path)))
            covered = [(target, sum(rows for _, rows in covered))]
        self._sweep({path.name for path, _ in covered})
        return covered

    def _rows(self, start: int, end: int) -> int:
        return sum(result.accepted for result in self.files[start:end])

    def _listed(self) -> dict[int, int]:
        """Runs of files that have been indexed: place of the first -> place after the last, the longest run of each."""
        places = {result.sequence: place for place, result in enumerate(self.files)}
        runs: dict[int, int] = {}
        for path in self.folder.iterdir():
            match = _NAME.match(path.name)
            first, last = (places.get(int(match[1])), places.get(int(match[2]))) if match else (None, None)
            if (
                first is not None
                and last is not None
                and self._name(self.files[first : last + 1]) == path.name
                and last + 1 > runs.get(first, 0)
            ):
                runs[first] = last + 1
        return runs

    def _build(self, stored: pl.LazyFrame, start: int, end: int) -> None:
        part = self.files[start:end]
        within = pl.col("_seq").is_between(part[0].sequence, part[-1].sequence)
        rows = stored.filter(within).select(*entries(self.key, list(self.schema)), "_seq", "_row")
        made = rows.collect(engine="streaming").sort("_seq", "_row").select(ENTRY)
        _write(self.folder / self._name(part), [as_array(made).tobytes()])

    def _name(self, files: Sequence[FileResult]) -> str:
        about = {
            "format": _FORMAT,
            "polars": pl.__version__,
            "key": list(self.key),
            "columns": [[name, str(dtype)] for name, dtype in self.schema.items()],
            "files": [[each.digest, each.sequence, each.accepted] for each in files],
        }
        return f"{files[0].sequence:012d}-{files[-1].sequence:012d}-{digest(about)[:24]}.u64"

    def _sweep(self, kept: set[str]) -> None:
        for path in self.folder.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)


def as_array(entries_: pl.DataFrame) -> "np.ndarray[Any, Any]":
    """Entries as an array (rows x 2, uint64)."""
    return entries_.to_numpy(order="c")


def _spans(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while span := file.read(2**24):
            yield span


def _write(path: Path, spans: Iterable[bytes]) -> None:
    make_folder(path.parent)
    temporary = temporary_beside(path)
    with temporary.open("wb") as file:
        file.writelines(spans)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
