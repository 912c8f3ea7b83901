"""Versioned rows as Delta tables on a local disk, readable by Spark, DuckDB, Trino and Databricks.

We write the Parquet files ourselves and hand them to ``deltalake`` for the commit, because Delta writers do not fsync:
here the rows are durable before the log names them, and the log entry is durable before the caller hears of it. Every
commit carries its key as an application transaction, whose version is the table version of that commit: looking a key
up is one lookup and one small file. Old versions stay readable, so files that a commit removed are never deleted.
"""

import json
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from interlock.errors import NotFound, StoreFault
from interlock.ports import Clock, Commit
from interlock.records import canonical
from interlock.store.blobs import disk_faults
from interlock.store.clock import SystemClock
from interlock.store.disk import TEMPORARY, make_folder, sync_file, sync_folder

if TYPE_CHECKING:
    from deltalake import DeltaTable, PostCommitHookProperties, Schema
    from deltalake.transaction import AddAction

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(/[A-Za-z0-9][A-Za-z0-9_.-]{0,63}){0,3}$")
_ENTRY = re.compile(r"^(\d{20})\.json$")
_LEFTOVER = re.compile(rf"^{re.escape(TEMPORARY)}|\.tmp$|#\d+$")
_FACTS = "interlock"
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
    """Implements :class:`interlock.ports.Tables` under the folder ``root``.

    Table names are one to four plain names joined by ``/``. Methods raise StoreFault when the disk or the log fails.
    """

    def __init__(self, root: Path, clock: Clock | None = None) -> None:
        self._root = root.absolute()
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._known: dict[Path, DeltaTable] = {}
        if "%" in str(self._root):
            raise StoreFault(
                f"Tables cannot live under {self._root}: Delta reads the '%' in it as an escape.",
                next_step="Choose a folder without '%' in its path.",
                path=str(self._root),
            )

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
        folder = self._folder(table)
        note = canonical(dict(facts)).decode()
        with table_faults(folder), self._lock:
            rows = _storable(rows, table)
            make_folder(folder)
            written: _Written | None = None
            for _ in range(_ATTEMPTS):
                current = self._opened(folder)
                found = _find(folder, current, key)
                if found is not None:
                    _sync_commit(folder, found.version)  # its writer may have died before it came to that
                    return found
                columns = _target(current, rows, table, replace=replace)
                if written is None or written.columns != columns:
                    written = _write(folder, rows, columns)
                version = _try_commit(folder, current, written, (key, note), replace=replace)
                if version is not None:
                    _sync_commit(folder, version)
                    return Commit(version=version, facts=json.loads(note))
        raise StoreFault(
            f"Table '{table}' was changed by others {_ATTEMPTS} times while this commit was tried.",
            next_step="Run again when the other writers are done.",
            table=table,
        )

    def _opened(self, folder: Path) -> "DeltaTable | None":
        """Open the newest version, reading only the log entries that are new since the last look."""
        newest = _newest(folder)
        known = self._known.get(folder)
        if newest is None or known is None or known.version() > newest:
            known = _open(folder)
        elif known.version() < newest:
            known.update_incremental()
        if newest is None or known is None:
            self._known.pop(folder, None)
            return None
        self._known[folder] = known
        if newest - _checkpointed(folder) >= _CHECKPOINT_COMMITS:
            _checkpoint(folder, known)
        return known

    # ---- reading

    def committed(self, table: str, commit_key: str) -> Commit | None:
        """Find the commit made under that key, or None."""
        folder = self._folder(table)
        with table_faults(folder), self._lock:
            return _find(folder, self._opened(folder), commit_key)

    def version(self, table: str) -> int | None:
        """Newest version, or None when there is no such table; looks at file names only."""
        folder = self._folder(table)
        with table_faults(folder):
            return _newest(folder)

    def scan(self, table: str, version: int | None = None) -> pl.LazyFrame:
        """Rows of a version (default: newest), lazily, oldest file first; columns that a file lacks are null."""
        with table_faults(self._folder(table)):
            current = self._open_version(table, version)
            columns = _columns(current)
            paths = _paths(self._folder(table), current)
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
        with table_faults(self._folder(table)):
            return _paths(self._folder(table), self._open_version(table, version))

    def _open_version(self, table: str, version: int | None) -> "DeltaTable":
        folder = self._folder(table)
        newest = _newest(folder)
        if newest is None or not 0 <= (newest if version is None else version) <= newest:
            raise NotFound(
                f"There is no table '{table}'" + (f" with version {version}." if version is not None else "."),
                next_step="Run 'interlock run' first.",
                table=table,
                version=version,
                newest=newest,
            )
        current = _open(folder, version)
        assert current is not None
        return current

    # ---- upkeep

    def maintain(self, table: str) -> None:
        """Compact many small files, checkpoint many commits, and sweep what a killed writer left a day ago or more."""
        folder = self._folder(table)
        with table_faults(folder), self._lock:
            current = self._opened(folder)
            if current is None:
                return
            if len(current.file_uris()) >= _COMPACT_FILES:
                current = _compact(folder, current)
            if current.version() - _checkpointed(folder) >= _CHECKPOINT_COMMITS:
                _checkpoint(folder, current)
            _sweep(folder, self._clock.now().timestamp() - _STALE_S)

    def _folder(self, table: str) -> Path:
        return self._root / check_table(table)


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


def _write(folder: Path, rows: pl.LazyFrame, columns: Mapping[str, pl.DataType]) -> _Written:
    """Stream the rows into a new, durable Parquet file; no file for no rows."""
    from deltalake.transaction import AddAction

    have = rows.collect_schema()
    complete = [
        (pl.col(name).cast(dtype) if name in have else pl.lit(None, dtype)).alias(name)
        for name, dtype in columns.items()
    ]
    newest = _newest(folder)
    number = 0 if newest is None else newest + 1  # so that names sort in the order of commits
    name = f"part-{number:020d}-{secrets.token_hex(8)}.parquet"
    path = folder / name
    rows.select(complete).sink_parquet(path, compression="zstd", compression_level=1)
    count = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    if count == 0:
        path.unlink()
        return _Written(dict(columns), None)
    sync_file(path)
    sync_folder(folder)
    status = path.stat()
    stats = json.dumps({"numRecords": count})
    return _Written(
        dict(columns), AddAction(name, status.st_size, {}, int(status.st_mtime * 1000), data_change=True, stats=stats)
    )


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
    folder: Path, current: "DeltaTable | None", written: _Written, mark: tuple[str, str], *, replace: bool
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
        custom_metadata={_FACTS: note}, max_commit_retries=0, app_transactions=[Transaction(key, version)]
    )
    how: dict[str, Any] = {"commit_properties": properties, "post_commithook_properties": _hooks()}
    actions: list[Any] = [] if written.action is None else [written.action]
    schema = _delta_schema(written.columns)
    try:
        if current is None:
            create_table_with_add_actions(str(folder), schema, actions, configuration=_CONFIGURATION, **how)
        elif _prepared(current, written.columns, replace=replace):
            current.create_write_transaction(actions, "overwrite" if replace else "append", schema, **how)
        else:
            return None
    except CommitFailedError:
        return None
    except DeltaError:
        if current is not None or _newest(folder) is None:
            raise
        return None
    return version


def _hooks() -> "PostCommitHookProperties":
    """Neither checkpoint nor clean up in passing: that is for :meth:`DeltaTables.maintain`, which fsyncs."""
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def _sync_commit(folder: Path, version: int) -> None:
    """Make a log entry and all names on the way to it durable."""
    sync_file(_entry(folder, version))
    sync_folder(folder / "_delta_log")
    sync_folder(folder)


# ---- the log -----------------------------------------------------------------------------------------------------


def _entry(folder: Path, version: int) -> Path:
    return folder / "_delta_log" / f"{version:020d}.json"


def _newest(folder: Path) -> int | None:
    try:
        names = [path.name for path in (folder / "_delta_log").iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return max((int(match[1]) for name in names if (match := _ENTRY.match(name))), default=None)


def _open(folder: Path, version: int | None = None) -> "DeltaTable | None":
    if _newest(folder) is None:
        return None
    from deltalake import DeltaTable

    return DeltaTable(str(folder), version=version)


def _find(folder: Path, current: "DeltaTable | None", key: str) -> Commit | None:
    version = None if current is None else current.transaction_version(key)
    if version is None:
        return None
    for line in _entry(folder, version).read_text().splitlines():
        info = json.loads(line).get("commitInfo")
        if info is not None:
            return Commit(version=version, facts=json.loads(info[_FACTS]))
    return None


def _paths(folder: Path, current: "DeltaTable") -> list[str]:
    return sorted(str(folder / uri.rpartition("/")[2]) for uri in current.file_uris())


def _checkpointed(folder: Path) -> int:
    try:
        return int(json.loads((folder / "_delta_log" / "_last_checkpoint").read_text())["version"])
    except (FileNotFoundError, ValueError, KeyError):
        return -1


# ---- upkeep ------------------------------------------------------------------------------------------------------


def _checkpoint(folder: Path, current: "DeltaTable") -> None:
    current.create_checkpoint()
    for path in (folder / "_delta_log").glob("*checkpoint*"):
        sync_file(path)
    sync_folder(folder / "_delta_log")


def _compact(folder: Path, current: "DeltaTable") -> "DeltaTable":
    """Merge small files in one commit that changes no row; skipped when another writer is faster."""
    from deltalake.exceptions import CommitFailedError

    before = set(_paths(folder, current))
    try:
        current.optimize.compact(post_commithook_properties=_hooks())
    except CommitFailedError:
        return current
    after = _open(folder)
    assert after is not None
    for path in set(_paths(folder, after)) - before:
        sync_file(Path(path))
    _sync_commit(folder, after.version())
    return after


def _sweep(folder: Path, before: float) -> None:
    """Remove temporary files, and Parquet files that no version ever named, last changed before ``before`` (epoch)."""
    stale = [
        path
        for place in (folder, folder / "_delta_log")
        for path in place.iterdir()
        if path.is_file() and path.stat().st_mtime < before
    ]
    rows = {path for path in stale if path.parent == folder and path.suffix == ".parquet"}
    named = _ever_named(folder) if rows else set()
    for path in stale:
        orphan = path in rows and path.name not in named
        if orphan or _LEFTOVER.search(path.name):
            path.unlink(missing_ok=True)


def _ever_named(folder: Path) -> set[str]:
    """Names of all files that any version of the table has or had."""
    names = set()
    for entry in (folder / "_delta_log").iterdir():
        if _ENTRY.match(entry.name):
            for line in entry.read_text().splitlines():
                add = json.loads(line).get("add")
                if add is not None:
                    names.add(add["path"])
    return names


# ---- foreign errors ----------------------------------------------------------------------------------------------


@contextmanager
def table_faults(folder: Path) -> Iterator[None]:
    """Map what deltalake, Polars and the disk raise to :class:`~interlock.errors.StoreFault`."""
    try:
        with disk_faults(folder):
            yield
    except (StoreFault, NotFound):
        raise
    except Exception as error:
        if not _foreign(error):
            raise
        raise StoreFault(
            f"The table at {folder} failed: {(str(error).splitlines() or [''])[0][:300]} ({type(error).__name__}).",
            next_step="Run 'interlock doctor'; every commit is whole or absent, so running again is safe.",
            path=str(folder),
            cause=type(error).__name__,
        ) from error


def _foreign(error: Exception) -> bool:
    """Recognise errors of Polars and deltalake, the latter without importing it."""
    roots = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    known = isinstance(error, pl.exceptions.PolarsError | ValueError | KeyError)
    return known or not roots.isdisjoint({"deltalake", "_internal"})
