from pathlib import Path

from interlock.store.blobs import LocalBlobs
from interlock.store.ledger import SqlLedger
from interlock.store.schema import open_database
from interlock.store.tables import DeltaTables
from interlock.testing.clock import ManualClock
from interlock.testing.conformance import BlobsConformance, LedgerConformance, TablesConformance


class TestSqlLedger(LedgerConformance):
    def open(self, folder: Path, clock: ManualClock) -> SqlLedger:
        return SqlLedger(open_database(folder / "state.db"), clock)


class TestLocalBlobs(BlobsConformance):
    def open(self, folder: Path) -> LocalBlobs:
        return LocalBlobs(folder)


class TestDeltaTables(TablesConformance):
    def open(self, folder: Path) -> DeltaTables:
        return DeltaTables(folder)
