"""The prediction log where answers are given: a record is packed into a buffer, and a request waits for no more.

The buffer is one ``bytearray`` that every request's record is appended to by one call in C, so nothing is left for the
garbage collector and no other Python thread does work for it. A thread of the journal hands whole buffers to the disk,
outside the interpreter's lock, and :mod:`interlock.serve.clerk`, a process of its own, makes rows of the lake of them.

What was answered is on the local disk at most ``flush_s`` and one write later: so much a crash can lose. With
``durable`` the reply waits until its record is there; all requests of the moment share one fsync. What there is no room
for, in memory or in the spool, is left out, counted in :attr:`Journal.lost`, and the count is written with the next
block: never silently.
"""

import asyncio
import hashlib
import queue
import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec
import polars as pl

from interlock.answer.predict import Answered, Live
from interlock.errors import SettingsError, StoreFault
from interlock.model.rows import Framed, FramedAnswers, Row, taker
from interlock.ports import Clock
from interlock.records import Column
from interlock.serve.door import Served
from interlock.serve.record_batch import is_plain, packed
from interlock.serve.segment import OPEN, SEALED, Segment
from interlock.serving import Log
from interlock.store.disk import make_folder
from interlock.units import seconds

Redaction: TypeAlias = Literal["drop", "hash"]

_BLOCK_BYTES: Final = 1 << 20
"""A buffer that is larger is written at once."""
_SEGMENT_BYTES: Final = 16 << 20
_SHORTEST_S: Final = 0.005
_CHANCES: Final = 2**32
_MANY: Final = 256
"""So many records that came as columns are logged as columns; fewer cost less as rows, here and at the clerk's."""
_encoder = msgspec.msgpack.Encoder()


class Room(msgspec.Struct, frozen=True, array_like=True):
    """What all records of a block share: generation, the digest of each tier's model, and the names of the features."""

    generation: int
    models: dict[str, str]
    features: list[str]


class Preface(msgspec.Struct, frozen=True, array_like=True):
    """What stands before the records of a block. ``lost``: records that were left out since the block before."""

    room: Room
    lost: int


@dataclass(slots=True, eq=False)
class _Batch:
    """Records on their way to the disk. ``waiting`` is done when they are there, with whether they are."""

    room: Room
    buffer: bytearray = field(default_factory=bytearray)
    requests: int = 0
    records: int = 0
    lost: int = 0
    waiting: "asyncio.Future[bool] | None" = None


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What became of records so far: on disk, left out, and bytes that wait in memory and in the spool."""

    kept: int
    lost: int
    memory_bytes: int
    spool_bytes: int
    problem: str


class Journal:
    """The log of one server. All methods but the writer's are called in the thread of the loop.

    Raises :class:`StoreFault` when there is no place for it.
    """

    def __init__(self, folder: Path, log: Log, clock: Clock, salt: bytes = b"") -> None:
        self.durable = log.durable
        self.lost = 0
        self.kept = 0
        self.problem = ""
        """Why records were lost the last time; empty when none was."""
        self._folder = folder
        self._log, self._clock, self._salt = log, clock, salt
        self._bound = round(log.sample * _CHANCES)
        self._most = int(log.memory_mb * 1e6)
        self._most_spool = int(log.spool_mb * 1e6)
        self._live: Live | None = None
        self._pick: Callable[[Sequence[Row]], Any] | None = None
        self._choose: Callable[[pl.DataFrame], pl.DataFrame]
        self._batch = _Batch(Room(0, {}, []))
        self._writing = 0
        self._held = 0
        self._spool_bytes = 0
        self._unkept: set[bytes] = set()
        self._is_asked = False
        self._wall = clock.now().timestamp() - clock.monotonic()
        self._monotonic = clock.monotonic
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        try:
            make_folder(folder)
        except OSError as error:
            raise StoreFault(
                f"The prediction log cannot be kept in {folder}: {error.strerror}.",
                next_step="Make it writable, or set serve.log.on = false.",
                path=str(folder),
            ) from error
        self._thread = threading.Thread(target=self._write_all, name="interlock-log", daemon=True)
        self._thread.start()

    # ---- in the request ------------------------------------------------------------------------------------------

    def append(self, served: Served) -> None:
        """Take the record of an answer. Never raises, never waits."""
        answered, name = served.answered, served.name
        if answered is None or served.live is None or (self._bound < _CHANCES and zlib.crc32(name) >= self._bound):
            return
        if served.live is not self._live:
            self._enter(served.live)
        batch = self._batch
        if self._held + len(batch.buffer) > self._most or self._spool_bytes > self._most_spool:
            self.problem = f"there is no room {'on the disk' if self._spool_bytes > self._most_spool else 'in memory'}"
            self._leave_out(name, len(answered.answers))
            return
        pick = self._pick
        before = len(batch.buffer)
        try:
            tiers: Any = answered.tiers
            answers: Any = answered.answers
            if type(answers) is list:
                features = None if pick is None else pick(_plain(served.rows))
            else:
                features, tiers, answers = self._by_columns(served.rows, answered)
            at = self._wall + self._monotonic()
            record = (name, at, served.seconds, served.route, tiers, features, answers)
            _encoder.encode_into(record, batch.buffer, -1)
        except Exception as error:  # noqa: BLE001 - an answer is not lost because its record cannot be written
            del batch.buffer[before:]
            self.problem = f"a record cannot be packed ({type(error).__name__})"
            self._leave_out(name, len(answered.answers))
            return
        batch.requests += 1
        batch.records += len(answered.answers)
        if len(batch.buffer) > _BLOCK_BYTES:
            self._hand_over()

    def _by_columns(self, rows: Sequence[Row], answered: Answered) -> tuple[Any, Any, Any]:
        """Features, tiers and answers of answers that came as a frame: as columns where they are many, else as rows."""
        answers, tiers = answered.answers, answered.tiers
        if (
            isinstance(answers, FramedAnswers)
            and len(answers) >= _MANY
            and isinstance(rows, Framed)
            and rows.has_frame
            and is_plain(answers.spelled)
            and tiers.count(tiers[0]) == len(tiers)
        ):
            features = None if self._pick is None else packed(self._choose(rows.frame))
            return features, tiers[0], packed(answers.spelled)
        return None if self._pick is None else self._pick(_plain(rows)), tiers, list(answers)

    async def settled(self, name: bytes) -> bool:
        """Whether the record of an answer is on the disk; waits for it, together with all that wait."""
        if name in self._unkept:
            self._unkept.discard(name)
            return False
        batch = self._batch
        if not batch.requests:
            return True  # it was not in the sample
        loop = asyncio.get_running_loop()
        if batch.waiting is None:
            batch.waiting = loop.create_future()
        if not self._writing and not self._is_asked:
            self._is_asked = True
            loop.call_soon(self._hand_over)  # after the other requests of this turn of the loop
        return await asyncio.shield(batch.waiting)

    def _leave_out(self, name: bytes, records: int) -> None:
        self.lost += records
        self._batch.lost += records
        if self.durable:
            self._unkept.add(name)

    def _enter(self, live: Live) -> None:
        """Records of another release begin: they are in blocks of their own."""
        self._hand_over()
        names, pick = picker(live.columns, self._log, self._salt)
        self._live, self._pick, self._choose = live, pick, chooser(names, self._log, self._salt)
        self._batch.room = Room(live.generation, {seat.tier: seat.model for seat in live.everybody}, names)

    # ---- from time to time ---------------------------------------------------------------------------------------

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to flush in time."""
        self._loop = loop
        self._tick()

    def _tick(self) -> None:
        assert self._loop is not None
        self._wall = self._clock.now().timestamp() - self._clock.monotonic()
        self._hand_over()
        self._loop.call_later(max(seconds(self._log.flush), _SHORTEST_S), self._tick)

    def tally(self) -> Tally:
        """What became of records so far."""
        held = self._held + len(self._batch.buffer)
        on_disk = spooled_bytes(self._folder)  # now: the clerk takes from there what the journal put there
        return Tally(kept=self.kept, lost=self.lost, memory_bytes=held, spool_bytes=on_disk, problem=self.problem)

    def _hand_over(self) -> None:
        self._is_asked = False
        batch = self._batch
        if not batch.requests and not batch.lost:
            self._tasks.put(_NOTHING)  # it may be time to seal
            return
        self._batch = _Batch(batch.room)
        self._writing += 1
        self._held += len(batch.buffer)
        self._tasks.put(batch)

    def _written(self, batch: _Batch, error: OSError | None, spool_bytes: int) -> None:
        self._writing -= 1
        self._held -= len(batch.buffer)
        self._spool_bytes = spool_bytes
        if error is None:
            self.kept += batch.records
        else:
            self.lost += batch.records
            self._batch.lost += batch.records + batch.lost
            self.problem = f"records cannot be written: {error.strerror}"
        if batch.waiting is not None and not batch.waiting.done():
            batch.waiting.set_result(error is None)
        if self._batch.waiting is not None and not self._writing:
            self._hand_over()  # all that came meanwhile share the next write

    def close(self) -> None:
        """Write what is left, and seal it."""
        self._hand_over()
        self._tasks.put(None)
        self._thread.join(timeout=30.0)

    # ---- the writer ----------------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        segment: Segment | None = None
        began = 0.0
        while (batch := self._tasks.get()) is not None:
            error: OSError | None = None
            if batch is not _NOTHING:
                try:
                    if segment is None:
                        segment, began = Segment(self._folder, self._clock.now().timestamp()), self._clock.monotonic()
                    segment.write(*_block(batch))
                except OSError as problem:
                    error = problem
            too_old = self._clock.monotonic() - began >= seconds(self._log.commit)
            if segment is not None and (error is not None or too_old or segment.size_bytes > _SEGMENT_BYTES):
                _seal(segment)
                segment = None
            if batch is not _NOTHING:
                self._report(batch, error)
        if segment is not None:
            _seal(segment)

    def _report(self, batch: _Batch, error: OSError | None) -> None:
        size = spooled_bytes(self._folder)
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._written, batch, error, size)
                return
        except RuntimeError:
            pass  # the loop has ended: nobody waits, and nobody else counts
        self._written(batch, error, size)


_NOTHING: Final = _Batch(Room(0, {}, []))


def _seal(segment: Segment) -> None:
    with suppress(OSError):  # whoever comes next finds it open and unlocked, and seals it
        segment.seal()


def _block(batch: _Batch) -> tuple[bytes, bytearray]:
    """A list of the preface and of the list of records, whose head alone was missing."""
    preface = _encoder.encode(Preface(batch.room, batch.lost))
    return b"\x92" + preface + b"\xdd" + batch.requests.to_bytes(4, "big"), batch.buffer


def _plain(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows that can be packed: those of a frame are made now."""
    return rows if isinstance(rows, list | tuple) else list(rows)


def spooled_bytes(folder: Path) -> int:
    """Size of the segments that are not rows of the lake yet."""
    total = 0
    for path in folder.iterdir():
        if path.suffix in (OPEN, SEALED):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
    return total


# ---- what is kept of a record ------------------------------------------------------------------------------------


def check_columns(log: Log, columns: Sequence[Column]) -> None:
    """Raise :class:`SettingsError` when the log names a column that the model does not take."""
    names = {column.name for column in columns}
    told = (*log.redact, *(log.keep if isinstance(log.keep, tuple) else ()))
    unknown = [name for name in told if name not in names]
    if unknown:
        raise SettingsError(
            f"[serve.log] names the column '{unknown[0][:60]}', and the model takes no such column.",
            next_step="Mend serve.log.keep or serve.log.redact; interlock status names the columns.",
        )


def picker(
    columns: Sequence[Column], log: Log, salt: bytes
) -> tuple[list[str], Callable[[Sequence[Row]], Sequence[Sequence[Any]]] | None]:
    """The names of the features that are kept, and what takes them from rows; None where none is.

    Columns of bytes, which may be images, are kept only by name.
    """
    wanted = [] if log.keep == "none" else [column.name for column in columns]
    if log.keep == "all":
        wanted = [column.name for column in columns if column.type != "bytes"]
    if isinstance(log.keep, tuple):
        wanted = [name for name in wanted if name in log.keep]
    wanted = [name for name in wanted if log.redact.get(name) != "drop"]
    if not wanted:
        return [], None
    names = [column.name for column in columns]
    places = [names.index(name) for name in wanted]
    hashed = [place for place, name in enumerate(wanted) if log.redact.get(name) == "hash"]
    if hashed:
        return wanted, lambda rows: [_hidden(row, places, hashed, salt) for row in rows]
    if len(wanted) == len(names):
        return wanted, lambda rows: rows
    chosen = taker(places)
    return wanted, lambda rows: [chosen(row) for row in rows]


def chooser(names: Sequence[str], log: Log, salt: bytes) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """What takes the features with these ``names`` from a frame, as :func:`picker` takes them from rows."""
    hashed = {name for name in names if log.redact.get(name) == "hash"}

    def choose(frame: pl.DataFrame) -> pl.DataFrame:
        if not hashed and frame.columns == names:
            return frame
        return pl.DataFrame([_masked(frame[name], salt) if name in hashed else frame[name] for name in names])

    return choose


def _masked(values: pl.Series, salt: bytes) -> pl.Series:
    cells = [None if value is None else masked(value, salt) for value in values.to_list()]
    return pl.Series(values.name, cells, dtype=pl.String)


def _hidden(row: Row, places: Sequence[int], hashed: Sequence[int], salt: bytes) -> list[Any]:
    found = [row[place] for place in places]
    for place in hashed:
        if found[place] is not None:
            found[place] = masked(found[place], salt)
    return found


def masked(value: object, salt: bytes) -> str:
    """A value that may be compared and not read: keyed BLAKE2b of 16 bytes, as hexadecimal digits."""
    content = value if isinstance(value, bytes) else str(value).encode()
    return hashlib.blake2b(content, key=salt, digest_size=16).hexdigest()
