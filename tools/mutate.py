"""Change the modules that decide a little, one place at a time, and see whether a test notices.

Each module is mutated in a copy of the tree by mutmut, and every mutant tried with the module's own tests only
(``each_mutant.py``). One that no test notices *survives*; where ``survivors.toml`` says why it may, it is *explained*.
Any other is printed with what it changes, and the exit status is 1. Mutants of *wording* are not tried: those that
change nothing but text with a space in it.

Usage: ``mutate.py [--notes FOLDER] [gate split …]``. With ``--notes``, what came of each mutant is kept; while the
module stays as it is, those that were noticed are not tried again: a new test costs the survivors only.
"""

import argparse
import ast
import difflib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from platform import python_version

ROOT = Path(__file__).resolve().parents[1]
SURVIVORS = Path(__file__).with_name("survivors.toml")
MODULES = {
    "gate": ("release/gate.py", "tests/release/test_gate.py"),
    "serial": ("release/serial.py", "tests/release/test_serial.py"),
    "bounds": ("release/bounds.py", "tests/release/test_bounds.py tests/release/test_serial.py"),
    "resample": ("release/resample.py", "tests/release/test_resample.py tests/release/test_bounds.py"),
    "score": (
        "release/score.py",
        "tests/release/test_score.py tests/release/test_resample.py tests/release/test_serial.py",
    ),
    "consistency": ("release/consistency.py", "tests/release/test_consistency.py"),
    "slices": ("release/slices.py", "tests/release/test_slices.py"),
    "standing": ("release/standing.py", "tests/release/test_registry.py"),
    "registry": ("release/registry.py", "tests/release/test_registry.py"),
    "split": ("data/split.py", "tests/data/test_split.py"),
}
LEFT_OUT = {"standing": "not sqlite and not TestRegistry", "registry": "not sqlite and not TestRegistry"}
"""Tests by name: the other ledger, and the machine of random histories, which takes ten seconds a mutant."""
CONFIG = """
[tool.mutmut]
source_paths = ["src"]
"""
MUTATED = """
import sys
from pathlib import Path
from mutmut.mutation.file_mutation import mutate_file_contents
sys.stdout.write(mutate_file_contents(sys.argv[1], Path(sys.argv[1]).read_text()).code)
"""
QUIET = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib")
NOTICED = ("killed", "timeout")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutant:
    """One change: in which function, what its lines are then, whether it is wording only, and what came of it."""

    name: str
    function: str
    change: str
    wording: bool
    outcome: str = "not tried"

    def __str__(self) -> str:
        return f"{self.outcome} in {self.function}: {self.change}"


# ---- running -----------------------------------------------------------------------------------------------------


def mutate(name: str, folder: Path, notes: Path | None, limit_s: float) -> list[Mutant]:
    """Let mutmut change one module, in a copy of the tree below ``folder``, and try what is not wording."""
    file, tests = MODULES[name]
    for part in ("src", "tests", "bench"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", folder)
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + CONFIG)
    path = f"src/interlock/{file}"
    source = _run(folder, "-c", MUTATED, path).stdout
    before = noted(notes, name, source)
    mutants = [replace(mutant, outcome=before.get(mutant.name, mutant.outcome)) for mutant in found(source)]
    module = f"interlock.{file.removesuffix('.py').replace('/', '.')}"
    due = [f"{module}.{one.name}" for one in mutants if not one.wording and one.outcome not in NOTICED]
    if due:
        (folder / path).write_text(source)
        (folder / "mutants.txt").write_text("\n".join(due))
        options = ["-k", LEFT_OUT.get(name, "not sqlite"), "--hypothesis-seed=0", "-p", "each_mutant", *QUIET]
        ran = _run(folder, "-m", "pytest", *options, *tests.split(), limit_s=limit_s)
        try:
            outcomes = dict(json.loads((folder / "outcomes.json").read_text()))
        except (OSError, ValueError, TypeError):
            raise SystemExit(f"{name}: not run.\n{ran.stdout}{ran.stderr}") from None
        mutants = [replace(one, outcome=outcomes.get(f"{module}.{one.name}", one.outcome)) for one in mutants]
    if notes is not None:
        text = json.dumps({"source": digest(source), "outcomes": {one.name: one.outcome for one in mutants}})
        (notes / f"{name}.json").write_text(text)
    return mutants


def digest(source: str) -> str:
    """Name the text of a mutated module."""
    return hashlib.sha256(source.encode()).hexdigest()


def noted(notes: Path | None, name: str, source: str) -> dict[str, str]:
    """What came of the mutants in an earlier run on the same source, by name."""
    if notes is None or not (notes / f"{name}.json").exists():
        return {}
    kept = json.loads((notes / f"{name}.json").read_text())
    return dict(kept["outcomes"]) if kept["source"] == digest(source) else {}


@dataclass(frozen=True)
class Ran:
    """What a command printed, the end of it."""

    stdout: str
    stderr: str = ""


def _run(folder: Path, *arguments: str, limit_s: float = 300.0) -> Ran:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        "MUTANTS": str(folder / "mutants.txt"),
        "OUTCOMES": str(folder / "outcomes.json"),
        "MUTANT_UNDER_TEST": "",
    }
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
    return Ran(stdout, stderr[-4000:])


# ---- what was changed ----------------------------------------------------------------------------------------------


def found(source: str) -> Iterator[Mutant]:
    """Every mutant in a file as mutmut writes it, where the function ``f`` stands beside ``f__mutmut_1`` and so on."""
    lines = source.splitlines()
    functions = {
        node.name: node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, Function) and "__mutmut_" in node.name
    }
    for name, node in functions.items():
        start = name.rpartition("__mutmut_")[0]
        if not name.endswith("_orig"):
            original = functions[f"{start}__mutmut_orig"]
            before, after = (
                [re.sub(r"__mutmut_\w+", "", line.strip()) for line in lines[one.lineno - 1 : one.end_lineno]]
                for one in (original, node)
            )
            yield Mutant(
                name=name,
                function=re.sub(r"^(x_|xǁ)", "", start).replace("ǁ", "."),
                change=changed(before, after),
                wording=shape(original) == shape(node),
            )


def changed(before: list[str], after: list[str]) -> str:
    """Lines that are new, or what is gone where none is."""
    compared = [line for line in difflib.ndiff(before, after) if line[:2] in ("+ ", "- ")]
    new = " ".join(line[2:] for line in compared if line.startswith("+ "))
    return new or "without " + " ".join(line[2:] for line in compared)


def shape(function: Function) -> str:
    """The function without its name, and with every text that has a space in it blotted out."""
    tree = ast.parse(ast.unparse(function).replace(function.name, "function", 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            node.value = "…"
    return ast.dump(tree)


# ---- telling -------------------------------------------------------------------------------------------------------


def explained(name: str) -> set[tuple[str, str]]:
    """Function and change of the survivors of a module that have a reason."""
    known = tomllib.loads(SURVIVORS.read_text()).get(name, [])
    return {(entry["function"], change) for entry in known for change in entry["changes"]}


def tell(name: str, mutants: list[Mutant], took: float) -> tuple[str, bool]:
    """Print what survived for no known reason; the module's line of the table, and whether there was none such."""
    known = explained(name)
    counted = [mutant for mutant in mutants if not mutant.wording]
    kinds: Counter[str] = Counter()
    for mutant in counted:
        kind = mutant.outcome
        if kind not in (*NOTICED, "not tried"):
            kind = "explained" if (mutant.function, mutant.change) in known else "survived"
        kinds[kind] += 1
        if kind == "survived":
            print(f"{name}: {mutant}", flush=True)
    alive = {(mutant.function, mutant.change) for mutant in counted if mutant.outcome not in NOTICED}
    for function, change in sorted(known - alive):
        print(f"{name}: told of, and yet noticed or gone: {function}: {change}", flush=True)
    row = (
        f"| {MODULES[name][0]} | {len(counted)} | {kinds['killed']} | {kinds['timeout']} | {kinds['explained']} | "
        f"{kinds['survived']} | {kinds['not tried']} | {len(mutants) - len(counted)} | {took:.0f} |"
    )
    print(row, flush=True)
    return row, not kinds["survived"] + kinds["not tried"]


def main() -> None:
    """Mutate the modules asked for, one after the other."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("modules", nargs="*", default=list(MODULES), choices=[*MODULES, []])
    options.add_argument("--limit", type=float, default=2400.0, help="seconds for one module")
    options.add_argument("--notes", type=Path, default=None, help="folder for what came of each mutant")
    chosen = options.parse_args()
    rows, clean = [], True
    for name in chosen.modules or list(MODULES):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            mutants = mutate(name, Path(folder), chosen.notes, chosen.limit)
        row, fine = tell(name, mutants, time.monotonic() - started)
        rows.append(row)
        clean = clean and fine
    print(f"\nmutmut {version('mutmut')}, Python {python_version()}\n")
    columns = ("mutants", "killed", "timed out", "explained", "survived", "not tried", "wording", "seconds")
    print(f"| module | {' | '.join(columns)} |")
    print(f"| --- |{' ---: |' * len(columns)}")
    print("\n".join(rows))
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
