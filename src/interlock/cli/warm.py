"""Let the worker process import the user's libraries while this process imports its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from interlock.model.contract import read_contract
from interlock.model.runner import Runner
from interlock.settings import Settings


@contextmanager
def warming(settings: Settings) -> Iterator[Runner]:
    """A runner, started already when a look at the files' times says that the turn will probably train.

    Raises :class:`~interlock.errors.ContractError` when the user's files do not offer what the loop needs.
    """
    contract = read_contract(settings)
    with Runner(settings.root, contract.preload, settings.home / "work" / "warm") as runner:
        if _something_changed(settings, contract.files):
            runner.start()
        yield runner


def _something_changed(settings: Settings, files: tuple[str, ...]) -> bool:
    """Whether a file to learn from, or the user's code, is newer than the last turn. A wrong guess costs only time."""
    try:
        last = settings.state_path.stat().st_mtime
        inboxes = [settings.path(source.inbox) for source in settings.sources.values() if "://" not in source.inbox]
        times = [path.stat().st_mtime for inbox in inboxes for path in (inbox, *inbox.glob("*"))]
        return max([*times, *((settings.root / file).stat().st_mtime for file in files)]) >= last
    except OSError:
        return True
