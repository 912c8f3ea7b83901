"""The training program at work, started by a worker process: SageMaker's surroundings in, what it saved out.

The program runs in an interpreter of its own, ``python file.py --name value …``, in a copy of the user's files. What it
prints goes on to the worker's output as it comes.
"""

import ctypes
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from interlock.errors import SettingsError, UserCodeFailed, bounded
from interlock.model import mount
from interlock.model.channels import CODE, TEST, VALIDATION, write_channels
from interlock.model.container import Container
from interlock.model.fit import Rows, Task
from interlock.model.sagemaker import channels, is_for_vertex

_TAIL_BYTES: Final = 256 * 1024
_LINE_BYTES: Final = 8 * 1024
_LOOK_S: Final = 0.05
_AFTER_S: Final = 0.2
_WORDS: Final = 400
_TRACE: Final = "Traceback (most recent call last):"


def run_script(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run the program and keep what it saved into its model folder; gives its metrics and row count.

    Raises :class:`UserCodeFailed` when it ends with another status than 0, by a signal, or having saved nothing.
    """
    task = msgspec.convert(arguments["task"], Task)
    expressions = metric_expressions(task.script.metric_definitions)
    here = Path(task.data_dir).absolute()
    shutil.copytree(task.code, here / "code")
    sources = [path.read_bytes() for path in sorted((here / "code").rglob("*.py"))]
    vertex = is_for_vertex(sources)
    names = task.script.channels or channels(sources) or (("train", "validation", "test") if vertex else ("train",))
    container = Container(
        root=PurePosixPath(mount.PLACE if task.script.layout == "opt-ml" else here),
        program=task.entry.path,
        params=task.params,
        channels=tuple(names),
        job=task.name,
        gpus=_gpus(),
    )
    container.prepare(here)
    header = vertex if task.script.header is None else task.script.header
    folders = write_channels(task, names, here / "input" / "data", header=header)
    program = _Program(task, container, here, expressions)
    started = time.perf_counter()
    program.run(_variables(task, container, folders))
    elapsed = time.perf_counter() - started
    _keep_model(task, here / "model")
    return {"rows": Rows(task, splits=False).count, "metrics": program.metrics, "function_seconds": elapsed}


def metric_expressions(definitions: Mapping[str, str]) -> dict[str, re.Pattern[str]]:
    """Compile SageMaker's metric definitions; raises :class:`SettingsError` for one that is no regular expression."""
    found = {}
    for name, text in definitions.items():
        try:
            found[name] = re.compile(text)
        except re.error as error:
            raise SettingsError(
                f"script.metric_definitions.{name} is no regular expression: {error}.",
                next_step="Mend it; one group, as in 'loss: ([0-9.]+)', holds the number.",
            ) from error
        if found[name].groups < 1:
            raise SettingsError(f"script.metric_definitions.{name} has no group.", next_step="Put the number in ( ).")
    return found


def _variables(task: Task, container: Container, folders: Mapping[str, Path]) -> dict[str, str]:
    """The environment of the program: ours, and that of the container."""
    code = str(container.root / "code")
    search = [os.path.normpath(f"{code}/{folder}") for folder in task.search]
    path = os.pathsep.join(dict.fromkeys([*search, *filter(None, [os.environ.get("PYTHONPATH")])]))
    found = {**os.environ, **container.variables(), "PYTHONPATH": path}
    found |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONFAULTHANDLER": "1"}
    found |= {"INTERLOCK_SEED": str(task.seed), "PYTHONHASHSEED": str(task.seed)}
    found["AIP_DATA_FORMAT"] = task.script.format
    for name, folder in folders.items():
        kind = "VALIDATION" if name in VALIDATION else "TEST" if name in TEST else "TRAINING"
        files = sorted(item.name for item in folder.iterdir())
        if name != CODE and files:
            found.setdefault(f"AIP_{kind}_DATA_URI", f"{container.channel(name)}/{files[0]}")
    return found


def _gpus() -> int:
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def _keep_model(task: Task, saved: Path) -> None:
    """Move what the program saved to where the model is packed from; raises :class:`UserCodeFailed` for nothing."""
    if not any(path.is_file() for path in saved.rglob("*")):
        raise UserCodeFailed(
            f"{task.entry.path} ended well, but saved nothing into the folder SM_MODEL_DIR.",
            next_step="Save the model there: os.environ['SM_MODEL_DIR'], or what --model-dir defaults to.",
            cause="nonsense",
        )
    folder = Path(task.model_dir)
    for entry in saved.iterdir():  # one by one: a confined process may not replace the folder itself
        shutil.move(entry, folder / entry.name)


# ---- the process -------------------------------------------------------------------------------------------------


class _Program:
    """One run of the program: its output passed on and read for metrics, its end told in words."""

    def __init__(
        self, task: Task, container: Container, here: Path, expressions: Mapping[str, re.Pattern[str]]
    ) -> None:
        self.task = task
        self.container = container
        self.here = here
        self.metrics: dict[str, float] = {}
        self._expressions = expressions
        self._tail = bytearray()
        self._line = bytearray()

    def run(self, variables: Mapping[str, str]) -> None:
        """Start it and wait for its end; raises :class:`UserCodeFailed`."""
        path = PurePosixPath(self.task.entry.path)
        command = [sys.executable, path.name, *self.container.arguments]
        folder = self.here / "code" / path.parent
        if self.task.script.layout == "opt-ml":
            where = str(self.container.root / "code" / path.parent)
            command = [sys.executable, "-I", mount.__file__, str(self.here), where, *command]
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with subprocess.Popen(  # noqa: S603 - the user's program is what this is for
            command,
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=dying_with(os.getpid()),  # noqa: PLW1509 - this process has one thread of Python
        ) as process:
            self._tell_where_when_asked(process.pid)
            self._pass_on(process)
            status = process.wait()
        self._read_line()
        if status:
            raise self._failure(status)

    def _tell_where_when_asked(self, pid: int) -> None:
        """At the deadline we are asked to print where we are: the program is, by the signal that faulthandler minds."""
        import faulthandler

        faulthandler.unregister(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, lambda *_: os.kill(pid, signal.SIGABRT))

    def _pass_on(self, process: "subprocess.Popen[bytes]") -> None:
        """Hand on what is printed until the program ends, whoever else still holds its output."""
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        last = float("inf")
        while time.monotonic() < last:
            if select.select([descriptor], [], [], _LOOK_S)[0]:
                content = os.read(descriptor, 1 << 16)
                if not content:
                    return
                self._take(content)
            elif last == float("inf") and process.poll() is not None:
                last = time.monotonic() + _AFTER_S

    def _take(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(1, view) :]
        self._tail += content
        del self._tail[:-_TAIL_BYTES]
        if not self._expressions:
            return
        *lines, rest = (bytes(self._line) + content).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._line[:] = line
            self._read_line()
        self._line[:] = rest[-_LINE_BYTES:]

    def _read_line(self) -> None:
        """Look for metrics in one line; the last value of each is kept."""
        text = bytes(self._line[:_LINE_BYTES]).decode("utf-8", "replace")
        self._line.clear()
        for name, expression in self._expressions.items():
            for match in expression.finditer(text):
                try:
                    value = float(match[1])
                except (TypeError, ValueError):
                    continue
                if abs(value) != float("inf") and value == value:  # noqa: PLR0124 - NaN is not itself
                    self.metrics[name] = value

    def _failure(self, status: int) -> UserCodeFailed:
        path = self.task.entry.path
        text = bytes(self._tail).decode("utf-8", "replace").replace(f"{self.container.root}/code/", "")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        last = bounded(lines[-1], _WORDS) if lines else "it printed nothing"
        if status == mount.REFUSED and self.task.script.layout == "opt-ml":
            return UserCodeFailed(
                f"{path} was not started, because nothing can be mounted at {mount.PLACE} here: {last}.",
                next_step="Set script.layout = 'local'; SM_MODEL_DIR and the other variables name the same folders.",
                cause="exited",
            )
        if status < 0:
            return UserCodeFailed(
                f"{path} was ended by {_signal(-status)}: {last}.",
                next_step="Was memory short? See the end of its output below.",
                cause="killed",
            )
        trace = _TRACE + text.rpartition(_TRACE)[2] if _TRACE in text else ""
        told = self._told_in_file()
        return UserCodeFailed(
            f"{path} ended with exit status {status}: {told or last}",
            next_step="Mend it; arguments and variables are listed in docs/how-to/sagemaker-scripts.md.",
            traceback=bounded(trace, 8_000),
            cause="exited",
        )

    def _told_in_file(self) -> str:
        """What the program wrote into ``output/failure``, SageMaker's place for the reason."""
        try:
            with (self.here / "output" / "failure").open("rb") as file:
                words = file.read(4 * _WORDS).decode("utf-8", "replace").split()
        except OSError:
            return ""
        return bounded(" ".join(words), _WORDS)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def dying_with(parent: int) -> Callable[[], None] | None:
    """What the new process does first: ask Linux to be killed when we are."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(0)

    return ask
