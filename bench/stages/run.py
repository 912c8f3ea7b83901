"""The loop beside orchestrators: the same eight pieces of work on the same rows, each as a cold process.

    python bench/stages/run.py [--rows 10000] [--repeats 3]

Every program reads files, checks, splits, trains, evaluates against a trivial model, releases, scores a file and
reports. ``script`` keeps nothing else. MLflow, Metaflow and Dagster run as their guides show, on a local disk;
Interlock does the eight stages and also deduplicates against all rows ever seen, packs and verifies a bundle, proves
the gain on paired rows, audits the predictions and writes the hash-chained ledger. Needs ``make peers``.
"""

import argparse
import importlib.metadata
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
PEERS = Path(sys.executable).parent.parent / "peers" / "bin" / "python"
TOML = """[model]
name = "bench"
task = "classification"
target = "label"
[data]
inbox = "inbox"
key = ["id"]
[batch]
inbox = "to_score"
"""
TRAIN = """from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def train(X, y):
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
"""
PROGRAMS = ("script", "interlock", "mlflow", "metaflow", "dagster")
LABELS = {
    "script": "plain script, nothing kept",
    "interlock": "Interlock, one turn",
    "mlflow": "script with MLflow tracking and registry",
    "metaflow": "Metaflow, eight steps",
    "dagster": "Dagster, eight ops in one process",
}


def make(folder: Path, rows: int) -> None:
    """A file to learn from and one to score."""
    source = random.Random(1)
    for name in ("inbox", "to_score"):
        (folder / name).mkdir(parents=True)
        with (folder / name / "rows.csv").open("w") as file:
            file.write(",".join(["id", *(f"x{place}" for place in range(8)), *(["label"] * (name == "inbox"))]) + "\n")
            for number in range(rows):
                values = [source.gauss(0, 1) for _ in range(8)]
                label = [str(int(sum(values[:3]) + source.gauss(0, 0.5) > 0))] * (name == "inbox")
                file.write(",".join([str(number), *(f"{value:.5f}" for value in values), *label]) + "\n")
    (folder / "interlock.toml").write_text(TOML)
    (folder / "train.py").write_text(TRAIN)


def run(program: str, folder: Path) -> float:
    """Seconds of one cold process; ends with what it said when it fails."""
    python = str(PEERS if PEERS.exists() else sys.executable)
    command = [python, str(HERE / f"with_{program}.py"), str(folder)]
    if program == "interlock":
        command = [sys.executable, "-m", "interlock", "run"]
    elif program == "metaflow":
        command = [python, str(HERE / "with_metaflow.py"), "--no-pylint", "run", "--folder", str(folder)]
    home = folder / "home"
    home.mkdir(exist_ok=True)
    variables = os.environ | {
        "BENCH_FOLDER": str(folder),
        "DAGSTER_HOME": str(home),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(home),
        "METAFLOW_HOME": str(home),
        "USERNAME": "bench",
    }
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{program} failed:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
    return time.perf_counter() - started


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--rows", type=int, default=10_000)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--programs", default=",".join(PROGRAMS))
    given = arguments.parse_args()
    programs = given.programs.split(",")
    times: dict[str, list[float]] = {program: [] for program in programs}
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as name:
        made = Path(name) / "made"
        make(made, given.rows)
        for number in range(given.repeats + 1):  # the first round fills caches and is not counted
            for program in programs:
                folder = Path(name) / f"{program}-{number}"
                shutil.copytree(made, folder)
                took = run(program, folder)
                if number:
                    times[program].append(took)
    middle = {program: statistics.median(found) for program, found in times.items()}
    print(f"{given.rows:,} rows, medians of {given.repeats} cold processes")
    print(f"{'':44}{'seconds':>9}{'beyond the script':>19}{'times Interlock':>17}")
    for program in programs:
        beyond = middle[program] - middle["script"] if "script" in middle else float("nan")
        ratio = middle[program] / middle["interlock"] if "interlock" in middle else float("nan")
        print(f"{LABELS[program]:44}{middle[program]:9.2f}{beyond:19.2f}{ratio:17.2f}")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores; {versions()}")


def versions() -> str:
    """Versions of the peers, read from their own environment."""
    names = ("mlflow", "metaflow", "dagster", "scikit-learn", "pandas")
    code = f"from importlib.metadata import version; print(', '.join(n + ' ' + version(n) for n in {names!r}))"
    python = str(PEERS if PEERS.exists() else sys.executable)
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    return f"interlock {importlib.metadata.version('interlock')}, {told}"


if __name__ == "__main__":
    main()
