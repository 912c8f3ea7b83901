"""Immutable bytes by key: objects of a bucket, published by conditional put.

A reply that is lost after a put is an *unknown* outcome. It is resolved by asking again: the same bytes under the key
mean that the put arrived, other bytes that somebody else was first, and no answer is told as unknown. Nothing is ever
deleted to resolve it.
"""

import contextlib
import mmap
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from interlock.errors import SettingsError, StoreFault
from interlock.ports import BlobInfo
from interlock.records import timestamp
from interlock.store.blobs import absence, appearing, check_key, disk_faults
from interlock.store.disk import TEMPORARY
from interlock.store.patience import Patience

if TYPE_CHECKING:
    from obstore.store import S3Store

__all__ = ["ObjectBlobs", "endpoint", "object_faults", "require_obstore"]

T = TypeVar("T")

_CHUNK_BYTES = 8 << 20
_LARGEST_PUT_BYTES = 5 << 30
_SLOWEST_BYTES_S = 1 << 20
"""A large put may take as long as this rate needs, on top of the patience for one request."""
_PROBE = f"{TEMPORARY}conditional"
_ALLOWED_HTTP = ("127.0.0.1", "::1", "localhost")
_CONNECT_S = 5.0


class _Chunk(NamedTuple):
    """A piece of an object, and the facts of the whole of it."""

    content: bytes
    size_bytes: int
    e_tag: str | None


class ObjectBlobs:
    """Objects under ``s3://bucket/prefix`` through obstore (implements :class:`interlock.ports.Blobs`).

    Credentials, region and endpoint come from the usual ``AWS_…`` variables; plain HTTP only to this machine, unless
    ``AWS_ALLOW_HTTP`` is set.
    Every operation ends, see :class:`~interlock.store.patience.Patience`. Methods raise StoreFault when it fails.
    """

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise SettingsError(f"'{url}' is not s3://bucket/prefix.", next_step="Name a bucket.", location=url)
        require_obstore()
        self.url = url.rstrip("/")
        self.patience = patience or Patience()
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        self._lock = threading.Lock()
        self._honours_conditions = False
        with object_faults(self.url):
            self._store = _open_bucket(self._bucket, self.patience.request_s)

    # ---- writing

    def put(self, key: str, source: bytes | Path) -> bool:
        """Store if absent by a conditional put (``If-None-Match: *``); False when the key was there with other bytes.

        True also when an earlier request of this call arrived and only its reply was lost. One request: S3 takes at
        most 5 GiB in it. Raises StoreFault with the fact ``outcome="unknown"`` when nobody can say whether it arrived.
        """
        path = self._at(key)
        self.require_conditions()
        with _body(source) as body:
            return self._create(key, path, body)

    def _create(self, key: str, path: str, body: memoryview) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        store, where = self._store_for(body.nbytes), self._where(key)
        trouble: Exception | None = None
        for _ in self.patience.attempts():
            try:
                with _bucket_is_there():
                    obstore.put(store, path, body, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                if _conflicting(error):
                    trouble = error  # two conditional puts at once, and S3 carried out neither of the two for sure
                    continue
                return trouble is not None and self._resolved(key, body, trouble)
            except Exception as error:
                if not _transient(error):
                    with object_faults(where):
                        raise
                trouble = error
            else:
                return True
        assert trouble is not None
        return self._resolved(key, body, trouble)

    def _resolved(self, key: str, body: memoryview, trouble: Exception) -> bool:
        """Find out by reading whether a put arrived; raises StoreFault when that cannot be told."""
        with contextlib.suppress(FileNotFoundError, StoreFault):
            return self._holds(key, body)
        raise StoreFault(
            f"Nobody can say whether {self._where(key)} was stored: {_told(trouble)}.",
            next_step="Run again when the object store answers: what was stored is found, what was not is stored then.",
            location=self._where(key),
            outcome="unknown",
            cause=type(trouble).__name__,
        ) from trouble

    def _holds(self, key: str, body: memoryview) -> bool:
        """Tell whether the object has exactly these bytes; raises FileNotFoundError."""
        place = 0
        for chunk in self._chunks(key):
            if body[place : place + len(chunk)] != chunk:
                return False
            place += len(chunk)
        return place == body.nbytes

    def require_conditions(self) -> None:
        """Raise StoreFault unless the store refuses to write over an object when it is asked to; one request, once."""
        with self._lock:
            if self._honours_conditions:
                return
            written = [self._probed()]
            if written[0]:
                written.append(self._probed())
            if all(written):
                raise StoreFault(
                    f"The object store at {self.url} ignores If-None-Match: it writes over what is there.",
                    next_step="Use a store with conditional puts (Amazon S3, MinIO, Ceph, R2 have them).",
                    location=self.url,
                )
            self._honours_conditions = True

    def _probed(self) -> bool:
        """Put the probe if absent; True when the store wrote it."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        path = f"{self._prefix}/{_PROBE}" if self._prefix else _PROBE

        def ask() -> bool:
            try:
                with _bucket_is_there():
                    obstore.put(self._store, path, b"interlock", mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                if _conflicting(error):
                    raise ConnectionError(str(error)) from error
                return False
            return True

        return self._tried(self.url, ask)

    def read_probe(self) -> None:
        """Read back what :meth:`require_conditions` wrote; raises StoreFault."""
        path = f"{self._prefix}/{_PROBE}" if self._prefix else _PROBE
        try:
            self._tried(self.url, lambda: self._read(path, 0, None))
        except FileNotFoundError as error:
            raise StoreFault(
                f"What was just written to {self.url} cannot be read back.", next_step="Use a consistent object store."
            ) from error

    def delete(self, key: str) -> None:
        """Remove; harmless when absent."""
        import obstore

        path = self._at(key)
        with contextlib.suppress(FileNotFoundError):
            self._tried(self._where(key), lambda: obstore.delete(self._store, path))

    # ---- reading

    def get(self, key: str) -> bytes:
        """All bytes; raises NotFound."""
        with absence(key):
            return b"".join(self._chunks(key))

    def fetch(self, key: str, to: Path) -> None:
        """Copy to a local file in bounded memory; it appears whole or not at all. Raises NotFound."""
        with disk_faults(to), appearing(to) as target, absence(key):
            for chunk in self._chunks(key):
                target.write(chunk)

    def exists(self, key: str) -> bool:
        """Tell whether it is there."""
        import obstore

        path = self._at(key)
        try:
            self._tried(self._where(key), lambda: obstore.head(self._store, path))
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[BlobInfo]:
        """Blobs whose key starts with ``prefix`` and comes after the key ``after``, in key order."""
        import obstore

        # The service matches whole path segments, so ask for the folder and look at the rest here.
        folder = prefix.rpartition("/")[0]
        under = self._at(folder) if folder else self._prefix
        offset = self._at(after) if after else None
        cut = len(self._prefix) + 1 if self._prefix else 0

        def ask() -> list[Any]:
            pages = obstore.list(self._store, under or None, offset=offset, chunk_size=1000)
            return [meta for page in pages for meta in page]

        try:
            metas = self._tried(self._where(prefix), ask)
        except FileNotFoundError as error:
            with object_faults(self._where(prefix)):
                raise OSError(str(error)) from error
        found = {meta["path"][cut:]: meta for meta in metas if meta["path"][cut:].startswith(prefix)}
        return (
            BlobInfo(
                key=key,
                size_bytes=found[key]["size"],
                modified=timestamp(found[key]["last_modified"]),
                version=found[key]["e_tag"] or timestamp(found[key]["last_modified"]),
            )
            for key in sorted(found)
            if f"/{TEMPORARY}" not in f"/{key}"
        )

    def local(self, key: str) -> Path | None:
        """Give None: objects are not files of this machine."""
        check_key(key)
        return None

    def _chunks(self, key: str) -> Iterator[bytes]:
        """Pieces of an object, all of one version of it, each asked for with patience; raises FileNotFoundError."""
        path, where = self._at(key), self._where(key)
        place, size, e_tag = 0, None, None
        while size is None or place < size:
            chunk = self._tried(where, partial(self._read, path, place, e_tag))
            yield chunk.content
            place, size, e_tag = place + len(chunk.content), chunk.size_bytes, chunk.e_tag

    def _read(self, path: str, start: int, e_tag: str | None) -> _Chunk:
        import obstore

        options: Any = {"range": (start, start + _CHUNK_BYTES)}
        if e_tag is not None:
            options["if_match"] = e_tag
        try:
            answer = obstore.get(self._store, path, options=options)
        except Exception as error:
            if "416" not in str(error) or obstore.head(self._store, path)["size"]:
                raise
            return _Chunk(b"", 0, None)  # no range lies in an empty object
        content = bytes(answer.bytes())
        size: int = answer.meta["size"]
        if len(content) != min(_CHUNK_BYTES, size - start):
            raise ConnectionError(f"{len(content)} bytes came of {min(_CHUNK_BYTES, size - start)}")
        return _Chunk(content, size, answer.meta["e_tag"])

    # ---- patience

    def _tried(self, where: str, ask: Callable[[], T]) -> T:
        """Ask until there is an answer or patience ends; FileNotFoundError passes, all else is a StoreFault."""
        with object_faults(where):
            trouble: Exception | None = None
            for _ in self.patience.attempts():
                try:
                    with _bucket_is_there():
                        return ask()
                except Exception as error:
                    if not _transient(error):
                        raise
                    trouble = error
            assert trouble is not None
            raise trouble

    def _store_for(self, size_bytes: int) -> "S3Store":
        if size_bytes > _LARGEST_PUT_BYTES:
            raise StoreFault(
                f"{size_bytes:,} bytes are more than the {_LARGEST_PUT_BYTES:,} that one conditional put can carry.",
                next_step="Send the rows in several smaller files.",
                location=self.url,
            )
        if size_bytes <= _CHUNK_BYTES:
            return self._store
        return _open_bucket(self._bucket, self.patience.request_s + size_bytes / _SLOWEST_BYTES_S)

    def _at(self, key: str) -> str:
        check_key(key)
        return f"{self._prefix}/{key}" if self._prefix else key

    def _where(self, key: str) -> str:
        return f"{self.url}/{key}"


# ---- opening -----------------------------------------------------------------------------------------------------


def require_obstore() -> None:
    """Raise SettingsError when the extra is not installed."""
    try:
        import obstore  # noqa: F401  only whether it can be
    except ImportError as error:
        raise SettingsError(
            "Object stores need the package obstore, which is not installed.",
            next_step="pip install 'interlock[s3]'",
        ) from error


def endpoint() -> tuple[str, bool]:
    """URL of the service that the environment names (empty: Amazon's), and whether it speaks plain HTTP.

    Raises SettingsError for plain HTTP to another machine, unless ``AWS_ALLOW_HTTP`` says so.
    """
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    parts = urlsplit(named)
    allowed = parts.hostname in _ALLOWED_HTTP or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    if parts.scheme == "http" and not allowed:
        raise SettingsError(
            "AWS_ENDPOINT_URL speaks plain HTTP to another machine.",
            next_step="Use https://, or set AWS_ALLOW_HTTP=true where the network is yours.",
        )
    return named, parts.scheme == "http"


def _open_bucket(bucket: str, request_s: float) -> "S3Store":
    """Open for single requests that give up after ``request_s``; asking again is ours, because a put may be unknown."""
    from obstore.store import S3Store

    named, plain = endpoint()
    client: Any = {
        "allow_http": plain,
        "connect_timeout": timedelta(seconds=min(_CONNECT_S, request_s)),
        "timeout": timedelta(seconds=request_s),
    }
    options: dict[str, Any] = {"endpoint": named} if named else {}
    never: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=request_s)}
    return S3Store(bucket, client_options=client, retry_config=never, **options)


@contextmanager
def _body(source: bytes | Path) -> Iterator[memoryview]:
    """The bytes to send; a file is mapped, so that sending it takes no memory of its own."""
    if isinstance(source, bytes):
        yield memoryview(source)
        return
    with disk_faults(source), source.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield memoryview(b"")
            return
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    yield memoryview(mapped)  # unmapped with the last view of it, which a request that is under way may hold


# ---- foreign errors ----------------------------------------------------------------------------------------------

_STATUS = re.compile(r"status code: (\d{3})|status: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_SECRET = re.compile(r"//[^/@\s]*@")


def _told(error: Exception) -> str:
    """What obstore says in one short line, without the reply's body, which may repeat keys, and without passwords."""
    text = str(error)
    code = _CODE.search(text)
    line = (_SECRET.sub("//…@", text).split("<", 1)[0].splitlines() or [""])[0].strip(" :.")
    told = f"{line[:300]} ({code[1]})" if code else line[:300]
    return told or type(error).__name__


def _status(error: Exception) -> int | None:
    found = _STATUS.search(str(error))
    return int(found[1] or found[2]) if found else None


def _conflicting(error: Exception) -> bool:
    return _status(error) == 409


def _transient(error: Exception) -> bool:
    """Worth asking again: no answer, a broken answer, or one that says that the service has a problem."""
    from obstore.exceptions import BaseError, GenericError

    if isinstance(error, FileNotFoundError):
        return False
    if isinstance(error, BaseError) and not isinstance(error, GenericError):
        return False
    status = _status(error)
    known = isinstance(error, BaseError | OSError)
    return known and (status is None or status in (408, 409, 429) or status >= 500)


@contextmanager
def _bucket_is_there() -> Iterator[None]:
    """Part a bucket that is not there from an object that is not there."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise ValueError(str(error)) from error
        raise


@contextmanager
def object_faults(where: str) -> Iterator[None]:
    """Map what obstore raises (its own tree, ``OSError`` and ``ValueError``) to StoreFault; not FileNotFoundError."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError, ValueError) as error:
        denied = isinstance(error, PermissionDeniedError | UnauthenticatedError)
        step = (
            "Check the AWS_… credentials and the bucket's policy."
            if denied
            else "Check the bucket, the AWS_… variables and the network, then run again."
        )
        raise StoreFault(
            f"The object store failed at {where}: {_told(error)}.",
            next_step=step,
            location=where,
            cause=type(error).__name__,
        ) from error
