"""One function of the user, found on the syntax tree: its parameters, and the words for what does not fit."""

import ast
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from interlock.errors import ContractError
from interlock.model.source import Project, top_level
from interlock.records import Record

EntryKind = Literal["function", "script", "notebook", "hooks"]
_LISTED = 40
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Entry(Record, frozen=True, kw_only=True):
    """One thing of the user's that is called: a ``function``, a ``script``, a ``notebook``, or SageMaker's ``hooks``.

    ``parameters`` are its names in order; ``required`` those without a default. ``known`` is False when only running
    the file can tell the signature (a decorated, imported or computed function): it is then checked when it is called.
    ``module`` is the name under which the file is imported, from ``search``, a folder relative to the project.
    """

    path: str
    function: str
    module: str
    search: str
    parameters: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    annotations: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    signature: str = ""
    any_keyword: bool = False
    known: bool = True
    kind: EntryKind = "function"

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return f"{self.function} in {self.path}" if self.kind == "function" else self.path


class _Place(TypedDict):
    path: str
    function: str
    module: str
    search: str


# ---- functions ---------------------------------------------------------------------------------------------------


def function_entry(project: Project, text: str, default: str) -> Entry:
    """Find ``file.py:function``, or the function ``default`` of a file; raises :class:`ContractError`."""
    file, _, function = text.partition(":")
    function = function or default
    path = project.locate(file, default)
    if not path.endswith(".py") or not function.isidentifier():
        raise ContractError(
            f"model.{default} is '{text}', which is not a Python file, or file.py:function.",
            next_step=f'Write for example {default} = "{default}.py" or "{default}.py:{default}".',
            path=path,
        )
    tree = project.tree(path)
    module, search = project.module_of(path)
    found = _Found(path=path, function=function, tree=tree)
    node = found.definition()
    place = _Place(path=path, function=function, module=module, search=search)
    if node is None:
        return Entry(**place, known=False, signature=f"{function}(…)")
    return _signed(node, place, found.decorated)


def _signed(node: _Function, place: _Place, decorated: bool) -> Entry:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    everything = [*positional, *arguments.kwonlyargs]
    with_default = {item.arg for item in positional[len(positional) - len(arguments.defaults) :]}
    with_default |= {
        item.arg for item, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value is not None
    }
    return Entry(
        **place,
        parameters=tuple(item.arg for item in everything),
        required=tuple(item.arg for item in everything if item.arg not in with_default),
        annotations={item.arg: ast.unparse(item.annotation) for item in everything if item.annotation is not None},
        signature=f"{place['function']}({ast.unparse(arguments)})",
        any_keyword=arguments.kwarg is not None,
        known=not decorated,
    )


class _Found:
    """The search for one function in one file, and the words for not finding it."""

    def __init__(self, *, path: str, function: str, tree: ast.Module) -> None:
        self.path = path
        self.function = function
        self.tree = tree
        self.decorated = False

    def definition(self) -> _Function | None:
        """Find the function's own node; None when the name is bound, but to what only running the file can tell."""
        bindings = [node for node in top_level(self.tree.body) if self.function in names_bound(node)]
        if not bindings:
            raise self._absent()
        bound = bindings[-1]
        if isinstance(bound, ast.ClassDef):
            raise self._wrong("is a class, not a function", f"Write def {self.function}(…) that uses it.")
        if isinstance(bound, ast.AsyncFunctionDef):
            raise self._wrong(
                "is an async function", f"Write a plain def {self.function}(…); asyncio.run may be used in it."
            )
        if isinstance(bound, ast.FunctionDef):
            if _yields(bound):
                raise self._wrong("is a generator (it has a yield)", "Return the answer instead of yielding it.")
            self.decorated = bool(bound.decorator_list)
            return bound
        value = bound.value if isinstance(bound, ast.Assign | ast.AnnAssign) else None
        if len(bindings) == 1 and isinstance(value, ast.Constant | ast.List | ast.Dict | ast.Tuple | ast.Set):
            raise self._wrong("is a value, not a function", f"Write def {self.function}(…).")
        return value if isinstance(value, ast.Lambda) else None

    def _wrong(self, fault: str, next_step: str) -> ContractError:
        return ContractError(
            f"{self.function} in {self.path} {fault}.", next_step=next_step, path=self.path, function=self.function
        )

    def _absent(self) -> ContractError:
        functions = [node.name for node in top_level(self.tree.body) if isinstance(node, ast.FunctionDef)]
        for outer in ast.walk(self.tree):
            if isinstance(outer, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and any(
                isinstance(node, ast.FunctionDef) and node.name == self.function for node in outer.body
            ):
                return self._wrong(f"is defined inside {outer.name}", "Move it to the top level of the file.")
        near = difflib.get_close_matches(self.function, functions, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        listed = ", ".join(functions[:_LISTED]) or "none"
        return ContractError(
            f"{self.path} has no function '{self.function}'. Functions found: {listed}.{hint}",
            next_step=f"Name it '{self.function}', or write {self.path}:function in interlock.toml.",
            path=self.path,
            function=self.function,
            found=functions,
        )


def names_bound(node: ast.stmt) -> set[str]:
    """Names that a statement binds when it is run."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, ast.Assign):
        return {item.id for target in node.targets for item in ast.walk(target) if isinstance(item, ast.Name)}
    if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()


def _yields(function: ast.FunctionDef) -> bool:
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(node))
    return False


# ---- arguments ---------------------------------------------------------------------------------------------------


def offered(standard: Sequence[str], params: Mapping[str, Any]) -> tuple[str, ...]:
    """All names that a parameter may have."""
    return (*standard, *(key for key in params if key not in standard))


def misfit(path: str, signature: str, parameter: str, offer: Sequence[str]) -> ContractError:
    """Word the error for a parameter that nobody offers: the signature found, the names on offer, the nearest."""
    near = difflib.get_close_matches(parameter, offer, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    more = f" and {len(offer) - _LISTED} more" if len(offer) > _LISTED else ""
    return ContractError(
        f"{signature} in {path} asks for '{parameter}', which is not on offer.{hint} "
        f"On offer: {', '.join(offer[:_LISTED])}{more}.",
        next_step="Rename the parameter, give it a default, or add it to [params].",
        path=path,
        signature=signature,
        parameter=parameter,
        offer=list(offer),
    )
