"""Have the user's training function run on the training rows of a snapshot, from a frozen copy of the user's files.

The function itself runs in a worker process: see :mod:`interlock.model.fit`. The holdout is not handed over.
"""

import shutil
from pathlib import Path
from typing import Any

import msgspec

from interlock.data.split import feature_names
from interlock.errors import Conflict, ContractError, UserCodeFailed, bounded
from interlock.model.contract import Contract, code_digest, search_folders
from interlock.model.fit import Task
from interlock.model.host import Outcome
from interlock.model.runner import Runner
from interlock.ports import Parts, Turn
from interlock.records import Record, Snapshot, Training, digest, facts_of, short, timestamp
from interlock.settings import Settings, seconds

RUNS = {"function": "interlock.model.fit:run_training"}
"""What runs in the worker process, by the kind of the training entry. All take a ``Task`` and give the same facts."""
_ERROR_CHARS = 8_000


class Trained(Record, frozen=True, kw_only=True):
    """A finished training: ``folder`` holds the native model, ``code`` the files it was made with; both are local."""

    training: Training
    folder: str
    code: str


def training_digest(settings: Settings, contract: Contract, snapshot: Snapshot) -> str:
    """Name of a training: the digest of everything that goes into it."""
    return digest(
        {
            "snapshot": snapshot.digest,
            "code": contract.code,
            "params": settings.params,
            "seed": settings.model.seed,
            "task": settings.model.task,
            "target": settings.model.target,
            "features": feature_names(settings, snapshot.columns),
        }
    )


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
    task = _task(parts, contract, snapshot, scratch)
    arguments = {
        "folders": import_folders(code, contract),
        "seed": settings.model.seed,
        "label": f"{contract.train.function} in {contract.train.path}",
        "task": msgspec.to_builtins(task),
    }
    try:
        outcome = runner.call(
            RUNS[contract.train.kind], arguments, deadline_s=seconds(settings.model.deadline), say=turn.say
        )
    except (UserCodeFailed, ContractError) as error:
        _record(parts, turn, "training.failed", _failed(parts, contract, snapshot, name, error))
        raise
    training = _done(parts, contract, snapshot, name, outcome)
    _record(parts, turn, "training.done", training)
    return Trained(training=training, folder=task.model_dir, code=str(code))


def freeze(root: Path, contract: Contract, to: Path) -> None:
    """Copy the contract's files into ``to``, so that an edit during the turn changes neither training nor bundle.

    Raises :class:`Conflict` when they are no longer those that the contract was read from.
    """
    try:
        for path in contract.files:
            copy = to / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, copy)
        same = code_digest(to, contract) == contract.code
    except OSError:
        same = False
    if not same:
        raise Conflict("A file of the project changed while the turn was under way.", next_step="Run again.")


def import_folders(code: Path, contract: Contract) -> list[str]:
    """Folders that go in front of ``sys.path`` for the user's files in ``code``."""
    entries = [entry for entry in (contract.train, contract.predict) if entry is not None]
    return [str(code / folder) for folder in search_folders(entries)]


def _task(parts: Parts, contract: Contract, snapshot: Snapshot, scratch: Path) -> Task:
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
        references={each.source: _local(parts, each.key, scratch) for each in snapshot.references},
    )


def _local(parts: Parts, key: str, scratch: Path) -> str:
    """Path of a blob as a file of this machine."""
    path = parts.blobs.local(key)
    if path is None:
        path = scratch / Path(key).name
        parts.blobs.fetch(key, path)
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
    trace = error.traceback if isinstance(error, UserCodeFailed) else ""
    return Training(
        **_inputs(parts, contract, snapshot, name),
        status="failed",
        seconds=float(told.get("seconds", 0.0)),
        peak_memory_bytes=int(told.get("peak_memory_bytes", 0)),
        rows=snapshot.training_rows,
        output_tail=str(told.get("output_tail", "")),
        error=bounded(f"{error.message}\n{trace}".rstrip(), _ERROR_CHARS),
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
