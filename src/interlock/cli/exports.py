"""``interlock export``: what the ledger knows, in the form of another tool."""

from pathlib import Path

from interlock.data.layout import Layout
from interlock.data.odcs_writer import Known, contract_text
from interlock.data.opening import kind_of
from interlock.data.sources import source_of
from interlock.errors import Misuse, NotFound, StoreFault
from interlock.ports import Parts
from interlock.records import FileResult, Record
from interlock.store.disk import durable_write


class Exported(Record, frozen=True, kw_only=True):
    """A contract that was written; ``file`` is empty when it was to be printed."""

    source: str
    contract: str
    file: str = ""


def contract(parts: Parts, name: str, output: Path | None, *, with_values: bool) -> Exported:
    """The signature of a source as an ODCS document.

    Raises :class:`Misuse` when several sources are there and none is named, and :class:`NotFound` when nothing is known
    of the source yet.
    """
    sources = parts.settings.sources
    if not name and len(sources) > 1:
        raise Misuse(
            f"There are {len(sources)} sources, and a contract is about one.",
            next_step=f"Name it: --source {next(iter(sources))}. Sources: {', '.join(sources)}.",
        )
    name = name or next(iter(sources))
    source = source_of(parts.settings, name)
    layout = parts.ledger.read("columns", name, Layout)
    if layout is None:
        raise NotFound(f"No rows were accepted yet from source '{name}'.", next_step="Run 'interlock run' first.")
    known = Known(
        project=parts.settings.project,
        source=name,
        inbox=source.inbox,
        format=_format(parts, name),
        on_duplicate=source.on_duplicate,
    )
    text = contract_text(layout, known, with_values=with_values)
    if output is None:
        return Exported(source=name, contract=text)
    if not output.resolve().parent.is_dir():
        raise Misuse(f"There is no folder for {output}.", next_step="Name a file in a folder that is there.")
    try:
        durable_write(output.resolve(), text.encode())
    except OSError as problem:
        raise StoreFault(
            f"{output} cannot be written: {problem.strerror}.", next_step="Name another file."
        ) from problem
    return Exported(source=name, contract=text, file=str(output))


def _format(parts: Parts, name: str) -> str:
    """Format of the first accepted file: it never changes."""
    files = [each for _, each in parts.ledger.scan("file", FileResult, prefix=f"{name}/") if each.accepted]
    first = min(files, key=lambda each: each.sequence, default=None)
    found = kind_of(first.name) if first is not None else None
    return found[0] if found is not None else "csv"
