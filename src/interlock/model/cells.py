"""A notebook's cells, read from the file's JSON without any Jupyter package, and the Python that is in them.

Only what runs counts: the sources of the code cells, their tags and the language. Outputs, execution counts and other
metadata change whenever somebody opens the notebook. Line magics and shell lines become ``pass``, so that the rest of a
cell can be read as Python; a cell of another language (``%%bash``, ``%%html``) is read as empty.
"""

import ast
import hashlib
import io
import json
import re
import tokenize
from collections.abc import Sequence
from typing import Any, Literal

from interlock.errors import ContractError
from interlock.records import Record, digest

SUFFIX = ".ipynb"
PARAMETERS = "parameters"
"""Tag of the cell that holds the defaults of the parameters: papermill's convention."""
INJECTED = "injected-parameters"
"""Tag of the cell that papermill (and Interlock) put after it; one that is in the file is from an earlier run."""
_TAGS = frozenset({PARAMETERS, "raises-exception", "skip-execution"})
"""Tags that change what runs."""
_PYTHON_MAGICS = frozenset({"%%time", "%%timeit", "%%capture", "%%prun", "%%python", "%%python3"})
"""Cell magics after which the rest of the cell is Python."""
_ASSIGNED_MAGIC = re.compile(r"^(\s*[A-Za-z_][\w, ]*=)\s*[!%].*$")
_HELP = re.compile(r"^\s*\?{1,2}[\w.*]+$|^\s*[A-Za-z_%][\w.*%]*\?{1,2}$")
_AWAIT: int = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


class Cell(Record, frozen=True, kw_only=True):
    """One cell. ``number`` counts code cells from 1; it is 0 for text."""

    kind: Literal["code", "markdown", "raw"]
    source: str
    tags: tuple[str, ...] = ()
    number: int = 0

    @property
    def runs(self) -> bool:
        """Whether executing the notebook runs it."""
        return self.kind == "code" and bool(self.source.strip()) and "skip-execution" not in self.tags


class Notebook(Record, frozen=True, kw_only=True):
    """What of a notebook file counts."""

    language: str
    cells: tuple[Cell, ...]

    @property
    def code(self) -> tuple[Cell, ...]:
        """The cells that run, in order."""
        return tuple(cell for cell in self.cells if cell.runs)

    @property
    def parameters(self) -> Cell | None:
        """The first cell tagged ``parameters``."""
        return next((cell for cell in self.code if PARAMETERS in cell.tags), None)


def read_notebook(content: bytes, path: str) -> Notebook:
    """Read a notebook of format 4; raises :class:`ContractError` when it is none, or not in Python."""
    try:
        document = json.loads(content)
        version = document["nbformat"]
        language = _language(document.get("metadata") or {})
        cells = _cells(document["cells"]) if version == 4 else ()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ContractError(
            f"{path} is not a notebook: {type(error).__name__} while reading it.",
            next_step="Open and save it in Jupyter, or give a .py file.",
            path=path,
        ) from error
    if version != 4:
        raise ContractError(
            f"{path} is a notebook of format {version!s:.20}; only format 4 is read.",
            next_step="Open it in Jupyter and save it.",
            path=path,
        )
    if language != "python":
        raise ContractError(
            f"{path} is a notebook in {language[:40]}, not in Python.", next_step="Give a Python notebook.", path=path
        )
    return Notebook(language=language, cells=cells)


def _language(metadata: dict[str, Any]) -> str:
    told = (metadata.get("language_info") or {}).get("name") or (metadata.get("kernelspec") or {}).get("language")
    return str(told or "python").lower()


def _cells(raw: Sequence[dict[str, Any]]) -> tuple[Cell, ...]:
    found: list[Cell] = []
    number = 0
    for item in raw:
        tags = tuple(str(tag) for tag in (item.get("metadata") or {}).get("tags") or ())
        source = item["source"]
        text = source if isinstance(source, str) else "".join(source)
        kind = item["cell_type"]
        if INJECTED in tags or kind not in ("code", "markdown", "raw"):
            continue
        number += kind == "code"
        text = text.replace("\r\n", "\n").rstrip("\n")
        found.append(Cell(kind=kind, source=text, tags=tags, number=number if kind == "code" else 0))
    return tuple(found)


def fingerprint(content: bytes, path: str) -> str:
    """SHA-256 of what runs: opening, running or annotating the notebook in Jupyter does not change it."""
    notebook = read_notebook(content, path)
    return digest([notebook.language, [[cell.source, sorted(_TAGS & set(cell.tags))] for cell in notebook.code]])


def file_digest(path: str, content: bytes) -> str:
    """Digest of a file of the user's as far as it can change what a training does: bytes, or a notebook's code."""
    return fingerprint(content, path) if path.endswith(SUFFIX) else hashlib.sha256(content).hexdigest()


def stripped(content: bytes, path: str) -> bytes:
    """The notebook with its sources and tags only: no outputs (which may show rows), counts, ids or attachments."""
    notebook = read_notebook(content, path)
    cells: list[dict[str, Any]] = []
    for cell in notebook.cells:
        item: dict[str, Any] = {
            "cell_type": cell.kind,
            "metadata": {"tags": list(cell.tags)} if cell.tags else {},
            "source": cell.source,
        }
        cells.append(item | ({"execution_count": None, "outputs": []} if cell.kind == "code" else {}))
    document = {
        "cells": cells,
        "metadata": {"language_info": {"name": notebook.language}},
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


# ---- the Python in a cell ----------------------------------------------------------------------------------------


def python_of(source: str) -> str:
    """The cell as Python with the same line numbers: magics and shell lines become ``pass``."""
    lines = source.split("\n")
    first = next((index for index, line in enumerate(lines) if line.strip()), 0)
    if lines[first].startswith("%%"):
        if lines[first].split()[0] not in _PYTHON_MAGICS:
            return ""
        lines[first] = "pass"
    if _parses("\n".join(lines)):
        return "\n".join(lines)
    result: list[str] = []
    continued = False
    for line in lines:
        if continued:
            continued = line.rstrip().endswith("\\")
            result.append("")
            continue
        plain = _plain_line(line) if _complete(result) else line
        continued = plain != line and line.rstrip().endswith("\\")
        result.append(plain)
    return "\n".join(result)


def _plain_line(line: str) -> str:
    text = line.lstrip()
    if text.startswith(("%", "!")) or _HELP.match(line):
        return line[: len(line) - len(text)] + "pass"
    return _ASSIGNED_MAGIC.sub(r"\1 None", line)


def _complete(lines: Sequence[str]) -> bool:
    """Whether a new statement may begin after these lines, or a bracket or string is still open."""
    try:
        for _ in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
            pass
    except tokenize.TokenError:
        return False
    except (SyntaxError, ValueError):
        return True
    return not (lines and lines[-1].rstrip().endswith("\\"))


def _parses(text: str) -> bool:
    try:
        compile(text, "<cell>", "exec", _AWAIT)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def tree_of(cell: Cell, path: str) -> ast.Module:
    """Syntax tree of a cell; raises :class:`ContractError` with its number and line where Python cannot read it."""
    try:
        tree = compile(python_of(cell.source), path, "exec", _AWAIT)
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise ContractError(
            f"{path}, code cell {cell.number}, line {error.lineno}: {error.msg}" + (f": {line}" if line else ""),
            next_step="Mend the cell. Lines that begin with % or ! and the cell magics "
            f"{', '.join(sorted(_PYTHON_MAGICS))} are understood; tag a cell 'skip-execution' to leave it out.",
            path=path,
            cell=cell.number,
            line=error.lineno,
        ) from error
    except (ValueError, RecursionError) as error:
        raise ContractError(
            f"{path}, code cell {cell.number} is not Python: {error}.", next_step="Mend the cell.", path=path
        ) from error
    assert isinstance(tree, ast.Module)
    return tree


def notebook_tree(content: bytes, path: str) -> ast.Module:
    """Syntax tree of all cells that run, one after the other."""
    body: list[ast.stmt] = []
    for cell in read_notebook(content, path).code:
        body += tree_of(cell, path).body
    return ast.Module(body=body, type_ignores=[])
