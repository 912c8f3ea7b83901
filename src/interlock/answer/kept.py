"""Columns of a file that are copied next to its answers, so that a reader knows which row was answered."""

from collections.abc import Sequence

from interlock.answer.audit import PREDICTION, PROBABILITY
from interlock.answer.staging import LINEAGE
from interlock.data.opening import shown
from interlock.errors import DataRefused
from interlock.settings import Settings


def key_columns(settings: Settings) -> tuple[str, ...]:
    """Columns that name a row: the key of the split and those of the sources."""
    names = [*settings.data.holdout.key]
    for source in settings.sources.values():
        names += source.key
    return tuple(dict.fromkeys(names))


def kept_columns(settings: Settings, present: Sequence[str]) -> tuple[str, ...]:
    """Columns of a file to copy next to the answers: ``batch.keep``, by default the key columns that are there.

    Raises :class:`DataRefused` when one that was asked for is not there, or is called like an answer column.
    """
    wanted = settings.batch.keep or tuple(name for name in key_columns(settings) if name in present)
    if settings.batch.files == "images":
        wanted = ("file", *wanted)
    missing = [name for name in wanted if name not in present]
    if missing:
        raise DataRefused(
            f"Column '{shown(missing[0])}' of batch.keep is not in the file.",
            next_step="Add it to the file, or take it out of batch.keep.",
            columns=missing[:20],
        )
    clashing = [name for name in wanted if name == PREDICTION or name.startswith(PROBABILITY) or name in LINEAGE]
    if clashing:
        raise DataRefused(
            f"Column '{shown(clashing[0])}' is called like a column of the answers and cannot be kept.",
            next_step="Rename it in the file, or list other columns in batch.keep.",
            columns=clashing[:20],
        )
    return tuple(dict.fromkeys(wanted))
