"""Run the user's training function on the training rows of a snapshot, from a frozen copy of the user's files.

The first half runs in our process and sees no user code; :func:`run_training` runs in a worker process. The holdout is
not handed over, not even its path.
"""

import importlib
import math
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from interlock.data.snapshot import feature_names
from interlock.errors import Conflict, ContractError, InterlockError, UserCodeFailed, bounded
from interlock.model.calls import FrameKind, as_column, as_frame, bind, load_function, parameters_of
from interlock.model.contract import Contract, Entry, code_digest, search_folders
from interlock.model.runner import Runner
from interlock.ports import Parts, Turn
from interlock.records import Record, Snapshot, Training, digest, facts_of, short, timestamp
from interlock.settings import Settings, seconds

MODEL_FILE = "model.pkl"
VALID_SHARE = 0.2
"""Share of the training rows that become ``X_valid`` and ``y_valid`` when the function asks for them."""
_OUTPUT_CHARS = 4_000
_METRICS = 200


class Trained(Record, frozen=True, kw_only=True):
    """A finished training: ``folder`` holds the native model, ``code`` the files it was trained with. Both are local."""

    training: Training
    folder: str
    code: str


def training_digest(settings: Settings, contract: Contract, snapshot: Snapshot) -> str:
    """Name of a training: the digest of everything that goes into it."""
    model = settings.model
    return digest(
        {
            "snapshot": snapshot.digest,
            "rows": snapshot.training_digest,
            "code": contract.code,
            "params": settings.params,
            "seed": model.seed,
            "task": model.task,
            "target": model.target,
            "features": feature_names(settings, snapshot.columns),
        }
    )


def train(parts: Parts, turn: Turn, contract: Contract, snapshot: Snapshot, runner: Runner) -> Trained:
    """Train once and record how it went, as ``training.done`` or ``training.failed``.

    Raises :class:`UserCodeFailed` and :class:`ContractError` after recording them, and :class:`Conflict` when the
    project's files changed since the contract was read.
    """
    settings = parts.settings
    name = training_digest(settings, contract, snapshot)
    scratch = settings.home / "work" / turn.id / f"training-{short(name)}"
    shutil.rmtree(scratch, ignore_errors=True)
    code, model = scratch / "code", scratch / "model"
    model.mkdir(parents=True)
    _freeze(settings.root, contract, code)
    arguments = _arguments(parts, contract, snapshot, scratch)
    started = parts.clock.monotonic()
    try:
        outcome = runner.call(
            "interlock.model.train:run_training",
            arguments,
            deadline_s=seconds(settings.model.deadline),
            say=turn.say,
        )
    except InterlockError as error:
        failed = _training(parts, contract, snapshot, name).failed(error, parts.clock.monotonic() - started)
        _record(parts, turn, "training.failed", failed)
        raise
    training = _training(parts, contract, snapshot, name).done(outcome.value, outcome)
    _record(parts, turn, "training.done", training)
    return Trained(training=training, folder=str(model), code=str(code))
