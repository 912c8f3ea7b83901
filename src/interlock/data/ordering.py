"""Put more rows into order than memory holds: cut into ranges of the order, each sorted on its own.

The bounds of the ranges come from a sample (sample sort: Frazer and McKellar, "Samplesort", JACM 1970). They decide how
much is in memory at once, and never what comes out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

RANGE_BYTES = 96 * 2**20
"""About so many bytes of rows are sorted at once."""
_SAMPLE = 2**16
_RANGE = "_range"


def write_sorted(rows: pl.LazyFrame, order: Sequence[str], path: Path, *, without: str, scratch: Path) -> int:
    """Write ``rows`` in order of the columns ``order`` to a Parquet file, and say how many there are.

    Column ``without`` sorts and is not written. ``scratch`` is an empty folder, and holds the rows once meanwhile.
    """
    height = int(rows.select(pl.len()).collect(engine="streaming").item())
    bounds = _bounds(rows, order, without, height)
    if bounds:
        _cut(rows, bounds, scratch)
        parts = _sorted_parts(scratch, len(bounds) + 1, order, without)
        schema = rows.drop(without).collect_schema()
        rows = register_io_source(lambda *_: parts, schema=schema, is_pure=False)
    else:
        rows = rows.sort(order).drop(without)
    rows.sink_parquet(path, compression="zstd", compression_level=1)
    return height


def _bounds(rows: pl.LazyFrame, order: Sequence[str], last: str, height: int) -> list[dict[str, Any]]:
    """First values of all ranges but the first, over the columns up to ``last``; none when memory holds all rows."""
    head = rows.head(1_000).collect(engine="streaming")
    ranges = -(-height * max(1, int(head.estimated_size())) // (RANGE_BYTES * max(1, head.height)))
    if ranges <= 1:
        return []
    leading = list(order[: order.index(last) + 1])
    sample = rows.select(leading).gather_every(max(1, height // _SAMPLE)).collect(engine="streaming")
    sample = sample.drop_nulls().sort(leading)
    places = sorted({sample.height * number // ranges for number in range(1, ranges)})
    return sample[places].unique(maintain_order=True).rows(named=True) if sample.height else []


def _cut(rows: pl.LazyFrame, bounds: Sequence[dict[str, Any]], scratch: Path) -> None:
    """Write the rows of each range to files of its own."""
    schema = rows.collect_schema()
    number = pl.sum_horizontal(_reached(bound, schema).cast(pl.UInt32) for bound in bounds).alias(_RANGE)
    for place, batch in enumerate(rows.with_columns(number).collect_batches(chunk_size=2**18, maintain_order=True)):
        for (each,), part in batch.partition_by(_RANGE, include_key=False, as_dict=True).items():
            part.write_parquet(scratch / f"{each:06d}-{place:06d}.parquet", compression="lz4", statistics=False)


def _reached(bound: dict[str, Any], schema: pl.Schema) -> pl.Expr:
    """True for rows that do not come before ``bound``; what is null comes before everything."""
    reached = pl.lit(value=True)
    for name, value in reversed(bound.items()):
        cell, limit = pl.col(name), pl.lit(value, schema[name])
        reached = (cell > limit) | ((cell == limit) & reached)
    return reached.fill_null(value=False)


def _sorted_parts(scratch: Path, ranges: int, order: Sequence[str], without: str) -> Iterator[pl.DataFrame]:
    for number in range(ranges):
        paths = sorted(scratch.glob(f"{number:06d}-*.parquet"))
        if paths:
            part = pl.concat([pl.read_parquet(path, glob=False) for path in paths])
            for path in paths:
                path.unlink()
            yield part.sort(order).drop(without)
