"""The same pipeline over the same file, the way it is written with pandas, joblib, Dask and Spark.

Each function scores ``rows.parquet`` with ``pipeline.pkl`` of a folder and writes id and label; what a program has to
start before it can work (a Spark session) is part of its time, imports are not. Run by ``bench/batch.py`` in a process
of its own, with the interpreter of ``make peers``.
"""

import json
import os
import pickle
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHUNK_ROWS = 131_072
CORES = 2


def _pipeline(folder: Path) -> Any:
    return pickle.loads((folder / "pipeline.pkl").read_bytes())


def whole(folder: Path, features: list[str], target: Path) -> None:
    """As it is mostly written: the whole file in one frame."""
    import pandas as pd

    frame = pd.read_parquet(folder / "rows.parquet")
    frame["prediction"] = _pipeline(folder).predict(frame[features])
    frame[["id", "prediction"]].to_parquet(target)


def chunked(folder: Path, features: list[str], target: Path) -> None:
    """As it is written when memory runs out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pipeline, writer = _pipeline(folder), None
    for batch in pq.ParquetFile(folder / "rows.parquet").iter_batches(CHUNK_ROWS):
        frame = batch.to_pandas()
        frame["prediction"] = pipeline.predict(frame[features])
        table = pa.Table.from_pandas(frame[["id", "prediction"]], preserve_index=False)
        writer = writer or pq.ParquetWriter(target, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def _one_group(folder: Path, features: list[str], target: Path, group: int) -> None:
    import pyarrow.parquet as pq

    frame = pq.ParquetFile(folder / "rows.parquet").read_row_group(group).to_pandas()
    frame["prediction"] = _pipeline(folder).predict(frame[features])
    frame[["id", "prediction"]].to_parquet(target / f"part-{group:05d}.parquet")


def joblib(folder: Path, features: list[str], target: Path) -> None:
    """One row group a task, in processes."""
    import pyarrow.parquet as pq
    from joblib import Parallel, delayed

    target.mkdir()
    groups = pq.ParquetFile(folder / "rows.parquet").num_row_groups
    Parallel(n_jobs=CORES)(delayed(_one_group)(folder, features, target, group) for group in range(groups))


def dask(folder: Path, features: list[str], target: Path) -> None:
    """``map_partitions`` on the scheduler of processes, one row group a partition."""
    import dask
    import dask.dataframe as dd
    import pandas as pd

    pipeline = _pipeline(folder)

    def answer(frame: Any) -> Any:
        return pd.DataFrame({"id": frame["id"], "prediction": pipeline.predict(frame[features])})

    with dask.config.set(scheduler="processes", num_workers=CORES):
        rows = dd.read_parquet(folder / "rows.parquet", split_row_groups=True)
        meta = pd.DataFrame({"id": pd.Series(dtype="int64"), "prediction": pd.Series(dtype="str")})
        rows.map_partitions(answer, meta=meta).to_parquet(target)


def spark(folder: Path, features: list[str], target: Path) -> None:
    """``mapInPandas`` with Arrow batches on a local Spark of two cores."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master(f"local[{CORES}]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.memory", "4g")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", str(CHUNK_ROWS))
        .getOrCreate()
    )
    try:
        pipeline = session.sparkContext.broadcast(_pipeline(folder))

        def answer(frames: Any) -> Any:
            for frame in frames:
                frame["prediction"] = pipeline.value.predict(frame[features])
                yield frame[["id", "prediction"]]

        rows = session.read.parquet(str(folder / "rows.parquet"))
        rows.mapInPandas(answer, "id long, prediction string").write.parquet(str(target))
    finally:
        session.stop()


PEERS: dict[str, Callable[[Path, list[str], Path], None]] = {
    each.__name__: each for each in (whole, chunked, joblib, dask, spark)
}
IMPORTS = {"joblib": "joblib", "dask": "dask.dataframe", "spark": "pyspark.sql"}


def main(mode: str, folder: Path, features: list[str]) -> None:
    """Score once; prints seconds, processor time of this process and its children, and the peak of one of them."""
    import sklearn.pipeline  # noqa: F401  not part of the time

    __import__("pandas")
    __import__("lightgbm")
    __import__(IMPORTS.get(mode, "pyarrow"))
    target = folder / f"{mode}.parquet"
    if target.is_dir():
        shutil.rmtree(target)
    started = time.perf_counter()
    PEERS[mode](folder, features, target)
    seconds = time.perf_counter() - started
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_s": sum(each.ru_utime + each.ru_stime for each in usage),
                "rss_mb": max(each.ru_maxrss for each in usage) / 1024,
                "output": str(target),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
