"""The files of a project that belong to the model, read once and without running them.

What is checked is what is digested and packed: the training and inference files, every file of the project that they
import, and what ``model.include`` names.
"""

import ast
import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from interlock.errors import ContractError
from interlock.model.cells import SUFFIX, notebook_tree


class Project:
    """Files of one project, by their path relative to its folder; each is read once."""

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
        """Syntax tree of a file or notebook; raises :class:`ContractError` with the line that Python cannot read."""
        if path.endswith(SUFFIX):
            return notebook_tree(self.read(path), path)
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
            if not path.endswith((".py", SUFFIX)):
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
        run_on_import = set(top_level(tree.body))
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
                if not local and node in run_on_import and not getattr(node, "level", 0):
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


def top_level(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, not those for type checkers or for ``python file.py``."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            test = ast.unparse(node.test)
            if "TYPE_CHECKING" not in test and "__name__" not in test:
                yield from top_level(node.body)
            yield from top_level(node.orelse)
        elif isinstance(node, ast.Try):
            for block in (node.body, node.orelse, node.finalbody, *(handler.body for handler in node.handlers)):
                yield from top_level(block)
        elif isinstance(node, ast.With):
            yield from top_level(node.body)
