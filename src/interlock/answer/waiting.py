"""The files of the batch inbox that wait to be scored, each named by the digest of its bytes.

A local file is hashed and scored where it lies; it must be the same before and after, else it is left for the next
turn. An object is copied first.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from interlock.data.images import Gathering, Group, Known, Verdict, is_image
from interlock.data.inbox import Arrival, FolderInbox, Inbox, being_written, content_digest, is_table, open_inbox
from interlock.data.opening import shown
from interlock.data.readers import BAD_SCHEMA
from interlock.ports import Parts, Turn
from interlock.records import Record

SEEN = "@batch"
"""First part of the keys of ``seen`` documents of the batch inbox; no source can be called that."""
IMAGES = "images.parquet"
"""What a group of images is called, as a file."""
_RACY_S = 2.0


class Seen(Record, frozen=True, kw_only=True):
    """Document ``seen``: bytes found under a name. ``trusted``: old enough that a later change shows in ``version``."""

    version: str
    digest: str
    trusted: bool


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """One file: its name in the inbox, where its bytes are on this machine, their digest, and what to remember.

    For a group of images, which is scored as one Parquet file: what to remember of each of the ``images``, and the
    cells (row, column, reason) that are known to be ``bad``.
    """

    name: str
    path: Path
    digest: str
    seen: Seen | None = None
    state: tuple[int, ...] = ()
    images: Mapping[str, Known] = field(default_factory=dict)
    bad: pl.DataFrame | None = None

    def unchanged(self) -> bool:
        """Tell whether the bytes at ``path`` are still those that were hashed, as far as the file system knows."""
        return not self.state or _state(self.path) == self.state


class Desk:
    """The batch inbox of one turn: what lies there, and what is known of it."""

    def __init__(self, parts: Parts, turn: Turn, scratch: Path) -> None:
        self._parts, self._turn, self._scratch = parts, turn, scratch
        takes = is_image if parts.settings.batch.files == "images" else is_table
        self._inbox: Inbox = open_inbox(parts.settings, parts.settings.batch.inbox, takes)
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
            yield self._in_place(arrival)
            return
        self._scratch.mkdir(parents=True, exist_ok=True)
        staged = self._inbox.stage(arrival, self._scratch / "arrival", self._turn.say)
        if staged is None:
            yield None
            return
        seen = self._to_remember(arrival, staged.digest)
        yield Waiting(name=arrival.name, path=staged.path, digest=staged.digest, seen=seen)
        staged.path.unlink(missing_ok=True)

    def images(self, verdict: Callable[[str], Verdict], rules: str) -> Iterator[Waiting]:
        """Images that wait for an answer, in groups, each as one Parquet file; ``verdict`` judges digests of groups."""
        start, judged = len(SEEN) + 1, functools.cache(verdict)
        known = {key[start:]: each for key, each in self._parts.ledger.scan("seen", Known, prefix=f"{SEEN}/")}
        refreshed: dict[str, Known] = {}
        self._scratch.mkdir(parents=True, exist_ok=True)
        gathering = Gathering(
            inbox=self._inbox,
            known=known,
            verdict=lambda each: judged(each.group),
            keep=lambda _path, _digest, name: self._turn.say(f"{shown(name)} is no image"),
            rules=rules,
            withdraw=False,
            now_s=self._parts.clock.now().timestamp(),
            scratch=self._scratch,
            say=self._turn.say,
        )
        for group in gathering.groups(self.arrivals(), refreshed):
            yield self._as_file(group)
        if refreshed:
            with self._turn.transaction(self._parts.ledger) as t:
                for name, each in refreshed.items():
                    t.put("seen", f"{SEEN}/{name}", each)

    def _as_file(self, group: Group) -> Waiting:
        labels = [source.label for source in self._parts.settings.sources.values() if source.files == "images"]
        path = self._scratch / "images.parquet"
        group.frame(next(iter(labels), "label")).write_parquet(path, compression="uncompressed", statistics=False)
        bad = pl.DataFrame(group.faults(), schema=BAD_SCHEMA, orient="row")
        return Waiting(name=IMAGES, path=path, digest=group.digest, images=group.known(), bad=bad)

    def _in_place(self, arrival: Arrival) -> Waiting | None:
        path = Path(arrival.key)
        try:
            with path.open("rb") as file:
                before = _state(path)
                if being_written(file.fileno()):
                    self._turn.say(f"{shown(arrival.name)} is still being written and was left for the next turn")
                    return None
                digest = content_digest(file)
            after = _state(path)
        except OSError as error:
            self._turn.say(f"{shown(arrival.name)} cannot be read ({type(error).__name__}) and was left alone")
            return None
        if before != after:
            self._turn.say(f"{shown(arrival.name)} changed while it was read and was left for the next turn")
            return None
        seen = self._to_remember(arrival, digest)
        return Waiting(name=arrival.name, path=path, digest=digest, seen=seen, state=before)

    def _to_remember(self, arrival: Arrival, digest: str) -> Seen:
        age_s = None if arrival.modified_s is None else self._parts.clock.now().timestamp() - arrival.modified_s
        return Seen(version=arrival.version, digest=digest, trusted=age_s is None or age_s > _RACY_S)


def hold_file(path: Path) -> Waiting:
    """A single file of this machine, hashed. Raises :class:`OSError` when it cannot be read."""
    before = _state(path)
    with path.open("rb") as file:
        digest = content_digest(file)
    return Waiting(name=path.name, path=path, digest=digest, state=before)


def _state(path: Path) -> tuple[int, ...]:
    facts = path.stat()
    return (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
