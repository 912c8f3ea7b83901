from pathlib import Path

from interlock.testing.clock import ManualClock
from interlock.testing.conformance import BlobsConformance, LedgerConformance, TablesConformance
from interlock.testing.fakes import MemoryBlobs, MemoryLedger, MemoryTables


class TestMemoryLedger(LedgerConformance):
    def open(self, folder: Path, clock: ManualClock) -> MemoryLedger:
        return MemoryLedger(clock)


class TestMemoryBlobs(BlobsConformance):
    def open(self, folder: Path) -> MemoryBlobs:
        return MemoryBlobs()


class TestMemoryTables(TablesConformance):
    def open(self, folder: Path) -> MemoryTables:
        return MemoryTables(folder)
