"""Files in the form that SageMaker's and Vertex' containers run: programs, and inference functions with fixed names.

Read from the syntax tree alone. A training file is a program when its owner says so, or when it has a ``__main__``
guard and nothing that could be called with rows; see docs/decisions/0014.
"""

import ast
import re
from collections.abc import Collection, Iterable

from interlock.errors import ContractError
from interlock.model.entry import Entry, function_entry, names_bound
from interlock.model.source import Project, top_level
from interlock.settings import Script

HOOKS = ("model_fn", "input_fn", "predict_fn", "output_fn", "transform_fn")
"""SageMaker's inference functions."""
_GUARD = re.compile(r"__name__\s*==\s*['\"]__main__['\"]|['\"]__main__['\"]\s*==\s*__name__")
_CHANNEL = re.compile(rb"SM_CHANNEL_([A-Z][A-Z0-9_]*)")
_VERTEX = re.compile(rb"AIP_(TRAINING|VALIDATION|TEST)_DATA_URI")


def is_script(project: Project, text: str, script: Script, rows: Collection[str]) -> bool:
    """Whether the training file ``text`` is run as a program; ``rows`` are the names under which a function gets rows.

    A ``train`` that takes rows is a function even in a file with a guard, so that a misspelt parameter is told.
    """
    path, _, function = text.partition(":")
    if function or not path.endswith(".py"):
        return False
    path = project.locate(path, "train")
    if script.when == "always":
        return True
    if not any(isinstance(node, ast.If) and _GUARD.search(ast.unparse(node.test)) for node in project.tree(path).body):
        return False
    try:
        entry = function_entry(project, text, "train")
    except ContractError:
        return True
    return entry.known and not set(rows) & set(entry.parameters)


def script_entry(project: Project, text: str) -> Entry:
    """The entry of a training file that is run as a program."""
    path = project.locate(text, "train")
    module, search = project.module_of(path)
    return Entry(path=path, function="__main__", module=module, search=search, kind="script")


def hooks_entry(project: Project, text: str, train: Entry) -> Entry | None:
    """The entry of a file with SageMaker's inference functions; None when ``text`` is not such a file.

    Without a file of its own (``text`` is empty) the training file is asked: a program always answers this way, by the
    defaults of SageMaker's containers where it has no such function; another one only when it has a ``model_fn``.
    A file that has ``predict`` as well answers by SageMaker's functions; ``file.py:predict`` names the other.
    """
    path, _, function = text.partition(":")
    if function or (text and not path.endswith(".py")) or (not text and train.kind not in ("function", "script")):
        return None
    path = project.locate(path, "predict") if text else train.path
    names = {name for node in top_level(project.tree(path).body) for name in names_bound(node)}
    found = tuple(name for name in HOOKS if name in names)
    if text and not found:
        return None
    if not text and train.kind == "function" and "model_fn" not in found:
        return None
    if "transform_fn" in found and {"input_fn", "predict_fn", "output_fn"} & set(found):
        raise ContractError(
            f"{path} has transform_fn together with input_fn, predict_fn or output_fn; SageMaker refuses that as well.",
            next_step="Keep one or the other.",
            path=path,
        )
    module, search = project.module_of(path)
    return Entry(path=path, function="", module=module, search=search, parameters=found, kind="hooks")


def of_container(module: str) -> bool:
    """Whether a module is of AWS's containers: those make folders and ask the network as soon as they are imported."""
    return module.startswith(("sagemaker_training", "sagemaker_containers", "sagemaker_xgboost_container"))


def channels(sources: Iterable[bytes]) -> tuple[str, ...]:
    """Channels whose SM_CHANNEL_NAME the sources read, in small letters, sorted."""
    return tuple(sorted({name.decode().lower() for source in sources for name in _CHANNEL.findall(source)}))


def is_for_vertex(sources: Iterable[bytes]) -> bool:
    """Whether the sources read rows as Vertex gives them, and none as SageMaker does."""
    texts = list(sources)
    return any(map(_VERTEX.search, texts)) and not any(map(_CHANNEL.search, texts))
