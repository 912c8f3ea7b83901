"""What the ledger costs on SQLite and on Postgres: a recorded step, appending, listing and verifying many events.

Both stores on this machine, in one run, each with what it does to be durable (SQLite: rollback journal, full sync;
Postgres: fsync and synchronous_commit on, over loopback TCP). Without ``--url`` a server of our own is started for it.

    python bench/ledger.py [--events 100000] [--steps 200] [--repeats 5] [--url postgresql://...]
"""

import argparse
import importlib.metadata
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from interlock.store.address import Address, file_address, server_address
from interlock.store.clock import SystemClock
from interlock.store.ledger import SqlLedger
from interlock.store.schema import open_database

SCHEMA = "interlock_bench"
FACTS = {"rows": 1000, "accepted": 998, "duplicates": 2, "digest": "b3" * 32, "share": 0.25, "notes": ["one", "two"]}


@contextmanager
def server(url: str) -> Iterator[str]:
    """The URL of a durable server: the one that was named, or our own."""
    if url:
        yield url
        return
    from infra.postgres import Cluster, binaries

    programs = binaries()
    assert programs is not None, "there is no Postgres server on this machine: name one with --url"
    cluster = Cluster(programs)
    try:
        cluster.start(durable=True)
        yield cluster.url("postgres")
    finally:
        cluster.remove()


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that the work takes, by that clock."""
    started = clock()
    work()
    return clock() - started


def measure(address: Address, events: int, steps: int, repeats: int) -> dict[str, float]:
    """Medians in milliseconds for one call, seconds for the long ones."""
    ledger = SqlLedger(open_database(address), SystemClock())
    fence = ledger.acquire("bench", ttl_s=3600)

    def append(count: int) -> None:
        with ledger.transaction(fence, turn="bench") as t:
            for number in range(count):
                t.append("file.accepted", f"source/file-{number}.csv", FACTS)

    def step(number: int) -> None:
        ledger.read("file", f"{number:06d}", dict)
        with ledger.transaction(fence, turn="bench") as t:
            t.append("file.accepted", f"source/file-{number}.csv", FACTS)
            t.put("file", f"{number:06d}", FACTS)

    loading = timed(lambda: append(events))
    found = {
        "step": statistics.median(timed(lambda number=number: step(number)) for number in range(steps)) * 1000,
        "read": statistics.median(timed(lambda: ledger.read("file", "000000", dict)) for _ in range(steps)) * 1000,
        "one by one": statistics.median(timed(lambda: append(1)) for _ in range(steps)) * 1000,
        "in one": events / loading,
        "list": statistics.median(timed(ledger.events) for _ in range(repeats)),
        "list cpu": statistics.median(timed(ledger.events, time.process_time) for _ in range(repeats)),
        "verify": statistics.median(timed(ledger.verify) for _ in range(repeats)),
        "verify cpu": statistics.median(timed(ledger.verify, time.process_time) for _ in range(repeats)),
    }
    assert ledger.verify().broken_at is None
    ledger.close()
    open_again = [timed(lambda: open_database(address).dispose()) for _ in range(repeats)]
    return found | {"open": statistics.median(open_again) * 1000}


ROWS = {
    "open": "open the database again, ms",
    "read": "read a document, ms",
    "step": "a recorded step (read, then event and document in one transaction), ms",
    "one by one": "an event in a transaction of its own, ms",
    "in one": "events appended in one transaction, per second",
    "list": "list all events, s",
    "list cpu": "… CPU of this process, s",
    "verify": "verify the chain, s",
    "verify cpu": "… CPU of this process, s",
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--events", type=int, default=100_000)
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--url", default="")
    chosen = options.parse_args()
    sizes = (chosen.events, chosen.steps, chosen.repeats)
    with tempfile.TemporaryDirectory() as folder, server(chosen.url) as url:
        sqlite = measure(file_address(Path(folder) / "state.db"), *sizes)
        address = server_address(url, SCHEMA)
        database = open_database(address)
        with database.engine.connect() as connection:
            version = connection.exec_driver_sql("SHOW server_version").scalar()
        database.dispose()
        try:
            postgres = measure(address, *sizes)
        finally:
            drop(address)
    names = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("sqlalchemy", "psycopg", "msgspec"))
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, Postgres {version}, {names};")
    print(f"{chosen.events:,} events; medians of {chosen.repeats}, and of {chosen.steps} for what takes milliseconds\n")
    print("| what | SQLite | Postgres | ratio |\n| --- | ---: | ---: | ---: |")
    for name, label in ROWS.items():
        form = ",.0f" if name == "in one" else ".2f"
        print(f"| {label} | {sqlite[name]:{form}} | {postgres[name]:{form}} | {postgres[name] / sqlite[name]:.2f} |")


def drop(address: Address) -> None:
    """Delete the schema of this run."""
    import psycopg

    url = address.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


if __name__ == "__main__":
    main()
