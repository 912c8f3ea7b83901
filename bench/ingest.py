"""Ingest beside Polars reading the same file, and beside the same job written with pandas or done by a Delta MERGE.

    python bench/ingest.py [--rows 1000000] [--stored 10000000] [--repeats 5] [--peers pandas,merge]
    python bench/ingest.py --quick
    python bench/ingest.py --first 1000000,2000000,4000000

A table of ``--stored`` rows x 14 columns (whole numbers, fractions, text of 2 to 2,000 values, one text that is
never the same twice, two dates, some nulls) is taken in from ten Parquet files. Then a file of ``--rows`` rows comes, a
tenth of them with a key that is stored already, scattered over the whole table: half of these are the stored row, half
changed. Each program gets it in a process of its own, round by round:

* polars: ``read_csv``, ``scan_csv().collect()`` on the streaming engine, or ``read_parquet``, and nothing more.
* polars, written: the same, then ``write_parquet`` of the rows, compressed as the table is, and an fsync: a program
  that keeps the rows can hardly do less.
* interlock: ``ingest``, the stage of a turn: private copy, content digest, UTF-8 and line checks, types, nulls,
  ranges and categories, quarantine, dedupe against the table, durable commit, ledger.
* pandas: read, check the columns the usual way, drop what is stored by merging with the stored rows of the same keys,
  append as Parquet. merge: ``deltalake``'s MERGE of the Polars frame into the same table.

``--first 600000,1200000`` takes in a first file of so many rows instead, as CSV and as Parquet: its memory.

Seconds leave out the imports; CPU seconds tell more on a machine with neighbours. Peak MB is VmHWM of the process.
All is made in a temporary folder, which is removed.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

SETTINGS = """
[model]
name = "bench"
task = "classification"
target = "status"

[data]
inbox = "inbox"
"""
KEYED = 'key = ["id"]\n'
FILES = 10


def make_rows(ids: Any, seed: int) -> Any:
    """Rows with these ids; the same seed gives the same rows."""
    import numpy as np
    import polars as pl

    random, count = np.random.default_rng(seed), len(ids)
    towns = np.array([f"town {number:04d}" for number in range(2_000)])
    lands = np.array(["AT", "BE", "DE", "ES", "FR", "IT", "NL", "PL"])
    days = pl.Series(random.integers(18_000, 20_500, count)).cast(pl.Int32).cast(pl.Date)
    frame = pl.DataFrame(
        {
            "id": ids,
            "customer": random.integers(0, 10**9, count),
            "nights": random.integers(1, 30, count),
            "guests": random.integers(1, 6, count),
            "price": random.gamma(2, 80, count).round(2),
            "discount": random.random(count).round(4),
            "score": random.normal(size=count),
            "rate": (random.random(count) * 100).round(3),
            "land": lands[random.integers(0, len(lands), count)],
            "town": towns[random.integers(0, len(towns), count)],
            "reference": random.integers(10**11, 10**12, count),
            "booked": days,
            "arrives": days.dt.offset_by("9d"),
            "status": np.array(["kept", "cancelled"])[random.integers(0, 2, count)],
        }
    )
    holes = {name: pl.Series(random.random(count) < 0.02) for name in ("discount", "town")}
    return frame.with_columns(
        pl.format("ref-{}", "reference").alias("reference"),
        *(pl.when(hole).then(None).otherwise(pl.col(name)).alias(name) for name, hole in holes.items()),
    )


def make_project(folder: Path, rows: int, stored: int) -> None:
    """The table's ten files in ``inbox``, and the new file beside it as CSV and Parquet."""
    import numpy as np
    import polars as pl

    random, each = np.random.default_rng(1), stored // FILES
    (folder / "inbox").mkdir(parents=True)
    again = []
    for number in range(FILES):
        ids = np.arange(number * each, (number + 1) * each)
        random.shuffle(ids)
        frame = make_rows(ids, number)
        frame.write_parquet(folder / "inbox" / f"{number:02d}.parquet")
        again.append(frame.sample(rows // 10 // FILES, seed=number))
    known = pl.concat(again)
    changed = pl.col("price").is_not_null() & (pl.int_range(pl.len()) % 2 == 0)
    known = known.with_columns(pl.when(changed).then(pl.col("price") + 1).otherwise(pl.col("price")).alias("price"))
    fresh = make_rows(np.arange(stored, stored + rows - known.height), 99)
    new = pl.concat([fresh, known]).sample(fraction=1, shuffle=True, seed=5)
    new.write_csv(folder / "new.csv")
    new.write_parquet(folder / "new.parquet")
    bad = pl.when(pl.int_range(pl.len()) % 2_000 == 7).then(pl.lit("many")).otherwise(pl.col("nights").cast(pl.String))
    new.with_columns(bad.alias("nights")).write_csv(folder / "bad.csv")


def peak_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def run_polars(file: Path, how: str) -> dict[str, Any]:
    import polars as pl

    readers: dict[str, Callable[[], pl.DataFrame]] = {
        "read": lambda: pl.read_csv(file) if file.suffix == ".csv" else pl.read_parquet(file),
        "scan": lambda: (pl.scan_csv(file) if file.suffix == ".csv" else pl.scan_parquet(file)).collect(
            engine="streaming"
        ),
    }
    target = file.with_name("written.parquet")
    started, cpu = time.perf_counter(), time.process_time()
    frame = readers["read" if how == "write" else how]()
    if how == "write":
        frame.write_parquet(target, compression="snappy", statistics=False)
        with target.open("rb") as written:
            os.fsync(written.fileno())
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    target.unlink(missing_ok=True)
    return {"seconds": seconds, "cpu": cpu, "rows": frame.height}


def run_interlock(project: Path) -> dict[str, Any]:
    import deltalake  # noqa: F401
    import numpy as np  # noqa: F401

    from interlock.app import open_parts
    from interlock.configuration import load_settings
    from interlock.data.ingest import ingest
    from interlock.ports import Turn

    with open_parts(load_settings(project)) as parts:
        name = next(iter(parts.settings.sources))
        turn = Turn(id="bench", fence=parts.ledger.acquire("turn", ttl_s=600))
        started, cpu = time.perf_counter(), time.process_time()
        results = ingest(parts, turn, name)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    told = [f"{r.name} {r.status} {r.accepted} {r.duplicates} {r.updated} {r.quarantined} {r.reason}" for r in results]
    return {"seconds": seconds, "cpu": cpu, "rows": sum(result.rows for result in results), "told": told[-1:]}


def run_pandas(project: Path) -> dict[str, Any]:
    import pandas as pd

    started, cpu = time.perf_counter(), time.process_time()
    frame = pd.read_csv(project / "inbox" / "new.csv", parse_dates=["booked", "arrives"])
    numbers = ["id", "customer", "nights", "guests", "price", "score", "rate"]
    for name in numbers:
        assert pd.api.types.is_numeric_dtype(frame[name])
        assert frame[name].notna().all()
    assert frame["land"].isin(["AT", "BE", "DE", "ES", "FR", "IT", "NL", "PL"]).all()
    assert frame["status"].isin(["kept", "cancelled"]).all()
    frame = frame.drop_duplicates("id", keep="last")
    parts = sorted((project / ".interlock/lake/tables/sources/data").glob("*.parquet"))
    ids = set(frame["id"])
    old = pd.concat([part[part["id"].isin(ids)] for part in (pd.read_parquet(path) for path in parts)])
    for name in ("booked", "arrives"):
        old[name] = pd.to_datetime(old[name])
    both = frame.merge(old[[*frame.columns]], how="left", indicator=True)
    both[both.pop("_merge") == "left_only"].to_parquet(project / "out.parquet")
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "rows": len(frame)}


def run_merge(project: Path) -> dict[str, Any]:
    import polars as pl
    from deltalake import DeltaTable

    table = DeltaTable(project / ".interlock/lake/tables/sources/data")
    started, cpu = time.perf_counter(), time.process_time()
    frame = pl.read_csv(project / "inbox" / "new.csv", try_parse_dates=True)
    merge = table.merge(frame, "t.id = s.id", source_alias="s", target_alias="t")
    differs = " or ".join(f"(s.{name} is distinct from t.{name})" for name in frame.columns if name != "id")
    columns = {name: f"s.{name}" for name in frame.columns}
    merge.when_matched_update(columns, predicate=differs).when_not_matched_insert(columns).execute()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "rows": frame.height}


def child(what: str, place: Path) -> None:
    """Do one thing, and print what it cost."""
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "polars-read": lambda: run_polars(place, "read"),
        "polars-scan": lambda: run_polars(place, "scan"),
        "polars-write": lambda: run_polars(place, "write"),
        "interlock": lambda: run_interlock(place),
        "pandas": lambda: run_pandas(place),
        "merge": lambda: run_merge(place),
    }
    print(json.dumps({**runs[what](), "peak_mb": peak_mb()}))


def measured(what: str, place: Path, timeout_s: float = 600) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", what, str(place)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{what} failed: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def copied(project: Path, to: Path, new: Path) -> Path:
    """A project in the same state, with one new file; data files, which nobody changes, are linked."""

    def link(source: str, target: str) -> None:
        if source.endswith((".parquet", ".u64")):
            os.link(source, target)
        else:
            shutil.copy2(source, target)

    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(project, to, copy_function=link)
    shutil.copyfile(new, to / "inbox" / f"new{new.suffix}")
    return to


def make_table(folder: Path, key: str) -> dict[str, Any]:
    project = folder / ("keyed" if key else "keyless")
    (project / "inbox").mkdir(parents=True)
    (project / "interlock.toml").write_text(SETTINGS + key)
    for file in (folder / "inbox").iterdir():
        os.link(file, project / "inbox" / file.name)
    return measured("interlock", project)


def rounds(folder: Path, repeats: int, peers: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Each row of the table as often as asked, in turn, so that a noisy moment hits all of them."""
    files = {"CSV": folder / "new.csv", "Parquet": folder / "new.parquet", "CSV, 0.05 % bad": folder / "bad.csv"}
    found: dict[str, list[dict[str, Any]]] = {}
    work = folder / "work"
    for number in range(repeats):
        for kind in ("CSV", "Parquet"):
            found.setdefault(f"Polars, {kind}", []).append(measured("polars-read", files[kind]))
            found.setdefault(f"Polars streaming, {kind}", []).append(measured("polars-scan", files[kind]))
            found.setdefault(f"Polars, {kind}, written", []).append(measured("polars-write", files[kind]))
        for kind, file in files.items():
            place = copied(folder / "keyed", work, file)
            found.setdefault(f"Interlock, {kind}", []).append(measured("interlock", place))
        for kind in ("CSV", "Parquet"):
            place = copied(folder / "keyless", work, files[kind])
            found.setdefault(f"Interlock, {kind}, no key", []).append(measured("interlock", place))
        for peer in peers if number == 0 else ():
            found[f"{peer}, CSV (once)"] = [measured(peer, copied(folder / "keyed", work, files["CSV"]))]
    return found


def beside(runs: list[dict[str, Any]], others: list[dict[str, Any]], what: str) -> float:
    """Median over the rounds of how much more of ``what`` one took than the other."""
    return statistics.median(run[what] / other[what] for run, other in zip(runs, others, strict=False))


def report(found: dict[str, list[dict[str, Any]]], file_mb: float) -> None:
    print("| what | seconds | least | most | CPU s | peak MB | beside reading | in CPU | beside writing too | in CPU |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        kind = "Parquet" if "Parquet" in name else "CSV"
        ratios = [
            beside(runs, found[reference], what)
            for reference in (f"Polars, {kind}", f"Polars, {kind}, written")
            for what in ("seconds", "cpu")
        ]
        print(
            f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} "
            f"| {statistics.median(run['cpu'] for run in runs):.2f} | {max(run['peak_mb'] for run in runs):,.0f} | "
            + " | ".join(f"{ratio:.1f} x" for ratio in ratios)
            + " |"
        )
    for name, runs in found.items():
        if "told" in runs[0]:
            print(f"\n{name}: {runs[0]['told']}", end="")
    print(f"\n\nCSV of {file_mb:,.0f} MB")


def first_files(sizes: list[int]) -> None:
    """What a first file costs, by its rows: its types are inferred, and there is nothing to compare it with."""
    import numpy as np

    print("| first file, rows | format | file MB | seconds | CPU s | peak MB |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for rows in sizes:
        for kind in ("csv", "parquet"):
            with tempfile.TemporaryDirectory() as scratch:
                project = Path(scratch)
                (project / "inbox").mkdir()
                (project / "interlock.toml").write_text(SETTINGS + KEYED)
                file, frame = project / "inbox" / f"first.{kind}", make_rows(np.arange(rows), 7)
                frame.write_csv(file) if kind == "csv" else frame.write_parquet(file)
                del frame
                found = measured("interlock", project)
                print(
                    f"| {rows:,} | {kind} | {file.stat().st_size / 1e6:,.0f} | {found['seconds']:.1f} "
                    f"| {found['cpu']:.1f} | {found['peak_mb']:,.0f} |",
                    flush=True,
                )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--stored", type=int, default=10_000_000)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--peers", default="pandas,merge")
    options.add_argument("--first", default="", help="rows of first files, instead of all the rest")
    options.add_argument("--quick", action="store_true", help="100,000 rows against 1,000,000, twice, no peers")
    options.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        child(chosen.child[0], Path(chosen.child[1]))
        return
    if chosen.quick:
        chosen.rows, chosen.stored, chosen.repeats, chosen.peers = 100_000, 1_000_000, 2, ""
    names = ("interlock", "polars", "deltalake", "pandas", "blake3")
    print(f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in names)}")
    if chosen.first:
        first_files([int(rows) for rows in chosen.first.split(",")])
        return
    print(f"{chosen.rows:,} rows against {chosen.stored:,}; medians of {chosen.repeats} rounds, ratios by round\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_project(folder, chosen.rows, chosen.stored)
        for key in (KEYED, ""):
            first = make_table(folder, key)
            print(
                f"table {'with' if key else 'without'} key from {FILES} files: {first['seconds']:.1f} s, "
                f"{first['rows'] / first['seconds']:,.0f} rows/s, peak {first['peak_mb']:,.0f} MB"
            )
        print()
        peers = [peer for peer in chosen.peers.split(",") if peer]
        report(rounds(folder, chosen.repeats, peers), (folder / "new.csv").stat().st_size / 1e6)


if __name__ == "__main__":
    main()
