"""What ``interlock doctor`` asks a database server before a turn does. Creates and changes nothing."""

import time
from datetime import UTC, datetime

import sqlalchemy as sa

from interlock.records import Record
from interlock.store.address import Address
from interlock.store.dialect import Database
from interlock.store.postgres import OLDEST_SERVER
from interlock.store.schema import connect, metadata, read_revision

_SERVER = sa.text(
    "SELECT current_setting('server_version'), "
    "pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool, "
    "current_setting('fsync')::bool, "
    "coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false), "
    "inet_server_addr() IS NULL OR inet_server_addr() <<= '127.0.0.0/8' OR inet_server_addr() = '::1'"
)
_MAY_CREATE = sa.text(
    "SELECT coalesce((SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE') "
    "FROM pg_namespace WHERE nspname = :schema), has_database_privilege(current_database(), 'CREATE'))"
)
_MAY_WRITE = sa.text(
    "SELECT has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') "
    "AND (c.relname = 'events' OR has_table_privilege(c.oid, 'UPDATE')) "
    "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = :schema AND c.relname = :table"
)


class Survey(Record, frozen=True, kw_only=True):
    """One look at a server.

    ``revision``: of the tables, None when there are none yet. ``allowed``: to do what is due (create the tables, or
    write to them). ``lead_s``: the clock of the server is so far ahead of this host's.
    """

    version: str
    revision: str | None
    allowed: bool
    read_only: bool
    fsync: bool
    encrypted: bool
    same_host: bool
    round_trip_ms: float
    lead_s: float
    old: bool


def survey(address: Address) -> Survey:
    """Look at the server at ``address``; raises StoreFault when it cannot be reached or used."""
    database = connect(address)
    try:
        with database.faults(), database.engine.connect() as connection:
            return _survey(connection, database)
    finally:
        database.dispose()


def _survey(connection: sa.Connection, database: Database) -> Survey:
    schema = {"schema": database.address.schema}
    revision = read_revision(connection, database)
    version, read_only, fsync, encrypted, same_host = connection.execute(_SERVER).one()
    if revision is None:
        allowed = bool(connection.execute(_MAY_CREATE, schema).scalar())
    else:
        allowed = all(connection.execute(_MAY_WRITE, schema | {"table": table}).scalar() for table in metadata.tables)
    started = time.perf_counter()
    lead = database.dialect.lead(connection, datetime.now(UTC))
    numbers = connection.dialect.server_version_info or (0,)
    return Survey(
        version=version,
        revision=revision,
        allowed=allowed,
        read_only=read_only,
        fsync=fsync,
        encrypted=encrypted,
        same_host=same_host,
        round_trip_ms=(time.perf_counter() - started) * 1000,
        lead_s=lead.total_seconds(),
        old=tuple(numbers) < OLDEST_SERVER,
    )
