"""Have the user's training function run on the training rows of a snapshot, from a frozen copy of the user's files.

The function itself runs in a worker process: see :mod:`interlock.model.fit`. The holdout is not handed over.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import msgspec

from interlock.data.snapshot import snapshot_path
from interlock.data.split import feature_names
from interlock.errors import Conflict, ContractError, UserCodeFailed, bounded
from interlock.model.cells import SUFFIX, stripped
from interlock.model.contract import Contract, code_digest, search_folders
from interlock.model.fit import Task, executed_path
from interlock.model.host import Outcome
from interlock.model.runner import Runner
from interlock.model.surroundings import Surroundings
from interlock.ports import Parts, Turn
from interlock.records import Record, Snapshot, Training, digest, facts_of, short, timestamp
from interlock.settings import Settings
from interlock.units import seconds

RUNS = {
    "function": "interlock.model.fit:run_training",
    "script": "interlock.model.script:run_script",
    "notebook": "interlock.model.execute:run_notebook",
}
"""What runs in the worker process, by the kind of the training entry. All take a ``Task`` and give the same facts."""
_ERROR_CHARS = 8_000


class Trained(Record, frozen=True, kw_only=True):
    """A finished training: ``folder`` holds the native model, ``code`` the files it was made with; both are local."""

    training: Training
    folder: str
    code: str


def training_digest(settings: Settings, contract: Contract, snapshot: Snapshot) -> str:
    """Name of a training: the digest of everything that goes into it."""
    inputs = {
        "snapshot": snapshot.digest,
        "code": contract.code,
        "params": settings.params,
        "seed": settings.model.seed,
        "task": settings.model.task,
        "target": settings.model.target,
        "features": feature_names(settings, snapshot.columns),
    }
    if contract.train.kind == "script" or (contract.predict is not None and contract.predict.kind == "hooks"):
        inputs["script"] = msgspec.to_builtins(settings.script)
    return digest(inputs)


def train(parts: Parts, turn: Turn, contract: Contract, snapshot: Snapshot, runner: Runner) -> Trained:
    """Train once and record how it went, as ``training.done`` or ``training.failed``.

    Raises :class:`UserCodeFailed` or :class:`ContractError` after recording it, and :class:`Conflict` when the
    project's files changed since the contract was read.
    """
    settings = parts.settings
    name = training_digest(settings, contract, snapshot)
    scratch = settings.home / "work" / turn.id / f"training-{short(name)}"
    shutil.rmtree(scratch, ignore_errors=True)
    code = scratch / "code"
    freeze(settings.root, contract, code)
    task = training_task(parts, contract, snapshot, scratch)
    arguments = {
        "folders": import_folders(code, contract),
        "seed": settings.model.seed,
        "label": contract.train.label,
        "task": msgspec.to_builtins(task),
        "reads": [str(code), task.rows, *task.references.values()],
        "writes": [task.model_dir, task.data_dir, str(executed_path(task).parent)],
    }
    around = Surroundings(settings, contract.files)
    try:
        outcome = runner.call(
            RUNS[contract.train.kind], arguments, deadline_s=seconds(settings.model.deadline), say=turn.say
        )
    except (UserCodeFailed, ContractError) as error:
        notebook = _keep_notebook(parts, task)
        failed = _failed(parts, contract, snapshot, name, error)
        _record(parts, turn, "training.failed", msgspec.structs.replace(failed, notebook=notebook))
        _tell_where(parts, error, notebook)
        raise
    finally:
        changes = around.changes()
        if changes:
            turn.note(f"while {contract.train.label} ran, files of the project changed: {changes}")
    _require_same(code, contract)
    training = _done(parts, contract, snapshot, name, outcome)
    training = msgspec.structs.replace(training, notebook=_keep_notebook(parts, task))
    _record(parts, turn, "training.done", training)
    return Trained(training=training, folder=task.model_dir, code=str(code))


def _require_same(code: Path, contract: Contract) -> None:
    """Raise :class:`UserCodeFailed` when training changed the copy that it was made from and that is packed."""
    try:
        same = code_digest(code, contract) == contract.code
    except (OSError, ContractError):
        same = False
    if not same:
        raise UserCodeFailed(
            f"{contract.train.label} changed its own files while it ran, so the model cannot be packed with them.",
            next_step="Let it write into model_dir or a temporary folder only.",
            cause="nonsense",
        )


def notebook_key(notebook: str) -> str:
    """Where the blobs hold the executed notebook with this SHA-256."""
    return f"notebooks/{notebook}{SUFFIX}"


def notebook_place(settings: Settings, notebook: str) -> str:
    """Where a person finds the executed notebook with this SHA-256: a path as the settings have it, or a URL."""
    return f"{settings.store.lake.rstrip('/')}/{notebook_key(notebook)}" if notebook else ""


def _keep_notebook(parts: Parts, task: Task) -> str:
    """Store the executed notebook, up to where it came; its SHA-256, or empty when there is none."""
    path = executed_path(task)
    if task.entry.kind != "notebook" or not path.is_file():
        return ""
    content = path.read_bytes()
    notebook = hashlib.sha256(content).hexdigest()
    parts.blobs.put(notebook_key(notebook), content)
    return notebook


def _tell_where(parts: Parts, error: UserCodeFailed | ContractError, notebook: str) -> None:
    local = parts.blobs.local(notebook_key(notebook)) if notebook else None
    where = local or notebook_place(parts.settings, notebook)
    if where:
        error.next_step = f"{error.next_step} The notebook as far as it came: {where}".strip()


def freeze(root: Path, contract: Contract, to: Path) -> None:
    """Copy the contract's files into ``to``, so that an edit during the turn changes neither training nor bundle.

    A notebook is copied without its outputs. Raises :class:`Conflict` when they are no longer those that the contract
    was read from.
    """
    try:
        for path in contract.files:
            copy = to / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.endswith(SUFFIX):
                copy.write_bytes(stripped((root / path).read_bytes(), path))
            else:
                shutil.copyfile(root / path, copy)
        same = code_digest(to, contract) == contract.code
    except (OSError, ContractError):
        same = False
    if not same:
        raise Conflict("A file of the project changed while the turn was under way.", next_step="Run again.")


def import_folders(code: Path, contract: Contract) -> list[str]:
    """Folders that go in front of ``sys.path`` for the user's files in ``code``."""
    entries = [entry for entry in (contract.train, contract.predict) if entry is not None]
    return [str(code / folder) for folder in search_folders(entries)]


def training_task(parts: Parts, contract: Contract, snapshot: Snapshot, scratch: Path) -> Task:
    """What the worker process is asked to do; files go under ``scratch``, with the user's in ``code``."""
    settings = parts.settings
    model_dir = scratch / "model"
    model_dir.mkdir(parents=True)
    time = settings.data.holdout.time or ""
    return Task(
        code=str(scratch / "code"),
        entry=contract.train,
        rows=_local(parts, snapshot.training_key, scratch),
        features=feature_names(settings, snapshot.columns),
        target=settings.model.target,
        order=time if time in snapshot.columns else "",
        params=settings.params,
        seed=settings.model.seed,
        model_dir=str(model_dir),
        data_dir=str(scratch / "data"),
        needs_predict=contract.predict is None,
        name=settings.model.name,
        script=settings.script,
        search=search_folders([contract.train]),
        references={each.source: _local(parts, each.key, scratch) for each in snapshot.references},
    )


def _local(parts: Parts, key: str, scratch: Path) -> str:
    """Path of a blob as a file of this machine; of a lake elsewhere a copy of its own, which user code may spoil."""
    path = parts.blobs.local(key)
    if path is None:
        path = scratch / Path(key).name
        shutil.copyfile(snapshot_path(parts, key), path)
    return str(path)


def _done(parts: Parts, contract: Contract, snapshot: Snapshot, name: str, outcome: Outcome) -> Training:
    return Training(
        **_inputs(parts, contract, snapshot, name),
        status="done",
        seconds=outcome.seconds,
        peak_memory_bytes=outcome.peak_memory_bytes,
        rows=outcome.value["rows"],
        metrics=outcome.value["metrics"],
        output_tail=outcome.output_tail,
    )


def _failed(
    parts: Parts, contract: Contract, snapshot: Snapshot, name: str, error: UserCodeFailed | ContractError
) -> Training:
    told: dict[str, Any] = error.facts
    message, trace = error.recorded, error.recorded_traceback if isinstance(error, UserCodeFailed) else ""
    return Training(
        **_inputs(parts, contract, snapshot, name),
        status="failed",
        seconds=float(told.get("seconds", 0.0)),
        peak_memory_bytes=int(told.get("peak_memory_bytes", 0)),
        rows=snapshot.training_rows,
        output_tail=str(told.get("output_tail", "")),
        error=bounded(f"{message}\n{trace}".rstrip(), _ERROR_CHARS),
    )


def _inputs(parts: Parts, contract: Contract, snapshot: Snapshot, name: str) -> dict[str, Any]:
    return {
        "digest": name,
        "snapshot": snapshot.digest,
        "code": contract.code,
        "params": parts.settings.params,
        "seed": parts.settings.model.seed,
        "at": timestamp(parts.clock.now()),
    }


def _record(parts: Parts, turn: Turn, kind: str, training: Training) -> None:
    with turn.transaction(parts.ledger) as transaction:
        transaction.append(kind, training.digest, facts_of(training))
