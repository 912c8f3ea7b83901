"""Takes the segments of the prediction log, and the outcomes that came back, to the lake, in a process of its own.

It has an interpreter of its own, so that making columns of records costs the server nothing but a share of a processor.
Segments are committed in groups. Which ones belong to a group is written down before the commit, whose key is their
digest, and they are deleted after it: whoever comes after a crash finishes the same group first, and the table knows
whether it has it already. One clerk at a time works on a folder; the others leave it to that one.

It ends when its server does: the pipe from the server is its sign of life. After the end it takes away what was left.
"""

import fcntl
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import polars as pl

from interlock.app import open_tables
from interlock.errors import InterlockError
from interlock.ports import Clock, Tables
from interlock.records import digest
from interlock.serve.journal import Preface, Room
from interlock.serve.outcomes import OUTCOMES, has_waiting, move
from interlock.serve.record_batch import answer_columns, json_rows, unpacked
from interlock.serve.segment import OPEN, SEALED, adopt, blocks, cut_off
from interlock.settings import Settings
from interlock.store.clock import SystemClock
from interlock.store.disk import durable_write
from interlock.units import seconds

PREDICTIONS: Final = "predictions"
LOG: Final = "log"
"""Folder of the segments, and of the outcomes, in the project's own folder."""
_GROUP: Final = "group.json"
_MOST_BYTES: Final = 32 << 20
"""Segments of a group are together not much larger."""
_ROWS_AT_ONCE: Final = 100_000
"""Records that came as columns become rows together, up to so many."""
_LAST_S: Final = 20.0
_SHORTEST_S: Final = 0.1
_SCHEMA: Final[dict[str, Any]] = {
    "id": pl.String,
    "time": pl.Datetime("us", "UTC"),
    "release": pl.Int64,
    "tier": pl.String,
    "model": pl.String,
    "prediction": pl.String,
    "value": pl.Float64,
    "probabilities": pl.List(pl.Float64),
    "details": pl.String,
    "features": pl.String,
    "latency_ms": pl.Float64,
    "route": pl.String,
}
_encode = msgspec.json.Encoder().encode


class _Record(msgspec.Struct, array_like=True, gc=False):
    """The records of one request. Bytes are columns, of features and answers alike, which one tier gave."""

    name: bytes
    at: float
    seconds: float
    route: str
    tiers: list[str] | str
    rows: list[list[Any]] | bytes | None
    answers: list[Any] | bytes


_decoder = msgspec.msgpack.Decoder(tuple[Preface, list[_Record]])


class _Group(msgspec.Struct):
    segments: list[str]


def log_folder(settings: Settings) -> Path:
    """Where what is not in the lake yet is kept, on this machine."""
    return settings.home / LOG


@contextmanager
def _alone(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Whether nobody else works on the folder; if so, nobody does until the end. ``wait`` for whoever does."""
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        yield False
        return
    try:
        yield True
    finally:
        os.close(descriptor)


def take_away(folder: Path, tables: Tables, *, wait: bool = False) -> int:
    """Commit all sealed segments of a folder, and give the number of groups. Raises what the table raises.

    Where another clerk is at work it is left to that one, or waited for.
    """
    with _alone(folder, wait=wait) as alone:
        groups = 0
        if not alone:
            return 0
        path = folder / _GROUP
        if path.exists():
            _finish(folder, msgspec.json.decode(path.read_bytes(), type=_Group), tables)
            groups += 1
        while chosen := _choose(adopt(folder)):
            group = _Group([segment.name for segment in chosen])
            durable_write(path, _encode(group))
            _finish(folder, group, tables)
            groups += 1
        return groups


def _choose(segments: Sequence[Path]) -> list[Path]:
    """The oldest segments that make a group."""
    chosen: list[Path] = []
    size = 0
    for path in segments:
        size += path.stat().st_size
        if chosen and size > _MOST_BYTES:
            break
        chosen.append(path)
    return chosen


def _finish(folder: Path, group: _Group, tables: Tables) -> None:
    key = f"log-{digest(group.segments)}"
    if tables.committed(PREDICTIONS, key) is None:
        paths = [folder / name for name in group.segments]
        frame, lost = frame_of(paths)
        facts = {
            "segments": len(paths),
            "rows": frame.height,
            "lost": lost,
            "cut_off_bytes": sum(cut_off(path) for path in paths),
        }
        tables.append(PREDICTIONS, frame, commit_key=key, facts=facts)
    for name in group.segments:
        (folder / name).unlink(missing_ok=True)
    (folder / _GROUP).unlink()


def frame_of(paths: Sequence[Path]) -> tuple[pl.DataFrame, int]:
    """The rows of segments, in the order in which they were written, and how many records were left out."""
    frames: list[pl.DataFrame] = []
    columns = _nothing()
    sheets: list[_Sheet] = []
    lost = 0
    for path in paths:
        for block in blocks(path):
            preface, records = _decoder.decode(block)
            lost += preface.lost
            for record in records:
                sheet = _sheet(preface.room, record)
                if sheets and (sheet is None or not sheet.continues(sheets)):
                    frames.append(_of_columns(sheets))
                    sheets = []
                if sheet is None:
                    _add(columns, preface.room, record)
                    continue
                if columns["id"]:
                    frames.append(_framed(columns))
                    columns = _nothing()
                sheets.append(sheet)
    if sheets:
        frames.append(_of_columns(sheets))
    return pl.concat([*frames, _framed(columns)]), lost


def _nothing() -> dict[str, list[Any]]:
    return {name: [] for name in _SCHEMA}


def _framed(columns: dict[str, list[Any]]) -> pl.DataFrame:
    """Rows that were added one by one."""
    moments = columns["time"]
    frame = pl.DataFrame({**columns, "time": [None] * len(moments)}, schema=_SCHEMA)
    return frame.with_columns(_times(moments))


def _times(moments: Sequence[float]) -> pl.Series:
    """Seconds since 1970 as the column ``time``."""
    seconds_ = pl.Series("time", moments, dtype=pl.Float64)
    return (seconds_ * 1e6).round().cast(pl.Int64).cast(_SCHEMA["time"])


class _Sheet(NamedTuple):
    """The records of one request that were packed as columns. ``features``: None where none are kept."""

    room: Room
    record: _Record
    answers: pl.DataFrame
    features: pl.DataFrame | None

    def continues(self, before: Sequence["_Sheet"]) -> bool:
        """Whether it has the columns of others, and they are not too many to become rows at once."""
        mine, theirs = (None if each.features is None else each.features.schema for each in (self, before[-1]))
        alike = mine == theirs and self.answers.schema == before[-1].answers.schema
        return alike and sum(each.answers.height for each in before) < _ROWS_AT_ONCE


def _sheet(room: Room, record: _Record) -> _Sheet | None:
    """A record as columns; None where it was packed as rows."""
    if not isinstance(record.answers, bytes):
        return None
    features = unpacked(record.rows) if isinstance(record.rows, bytes) else None
    return _Sheet(room, record, unpacked(record.answers), features)


def _of_columns(sheets: Sequence[_Sheet]) -> pl.DataFrame:
    """The rows of requests whose records were packed as the same columns, as :func:`_add` would have added them."""
    heights = [sheet.answers.height for sheet in sheets]
    alike = pl.DataFrame(
        {
            "time": _times([sheet.record.at for sheet in sheets]),
            "release": [sheet.room.generation for sheet in sheets],
            "tier": [sheet.record.tiers for sheet in sheets],
            "model": [sheet.room.models.get(str(sheet.record.tiers)) for sheet in sheets],
            "details": [None] * len(sheets),
            "latency_ms": [sheet.record.seconds * 1e3 for sheet in sheets],
            "route": [sheet.record.route for sheet in sheets],
            "id": [sheet.record.name.decode() + ("-" if sheet.answers.height > 1 else "") for sheet in sheets],
        },
        schema_overrides=_SCHEMA,
    )
    frame = alike[np.repeat(np.arange(len(sheets)), heights)]
    numbers = [str(place) if height > 1 else "" for height in heights for place in range(height)]
    told = [sheet.features for sheet in sheets if sheet.features is not None]
    features = (
        json_rows(pl.concat(told)) if told else pl.Series([None], dtype=pl.String).new_from_index(0, sum(heights))
    )
    columns = {**answer_columns(pl.concat([sheet.answers for sheet in sheets])), "features": features}
    return frame.with_columns(pl.col("id") + pl.Series(numbers, dtype=pl.String), **columns).select(list(_SCHEMA))


def _add(columns: dict[str, list[Any]], room: Room, record: _Record) -> None:
    """Add the rows of one request."""
    name, rows = record.name.decode(), record.rows
    assert not isinstance(rows, bytes)
    many = len(record.answers) > 1
    for place, (tier, answer) in enumerate(zip(record.tiers, record.answers, strict=True)):
        value, others = (None, None) if answer is None else answer
        features = None if rows is None else dict(zip(room.features, rows[place], strict=True))
        columns["id"].append(f"{name}-{place}" if many else name)
        columns["time"].append(record.at)
        columns["release"].append(room.generation)
        columns["tier"].append(tier)
        columns["model"].append(room.models.get(tier))
        columns["prediction"].append(as_text(value))
        columns["value"].append(as_number(value))
        columns["probabilities"].append(others if isinstance(others, list) else None)
        columns["details"].append(_encode(others).decode() if isinstance(others, dict) else None)
        columns["features"].append(None if features is None else _encode(features).decode())
        columns["latency_ms"].append(record.seconds * 1e3)
        columns["route"].append(record.route)


def as_text(value: Any) -> str | None:
    """An answer as text: itself, or as JSON writes it."""
    return value if value is None or isinstance(value, str) else _encode(value).decode()


def as_number(value: Any) -> float | None:
    """An answer as a number, where it is one."""
    return float(value) if isinstance(value, bool | int | float) else None


# ---- the process -------------------------------------------------------------------------------------------------


class Clerk:
    """The process, as the server sees it: started when there is something to take away, and again when it died."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._process: subprocess.Popen[bytes] | None = None
        self._again_at = 0.0

    def tick(self) -> None:
        """Start it, where it is needed and does not run."""
        running = self._process is not None and self._process.poll() is None
        if running or self._clock.monotonic() < self._again_at or not _has_work(log_folder(self._settings)):
            return
        self._again_at = self._clock.monotonic() + 10.0
        self._start()

    def _start(self) -> None:
        program = [sys.executable, "-P", "-m", "interlock.serve.clerk"]
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            program, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(self._settings, enc_hook=str) + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Let it take away what is left, for a while; what it does not come to is found at the next start."""
        if (self._process is None or self._process.poll() is not None) and _has_work(log_folder(self._settings)):
            self._start()
        if self._process is None:
            return
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=_LAST_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _has_work(folder: Path) -> bool:
    """Whether there is anything that is not in the lake."""
    with suppress(InterlockError):
        if has_waiting(folder):
            return True
    files = folder / PREDICTIONS
    return files.is_dir() and any(each.suffix in (OPEN, SEALED) or each.name == _GROUP for each in files.iterdir())


def work(settings: Settings, tables: Tables, *, last: bool) -> None:
    """Take everything away that is ready; the ``last`` time what another clerk may have just missed, too."""
    folder = log_folder(settings)
    if (folder / PREDICTIONS).is_dir() and take_away(folder / PREDICTIONS, tables, wait=last):
        tables.maintain(PREDICTIONS)
    if move(folder, tables):
        tables.maintain(OUTCOMES)


def main() -> None:
    """Work until the pipe from the server ends, and then once more."""
    os.nice(10)
    pipe = sys.stdin.buffer
    settings = msgspec.json.decode(pipe.readline(), type=Settings, dec_hook=lambda kind, value: kind(value))
    tables = open_tables(settings, SystemClock())
    every_s = max(seconds(settings.serve.log.commit), _SHORTEST_S)
    last = False
    while True:
        try:
            work(settings, tables, last=last)
        except (InterlockError, OSError) as error:
            sys.stderr.write(f"the log waits on this disk: {error}\n")
        if last:
            return
        last = bool(select.select([pipe], [], [], every_s)[0])


if __name__ == "__main__":
    main()
