"""The log of one Delta table, read and kept up through ``deltalake``; what it raises becomes a StoreFault."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

import polars as pl

from interlock.errors import NotFound, StoreFault
from interlock.ports import Commit
from interlock.store.table_files import TableFiles, entry_name, file_faults, is_leftover

if TYPE_CHECKING:
    from deltalake import DeltaTable, PostCommitHookProperties

FACTS = "interlock"
"""Name under which a commit carries its facts."""

T = TypeVar("T")

# ---- reading -----------------------------------------------------------------------------------------------------


def patiently(files: TableFiles, ask: Callable[[], T]) -> T:
    """Ask deltalake to read; again, where an answer from over a network is missing."""
    if files.patience is None:
        return ask()
    trouble: Exception | None = None
    for _ in files.patience.attempts():
        try:
            return ask()
        except Exception as error:
            if not foreign(error):
                raise
            trouble = error
    assert trouble is not None
    raise trouble


def open_table(files: TableFiles, version: int | None = None) -> "DeltaTable":
    """Open a version (default: newest)."""
    from deltalake import DeltaTable

    return DeltaTable(files.url, version=version, storage_options=files.options)


def refreshed(files: TableFiles, known: "DeltaTable") -> "DeltaTable":
    """Bring an open table up to date; one that failed at it is opened anew the next time."""
    if files.patience is not None:
        return open_table(files)
    known.update_incremental()
    return known


def find_commit(files: TableFiles, current: "DeltaTable | None", key: str) -> Commit | None:
    """Find the commit made under a key, or None."""
    version = None if current is None else patiently(files, lambda: current.transaction_version(key))
    if version is None:
        return None
    for line in files.entry(version).decode().splitlines():
        info = json.loads(line).get("commitInfo")
        if info is not None:
            return Commit(version=version, facts=json.loads(info[FACTS]))
    return None


def data_files(current: "DeltaTable") -> dict[str, int]:
    """Names and sizes in bytes of the Parquet files of a version, oldest first."""
    actions = current.get_add_actions()
    names, sizes = actions.column("path").to_pylist(), actions.column("size_bytes").to_pylist()
    return {unquote(name): int(size) for name, size in sorted(zip(names, sizes, strict=True))}


# ---- upkeep ------------------------------------------------------------------------------------------------------


def checkpoint(files: TableFiles, current: "DeltaTable") -> None:
    """Sum up the log so far in one file, so that opening the table stays quick."""
    patiently(files, current.create_checkpoint)
    files.settle_checkpoint()


def compact(files: TableFiles, current: "DeltaTable") -> "DeltaTable":
    """Merge small files in one commit that changes no row; skipped when another writer is faster."""
    from deltalake.exceptions import CommitFailedError

    before = set(data_files(current))
    try:
        current.optimize.compact(post_commithook_properties=no_hooks())
    except CommitFailedError:
        return current
    after = patiently(files, lambda: open_table(files))
    files.settle([*(set(data_files(after)) - before), entry_name(after.version())])
    return after


def sweep(files: TableFiles, before: float) -> None:
    """Remove temporary files, and Parquet files that no version ever named, last changed before ``before`` (epoch)."""
    stale = files.stale(before)
    named = _ever_named(files) if any(not is_leftover(name) for name in stale) else set()
    for name in stale:
        if is_leftover(name) or name not in named:
            files.remove(name)


def _ever_named(files: TableFiles) -> set[str]:
    """Names of all files that any version of the table has or had."""
    names = set()
    for entry in files.entries():
        for line in entry.decode().splitlines():
            add = json.loads(line).get("add")
            if add is not None:
                names.add(unquote(add["path"]))
    return names


def no_hooks() -> "PostCommitHookProperties":
    """Neither checkpoint nor clean up in passing: that is for :func:`checkpoint`, which fsyncs."""
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


# ---- foreign errors ----------------------------------------------------------------------------------------------


@contextmanager
def table_faults(files: TableFiles) -> Iterator[None]:
    """Map what deltalake, Polars, the disk and the network raise to :class:`~interlock.errors.StoreFault`."""
    try:
        with file_faults(files):
            yield
    except (StoreFault, NotFound):
        raise
    except Exception as error:
        if not foreign(error):
            raise
        raise StoreFault(
            f"The table at {files.url} failed: {told(error)} ({type(error).__name__}).",
            next_step="Run 'interlock doctor'; every commit is whole or absent, so running again is safe.",
            path=files.url,
            cause=type(error).__name__,
        ) from error


def told(error: Exception) -> str:
    """The first line of a message, without the body of a reply and without a password in a URL."""
    line = (str(error).split("<?xml", 1)[0].splitlines() or [""])[0]
    return re.sub(r"//[^/@\s]*@", "//…@", line).strip(" :.")[:300]


def foreign(error: Exception) -> bool:
    """Recognise errors of Polars, deltalake and the network, deltalake's without importing it."""
    roots = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    known = isinstance(error, pl.exceptions.PolarsError | ValueError | KeyError | OSError)
    return known or not roots.isdisjoint({"deltalake", "_internal"})
