"""The tables of the state database, and the one way to open it.

A new database is created straight from the tables below and stamped, because Alembic takes half a second to import; an
older one is migrated by Alembic. A test holds that both ways give the same schema, on SQLite and on Postgres. Either
happens in one transaction under the write lock, so a program that dies in it leaves the old schema, and two that start
at once do not meet.
"""

from pathlib import Path

import sqlalchemy as sa

from interlock.errors import StoreFault
from interlock.store.address import Address, file_address
from interlock.store.dialect import WRITES, Database, Dialect

REVISION = "0001"
"""Alembic revision of the tables below (the head of ``migrations/``)."""
KNOWN_REVISIONS = ("0001",)
REVISION_TABLE = "alembic_version"

metadata = sa.MetaData()
Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Text in the order of its code points, which is SQLite's and not that of a Postgres locale."""
Count = sa.Integer().with_variant(sa.BigInteger(), "postgresql")
"""A whole number of 64 bits."""

events = sa.Table(
    "events",
    metadata,
    sa.Column("sequence", Count, primary_key=True, autoincrement=False),
    sa.Column("at", Text, nullable=False),
    sa.Column("kind", Text, nullable=False),
    sa.Column("subject", Text, nullable=False),
    sa.Column("turn", Text, nullable=False),
    sa.Column("facts", Text, nullable=False),
    sa.Column("previous", Text, nullable=False),
    sa.Column("hash", Text, nullable=False),
    sa.Index("events_by_kind", "kind", "sequence"),
    sa.Index("events_by_subject", "subject", "sequence"),
)

documents = sa.Table(
    "documents",
    metadata,
    sa.Column("collection", Text, primary_key=True),
    sa.Column("key", Text, primary_key=True),
    sa.Column("value", Text, nullable=False),
    sa.Column("changed_at", Text, nullable=False),
    sqlite_with_rowid=False,
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", Text, primary_key=True),
    sa.Column("number", Count, nullable=False),
    sa.Column("holder", Text, nullable=False),
    sa.Column("host", Text, nullable=False),
    sa.Column("pid", Count, nullable=False),
    sa.Column("started", Text, nullable=False),
    sa.Column("taken_at", Text, nullable=False),
    sa.Column("expires_at", Text, nullable=False),
)

revisions = sa.Table(
    REVISION_TABLE,
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def open_database(where: Path | Address) -> Database:
    """Open the database in a SQLite file, or at an address; created or migrated when needed.

    Raises :class:`~interlock.errors.StoreFault` when it is newer than this program, not one of Interlock's, corrupt,
    locked, cannot be reached or cannot be written, and :class:`~interlock.errors.SettingsError` when the driver is
    missing.
    """
    database = connect(where if isinstance(where, Address) else file_address(where))
    try:
        with database.faults():
            _ensure_schema(database)
    except BaseException:
        database.dispose()
        raise
    return database


def connect(address: Address) -> Database:
    """Make the engine of a database without looking at it."""
    dialect = _dialect(address)
    return Database(dialect.engine(address), dialect, address)


def _dialect(address: Address) -> Dialect:
    if address.path is not None:
        from interlock.store.sqlite import Sqlite

        return Sqlite()
    from interlock.store.postgres import Postgres

    return Postgres()


# ---- schema ------------------------------------------------------------------------------------------------------


def _ensure_schema(database: Database) -> None:
    with database.engine.connect() as connection:
        if read_revision(connection, database) == REVISION:
            return
    with database.engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        found = read_revision(connection, database)  # somebody else may have been faster
        if found == REVISION:
            return
        database.dialect.prepare(connection, database.address)
        if found is None:
            create_directly(connection)
        else:
            migrate(connection)


def read_revision(connection: sa.Connection, database: Database) -> str | None:
    """Read the revision of the database, None when it is empty.

    Raises :class:`~interlock.errors.StoreFault` when it is newer than this program, or somebody else's.
    """
    address = database.address
    tables = database.dialect.inspect(connection, address)
    if not tables:
        return None
    found = connection.execute(sa.select(revisions.c.version_num)).scalar() if REVISION_TABLE in tables else None
    if found in KNOWN_REVISIONS:
        return str(found)
    if found is None or not {events.name, leases.name} <= tables:
        raise StoreFault(
            f"{address.name} is a database with tables{f' in {address.schema}' if address.schema else ''}, "
            "but not one of Interlock's.",
            next_step=f"Point {'store.schema at another schema' if address.schema else 'store.state at another file'}.",
            path=address.name,
        )
    raise StoreFault(
        f"The state database {address.name} has schema revision {found}; this program knows up to {REVISION}.",
        next_step="Use the version of Interlock that wrote it, or a newer one.",
        path=address.name,
        revision=found,
        known=REVISION,
    )


def create_directly(connection: sa.Connection) -> None:
    """Create all tables in an empty database and stamp it with the newest revision."""
    metadata.create_all(connection, checkfirst=False)
    revisions.create(connection)
    connection.execute(revisions.insert().values(version_num=REVISION))


def migrate(connection: sa.Connection, to: str = "head") -> None:
    """Bring a database to a revision with Alembic, inside the transaction of ``connection``."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, to)
