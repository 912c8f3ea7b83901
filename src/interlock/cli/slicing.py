"""Statements of a notebook with what each reads, binds and changes; and the part of them that a value needs."""

import ast
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from interlock.model.cells import Notebook, tree_of
from interlock.model.names import Reading

_CHANGING = frozenset(
    {"fit", "partial_fit", "append", "extend", "update", "add", "insert", "pop", "remove", "sort", "set_params"}
)
"""Methods that change the object that they are called on when nothing is made of their answer."""


@dataclass(frozen=True)
class Statement:
    """One statement at the top level of a cell.

    ``uses`` and ``gives`` are names; ``binds`` those that it gives anew, whatever they were before.
    """

    cell: int
    node: ast.stmt
    uses: frozenset[str]
    gives: frozenset[str]
    binds: frozenset[str] = field(default=frozenset())

    @property
    def is_import(self) -> bool:
        """Whether it is an import."""
        return isinstance(self.node, ast.Import | ast.ImportFrom)


def statements_of(notebook: Notebook, path: str) -> list[Statement]:
    """All statements of the cells that run; raises :class:`~interlock.errors.ContractError` for bad syntax."""
    return [statement(node, cell.number) for cell in notebook.code for node in tree_of(cell, path).body]


def statement(node: ast.stmt, cell: int) -> Statement:
    """Tell what one statement reads, binds and changes."""
    reading = Reading().read([node])
    uses, changed = set(reading.free), set(_changed(node))
    return Statement(
        cell=cell,
        node=node,
        uses=frozenset(uses | changed),
        gives=frozenset(set(reading.bound) | changed),
        binds=frozenset(set(reading.bound) - changed),
    )


def _changed(node: ast.stmt) -> list[str]:
    """Names whose object a statement changes: items and attributes set, ``inplace=True``, and changing methods."""
    found: list[str] = []
    inside = [] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else list(ast.walk(node))
    for item in inside:
        if isinstance(item, ast.Subscript | ast.Attribute) and isinstance(item.ctx, ast.Store | ast.Del):
            found += root_of(item)
        elif isinstance(item, ast.Call) and isinstance(item.func, ast.Attribute):
            in_place = any(word.arg == "inplace" and _is_true(word.value) for word in item.keywords)
            if in_place or item.func.attr in {"pop", "fit", "fit_transform"}:
                found += root_of(item.func.value)
        elif isinstance(item, ast.Expr) and method_of(item.value) in _CHANGING:
            found += root_of(item.value.func.value)  # type: ignore[attr-defined]  # method_of found a method
    return found


def method_of(node: ast.AST | None) -> str:
    """Name of the method that a call calls; empty when it is no such call."""
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def root_of(node: ast.expr) -> list[str]:
    """The name that an item or attribute hangs on; what a call gives is an object of its own."""
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return [node.id] if isinstance(node, ast.Name) else []


def needed_for(names: Collection[str], statements: Sequence[Statement]) -> list[Statement]:
    """The statements, in order, that the values of ``names`` after the last of them rest on."""
    wanted, kept = set(names), []
    for item in reversed(statements):
        if item.gives & wanted:
            kept.append(item)
            if not isinstance(item.node, ast.If | ast.For | ast.While | ast.Try | ast.With):
                wanted -= item.binds
            wanted |= item.uses
    return kept[::-1]
