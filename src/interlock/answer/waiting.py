"""The files of the batch inbox that wait to be scored, each named by the digest of its bytes.

A local file is hashed and scored where it lies; it must be the same before and after, else it is left for the next
turn. An object is copied first.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from interlock.data.inbox import Arrival, FolderInbox, Inbox, being_written, open_inbox
from interlock.data.opening import shown
from interlock.ports import Parts, Turn
from interlock.records import Record
from interlock.store.blobs import disk_faults

SEEN = "@batch"
"""First part of the keys of ``seen`` documents of the batch inbox; no source can be called that."""
_RACY_S = 2.0
LATE_BYTES = 64 * 2**20
"""A new file at least as large is hashed while it is scored: without SHA instructions that takes as long as scoring."""


class Seen(Record, frozen=True, kw_only=True):
    """Document ``seen``: bytes found under a name. ``trusted``: old enough that a later change shows in ``version``."""

    version: str
    digest: str
    trusted: bool


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """One file: its name in the inbox, where its bytes are on this machine, their digest, and what to remember.

    ``late``: it is large and new by its name, so it is still being hashed in a thread of its own.
    """

    name: str
    path: Path
    hashed: Callable[[], str]
    version: str = ""
    trusted: bool = False
    state: tuple[int, ...] = ()
    late: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes; waits for it when ``late``."""
        return self.hashed()

    @property
    def seen(self) -> Seen:
        """What to remember of the name."""
        return Seen(version=self.version, digest=self.digest, trusted=self.trusted)

    def unchanged(self) -> bool:
        """Tell whether the bytes at ``path`` are still those that were hashed, as far as the file system knows."""
        return not self.state or _state(self.path) == self.state


class Desk:
    """The batch inbox of one turn: what lies there, and what is known of it."""

    def __init__(self, parts: Parts, turn: Turn, scratch: Path) -> None:
        self._parts, self._turn, self._scratch = parts, turn, scratch
        self._inbox: Inbox = open_inbox(parts.settings, parts.settings.batch.inbox)
        self._seen = dict(parts.ledger.scan("seen", Seen, prefix=f"{SEEN}/"))

    def arrivals(self) -> list[Arrival]:
        """Files of the inbox, in name order."""
        return self._inbox.arrivals(self._turn.say)

    def known_digest(self, arrival: Arrival) -> str | None:
        """Digest of a file whose bytes cannot have changed since they were hashed, else None."""
        seen = self._seen.get(f"{SEEN}/{arrival.name}")
        return seen.digest if seen is not None and seen.trusted and seen.version == arrival.version else None

    @contextmanager
    def hold(self, arrival: Arrival) -> Iterator[Waiting | None]:
        """The file, hashed, for as long as the block lasts; None, and told, when it is not whole yet."""
        if isinstance(self._inbox, FolderInbox):
            with ThreadPoolExecutor(1, thread_name_prefix="interlock-hash") as thread:
                yield self._in_place(arrival, thread)
            return
        self._scratch.mkdir(parents=True, exist_ok=True)
        staged = self._inbox.stage(arrival, self._scratch / "arrival", self._turn.say)
        if staged is None:
            yield None
            return
        yield self._waiting(arrival, staged.path, lambda: staged.digest)
        staged.path.unlink(missing_ok=True)

    def _in_place(self, arrival: Arrival, thread: ThreadPoolExecutor) -> Waiting | None:
        path = Path(arrival.key)
        try:
            with path.open("rb") as file:
                before = _state(path)
                if being_written(file.fileno()):
                    self._turn.say(f"{shown(arrival.name)} is still being written and was left for the next turn")
                    return None
                if arrival.size_bytes >= LATE_BYTES and f"{SEEN}/{arrival.name}" not in self._seen:
                    future = thread.submit(_hash, path)
                    return self._waiting(arrival, path, future.result, before, late=True)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = _state(path)
        except OSError as error:
            self._turn.say(f"{shown(arrival.name)} cannot be read ({type(error).__name__}) and was left alone")
            return None
        if before != after:
            self._turn.say(f"{shown(arrival.name)} changed while it was read and was left for the next turn")
            return None
        return self._waiting(arrival, path, lambda: digest, before)

    def _waiting(
        self,
        arrival: Arrival,
        path: Path,
        hashed: Callable[[], str],
        state: tuple[int, ...] = (),
        *,
        late: bool = False,
    ) -> Waiting:
        age_s = None if arrival.modified_s is None else self._parts.clock.now().timestamp() - arrival.modified_s
        return Waiting(
            name=arrival.name,
            path=path,
            hashed=hashed,
            version=arrival.version,
            trusted=age_s is None or age_s > _RACY_S,
            state=state,
            late=late,
        )


def hold_file(path: Path) -> Waiting:
    """A single file of this machine, hashed. Raises :class:`OSError` when it cannot be read."""
    before = _state(path)
    digest = _hash(path)
    return Waiting(name=path.name, path=path, hashed=lambda: digest, state=before)


def _hash(path: Path) -> str:
    with disk_faults(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: Path) -> tuple[int, ...]:
    facts = path.stat()
    return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
