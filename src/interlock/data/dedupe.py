"""Duplicates, by key or by the whole row, within a file and across all time.

What is stored is only appended to: a newer row of a key is one more row, and the one with the highest (``_seq``,
``_row``) counts. There are two ways, which give the same rows and counts: :func:`dedupe` compares the rows themselves,
and is for little; :func:`dedupe_large` finds by hashes what is worth comparing, and never has all rows in memory.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import polars as pl

from interlock.data.row_index import ENTRY, RowIndex, entries, sorting
from interlock.data.spool import Spool

if TYPE_CHECKING:
    import numpy as np

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


_PART_ROWS = 2**20
"""About so many rows of a file are looked up at once; more of them are taken by the last bits of their hashes."""
_ENTRIES_BYTES = 32 * 2**20


class DedupedLarge(NamedTuple):
    """What was dropped of a spool, how many of the rows left replace an older one, and the index entries of those."""

    duplicates: int
    updated: int
    entries: Spool


class _Part(NamedTuple):
    """Some rows of a file: their places (ascending), the two hashes of each, and what sorts the first of these."""

    places: "np.ndarray[Any, Any]"
    entered: "np.ndarray[Any, Any]"
    order: "np.ndarray[Any, Any]"


def dedupe_large(
    rows: Spool,
    stored: pl.LazyFrame | None,
    *,
    key: Sequence[str],
    on_duplicate: OnDuplicate,
    values: Sequence[str],
    index: RowIndex,
) -> DedupedLarge:
    """Do what :func:`dedupe` does, dropping from ``rows`` in place.

    Raises ValueError when ``stored`` does not hold the rows that ``index`` knows of; nothing was dropped then.
    """
    import numpy as np

    hashed, entered = entries(key, values), rows.beside("entries", _ENTRIES_BYTES)
    for frame in rows.frames():
        entered.add(frame.select(hashed))
    keep, updated = np.ones(rows.height, dtype=bool), 0
    many = 1 << max(0, (rows.height - 1) // _PART_ROWS).bit_length()
    for number in range(many):
        part = _part(entered, number, many)
        within = _first_of_each(rows, part, list(key or values), last=on_duplicate == "keep-last" and bool(key))
        if stored is not None and within.any():
            updated += _against_stored(rows, part, within, (stored, index), (key, on_duplicate))
        keep[part.places] = within
    duplicates = int(keep.size - keep.sum())
    if duplicates:
        rows.keep(keep)
        entered.keep(keep)
    return DedupedLarge(duplicates, updated, entered)


def _part(entered: Spool, number: int, many: int) -> _Part:
    """The rows whose first hash ends in ``number``, of ``many`` (a power of two) parts."""
    import numpy as np

    own = pl.col(ENTRY[0]) & pl.lit(many - 1, pl.UInt64) == number
    chosen = [frame.with_row_index(_PLACE, before).filter(own) for before, frame in _with_start(entered)]
    count, before = sum(frame.height for frame in chosen), 0
    places, both = np.empty(count, dtype=np.int64), np.empty((2, count), dtype=np.uint64)
    for frame in chosen:
        here = slice(before, before + frame.height)
        places[here], both[0, here], both[1, here] = (frame[name].to_numpy() for name in (_PLACE, *ENTRY))
        before += frame.height
    return _Part(places, both, sorting(both[0]))


def _with_start(entered: Spool) -> Iterator[tuple[int, pl.DataFrame]]:
    """The frames of a spool, each with the place of its first row."""
    before = 0
    for frame in entered.frames():
        yield before, frame
        before += frame.height


def _against_stored(
    rows: Spool,
    part: _Part,
    within: "np.ndarray[Any, Any]",
    known: tuple[pl.LazyFrame, RowIndex],
    rule: tuple[Sequence[str], OnDuplicate],
) -> int:
    """Take out of ``within``, the mask of the rows of a part that are kept, what is stored; how many are updates."""
    import numpy as np

    (stored, index), (key, on_duplicate) = known, rule
    left, entered, order = np.flatnonzero(within), part.entered, part.order
    if left.size < within.size:
        entered, order = entered[:, left], (np.cumsum(within) - 1)[order[within[order]]]
    found = index.find(stored, entered, order)
    if key and on_duplicate != "keep-last":
        if found.there.any():
            likely = left[found.there]
            within[likely[_stored_keys(rows.gather(part.places[likely], key), stored, key)]] = False
        return 0
    within[left[found.same]] = False
    return int((found.there & ~found.same).sum()) if key else 0


def _first_of_each(rows: Spool, part: _Part, subset: Sequence[str], *, last: bool) -> "np.ndarray[Any, Any]":
    """Mask of the first (or last) row of each key of a part; only rows of equal hashes are compared."""
    import numpy as np

    hashes = part.entered[0]
    keep = np.ones(len(hashes), dtype=bool)
    ordered = hashes[part.order]
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not twice.size:
        return keep
    nearest = np.minimum(np.searchsorted(twice, hashes), twice.size - 1)
    candidates = np.flatnonzero(twice[nearest] == hashes)
    same = rows.gather(part.places[candidates], subset).with_columns(pl.Series(_PLACE, candidates))
    kept = same.unique(subset=list(subset), keep="last" if last else "first")[_PLACE].to_numpy()
    keep[candidates] = False
    keep[kept] = True
    return keep


def _stored_keys(wanted: pl.DataFrame, stored: pl.LazyFrame, key: Sequence[str]) -> "np.ndarray[Any, Any]":
    """Mask of the rows of ``wanted`` whose key is stored: the keys themselves are compared."""
    known = stored.select(key).join(wanted.lazy(), on=list(key), how="semi", nulls_equal=True).unique()
    marks = wanted.join(
        known.with_columns(pl.lit(value=True).alias(_FOUND)).collect(engine="streaming"),
        on=list(key),
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    return marks[_FOUND].is_not_null().to_numpy()


def outdated(rows: pl.LazyFrame, key: Sequence[str], *, first: bool = False) -> pl.DataFrame:
    """Rows that :func:`newest_rows` leaves out, for :func:`without_outdated`; looks at some keys at a time."""
    count = int(rows.select(pl.len()).collect(engine="streaming").item())
    parts = -(-count // _PART_ROWS) or 1
    narrow = rows.select(*key, (pl.col("_seq") * _ROWS + pl.col("_row")).alias(_PLACE))
    wanted = pl.col(_PLACE).min() if first else pl.col(_PLACE).max()
    found = [pl.DataFrame(schema={_PLACE: pl.Int64()})]
    for number in range(parts):
        some = narrow.filter(entries(key, key)[0] % parts == number).collect(engine="streaming")
        kept = some.lazy().group_by(list(key)).agg(wanted).select(_PLACE).collect(engine="streaming")
        if kept.height < some.height:
            found.append(some.select(_PLACE).join(kept, on=_PLACE, how="anti"))
    return pl.concat(found)


def without_outdated(rows: pl.LazyFrame, old: pl.DataFrame) -> pl.LazyFrame:
    """The rows that are left, in no particular order."""
    place = (pl.col("_seq") * _ROWS + pl.col("_row")).alias(_PLACE)
    return rows.with_columns(place).join(old.lazy(), on=_PLACE, how="anti").drop(_PLACE)


def newest_rows(rows: pl.LazyFrame, key: Sequence[str], *, first: bool = False) -> pl.LazyFrame:
    """One row for each key: the one appended last (or first), by ``_seq`` and then ``_row``."""
    place = (pl.col("_seq") * _ROWS + pl.col("_row")).alias(_PLACE)
    marked = rows.with_columns(place)
    wanted = pl.col(_PLACE).min() if first else pl.col(_PLACE).max()
    kept = marked.group_by(list(key)).agg(wanted).select(_PLACE)
    return marked.join(kept, on=_PLACE, how="semi").drop(_PLACE)
