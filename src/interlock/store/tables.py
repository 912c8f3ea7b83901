"""Versioned rows as Delta tables in a folder or a bucket, readable by Spark, DuckDB, Trino and Databricks.

We write the Parquet files ourselves and hand them to ``deltalake`` for the commit, because Delta writers do not fsync:
here the rows are durable before the log names them, and the log entry is durable before the caller hears of it. Every
commit carries its key as an application transaction, whose version is the table version of that commit: looking a key
up is one lookup and one small file. Old versions stay readable, so files that a commit removed are never deleted.

In a bucket a version is taken by a conditional put. Where its reply is lost, the key is looked up again: a commit that
arrived is found and never made twice, because the same try can take the same version only once.
"""

import json
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from interlock.errors import NotFound, StoreFault
from interlock.ports import Clock, Commit
from interlock.records import canonical
from interlock.store.clock import SystemClock
from interlock.store.delta_log import (
    checkpoint,
    compact,
    data_files,
    find_commit,
    foreign,
    no_hooks,
    open_table,
    patiently,
    refreshed,
    sweep,
    table_faults,
    told,
)
from interlock.store.leftovers import FACTS
from interlock.store.table_files import FolderFiles, TableFiles, entry_name

if TYPE_CHECKING:
    from deltalake import DeltaTable, Schema
    from deltalake.transaction import AddAction

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,63}){0,3}$")
_ATTEMPTS = 12
_CHECKPOINT_COMMITS = 50
_COMPACT_FILES = 64
_STALE_S = 86_400.0
# Old versions and commit keys must stay: snapshots are pinned to them for as long as their releases are explained.
_CONFIGURATION = {"delta.enableExpiredLogCleanup": "false"}


class _Written(NamedTuple):
    """A durable Parquet file that no commit names yet, and the columns of the table it was written for."""

    columns: dict[str, pl.DataType]
    action: "AddAction | None"


class DeltaTables:
    """Implements :class:`interlock.ports.Tables` under a folder, or wherever ``root`` says the files of a table lie.

    Table names are one to four plain names joined by ``/``. Methods raise StoreFault when the store or the log fails.
    """

    def __init__(self, root: Path | Callable[[str], TableFiles], clock: Clock | None = None) -> None:
        self._place = _in_folder(root.absolute()) if isinstance(root, Path) else root
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._files: dict[str, TableFiles] = {}
        self._known: dict[str, DeltaTable] = {}

    # ---- writing

    def append(
        self, table: str, rows: pl.DataFrame | pl.LazyFrame, *, commit_key: str, facts: Mapping[str, Any]
    ) -> Commit:
        """Add rows in one atomic, durable commit, creating or widening the table as needed; lazy ones are streamed.

        New columns are added, empty in older rows; missing ones are empty in the new rows. A column of another type is
        refused with StoreFault unless it widens without loss (a smaller int, float32); ``replace`` changes types.
        """
        return self._commit(table, rows.lazy(), commit_key, facts, replace=False)

    def replace(self, table: str, rows: pl.LazyFrame, *, commit_key: str, facts: Mapping[str, Any]) -> Commit:
        """Rewrite all rows in one commit, schema included, streaming; old versions stay."""
        return self._commit(table, rows, commit_key, facts, replace=True)

    def _commit(self, table: str, rows: pl.LazyFrame, key: str, facts: Mapping[str, Any], *, replace: bool) -> Commit:
        files = self._of(table)
        note = canonical(dict(facts)).decode()
        with table_faults(files), self._lock:
            rows = _storable(rows, table)
            files.prepare()
            written: _Written | None = None
            for _ in range(_ATTEMPTS):
                current = self._opened(files)
                found = find_commit(files, current, key)
                if found is not None:
                    files.settle_found(entry_name(found.version))  # its writer may have died before it came to that
                    return found
                columns = _target(current, rows, table, replace=replace)
                if written is None or written.columns != columns:
                    written = _write(files, rows, columns)
                version = self._tried_commit(files, current, written, (key, note), replace=replace)
                if version is not None:
                    files.settle([entry_name(version)])
                    return Commit(version=version, facts=json.loads(note))
        raise StoreFault(
            f"Table '{table}' was changed by others {_ATTEMPTS} times while this commit was tried.",
            next_step="Run again when the other writers are done.",
            table=table,
        )

    def _tried_commit(
        self,
        files: TableFiles,
        current: "DeltaTable | None",
        written: _Written,
        mark: tuple[str, str],
        *,
        replace: bool,
    ) -> int | None:
        """Try to commit; None when it is to be looked at again: somebody was faster, or the reply was lost.

        Raises StoreFault with ``outcome="unknown"`` when the reply was lost and the log cannot be read either.
        """
        try:
            return _try_commit(files, current, written, mark, replace=replace)
        except Exception as error:
            self._known.pop(files.url, None)
            if files.patience is None or not foreign(error):
                raise
            try:
                found = find_commit(files, self._opened(files), mark[0])
            except (StoreFault, NotFound) as silence:
                raise StoreFault(
                    f"Nobody can say whether a commit to {files.url} was made: {told(error)}.",
                    next_step="Run again when the object store answers: a commit that was made is found by its key.",
                    location=files.url,
                    outcome="unknown",
                    cause=type(error).__name__,
                ) from silence
            return None if found is None else found.version

    def _opened(self, files: TableFiles) -> "DeltaTable | None":
        """Open the newest version, reading only the log entries that are new since the last look."""
        newest = files.newest()
        known = self._known.pop(files.url, None)
        if newest is None:
            return None
        if known is None or known.version() > newest:
            known = patiently(files, lambda: open_table(files))
        elif known.version() < newest:
            known = patiently(files, partial(refreshed, files, known))
        self._known[files.url] = known
        if newest >= _CHECKPOINT_COMMITS and newest - files.checkpointed() >= _CHECKPOINT_COMMITS:
            checkpoint(files, known)
        return known

    # ---- reading

    def committed(self, table: str, commit_key: str) -> Commit | None:
        """Find the commit made under that key, or None."""
        files = self._of(table)
        with table_faults(files), self._lock:
            return find_commit(files, self._opened(files), commit_key)

    def version(self, table: str) -> int | None:
        """Newest version, or None when there is no such table; looks at file names only."""
        files = self._of(table)
        with table_faults(files):
            return files.newest()

    def scan(self, table: str, version: int | None = None) -> pl.LazyFrame:
        """Rows of a version (default: newest), lazily, oldest file first; columns that a file lacks are null."""
        files = self._of(table)
        with table_faults(files):
            current = self._open_version(table, version)
            columns = _columns(current)
            paths = files.paths(data_files(current))
            if not paths:
                return pl.LazyFrame(schema=columns)
            return pl.scan_parquet(
                paths,
                schema=columns,
                missing_columns="insert",
                extra_columns="ignore",
                cast_options=pl.ScanCastOptions(integer_cast="upcast", float_cast="upcast"),
                glob=False,
            )

    def paths(self, table: str, version: int | None = None) -> list[str]:
        """List the Parquet files of a version, oldest first. Older ones may lack later columns (``union_by_name``)."""
        files = self._of(table)
        with table_faults(files):
            return files.paths(data_files(self._open_version(table, version)))

    def absent(self, table: str) -> list[str]:
        """Name the Parquet files of the newest version that are not in the store, or not of the size committed."""
        files = self._of(table)
        with table_faults(files):
            return files.absent(data_files(self._open_version(table, None)))

    def _open_version(self, table: str, version: int | None) -> "DeltaTable":
        files = self._of(table)
        newest = files.newest()
        if newest is None or not 0 <= (newest if version is None else version) <= newest:
            raise NotFound(
                f"There is no table '{table}'" + (f" with version {version}." if version is not None else "."),
                next_step="Run 'interlock run' first.",
                table=table,
                version=version,
                newest=newest,
            )
        return patiently(files, lambda: open_table(files, version))

    # ---- upkeep

    def maintain(self, table: str) -> None:
        """Compact many small files, checkpoint many commits, and sweep what a killed writer left a day ago or more.

        In a bucket, where to look is a request a log entry, only a checkpoint is followed by a sweep.
        """
        files = self._of(table)
        with table_faults(files), self._lock:
            current = self._opened(files)
            if current is None:
                return
            if len(current.file_uris()) >= _COMPACT_FILES:
                current = compact(files, current)
            due = current.version() - files.checkpointed() >= _CHECKPOINT_COMMITS
            if due:
                checkpoint(files, current)
            if due or files.patience is None:
                sweep(files, self._clock.now().timestamp() - _STALE_S)

    def _of(self, table: str) -> TableFiles:
        check_table(table)
        if table not in self._files:
            self._files[table] = self._place(table)
        return self._files[table]


def _in_folder(root: Path) -> Callable[[str], TableFiles]:
    if "%" in str(root):
        raise StoreFault(
            f"Tables cannot live under {root}: Delta reads the '%' in it as an escape.",
            next_step="Choose a folder without '%' in its path.",
            path=str(root),
        )
    return lambda table: FolderFiles(root / table)


def check_table(table: str) -> str:
    """Give ``table`` back when it is one to four plain names joined by ``/``; raises StoreFault otherwise."""
    if _NAME.fullmatch(table):
        return table
    raise StoreFault(
        f"{table[:200]!r} is not a valid table name.",
        next_step="Use letters, digits, '_', '.', '-', with '/' between at most four names.",
        table=table[:200],
    )


# ---- columns -----------------------------------------------------------------------------------------------------

_WIDENS: dict[Any, tuple[Any, ...]] = {
    pl.Int64: (pl.Int8, pl.Int16, pl.Int32),
    pl.Int32: (pl.Int8, pl.Int16),
    pl.Int16: (pl.Int8,),
    pl.Float64: (pl.Float32,),
}


def _storable(rows: pl.LazyFrame, table: str) -> pl.LazyFrame:
    """Cast to types that Delta has: no unsigned integers, no categories, times in microseconds."""
    casts = []
    for name, dtype in rows.collect_schema().items():
        if dtype.is_unsigned_integer():
            casts.append(pl.col(name).cast(pl.Int64))
        elif dtype in (pl.Categorical, pl.Enum):
            casts.append(pl.col(name).cast(pl.String))
        elif isinstance(dtype, pl.Datetime):
            zoned = pl.col(name).dt.convert_time_zone("UTC") if dtype.time_zone else pl.col(name)
            casts.append(zoned.dt.cast_time_unit("us"))
        elif dtype in (pl.Null, pl.Object, pl.Time, pl.Duration, pl.Int128):
            raise StoreFault(
                f"Column '{name}' of table '{table}' has type {dtype}, which a Delta table cannot hold.",
                next_step="Cast it first.",
                table=table,
                column=name,
                type=str(dtype),
            )
    return rows.with_columns(casts) if casts else rows


def _target(current: "DeltaTable | None", rows: pl.LazyFrame, table: str, *, replace: bool) -> dict[str, pl.DataType]:
    """Columns of the table after the commit, by name; raises StoreFault where an append does not fit."""
    new = dict(rows.collect_schema())
    if current is None or replace:
        return new
    target = _columns(current)
    for name, dtype in new.items():
        wanted = target.setdefault(name, dtype)
        if wanted != dtype and dtype not in _WIDENS.get(type(wanted), ()):
            raise StoreFault(
                f"Column '{name}' of table '{table}' is {wanted}, and these rows have {dtype}.",
                next_step="Cast the rows, or rewrite the table with the wider type.",
                table=table,
                column=name,
                expected=str(wanted),
                found=str(dtype),
            )
    return target


def _columns(current: "DeltaTable") -> dict[str, pl.DataType]:
    from arro3.core import Table

    return dict(pl.DataFrame(Table.from_batches([], schema=current.schema().to_arrow())).schema)


def _delta_schema(columns: Mapping[str, pl.DataType]) -> "Schema":
    from arro3.core import Table
    from deltalake import Schema

    return Schema.from_arrow(Table.from_arrow(pl.DataFrame(schema=columns)).schema)


# ---- writing -----------------------------------------------------------------------------------------------------


def _write(files: TableFiles, rows: pl.LazyFrame, columns: Mapping[str, pl.DataType]) -> _Written:
    """Stream the rows into a new, durable Parquet file; no file for no rows."""
    from deltalake.transaction import AddAction

    have = rows.collect_schema()
    complete = [
        (pl.col(name).cast(dtype) if name in have else pl.lit(None, dtype)).alias(name)
        for name, dtype in columns.items()
    ]
    newest = files.newest()
    number = 0 if newest is None else newest + 1  # so that names sort in the order of commits
    name = f"part-{number:020d}-{secrets.token_hex(8)}.parquet"
    actions: list[AddAction] = []

    def sink(path: Path) -> None:
        # snappy: zstd takes a third off the file and a third more processor time; nobody reads the statistics
        rows.select(complete).sink_parquet(path, compression="snappy", statistics=False)
        count = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
        if count == 0:
            path.unlink()
            return
        status, stats = path.stat(), json.dumps({"numRecords": count})
        made_ms = int(status.st_mtime * 1000)
        actions.append(AddAction(name, status.st_size, {}, made_ms, data_change=True, stats=stats))

    files.write(name, sink)
    return _Written(dict(columns), actions[0] if actions else None)


def _prepared(current: "DeltaTable", columns: Mapping[str, pl.DataType], *, replace: bool) -> bool:
    """Add what a commit cannot carry itself (table features, columns); False when something had to be added."""
    from deltalake import TableFeatures
    from deltalake.exceptions import CommitFailedError

    done = True
    try:
        zoneless = any(isinstance(dtype, pl.Datetime) and not dtype.time_zone for dtype in columns.values())
        if zoneless and "timestampNtz" not in (current.protocol().reader_features or ()):
            feature = TableFeatures.TimestampWithoutTimezone
            current.alter.add_feature(feature, allow_protocol_versions_increase=True)
            done = False
        added = {} if replace else {name: columns[name] for name in columns.keys() - _columns(current).keys()}
        if added:
            ordered = {name: dtype for name, dtype in columns.items() if name in added}
            current.alter.add_columns(list(_delta_schema(ordered).fields))
            done = False
    except CommitFailedError:
        return False  # somebody else was faster: look again
    return done


def _try_commit(
    files: TableFiles, current: "DeltaTable | None", written: _Written, mark: tuple[str, str], *, replace: bool
) -> int | None:
    """Try once to commit at exactly the next version; None when somebody else may have been faster.

    ``mark`` is the commit key, which carries that version, and the facts as JSON.
    """
    from deltalake import CommitProperties, Transaction
    from deltalake.exceptions import CommitFailedError, DeltaError
    from deltalake.transaction import create_table_with_add_actions

    version = 0 if current is None else current.version() + 1
    key, note = mark
    properties = CommitProperties(
        custom_metadata={FACTS: note}, max_commit_retries=0, app_transactions=[Transaction(key, version)]
    )
    how: dict[str, Any] = {"commit_properties": properties, "post_commithook_properties": no_hooks()}
    actions: list[Any] = [] if written.action is None else [written.action]
    schema = _delta_schema(written.columns)
    try:
        if current is None:
            create_table_with_add_actions(
                files.url, schema, actions, configuration=_CONFIGURATION, storage_options=files.options, **how
            )
        elif _prepared(current, written.columns, replace=replace):
            current.create_write_transaction(actions, "overwrite" if replace else "append", schema, **how)
        else:
            return None
    except CommitFailedError:
        return None
    except DeltaError:
        if current is not None or files.newest() is None:
            raise
        return None
    return version
