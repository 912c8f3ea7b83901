"""Duplicates, by key or by the whole row, within a file and across all time.

What is stored is only appended to: a newer row of a key is one more row, and the one with the highest (``_seq``,
``_row``) counts. The stored table is streamed past the keys of the file; it is never in memory whole.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import polars as pl

OnDuplicate = Literal["keep-last", "keep-first", "refuse"]
_OLD = "_old:"
_FOUND = "_old_found"
_PLACE = "_place"
_ROWS = 2**40
"""More than any file has rows: ``_seq * _ROWS + _row`` orders rows as they came."""


class Deduped(NamedTuple):
    """Rows to append, in order; how many rows were dropped as duplicates; how many of ``rows`` replace an older row."""

    rows: pl.DataFrame
    duplicates: int
    updated: int


def dedupe(
    frame: pl.DataFrame,
    stored: pl.LazyFrame | None,
    *,
    key: Sequence[str],
    on_duplicate: OnDuplicate,
    values: Sequence[str],
) -> Deduped:
    """Drop from ``frame`` what is there already; ``values`` are the columns of a row, ``key`` those that name it.

    Without a key the whole row names it, and a copy is dropped under every policy but ``refuse`` (which the caller
    applies to the counts). With keep-last, a row equal to the stored one is a duplicate, another one an update.
    """
    subset = list(key or values)
    newest = on_duplicate == "keep-last" and bool(key)
    unique = frame
    # as many hashes as rows: no two rows are equal, and the costly exact search can be left out
    if frame.select(pl.struct(subset).hash()).n_unique() < frame.height:
        unique = frame.unique(subset=subset, keep="last" if newest else "first", maintain_order=True)
    inner = frame.height - unique.height
    if stored is None or unique.is_empty():
        return Deduped(unique, inner, 0)
    wanted = unique.lazy().select(subset)
    if not newest:
        known = stored.select(subset).join(wanted, on=subset, how="semi", nulls_equal=True).collect(engine="streaming")
        fresh = unique.join(known, on=subset, how="anti", nulls_equal=True, maintain_order="left")
        return Deduped(fresh, inner + unique.height - fresh.height, 0)
    known = stored.join(wanted, on=subset, how="semi", nulls_equal=True).collect(engine="streaming")
    if known.is_empty():
        return Deduped(unique, inner, 0)
    if known.select(subset).n_unique() < known.height:
        known = newest_rows(known.lazy(), subset).collect()
    return _against(unique, known, subset, values, inner)


def _against(
    unique: pl.DataFrame, known: pl.DataFrame, key: Sequence[str], values: Sequence[str], inner: int
) -> Deduped:
    others = [name for name in values if name not in key]
    old = known.select(*key, *(pl.col(name).alias(_OLD + name) for name in others), pl.lit(value=True).alias(_FOUND))
    both = unique.join(old, on=list(key), how="left", nulls_equal=True, maintain_order="left")
    same = (
        pl.all_horizontal(pl.col(name).eq_missing(pl.col(_OLD + name)) for name in others)
        if others
        else pl.lit(value=True)
    )
    marks = both.select(found=pl.col(_FOUND).is_not_null(), same=same & pl.col(_FOUND).is_not_null())
    rows = unique.filter(~marks["same"])
    return Deduped(rows, inner + int(marks["same"].sum()), int((marks["found"] & ~marks["same"]).sum()))


def newest_rows(rows: pl.LazyFrame, key: Sequence[str], *, first: bool = False) -> pl.LazyFrame:
    """One row for each key: the one appended last (or first), by ``_seq`` and then ``_row``."""
    place = (pl.col("_seq") * _ROWS + pl.col("_row")).alias(_PLACE)
    marked = rows.with_columns(place)
    wanted = pl.col(_PLACE).min() if first else pl.col(_PLACE).max()
    kept = marked.group_by(list(key)).agg(wanted).select(_PLACE)
    return marked.join(kept, on=_PLACE, how="semi").drop(_PLACE)
