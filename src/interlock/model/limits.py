"""What user code is held to, by the settings: how much memory it may take, and which files it may not touch."""

import re
from typing import Final

from interlock.errors import SettingsError
from interlock.model.confine import landlock_version
from interlock.model.memory import can_watch
from interlock.records import Record
from interlock.settings import Settings
from interlock.units import SIZE_PATTERN

_UNITS: Final = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


class Limits(Record, frozen=True, kw_only=True):
    """``memory_bytes``: None for no limit. ``hidden``: resolved paths; None when user code is not confined."""

    memory_bytes: int | None = None
    hidden: tuple[str, ...] | None = None


def limits_of(settings: Settings) -> Limits:
    """The limits that a project sets; raises :class:`SettingsError` for one that this system cannot keep."""
    return Limits(memory_bytes=_memory(settings), hidden=_hidden(settings))


def size_bytes(size: str) -> int:
    """Bytes of a size such as ``500MB`` or ``4GB`` (powers of ten); raises :class:`SettingsError`."""
    match = re.match(SIZE_PATTERN, size)
    if match is None:
        raise SettingsError(f"'{size}' is not a size.", next_step="Write a number with MB, GB or TB: 500MB, 4GB.")
    return int(float(match[1]) * _UNITS[match[2]])


def _memory(settings: Settings) -> int | None:
    if settings.model.memory is None:
        return None
    if not can_watch():
        raise SettingsError(
            "model.memory cannot be kept here: the memory of a process is watched on Linux only.",
            next_step="Take model.memory out, or run on Linux.",
            key="model.memory",
        )
    return size_bytes(settings.model.memory)


def _hidden(settings: Settings) -> tuple[str, ...] | None:
    """Inboxes with rows to learn from or to judge by, and Interlock's own memory."""
    if not settings.model.confined:
        return None
    if not landlock_version():
        raise SettingsError(
            "model.confined cannot be kept here: it needs Linux 5.13 or newer with Landlock switched on.",
            next_step="Take model.confined out, or run on such a system.",
            key="model.confined",
        )
    inboxes = [source.inbox for source in settings.sources.values()]
    places = [place for place in (*inboxes, settings.data.holdout.inbox, settings.store.lake) if place]
    paths = {settings.path(place) for place in places if "://" not in place} | {settings.home.resolve()}
    state = settings.state_path
    if state is not None:
        paths |= {state, state.with_name(f"{state.name}-journal")}
    return tuple(sorted(map(str, paths)))
