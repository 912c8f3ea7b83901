"""Inside the kernel of a notebook: how it starts, and how the model is taken out of it at the end.

The kernel is a process of its own that :mod:`interlock.model.execute` starts in the session's process group.
"""

import importlib
import json
import os
import sys
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import msgspec

from interlock.errors import InterlockError, UserCodeFailed
from interlock.model.worker import die_with, prepare

BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "import interlock.model.kernel as kernel; kernel.main(sys.argv[2], sys.argv[3])"
)
"""What ``python -P -c`` runs; its arguments are the module search path, a :class:`Start` file, the connection file."""
FINISH = "__import__('interlock.model.kernel', fromlist=['finish']).finish(get_ipython().user_ns, {path!r})"
"""The last thing that the kernel runs."""
METRICS_VARIABLE = "metrics"


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What a kernel needs to know to start and to finish; ``task`` is that of the training, as plain data."""

    parent: int
    folders: tuple[str, ...]
    task: dict[str, Any]
    result: str


def main(start: str, connection: str) -> None:
    """Be the kernel until the other side says so, or is gone."""
    told = msgspec.json.decode(Path(start).read_bytes(), type=Start)
    die_with(told.parent)
    prepare(told.folders, int(told.task["seed"]))
    application = importlib.import_module("ipykernel.kernelapp").IPKernelApp.instance()
    options = ("--HistoryManager.enabled=False", "--InteractiveShellApp.ignore_cwd=True", "--log-level=ERROR")
    sys.argv[:] = ["interlock"]
    application.initialize(["-f", connection, *options])
    application.start()


def finish(names: Mapping[str, Any], start: str) -> None:
    """Save the model that the notebook made, and write what is to be told about it; never raises."""
    told = msgspec.json.decode(Path(start).read_bytes(), type=Start)
    reply: dict[str, Any]
    try:
        reply = {"metrics": _save(names, told)}
    except InterlockError as error:
        reply = {"kind": error.code, "message": error.message, "next_step": error.next_step}
    path = Path(told.result)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(reply), "utf-8")
    draft.rename(path)


def _save(names: Mapping[str, Any], told: Start) -> dict[str, float]:
    from interlock.model.fit import Task, apart, save_model

    task = msgspec.convert(told.task, Task)
    variable = task.entry.function
    model = names.get(variable)
    saved = any(path.is_file() for path in Path(task.model_dir).rglob("*"))
    if model is None and not saved:
        raise UserCodeFailed(
            f"{task.entry.path} has run, but no variable '{variable}' holds a model, and model_dir is empty.",
            next_step=f"Assign the model to '{variable}', or name its variable: "
            f'train = "{task.entry.path}:variable"; or take model_dir in the parameters cell and save into it.',
        )
    try:
        save_model(model, task)
    except UserCodeFailed as error:
        if not saved:
            raise
        sys.stderr.write(f"{error.message} What the notebook saved into model_dir is kept.\n")
    return apart((None, _numbers(names.get(METRICS_VARIABLE))))[1]


def _numbers(metrics: object) -> dict[str, Any]:
    """The entries of the variable ``metrics`` that are numbers; says which are not."""
    if not isinstance(metrics, Mapping):
        return {}
    numbers = {name: value for name, value in metrics.items() if isinstance(name, str) and isinstance(value, Real)}
    others = [str(name)[:80] for name in metrics if name not in numbers]
    if others:
        sys.stderr.write(f"metrics that are not numbers were not recorded: {', '.join(others[:20])}\n")
    return numbers


def environment(scratch: Path) -> dict[str, str]:
    """Variables of the kernel: no profile or start-up files of the person who runs it, plots as outputs."""
    inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return inherited | {
        "IPYTHONDIR": str(scratch / "ipython"),
        "JPY_PARENT_PID": str(os.getpid()),
        "JUPYTER_NO_CONFIG": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "NO_COLOR": "1",
    }
