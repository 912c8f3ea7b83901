"""Which rows a large table holds already, told by two hashes of each row instead of by the rows themselves.

An entry is 16 bytes: a hash of the key and a hash of the other columns (without a key: two hashes of the whole row).
Entries lie in files on this machine (native uint64), each for a run of consecutive accepted files of one source, and
are a cache: what is missing or damaged is made again from the table, and a file whose name does not say exactly what
is asked for is not opened.

Two rows are taken for the same only when both hashes agree, 128 bits: among 10^7 new and 10^9 stored rows that
happens by chance once in 10^22 times. The hashes are Polars'; its version is part of a file's name.
"""

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
from blake3 import blake3

from interlock.records import FileResult, digest
from interlock.store.disk import make_folder, sync_folder, temporary_beside

if TYPE_CHECKING:
    import numpy as np

_NAME = re.compile(r"^(\d{12})-(\d{12})-([0-9a-f]{24})\.u64$")
_FORMAT = 1
_MERGE_FILES = 24
_BLOCK_ROWS = 2**20
_BUILD_ROWS = 2**20
_CACHED_ROWS = 2**16
"""So many hashes, and what is made of them on the way, stay in the cache of the processor."""
_SEED = 0x1E7
ENTRY = ("_key", "_rest")


class Found(NamedTuple):
    """For each row asked for, whether its key is there, and whether the newest row of that key is the same."""

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


def sorting(hashes: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """What sorts hashes (uint64): as ``np.argsort``, at half its price.

    The leading bits of each and its place are sorted as one number. Where that leaves two hashes that differ in the
    other bits only in the wrong order, which is rare, they are sorted again.
    """
    import numpy as np

    bits = np.uint64(max(1, len(hashes)).bit_length())
    both = (hashes >> bits << bits) | np.arange(len(hashes), dtype=np.uint64)
    order = (pl.Series(both).sort().to_numpy() & np.uint64(2 ** int(bits) - 1)).view(np.int64)
    ordered = hashes[order]
    return np.argsort(hashes) if (ordered[1:] < ordered[:-1]).any() else order


class _Sieve:
    """Which of many stored hashes are among the sorted ``keys``: two small tables of bits let few others through."""

    def __init__(self, keys: "np.ndarray[Any, Any]") -> None:
        import numpy as np

        self._keys = keys
        bits = min(26, max(8, len(keys).bit_length() + 2))  # 4 MB for a million keys: it stays in the cache
        self._shift, self._mask = np.uint64(64 - bits), np.uint64(2 ** (bits + 2) - 1)
        self._first, self._last = np.zeros(2**bits, dtype=bool), np.zeros(2 ** (bits + 2), dtype=bool)
        self._first[(keys >> self._shift).view(np.int64)] = True
        self._last[(keys & self._mask).view(np.int64)] = True

    def hits(self, stored: "np.ndarray[Any, Any]") -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
        """Places of those in ``stored`` (ascending), and of the first key that is equal to each."""
        import numpy as np

        found = []
        for start in range(0, len(stored), _CACHED_ROWS):
            few = stored[start : start + _CACHED_ROWS]
            likely = np.flatnonzero(self._first[(few >> self._shift).view(np.int64)])
            found.append(likely[self._last[(few[likely] & self._mask).view(np.int64)]] + start)
        likely = np.concatenate(found)
        candidates = stored[likely]
        if not candidates.size:
            return likely, likely
        order = np.argsort(candidates)  # neighbours are found near each other: half the time of a search at random
        places = np.empty_like(order)
        places[order] = np.minimum(np.searchsorted(self._keys, candidates[order]), len(self._keys) - 1)
        hit = self._keys[places] == candidates
        return likely[hit], places[hit]


@dataclass(frozen=True, kw_only=True)
class RowIndex:
    """The index of one source's table, for one key and one set of typed columns."""

    folder: Path
    key: tuple[str, ...]
    schema: Mapping[str, pl.DataType]
    files: tuple[FileResult, ...]

    def find(self, stored: pl.LazyFrame, wanted: "np.ndarray[Any, Any]", order: "np.ndarray[Any, Any]") -> Found:
        """Look rows up by their ``wanted`` entries (2 x rows, uint64); what is not indexed yet is, from ``stored``.

        ``order`` sorts the hashes of the keys. ``stored`` has the columns of ``schema`` and the lineage. Raises
        ValueError when it does not hold the rows that the ledger says were accepted.
        """
        import numpy as np

        keys, rest = wanted[0][order], wanted[1][order]
        there, newest = np.zeros(len(keys), dtype=bool), np.zeros(len(keys), dtype=np.uint64)
        sieve = _Sieve(keys)
        try:
            for block in self._all(stored):
                likely, places = sieve.hits(block.keys)
                if likely.size:
                    # equal keys among those wanted lie next to each other: a hit marks the first, and is spread below
                    there[places] = True
                    newest[places] = block.rest()[likely]  # in order: of several, the last one counts
        except ValueError:
            self._sweep(set())  # so that it is made again
            raise
        if (keys[1:] == keys[:-1]).any():
            first = np.searchsorted(keys, keys)
            there, newest = there[first], newest[first]
        found = Found(np.empty_like(there), np.empty_like(there))
        found.there[order] = there
        found.same[order] = there & (newest == rest)
        return found

    def add(self, result: FileResult, rows: Iterable[pl.DataFrame]) -> None:
        """Keep the entries of rows that were just appended, in order; call it when the commit is known to be made."""
        _write(self.folder / self._name([result]), _bytes(rows))

    # ---- files of entries

    def _all(self, stored: pl.LazyFrame) -> Iterator["_Block"]:
        """Blocks of entries, in the order of the rows. Raises ValueError for a damaged file."""
        covered, room = self._complete(stored), bytearray(32 + 8 * _BLOCK_ROWS)
        for path, rows in covered:
            yield from _blocks_of(path, rows, room)

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
            self._merge(target, covered)
            covered = [(target, sum(rows for _, rows in covered))]
        self._sweep({path.name for path, _ in covered})
        return covered

    def _merge(self, target: Path, parts: Sequence[tuple[Path, int]]) -> None:
        """One file for many; they are small, or there would not be as many."""
        blocks = (block for path, rows in parts for block in _blocks_of(path, rows))
        _write(target, _bytes(pl.DataFrame(dict(zip(ENTRY, (each.keys, each.rest()), strict=True))) for each in blocks))

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
        _write(self.folder / self._name(part), _bytes([made]))

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


def _bytes(frames: Iterable[pl.DataFrame]) -> Iterator[bytes]:
    """The content of a file of entries: for each block of rows the hashes of the keys, and the others; each checked."""
    for block in _blocks(frames):
        for name in ENTRY:
            content = block[name].to_numpy().tobytes()
            yield blake3(content).digest()
            yield content


def _blocks(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same entries in frames of ``_BLOCK_ROWS``, the last one shorter."""
    held: list[pl.DataFrame] = []
    for frame in frames:
        held.append(frame)
        while (have := sum(each.height for each in held)) >= _BLOCK_ROWS:
            whole = pl.concat(held) if len(held) > 1 else held[0]
            yield whole.head(_BLOCK_ROWS)
            held = [whole.slice(_BLOCK_ROWS)] if have > _BLOCK_ROWS else []
    if any(each.height for each in held):
        yield pl.concat(held)


class _Block(NamedTuple):
    """Entries of consecutive rows; the hashes of all but the key are read when asked for."""

    keys: "np.ndarray[Any, Any]"
    rest: "Callable[[], np.ndarray[Any, Any]]"


def _blocks_of(path: Path, rows: int, room: bytearray | None = None) -> Iterator[_Block]:
    """The blocks of a file with entries of so many rows. Raises ValueError when it has others, or is damaged.

    With ``room`` (for a whole block) every block's ``keys`` are read into that, and are there until the next one is.
    """
    size = 16 * rows + 64 * -(-rows // _BLOCK_ROWS)
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes and not {size:,}")
    for start in range(0, rows, _BLOCK_ROWS):
        offset, count = 16 * start + 64 * (start // _BLOCK_ROWS), min(_BLOCK_ROWS, rows - start)
        read = functools.partial(_checked, path, count=count)
        yield _Block(read(offset, room=room), functools.partial(read, offset + 32 + 8 * count))


def _checked(path: Path, offset: int, count: int, room: bytearray | None = None) -> "np.ndarray[Any, Any]":
    import numpy as np

    content = memoryview(bytearray(32 + 8 * count) if room is None else room)[: 32 + 8 * count]
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        if file.readinto(content) != len(content):
            raise ValueError(f"{path.name} is cut short near byte {offset:,}")
    if blake3(content[32:]).digest() != bytes(content[:32]):
        raise ValueError(f"{path.name} is damaged near byte {offset:,}")
    return np.frombuffer(content, dtype=np.uint64, offset=32)


def _write(path: Path, spans: Iterable[bytes]) -> None:
    make_folder(path.parent)
    temporary = temporary_beside(path)
    with temporary.open("wb") as file:
        file.writelines(spans)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
