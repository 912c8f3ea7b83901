"""Let the worker process import the user's libraries while this process imports its own."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from interlock.model.contract import read_contract
from interlock.model.runner import Runner
from interlock.settings import Settings

_LAST_TURN = "last-turn"
"""An empty file whose time is that of the last turn here; the state may be on a server, which has no file."""


@contextmanager
def warming(settings: Settings) -> Iterator[Runner]:
    """A runner, started already when a look at the files' times says that the turn will probably train.

    Raises :class:`~interlock.errors.ContractError` when the user's files do not offer what the loop needs.
    """
    contract = read_contract(settings)
    with Runner.of(settings, contract.preload, settings.home / "work" / "warm") as runner:
        if _something_changed(settings, contract.files):
            runner.start()
        yield runner
    _remember(settings)


def _remember(settings: Settings) -> None:
    """Note that a turn ended now, for the guess of the next one."""
    with suppress(OSError):
        (settings.home / _LAST_TURN).touch()


def _something_changed(settings: Settings, files: tuple[str, ...]) -> bool:
    """Whether a file to learn from, or the user's code, is newer than the last turn. A wrong guess costs only time."""
    try:
        last = (settings.home / _LAST_TURN).stat().st_mtime
        inboxes = [settings.path(source.inbox) for source in settings.sources.values() if "://" not in source.inbox]
        times = [path.stat().st_mtime for inbox in inboxes for path in (inbox, *inbox.glob("*"))]
        return max([*times, *((settings.root / file).stat().st_mtime for file in files)]) >= last
    except OSError:
        return True
