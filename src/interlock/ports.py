"""The few seams behind which a laptop and a cloud look alike; ``interlock.testing`` has a suite for each."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import polars as pl

from interlock.errors import InterlockError
from interlock.records import Event, Fence, Record, Verification
from interlock.settings import Settings

T = TypeVar("T")


class Clock(Protocol):
    """Where time comes from; injected everywhere, so that tests own it."""

    def now(self) -> datetime:
        """Wall time, timezone-aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards, for durations."""
        ...


class Transaction(Protocol):
    """Writes that become visible together or not at all. Reads see the writes made so far."""

    def append(self, kind: str, subject: str, facts: Mapping[str, Any]) -> Event:
        """Add an event at the end of the chain."""
        ...

    def insert(self, collection: str, key: str, value: object) -> None:
        """Write a document that must not exist yet; raises :class:`~interlock.errors.Conflict` when it does."""
        ...

    def put(self, collection: str, key: str, value: object) -> None:
        """Write a document, new or not."""
        ...

    def read(self, collection: str, key: str, type: type[T]) -> T | None:
        """The document decoded as ``type``, or None."""
        ...


class Ledger(Protocol):
    """The append-only, hash-chained record of events, and the documents derived from them, in one transaction.

    A *document* is the current state of something (``collection``, ``key``) as JSON. Every change of documents belongs
    to a transaction; with a ``fence``, commit raises :class:`~interlock.errors.LeaseLost` when a newer lease was given.
    """

    def transaction(self, fence: Fence | None = None, *, turn: str = "") -> AbstractContextManager[Transaction]:
        """Begin; commits when the block ends well, and otherwise changes nothing."""
        ...

    def read(self, collection: str, key: str, type: type[T]) -> T | None:
        """The document decoded as ``type``, or None."""
        ...

    def scan(
        self, collection: str, type: type[T], *, prefix: str = "", newest_first: bool = False, limit: int | None = None
    ) -> list[tuple[str, T]]:
        """Documents in key order (text order), or the reverse."""
        ...

    def events(
        self,
        *,
        kinds: Sequence[str] = (),
        subject: str | None = None,
        after: int = 0,
        until: datetime | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[Event]:
        """Events that match, in order of sequence, or the reverse."""
        ...

    def verify(self) -> Verification:
        """Recompute every hash."""
        ...

    def acquire(self, name: str, *, ttl_s: float) -> Fence:
        """Take a lease with the next fencing number; raises :class:`~interlock.errors.LeaseHeld` while one lives."""
        ...

    def renew(self, fence: Fence, *, ttl_s: float) -> None:
        """Extend; raises :class:`~interlock.errors.LeaseLost` when overtaken."""
        ...

    def release(self, fence: Fence) -> None:
        """Give back; harmless when already lost."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class BlobInfo(Record, frozen=True, kw_only=True):
    """A stored blob. ``version`` changes whenever its bytes may have changed (an ETag, or inode + size + times)."""

    key: str
    size_bytes: int
    modified: str
    version: str


class Blobs(Protocol):
    """Immutable bytes by key (``/``-separated, relative, no ``..``), on a disk or an object store."""

    def put(self, key: str, source: bytes | Path) -> bool:
        """Store durably if absent: True when written, False when the key was there (its bytes are left alone)."""
        ...

    def get(self, key: str) -> bytes:
        """All bytes; raises :class:`~interlock.errors.NotFound`."""
        ...

    def fetch(self, key: str, to: Path) -> None:
        """Copy to a local file in bounded memory; raises :class:`~interlock.errors.NotFound`."""
        ...

    def exists(self, key: str) -> bool:
        """Whether it is there."""
        ...

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """Blobs whose key starts with ``prefix``, in key order."""
        ...

    def delete(self, key: str) -> None:
        """Remove; harmless when absent."""
        ...

    def local(self, key: str) -> Path | None:
        """The file itself when blobs are files on this machine, else None. Read only."""
        ...


class Commit(Record, frozen=True, kw_only=True):
    """One commit of a table: its version and the facts that were written with it."""

    version: int
    facts: dict[str, Any]


class Tables(Protocol):
    """Versioned, append-only tables. ``commit_key`` makes a retry after an unknown outcome harmless."""

    def append(
        self, table: str, rows: pl.DataFrame | pl.LazyFrame, *, commit_key: str, facts: Mapping[str, Any]
    ) -> Commit:
        """Add rows in one atomic, durable commit, creating the table from the frame's schema when it is new.

        Lazy rows are streamed where the store can; they are evaluated at most once for each attempt to commit.

        When ``commit_key`` was committed before, nothing is written and that commit is returned.
        """
        ...

    def replace(self, table: str, rows: pl.LazyFrame, *, commit_key: str, facts: Mapping[str, Any]) -> Commit:
        """Rewrite all rows in one commit, schema included (to widen a type or add a column); old versions stay."""
        ...

    def committed(self, table: str, commit_key: str) -> Commit | None:
        """The commit made under that key, or None."""
        ...

    def version(self, table: str) -> int | None:
        """Newest version, or None when there is no such table."""
        ...

    def scan(self, table: str, version: int | None = None) -> pl.LazyFrame:
        """Rows of a version (default: newest), lazily; raises :class:`~interlock.errors.NotFound`."""
        ...

    def paths(self, table: str, version: int | None = None) -> list[str]:
        """The Parquet files of a version, as paths on this machine that Polars and DuckDB can read."""
        ...

    def absent(self, table: str) -> list[str]:
        """Files of the newest version that are not in the store any more, or not of the size that was committed."""
        ...

    def maintain(self, table: str) -> None:
        """Checkpoint and compact when there are many small commits, and sweep what a killed writer left."""
        ...


class Job(Record, frozen=True, kw_only=True):
    """One call for an engine: plain data in, plain data out. ``key`` names it among the jobs of one :meth:`Engine.map`.

    ``arguments`` go to the function as one dictionary; the job is stopped after ``deadline_s``.
    """

    key: str
    arguments: dict[str, Any]
    deadline_s: float


@dataclass(frozen=True)
class JobResult:
    """How a job ended: with a ``value``, or with an ``error`` that ends nothing but the job."""

    key: str
    value: Any = None
    error: InterlockError | None = None


class Engine(Protocol):
    """Who runs many calls of one function: processes of this machine, or of others."""

    @property
    def width(self) -> int:
        """How many jobs run at once."""
        ...

    def map(self, function: str, jobs: Iterable[Job]) -> Generator[JobResult, None, None]:
        """Call ``function`` (``package.module:name``) once for each job; results come as they are ready.

        ``jobs`` is read in the caller's thread, one by one, when there is room for one more and the results given so
        far have been taken: the next job may depend on them. A job that fails is a result with an error. Closing the
        iterator stops the jobs that still run, and returns when they have ended.
        """
        ...


@dataclass(frozen=True)
class Parts:
    """One project, wired: what every stage is given. Made by ``interlock.app`` and by tests."""

    settings: Settings
    clock: Clock
    ledger: Ledger
    blobs: Blobs
    tables: Tables


def _silent(message: str) -> None:
    """Drop a progress message."""
    del message


@dataclass(frozen=True)
class Turn:
    """The pass of the loop that a stage works for: its id, its lease, and where to say what is going on."""

    id: str
    fence: Fence
    say: Callable[[str], None] = field(default=_silent)
    withheld: dict[str, str] = field(default_factory=dict)
    """What may be told and not kept, and what is kept instead; see :meth:`withhold`."""
    notes: list[str] = field(default_factory=list)
    """What was noticed on the way; it becomes part of the result."""

    def note(self, message: str) -> None:
        """Say it now, and once more at the end: nobody may be watching while the turn runs."""
        self.say(message)
        if message not in self.notes:
            self.notes.append(message)

    def withhold(self, told: str, kept: str) -> None:
        """Keep ``told`` out of what this turn records: it may hold values of the data. ``kept`` stands in its place."""
        if told and told != kept:
            self.withheld[told] = kept

    def recordable(self, facts: Any) -> Any:
        """Facts (plain data) without what is withheld."""
        if isinstance(facts, str):
            for told in sorted(self.withheld, key=len, reverse=True):
                facts = facts.replace(told, self.withheld[told])
            return facts
        if isinstance(facts, Mapping):
            return {key: self.recordable(value) for key, value in facts.items()}
        if isinstance(facts, list | tuple):
            return [self.recordable(value) for value in facts]
        return facts

    def transaction(self, ledger: Ledger) -> AbstractContextManager[Transaction]:
        """A transaction that this turn may commit only while it holds its lease."""
        return ledger.transaction(self.fence, turn=self.id)
