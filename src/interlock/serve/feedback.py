"""``POST /feedback``: outcomes of earlier predictions.

They are read strictly, each is kept once, and they are on the disk before they are acknowledged.
"""

import asyncio
import hashlib
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from interlock.answer.reading import Reader, malformed
from interlock.errors import DataRefused, InterlockError, StoreFault
from interlock.ports import Clock
from interlock.records import Output, canonical
from interlock.serve.door import NotKept, Reply, failure
from interlock.serve.outcomes import Outcome, Outcomes

MOST_TOLD: Final = 10
"""Refusals that a reply tells of."""
_LATEST: Final = timedelta(days=1)
_encode = msgspec.json.Encoder().encode
_Scalar: TypeAlias = str | int | float | bool


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One outcome, as it is sent."""

    outcome: Any
    id: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    key: Annotated[dict[str, _Scalar], Meta(min_length=1, max_length=20)] | None = None
    at: str | None = None


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    outcomes: list[Entry]


_decoder = msgspec.json.Decoder(list[Entry] | _Body)
_strict = Reader(())


def entries_of(body: bytes, most: int) -> list[Entry]:
    """The entries of a body; raises :class:`DataRefused` when it is no such thing."""
    found = _strict.decode(_decoder, body)
    _strict.once(body, -1)
    entries: list[Entry] = found.outcomes if isinstance(found, _Body) else found
    if len(entries) > most:
        raise DataRefused(
            f"The request has {len(entries):,} outcomes, {most:,} are allowed.",
            next_step="Send fewer at a time, or raise serve.max_rows.",
            too_large=True,
        )
    return entries


def outcome_of(entry: Entry, output: Output | None, now: datetime, sender: str) -> Outcome:
    """What is kept of an entry; raises :class:`DataRefused` when it does not fit.

    A label need not be one that the model knows: that the world has a new one is worth knowing.
    """
    if (entry.id is None) == (entry.key is None):
        raise malformed("An outcome has an id or a key, and not both.", "Send the Interlock-Prediction-Id as id.")
    if not _fits(entry.outcome, output):
        raise malformed("The outcome is not of the type that the model answers with.", "GET /openapi.json tells it.")
    at = now if entry.at is None else _moment(entry.at, now)
    try:
        key = None if entry.key is None else canonical(entry.key).decode()
        told = [entry.id, key, entry.outcome, None if entry.at is None else _microseconds(at)]
        named = hashlib.sha256(canonical(told)).digest()
        text = entry.outcome if isinstance(entry.outcome, str) else canonical(entry.outcome).decode()
        value = float(entry.outcome) if isinstance(entry.outcome, bool | int | float) else None
    except (OverflowError, RecursionError, StoreFault):
        raise malformed("The outcome has a number that is too large, is too deep, or is no Unicode.") from None
    return Outcome(entry.id, key, text, value, _microseconds(at), _microseconds(now), sender, named)


_PLAIN: Final[dict[str, tuple[type, ...]]] = {"bool": (bool,), "int": (int,), "float": (int, float)}


def _fits(outcome: Any, output: Output | None) -> bool:
    if outcome is None:
        return False
    if output is None or output.kind == "any":
        return True
    kinds = _PLAIN["float"] if output.kind == "number" else _PLAIN.get(output.type, (str,))
    found = outcome if output.kind == "ranking" and isinstance(outcome, list) else [outcome]
    return bool(found) and all(type(each) in kinds and _is_sound(each) for each in found)


def _is_sound(value: _Scalar) -> bool:
    if isinstance(value, str):
        return bool(value)
    return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)


def _moment(text: str, now: datetime) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise malformed("'at' is not a time.", "Write it as 2026-11-21T09:30:00Z.") from None
    if found > now + _LATEST:
        raise malformed("'at' is in the future.", "Send the time at which the outcome became known.")
    return found


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class Feedback:
    """Answers the route. ``output`` tells the shape of outcomes now, ``name`` makes an id for a reply."""

    def __init__(
        self,
        outcomes: Outcomes,
        clock: Clock,
        *,
        output: Callable[[], Output | None],
        name: Callable[[], bytes],
        most: int,
    ) -> None:
        self._outcomes, self._clock = outcomes, clock
        self._output, self._name, self._most = output, name, most
        self._waiting: list[tuple[list[Outcome], asyncio.Future[list[bool]]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def reply(self, body: bytes, client: object) -> Reply:
        """The reply to a request: how many outcomes were accepted, repeated and refused."""
        name = self._name()
        try:
            sender = str(client[0]) if isinstance(client, tuple) else ""
            outcomes, refusals = await asyncio.to_thread(self._sifted, body, sender)  # many take their time
            new = await self._kept(outcomes)
        except InterlockError as error:
            return failure(error, name)
        told = {"accepted": sum(new), "repeated": len(new) - sum(new), "refused": len(refusals)}
        first = [{"entry": place, "message": message} for place, message in refusals[:MOST_TOLD]]
        status = 422 if refusals and not outcomes else 200
        return Reply(status, _encode({**told, "refusals": first} if first else told), name)

    def _sifted(self, body: bytes, sender: str) -> tuple[list[Outcome], list[tuple[int, str]]]:
        entries = entries_of(body, self._most)
        now, output = self._clock.now(), self._output()
        outcomes: list[Outcome] = []
        refusals: list[tuple[int, str]] = []
        for place, entry in enumerate(entries):
            try:
                outcomes.append(outcome_of(entry, output, now, sender))
            except InterlockError as error:
                refusals.append((place, error.message))
        return outcomes, refusals

    async def _kept(self, outcomes: list[Outcome]) -> list[bool]:
        """Keep them, in one transaction with those of other requests that wait; whether each was new."""
        if not outcomes:
            return []
        future: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()
        self._waiting.append((outcomes, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await asyncio.shield(future)

    async def _write(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            everything = [each for outcomes, _ in waiting for each in outcomes]
            try:
                new = await asyncio.to_thread(self._outcomes.add, everything)
            except InterlockError as error:
                for _, future in waiting:
                    future.set_exception(NotKept(error.message, next_step=error.next_step))
                continue
            for outcomes, future in waiting:
                future.set_result(new[: len(outcomes)])
                del new[: len(outcomes)]
