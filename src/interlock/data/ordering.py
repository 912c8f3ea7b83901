"""Put more rows into order than memory holds: cut into ranges of the order, each sorted on its own.

The bounds of the ranges come from a sample (sample sort: Frazer and McKellar, "Samplesort", JACM 1970). They decide how
much is in memory at once, and never what comes out.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

RANGE_BYTES = 64 * 2**20
"""About so many bytes of rows are sorted at once."""
BATCH_ROWS = 2**16
_SAMPLE = 2**16
_RANGE = "_range"


def write_sorted(
    rows: pl.LazyFrame, order: Sequence[str], path: Path, *, scratch: Path, drop: Sequence[str] = ()
) -> int:
    """Write ``rows`` in the order of the columns ``order`` to a Parquet file, and say how many there are.

    Columns in ``drop`` may sort and are not written. ``scratch`` is a folder that may hold the rows once meanwhile.
    """
    height = int(rows.select(pl.len()).collect(engine="streaming").item())
    bounds = _bounds(rows, order[:2], height)
    if not bounds:
        rows.sort(order).drop(drop).sink_parquet(path, compression="zstd", compression_level=1)
        return height
    with tempfile.TemporaryDirectory(prefix="ranges-", dir=scratch) as folder:
        _cut(rows, bounds, Path(folder))
        parts = _sorted_parts(Path(folder), len(bounds) + 1, order, drop)
        streamed(parts, rows.drop(drop).collect_schema()).sink_parquet(path, compression="zstd", compression_level=1)
    return height


def streamed(frames: Iterator[pl.DataFrame], schema: pl.Schema) -> pl.LazyFrame:
    """Frames of one schema as a lazy frame that draws them one by one, and can be evaluated once."""
    return register_io_source(lambda *_: frames, schema=schema)


def _bounds(rows: pl.LazyFrame, leading: Sequence[str], height: int) -> list[dict[str, Any]]:
    """First values of all ranges but the first, in the columns that sort first; none when memory holds all rows."""
    head = rows.head(1_000).collect(engine="streaming")
    ranges = -(-height * max(1, int(head.estimated_size())) // (RANGE_BYTES * max(1, head.height)))
    if ranges <= 1:
        return []
    sample = rows.select(leading).gather_every(max(1, height // _SAMPLE)).collect(engine="streaming")
    sample = sample.drop_nulls().sort(leading)
    places = sorted({sample.height * number // ranges for number in range(1, ranges)})
    return sample[places].unique(maintain_order=True).rows(named=True) if sample.height else []


def _cut(rows: pl.LazyFrame, bounds: Sequence[dict[str, Any]], scratch: Path) -> None:
    """Write the rows of each range to files of its own."""
    schema = rows.collect_schema()
    number = pl.sum_horizontal(_reached(bound, schema).cast(pl.UInt32) for bound in bounds).alias(_RANGE)
    for place, batch in enumerate(rows.with_columns(number).collect_batches(chunk_size=BATCH_ROWS)):
        for (each,), part in batch.partition_by(_RANGE, include_key=False, as_dict=True).items():
            part.write_parquet(scratch / f"{each:06d}-{place:06d}.parquet", compression="lz4", statistics=False)


def _reached(bound: dict[str, Any], schema: pl.Schema) -> pl.Expr:
    """True for rows that do not come before ``bound``; what is null comes before everything."""
    reached = pl.lit(value=True)
    for name, value in reversed(bound.items()):
        cell, limit = pl.col(name), pl.lit(value, schema[name])
        reached = (cell > limit) | ((cell == limit) & reached)
    return reached.fill_null(value=False)


def _sorted_parts(scratch: Path, ranges: int, order: Sequence[str], drop: Sequence[str]) -> Iterator[pl.DataFrame]:
    for number in range(ranges):
        paths = sorted(scratch.glob(f"{number:06d}-*.parquet"))
        if paths:
            part = pl.concat([pl.read_parquet(path, glob=False) for path in paths])
            for path in paths:
                path.unlink()
            yield part.sort(order).drop(drop)
