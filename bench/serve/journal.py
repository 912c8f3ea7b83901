"""What a program found so far, kept in a folder, so that it can be stopped and goes on where it was."""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

OURS = ("interlock", "uvicorn", "uvloop", "httptools", "msgspec", "polars", "numpy", "scikit-learn")


def options(program: str, minutes: float) -> argparse.ArgumentParser:
    """The options that every program has."""
    told = sys.modules["__main__"].__doc__ or program
    made = argparse.ArgumentParser(description=told.splitlines()[0])
    made.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "interlock-bench-serve")
    made.add_argument("--minutes", type=float, default=minutes, help="begin nothing new after so long")
    made.add_argument("--fresh", action="store_true", help="forget what this program found before")
    return made


class Journal:
    """Findings of one program by key, one JSON line each. ``is_over``: the time is used up."""

    def __init__(self, given: argparse.Namespace, program: str) -> None:
        self.folder: Path = given.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / f"{program}.jsonl"
        self._end_s = time.monotonic() + 60.0 * given.minutes
        if given.fresh:
            self._path.unlink(missing_ok=True)
        self.found: dict[str, Any] = {}
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                entry = json.loads(line)
                self.found[entry["key"]] = entry["value"]

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end_s

    def once(self, key: str, find: Callable[[], Any]) -> Any:
        """The finding of this key, made now unless it is there, or the time is used up (None)."""
        if key not in self.found:
            if self.is_over:
                return None
            self.keep(key, find())
        return self.found[key]

    def keep(self, key: str, value: Any) -> None:
        """Write a finding down."""
        self.found[key] = value
        with self._path.open("a") as file:
            file.write(json.dumps({"key": key, "value": value, "load": os.getloadavg()[0]}) + "\n")

    def under(self, prefix: str) -> list[Any]:
        """All findings whose key begins so."""
        return [value for key, value in self.found.items() if key.startswith(prefix)]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of Markdown; the first column is text."""
    print(f"\n| {' | '.join(columns)} |\n| --- |{' ---: |' * (len(columns) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def middle(values: Iterable[float | None]) -> float | None:
    """The median of what is known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def shown(value: float | None, digits: int = 0, unit: str = "") -> str:
    return "" if value is None else f"{value:,.{digits}f}{unit}"


def versions(python: str | Path | None, names: Sequence[str]) -> str:
    """Versions of packages of this interpreter, or of another one."""
    if python is None:
        found = {name: importlib.metadata.version(name) for name in names}
    else:
        code = "import importlib.metadata as m,json,sys;print(json.dumps({n:m.version(n) for n in sys.argv[1:]}))"
        done = subprocess.run([str(python), "-c", code, *names], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
    return ", ".join(f"{name} {version}" for name, version in found.items())


def about(*further: str) -> None:
    """Print what the figures depend on."""
    tool = shutil.which("wrk")
    wrk = (
        subprocess.run([tool, "-v"], capture_output=True, text=True, check=False).stdout.split(" Copy")[0]
        if tool
        else ""
    )
    parts = [f"Python {platform.python_version()}", versions(None, OURS), *further, wrk]
    print("; ".join(part for part in parts if part))
    print(f"{os.cpu_count()} cores, Linux {platform.release()}, load {os.getloadavg()[0]:.1f} at the end")
