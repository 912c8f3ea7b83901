"""kill -9 in the middle of many writes; a run after it finds whole commits only, each once."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from interlock.store.address import file_address, server_address
from interlock.store.blobs import LocalBlobs
from interlock.store.ledger import SqlLedger
from interlock.store.schema import open_database
from interlock.store.tables import DeltaTables
from interlock.testing.clock import ManualClock

KILLS = 4


def run_and_kill(root: Path, state: str, lines: int, delay_bytes: int) -> int:
    """Let the writer acknowledge some rounds, then kill it somewhere in the next; gives the last acknowledged."""
    command = [sys.executable, str(Path(__file__).parent / "crashing.py"), str(root), state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = [int(process.stdout.readline()) for _ in range(lines)][-1]
        sum(range(delay_bytes))  # a little work, of another length each time: the blow falls at another place
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
    return int(rest[-1]) if rest else last


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_killed_writer_loses_nothing_and_doubles_nothing(tmp_path, kind, request):
    state = request.getfixturevalue("pg").url if kind == "postgres" else ""
    address = server_address(state, "interlock") if state else file_address(tmp_path / "state.db")
    chance = random.Random(20261121)
    for _ in range(KILLS):
        acknowledged = run_and_kill(tmp_path, state, chance.randint(2, 6), chance.randint(1, 400_000))
        ledger = SqlLedger(open_database(address), ManualClock())
        tables, blobs = DeltaTables(tmp_path / "lake"), LocalBlobs(tmp_path / "blobs")
        outcome = ledger.verify()
        assert outcome.broken_at is None
        done = ledger.scan("done", int)
        assert [key for key, _ in done] == [f"{number:06d}" for number in range(len(done))]
        assert len(done) > acknowledged
        assert outcome.events == 2 * len(done)  # both events of a transaction, or none
        counts = tables.scan("t").group_by("number").len().sort("number").collect()
        assert counts["number"].to_list() == list(range(counts.height))
        assert counts["len"].unique().to_list() == [3]  # each key exactly once, also when it was tried again
        assert counts.height - len(done) in (0, 1)  # at most one commit that the ledger does not know yet
        for number, (_, version) in enumerate(done):
            commit = tables.committed("t", f"k{number}")
            assert commit is not None
            assert (commit.version, commit.facts) == (version, {"number": number})
        for info in blobs.list():
            assert blobs.get(info.key) == b"%d" % int(info.key[2:]) * 1000
        assert len(list(blobs.list())) - len(done) in (0, 1)
        ledger.close()
    assert pl.read_parquet(tables.paths("t")).height == counts.height * 3
