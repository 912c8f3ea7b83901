"""The manifest of a bundle: every file with its digest and size, and how to tell that a folder is that bundle.

The digest of the manifest's bytes names the bundle. It holds no time and no path of the machine, so that equal inputs
and equal model bytes give the same bundle.
"""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from interlock.errors import BundleCorrupt
from interlock.records import Record, Signature

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
PROFILE = "profile.json"
FORMAT = 1
"""Version of the layout of a bundle; a newer one is refused, an older one is upgraded here."""
MANIFEST_BYTES = 8 * 1024 * 1024
_CHUNK_BYTES = 1 << 20
_BYTE_CODE = "__pycache__"
_STEP = "Restore the bundle from a backup, or release another one: 'interlock rollback'."


class PackedFile(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a bundle. ``path`` is relative, with ``/``; ``digest`` is the SHA-256 of its bytes."""

    path: str
    digest: str
    size_bytes: int


class PredictFunction(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The user's inference function: its module, and its name there."""

    module: str
    function: str


class HookFunctions(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """SageMaker's inference functions: the module, which of them it has, and how rows are handed to them.

    ``names`` are the columns as training saw them, which are numbers where its files had no header.
    """

    module: str
    found: tuple[str, ...]
    content_type: str
    accept: str
    rows_per_call: int
    header: bool
    names: tuple[str | int, ...]


class NativeSpec(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to load the native model.

    ``model`` is its pickle in ``model/``, or None when that folder itself is the model. ``folders`` (relative to
    ``code/``) are searched for the user's modules. Without ``predict`` and ``hooks`` the model's own method answers,
    and gets the kind of frame that training took (``frames``).
    """

    model: str | None
    folders: tuple[str, ...]
    frames: str
    predict: PredictFunction | None = None
    hooks: HookFunctions | None = None


class InputColumn(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a loader must know of an input."""

    name: str
    type: str
    nullable: bool


class Manifest(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle is and what is in it; ``files`` lists everything but the manifest itself, sorted by path."""

    format: int
    name: str
    task: str
    kind: Literal["model", "baseline"]
    form: str
    snapshot: str
    code: str
    params: dict[str, Any]
    seed: int
    python: str
    columns: tuple[InputColumn, ...]
    native: NativeSpec | None
    files: tuple[PackedFile, ...]


def file_digest(path: Path) -> tuple[str, int]:
    """SHA-256 and size of a file, in bounded memory."""
    size, total = 0, hashlib.sha256()
    with path.open("rb") as file:
        while content := file.read(_CHUNK_BYTES):
            total.update(content)
            size += len(content)
    return total.hexdigest(), size


def files_of(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything in a folder that is not a folder, by relative name, sorted; links are not followed.

    Byte code that Python left beside the user's sources is passed over: it is never loaded (see
    :mod:`interlock.model.runner`), and MLflow writes it when it reads a bundle in place.
    """
    pending = [("", folder)]
    found: dict[str, os.DirEntry[str]] = {}
    while pending:
        prefix, place = pending.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if not entry.is_dir(follow_symlinks=False):
                    found[name] = entry
                elif entry.name != _BYTE_CODE:
                    pending.append((f"{name}/", Path(entry.path)))
    yield from sorted(found.items())


def listed(folder: Path) -> tuple[PackedFile, ...]:
    """Digest and size of every file in ``folder``; raises :class:`BundleCorrupt` for anything that is no plain file."""
    result = []
    for name, entry in files_of(folder):
        if not entry.is_file(follow_symlinks=False):
            raise corrupt(name, "is a link or no plain file")
        digest, size = file_digest(Path(entry.path))
        result.append(PackedFile(path=name, digest=digest, size_bytes=size))
    return tuple(result)


def corrupt(path: str, what: str, **facts: object) -> BundleCorrupt:
    """Say which file of a bundle is wrong, and how."""
    return BundleCorrupt(
        f"The bundle's file '{path}' {what}. It was not opened.", next_step=_STEP, **{"path": path, **facts}
    )


def read_manifest(content: bytes, digest: str) -> Manifest:
    """Decode a manifest whose digest is known; raises :class:`BundleCorrupt`."""
    if len(content) > MANIFEST_BYTES:
        raise corrupt(MANIFEST, f"has {len(content)} bytes, more than any manifest", bundle=digest)
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise corrupt(MANIFEST, f"has the digest {actual[:12]}… instead of {digest[:12]}…", bundle=digest)
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError as error:
        raise corrupt(MANIFEST, f"is no manifest of format {FORMAT}: {error}", bundle=digest) from error
    if manifest.format != FORMAT:
        raise corrupt(MANIFEST, f"has format {manifest.format}; this version reads {FORMAT}", bundle=digest)
    names = [file.path for file in manifest.files]
    for name in names:
        if not _is_safe(name):
            raise corrupt(MANIFEST, "names a file outside of the bundle", bundle=digest)
    if len(set(names)) != len(names):
        raise corrupt(MANIFEST, "names a file twice", bundle=digest)
    return manifest


def _is_safe(name: str) -> bool:
    parts = name.split("/")
    return name != MANIFEST and name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)


def verify(folder: Path, manifest: Manifest, digest: str) -> None:
    """Hold every file of ``folder`` against the manifest: none missing, none more, no link, every byte as recorded.

    Raises :class:`BundleCorrupt` naming the first file that is not as it was packed.
    """
    wanted: Mapping[str, PackedFile] = {file.path: file for file in manifest.files}
    there = dict(files_of(folder))
    for name in wanted:
        if name not in there:
            raise corrupt(name, "is missing", bundle=digest)
    for name, entry in there.items():
        if not entry.is_file(follow_symlinks=False):
            raise corrupt(name, "is a link or no plain file", bundle=digest)
        if name == MANIFEST:
            continue
        if name not in wanted:
            raise corrupt(name, "was not packed", bundle=digest)
        _verify_file(Path(entry.path), wanted[name], digest)


def _verify_file(path: Path, file: PackedFile, digest: str) -> None:
    try:
        size = path.stat().st_size
        actual, _ = file_digest(path) if size == file.size_bytes else ("", 0)
    except OSError as error:
        raise corrupt(
            file.path, f"cannot be read ({errno.errorcode.get(error.errno or 0, '?')})", bundle=digest
        ) from error
    if size != file.size_bytes:
        raise corrupt(file.path, f"has {size} bytes instead of {file.size_bytes}", bundle=digest)
    if actual != file.digest:
        what = f"has the digest {actual[:12]}… instead of {file.digest[:12]}…"
        raise corrupt(file.path, what, bundle=digest, expected=file.digest, actual=actual)


def read_signature(folder: Path) -> Signature:
    """The signature of a verified bundle; raises :class:`BundleCorrupt`."""
    try:
        return msgspec.json.decode((folder / SIGNATURE).read_bytes(), type=Signature)
    except (OSError, msgspec.DecodeError) as error:
        raise corrupt(SIGNATURE, "is no signature") from error
