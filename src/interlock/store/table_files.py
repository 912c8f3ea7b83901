"""Where the files of one Delta table lie: a folder, made durable step by step, or a prefix of a bucket."""

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from interlock.errors import NotFound, StoreFault
from interlock.records import moment
from interlock.store.blobs import disk_faults
from interlock.store.cache import Cache
from interlock.store.disk import TEMPORARY, make_folder, sync_file, sync_folder
from interlock.store.objects import ObjectBlobs, endpoint, object_faults
from interlock.store.patience import Patience

_ENTRY = re.compile(r"^(\d{20})\.json$")
_LEFTOVER = re.compile(rf"^{re.escape(TEMPORARY)}|\.tmp$|#\d+$")
LOG = "_delta_log"

Sink = Callable[[Path], None]


def entry_name(version: int) -> str:
    """Name of the log entry of a version, in the table's folder."""
    return f"{LOG}/{version:020d}.json"


class TableFiles(Protocol):
    """The files of one table. Names are relative to the table; every method may raise StoreFault."""

    url: str
    """What deltalake opens."""
    options: dict[str, str] | None
    """What deltalake must know to open it: never a credential."""
    patience: Patience | None
    """How long to go on when an answer is missing; None where an error is final (a disk)."""

    def prepare(self) -> None:
        """Make it possible to write."""
        ...

    def newest(self) -> int | None:
        """Newest version, by the names of the log entries; None when there is no table."""
        ...

    def entry(self, version: int) -> bytes:
        """The log entry of a version."""
        ...

    def entries(self) -> Iterator[bytes]:
        """All log entries."""
        ...

    def checkpointed(self) -> int:
        """Version of the last checkpoint, or -1."""
        ...

    def write(self, name: str, sink: Sink) -> None:
        """Make a new, durable file of what ``sink`` writes to the path it is given; none where it writes none."""
        ...

    def paths(self, sizes: Mapping[str, int]) -> list[str]:
        """Local paths of data files, given with their sizes in bytes, fetched where needed."""
        ...

    def absent(self, sizes: Mapping[str, int]) -> list[str]:
        """Names of data files that are not there, or not of their size."""
        ...

    def settle(self, names: Iterable[str]) -> None:
        """Make files durable that deltalake wrote, and all names on the way to them."""
        ...

    def settle_checkpoint(self) -> None:
        """Make the checkpoint durable."""
        ...

    def stale(self, before: float) -> list[str]:
        """Data files and leftovers last changed before ``before`` (Unix time)."""
        ...

    def remove(self, name: str) -> None:
        """Delete one file; harmless when absent."""
        ...


def is_leftover(name: str) -> bool:
    """Recognise temporary files of a killed writer by their name."""
    return _LEFTOVER.search(name.rpartition("/")[2]) is not None


class FolderFiles:
    """A folder of this machine."""

    options: dict[str, str] | None = None
    patience: Patience | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = str(folder)

    def prepare(self) -> None:
        """Make the folder, durably."""
        make_folder(self._folder)

    def newest(self) -> int | None:
        """Look at the names in the log's folder."""
        try:
            names = [path.name for path in (self._folder / LOG).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _newest(names)

    def entry(self, version: int) -> bytes:
        """Read it."""
        return (self._folder / entry_name(version)).read_bytes()

    def entries(self) -> Iterator[bytes]:
        """Read them all."""
        for path in (self._folder / LOG).iterdir():
            if _ENTRY.match(path.name):
                yield path.read_bytes()

    def checkpointed(self) -> int:
        """Read the pointer that Delta keeps."""
        try:
            return _checkpoint_version((self._folder / LOG / "_last_checkpoint").read_bytes())
        except FileNotFoundError:
            return -1

    def write(self, name: str, sink: Sink) -> None:
        """Let it be written in place (nothing names it yet), and fsync."""
        path = self._folder / name
        sink(path)
        if path.is_file():
            sync_file(path)
            sync_folder(path.parent)

    def paths(self, sizes: Mapping[str, int]) -> list[str]:
        """The files themselves."""
        return [str(self._folder / name) for name in sizes]

    def absent(self, sizes: Mapping[str, int]) -> list[str]:
        """Look at each."""
        return [name for name, size in sizes.items() if not _has_size(self._folder / name, size)]

    def settle(self, names: Iterable[str]) -> None:
        """Fsync the files and their folders."""
        for name in names:
            sync_file(self._folder / name)
        sync_folder(self._folder / LOG)
        sync_folder(self._folder)

    def settle_checkpoint(self) -> None:
        """Fsync what Delta wrote."""
        for path in (self._folder / LOG).glob("*checkpoint*"):
            sync_file(path)
        sync_folder(self._folder / LOG)

    def stale(self, before: float) -> list[str]:
        """Parquet files and leftovers of the table's folder and its log."""
        return [
            path.relative_to(self._folder).as_posix()
            for place in (self._folder, self._folder / LOG)
            for path in place.iterdir()
            if path.is_file()
            and path.stat().st_mtime < before
            and ((place == self._folder and path.suffix == ".parquet") or is_leftover(path.name))
        ]

    def remove(self, name: str) -> None:
        """Unlink it."""
        (self._folder / name).unlink(missing_ok=True)


class ObjectFiles:
    """A prefix of a bucket; what is read as a file is copied to the cache, where every reader can open it."""

    def __init__(self, blobs: ObjectBlobs, prefix: str, cache: Cache) -> None:
        self._blobs, self._prefix, self._cache = blobs, prefix, cache
        self.url = f"{blobs.url}/{prefix}"
        self.patience: Patience | None = blobs.patience
        self.options: dict[str, str] | None = _delta_options(blobs.patience)
        self._seen: int | None = None

    def prepare(self) -> None:
        """See that the store honours conditional puts: without them two commits could take the same version."""
        self._blobs.require_conditions()

    def newest(self) -> int | None:
        """List the names in the log that come after the newest seen so far: no version is ever deleted."""
        after = "" if self._seen is None else self._key(entry_name(self._seen))
        names = [info.key.rpartition("/")[2] for info in self._blobs.list(self._key(f"{LOG}/"), after=after)]
        found = _newest(names)
        self._seen = self._seen if found is None else found
        return self._seen

    def entry(self, version: int) -> bytes:
        """Fetch it."""
        return self._blobs.get(self._key(entry_name(version)))

    def entries(self) -> Iterator[bytes]:
        """Fetch them all."""
        for info in self._blobs.list(self._key(f"{LOG}/")):
            if _ENTRY.match(info.key.rpartition("/")[2]):
                yield self._blobs.get(info.key)

    def checkpointed(self) -> int:
        """Fetch the pointer that Delta keeps."""
        try:
            return _checkpoint_version(self._blobs.get(self._key(f"{LOG}/_last_checkpoint")))
        except NotFound:
            return -1

    def write(self, name: str, sink: Sink) -> None:
        """Let it be written on this machine, and put it."""
        with tempfile.TemporaryDirectory(prefix="interlock-") as scratch:
            path = Path(scratch) / name
            sink(path)
            if path.is_file() and not self._blobs.put(self._key(name), path):
                raise StoreFault(
                    f"{self.url}/{name} is there already, and not of these rows.",
                    next_step="Run again: another name is drawn.",
                )

    def paths(self, sizes: Mapping[str, int]) -> list[str]:
        """Copies in the cache."""
        return [str(self._copy(name, size)) for name, size in sizes.items()]

    def _copy(self, name: str, size_bytes: int) -> Path:
        key = self._key(name)

        def fetch(path: Path) -> None:
            try:
                self._blobs.fetch(key, path)
            except NotFound as error:
                raise StoreFault(
                    f"The lake has lost rows: {self.url}/{name} is gone.",
                    next_step="Bring the object back (from a version or a copy of the bucket), then run again.",
                    location=f"{self.url}/{name}",
                ) from error
            found = path.stat().st_size
            if found != size_bytes:
                path.unlink()
                raise StoreFault(
                    f"{self.url}/{name} has {found:,} bytes, and {size_bytes:,} were committed.",
                    next_step="Bring the object back (from a version or a copy of the bucket), then run again.",
                    location=f"{self.url}/{name}",
                )

        return self._cache.file(key, fetch, size_bytes=size_bytes)

    def absent(self, sizes: Mapping[str, int]) -> list[str]:
        """List the objects."""
        there = {info.key: info.size_bytes for info in self._blobs.list(self._key(""))}
        return [name for name, size in sizes.items() if there.get(self._key(name)) != size]

    def settle(self, names: Iterable[str]) -> None:
        """Nothing: an object is durable when its put is answered."""

    def settle_checkpoint(self) -> None:
        """Nothing, as above."""

    def stale(self, before: float) -> list[str]:
        """Parquet objects of the table itself; a put leaves no temporary names."""
        return [
            info.key.removeprefix(self._key(""))
            for info in self._blobs.list(self._key(""))
            if info.key.endswith(".parquet")
            and "/" not in info.key.removeprefix(self._key(""))
            and moment(info.modified).timestamp() < before
        ]

    def remove(self, name: str) -> None:
        """Delete it."""
        self._blobs.delete(self._key(name))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"


@contextmanager
def file_faults(files: TableFiles) -> Iterator[None]:
    """Map errors of the disk or the network to StoreFault."""
    if files.patience is None:
        with disk_faults(Path(files.url)):
            yield
        return
    try:
        with object_faults(files.url):
            yield
    except FileNotFoundError as error:
        raise StoreFault(
            f"An object of the table at {files.url} is gone.", next_step="Run 'interlock verify'.", location=files.url
        ) from error


def _delta_options(patience: Patience) -> dict[str, str]:
    """Time-outs, and where the service is; credentials deltalake takes from the environment itself.

    It writes the log by conditional puts, and asks again only where that cannot do harm.
    """
    named, plain = endpoint()
    wait = f"{max(1, round(patience.request_s * 1000))}ms"
    options = {
        "timeout": wait,
        "connect_timeout": wait,
        "max_retries": "1",
        "retry_timeout": wait,
        "backoff_config.init_backoff": "100ms",
        "conditional_put": "etag",
    }
    return options | ({"aws_endpoint": named, "allow_http": "true" if plain else "false"} if named else {})


def _newest(names: Iterable[str]) -> int | None:
    return max((int(match[1]) for name in names if (match := _ENTRY.match(name))), default=None)


def _checkpoint_version(content: bytes) -> int:
    try:
        found: Any = json.loads(content)
        return int(found["version"])
    except (ValueError, KeyError, TypeError):
        return -1


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False
