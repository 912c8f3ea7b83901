"""The user's files, read without running them: which function is called, with which arguments, from which files.

All of it is done on the syntax tree, in the project folder. The other half, importing the file and binding arguments,
happens in a worker process: see :func:`interlock.model.worker.load_function` and :func:`~interlock.model.worker.bind`.
"""

import ast
import difflib
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from interlock.errors import ContractError
from interlock.records import Record, digest
from interlock.settings import Settings

TRAINING_NAMES = (
    *("data", "df", "X", "X_train", "y", "y_train", "X_valid", "y_valid"),
    *("params", "seed", "data_dir", "model_dir"),
)
"""What a training function may ask for by name, besides the keys of ``[params]``."""
INFERENCE_NAMES = ("model", "data", "df", "X", "params", "seed", "model_dir")
"""What an inference function may ask for by name, besides the keys of ``[params]``."""
TARGET_NAMES = frozenset({"y", "y_train", "y_valid"})
ROW_NAMES = frozenset({"data", "df", "X", "X_train", "data_dir"})
_LISTED = 40
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Entry(Record, frozen=True, kw_only=True):
    """One function of the user.

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


class Contract(Record, frozen=True, kw_only=True):
    """What the loop calls, and the files that belong to it (relative to the project, sorted).

    ``code`` is the digest of ``[[path, sha256], …]`` and the entry names; ``preload`` names the third-party modules
    that the files import at top level.
    """

    train: Entry
    predict: Entry | None
    files: tuple[str, ...]
    code: str
    preload: tuple[str, ...]


def read_contract(settings: Settings) -> Contract:
    """Read the training and inference files of a project; imports and runs none of them.

    Raises :class:`ContractError` when a file or function is missing, leaves the project, has a syntax error, or asks
    for an argument that nobody offers.
    """
    model = settings.model
    project = _Project(settings.root)
    train = _entry(project, model.train, "train")
    predict = _entry(project, model.predict, "predict") if model.predict else None
    _check_offer(train, TRAINING_NAMES, settings)
    if predict is not None:
        _check_offer(predict, INFERENCE_NAMES, settings)
    entries = [train, *([predict] if predict else [])]
    project.follow([entry.path for entry in entries] + project.included(model.include), search_folders(entries))
    return Contract(
        train=train,
        predict=predict,
        files=tuple(sorted(project.sources)),
        code=_code(project.sources, train, predict),
        preload=tuple(sorted(project.third_party | {"pandas"})),
    )


def code_digest(folder: Path, contract: Contract) -> str:
    """Digest of the contract's files as they are in ``folder``: equal to ``contract.code`` when nothing changed.

    Raises :class:`OSError` when one of them cannot be read.
    """
    sources = {path: (folder / path).read_bytes() for path in contract.files}
    return _code(sources, contract.train, contract.predict)


def search_folders(entries: Iterable[Entry]) -> tuple[str, ...]:
    """Folders, relative to the project, in which the user's imports are looked up, in order."""
    return tuple(dict.fromkeys([*(entry.search for entry in entries), "."]))


def _code(sources: Mapping[str, bytes], train: Entry, predict: Entry | None) -> str:
    files = [[path, hashlib.sha256(content).hexdigest()] for path, content in sorted(sources.items())]
    names = [f"{entry.path}:{entry.function}" if entry else "" for entry in (train, predict)]
    return digest({"files": files, "entries": names})


# ---- files -------------------------------------------------------------------------------------------------------


class _Project:
    """Files of one project: each is read once, so that what is checked is what is digested."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.sources: dict[str, bytes] = {}
        self.third_party: set[str] = set()

    def locate(self, text: str, what: str) -> str:
        """Path relative to the project of a file that must be in it; raises :class:`ContractError`."""
        pure = PurePosixPath(text)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise ContractError(
                f"The {what} file '{text}' is not inside the project.",
                next_step="Give its path relative to the folder of interlock.toml, without '..'.",
                path=text,
            )
        path = self.root / pure
        if not path.is_file():
            near = difflib.get_close_matches(text, [item.name for item in self.root.glob("*.py")], n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ContractError(
                f"The {what} file '{text}' does not exist in {self.root}.{hint}",
                next_step=f"Write it, or set model.{what} in interlock.toml.",
                path=text,
            )
        self._refuse_outside(path, text)
        return pure.as_posix()

    def _refuse_outside(self, path: Path, text: str) -> None:
        if not path.resolve().is_relative_to(self.root):
            raise ContractError(
                f"'{text}' is a link that leaves the project, so it could not be packed and reproduced.",
                next_step="Copy the file into the project.",
                path=text,
            )

    def read(self, path: str) -> bytes:
        """Bytes of a file, read once."""
        if path not in self.sources:
            full = self.root / path
            self._refuse_outside(full, path)
            try:
                self.sources[path] = full.read_bytes()
            except OSError as error:
                raise ContractError(
                    f"'{path}' cannot be read: {error.strerror}.", next_step="Make it readable."
                ) from error
        return self.sources[path]

    def tree(self, path: str) -> ast.Module:
        """Syntax tree of a file; raises :class:`ContractError` with the line where Python cannot read it."""
        try:
            return ast.parse(self.read(path), filename=path)
        except SyntaxError as error:
            line = (error.text or "").strip()
            shown = f": {line}" if line else ""
            raise ContractError(
                f"{path}, line {error.lineno}: {error.msg}{shown}",
                next_step="Mend the syntax; 'python -m py_compile' shows the same.",
                path=path,
                line=error.lineno,
            ) from error
        except (ValueError, RecursionError) as error:
            raise ContractError(
                f"{path} is not Python source: {error}.", next_step="Give a .py file.", path=path
            ) from error

    def included(self, patterns: Sequence[str]) -> list[str]:
        """Files that ``model.include`` names; raises :class:`ContractError` for a pattern without a file."""
        found: list[str] = []
        for pattern in patterns:
            pure = PurePosixPath(pattern)
            if pure.is_absolute() or ".." in pure.parts:
                raise ContractError(
                    f"model.include has '{pattern}', which is not inside the project.",
                    next_step="Give a pattern relative to the folder of interlock.toml, without '..'.",
                )
            matches = [match for match in sorted(self.root.glob(pattern)) if match.is_file()]
            relative = [match.relative_to(self.root).as_posix() for match in matches]
            kept = [path for path in relative if not _is_hidden(path)]
            if not kept:
                raise ContractError(
                    f"model.include has '{pattern}', which matches no file of the project.",
                    next_step="Mend the pattern, or take it out.",
                    pattern=pattern,
                )
            found += kept
        return found

    def follow(self, start: Sequence[str], search: Sequence[str]) -> None:
        """Read ``start`` and every file of the project that it imports, directly or not."""
        waiting = list(dict.fromkeys(start))
        seen = set(waiting)
        while waiting:
            path = waiting.pop()
            self.read(path)
            if not path.endswith(".py"):
                continue
            for reached in [*self._packages(path), *self._imports(path, search)]:
                if reached not in seen:
                    seen.add(reached)
                    waiting.append(reached)

    def _packages(self, path: str) -> list[str]:
        """The ``__init__.py`` of every package that a file lies in: importing the file runs them."""
        inits = [folder / "__init__.py" for folder in PurePosixPath(path).parents]
        return [init.as_posix() for init in inits if init.parent.parts and (self.root / init).is_file()]

    def _imports(self, path: str, search: Sequence[str]) -> list[str]:
        found: list[str] = []
        tree = self.tree(path)
        top_level = set(_top_level(tree.body))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                named: list[tuple[str, tuple[str, ...]]] = [(alias.name, ()) for alias in node.names]
                folders = list(search)
            elif isinstance(node, ast.ImportFrom):
                named = [(node.module or "", tuple(alias.name for alias in node.names))]
                folders = list(search) if node.level == 0 else _relative_base(path, node.level)
            else:
                continue
            for module, names in named:
                local = self._resolve(folders, module, names)
                found += local
                if not local and node in top_level and not getattr(node, "level", 0):
                    self._note_third_party(module)
        return found

    def _note_third_party(self, module: str) -> None:
        first = module.partition(".")[0]
        if first and first != "interlock" and first not in sys.stdlib_module_names:
            self.third_party.add(module)

    def _resolve(self, folders: Sequence[str], module: str, names: Sequence[str]) -> list[str]:
        """Files that ``import module`` or ``from module import names`` reaches in the first folder that has any."""
        for folder in folders:
            base = PurePosixPath(folder)
            parts = [part for part in module.split(".") if part]
            reached = [
                file for end in range(1, len(parts) + 1) for file in self._module_files(base.joinpath(*parts[:end]))
            ]
            if not parts:
                reached += self._module_files(base)
            for name in names:
                reached += self._module_files(base.joinpath(*parts, name))
            if reached:
                return reached
        return []

    def _module_files(self, stem: PurePosixPath) -> list[str]:
        package = stem / "__init__.py"
        plain = stem.with_name(stem.name + ".py") if stem.name else None
        for candidate in (package, plain):
            if candidate is not None and (self.root / candidate).is_file():
                return [candidate.as_posix()]
        return []

    def module_of(self, path: str) -> tuple[str, str]:
        """Name under which a file is imported, and the folder to import it from: packages are left at their root."""
        pure = PurePosixPath(path)
        parts = [pure.stem]
        folder = pure.parent
        while folder.parts and (self.root / folder / "__init__.py").is_file():
            parts.insert(0, folder.name)
            folder = folder.parent
        return ".".join(parts), folder.as_posix()


def _is_hidden(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return any(part.startswith(".") or part == "__pycache__" for part in parts)


def _relative_base(path: str, level: int) -> list[str]:
    folder = PurePosixPath(path).parent
    for _ in range(level - 1):
        if not folder.parts:
            return []
        folder = folder.parent
    return [folder.as_posix()]


def _top_level(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, not those for type checkers or for ``python file.py``."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            test = ast.unparse(node.test)
            if "TYPE_CHECKING" not in test and "__name__" not in test:
                yield from _top_level(node.body)
            yield from _top_level(node.orelse)
        elif isinstance(node, ast.Try):
            for block in (node.body, node.orelse, node.finalbody, *(handler.body for handler in node.handlers)):
                yield from _top_level(block)
        elif isinstance(node, ast.With):
            yield from _top_level(node.body)


class _Place(TypedDict):
    path: str
    function: str
    module: str
    search: str


# ---- functions ---------------------------------------------------------------------------------------------------


def _entry(project: _Project, text: str, default: str) -> Entry:
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
        bindings = [node for node in _top_level(self.tree.body) if self.function in _names_bound(node)]
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
        functions = [node.name for node in _top_level(self.tree.body) if isinstance(node, ast.FunctionDef)]
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


def _names_bound(node: ast.stmt) -> set[str]:
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


def _check_offer(entry: Entry, standard: Sequence[str], settings: Settings) -> None:
    if not entry.known:
        return
    offer = offered(standard, settings.params)
    for name in entry.parameters:
        _refuse_ambiguous(entry, name, standard, settings.params)
        if name in TARGET_NAMES and name in standard and not settings.model.target:
            raise ContractError(
                f"{entry.signature} in {entry.path} asks for '{name}', but the project names no target.",
                next_step="Set model.target in interlock.toml.",
                path=entry.path,
            )
    for name in entry.required:
        if name not in offer:
            raise misfit(entry.path, entry.signature, name, offer)
    if not ROW_NAMES & set(entry.parameters) & set(standard):
        raise ContractError(
            f"{entry.signature} in {entry.path} never sees the rows.",
            next_step=f"Take one of {', '.join(name for name in standard if name in ROW_NAMES)}.",
            path=entry.path,
        )


def _refuse_ambiguous(entry: Entry, name: str, standard: Sequence[str], params: Mapping[str, Any]) -> None:
    if name in params and name in standard:
        raise ContractError(
            f"{entry.signature} in {entry.path}: '{name}' is both a key of [params] and a name that Interlock gives.",
            next_step=f"Rename params.{name}" + (", or set model.seed." if name == "seed" else "."),
            path=entry.path,
        )


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
