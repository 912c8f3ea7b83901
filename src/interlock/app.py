"""Composition root: settings become wired parts. The only place that chooses adapters."""

from collections.abc import Iterator
from contextlib import contextmanager

from interlock.errors import NothingToServe
from interlock.ports import Blobs, Ledger, Parts, Tables
from interlock.settings import Settings
from interlock.store.address import state_address
from interlock.store.blobs import LocalBlobs
from interlock.store.claim import claim
from interlock.store.clock import SystemClock
from interlock.store.late import LateLedger
from interlock.store.ledger import SqlLedger
from interlock.store.objects import ObjectBlobs
from interlock.store.places import cache_of, patience_of
from interlock.store.schema import open_database
from interlock.store.table_files import ObjectFiles
from interlock.store.tables import DeltaTables


@contextmanager
def open_parts(settings: Settings, *, late: bool = False) -> Iterator[Parts]:
    """Wire a project, and let go of its connections at the end.

    With ``late`` the database is opened when it is first asked, and again until it is there, and a SQLite file is not
    made: what would be raised here is then raised by the methods of the ledger.

    Raises :class:`~interlock.errors.StoreFault` when the database cannot be opened, and
    :class:`~interlock.errors.SettingsError` when it belongs to another project or a data contract cannot be read.
    """
    settings = _with_contracts(settings)
    clock = SystemClock()
    blobs, tables = _open_lake(settings, clock)
    ledger: Ledger = (
        LateLedger(lambda: _there(settings, blobs, clock)) if late else _open_ledger(settings, blobs, clock)
    )
    try:
        yield Parts(
            settings=settings,
            clock=clock,
            ledger=ledger,
            blobs=blobs,
            tables=tables,
        )
    finally:
        ledger.close()


def _open_ledger(settings: Settings, blobs: Blobs, clock: SystemClock) -> Ledger:
    """The ledger of a state that is this project's own."""
    state = state_address(settings)
    ledger = SqlLedger(open_database(state), clock)
    try:
        claim(ledger, blobs, settings, state.name)
    except BaseException:
        ledger.close()
        raise
    return ledger


def _there(settings: Settings, blobs: Blobs, clock: SystemClock) -> Ledger:
    path = settings.state_path
    if path is not None and not path.exists():
        raise NothingToServe(
            f"There is no state in {path}, so nothing is live.", next_step="Run 'interlock run', or bring it back."
        )
    return _open_ledger(settings, blobs, clock)


def _with_contracts(settings: Settings) -> Settings:
    """The settings as the data contracts of their sources complete them."""
    if not any(source.contract for source in settings.sources.values()):
        return settings
    from interlock.data.agreement import with_contracts

    return with_contracts(settings)


def _open_lake(settings: Settings, clock: SystemClock) -> tuple[Blobs, Tables]:
    """Blobs and tables of ``store.lake``, a folder or a prefix of a bucket."""
    if "://" in settings.store.lake:
        bucket = ObjectBlobs(settings.store.lake, patience_of(settings))
        cache = cache_of(settings)
        return bucket, DeltaTables(lambda table: ObjectFiles(bucket, f"tables/{table}", cache))
    lake = settings.path(settings.store.lake)
    blobs = LocalBlobs(lake)
    blobs.sweep(clock.now())
    return blobs, DeltaTables(lake / "tables")


def open_tables(settings: Settings, clock: SystemClock) -> Tables:
    """The tables of a project alone, for a process that needs nothing else of it."""
    return _open_lake(settings, clock)[1]
