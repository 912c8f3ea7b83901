"""Change the pure modules a little, one place at a time, and see whether a test notices. Prints a table and survivors.

Each module is mutated in a copy of the tree, with only its own tests, by mutmut. Usage: ``mutate.py [gate split …]``.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    "gate": ("release/gate.py", "tests/release/test_gate.py"),
    "bounds": ("release/bounds.py", "tests/release/test_bounds.py"),
    "resample": ("release/resample.py", "tests/release/test_resample.py tests/release/test_bounds.py"),
    "score": ("release/score.py", "tests/release/test_score.py tests/release/test_resample.py"),
    "consistency": ("release/consistency.py", "tests/release/test_consistency.py"),
    "slices": ("release/slices.py", "tests/release/test_slices.py"),
    "standing": ("release/standing.py", "tests/release/test_registry.py"),
    "registry": ("release/registry.py", "tests/release/test_registry.py"),
    "split": ("data/split.py", "tests/data/test_split.py"),
}
LIMIT_S = 1800
"""Time for one module."""
# Polars and fork: a server that has only imported things makes the children.
CONFIG = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/interlock/{file}"]
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-q", "-k", "not sqlite", "-p", "no:cacheprovider", "-p", "no:xdist"]
also_copy = ["src", "tests", "bench", "pyproject.toml"]
process_isolation = "forkserver"
use_git_change_detection = false
"""


def mutate(name: str, folder: Path) -> tuple[dict[str, int], list[str], float]:
    """Counts by outcome, the survivors' names, and seconds."""
    file, tests = MODULES[name]
    for part in ("src", "tests", "bench"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", folder)
    listed = "[" + ", ".join(f'"{test}"' for test in tests.split()) + "]"
    project = (ROOT / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(project + CONFIG.format(file=file, tests=listed))
    started = time.monotonic()
    mutmut = [sys.executable, "-m", "mutmut"]
    ran = subprocess.run(
        [*mutmut, "run", "--max-children", "2"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    took = time.monotonic() - started
    found = subprocess.run(
        [*mutmut, "results", "--all", "true"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    lines = re.findall(r"^\s*(\S+__mutmut_\d+): (.+)$", found, flags=re.MULTILINE)
    if not lines:
        raise SystemExit(f"{name}: mutmut did not run.\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    counts: dict[str, int] = {}
    for _, outcome in lines:
        counts[outcome] = counts.get(outcome, 0) + 1
    survivors = [mutant for mutant, outcome in lines if outcome != "killed"]
    shown = [
        subprocess.run([*mutmut, "show", mutant], cwd=folder, capture_output=True, text=True, check=False).stdout
        for mutant in survivors
    ]
    return counts, [f"{one}\n{text}" for one, text in zip(survivors, shown, strict=True)], took


def main() -> None:
    """Mutate the modules asked for, one after the other."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("modules", nargs="*", default=list(MODULES), choices=[*MODULES, []])
    chosen = options.parse_args()
    for name in chosen.modules or list(MODULES):
        with tempfile.TemporaryDirectory() as folder:
            counts, survivors, took = mutate(name, Path(folder))
        for survivor in survivors:
            print(survivor)
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        print(f"{name}: {sum(counts.values())} mutants in {took:.0f} s: {told}", flush=True)


if __name__ == "__main__":
    main()
