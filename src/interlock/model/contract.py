"""The user's files, read without running them: which function is called, with which arguments, from which files.

All of it is done on the syntax tree, in the project folder. The other half, importing the file and binding arguments,
happens in a worker process: see :mod:`interlock.model.calls`.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from interlock.errors import ContractError
from interlock.model.cells import SUFFIX, file_digest
from interlock.model.entry import Entry, function_entry, misfit, offered
from interlock.model.notebook import NOTEBOOK_NAMES, notebook_entry, unseen_rows
from interlock.model.sagemaker import hooks_entry, is_script, of_container, script_entry
from interlock.model.source import Project
from interlock.records import Record, digest
from interlock.settings import Settings

TRAINING_NAMES = (
    *("data", "df", "X", "X_train", "y", "y_train", "X_valid", "y_valid"),
    *("params", "seed", "data_dir", "model_dir", "report"),
)
"""What a training function may ask for by name, besides the keys of ``[params]``."""
INFERENCE_NAMES = ("model", "data", "df", "X", "params", "seed", "model_dir")
"""What an inference function may ask for by name, besides the keys of ``[params]``."""
TARGET_NAMES = frozenset({"y", "y_train", "y_valid"})
TRIAL_MODULES = ("interlock.tuning.trial",)
"""What every trial of a search needs of ours: imported once, before trials are forked."""
ROW_NAMES = frozenset({"data", "df", "X", "X_train", "data_dir", "train_path"})


class Contract(Record, frozen=True, kw_only=True):
    """What the loop calls, and the files that belong to it (relative to the project, sorted).

    ``code`` is the digest of ``[[path, sha256], …]`` and the entry names; of a notebook only what runs counts.
    ``preload`` names the third-party modules that the files import at top level, and what trials need of ours.
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
    project = Project(settings.root)
    train = _training_entry(project, settings)
    predict = _inference(project, settings, train)
    entries = [train, *([predict] if predict else [])]
    _check_space(entries, settings)
    project.follow([entry.path for entry in entries] + project.included(model.include), search_folders(entries))
    return Contract(
        train=train,
        predict=predict,
        files=tuple(sorted(project.sources)),
        code=_code(project.sources, train, predict),
        preload=_preload(project, settings),
    )


def _preload(project: Project, settings: Settings) -> tuple[str, ...]:
    """Modules that the worker imports once: what the user's files import, and what trials need of ours."""
    theirs = sorted(name for name in project.third_party | {"pandas"} if not of_container(name))
    return (*theirs, *(TRIAL_MODULES if settings.tune.trials else ()))


def _training_entry(project: Project, settings: Settings) -> Entry:
    text = settings.model.train
    names: tuple[str, ...] = TRAINING_NAMES
    references = _references(settings)
    if text.partition(":")[0].endswith(SUFFIX):
        names = (*(name for name in TRAINING_NAMES if name != "report"), *NOTEBOOK_NAMES)
        entry = notebook_entry(project, text, (*names, *references), settings.offered_params)
    elif is_script(project, text, settings.script, ROW_NAMES):
        return script_entry(project, text)
    else:
        entry = function_entry(project, text, "train")
    _check_offer(entry, names, settings, references)
    return entry


def _inference(project: Project, settings: Settings, train: Entry) -> Entry | None:
    """The inference function, SageMaker's functions, or None when the model's own ``predict`` answers."""
    text = settings.model.predict
    hooks = hooks_entry(project, text, train)
    if hooks is not None or not text:
        return hooks
    predict = function_entry(project, text, "predict")
    _check_offer(predict, INFERENCE_NAMES, settings)
    return predict


def _references(settings: Settings) -> tuple[str, ...]:
    """Names of the sources for reference; raises :class:`ContractError` where one means something else already."""
    names = tuple(name for name, source in settings.sources.items() if source.reference)
    for name in names:
        params = settings.offered_params
        if name in TRAINING_NAMES or name in params:
            taken = "a key of [params] or [tune.space]" if name in params else "a name that Interlock gives"
            raise ContractError(
                f"The source for reference '{name}' is also {taken}.", next_step="Rename the source.", source=name
            )
    return names


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
    files = [[path, file_digest(path, content)] for path, content in sorted(sources.items())]
    names = [f"{entry.path}:{entry.function}" if entry else "" for entry in (train, predict)]
    return digest({"files": files, "entries": names})


# ---- arguments ---------------------------------------------------------------------------------------------------


def _check_offer(entry: Entry, standard: Sequence[str], settings: Settings, references: Sequence[str] = ()) -> None:
    if not entry.known:
        return
    params = settings.offered_params
    offer = offered((*standard, *references), params)
    for name in entry.parameters:
        _refuse_ambiguous(entry, name, standard, params)
        if name in TARGET_NAMES and name in standard and not settings.model.target:
            raise ContractError(
                f"{entry.signature} in {entry.path} asks for '{name}', but the project names no target.",
                next_step="Set model.target in interlock.toml.",
                path=entry.path,
            )
    for name in entry.required:
        if name not in offer:
            raise misfit(entry.path, entry.signature, name, offer)
    if not ROW_NAMES & set(entry.parameters) & set(standard) and not set(references) & set(entry.parameters):
        if entry.kind == "notebook":
            raise unseen_rows(entry)
        raise ContractError(
            f"{entry.signature} in {entry.path} never sees the rows.",
            next_step=f"Take one of {', '.join(name for name in standard if name in ROW_NAMES)}.",
            path=entry.path,
        )


def _check_space(entries: Sequence[Entry], settings: Settings) -> None:
    """A parameter that nobody takes would be searched in vain; only plain functions say what they take."""
    takes_all = any(
        entry.kind != "function" or not entry.known or entry.any_keyword or "params" in entry.parameters
        for entry in entries
    )
    if takes_all or not settings.tune.trials:
        return
    taken = [name for entry in entries for name in entry.parameters]
    for name in settings.tune.space:
        if name not in taken:
            near = difflib.get_close_matches(name, taken, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ContractError(
                f"tune.space searches '{name}', which {' and '.join(entry.signature for entry in entries)} "
                f"never take{'' if len(entries) > 1 else 's'}.{hint}",
                next_step="Add the parameter to the function, take 'params', or take it out of [tune.space].",
                parameter=name,
            )


def _refuse_ambiguous(entry: Entry, name: str, standard: Sequence[str], params: Mapping[str, Any]) -> None:
    if name in params and name in standard:
        raise ContractError(
            f"{entry.signature} in {entry.path}: '{name}' is both a key of [params] and a name that Interlock gives.",
            next_step=f"Rename params.{name}" + (", or set model.seed." if name == "seed" else "."),
            path=entry.path,
        )
