"""Make sure that the bytes of a file are safe to parse, before any parser sees them.

A file of an inbox is written by somebody else: it may be cut short, binary, in another encoding, or made to exhaust the
reader. What cannot be read is told as :class:`Unreadable`, with the fact and the next step, and never with the content.
"""

import codecs
import gzip
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from interlock.errors import DataRefused

Kind = Literal["csv", "parquet", "json"]

SUFFIXES: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
MAX_LINE_BYTES = 16 * 2**20
"""A longer line is no table; a parser would hold it in memory whole."""
MAX_RATIO = 200
"""Largest decompressed : compressed size (deflate itself ends at about 1030) once past ``FREE_BYTES``."""
FREE_BYTES = 64 * 2**20
MAX_BYTES = 32 * 2**30
_CHUNK_BYTES = 2**20
_BOMS = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))


class Unreadable(DataRefused):
    """A file could not be read as a table at all; the message says which, why, and what to do."""


def kind_of(name: str) -> tuple[Kind, bool] | None:
    """Format and whether it is gzip, by the suffix of ``name`` in any case; None when it is no known suffix."""
    lower = name.lower()
    gz = lower.endswith(".gz")
    stem = lower.removesuffix(".gz")
    for suffix, kind in SUFFIXES.items():
        if stem.endswith(suffix):
            return None if gz and kind == "parquet" else (kind, gz)
    return None


def shown(name: str, limit: int = 120) -> str:
    """A file name for a message: on one line, bounded, without control characters."""
    text = re.sub(r"[^\x20-\x7e\u00a0-\U0010ffff]|[\u200b-\u200f\u2028-\u202e\u2066-\u2069]", "\ufffd", name)
    return text if len(text) <= limit else f"{text[:limit]}…"


def safe_name(name: str) -> str:
    """A file name as one segment of a blob key: letters, digits, ``_ - .``, at most 80, never hidden."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[-80:] or "file"


@contextmanager
def plain(path: Path, name: str, *, gz: bool, scratch: Path | None = None) -> Iterator[Path]:
    """The file itself, or a decompressed copy of it that lives as long as the block.

    Raises :class:`Unreadable` when the gzip data is damaged or unfolds beyond all proportion.
    """
    if not gz:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="gunzip-", dir=scratch) as folder:
        target = Path(folder) / "plain"
        _decompress(path, target, name)
        yield target


def _decompress(path: Path, target: Path, name: str) -> None:
    compressed = path.stat().st_size
    limit = min(MAX_BYTES, max(FREE_BYTES, compressed * MAX_RATIO))
    written = 0
    try:
        with gzip.open(path, "rb") as source, target.open("wb") as sink:
            while chunk := source.read(_CHUNK_BYTES):
                written += len(chunk)
                if written > limit:
                    raise Unreadable(
                        f"{shown(name)} unfolds from {compressed:,} to more than {limit:,} bytes, as a gzip bomb does.",
                        next_step="If the file is genuine, put it into the inbox decompressed.",
                        file=name,
                        compressed_bytes=compressed,
                    )
                sink.write(chunk)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what, why = ("cut short", "has no end") if isinstance(error, EOFError) else ("damaged", "does not hold")
        raise Unreadable(
            f"{shown(name)} is {what}: its gzip data {why} (after {written:,} decompressed bytes).",
            next_step="Send the file again, whole, under a new name.",
            file=name,
        ) from error


def inspect_text(path: Path, name: str) -> None:
    """Read the whole file once: it must be UTF-8 text (a BOM is fine) with no line longer than ``MAX_LINE_BYTES``.

    Raises :class:`Unreadable` naming the byte offset of what is not.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, run = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            if offset == 0:
                _refuse_binary(chunk, name)
            _check_utf8(decoder, chunk, offset, name)
            first = chunk.find(b"\n")
            run = run + len(chunk) if first < 0 else max(run + first, len(chunk) - chunk.rfind(b"\n") - 1)
            if run > MAX_LINE_BYTES:
                raise Unreadable(
                    f"{shown(name)} has a line longer than {MAX_LINE_BYTES:,} bytes (near byte {offset:,}).",
                    next_step="Write one record a line, with line ends.",
                    file=name,
                )
            run = len(chunk) - chunk.rfind(b"\n") - 1 if first >= 0 else run
            offset += len(chunk)
    _check_utf8(decoder, b"", offset, name, final=True)


def _check_utf8(
    decoder: codecs.IncrementalDecoder, chunk: bytes, offset: int, name: str, *, final: bool = False
) -> None:
    pending = decoder.getstate()[0]
    nul = chunk.find(b"\0")
    if nul >= 0:
        raise Unreadable(
            f"{shown(name)} is not text: byte {offset + nul:,} is NUL.",
            next_step="Write it as UTF-8 text, or as Parquet.",
            file=name,
            byte_offset=offset + nul,
        )
    if not pending and chunk.isascii():
        return
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        at = offset - len(pending) + error.start
        raise Unreadable(
            f"{shown(name)} is not UTF-8: the first wrong byte is at offset {at:,}.",
            next_step="Save it as UTF-8 under a new name (for example: iconv -f latin1 -t utf-8).",
            file=name,
            byte_offset=at,
        ) from None


def _refuse_binary(head: bytes, name: str) -> None:
    for bom, encoding in _BOMS:
        if head.startswith(bom):
            raise Unreadable(
                f"{shown(name)} is {encoding}, not UTF-8 (its byte order mark at offset 0 says so).",
                next_step=f"Save it as UTF-8 (for example: iconv -f {encoding.lower()} -t utf-8).",
                file=name,
                byte_offset=0,
            )
    for magic, what in ((b"PAR1", "a Parquet file"), (b"\x1f\x8b", "gzip data"), (b"PK\x03\x04", "a zip archive")):
        if head.startswith(magic):
            raise Unreadable(
                f"{shown(name)} is {what}, which its name does not say.",
                next_step="Give the file the suffix of its format.",
                file=name,
            )


_RESERVED = re.compile(r"^(?:_file|_row|_seq|_mark|prediction|probability_\d+|interlock_.*)$", re.IGNORECASE)


def refuse_nul(columns: Sequence[str], file: str) -> None:
    """Refuse names with a NUL: below Python they end there, which is another name, or the end of this process."""
    for number, column in enumerate(columns, start=1):
        if "\0" in column:
            raise Unreadable(
                f"The name of column {number} of {shown(file)} holds NUL.",
                next_step="Rename the column, and send the file under a new name.",
                file=file,
                column=number,
            )


def check_names(names: Sequence[str], file: str) -> None:
    """Every column has a name of its own, and none that Interlock writes itself.

    Raises :class:`Unreadable`, or :class:`DataRefused` for a reserved name.
    """
    if not names:
        raise Unreadable(
            f"{shown(file)} names no columns.", next_step="Send the file again, with its header.", file=file
        )
    refuse_nul(names, file)
    for place, column in enumerate(names, start=1):
        if not column.strip():
            raise Unreadable(
                f"Column {place} of {shown(file)} has no name.",
                next_step="Name every column in the first line (pandas: to_csv(..., index=False)).",
                file=file,
            )
        if _RESERVED.match(column):
            raise DataRefused(
                f"{shown(file)} has a column named '{shown(column)}', a name that Interlock itself writes.",
                next_step="Rename it (reserved: _file, _row, _seq, _mark, prediction, probability_<n>, interlock_...).",
                column=column,
            )
    if len(set(names)) < len(names):
        twice = next(column for column, count in Counter(names).items() if count > 1)
        raise Unreadable(
            f"{shown(file)} names column '{shown(twice)}' {names.count(twice)} times.",
            next_step="Give every column a name of its own.",
            file=file,
            column=twice,
        )
    twins = same_but_for_case(names)
    if twins is not None:
        raise Unreadable(
            f"{shown(file)} has columns '{shown(twins[0])}' and '{shown(twins[1])}', which differ in case only.",
            next_step="Rename one of them: SQL and the tables of rows do not tell them apart.",
            file=file,
            columns=list(twins),
        )


def same_but_for_case(names: Sequence[str]) -> tuple[str, str] | None:
    """The first two names that are the same when case is left out of account, or None."""
    seen: dict[str, str] = {}
    for name in names:
        before = seen.setdefault(name.casefold(), name)
        if before != name:
            return before, name
    return None
