"""The last known release, on the disk of this host: a server starts with it when database and store are away.

Kept under ``.interlock/last-known/<digest of the state's name>/``, so that two environments of a project do not mix::

    release.json     the release, where it was read, and the records of its bundles
    duty.json        where the breaker stood, and what of that is not recorded yet
    salt.json        the salt of hashed columns of the prediction log, where there are any
    bundles/<digest> the bundles: hard links of the verified files where the disk allows that, else copies

The documents carry the SHA-256 of what they say, and are replaced as a whole; a bundle is verified file by file before
it is kept, and again before it is opened.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from interlock.errors import InterlockError, NotFound, StoreFault
from interlock.model.bundle import Opened, open_folder
from interlock.ports import Clock
from interlock.records import Bundle, Record, Release, canonical, short, timestamp
from interlock.records import digest as digest_of
from interlock.release.breaker import State
from interlock.settings import Settings
from interlock.store.address import state_address
from interlock.store.blobs import disk_faults
from interlock.store.disk import TEMPORARY, durable_write, make_folder, sync_file, sync_folder

FOLDER: Final = "last-known"
_RELEASE, _DUTY, _SALT, _BUNDLES = "release.json", "duty.json", "salt.json", "bundles"
_IN_USE_S: Final = 3_600.0
"""What is not needed any more stays for so long: another server may be about to open it."""

R = TypeVar("R", bound=Record)


class KeptRelease(Record, frozen=True, kw_only=True):
    """A release that answered here. ``state``: where it was read, without user and password; ``at``: when it was kept.

    ``bundles``: the records of those of its bundles that are kept.
    """

    project: str
    state: str
    lake: str
    at: str
    release: Release
    bundles: tuple[Bundle, ...]


class Unrecorded(Record, frozen=True, kw_only=True):
    """An entry that the ledger should have, and has not: the breaker acted while the state was away."""

    kind: str
    facts: dict[str, Any]


class KeptDuty(Record, frozen=True, kw_only=True):
    """Where the breaker stands, by the server that acted last."""

    at: str
    state: State
    unrecorded: tuple[Unrecorded, ...] = ()


class KeptSalt(Record, frozen=True, kw_only=True):
    """The salt of hashed columns, as the state has it."""

    salt: str


class _Sealed(msgspec.Struct, forbid_unknown_fields=True):
    kept: msgspec.Raw
    sha256: str


class LastKnown:
    """What one host remembers of one state. Several servers may write at once: each document is whole, the last stays.

    Methods raise :class:`StoreFault` when the disk fails, or a document is not as it was written.
    """

    def __init__(self, folder: Path, clock: Clock, *, project: str = "", state: str = "", lake: str = "") -> None:
        self._folder = folder
        self._clock = clock
        self._named = {"project": project, "state": state, "lake": lake}

    # ---- the release ---------------------------------------------------------------------------------------------

    def keep_release(self, release: Release, opened: Mapping[str, Opened]) -> None:
        """Keep a release with those of its bundles that are ``opened``, by digest; then forget what no release needs.

        Raises :class:`BundleCorrupt` too, when the bytes of a bundle changed since it was opened.
        """
        wanted = (release.champion, release.last_good, release.baseline)
        names = dict.fromkeys(name for name in wanted if name is not None and name in opened)
        for name in names:
            self._keep_bundle(name, opened[name].path)
        bundles = tuple(opened[name].bundle for name in names)
        kept = KeptRelease(**self._named, at=timestamp(self._clock.now()), release=release, bundles=bundles)
        self._write(_RELEASE, kept)
        self._forget(set(names))

    def release(self) -> KeptRelease | None:
        """The release that was kept last, or None."""
        return self._read(_RELEASE, KeptRelease)

    def open(self, digest: str) -> Opened:
        """Open a bundle of the kept release, verified; raises :class:`BundleCorrupt`, or :class:`NotFound`."""
        kept = self.release()
        for bundle in () if kept is None else kept.bundles:
            if bundle.digest == digest:
                return open_folder(self._folder / _BUNDLES / digest, digest, bundle)
        raise NotFound(f"This host keeps no bundle {short(digest)}.", next_step="It is read from the lake.")

    def _keep_bundle(self, digest: str, source: Path) -> None:
        """Put the files of a verified bundle in their place: whole, or not at all."""
        home = self._folder / _BUNDLES
        target = home / digest
        with disk_faults(target):
            if target.is_dir():
                if source == target or _is_sound(target, digest):
                    os.utime(target)
                    return
                target.rename(home / f"{TEMPORARY}{secrets.token_hex(8)}")
            make_folder(home)
            fresh = home / f"{TEMPORARY}{secrets.token_hex(8)}"
            try:
                shutil.copytree(source, fresh, copy_function=_link)
                os.utime(fresh)
                for folder, _, files in os.walk(fresh):
                    for name in files:
                        sync_file(Path(folder) / name)
                    sync_folder(Path(folder))
                open_folder(fresh, digest)
                try:
                    fresh.rename(target)
                except OSError:
                    if not target.is_dir():  # else another server was faster
                        raise
                sync_folder(home)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)

    def _forget(self, needed: set[str]) -> None:
        before = self._clock.now().timestamp() - _IN_USE_S
        for path in (self._folder / _BUNDLES).glob("*"):
            with contextlib.suppress(OSError):
                if path.name not in needed and path.stat().st_mtime < before:
                    shutil.rmtree(path, ignore_errors=True)

    # ---- the breaker ---------------------------------------------------------------------------------------------

    def keep_duty(self, state: State, unrecorded: tuple[Unrecorded, ...] = ()) -> None:
        """Keep where the breaker stands, and what of it the ledger does not know."""
        kept = KeptDuty(at=timestamp(self._clock.now()), state=state, unrecorded=unrecorded)
        self._write(_DUTY, kept)

    def duty(self) -> KeptDuty | None:
        """Where the breaker stood, or None."""
        return self._read(_DUTY, KeptDuty)

    def duty_mark(self) -> tuple[int, int] | None:
        """What changes with each document that :meth:`keep_duty` writes, for one look at the disk; None without one."""
        try:
            found = (self._folder / _DUTY).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    # ---- the salt ------------------------------------------------------------------------------------------------

    def keep_salt(self, salt: str) -> None:
        """Keep the salt of hashed columns, unless that is kept already."""
        try:
            known = self.salt()
        except StoreFault:
            known = None
        if known != salt:
            self._write(_SALT, KeptSalt(salt=salt))

    def salt(self) -> str | None:
        """The salt that was kept, or None."""
        kept = self._read(_SALT, KeptSalt)
        return None if kept is None else kept.salt

    # ---- documents -----------------------------------------------------------------------------------------------

    def _write(self, name: str, kept: Record) -> None:
        content = canonical(kept)
        sealed = b'{"kept":%s,"sha256":"%s"}' % (content, hashlib.sha256(content).hexdigest().encode())
        path = self._folder / name
        with disk_faults(path):
            make_folder(self._folder)
            self._folder.chmod(0o700)
            durable_write(path, sealed)

    def _read(self, name: str, kind: type[R]) -> R | None:
        path = self._folder / name
        with disk_faults(path):
            if not path.exists():
                return None
            content = path.read_bytes()
        try:
            sealed = msgspec.json.decode(content, type=_Sealed)
            if hashlib.sha256(sealed.kept).hexdigest() != sealed.sha256:
                raise msgspec.ValidationError("its digest is another")
            return msgspec.json.decode(sealed.kept, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StoreFault(
                f"{path} is not as this host wrote it ({error}), and is not trusted.",
                next_step="It is written anew as soon as a server reads the state again.",
                path=str(path),
            ) from error


def last_known_of(settings: Settings, clock: Clock) -> LastKnown:
    """What this host remembers of the state that the settings name."""
    address = state_address(settings)
    named = {"project": settings.project, "state": address.name}
    folder = settings.home / FOLDER / digest_of([*named.values(), address.schema])[:12]
    return LastKnown(folder, clock, **named, lake=settings.store.lake)


def _is_sound(folder: Path, digest: str) -> bool:
    try:
        open_folder(folder, digest)
    except (InterlockError, OSError):
        return False
    return True


def _link(source: str, target: str) -> str:
    """Give a file another name, or copy it where that cannot be: another disk, or one without links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target
