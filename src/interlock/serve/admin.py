"""The admin port: what is released, where the breaker stands, and the acts of a person. Nothing else is there.

Every route has a scope: what is read needs ``read``, what changes anything ``operate``. None is open, and the public
port has none of them. Acts are those of the program (:mod:`interlock.release.operation`), recorded with the name of the
key that asked; they run in a thread, since they wait for the database.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple, TypeAlias, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from interlock.answer.reading import malformed
from interlock.errors import (
    Conflict,
    DataRefused,
    InterlockError,
    LeaseHeld,
    LeaseLost,
    Misuse,
    NotFound,
    NothingToServe,
    Refused,
    StoreFault,
)
from interlock.ports import Parts
from interlock.records import Record, Release
from interlock.release.breaker import State
from interlock.release.duty import state_of
from interlock.release.operation import approve_held, duty_by_person, go_back
from interlock.release.standing import current, releases
from interlock.serve.app import Receive, Scope_, Send, read_body, refused, send_reply
from interlock.serve.door import Ids, Reply, failure, fault
from interlock.serve.keys import Key, Keyring, Scope, presented
from interlock.serve.reload import Source

MOST_BYTES: Final = 16_384
"""Of a body."""
_STATUS: Final[tuple[tuple[type[InterlockError], int], ...]] = (
    (DataRefused, 400), (NotFound, 404), (Misuse, 422), (Refused, 409), (Conflict, 409), (LeaseHeld, 409),
    (LeaseLost, 409), (StoreFault, 503),
)  # fmt: skip
Headers: TypeAlias = Mapping[bytes, bytes]
Reason = Annotated[str, Meta(min_length=1, max_length=1_000)]
T = TypeVar("T")
_JSON: Final = "Send it with 'Content-Type: application/json'."

_encode = msgspec.json.Encoder().encode


class Here(NamedTuple):
    """What this process knows that the state does not: ``source`` of its release, its own breaker, its metrics."""

    source: Callable[[], Source]
    state: Callable[[], State]
    metrics: Callable[[Headers], Reply]


class Because(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``/trip`` and ``/reset``."""

    because: Reason


class Back(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``/rollback``."""

    because: Reason
    to: Annotated[int, Meta(ge=1)] | None = None


class Held(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``/promote``: the ledger entry of a held decision."""

    entry: Annotated[int, Meta(ge=1)]
    because: Reason


class Listing(msgspec.Struct, forbid_unknown_fields=True):
    """The query of ``/history``."""

    limit: Annotated[int, Meta(ge=1, le=1_000)] = 50


class Standing(Record, frozen=True, kw_only=True):
    """Where the breaker stands: as it is ``recorded``, and in the process that was asked (``here``)."""

    recorded: State
    here: State


class Asked(NamedTuple):
    """One request, let in: the name of the key, query, body and headers."""

    by: str
    query: bytes
    body: bytes
    headers: Headers


@dataclass(frozen=True)
class Route:
    """What a method and a path do, and the scope that a key must have; where it ``waits``, that is in a thread."""

    scope: Scope
    answer: Callable[[Asked], object]
    waits: bool = True


class Admin:
    """The ASGI application of the admin port. Deny by default: there is no route without a scope."""

    def __init__(self, parts: Parts, keyring: Keyring, here: Here) -> None:
        self._parts = parts
        self._keyring = keyring
        self._here = here
        self._ids = Ids()
        self.routes: Mapping[tuple[str, str], Route] = {
            ("GET", "/release"): Route("read", self._release),
            ("GET", "/history"): Route("read", self._history),
            ("GET", "/breaker"): Route("read", self._breaker),
            ("GET", "/metrics"): Route("read", lambda asked: here.metrics(asked.headers), waits=False),
            ("POST", "/trip"): Route("operate", self._trip),
            ("POST", "/reset"): Route("operate", self._reset),
            ("POST", "/rollback"): Route("operate", self._rollback),
            ("POST", "/promote"): Route("operate", self._promote),
        }

    async def __call__(self, scope: Scope_, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            await send_reply(send, await self._reply(scope, receive), head=False, last=False)

    def refusal(self, code: str, message: str, next_step: str, status: int, headers: Any = ()) -> Reply:
        """A reply that says no, with an id."""
        return refused(self._ids.next(), code, message, next_step, status, headers)

    async def _reply(self, scope: Scope_, receive: Receive) -> Reply:
        headers = dict(scope["headers"])
        key = self._keyring.find(presented(headers))
        route = self.routes.get((scope["method"], scope["path"]))
        no = self._turned_away(key, route, scope["path"], headers)
        if no is not None:
            return no
        assert route is not None
        assert key is not None
        try:
            body = await read_body(headers, receive, MOST_BYTES, "A reason is short.")
            asked = Asked(key.name, scope.get("query_string", b""), body, headers)
            found = await asyncio.to_thread(route.answer, asked) if route.waits else route.answer(asked)
        except InterlockError as error:
            return msgspec.structs.replace(failure(error, self._ids.next()), status=_status(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours has an id too
            return fault(error, self._ids.next())
        return found if isinstance(found, Reply) else Reply(200, _encode(found), self._ids.next())

    def _turned_away(self, key: Key | None, route: Route | None, path: str, headers: Headers) -> Reply | None:
        if key is None:
            challenge = ((b"www-authenticate", b"Bearer"),)
            shows = "Send 'Authorization: Bearer KEY'."
            return self.refusal("NoKey", "No valid key came with the request.", shows, 401, challenge)
        if route is None:
            methods = [method for method, known in self.routes if known == path]
            if not methods:
                listed = ", ".join(f"{method} {each}" for method, each in self.routes)
                return self.refusal("NotFound", "There is no such route.", f"There are {listed}.", 404)
            allow = ((b"allow", methods[0].encode()),)
            return self.refusal("MethodNotAllowed", f"{path} takes {methods[0]}.", "", 405, allow)
        if route.scope not in key.scopes:
            wanted = f"This key does not open what needs '{route.scope}'."
            return self.refusal("Forbidden", wanted, "Ask for one that does.", 403)
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if route.scope == "operate" and kind != b"application/json":  # which no foreign page can make a browser send
            return self.refusal("Unsupported", "The body is not said to be JSON.", _JSON, 415)
        return None

    # ---- read ----------------------------------------------------------------------------------------------------

    def _in_force(self) -> Release:
        release = current(self._parts.ledger)
        if release is None:
            raise NothingToServe("Nothing is live.", next_step="Run 'interlock run'.")
        return release

    def _release(self, asked: Asked) -> object:
        del asked
        return {"source": self._here.source(), "release": self._in_force()}

    def _history(self, asked: Asked) -> object:
        try:
            limit = msgspec.convert(dict(parse_qsl(asked.query.decode("ascii"))), Listing, strict=False).limit
        except (msgspec.ValidationError, UnicodeDecodeError, ValueError):
            raise malformed("The query is none of /history.", "Ask for ?limit=N, with N from 1 to 1000.") from None
        return {"releases": releases(self._parts.ledger)[:limit]}

    def _breaker(self, asked: Asked) -> object:
        del asked
        recorded = state_of(self._parts.ledger, self._in_force())
        return Standing(recorded=recorded, here=self._here.state())

    # ---- acts ----------------------------------------------------------------------------------------------------

    def _trip(self, asked: Asked) -> object:
        return duty_by_person(self._parts, "trip", strict(asked.body, Because).because, asked.by)

    def _reset(self, asked: Asked) -> object:
        return duty_by_person(self._parts, "reset", strict(asked.body, Because).because, asked.by)

    def _rollback(self, asked: Asked) -> object:
        told = strict(asked.body, Back)
        return {"release": go_back(self._parts, told.because, told.to, asked.by)}

    def _promote(self, asked: Asked) -> object:
        told = strict(asked.body, Held)
        return {"release": approve_held(self._parts, told.entry, told.because, asked.by)}


def strict(body: bytes, kind: type[T]) -> T:
    """Read a small JSON body; raises :class:`DataRefused` for what is no JSON, has a name twice, or has others."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise malformed("A name is there twice in the body.")
        return dict(pairs)

    try:
        found = json.loads(body.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise malformed("The body is no JSON.", "Send a JSON object.") from None
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise malformed(f"The body does not fit: {error}.", "Send what the manual lists, and nothing else.") from None


def _status(error: InterlockError) -> int:
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
