"""The ledger in a SQL database: events, documents and leases, changed together or not at all.

A transaction takes the database's one write lock when it begins and checks its fence under that lock, so nobody can
hand out a newer lease between the check and the commit. Blocks must therefore be short: compute first, then record.
What differs between SQLite and Postgres is in ``dialect.py``.
"""

import functools
import gc
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from interlock.errors import Conflict, LeaseHeld, LeaseLost, StoreFault
from interlock.ports import Clock
from interlock.records import Event, Fence, Verification, canonical, moment, timestamp
from interlock.store import schema
from interlock.store.chain import Head, chained, check_chain, check_text, event_of
from interlock.store.dialect import WRITES, Database
from interlock.store.holder import Holder, surely_dead, this_process

T = TypeVar("T")

_events, _documents, _leases = schema.events.c, schema.documents.c, schema.leases.c
_BATCH_ROWS = 5_000


class SqlLedger:
    """Implements :class:`interlock.ports.Ledger` on a database of :func:`interlock.store.schema.open_database`.

    May be shared by threads; each thread has at most one open transaction. Every method raises
    :class:`~interlock.errors.StoreFault` when the database fails.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._engine = database.engine
        self._writer = database.engine.execution_options(**{WRITES: True})
        self._clock = clock
        self._lead: timedelta | None = None
        self._open = threading.local()

    # ---- writing

    @contextmanager
    def transaction(self, fence: Fence | None = None, *, turn: str = "") -> Iterator["SqlTransaction"]:
        """Begin; commits when the block ends well.

        Raises :class:`~interlock.errors.LeaseLost` when a newer lease than ``fence`` was given out, and
        :class:`~interlock.errors.StoreFault` when this thread has a transaction open already.
        """
        with self._writing() as connection:
            if fence is not None:
                _check_fence(connection, fence)
            transaction = SqlTransaction(self._database, connection, self._clock, turn)
            try:
                yield transaction
            finally:
                transaction.close()

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        if getattr(self._open, "busy", False):
            raise StoreFault(
                "A transaction is open in this thread already; they do not nest.",
                next_step="Write through the transaction that is open, or end it first.",
            )
        self._open.busy = True
        try:
            with self._faults(), self._writer.connect() as connection:
                with _rolled_back_on_error(connection):
                    yield connection
                self._commit(connection)
        finally:
            self._open.busy = False

    def _commit(self, connection: sa.Connection) -> None:
        dialect = self._database.dialect
        reason = dialect.refuse_commit(connection)
        if reason:
            connection.invalidate()
            raise StoreFault(
                f"The transaction on {self._database.address.name} was not committed: {reason}.",
                next_step="Run again.",
                outcome="not committed",
            )
        try:
            connection.commit()
        except SQLAlchemyError as error:
            certain = dialect.surely_not_committed(error)
            connection.invalidate()
            raise self._database.fault(error, unknown=not certain) from error

    # ---- reading

    def read(self, collection: str, key: str, type: type[T]) -> T | None:
        """Give the committed document decoded as ``type``, or None."""
        check_text(collection, key)
        with self._reading() as connection:
            return _read(connection, collection, key, type)

    def scan(
        self,
        collection: str,
        type: type[T],
        *,
        prefix: str = "",
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[tuple[str, T]]:
        """List committed documents in the order of the code points of their keys, or the reverse."""
        check_text(collection, prefix)
        query = sa.select(_documents.key, _documents.value).where(_documents.collection == collection)
        if prefix:
            query = query.where(_documents.key >= prefix, sa.func.substr(_documents.key, 1, len(prefix)) == prefix)
        query = query.order_by(_documents.key.desc() if newest_first else _documents.key).limit(limit)
        with self._reading() as connection:
            return [(key, _decode(value, type, collection, key)) for key, value in connection.execute(query)]

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
        """Events that match, in order of sequence, or the reverse; ``until`` is inclusive."""
        check_text(*kinds, subject or "")
        query = sa.select(schema.events)
        if kinds:
            query = query.where(_events.kind.in_(kinds))
        if subject is not None:
            query = query.where(_events.subject == subject)
        if after:
            query = query.where(_events.sequence > after)
        if until is not None:
            query = query.where(_events.at <= timestamp(until))
        query = query.order_by(_events.sequence.desc() if newest_first else _events.sequence).limit(limit)
        with self._reading() as connection, _readable(), _no_collection():
            return [event_of(row) for row in connection.execute(query).all()]

    def verify(self) -> Verification:
        """Recompute every hash, in bounded memory, over one consistent view."""
        query = sa.select(schema.events).order_by(_events.sequence).execution_options(yield_per=_BATCH_ROWS)
        with self._reading() as connection, connection.execute(query) as rows:
            return check_chain(tuple(row) for row in rows)

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._faults(), self._engine.connect() as connection:
            yield connection

    def _faults(self) -> Any:
        return self._database.faults()

    # ---- leases

    def acquire(self, name: str, *, ttl_s: float) -> Fence:
        """Take a lease; raises :class:`~interlock.errors.LeaseHeld` while another lives.

        A holder on this host that is dead loses it at once, any other when its time is up.
        """
        check_text(name)
        with self._writing() as connection:
            now = self._now(connection)
            row = connection.execute(sa.select(schema.leases).where(_leases.name == name)).one_or_none()
            if row is not None and row.holder and now < moment(row.expires_at) and not surely_dead(_holder(row)):
                raise lease_held(name, row.holder, row.taken_at, row.expires_at)
            me = this_process()
            fence = Fence(name=name, number=1 if row is None else row.number + 1, holder=me.label)
            values = {
                "name": name,
                "number": fence.number,
                "holder": fence.holder,
                "host": me.host,
                "pid": me.pid,
                "started": me.started,
                "taken_at": timestamp(now),
                "expires_at": timestamp(now + timedelta(seconds=ttl_s)),
            }
            statement = self._database.dialect.upsert(schema.leases).values(values)
            connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))
            return fence

    def renew(self, fence: Fence, *, ttl_s: float) -> None:
        """Extend; raises :class:`~interlock.errors.LeaseLost` when overtaken or given back."""
        with self._writing() as connection:
            _check_fence(connection, fence)
            until = timestamp(self._now(connection) + timedelta(seconds=ttl_s))
            held = (_leases.name == fence.name) & (_leases.number == fence.number) & (_leases.holder != "")
            done = connection.execute(sa.update(schema.leases).where(held).values(expires_at=until))
            if done.rowcount == 0:
                raise lease_lost(fence, fence.number)

    def release(self, fence: Fence) -> None:
        """Give back; harmless when already lost."""
        held = (_leases.name == fence.name) & (_leases.number == fence.number)
        with self._writing() as connection:
            connection.execute(sa.update(schema.leases).where(held).values(holder=""))

    def _now(self, connection: sa.Connection) -> datetime:
        """Time by which leases are measured: the clock of this process, corrected once by the one that all share."""
        now = self._clock.now()
        if self._lead is None:
            self._lead = self._database.dialect.lead(connection, now)
        return now + self._lead

    def close(self) -> None:
        """Let go of connections."""
        self._engine.dispose()


class SqlTransaction:
    """Implements :class:`interlock.ports.Transaction`; refuses to be used after its block has ended."""

    def __init__(self, database: Database, connection: sa.Connection, clock: Clock, turn: str) -> None:
        self._upsert = database.dialect.upsert
        self._live: sa.Connection | None = connection
        self._clock = clock
        self._turn = turn
        self._head: Head | None = None

    def append(self, kind: str, subject: str, facts: Mapping[str, Any]) -> Event:
        """Add an event at the end of the chain; raises StoreFault when facts hold NaN or infinity."""
        connection = self._connection
        head = self._head or _head(connection)
        row = chained(head, self._clock.now(), self._turn, kind, subject, facts)
        connection.execute(sa.insert(schema.events), row._asdict())
        self._head = Head(row.sequence, row.hash)
        return event_of(row)

    def insert(self, collection: str, key: str, value: object) -> None:
        """Write a document that must not exist yet; raises :class:`~interlock.errors.Conflict` when it does."""
        statement = self._upsert(schema.documents).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        if self._connection.execute(statement, self._values(collection, key, value)).rowcount == 0:
            raise document_exists(collection, key)

    def put(self, collection: str, key: str, value: object) -> None:
        """Write a document, new or not."""
        statement = self._upsert(schema.documents)
        changes = {"value": statement.excluded.value, "changed_at": statement.excluded.changed_at}
        statement = statement.on_conflict_do_update(index_elements=["collection", "key"], set_=changes)
        self._connection.execute(statement, self._values(collection, key, value))

    def read(self, collection: str, key: str, type: type[T]) -> T | None:
        """Give the document decoded as ``type``, with the writes of this transaction, or None."""
        check_text(collection, key)
        return _read(self._connection, collection, key, type)

    def close(self) -> None:
        """End of the block: no write goes through any more."""
        self._live = None

    @property
    def _connection(self) -> sa.Connection:
        if self._live is None:
            raise StoreFault("This transaction has ended.", next_step="Open another one.")
        return self._live

    def _values(self, collection: str, key: str, value: object) -> dict[str, str]:
        check_text(collection, key)
        text = canonical(value).decode()
        return {"collection": collection, "key": key, "value": text, "changed_at": timestamp(self._clock.now())}


# ---- the same words for every ledger -----------------------------------------------------------------------------


def lease_held(name: str, holder: str, taken_at: str, expires_at: str) -> LeaseHeld:
    """Say who holds the lease and until when."""
    return LeaseHeld(
        f"The lease '{name}' is held by {holder} since {taken_at}.",
        next_step=f"Wait for it to end; without a sign of life it is free at {expires_at}.",
        name=name,
        holder=holder,
        taken_at=taken_at,
        expires_at=expires_at,
    )


def lease_lost(fence: Fence, newest: int | None) -> LeaseLost:
    """Say that somebody else has taken over."""
    return LeaseLost(
        f"The lease '{fence.name}' number {fence.number} is no longer held (newest: {newest}). Nothing was recorded.",
        next_step="Run again; what the other turn recorded is kept.",
        name=fence.name,
        number=fence.number,
        newest=newest,
    )


def document_exists(collection: str, key: str) -> Conflict:
    """Say that a document was there first."""
    return Conflict(
        f"The record '{collection}/{key}' exists already: somebody else was first.",
        next_step="Run again; the newer record is read then.",
        collection=collection,
        key=key,
    )


# ---- on a connection ---------------------------------------------------------------------------------------------


@contextmanager
def _rolled_back_on_error(connection: sa.Connection) -> Iterator[None]:
    connection.begin()
    try:
        yield
    except BaseException:
        connection.rollback()
        raise


def _check_fence(connection: sa.Connection, fence: Fence) -> None:
    newest = connection.execute(sa.select(_leases.number).where(_leases.name == fence.name)).scalar()
    if newest != fence.number:
        raise lease_lost(fence, newest)


def _holder(row: sa.Row[Any]) -> Holder:
    return Holder(row.host, row.pid, row.started)


def _head(connection: sa.Connection) -> Head:
    query = sa.select(_events.sequence, _events.hash).order_by(_events.sequence.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return Head() if row is None else Head(row.sequence, row.hash)


def _read(connection: sa.Connection, collection: str, key: str, type: type[T]) -> T | None:
    query = sa.select(_documents.value).where(_documents.collection == collection, _documents.key == key)
    value = connection.execute(query).scalar()
    return None if value is None else _decode(value, type, collection, key)


@functools.cache
def _decoder(type: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type)


def _decode(value: str, type: type[T], collection: str, key: str) -> T:
    try:
        result: T = _decoder(cast("Hashable", type)).decode(value)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise StoreFault(
            f"The record '{collection}/{key}' cannot be read as {getattr(type, '__name__', type)}: {error}.",
            next_step="It was written by another version of Interlock, or changed by hand: run 'interlock verify'.",
            collection=collection,
            key=key,
        ) from error
    return result


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the cycle collector: while many small, acyclic values are made it takes three quarters of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (msgspec.MsgspecError, UnicodeError, TypeError) as error:
        raise StoreFault(
            f"An event of the ledger cannot be read: {error}.",
            next_step="It was changed by hand: run 'interlock verify', which names it.",
        ) from error
