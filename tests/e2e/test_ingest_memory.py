"""A first file is taken in by a program of its own, whose peak memory must not grow with the file."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

SETTINGS = """
[model]
name = "m"
task = "classification"
target = "c"

[data]
inbox = "in"
key = ["a"]
"""
PROGRAM = """
import sys
from pathlib import Path

from interlock.app import open_parts
from interlock.configuration import load_settings
from interlock.data import dedupe, spool
from interlock.data.ingest import ingest
from interlock.ports import Turn

spool.BUDGET_BYTES = int(sys.argv[2])  # a small file in the place of a large one
dedupe._PART_ROWS = 2**17
dedupe._ENTRIES_BYTES = 2**20
with open_parts(load_settings(Path(sys.argv[1]))) as parts:
    (result,) = ingest(parts, Turn(id="t", fence=parts.ledger.acquire("turn", ttl_s=600)), "data")
peak = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(result.accepted, int(peak[0]) // 1024)
"""


def peak_mb(project: Path, rows: int) -> int:
    """Peak of resident memory in MB while a first file of so many rows is taken in."""
    (project / "in").mkdir(parents=True)
    (project / "interlock.toml").write_text(SETTINGS)
    number = pl.int_range(rows, eager=True)
    frame = pl.DataFrame(
        {"a": number, "b": number * 7919 % 100_003 / 8, "c": (number % 2).cast(pl.String) + " is the class"}
    )
    frame.with_columns(pl.format("{} is a text of some length", "a").alias("d")).write_csv(project / "in" / "a.csv")
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(project), str(8 * 2**20)], capture_output=True, text=True, check=True
    )
    accepted, peak = map(int, found.stdout.split())
    assert accepted == rows
    return peak


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux")
def test_peak_memory_does_not_grow_with_a_first_file(tmp_path: Path) -> None:
    small, large = peak_mb(tmp_path / "small", 150_000), peak_mb(tmp_path / "large", 600_000)
    # in memory as a whole the larger file takes 100 MB more; 5 to 20 MB are the noise of allocators
    assert large < small + 60
    assert large < 320
