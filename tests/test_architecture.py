"""Reading order is import order: lazy imports and type-only imports included."""

import ast
import tomllib
from pathlib import Path

import pytest

import interlock

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "interlock"


def _contracts() -> list[dict[str, object]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def _rank() -> dict[str, tuple[int, ...]]:
    """Position of every module in the reading order: (position of its wing, position in the wing)."""
    layers = {contract["containers"][0]: contract["layers"][::-1] for contract in _contracts()}
    house = layers["interlock"]
    rank: dict[str, tuple[int, ...]] = {}
    for position, name in enumerate(house):
        rank[f"interlock.{name}"] = (position,)
        for inner, module in enumerate(layers.get(f"interlock.{name}", [])):
            rank[f"interlock.{name}.{module}"] = (position, inner)
    return rank


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("interlock", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(tree: ast.AST) -> list[tuple[int, str]]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names += [(node.lineno, node.module or "")]
            names += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return [(line, name) for line, name in names if name.startswith("interlock")]


def _position(module: str, rank: dict[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    while module not in rank and "." in module:
        module = module.rpartition(".")[0]
    return rank.get(module)


@pytest.mark.parametrize("module", [name for name in _modules() if name not in ("interlock", "interlock.__main__")])
def test_every_import_points_up(module: str) -> None:
    rank = _rank()
    here = _position(module, rank)
    assert here is not None, f"{module} has no place in the reading order of pyproject.toml"
    wrong = []
    for line, name in _imports(ast.parse(_modules()[module].read_text())):
        there = _position(name, rank)
        if name == "interlock" or there is None or name == module or module.startswith(f"{name}."):
            continue
        same_wing_unranked = there[:1] == here[:1] and (len(here) == 1 or len(there) == 1)
        if there > here and not same_wing_unranked:
            wrong.append(f"line {line}: {name}")
    assert not wrong


def test_reading_order_notices_a_lazy_import_that_points_down() -> None:
    rank = _rank()
    (_, name), *_ = _imports(ast.parse("def late():\n    from interlock.loop import run_turn\n"))
    assert _position(name, rank) > _position("interlock.data.ingest", rank)


def test_modules_are_rooms_not_halls() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in _modules().items()}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_functions_are_short() -> None:
    long, count = [], 0
    for name, path in _modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                count += 1
                if length > 30:
                    long.append((length, f"{name}.{node.name}"))
    assert [item for item in long if item[0] > 60] == []
    assert len(long) <= 0.1 * count, sorted(long, reverse=True)


def test_no_vague_module_names() -> None:
    vague = {"utils", "helpers", "common", "manager", "handler", "base", "misc"}
    assert [name for name in _modules() if name.rpartition(".")[2] in vague] == []


def test_the_package_root_is_bare() -> None:
    public = [name for name in vars(interlock) if not name.startswith("_") and name not in dir(type(interlock))]
    submodules = {name.split(".")[1] for name in _modules() if name.count(".") >= 1}
    assert set(public) <= submodules
    assert interlock.__all__ == sorted(interlock.__all__)
