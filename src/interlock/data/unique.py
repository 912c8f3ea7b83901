"""Rows whose values must be theirs alone, and are another row's: within a file, and against what is stored."""

from collections.abc import Sequence

import polars as pl

from interlock.data.dedupe import newest_rows
from interlock.data.readers import BAD_SCHEMA, ROW
from interlock.data.rules import Unique, told
from interlock.data.spool import Spool
from interlock.settings import Source

_FIRST = 2**60
"""Above the number of any row: taken from it, the row comes before all others."""


def not_unique(
    good: Spool, stored: pl.LazyFrame | None, rules: Sequence[Unique], source: Source, columns: Sequence[str]
) -> pl.DataFrame:
    """Cells of ``good`` that hold what another row holds: frame (row, column, reason).

    Another row is one of another key (of other cells, without a key): a row that replaces an older one may keep its
    value. Of rows of a file the first keeps it. ``stored`` are rows with ``_seq`` and ``_row``.
    """
    key = list(source.key or columns)
    found = [pl.DataFrame(schema=BAD_SCHEMA)]
    for rule in rules:
        if good.height and set(rule.columns) <= set(columns) and not set(key) <= set(rule.columns):
            rows = _taken(_one_per_key(good.lazy(), key, source), stored, rule, key, source)
            found.append(
                rows.select(pl.col("row"), column=pl.lit(rule.columns[0]), reason=pl.lit(told(rule.name))).collect()
            )
    return pl.concat(found).unique(subset=["row", "column"], keep="first", maintain_order=True).sort("row")


def _one_per_key(rows: pl.LazyFrame, key: Sequence[str], source: Source) -> pl.LazyFrame:
    kept = pl.col(ROW).max() if source.key and source.on_duplicate == "keep-last" else pl.col(ROW).min()
    return rows.join(rows.group_by(list(key)).agg(kept).select(ROW), on=ROW, how="semi")


def _taken(
    rows: pl.LazyFrame, stored: pl.LazyFrame | None, rule: Unique, key: Sequence[str], source: Source
) -> pl.LazyFrame:
    """Places (column ``row``) of rows whose value an earlier row of the file or a stored one has."""
    wanted = list(dict.fromkeys((*rule.columns, *key)))
    rows = rows.select(*wanted, ROW).filter(~pl.all_horizontal(pl.col(name).is_null() for name in rule.columns))
    if stored is None:
        return _again(rows, rule)
    if source.key:
        stored = newest_rows(stored, source.key, first=source.on_duplicate == "keep-first")
    before = stored.select(wanted)
    holders = rows.join(before, on=wanted, how="semi", nulls_equal=True)
    others = rows.join(before, on=wanted, how="anti", nulls_equal=True)
    # the row that holds a value already keeps it, whichever comes first in the file
    again = _again(pl.concat([holders.with_columns(pl.col(ROW) - _FIRST), others]), rule)
    if source.key and source.on_duplicate == "keep-last":  # rows that this file replaces hold nothing any more
        before = before.join(rows.select(key), on=list(key), how="anti", nulls_equal=True)
    taken = others.join(before, on=list(rule.columns), how="semi", nulls_equal=True).select(pl.col(ROW).alias("row"))
    return pl.concat([again, taken]).unique()


def _again(rows: pl.LazyFrame, rule: Unique) -> pl.LazyFrame:
    later = rows.filter(pl.col(ROW) != pl.col(ROW).min().over(rule.columns))
    return later.select((pl.col(ROW) % _FIRST).alias("row"))
