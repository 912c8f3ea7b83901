"""What a training snapshot of a large table costs: pinning, splitting, ordering and naming its rows.

    python bench/snapshot.py [--stored 10000000]

The table is that of ``bench/ingest.py``: ``--stored`` rows x 14 columns from ten files. The snapshot is made of it as
it is, and once more after a file that replaces one row in two hundred, so that the newest row of each key has to be
found. Each in a process of its own; peak MB is its VmHWM. All is made in a temporary folder, which is removed.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ingest import KEYED, copied, make_project, make_table, measured, peak_mb


def run_snapshot(project: Path) -> dict[str, Any]:
    from interlock.app import open_parts
    from interlock.configuration import load_settings
    from interlock.data.snapshot import make_snapshot
    from interlock.ports import Turn

    with open_parts(load_settings(project)) as parts:
        turn = Turn(id="bench", fence=parts.ledger.acquire("turn", ttl_s=600))
        started, cpu = time.perf_counter(), time.process_time()
        snapshot = make_snapshot(parts, turn)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "rows": snapshot.rows, "peak_mb": peak_mb()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--stored", type=int, default=10_000_000)
    options.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(run_snapshot(chosen.child)))
        return
    print(f"Python {platform.python_version()}, polars {version('polars')}, deltalake {version('deltalake')}\n")
    print("| table | rows | seconds | CPU s | peak MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_project(folder, chosen.stored // 10, chosen.stored)
        make_table(folder, KEYED)
        replaced = copied(folder / "keyed", folder / "work", folder / "new.parquet")
        measured("interlock", replaced)
        for name, project in (("nothing replaced", folder / "keyed"), ("some rows replaced", replaced)):
            command = [sys.executable, __file__, "--child", str(project)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            cost = f"{found['seconds']:.0f} | {found['cpu']:.0f} | {found['peak_mb']:,.0f}"
            print(f"| {name} | {found['rows']:,} | {cost} |", flush=True)


if __name__ == "__main__":
    main()
