"""``interlock init --from-notebook``: the project around what a notebook was turned into."""

import shutil
from pathlib import Path

from interlock.cli.convert import Converted, convert
from interlock.cli.scaffold import IGNORED, Scaffold, project_name, quoted, task_of, write
from interlock.errors import Misuse, NotFound
from interlock.settings import FILE_NAME

_TOML = """# Every key: docs/reference/configuration.md
[model]
name    = "{name}"
task    = "{task}"
train   = {train}
{predict}target  = {target}
{seed}
{params}[data]
inbox   = "data/inbox"               # drop CSV, Parquet or JSON lines files here
{query}# key   = ["id"]                     # columns that name a row, if it has any; they are no features then
holdout = {{ fraction = 0.2 }}         # rows kept for judging, chosen by a hash

[gate]
confidence = 0.95

[batch]
inbox  = "data/to_score"             # files here are scored by the release in force
output = "data/predictions"
"""


def scaffold_from_notebook(folder: Path, notebook: Path, *, data: Path | None, target: str) -> Scaffold:
    """Write a project into ``folder`` that trains as ``notebook`` does; nothing of the notebook is run.

    Raises :class:`Misuse` when a project is there already or the notebook cannot be used, and :class:`NotFound` when a
    file or column is missing.
    """
    if (folder / FILE_NAME).exists():
        raise Misuse(f"There is a project in {folder.resolve()} already.", next_step="Name another folder.")
    if data is not None and not data.is_file():
        raise NotFound(f"There is no file {data}.", next_step="Name a CSV, Parquet or JSON lines file.")
    made = convert(notebook, target)
    beside = notebook.parent / made.reads
    if data is None and made.reads and beside.is_file():
        data = beside
    task = task_of(data, made.target) if data is not None else "classification"
    written = [write(folder / FILE_NAME, _settings(made, project_name(folder), task))]
    written += [write(folder / name, text) for name, text in made.files.items()]
    written.append(write(folder / ".gitignore", IGNORED))
    inbox = folder / "data" / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    (folder / "data" / "to_score").mkdir(parents=True, exist_ok=True)
    where = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    next_step = f"{where}interlock run"
    if data is not None:
        written.append(Path(shutil.copy(data, inbox / data.name)))
    else:
        next_step = f"Put the data file into {inbox}, check model.task in {FILE_NAME}, then: {next_step}"
    return Scaffold(
        folder=str(folder), files=tuple(str(path) for path in written), next_step=next_step, notes=made.notes
    )


def _settings(made: Converted, name: str, task: str) -> str:
    params = "".join(f"{key} = {_toml(value)}\n" for key, value in made.params.items())
    return _TOML.format(
        name=name,
        task=task,
        train=quoted(made.train),
        predict=f"predict = {quoted(made.predict)}\n" if made.predict else "",
        target=quoted(made.target),
        query=f"query   = {quoted(made.query)}\n" if made.query else "",
        seed=f"seed    = {made.seed}\n" if made.seed is not None else "",
        params=f"[params]\n{params}\n" if params else "",
    )


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return repr(value)
