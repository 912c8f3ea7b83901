from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interlock.ports import Engine
from interlock.testing.clock import ManualClock
from interlock.testing.conformance import BlobsConformance, LedgerConformance, TablesConformance
from interlock.testing.engine import EngineConformance
from interlock.testing.fakes import InlineEngine, MemoryBlobs, MemoryLedger, MemoryTables


class TestMemoryLedger(LedgerConformance):
    def open(self, folder: Path, clock: ManualClock) -> MemoryLedger:
        return MemoryLedger(clock)


class TestMemoryBlobs(BlobsConformance):
    def open(self, folder: Path) -> MemoryBlobs:
        return MemoryBlobs()


class TestMemoryTables(TablesConformance):
    def open(self, folder: Path) -> MemoryTables:
        return MemoryTables(folder)


class TestInlineEngine(EngineConformance):
    parallel = stoppable = False

    @contextmanager
    def engine(self, folder: Path, width: int) -> Iterator[Engine]:
        yield InlineEngine()
