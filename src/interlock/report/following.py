"""Tell another system what happened: events after a recorded position, in bounded batches, from a process that may die.

A *follower* names its destination, the kinds of events that it wants, and a function that sends them. The function runs
in a worker process (:class:`~interlock.model.runner.Runner`), so that its libraries are never imported here and a hang
is ended by the deadline. The position is recorded after the other side has taken a batch: what was sent before a crash
is sent again, so every sender must make a repeat change nothing.

==============  ======================================================================================================
``followed``    name of the follower and its destination -> :class:`Position`
==============  ======================================================================================================
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from interlock.errors import Fault, InterlockError, LeaseHeld, LeaseLost, UserCodeFailed, bounded
from interlock.model.runner import Runner, Session
from interlock.ports import Parts
from interlock.records import Event, Fence, Record, digest

LEASE = "follow"
BATCH_EVENTS = 25
_SPARE_S = 60.0
_PROBLEM_CHARS = 300


class Position(Record, frozen=True, kw_only=True):
    """How far a follower has told: the last entry, and what the sender wants to remember."""

    after: int = 0
    mark: dict[str, Any] = msgspec.field(default_factory=dict)


class Answer(Record, frozen=True, kw_only=True):
    """What a sender says of one batch: the last entry that is told for good, what stopped it, what to remember."""

    done: int
    problem: str = ""
    mark: dict[str, Any] = msgspec.field(default_factory=dict)


class Told(Record, frozen=True, kw_only=True):
    """How it went with one destination. ``waiting`` events were not told; ``problem`` says why."""

    name: str
    label: str
    sent: int = 0
    waiting: int = 0
    problem: str = ""

    @property
    def note(self) -> str:
        """In one line, for people."""
        if self.problem:
            verb = "waits" if self.waiting == 1 else "wait"
            return f"{self.label} {self.problem}; {_events(self.waiting)} {verb}"
        return f"{_events(self.sent)} told to {self.label}"


def _events(number: int) -> str:
    return f"{number:,} event{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Follower:
    """One destination.

    ``function`` (``module:name``) is called in the worker with ``arguments`` and gives a function that takes batches:
    ``{"events", "mark", "budget_s", …}`` -> :class:`Answer` as plain data. ``prepare`` adds what else a batch needs.
    ``deadline_s`` is how long a turn may wait for it. What it does not want is passed over without starting a process.
    """

    name: str
    label: str
    destination: str
    kinds: tuple[str, ...]
    function: str
    arguments: Mapping[str, Any]
    deadline_s: float
    prepare: Callable[[Parts, Sequence[Event]], Mapping[str, Any]]
    wants: Callable[[Event], bool] = lambda _: True

    @property
    def key(self) -> str:
        """Key of its position: another destination begins at the beginning."""
        return f"{self.name}/{digest(self.destination)[:12]}"


def ledger_id(parts: Parts) -> str:
    """A name of this ledger that no other has: the hash of its first event. Empty before that."""
    first = parts.ledger.events(limit=1)
    return first[0].hash[:16] if first else ""


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user, password and query."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def behind(parts: Parts, follower: Follower) -> bool:
    """Whether there is anything to tell. Passes over what the follower does not want."""
    position = _position(parts, follower)
    passed = position
    while events := _news(parts, follower, passed.after, limit=BATCH_EVENTS):
        if any(map(follower.wants, events)):
            break
        passed = Position(after=events[-1].sequence, mark=position.mark)
    if passed != position:
        with contextlib.suppress(InterlockError):  # another process is at it, and will pass over them as well
            _put_position(parts, follower, passed)
    return bool(events)


def follow(parts: Parts, follower: Follower, runner: Runner, *, deadline_s: float, say: Callable[[str], None]) -> Told:
    """Tell one destination all that is new, for at most ``deadline_s`` seconds of waiting for it.

    Never raises what went wrong on the way: that is told, and the rest waits for the next time.
    """
    sent, problem = 0, ""
    try:
        fence = parts.ledger.acquire(LEASE, ttl_s=deadline_s + _SPARE_S)
    except LeaseHeld as held:
        return _told(parts, follower, 0, f"is being told by another process ({held.facts.get('holder')})")
    except InterlockError as error:
        return Told(name=follower.name, label=follower.label, problem=bounded(error.message, _PROBLEM_CHARS))
    try:
        for number, answer in _Sending(parts, follower, runner, fence, deadline_s).batches():
            sent += number
            problem = answer.problem
            say(f"{sent:,} told to {follower.label}")
    except UserCodeFailed as error:
        problem = _failure(error, deadline_s)
    except LeaseLost:
        problem = "is being told by another process"
    except InterlockError as error:
        problem = error.message
    except Exception as error:  # noqa: BLE001 - whatever is wrong with telling must not stop what is told
        problem = f"could not be told ({type(error).__name__} inside Interlock: {error})"
    finally:
        _give_back(parts, fence)
    return _told(parts, follower, sent, bounded(problem, _PROBLEM_CHARS).replace("\n", " "))


class _Sending:
    """One session with a sender: batch after batch, until all is told, the sender has a problem, or time is up."""

    def __init__(self, parts: Parts, follower: Follower, runner: Runner, fence: Fence, deadline_s: float) -> None:
        self.parts, self.follower, self.runner, self.fence = parts, follower, runner, fence
        self.left_s = deadline_s

    def batches(self) -> Any:
        """Yield (number of events told, answer) for each batch."""
        position = _position(self.parts, self.follower)
        session: Session | None = None
        try:
            while events := _news(self.parts, self.follower, position.after, limit=BATCH_EVENTS):
                more = self.follower.prepare(self.parts, events)
                if session is None:
                    session = self._timed(self._open)
                answer = self._send(session, events, position.mark, more)
                told = sum(event.sequence <= answer.done for event in events)
                if told or answer.mark != position.mark:
                    position = Position(after=max(position.after, answer.done), mark=answer.mark)
                    self._record(position)
                yield told, answer
                if answer.problem:
                    return
        finally:
            if session is not None:
                session.close()

    def _open(self) -> Session:
        arguments = {"label": "the sender", "budget_s": self.left_s, **self.follower.arguments}
        return self.runner.session(self.follower.function, arguments, deadline_s=self.left_s)

    def _send(
        self, session: Session, events: Sequence[Event], mark: Mapping[str, Any], more: Mapping[str, Any]
    ) -> Answer:
        batch = {
            "events": [msgspec.to_builtins(event) for event in events],
            "mark": dict(mark),
            "budget_s": self.left_s,
            **more,
        }
        outcome = self._timed(lambda: session.call(batch, deadline_s=self.left_s))
        answer = msgspec.convert(outcome.value, Answer)
        if not answer.problem and answer.done < events[-1].sequence:
            return msgspec.structs.replace(answer, problem="had no more time")
        return answer

    def _timed(self, work: Callable[[], Any]) -> Any:
        started = self.parts.clock.monotonic()
        try:
            return work()
        finally:
            self.left_s = max(0.05, self.left_s - (self.parts.clock.monotonic() - started))

    def _record(self, position: Position) -> None:
        with self.parts.ledger.transaction(self.fence) as transaction:
            transaction.put("followed", self.follower.key, position)


def forget(parts: Parts, follower: Follower) -> None:
    """Begin at the beginning the next time: for a destination that has lost its memory."""
    _put_position(parts, follower, Position())


def _put_position(parts: Parts, follower: Follower, position: Position) -> None:
    fence = parts.ledger.acquire(LEASE, ttl_s=_SPARE_S)
    try:
        with parts.ledger.transaction(fence) as transaction:
            transaction.put("followed", follower.key, position)
    finally:
        _give_back(parts, fence)


def _position(parts: Parts, follower: Follower) -> Position:
    return parts.ledger.read("followed", follower.key, Position) or Position()


def _news(parts: Parts, follower: Follower, after: int, *, limit: int | None) -> list[Event]:
    return parts.ledger.events(kinds=follower.kinds, after=after, limit=limit)


def _give_back(parts: Parts, fence: Fence) -> None:
    try:
        parts.ledger.release(fence)
    except InterlockError:
        return  # it runs out by itself


def _failure(error: UserCodeFailed, deadline_s: float) -> str:
    if error.facts.get("cause") == "deadline":
        return f"did not answer within {deadline_s:g} s"
    return f"could not be told: {error.message}"


def _told(parts: Parts, follower: Follower, sent: int, problem: str) -> Told:
    waiting = 0
    if problem:
        try:
            waiting = len(_news(parts, follower, _position(parts, follower).after, limit=None))
        except Fault as error:
            problem = f"{problem} ({error.message})"
    return Told(name=follower.name, label=follower.label, sent=sent, waiting=waiting, problem=problem)
