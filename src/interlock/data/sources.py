"""The rules of a source by its name, that of the holdout's own inbox included."""

import msgspec

from interlock.errors import NotFound, SettingsError
from interlock.settings import Settings, Source

HOLDOUT = "holdout"
"""Source name of the holdout's own inbox."""


def source_of(settings: Settings, name: str) -> Source:
    """The rules of a source; ``holdout`` has those of the first source and the inbox of the holdout.

    Raises :class:`NotFound` for a name that is not configured.
    """
    sources = settings.sources
    if name == HOLDOUT and settings.data.holdout.inbox:
        if HOLDOUT in sources:
            raise SettingsError(
                "A source is named 'holdout', and [data] holdout has an inbox of its own.",
                next_step="Give the source another name.",
            )
        first = next(iter(settings.row_sources.values()))
        return msgspec.structs.replace(first, inbox=settings.data.holdout.inbox)
    if name not in sources:
        raise NotFound(f"There is no source '{name}'.", next_step=f"Sources: {', '.join(sources)}.")
    return sources[name]
