"""A notebook executed as a training, inside a worker process: parameters in, a saved model and the executed file out.

nbclient drives an ipykernel over sockets of the file system. The kernel stays in the process group of the session, so
that whatever ends the session ends the kernel and what it started; it also dies with its parent. What a cell prints is
printed here as well, so that the deadline, the output tail and the progress line work as for any training.
"""

import contextlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from interlock.errors import ContractError, UserCodeFailed, bounded, error_named
from interlock.model.cells import INJECTED, PARAMETERS, Notebook, read_notebook, tree_of
from interlock.model.fit import Rows, Task, executed_path
from interlock.model.kernel import BOOT, FINISH, Start, environment
from interlock.model.worker import TRACEBACK_CHARS

STREAM_CHARS: Final = 100_000
"""What is kept of the text that one cell prints."""
OUTPUT_BYTES: Final = 2_000_000
"""Largest single output that is kept: a table or a picture."""
NOTEBOOK_BYTES: Final = 16_000_000
"""Outputs that are kept of one run."""
KEPT_TYPES: Final = ("text/plain", "text/html", "text/markdown", "image/png", "image/jpeg", "image/svg+xml")
_FRAMES: Final = ("data", "df", "X", "X_train", "y", "y_train", "X_valid", "y_valid")
_SOCKET_PATH_CHARS: Final = 80
"""A socket's path has at most 104 characters on macOS and 108 on Linux; nbclient adds a few."""
_STARTUP_S: Final = 120
_ANSI: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def run_notebook(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Execute the user's notebook and save its model; gives its metrics and row count.

    Raises :class:`UserCodeFailed` when a cell fails or the kernel dies, with the number of the cell, and
    :class:`~interlock.errors.ContractError` when the model does not fit.
    """
    task = msgspec.convert(arguments["task"], Task)
    path = task.entry.path
    content = (Path(task.code) / path).read_bytes()
    notebook = read_notebook(content, path)
    rows = Rows(task, splits=bool({"X_valid", "y_valid"} & set(task.entry.parameters)))
    executed = executed_path(task)
    executed.parent.mkdir(parents=True, exist_ok=True)
    document = nbformat.reads(content.decode("utf-8"), as_version=4)
    _inject(document, notebook, _injected(task, rows, notebook, executed.parent))
    started = time.perf_counter()
    with _socket_folder(executed.parent) as sockets:
        start = Start(
            parent=os.getpid(),
            folders=tuple(arguments.get("folders") or ()),
            task=msgspec.to_builtins(task),
            result=str(executed.parent / "result.json"),
        )
        told = _execute(document, start, executed, sockets)
    elapsed = time.perf_counter() - started
    return {"rows": rows.count, "metrics": told["metrics"], "function_seconds": elapsed}


# ---- parameters --------------------------------------------------------------------------------------------------


def _injected(task: Task, rows: Rows, notebook: Notebook, scratch: Path) -> str:
    """Source of the cell that sets the parameters, and what else the notebook asks for."""
    lines = [f"{name} = {value!r}" for name, value in task.params.items() if name.isidentifier()]
    asked = [name for name in task.entry.parameters if name not in task.params]
    frames = {*_FRAMES, *task.references}
    if frames & set(asked):
        lines.insert(0, "import pandas as pd")
    offers = rows.offers()
    for name in asked:
        if name == "train_path":
            lines.append(f"train_path = {_shown(_one_file(rows, _suffix(notebook, task.entry.path), scratch))!r}")
        elif name in frames:
            file = scratch / f"{name}.pkl"
            file.write_bytes(pickle.dumps(offers[name]("pandas"), protocol=5))
            lines.append(f"{name} = pd.read_pickle({_shown(file)!r})")
        else:
            value = offers[name]("pandas")
            lines.append(f"{name} = {(_shown(Path(value)) if name.endswith('_dir') else value)!r}")
    return "\n".join(["# Set by Interlock for this training.", *lines])


def _shown(path: Path) -> str:
    """The path as the notebook gets it: relative to the working folder where it lies below it."""
    with contextlib.suppress(ValueError):
        return path.resolve().relative_to(Path.cwd().resolve()).as_posix()
    return str(path)


def _suffix(notebook: Notebook, path: str) -> str:
    """Kind of file that the default of ``train_path`` names: what reads it is the notebook's own code."""
    import ast

    tagged = notebook.parameters
    for node in tree_of(tagged, path).body if tagged is not None else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if "train_path" in names and str(node.value.value).lower().endswith(".csv"):
                return ".csv"
    return ".parquet"


def _one_file(rows: Rows, suffix: str, scratch: Path) -> Path:
    path = scratch / f"training{suffix}"
    binary = [name for name, dtype in rows.parts[0].schema.items() if str(dtype) == "Binary"]
    if suffix == ".csv" and binary:
        raise ContractError(
            f"The notebook asks for the rows as CSV, which cannot carry the bytes of column '{binary[0]}'.",
            next_step="Let train_path end in .parquet, and read it with pandas.read_parquet.",
            column=binary[0],
        )
    if suffix == ".csv":
        rows.parts[0].write_csv(path)
    else:
        rows.parts[0].write_parquet(path)
    return path


def _inject(document: Any, notebook: Notebook, source: str) -> None:
    """Put the cell that sets the parameters behind the one that holds their defaults, else on top."""
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": [INJECTED]})
    cell.pop("id", None)
    tagged = [index for index, item in enumerate(document.cells) if PARAMETERS in item.metadata.get("tags", ())]
    document.cells.insert(tagged[0] + 1 if notebook.parameters is not None else 0, cell)


# ---- the kernel --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _socket_folder(scratch: Path) -> Iterator[Path]:
    """A folder that only this user can enter, with a path short enough for sockets in it."""
    folder = scratch / "k"
    short = len(str(folder)) <= _SOCKET_PATH_CHARS
    folder = folder if short else Path(tempfile.mkdtemp(prefix="interlock-"))
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Provisioner(LocalProvisioner):
    """Starts the kernel in our own process group: jupyter_client would give it a session that outlives us."""

    status: int | None = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        self.process = subprocess.Popen(cmd, env=kwargs.get("env"), stdin=subprocess.DEVNULL)  # noqa: ASYNC220, S603
        self.pid = self.process.pid
        return self.connection_info

    async def poll(self) -> int | None:
        status: int | None = await super().poll()
        if self.process is not None and status is not None:
            self.status = status
        return status


class _Client(NotebookClient):
    """Executes the cells, repeats what they print, and keeps the file up to date as it goes."""

    def __init__(self, document: Any, manager: Any, executed: Path) -> None:
        super().__init__(
            document,
            km=manager,
            timeout=None,
            startup_timeout=_STARTUP_S,
            store_widget_state=False,
            record_timing=False,
            on_cell_start=self._say,
            on_cell_executed=self._keep,
        )
        self.executed = executed
        self.current = 0
        self._left = NOTEBOOK_BYTES
        self._streamed = 0
        self._own = len(document.cells)

    def _say(self, cell: Any, cell_index: int) -> None:
        self._streamed = 0
        if cell.cell_type == "code" and cell_index < self._own:
            self.current = cell_index
            sys.stdout.write(f"[{_place(self.nb, cell_index)}]\n")

    def _keep(self, cell: Any, cell_index: int, execute_reply: Any) -> None:
        del cell, execute_reply
        if cell_index < self._own:
            self.write()

    def write(self) -> None:
        """Write the notebook as far as it came."""
        draft = self.executed.with_suffix(".draft")
        draft.write_text(nbformat.writes(self.nb), "utf-8")
        draft.rename(self.executed)

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        content = msg["content"]
        if msg["msg_type"] == "stream":
            sys.stdout.write(content["text"])
            content["text"] = self._bounded_stream(content["text"])
        elif msg["msg_type"] in ("display_data", "execute_result", "update_display_data"):
            content["data"] = self._bounded_data(content["data"])
        elif msg["msg_type"] == "error":
            content["traceback"] = [_ANSI.sub("", line) for line in content["traceback"]]
        return super().process_message(msg, cell, cell_index)

    def _bounded_stream(self, text: str) -> str:
        room = min(STREAM_CHARS - self._streamed, self._left)
        self._streamed += len(text)
        self._left -= min(len(text), max(room, 0))
        if len(text) <= room:
            return text
        return f"{text[:room]}\n… the rest was not kept …\n" if room > 0 else ""

    def _bounded_data(self, data: Mapping[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for kind in KEPT_TYPES:
            value = data.get(kind)
            if isinstance(value, str) and len(value) <= min(OUTPUT_BYTES, self._left):
                kept[kind] = value
                self._left -= len(value)
        return kept or {"text/plain": f"({', '.join(map(str, data))[:200]}: not kept)"}


def _execute(document: Any, start: Start, executed: Path, sockets: Path) -> dict[str, Any]:
    """Run all cells and then :func:`interlock.model.kernel.finish`; gives what that wrote."""
    scratch = executed.parent
    spec = scratch / "start.json"
    spec.write_bytes(msgspec.json.encode(start))
    search = json.dumps([entry for entry in sys.path if entry not in start.folders])
    manager = AsyncKernelManager(transport="ipc", connection_file=str(sockets / "c.json"))
    command = [sys.executable, "-P", "-c", BOOT, search, str(spec), "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=command, language="python", display_name="Python 3")  # noqa: SLF001
    manager.provisioner = _Provisioner(kernel_spec=manager.kernel_spec, kernel_id="training", parent=manager)
    client = _Client(document, manager, executed)
    try:
        client.reset_execution_trackers()
        with client.setup_kernel(cleanup_kc=True, env=environment(scratch)):
            for index, cell in enumerate(tuple(document.cells)):
                client.execute_cell(cell, index)
            document.cells.append(nbformat.v4.new_code_cell(FINISH.format(path=str(spec))))
            client.execute_cell(document.cells[-1], len(document.cells) - 1)
    except CellExecutionError as error:
        client.write()
        raise _cell_failed(document, client.current, start, str(error.ename), str(error.evalue)) from None
    except DeadKernelError:
        client.write()
        raise _kernel_died(document, client.current, start, manager.provisioner.status) from None
    return _told(Path(start.result))


def _told(result: Path) -> dict[str, Any]:
    reply: dict[str, Any] = json.loads(result.read_text("utf-8"))
    if "kind" in reply:
        raise error_named(reply["kind"])(reply["message"], next_step=reply["next_step"])
    return reply


# ---- what went wrong ---------------------------------------------------------------------------------------------


def _cell_failed(document: Any, index: int, start: Start, name: str, value: str) -> UserCodeFailed:
    trace = next(
        (
            "\n".join(output["traceback"])
            for output in document.cells[index].outputs
            if output["output_type"] == "error"
        ),
        "",
    )
    said = bounded(_ANSI.sub("", f"{name}: {value}" if value else name).split("\n")[0], 400)
    return UserCodeFailed(
        f"{start.task['entry']['path']}, {_place(document, index)} raised {said}.",
        next_step="Mend the cell, and run again.",
        traceback=_shortened(trace),
        cause="raised",
    )


def _kernel_died(document: Any, index: int, start: Start, status: int | None) -> UserCodeFailed:
    how = "ended its kernel"
    if status is not None and status < 0:
        how = f"lost its kernel to {signal.Signals(-status).name}"
        how += ", which is what the system does when memory runs out" if -status == signal.SIGKILL else ""
    elif status is not None:
        how = f"ended its kernel with exit status {status}"
    return UserCodeFailed(
        f"{start.task['entry']['path']}, {_place(document, index)} {how}.",
        next_step="See the end of its output; use fewer rows when it was memory.",
        cause="killed",
    )


def _place(document: Any, index: int) -> str:
    """Words for a cell: its number among the user's code cells, and how it begins."""
    if INJECTED in document.cells[index].metadata.get("tags", ()):
        return "the cell that Interlock put in"
    own = [
        c for c in document.cells[: index + 1] if c.cell_type == "code" and INJECTED not in c.metadata.get("tags", ())
    ]
    first = next((line.strip() for line in document.cells[index].source.splitlines() if line.strip()), "")
    return f"code cell {len(own)} ({bounded(first, 60)})"


def _shortened(trace: str) -> str:
    if len(trace) <= TRACEBACK_CHARS:
        return trace
    half = TRACEBACK_CHARS // 2
    return f"{trace[:half]}\n… {len(trace) - 2 * half} characters left out …\n{trace[-half:]}"
