"""API keys: who may come in, and for what. Only digests of keys are kept.

A key is 32 random bytes in URL-safe text, so a plain SHA-256 of it cannot be guessed back, and comparing digests tells
nothing by its timing. The file is TOML, a table ``[[key]]`` for each.
"""

import hashlib
import os
import secrets
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from interlock.errors import Conflict, SettingsError
from interlock.records import Record
from interlock.serve.quota import QUOTA_PATTERN, Bucket, Shared
from interlock.units import Name

Scope: TypeAlias = Literal["predict", "feedback", "operate", "read"]
SCOPES: Final[tuple[Scope, ...]] = ("predict", "feedback", "operate", "read")
PREFIX: Final = "ilk_"


class Key(Record, frozen=True, kw_only=True):
    """One key: its name, the SHA-256 of its text, what it opens, and how often, as ``1000 per minute``."""

    name: Name
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...] = ("predict",)
    quota: Annotated[str, Meta(pattern=QUOTA_PATTERN)] | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    key: list[Key] = []


def new_key(name: str, scopes: tuple[Scope, ...], quota: str | None = None) -> tuple[str, Key]:
    """A random key: its text, which nobody keeps, and the record of it."""
    text = PREFIX + secrets.token_urlsafe(32)
    return text, key_of(name, text, scopes, quota)


def key_of(name: str, text: str, scopes: tuple[Scope, ...], quota: str | None = None) -> Key:
    """The record of a key with this text."""
    return Key(name=name, sha256=hashlib.sha256(text.encode()).hexdigest(), scopes=scopes, quota=quota)


class Keyring:
    """The keys of a server; ``None`` keys: every door is open (only on loopback, by a person's word).

    ``shared``: where several processes count together what a key has used of its quota.
    """

    def __init__(
        self,
        keys: tuple[Key, ...] | None,
        clock: Callable[[], float] = time.monotonic,
        shared: Shared | None = None,
    ) -> None:
        self._clock = clock
        self._shared = shared
        self.tokens: Callable[[bytes], Key | None] = lambda _: None
        """Asked for what is none of the keys."""
        self.on_change: Callable[[], None] = lambda: None
        self._buckets: dict[str, Bucket] = {}
        self._known: dict[bytes, Key] = {}
        self._keys = None if keys is None else {key.sha256: key for key in keys}

    def replace(self, keys: tuple[Key, ...]) -> None:
        """Open to these keys and no others; what a key has used of its quota stays used."""
        self._keys = {key.sha256: key for key in keys}
        self._known.clear()
        self.on_change()
        kept = {
            key.sha256 for key in keys if key.sha256 in self._buckets and self._buckets[key.sha256].quota == key.quota
        }
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in kept}

    def bucket(self, key: Key) -> Bucket | None:
        """What is left of the quota of a key; None where it has none."""
        if key.quota is None:
            return None
        found = self._buckets.get(key.sha256)
        if found is None:
            cell = None if self._shared is None else self._shared.cell(key.sha256, key.quota)
            found = self._buckets[key.sha256] = Bucket(key.quota, self._clock, cell)
        return found

    def find(self, presented: bytes) -> Key | None:
        """The key of that text, or None."""
        if self._keys is None:
            return _ANYBODY
        found = self._known.get(presented)
        if found is None and presented:
            found = self._keys.get(hashlib.sha256(presented).hexdigest())
            if found is not None:
                self._known[presented] = found  # at most as many as there are keys
            else:
                found = self.tokens(presented)
        return found

    def is_lasting(self, presented: bytes) -> bool:
        """Whether it opens until the keys change: a key, and no token, which has an end."""
        return self._keys is None or presented in self._known


_ANYBODY: Final = Key(name="anybody", sha256="0" * 64, scopes=SCOPES)


def presented(headers: Mapping[bytes, bytes]) -> bytes:
    """The key that a request shows: ``Authorization: Bearer …`` or ``X-API-Key: …``; empty without one.

    Where the first is there, it alone counts, whatever it says.
    """
    told = headers.get(b"authorization")
    if told is not None:
        return told[7:].strip() if told[:7].lower() == b"bearer " else b""
    return headers.get(b"x-api-key", b"").strip()


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a file of keys; raises :class:`SettingsError` when it cannot be read, or names a key twice."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text("utf-8")), _File).key
    except OSError as error:
        raise SettingsError(
            f"The file of keys {path} cannot be read: {error.strerror}.",
            next_step="Make one: interlock keys NAME --scope predict",
        ) from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no file of keys: {error}.", next_step="Mend it, or make a new one.") from error
    names = [key.name for key in found]
    if len(set(names)) != len(names):
        raise SettingsError(f"{path} has two keys of one name.", next_step="Rename one.")
    return tuple(found)


def add_key(path: Path, name: str, scopes: tuple[Scope, ...], quota: str | None = None) -> str:
    """Add a random key to the file, making it if need be, and give its text.

    Raises :class:`Conflict` for a name that is there, :class:`SettingsError` for a quota that is none.
    """
    known = read_keys(path) if path.exists() else ()
    if any(key.name == name for key in known):
        raise Conflict(
            f"There is a key '{name}' in {path} already.", next_step="Choose another name, or delete it there."
        )
    text, key = new_key(name, scopes, quota)
    if quota is not None:
        Bucket(quota, time.monotonic)  # raises where it is none
    listed = ", ".join(f'"{scope}"' for scope in key.scopes)
    entry = f'[[key]]\nname = "{key.name}"\nsha256 = "{key.sha256}"\nscopes = [{listed}]\n'
    entry += "" if quota is None else f'quota = "{quota}"\n'
    before = path.read_text("utf-8") + "\n" if path.exists() else ""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fresh.touch(mode=0o600)
    fresh.write_text(before + entry, "utf-8")
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.replace(path)
    return text
