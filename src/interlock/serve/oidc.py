"""Tokens of an identity provider (OpenID Connect) open doors as keys do: signed, in time, and meant for this server.

RS256 and ES256 only, with the algorithm of the published key and not what a token says of itself; so neither ``none``
nor an HMAC made with a public key gets through. The provider's keys (JWKS) are read by a thread of its own: no request
waits for them, and a provider that is away leaves those that were read before.
"""

import hashlib
import json
import re
import threading
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from interlock.errors import SettingsError
from interlock.serve.keys import SCOPES, Key
from interlock.serving import Oidc

if TYPE_CHECKING:
    from jwt import PyJWK

ALGORITHMS: Final = ("RS256", "ES256")
LONGEST: Final = 8_192
"""Bytes of a token."""
MOST_KNOWN: Final = 4_096
LEEWAY_S: Final = 30.0
"""By so much may the provider's clock differ from ours."""
_MOST_JWKS: Final = 1_000_000
_BACKOFF_S: Final = (1.0, 60.0)


class Issuer:
    """Whose tokens are taken. ``find`` is called in the thread of the loop; the keys come from another."""

    def __init__(
        self,
        settings: Oidc,
        read: Callable[[], bytes],
        say: Callable[[str], None],
        *,
        refresh_s: float = 300.0,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._read = read
        self._say = say
        self._refresh_s = refresh_s
        self._now_s = now_s
        self._keys: dict[str, PyJWK] = {}
        self._raw = b""
        self._known: dict[bytes, tuple[Key, float]] = {}
        self._wait_s = _BACKOFF_S[0]
        self._stop = threading.Event()
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="interlock-oidc", daemon=True)

    def start(self) -> None:
        """Read the keys, and go on reading them."""
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)

    def find(self, token: bytes) -> Key | None:
        """Whose token it is and what it opens, or None."""
        known = self._known
        found = known.get(token)
        if found is not None:
            if self._now_s() < found[1]:
                return found[0]
            del known[token]
        if len(token) > LONGEST or token.count(b".") != 2:
            return None
        claims = self._verified(token.decode("latin-1"))
        if claims is None:
            return None
        key = Key(
            name=re.sub(r"[^\w.@|-]", "_", f"oidc-{claims['sub']}", flags=re.ASCII)[:64],
            sha256=hashlib.sha256(token).hexdigest(),
            scopes=tuple(scope for scope in SCOPES if scope in _listed(claims.get(self._settings.scopes))),
        )
        if len(known) >= MOST_KNOWN:
            known.clear()
        known[token] = (key, float(claims["exp"]) + LEEWAY_S)
        return key

    def _verified(self, token: str) -> dict[str, Any] | None:
        import jwt

        try:
            head = jwt.get_unverified_header(token)
            key = self._key(head.get("kid"), head.get("alg"))
            if key is None:
                return None
            return jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            return None

    def _key(self, kid: object, algorithm: object) -> "PyJWK | None":
        """The published key that a token names; an unknown name asks for the keys again, and the token may come again.

        A token without a name is held against the only key of its algorithm.
        """
        keys = self._keys
        if kid is None:
            fitting = [key for key in keys.values() if key.algorithm_name == algorithm]
            return fitting[0] if len(fitting) == 1 else None
        found = keys.get(kid) if isinstance(kid, str) else None
        if found is None:
            self._wanted.set()
            return None
        return found if found.algorithm_name == algorithm else None

    # ---- in the thread -------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        while not self._stop.is_set():
            well = self.look()
            pause_s = self._refresh_s if well else self._wait_s
            # whoever shows tokens of unknown keys does not make us ask without pause
            if not self._stop.wait(min(_BACKOFF_S[0], pause_s)):
                self._wanted.clear()
                self._wanted.wait(max(0.0, pause_s - _BACKOFF_S[0]))

    def look(self) -> bool:
        """Read the keys once; whether that went well. After a failure the wait before the next try doubles."""
        try:
            raw = self._read()
            keys = _published(raw)
        except (OSError, ValueError, HTTPException) as error:
            if self._wait_s == _BACKOFF_S[0]:
                self._say(f"the keys of {self._settings.issuer} cannot be read: {type(error).__name__}")
            self._wait_s = min(_BACKOFF_S[1], self._wait_s * 2.0)
            return False
        self._wait_s = _BACKOFF_S[0]
        self._keys = keys
        if raw != self._raw:
            self._raw, self._known = raw, {}  # after the keys: what an old one let in is kept in the old dict
        return True


def _listed(claim: object) -> list[str]:
    """The scopes of a claim: a list, or words with spaces between."""
    if isinstance(claim, str):
        return claim.split()
    return [each for each in claim if isinstance(each, str)] if isinstance(claim, list) else []


def _published(raw: bytes) -> "dict[str, PyJWK]":
    """The keys of a JWKS that may sign here, by name; raises :class:`ValueError` for what is none."""
    import jwt

    found = json.loads(raw)
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError("no JWKS")  # noqa: TRY004 - it came over the wire
    keys: dict[str, PyJWK] = {}
    for place, told in enumerate(listed):
        try:
            key = jwt.PyJWK(told)
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            continue  # of a kind that is not ours
        if key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig") and _is_strong(key):
            keys[key.key_id or f"#{place}"] = key
    return keys


def _is_strong(key: "PyJWK") -> bool:
    size: int = getattr(key.key, "key_size", 0)
    return size >= (2_048 if key.algorithm_name == "RS256" else 256)


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the address of the keys is what the settings say."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def reader_of(settings: Oidc, path: Callable[[str], Path]) -> tuple[Callable[[], bytes], float]:
    """What reads the keys, and how often: a file each five seconds, an address each five minutes.

    Raises :class:`SettingsError` where PyJWT or a setting is missing, or the address could be forged on its way.
    """
    try:
        import jwt  # noqa: F401
    except ImportError as error:
        raise SettingsError("Tokens need PyJWT.", next_step="pip install 'interlock[oidc]'") from error
    for name in ("issuer", "audience", "jwks"):
        if not getattr(settings, name):
            raise SettingsError(f"serve.oidc.{name} is not set.", next_step="Set issuer, audience and jwks together.")
    where = settings.jwks
    if "://" not in where:
        file = path(where)
        return file.read_bytes, 5.0
    if not (where.startswith("https://") or is_loopback(urlsplit(where).hostname or "")):
        raise SettingsError("serve.oidc.jwks is not encrypted.", next_step="Give an https:// address, or a file.")
    opener = urllib.request.build_opener(_Stay)

    def read() -> bytes:
        with opener.open(where, timeout=5.0) as reply:
            raw: bytes = reply.read(_MOST_JWKS)
            return raw

    return read, 300.0


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or number."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
