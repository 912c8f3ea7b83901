"""Frames that come one after the other and are wanted again: in memory while they are few, then on disk.

So that the rows of a large file need not all be in memory at once. Their order is kept.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    import numpy as np

BUDGET_BYTES = 128 * 2**20
"""Estimated size up to which the frames of one spool stay in memory."""


_KEPT = "_kept"
"""Column of a frame in memory of which rows were dropped: those that are left."""


class Spool:
    """Frames of one schema. ``add`` one, then read them again, as often as wanted, by ``frames`` or ``lazy``."""

    def __init__(self, scratch: Path, name: str, budget_bytes: int | None = None) -> None:
        self._scratch, self._name = scratch, name
        self._budget_bytes = BUDGET_BYTES if budget_bytes is None else budget_bytes
        self._held: list[pl.DataFrame] = []
        self._held_bytes = 0
        self._parts: list[Path] = []
        self.height = 0

    def beside(self, name: str, budget_bytes: int) -> "Spool":
        """Another spool in the same place."""
        return Spool(self._scratch, f"{self._name}-{name}", budget_bytes)

    def add(self, frame: pl.DataFrame) -> None:
        """Take a frame; an empty one only tells the schema."""
        self.height += frame.height
        if frame.height == 0 and (self._held or self._parts):
            return
        self._held.append(frame)
        self._held_bytes += int(frame.estimated_size())
        if self._parts or self._held_bytes > self._budget_bytes:
            self._spill()

    def _spill(self) -> None:
        """Write each frame to a file of its own: they come back as they went, one at a time."""
        for frame in self._held:
            path = self._scratch / f"{self._name}-{len(self._parts):06d}.parquet"
            _write(frame, path)
            self._parts.append(path)
        self._held, self._held_bytes = [], 0

    def frames(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """The frames in order, with all or some of their columns; those on disk come back one at a time."""
        for path in self._parts:
            yield pl.read_parquet(path, columns=None if columns is None else list(columns), glob=False)
        for frame in self._held:
            mask = frame[_KEPT] if _KEPT in frame.columns else None
            wanted = frame.select(columns or pl.exclude(_KEPT))
            yield wanted if mask is None else wanted.filter(mask)

    def lazy(self) -> pl.LazyFrame:
        """All rows in order, as one lazy frame."""
        spilled = [pl.scan_parquet(self._parts, glob=False)] if self._parts else []
        return pl.concat([*spilled, *(_kept(frame) for frame in self._held)])

    def gather(self, rows: "np.ndarray[Any, Any]", columns: Sequence[str]) -> pl.DataFrame:
        """The rows at these places (ascending, from 0), with some of the columns, as one frame."""
        import numpy as np

        found, before = [], 0
        for frame in self.frames(columns):
            first, last = np.searchsorted(rows, (before, before + frame.height))
            found.append(frame[rows[first:last] - before])
            before += frame.height
        return pl.concat(found)

    def keep(self, mask: "np.ndarray[Any, Any]") -> None:
        """Drop the rows for which ``mask`` (bool, one for each row) is false; those in memory when they are read."""
        import numpy as np

        before = 0
        for path in self._parts:
            frame = pl.read_parquet(path, glob=False)
            kept = frame.filter(pl.Series(mask[before : before + frame.height]))
            _write(kept, path)
            before += frame.height
        for place, frame in enumerate(self._held):
            before_it = frame[_KEPT].to_numpy().copy() if _KEPT in frame.columns else np.ones(frame.height, dtype=bool)
            height = int(before_it.sum())
            before_it[before_it] = mask[before : before + height]
            self._held[place] = frame.with_columns(pl.Series(_KEPT, before_it))
            before += height
        self.height = int(mask.sum())

    @property
    def spilled(self) -> bool:
        """Say whether part of it is on disk."""
        return bool(self._parts)

    def clear(self) -> None:
        """Forget all frames, and remove what is on disk."""
        for path in self._parts:
            path.unlink(missing_ok=True)
        self._parts, self._held, self._held_bytes, self.height = [], [], 0, 0


def _kept(frame: pl.DataFrame) -> pl.LazyFrame:
    return frame.lazy().filter(pl.col(_KEPT)).drop(_KEPT) if _KEPT in frame.columns else frame.lazy()


def _write(frame: pl.DataFrame, path: Path) -> None:
    frame.write_parquet(path, compression="lz4", statistics=False)
