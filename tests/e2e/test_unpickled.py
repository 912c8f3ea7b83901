"""The serving process never unpickles: by what it may import, and by what Python itself reports while it serves."""

import ast
from pathlib import Path

import pytest

import interlock
from e2e.followed_project import turn
from e2e.small_project import make_project
from infra.server import serving

SOURCE = Path(interlock.__file__).parent
LOADERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "skops", "torch"}
DOOR = "interlock.model.loader"
"""The one module that unpickles. It travels in bundles, and is called in worker processes."""
CALLERS = {"interlock.model.native", "interlock.model.compile", "interlock.tuning.trial", "interlock.model.bundle"}
"""Who names the door: modules with functions that are sent to workers, and the one that packs its text."""


def file_of(module: str) -> Path | None:
    place = SOURCE.parent.joinpath(*module.split("."))
    found = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return found if found.exists() else None


def imports(module: str) -> set[str]:
    """Every module that ``module`` may import, lazily or not, and the packages of others by their first name."""
    path = file_of(module)
    assert path is not None
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    own = {name for name in names if name.startswith("interlock") and file_of(name)}
    return own | {name.split(".")[0] for name in names if not name.startswith("interlock")}


def test_all_that_a_server_may_import_knows_one_door_to_pickle() -> None:
    seen: dict[str, set[str]] = {}
    waiting = ["interlock.serve.server"]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen[module] = imports(module)
            waiting += [name for name in seen[module] if name.startswith("interlock")]
    assert len(seen) > 100
    assert {module for module, names in seen.items() if names & LOADERS} == {DOOR}
    assert {module for module, names in seen.items() if DOOR in names} <= CALLERS


WATCH = '''"""Every class that a pickle names is reported with the process that met it."""

import os
import sys


def told(event, given):
    if event == "pickle.find_class":
        with open({path!r}, "a") as file:
            print(os.getpid(), given[0], given[1], file=file)


sys.addaudithook(told)
'''
LINEAR = """from sklearn.linear_model import LogisticRegression


def train(X, y):
    return LogisticRegression().fit(X, y)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["native", "linear"])
def test_pickles_are_met_in_worker_processes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    project = make_project(tmp_path / "project")
    if form == "linear":
        (project / "train.py").write_text(LINEAR)
    assert turn(project).outcome == "released"
    met = tmp_path / "met.txt"
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH.format(path=str(met)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "watch"))
    with serving(project, "--insecure") as served:
        status, headers, _ = served.ask("/predict", {"width": 0.5, "weight": 0.25})
        assert (status, headers["interlock-tier"]) == (200, "champion")
        server = served.process.pid
    lines = [line.split() for line in met.read_text().splitlines()] if met.exists() else []
    assert [line for line in lines if int(line[0]) == server] == []
    names = {name for _, _, name in lines}
    assert ("NearestMean" in names) == (form == "native"), "the watch sees what a worker unpickles"
