"""Batch scoring beside what others use: the same pipeline over the same file, each in a process of its own.

    python bench/batch.py [--rows 10000000] [--model linear] [--peers whole,chunked,joblib,dask,spark]

The model ``linear`` is Pipeline(ColumnTransformer(StandardScaler, OneHotEncoder), LogisticRegression) over six numbers
and four text columns (5, 24, 120 and 1,000 values); ``trees`` is a LightGBM classifier of 100 trees over the six
numbers. It is trained on 100,000 rows and released by a turn of Interlock.

* whole: ``pandas.read_parquet``, ``pipeline.predict``, ``to_parquet``, the way it is mostly written.
* chunked: the same in batches of 131,072 rows, the way it is written when memory runs out.
* joblib, dask, spark: see ``bench/batch_peers.py``; they need ``make peers``.
* interlock: ``score_inbox``: hash of the file, signature check, labels and probabilities, lineage, audit, fsync,
  publication and ledger entry included; the peers write the id and the label alone.

Times leave out imports at the top of each program. CPU is that of the whole process and its children. Everything is
made in a temporary folder, which is removed.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

CARDINALITIES = (5, 24, 120, 1_000)
NUMBERS = [f"x{place}" for place in range(6)]
TEXTS = [f"c{place}" for place in range(len(CARDINALITIES))]
FEATURES = [*NUMBERS, *TEXTS]
TRAINING_ROWS = 100_000
CHUNK_ROWS = 131_072

LINEAR = f"""
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler


def train(X, y):
    scaled = ("numbers", StandardScaler(), {NUMBERS!r})
    coded = ("texts", OneHotEncoder(handle_unknown="ignore"), {TEXTS!r})
    steps = [("columns", ColumnTransformer([scaled, coded])), ("model", LogisticRegression(max_iter=300))]
    return Pipeline(steps).fit(X, y)
"""
TREES = """
from lightgbm import LGBMClassifier


def train(X, y, seed):
    return LGBMClassifier(n_estimators=100, random_state=seed, n_jobs=2, verbose=-1).fit(X, y)
"""
MODELS = {"linear": (LINEAR, FEATURES), "trees": (TREES, NUMBERS)}
SETTINGS = """
[model]
name = "bench"
task = "classification"
target = "y"
features = {features}

[data]
inbox = "inbox"
key = ["id"]

[batch]
inbox = "to_score"
"""


# ---- data --------------------------------------------------------------------------------------------------------


def make_rows(path: Path, rows: int, seed: int, *, labelled: bool) -> None:
    """Write rows as pandas would: row groups of a million rows, default encodings, snappy."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(seed)
    names = [pa.array([f"c{place}-{value:04d}" for value in range(size)]) for place, size in enumerate(CARDINALITIES)]
    writer = None
    for start in range(0, rows, 1_000_000):
        count = min(1_000_000, rows - start)
        columns: dict[str, Any] = {"id": pa.array(np.arange(start, start + count))}
        numbers = {name: draw.normal(place, 1 + place, count) for place, name in enumerate(NUMBERS)}
        codes = {name: draw.integers(0, size, count) for name, size in zip(TEXTS, CARDINALITIES, strict=True)}
        columns |= {name: pa.array(values) for name, values in numbers.items()}
        for name, values in zip(TEXTS, names, strict=True):
            columns[name] = values.take(pa.array(codes[name]))
        if labelled:
            score = numbers["x0"] - 0.4 * (numbers["x1"] - 1) + 0.3 * (codes["c1"] % 5 - 2)
            columns["y"] = pa.array(np.where(score + draw.normal(size=count) > 0, "yes", "no"))
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


# ---- what is measured, each in its own process -------------------------------------------------------------------


def interlock(folder: Path) -> dict[str, Any]:
    """The batch stage of a turn."""
    from interlock.answer.batch import score_inbox
    from interlock.app import open_parts
    from interlock.configuration import load_settings
    from interlock.model.runner import Runner
    from interlock.ports import Turn

    def no_runner() -> Runner:
        raise AssertionError("the pipeline was not compiled")

    with open_parts(load_settings(folder / "project")) as parts:
        turn = Turn(id="bench", fence=parts.ledger.acquire("turn", ttl_s=3_600.0))
        started, busy = time.perf_counter(), time.process_time()
        results = score_inbox(parts, turn, no_runner)
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        parts.ledger.release(turn.fence)
    assert [result.status for result in results] == ["published"], results
    return {
        "rows": results[0].scored,
        "seconds": seconds,
        "cpu_s": busy,
        "output": str(folder / "project" / results[0].output),
        "form": results[0].form,
    }


def measured(mode: str, folder: Path, features: list[str]) -> dict[str, Any]:
    """Run one of the programs in a process of its own; adds its peak memory and processor time."""
    if mode == "interlock":
        command = [sys.executable, __file__, "--child", str(folder)]
    else:
        apart = Path(sys.executable).parent.parent / "peers" / "bin" / "python"
        python = str(apart) if apart.exists() else sys.executable
        command = [python, str(Path(__file__).with_name("batch_peers.py")), mode, str(folder), json.dumps(features)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{mode} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def child(folder: Path) -> None:
    result = interlock(folder)
    print(json.dumps({**result, "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


# ---- the comparison ----------------------------------------------------------------------------------------------


def prepare(folder: Path, rows: int, model: str) -> None:
    """Rows, a released model, and its pipeline as a pickle for the peers."""
    project = folder / "project"
    for name in ("inbox", "to_score"):
        (project / name).mkdir(parents=True)
    train, features = MODELS[model]
    (project / "interlock.toml").write_text(SETTINGS.format(features=json.dumps(features)))
    (project / "train.py").write_text(train)
    make_rows(project / "inbox" / "training.parquet", TRAINING_ROWS, seed=1, labelled=True)
    subprocess.run([sys.executable, "-m", "interlock", "run"], cwd=project, check=True, capture_output=True)
    (model,) = (project / ".interlock" / "lake" / "bundles").glob("*/model/model.pkl")
    shutil.copy(model, folder / "pipeline.pkl")
    make_rows(folder / "rows.parquet", rows, seed=2, labelled=False)
    (project / "to_score" / "rows.parquet").hardlink_to(folder / "rows.parquet")


def differing(one: str, other: str) -> int:
    """Rows on which two files of answers differ."""
    import polars as pl

    pair = []
    for path in map(Path, (one, other)):
        rows = pl.scan_parquet(f"{path}/*.parquet" if path.is_dir() else path)
        pair.append(rows.select("id", pl.col("prediction").cast(pl.String)))
    both = pair[0].join(pair[1], on="id", how="full")
    return int(both.select((pl.col("prediction").ne_missing(pl.col("prediction_right"))).sum()).collect().item())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--peers", default="whole,chunked", help="which peers to run beside, by comma")
    arguments.add_argument("--model", choices=sorted(MODELS), default="linear")
    arguments.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.child:
        child(given.child)
        return
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as name:
        folder = Path(name)
        prepare(folder, given.rows, given.model)
        os.sync()  # else whoever runs first shares the disk with what was just made
        modes = ["interlock", *(mode for mode in given.peers.split(",") if mode)]
        found = {mode: measured(mode, folder, MODELS[given.model][1]) for mode in modes}
        report(found, given.rows)


def report(found: dict[str, dict[str, Any]], rows: int) -> None:
    labels = {
        "whole": "pandas + scikit-learn, whole",
        "chunked": "pandas + scikit-learn, chunked",
        "joblib": "joblib, 2 processes",
        "dask": "Dask, 2 processes",
        "spark": "Spark, local[2], mapInPandas",
    }
    base = found["interlock"]["seconds"]
    print(f"{rows:,} rows, form '{found['interlock']['form']}'")
    print(f"{'':32}{'seconds':>9}{'rows/s':>12}{'CPU s':>8}{'peak MB':>9}{'Interlock is':>14}")
    for mode, result in found.items():
        times = "" if mode == "interlock" else f"{result['seconds'] / base:.1f} x"
        rate = rows / result["seconds"]
        print(
            f"{labels.get(mode, 'Interlock'):32}{result['seconds']:9.2f}{rate:12,.0f}{result['cpu_s']:8.1f}"
            f"{result['rss_mb']:9.0f}{times:>14}"
        )
    for mode in found:
        if mode != "interlock":
            odd = differing(found["interlock"]["output"], found[mode]["output"])
            print(f"labels that differ from {labels[mode]}: {odd:,} of {rows:,}")
    names = ("interlock", "polars", "pyarrow", "numpy", "pandas", "scikit-learn")
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores; " + ", ".join(f"{n} {_version(n)}" for n in names)
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        from interlock import __version__

        return __version__


if __name__ == "__main__":
    main()
