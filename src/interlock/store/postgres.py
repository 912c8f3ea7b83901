"""The state in a schema of a Postgres database, by psycopg 3.

The write lock is an advisory lock of the transaction, one for each schema: it needs no table to be there, so it also
guards creation; it stands in nobody's way but ours (a table lock would fight autovacuum); and it ends with the
transaction, however that ends. All settings are local to the transaction (``SET LOCAL``) and nothing is prepared, so
a pooler in transaction mode may stand between.
"""

import os
import zlib
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from interlock.errors import SettingsError, StoreFault, bounded
from interlock.store import dialect
from interlock.store.address import Address
from interlock.store.dialect import WRITES, Cause

OLDEST_SERVER = (13, 0)
CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 60
SILENCE_S = 75
"""The server itself ends a statement before this; who says nothing for so long does not answer any more."""
MIGRATION_S = 3600
"""Creating or migrating tables may take so long."""
IDLE_TIMEOUT_S = 60
"""A pause inside a transaction may last so long: a writer that was stopped must not lock out the rest."""
_LOCK = 0x494C_434B
_CONNECTION = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "tcp_user_timeout": 30_000,  # milliseconds until unacknowledged bytes end the connection
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "application_name": "interlock",
}
"""libpq's parameters, unless the URL or libpq's own variable says otherwise."""
_VARIABLES = {"connect_timeout": "PGCONNECT_TIMEOUT", "application_name": "PGAPPNAME"}

_RESTART = "Wait until the server is up again, and run again."
_REACH = (
    "Check that the server runs, and host, port, user, password (percent-encoded) and database in store.state; "
    "then 'interlock doctor'."
)
_RIGHTS = "Ask the owner of the database for the rights, or for a schema that this role owns; then 'interlock doctor'."
_CAUSES = {
    "08": ("cannot be reached any more", _RESTART),
    "22": ("refused a value", "Please report it: nothing was recorded."),
    "25006": ("cannot be written: it is a replica or read-only", "Point store.state at the primary server."),
    "25P03": ("ended a transaction that was idle for too long", "Run again."),
    "28": ("refused the login", _REACH),
    "3D000": ("does not exist", _REACH),
    "3F000": ("has no such schema, or this role may not use it", _RIGHTS),
    "40": ("was changed by another process in the same moment", "Run again."),
    "42501": ("may not be used so by this role", _RIGHTS),
    "42P01": ("lacks a table, or this role may not use its schema", _RIGHTS),
    "53100": ("cannot grow: the disk of the server is full", "Free some space there and run again."),
    "53300": ("has no free connection", "Raise max_connections of the server, or use a pooler."),
    "53": ("has too few resources", "Look at the server's log, then run again."),
    "55P03": ("is locked by another process", "Wait until it ends, or end it, and run again."),
    "57014": (f"took longer than {STATEMENT_TIMEOUT_S} s for one statement", "Look at the server, then run again."),
    "57P": ("is stopping or starting", _RESTART),
    "58": ("could not be read or written: the server reported an error of its system", "Look at the server's log."),
    "XX": ("is corrupt, or the server has a fault", "Look at the server's log, and restore it from a backup."),
}
"""By SQLSTATE or the beginning of one; the longest that fits is taken (appendix A of Postgres's manual)."""
_ROLLED_BACK = ("22", "23", "25", "40001", "40P01", "42", "53", "55", "57014")
"""States after which a failed COMMIT has surely changed nothing; a server that goes down says nothing certain."""


class Postgres:
    """Implements :class:`interlock.store.dialect.Dialect`."""

    def engine(self, address: Address) -> sa.Engine:
        """Make an engine that begins its own transactions, with the lock and the limits in one round trip."""
        _require_driver()
        chosen = {
            name: value
            for name, value in _CONNECTION.items()
            if name not in address.url.query and _VARIABLES.get(name, "") not in os.environ
        }
        engine = sa.create_engine(
            address.url,
            connect_args={**chosen, "client_encoding": "utf8", "prepare_threshold": None},
            pool_pre_ping=True,
            pool_timeout=dialect.BUSY_TIMEOUT_S,
            use_native_hstore=False,
        )

        @sa.event.listens_for(engine, "do_connect")
        def connect(_dialect: object, _record: object, given: Any, named: Any) -> Any:
            from interlock.store.connection import BoundedConnection

            return BoundedConnection.connect(*given, **named)

        @sa.event.listens_for(engine, "connect")
        def connected(connection: Any, _record: object) -> None:
            connection.autocommit = True  # the driver begins nothing by itself

        @sa.event.listens_for(engine, "checkin")
        def returned(connection: Any, _record: object) -> None:
            if connection is not None:
                connection.limit_s = CONNECT_TIMEOUT_S  # whoever takes it asks first whether anybody is there

        @sa.event.listens_for(engine, "begin")
        def begun(connection: sa.Connection) -> None:
            _driver(connection).limit_s = SILENCE_S
            writes = connection.get_execution_options().get(WRITES, False)
            connection.exec_driver_sql(_begin(address.schema, writes=bool(writes)))

        return engine

    def inspect(self, connection: sa.Connection, address: Address) -> set[str]:
        """Names of the tables in the schema; refuses a database that is not in UTF-8."""
        query = sa.text(
            "SELECT current_setting('server_encoding'), array(SELECT relname::text FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = :schema AND c.relkind IN ('r', 'p', 'v', 'm', 'f'))"
        )
        encoding, names = connection.execute(query, {"schema": address.schema}).one()
        if encoding != "UTF8":
            raise StoreFault(
                f"The state database {address.name} has the encoding {encoding}; the ledger needs UTF8.",
                next_step="Create one with: CREATE DATABASE name TEMPLATE template0 ENCODING 'UTF8'.",
                path=address.name,
                encoding=encoding,
            )
        return set(names)

    def prepare(self, connection: sa.Connection, address: Address) -> None:
        """Create the schema where it is missing; a migration may take its time."""
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_milliseconds(MIGRATION_S)}")
        _driver(connection).limit_s = MIGRATION_S + SILENCE_S
        found = sa.text("SELECT count(*) FROM pg_namespace WHERE nspname = :schema")
        if not connection.execute(found, {"schema": address.schema}).scalar():
            connection.execute(sa.schema.CreateSchema(address.schema))

    def upsert(self, table: sa.Table) -> Any:
        """Postgres's INSERT … ON CONFLICT."""
        return insert(table)

    def refuse_commit(self, connection: sa.Connection) -> str:
        """After a failed statement COMMIT rolls back and reports success; a lost connection was told before it."""
        status = _driver(connection).info.transaction_status.name
        return {"INERROR": "a statement of it had failed", "UNKNOWN": "the connection was lost before"}.get(status, "")

    def surely_not_committed(self, error: Exception) -> bool:
        """By SQLSTATE; an error without one is a lost connection, and nobody knows."""
        state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
        return state.startswith(_ROLLED_BACK)

    def lead(self, connection: sa.Connection, now: datetime) -> timedelta:
        """Clock of the server against that of this host: leases of several hosts are measured by one clock."""
        moment: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return moment - now

    def cause(self, error: BaseException) -> Cause:
        """By SQLSTATE; without one, the connection could not be made or was lost."""
        state = getattr(error, "sqlstate", None)
        name = type(error).__name__
        if state is None and name in ("OperationalError", "ConnectionTimeout"):
            return Cause(name, f"cannot be reached: {bounded(' '.join(str(error).split()), 300)}", _REACH)
        fitting = [start for start in _CAUSES if (state or "").startswith(start)]
        if fitting:
            return Cause(f"{state} {name}", *_CAUSES[max(fitting, key=len)])
        first = bounded(str(error).partition("\n")[0], 300)
        return Cause(
            f"{state} {name}" if state else name, f"failed: {first}", "Run 'interlock doctor', then run again."
        )


def _begin(schema: str, *, writes: bool) -> str:
    """Statements that open a transaction. ``schema`` is a checked name, and quoted all the same."""
    quoted = '"' + schema.replace('"', '""') + '"'
    statements = [
        f"BEGIN ISOLATION LEVEL READ COMMITTED{'' if writes else ' READ ONLY'}",
        f"SET LOCAL search_path = {quoted}",
        f"SET LOCAL statement_timeout = {_milliseconds(STATEMENT_TIMEOUT_S)}",
        f"SET LOCAL idle_in_transaction_session_timeout = {_milliseconds(IDLE_TIMEOUT_S)}",
    ]
    if writes:
        statements += [
            f"SET LOCAL lock_timeout = {_milliseconds(dialect.BUSY_TIMEOUT_S)}",
            # what was acknowledged survives a crash of the server, whatever the role's default is
            "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'",
            f"SELECT pg_advisory_xact_lock({_LOCK}, {lock_key(schema)})",
        ]
    return "; ".join(statements)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))  # 0 would mean no limit


def lock_key(schema: str) -> int:
    """Second half of the key of the write lock: a signed 32-bit number."""
    return int.from_bytes(zlib.crc32(schema.encode()).to_bytes(4), signed=True)


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.driver_connection


def _require_driver() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError as problem:
        raise SettingsError(
            "store.state is on Postgres, and the driver psycopg is not installed.",
            next_step="Install it: pip install 'interlock[postgres]'.",
        ) from problem
