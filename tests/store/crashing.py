"""A writer for ``test_crash.py`` to kill: event by event and row by row, saying on stdout what was acknowledged."""

import sys
from pathlib import Path

import polars as pl

from interlock.store.address import file_address, server_address
from interlock.store.blobs import LocalBlobs
from interlock.store.clock import SystemClock
from interlock.store.ledger import SqlLedger
from interlock.store.schema import open_database
from interlock.store.tables import DeltaTables

LAST = 100_000


def main(root: Path, state: str) -> None:
    address = server_address(state, "interlock") if state else file_address(root / "state.db")
    ledger = SqlLedger(open_database(address), SystemClock())
    tables, blobs = DeltaTables(root / "lake"), LocalBlobs(root / "blobs")
    fence = ledger.acquire("turn", ttl_s=3600)
    for number in range(LAST):
        if ledger.read("done", f"{number:06d}", int) is not None:
            continue
        rows = pl.DataFrame({"number": [number] * 3})
        blobs.put(f"b/{number:06d}", b"%d" % number * 1000)
        commit = tables.append("t", rows, commit_key=f"k{number}", facts={"number": number})
        with ledger.transaction(fence) as t:
            t.append("done", f"{number}", {"version": commit.version})
            t.append("also", f"{number}", {})
            t.insert("done", f"{number:06d}", commit.version)
        print(number, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
