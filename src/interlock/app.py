"""Composition root: settings become wired parts. The only place that chooses adapters."""

from collections.abc import Iterator
from contextlib import contextmanager

from interlock.ports import Parts
from interlock.settings import Settings
from interlock.store.address import state_address
from interlock.store.blobs import LocalBlobs
from interlock.store.clock import SystemClock
from interlock.store.ledger import SqlLedger
from interlock.store.project import claim
from interlock.store.schema import open_database
from interlock.store.tables import DeltaTables


@contextmanager
def open_parts(settings: Settings) -> Iterator[Parts]:
    """Wire a project, and let go of its connections at the end.

    Raises :class:`~interlock.errors.StoreFault` when the database cannot be opened, and
    :class:`~interlock.errors.SettingsError` when it belongs to another project.
    """
    clock = SystemClock()
    lake = settings.path(settings.store.lake)
    blobs = LocalBlobs(lake)
    blobs.sweep(clock.now())
    state = state_address(settings)
    ledger = SqlLedger(open_database(state), clock)
    try:
        claim(ledger, blobs, settings, state.name)
        yield Parts(
            settings=settings,
            clock=clock,
            ledger=ledger,
            blobs=blobs,
            tables=DeltaTables(lake / "tables"),
        )
    finally:
        ledger.close()
