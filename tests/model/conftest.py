"""What several tests of models need."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def pyfunc(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow, with its traces of loading a model undone afterwards; no telemetry."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    module = pytest.importorskip("mlflow.pyfunc")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    yield module
    for name in ("interlock_loader", "interlock_hooks", "inference", "words", "predict", "rules", "train"):
        sys.modules.pop(name, None)
