"""A notebook as training file: what it asks for by name, found in its cells without running them.

A notebook asks for a name that Interlock offers by giving it a default in the cell tagged ``parameters``, or by reading
it before any cell assigns it.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from interlock.errors import ContractError
from interlock.model.cells import PARAMETERS, Notebook, read_notebook, tree_of
from interlock.model.entry import Entry
from interlock.model.names import Reading
from interlock.model.source import Project

NOTEBOOK_NAMES = ("train_path",)
"""What a notebook may ask for besides the names that a training function may: the rows as one file."""
MODEL_VARIABLE = "model"
"""Variable that holds the model when the settings do not name another."""
_NEEDED = ("nbclient", "ipykernel", "nbformat")


def notebook_entry(project: Project, text: str, standard: Sequence[str], params: Mapping[str, Any]) -> Entry:
    """Read ``file.ipynb`` or ``file.ipynb:variable``.

    Raises :class:`ContractError` when it is missing, cannot be read, or would overwrite a parameter.
    """
    file, _, variable = text.partition(":")
    variable = variable or MODEL_VARIABLE
    path = project.locate(file, "train")
    if not variable.isidentifier():
        raise ContractError(
            f"model.train is '{text}'; what stands behind the colon names the variable that holds the model.",
            next_step=f'Write train = "{file}" or "{file}:variable".',
            path=path,
        )
    _refuse_missing_packages(path)
    notebook = read_notebook(project.read(path), path)
    _refuse_overwritten(notebook, path, params)
    module, search = project.module_of(path)
    names = (*standard, *params)
    asked = tuple(name for name in asked_names(notebook, path) if name in names)
    return Entry(
        kind="notebook",
        path=path,
        function=variable,
        module=module,
        search=search,
        parameters=asked,
        signature="The notebook",
    )


def asked_names(notebook: Notebook, path: str) -> tuple[str, ...]:
    """Names that the notebook lets be set from outside, and those that it reads before it assigns them."""
    tagged = notebook.parameters
    defaults = tuple(Reading().read(tree_of(tagged, path).body).bound) if tagged is not None else ()
    reading = Reading()
    for cell in notebook.code:
        reading.read(tree_of(cell, path).body)
    return tuple(dict.fromkeys([*defaults, *reading.free]))


def _refuse_overwritten(notebook: Notebook, path: str, params: Mapping[str, Any]) -> None:
    """A parameter that a later cell assigns before anything read it would silently have no effect."""
    tagged = notebook.parameters
    after = notebook.code if tagged is None else tuple(c for c in notebook.code if c.number > tagged.number)
    reading = Reading()
    for cell in after:
        reading.read(tree_of(cell, path).body)
        for name in params:
            if name in reading.bound and name not in reading.free:
                raise ContractError(
                    f"{path}, code cell {cell.number} assigns '{name}', so that params.{name} would have no effect.",
                    next_step=f"Tag the cell that sets the defaults with '{PARAMETERS}', or take {name} out of "
                    "[params].",
                    path=path,
                    cell=cell.number,
                )


def _refuse_missing_packages(path: str) -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ContractError(
            f"{path} is a notebook, and running one needs {', '.join(missing)}.",
            next_step="pip install 'interlock[notebook]'",
            path=path,
        )


def unseen_rows(entry: Entry) -> ContractError:
    """The error for a notebook that reads its own data, so that Interlock could not hold rows back."""
    return ContractError(
        f"{entry.path} never sees the rows that Interlock keeps for training.",
        next_step="Set train_path = … (one file), data_dir = … or df = None in the cell tagged 'parameters' and read "
        "from that, or use df, or X and y, without assigning them. "
        "'interlock init FOLDER --from-notebook FILE' can do it for you.",
        path=entry.path,
    )
