"""Every port in memory, with the same rules as the real adapters; the conformance suites run on them too."""

import hashlib
import importlib
import json
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import polars as pl

from interlock.errors import InterlockError, NotFound, StoreFault, UserCodeFailed
from interlock.ports import BlobInfo, Clock, Commit, Job, JobResult
from interlock.records import Event, Fence, Verification, canonical, moment, timestamp
from interlock.store.blobs import check_key
from interlock.store.chain import Head, Row, chained, check_chain, check_text, event_of
from interlock.store.ledger import document_exists, lease_held, lease_lost
from interlock.store.tables import check_table
from interlock.testing.clock import ManualClock

T = TypeVar("T")


@dataclass
class _Lease:
    number: int
    holder: str
    taken_at: str
    expires_at: str


@dataclass
class _State:
    rows: list[Row] = field(default_factory=list)
    documents: dict[tuple[str, str], bytes] = field(default_factory=dict)
    leases: dict[str, _Lease] = field(default_factory=dict)

    def copy(self) -> "_State":
        """Copy what a transaction may change."""
        return _State(
            self.rows.copy(), self.documents.copy(), {name: replace(lease) for name, lease in self.leases.items()}
        )


class MemoryLedger:
    """Implements :class:`interlock.ports.Ledger`; lost when the process ends."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or ManualClock()
        self._state = _State()
        self._lock = threading.Lock()
        self._open = threading.local()

    @contextmanager
    def transaction(self, fence: Fence | None = None, *, turn: str = "") -> Iterator["MemoryTransaction"]:
        """Begin; commits when the block ends well."""
        with self._writing() as state:
            newest = None if fence is None else state.leases.get(fence.name)
            if fence is not None and (newest is None or newest.number != fence.number):
                raise lease_lost(fence, None if newest is None else newest.number)
            transaction = MemoryTransaction(state, self._clock, turn)
            try:
                yield transaction
            finally:
                transaction.close()

    @contextmanager
    def _writing(self) -> Iterator[_State]:
        if getattr(self._open, "busy", False):
            raise StoreFault("A transaction is open in this thread already; they do not nest.")
        with self._lock:
            self._open.busy = True
            try:
                state = self._state.copy()
                yield state
                self._state = state
            finally:
                self._open.busy = False

    def read(self, collection: str, key: str, type: type[T]) -> T | None:
        """Give the committed document, or None."""
        check_text(collection, key)
        return _decoded(self._state, collection, key, type)

    def scan(
        self,
        collection: str,
        type: type[T],
        *,
        prefix: str = "",
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[tuple[str, T]]:
        """List committed documents in key order, or the reverse."""
        check_text(collection, prefix)
        documents = self._state.documents
        keys = sorted(key for place, key in documents if place == collection and key.startswith(prefix))
        chosen = (keys[::-1] if newest_first else keys)[:limit]
        return [(key, _decode(documents[collection, key], collection, key, type)) for key in chosen]

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
        check_text(*kinds, subject or "")
        found = [
            event_of(row)
            for row in self._state.rows
            if (not kinds or row.kind in kinds)
            and (subject is None or row.subject == subject)
            and row.sequence > after
            and (until is None or row.at <= timestamp(until))
        ]
        return (found[::-1] if newest_first else found)[:limit]

    def verify(self) -> Verification:
        """Recompute every hash."""
        return check_chain(self._state.rows)

    def acquire(self, name: str, *, ttl_s: float) -> Fence:
        """Take a lease; raises LeaseHeld while another lives."""
        check_text(name)
        with self._writing() as state:
            now = self._clock.now()
            old = state.leases.get(name)
            if old is not None and old.holder and now < moment(old.expires_at):
                raise lease_held(name, old.holder, old.taken_at, old.expires_at)
            number = 1 if old is None else old.number + 1
            until = now + timedelta(seconds=ttl_s)
            state.leases[name] = _Lease(number, "memory", timestamp(now), timestamp(until))
            return Fence(name=name, number=number, holder="memory")

    def renew(self, fence: Fence, *, ttl_s: float) -> None:
        """Extend; raises LeaseLost when overtaken or given back."""
        with self._writing() as state:
            lease = state.leases.get(fence.name)
            if lease is None or lease.number != fence.number or not lease.holder:
                raise lease_lost(fence, None if lease is None else lease.number)
            lease.expires_at = timestamp(self._clock.now() + timedelta(seconds=ttl_s))

    def release(self, fence: Fence) -> None:
        """Give back; harmless when already lost."""
        with self._writing() as state:
            lease = state.leases.get(fence.name)
            if lease is not None and lease.number == fence.number:
                lease.holder = ""

    def close(self) -> None:
        """Do nothing: there is nothing to let go of."""


class MemoryTransaction:
    """Implements :class:`interlock.ports.Transaction` on a copy of the state."""

    def __init__(self, state: _State, clock: Clock, turn: str) -> None:
        self._live: _State | None = state
        self._clock = clock
        self._turn = turn

    def append(self, kind: str, subject: str, facts: Mapping[str, Any]) -> Event:
        """Add an event at the end of the chain."""
        rows = self._state.rows
        head = Head(rows[-1].sequence, rows[-1].hash) if rows else Head()
        rows.append(chained(head, self._clock.now(), self._turn, kind, subject, facts))
        return event_of(rows[-1])

    def insert(self, collection: str, key: str, value: object) -> None:
        """Write a document that must not exist yet; raises Conflict when it does."""
        if (collection, key) in self._state.documents:
            raise document_exists(collection, key)
        self.put(collection, key, value)

    def put(self, collection: str, key: str, value: object) -> None:
        """Write a document, new or not."""
        check_text(collection, key)
        self._state.documents[collection, key] = canonical(value)

    def read(self, collection: str, key: str, type: type[T]) -> T | None:
        """Give the document with the writes of this transaction, or None."""
        check_text(collection, key)
        return _decoded(self._state, collection, key, type)

    def close(self) -> None:
        """End of the block: no write goes through any more."""
        self._live = None

    @property
    def _state(self) -> _State:
        if self._live is None:
            raise StoreFault("This transaction has ended.", next_step="Open another one.")
        return self._live


def _decoded(state: _State, collection: str, key: str, type: type[T]) -> T | None:
    value = state.documents.get((collection, key))
    return None if value is None else _decode(value, collection, key, type)


def _decode(value: bytes, collection: str, key: str, type: type[T]) -> T:
    try:
        return msgspec.json.decode(value, type=type)
    except msgspec.MsgspecError as error:
        raise StoreFault(f"The record '{collection}/{key}' cannot be read: {error}.") from error


class MemoryBlobs:
    """Implements :class:`interlock.ports.Blobs`; like a bucket, it has no local files."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or ManualClock()
        self._blobs: dict[str, tuple[bytes, str]] = {}

    def put(self, key: str, source: bytes | Path) -> bool:
        """Store if absent."""
        content = source if isinstance(source, bytes) else source.read_bytes()
        entry = (content, timestamp(self._clock.now()))
        return self._blobs.setdefault(check_key(key), entry) is entry

    def get(self, key: str) -> bytes:
        """All bytes; raises NotFound."""
        try:
            return self._blobs[check_key(key)][0]
        except KeyError:
            raise NotFound(f"There is no blob '{key}'.", key=key) from None

    def fetch(self, key: str, to: Path) -> None:
        """Copy to a local file; raises NotFound."""
        content = self.get(key)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(content)

    def exists(self, key: str) -> bool:
        """Tell whether it is there."""
        return check_key(key) in self._blobs

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """Blobs whose key starts with ``prefix``, in key order."""
        found = sorted((key, *entry) for key, entry in self._blobs.items() if key.startswith(prefix))
        return (
            BlobInfo(key=key, size_bytes=len(content), modified=modified, version=hashlib.sha256(content).hexdigest())
            for key, content, modified in found
        )

    def delete(self, key: str) -> None:
        """Remove; harmless when absent."""
        self._blobs.pop(check_key(key), None)

    def local(self, key: str) -> Path | None:
        """Give None: there are no files."""
        check_key(key)
        return None


@dataclass
class _Version:
    frames: tuple[pl.DataFrame, ...]
    key: str
    facts: dict[str, Any]


class MemoryTables:
    """Implements :class:`interlock.ports.Tables`; :meth:`paths` writes the rows of a version under ``scratch``."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._tables: dict[str, list[_Version]] = {}

    def append(
        self, table: str, rows: pl.DataFrame | pl.LazyFrame, *, commit_key: str, facts: Mapping[str, Any]
    ) -> Commit:
        """Add rows, unless ``commit_key`` did so before."""
        versions = self._tables.get(table, [])
        added = rows.lazy().collect()
        frames = (*versions[-1].frames, added) if versions else (added,)
        return self.committed(table, commit_key) or self._commit(table, frames, commit_key, facts)

    def replace(self, table: str, rows: pl.LazyFrame, *, commit_key: str, facts: Mapping[str, Any]) -> Commit:
        """Rewrite all rows, unless ``commit_key`` did so before."""
        return self.committed(table, commit_key) or self._commit(table, (rows.collect(),), commit_key, facts)

    def _commit(self, table: str, frames: tuple[pl.DataFrame, ...], key: str, facts: Mapping[str, Any]) -> Commit:
        noted = msgspec.json.decode(canonical(dict(facts)))
        try:
            _whole(frames)
        except pl.exceptions.PolarsError as error:
            raise StoreFault(f"These rows do not fit table '{table}': {error}", table=table) from error
        versions = self._tables.setdefault(table, [])
        versions.append(_Version(frames, key, noted))
        return Commit(version=len(versions) - 1, facts=noted)

    def committed(self, table: str, commit_key: str) -> Commit | None:
        """Find the commit made under that key, or None."""
        for number, version in enumerate(self._tables.get(check_table(table), [])):
            if version.key == commit_key:
                return Commit(version=number, facts=version.facts)
        return None

    def version(self, table: str) -> int | None:
        """Newest version, or None when there is no such table."""
        versions = self._tables.get(check_table(table))
        return len(versions) - 1 if versions else None

    def scan(self, table: str, version: int | None = None) -> pl.LazyFrame:
        """Rows of a version, lazily; raises NotFound."""
        return _whole(self._version(table, version).frames).lazy()

    def paths(self, table: str, version: int | None = None) -> list[str]:
        """Write the rows of a version to a Parquet file, and name it."""
        frame = _whole(self._version(table, version).frames)
        if frame.is_empty():
            return []
        number = self.version(table) if version is None else version
        path = self._scratch / f"{table}-{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
        return [str(path)]

    def absent(self, table: str) -> list[str]:
        """Nothing is ever lost."""
        self._version(table, None)
        return []

    def maintain(self, table: str) -> None:
        """Do nothing: there is nothing to keep up."""

    def _version(self, table: str, version: int | None) -> _Version:
        versions = self._tables.get(check_table(table), [])
        number = len(versions) - 1 if version is None else version
        if not 0 <= number < len(versions):
            raise NotFound(f"There is no table '{table}' with version {version}.", table=table, version=version)
        return versions[number]


def _whole(frames: tuple[pl.DataFrame, ...]) -> pl.DataFrame:
    return pl.concat(frames, how="diagonal")


class InlineEngine:
    """Implements :class:`interlock.ports.Engine` in this process, one job after the other; deadlines are not kept."""

    width = 1

    def map(self, function: str, jobs: Iterable[Job]) -> Generator[JobResult, None, None]:
        """Call ``function`` once for each job, through plain data as any engine would."""
        module, _, name = function.partition(":")
        call = getattr(importlib.import_module(module), name)
        for job in jobs:
            try:
                value = json.loads(json.dumps(call(json.loads(json.dumps(job.arguments)))))
            except InterlockError as error:
                yield JobResult(job.key, error=error)
            except Exception as error:  # noqa: BLE001 - a job that fails ends no other
                yield JobResult(job.key, error=UserCodeFailed(f"The job raised {type(error).__name__}: {error}."))
            else:
                yield JobResult(job.key, value=value)
