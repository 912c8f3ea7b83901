"""What a power cut left of the log of a table, taken out of its way.

``deltalake`` links an entry of the log before anybody fsyncs it, so a disk may keep its name and lose its bytes. Such
an entry was never acknowledged: who commits fsyncs the entry before saying so. It would keep every reader out of the
table, so it is renamed (and kept for study), and whoever wrote it commits again. A checkpoint only saves reading: one
without its content goes the same way.

Entries of tables end with the application transaction that carries their commit key, so one that was cut at the end of
a line is recognised too.
"""

import fcntl
import json
import os
import re
from pathlib import Path

from interlock.store.disk import sync_folder

FACTS = "interlock"
"""Key of ``commitInfo`` that holds the facts of a commit of ours, which carries a transaction too."""
ASIDE = ".interlock-torn-"
"""Prefix of what was set aside."""
_ENTRY = re.compile(r"^(\d{20})\.json$")
_CHECKPOINT = re.compile(r"^\d{20}\.checkpoint.*\.parquet$")
_POINTER = "_last_checkpoint"
_PARQUET = b"PAR1"


def set_aside_torn(folder: Path) -> list[str]:
    """Rename what is torn in the log of the table in ``folder``; gives the names, newest first.

    Only the end of the log can be torn, for a writer makes the entries before its own durable. Raises :class:`OSError`.
    """
    log = folder / "_delta_log"
    if not _torn(log):
        return []
    handle = os.open(log, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # others look again under this lock, so nobody renames a fresh entry
        found = []
        while names := _torn(log):
            for name in names:
                (log / name).rename(log / f"{ASIDE}{name}")
            found += names
        sync_folder(log)
    finally:
        os.close(handle)
    return found


def _torn(log: Path) -> list[str]:
    """Names of what is torn now: the newest entry, checkpoints, and the file that points to a checkpoint."""
    try:
        names = sorted(path.name for path in log.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    entries = [name for name in names if _ENTRY.match(name)]
    torn = [name for name in entries[-1:] if not _whole(_content(log / name))]
    checkpoints = [name for name in names if _CHECKPOINT.match(name) and not _is_parquet(log / name)]
    if _POINTER in names and (checkpoints or not _is_json(_content(log / _POINTER))):
        checkpoints.append(_POINTER)
    return torn + checkpoints


def _content(path: Path) -> bytes:
    """The bytes; some that are surely whole when somebody else has set the file aside meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b"{}"


def _whole(content: bytes) -> bool:
    lines = content.splitlines()
    try:
        actions = [json.loads(line) for line in lines]
    except ValueError:
        return False
    marked = any(FACTS in action.get("commitInfo", {}) for action in actions)
    return bool(actions) and (not marked or any("txn" in action for action in actions))


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def _is_parquet(path: Path) -> bool:
    """Whether it ends as a Parquet file does; one that is gone counts as whole."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(_PARQUET)))
            return size > 2 * len(_PARQUET) and file.read() == _PARQUET
    except FileNotFoundError:
        return True
