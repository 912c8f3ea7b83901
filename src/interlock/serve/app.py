"""The ASGI application: every door, and who may pass it. What is not named here is not there."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import Any, Final, TypeAlias

import msgspec

from interlock.errors import DataRefused, InterlockError
from interlock.serve.door import Door, Fixed, Headers, Reply, Served, failure
from interlock.serve.forms import JSON, PLAIN
from interlock.serve.keys import Keyring, Scope, presented
from interlock.serve.protocols import how_of, kind_of, place_of
from interlock.serve.quota import Bucket
from interlock.serve.tracing import PARENT

Scope_: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Answer: TypeAlias = Callable[[Mapping[bytes, bytes]], Reply]

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Page:
    """A route that is read: what gives its reply, and the scope that a key must have; None for everybody."""

    answer: Answer
    scope: Scope | None


@dataclass(frozen=True)
class Intake:
    """A route that takes JSON: what gives its reply to a body of a client, and the scope that a key must have."""

    answer: Callable[[bytes, object], Awaitable[Reply]]
    scope: Scope


class App:
    """Routes by exact path, or by one of the Open Inference Protocol with the names of model and version in it.

    Deny by default: a route without a scope is said to be open, one by one.
    """

    def __init__(
        self,
        door: Door,
        keyring: Keyring,
        pages: Mapping[str, Page],
        intakes: Mapping[str, Intake] | None = None,
        *,
        max_body: int,
    ) -> None:
        self._door = door
        self._intakes = dict(intakes or {})
        self.keyring = keyring
        self._pages = dict(pages)
        self._max_body = max_body
        self._predictions = frozenset(door.routes)
        self.routes = self._predictions | frozenset(self._pages) | frozenset(self._intakes)
        """All paths."""

    @property
    def open_routes(self) -> frozenset[str]:
        """Paths that need no key."""
        return frozenset(path for path, page in self._pages.items() if page.scope is None)

    def client_of(self, headers: Mapping[bytes, bytes], peer: Sequence[Any] | None) -> object:
        """Who asks: the key, the address without its port, and the value of the header that picks the model, if any."""
        key = self.keyring.find(presented(headers))
        who = (key.name if key is not None else "", peer[0] if peer else "")
        challenge = self._door.room.live.challenge
        if challenge is None or not challenge.lots.header:
            return who
        return (*who, headers.get(challenge.lots.header.encode(), b"").decode("latin-1"))

    def bucket_of(self, headers: Mapping[bytes, bytes]) -> Bucket | None:
        """What is left of the quota of the key; None where it has none."""
        key = self.keyring.find(presented(headers))
        return None if key is None else self.keyring.bucket(key)

    def passes(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request with such a head may be handed to the door with its body, and there is no more to say."""
        told = headers.get(b"content-length", b"")
        return (
            method == "POST"
            and path in self._predictions
            and "{" not in path
            and self._turned_away(headers, "predict") is None
            and self.keyring.is_lasting(presented(headers))
            and self._kind_refused(path, headers) is None
            and _is_plain(headers)
            and told.isdigit()
            and int(told) <= self._max_body
        )

    async def __call__(self, scope: Scope_, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the lifespan."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        reply = await self._reply(scope, receive)
        await send_reply(send, reply, head=scope["method"] == "HEAD", last=self._door.is_closing)

    async def _reply(self, scope: Scope_, receive: Receive) -> Reply:
        started = perf_counter()
        path, named = place_of(scope["path"])
        headers = dict(scope["headers"])
        PARENT.set(headers.get(b"traceparent", b""))
        client = self.client_of(headers, scope.get("client"))
        reply, body, how = self._unasked(scope["method"], path, named, headers), b"", PLAIN
        if reply is None and path in self._predictions and not self._has_room(headers):
            reply = self._door.too_much(path, client)  # which tells of it itself; the body is read by nobody
            return _as_v2(reply) if path.startswith("/v2") else reply
        if reply is None:
            try:
                how = how_of(headers, scope.get("query_string", b""))
                body = await read_body(headers, receive, self._max_body, _FEWER)
            except InterlockError as error:
                reply = failure(error, self._door.name(), path)
        if reply is None and not self._is_served(named):  # another release came while the body did
            again = "GET /v2/models/NAME tells it."
            reply = self.refusal("NotFound", "There is no such version any more.", again, 404)
        if reply is None and path in self._intakes:
            reply = await self._intakes[path].answer(body, client)
        if reply is None:
            reply = await self._door.reply(path, body, client, how)  # which tells of it itself
        else:
            known = path if path in self.routes else "other"
            seconds = perf_counter() - started
            self._door.tell(Served(known, reply.status, client, (), "abstain", seconds, None, reply.name))
        return _as_v2(reply) if path.startswith("/v2") and reply.status >= 400 else reply

    def _unasked(
        self, method: str, path: str, named: Mapping[str, str], headers: Mapping[bytes, bytes]
    ) -> Reply | None:
        """The reply that needs no model: a page, or a refusal; else None."""
        page, intake = self._pages.get(path), self._intakes.get(path)
        if path not in self.routes:
            return self.refusal("NotFound", "There is no such route.", "GET /openapi.json lists them.", 404)
        named_scope = page or intake
        wanted: Scope | None = "predict" if named_scope is None else named_scope.scope
        refusal = self._turned_away(headers, wanted) or (self._over_quota(headers) if wanted is not None else None)
        if refusal is not None:
            return refusal
        if not self._is_served(named):
            return self.refusal("NotFound", "There is no such model or version.", "GET /v2/models/NAME tells it.", 404)
        if page is not None:
            if method not in ("GET", "HEAD"):
                return self.refusal(
                    "MethodNotAllowed", f"{path} is read with GET.", "", 405, ((b"allow", b"GET, HEAD"),)
                )
            return page.answer(headers)
        if method != "POST":
            return self.refusal("MethodNotAllowed", f"{path} takes POST.", "", 405, ((b"allow", b"POST"),))
        return self._kind_refused(path, headers)

    def _has_room(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a body may come: a large one only where there is time for its answer."""
        told = headers.get(b"content-length", b"")
        line = self._door.line if told.isdigit() and int(told) >= _LARGE else None
        return line is None or line.has_room()

    def _is_served(self, named: Mapping[str, str]) -> bool:
        """Whether the model and the version in a path are those that answer."""
        room = self._door.room
        name, version = named.get("name", room.name), named.get("version", str(room.live.generation))
        return (name, version) == (room.name, str(room.live.generation))

    def _turned_away(self, headers: Mapping[bytes, bytes], wanted: Scope | None) -> Reply | None:
        if wanted is None:
            return None
        key = self.keyring.find(presented(headers))
        if key is None:
            challenge: Headers = ((b"www-authenticate", b"Bearer"),)
            return self.refusal(
                "NoKey", "No valid key came with the request.", "Send 'Authorization: Bearer KEY'.", 401, challenge
            )
        if wanted not in key.scopes:
            return self.refusal(
                "Forbidden", f"This key does not open what needs '{wanted}'.", "Ask for one that does.", 403
            )
        return None

    def _over_quota(self, headers: Mapping[bytes, bytes]) -> Reply | None:
        bucket = self.bucket_of(headers)
        if bucket is None:
            return None
        wait_s = bucket.take()
        if wait_s == 0.0:
            return None
        again: Headers = ((b"retry-after", b"%d" % ceil(wait_s)),)
        message = f"The quota of this key, {bucket.quota}, is used up."
        return self.refusal("QuotaUsed", message, f"Ask again in {ceil(wait_s)} s.", 429, again)

    def _kind_refused(self, path: str, headers: Mapping[bytes, bytes]) -> Reply | None:
        kind, _ = kind_of(headers)
        takes = kind == JSON if path in self._intakes else self._door.takes(path, kind)
        if not takes:
            return self.refusal(
                "Unsupported", "The body is of a type that this route does not take.", "Send JSON.", 415
            )
        if headers.get(b"content-encoding", b"identity") != b"identity":
            return self.refusal("Unsupported", "The body is compressed.", "Send it as it is.", 415)
        return None

    def refusal(self, code: str, message: str, next_step: str, status: int, headers: Headers = ()) -> Reply:
        """A reply that says no, with an id."""
        return refused(self._door.name(), code, message, next_step, status, headers)


_LARGE: Final = 65_536
"""Bytes of a body that is refused before it is read."""
_FEWER: Final = "Send fewer records at a time, or raise serve.max_body_mb."


def refused(name: bytes, code: str, message: str, next_step: str, status: int, headers: Headers = ()) -> Reply:
    """A reply that says no, with the id ``name``."""
    error = {"code": code, "message": message, "next_step": next_step, "id": name.decode()}
    return Reply(status, _encode({"error": error}), name, Fixed(headers))


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, most: int, next_step: str) -> bytes:
    """The body of a request, of ``most`` bytes; raises :class:`DataRefused` when it is larger, or does not come."""
    told = headers.get(b"content-length", b"0")
    if told.isdigit() and int(told) > most:
        raise _too_large(most, next_step)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DataRefused("The client went away before the body was there.", malformed=True)
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_large(most, next_step)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(most: int, next_step: str) -> DataRefused:
    return DataRefused(f"The body is larger than {most:,} bytes.", next_step=next_step, too_large=True)


def _is_plain(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the head says nothing about body and reply but that they are JSON."""
    try:
        return how_of(headers) == PLAIN
    except DataRefused:
        return False


def _as_v2(reply: Reply) -> Reply:
    """An error as the Open Inference Protocol has it: one text."""
    told = msgspec.json.decode(reply.body)["error"]
    text = f"{told['message']} {told['next_step']}".rstrip()
    body = _encode({"error": text, "code": told["code"], "id": told["id"]})
    return msgspec.structs.replace(reply, body=body)


async def send_reply(send: Send, reply: Reply, *, head: bool, last: bool) -> None:
    """Send a reply: ``head``, without its body; ``last``, the connection closes behind it."""
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", str(len(reply.body)).encode()),
        *reply.headers,
    ]
    if last:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else reply.body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
