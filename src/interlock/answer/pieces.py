"""A large file of text as several small ones, cut at the ends of records, so that each is read in bounded memory.

A CSV record may hold line ends inside quotes: a line end counts when an even number of quotes came before it (RFC 4180;
a doubled quote toggles twice). Every CSV piece begins with the header.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from interlock.data.opening import kind_of, plain

PIECE_BYTES = 32 * 2**20
_QUOTE, _LINE_END = 34, 10


class Piece(NamedTuple):
    """Part of a file as a file of its own; ``before``: records of the whole file that come before it."""

    path: Path
    before: int


@contextmanager
def pieces(path: Path, name: str, scratch: Path) -> Iterator[Iterator[Piece]]:
    """Cut the file, lazily; a piece is gone when the next one is asked for. A small file is its own only piece.

    Raises :class:`~interlock.data.opening.Unreadable` when gzip data is damaged.
    """
    kind, gz = kind_of(name) or ("csv", False)
    if not gz and path.stat().st_size <= PIECE_BYTES:
        yield iter([Piece(path, 0)])
        return
    scratch.mkdir(parents=True, exist_ok=True)
    with plain(path, name, gz=gz, scratch=scratch) as whole:
        yield _cut(whole, scratch / "piece", quoted=kind == "csv")
    (scratch / "piece").unlink(missing_ok=True)


def _cut(whole: Path, piece: Path, *, quoted: bool) -> Iterator[Piece]:
    if whole.stat().st_size <= PIECE_BYTES:
        yield Piece(whole, 0)
        return
    with whole.open("rb") as file:
        carry, before = b"", 0
        header = b""
        while span := file.read(PIECE_BYTES):
            data = carry + span
            ends = _ends(data, quoted=quoted)
            if quoted and not header and ends.size:
                header, data, ends = data[: ends[0] + 1], data[ends[0] + 1 :], ends[1:] - ends[0] - 1
            if not ends.size:
                carry = data
                continue
            piece.write_bytes(header + data[: ends[-1] + 1])
            yield Piece(piece, before)
            before += int(ends.size)
            carry = data[ends[-1] + 1 :]
    if carry:
        piece.write_bytes(header + carry)
        yield Piece(piece, before)


def _ends(data: bytes, *, quoted: bool) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    """Places of the line ends that end a record, shape (records,)."""
    codes = np.frombuffer(data, dtype=np.uint8)
    ends = codes == _LINE_END
    if quoted and _QUOTE in data:
        ends &= np.cumsum(codes == _QUOTE, dtype=np.uint32) % 2 == 0
    return np.flatnonzero(ends)
