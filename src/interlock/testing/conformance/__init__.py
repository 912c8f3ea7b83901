"""One suite for each port, in a module of its own.

Subclass it in a test module and give it the adapter; pytest collects the rest::

    class TestMyLedger(LedgerConformance):
        def open(self, folder, clock):
            return MyLedger(folder, clock)

The suites use plain asserts and pytest's ``tmp_path`` fixture, and import no test framework.
"""

from interlock.testing.conformance.blobs import BlobsConformance
from interlock.testing.conformance.ledger import LedgerConformance
from interlock.testing.conformance.statements import Note, refuses
from interlock.testing.conformance.tables import TablesConformance

__all__ = ["BlobsConformance", "LedgerConformance", "Note", "TablesConformance", "refuses"]
