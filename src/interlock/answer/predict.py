"""Rows become answers through the tiers: whom the guard refuses, the next tier answers, in the same request.

A *seat* is one model of the release, loaded and ready, with what it needs to be asked: its rows picked from those that
were read, and its guard. The champion is asked first, then last good, then the baseline; when none has an acceptable
answer, the row is *abstained* from. A *challenger* is asked before them for the records that it has drawn, and the
others answer what it cannot. Nothing here knows HTTP or keeps time; models in other processes are asked by
:mod:`interlock.answer.pool`.
"""

from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeAlias

import msgspec

from interlock.answer.guard import Cause, Check, Constancy, Sieve
from interlock.answer.lots import Lots
from interlock.errors import InterlockError, UserCodeFailed
from interlock.model.rows import Answer, Framed, Given, Row, Rows, taker
from interlock.records import Column, Signature, Tier
from interlock.release.canary import Trial

_Judged: TypeAlias = tuple[Sequence[Given], Sequence[Cause | None]]
"""What a seat gave, and what is wrong with each."""
_MANY: Final = 64
"""So many answers are looked through by columns; fewer are quicker one by one."""
TIERS: Final[tuple[Tier, ...]] = ("champion", "challenger", "last-good", "baseline", "abstain")
_RESCUERS: Final[dict[Tier, tuple[Tier, ...]]] = {
    "champion": ("last-good",),
    "challenger": ("champion", "last-good"),
}
"""Who must have had an answer where one of these had none, so that it is this one's fault and not the record's."""


class Elsewhere(Protocol):
    """Answers rows in another process."""

    def ask(self, rows: Sequence[Row]) -> Awaitable[Sequence[Given]]:
        """One answer or error per row, in order."""
        ...

    def timed(self, rows: Sequence[Row]) -> Awaitable[tuple[Sequence[Given], float]]:
        """The same in a call of its own, and the seconds that it took, without those in a queue."""
        ...

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def _broken(error: Exception, cause: str = "killed") -> UserCodeFailed:
    return UserCodeFailed(f"{type(error).__name__} while the challenger was asked.", cause=cause)


@dataclass(slots=True)
class Seat:
    """One model of the release. ``here`` answers in this process, ``elsewhere`` in others; one of them is None.

    ``pick`` takes a row as it was read to one of this model; None where it is the same.
    """

    tier: Tier
    model: str
    signature: Signature
    check: Check
    here: Rows | None = None
    elsewhere: Elsewhere | None = None
    pick: Callable[[Row], Row] | None = None
    constancy: Constancy | None = None
    sieve: Sieve | None = None
    packed_at: str = ""

    def picked(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows as this model takes them."""
        if self.pick is None:
            return rows
        if isinstance(rows, Framed) and self.signature.names:
            return rows.select(self.signature.names)
        return [self.pick(row) for row in rows]

    def asked_here(self, rows: Sequence[Row]) -> Sequence[Given]:
        """Ask the model in this process. A challenger that breaks has no answers, and ends no request."""
        assert self.here is not None
        if self.tier != "challenger":
            return self.here.answers(rows)
        try:
            return self.here.answers(rows)
        except Exception as error:  # noqa: BLE001 - whatever it was, another model answers
            return [_broken(error)] * len(rows)

    async def asked_elsewhere(self, rows: Sequence[Row]) -> Sequence[Given]:
        """Ask the model in other processes; as :meth:`asked_here`."""
        assert self.elsewhere is not None
        if self.tier != "challenger":
            return await self.elsewhere.ask(rows)
        try:
            return await self.elsewhere.ask(rows)
        except InterlockError as error:  # it has too much to do, or is taken off
            return [_broken(error, "deadline")] * len(rows)

    async def timed(self, rows: Sequence[Row], clock: Callable[[], float]) -> tuple[Sequence[Given], float]:
        """The answers, and how many seconds the model took. Raises what the model raises."""
        if self.here is None:
            assert self.elsewhere is not None
            return await self.elsewhere.timed(rows)
        began_s = clock()
        given = self.here.answers(rows)
        return given, clock() - began_s

    def judged(self, rows: Sequence[Row], given: Sequence[Given]) -> list[Cause | None]:
        """What is wrong with each answer. Many are looked through by columns, and one by one when any is odd."""
        if (
            len(given) >= _MANY
            and self.sieve is not None
            and self.sieve(given)
            and (self.constancy is None or self.constancy.passes(rows, given))
        ):
            return [None] * len(given)
        return list(map(self.judge, rows, given))

    def judge(self, row: Row, given: Given) -> Cause | None:
        """What is wrong with an answer, or None."""
        cause = self.check(given)
        if cause is None and self.constancy is not None and self.constancy.sees(row, given):
            return "constant"
        return cause


class Fault(NamedTuple):
    """A seat had no acceptable answer for the row at ``place``; ``rescued`` says whether a later tier that learns had.

    Only when last good has a good answer to the very row is it the champion's fault: else the record is bad. So with
    the challenger, and champion or last good. A ``bystander`` was in one call with others when it failed, which is
    counted for one of them.
    """

    place: int
    tier: Tier
    cause: Cause
    rescued: bool | None = None
    bystander: bool = False


class Answered(msgspec.Struct):
    """What became of rows: an answer each, or None where the row was abstained from; by whom; and what went wrong."""

    answers: Sequence[Answer | None]
    tiers: list[Tier]
    faults: list[Fault] = []

    @property
    def lowest(self) -> Tier:
        """The lowest tier that was needed."""
        return max(self.tiers, key=TIERS.index, default="champion")

    def open(self) -> list[int]:
        """Places of the rows that have no answer yet."""
        return [place for place, answer in enumerate(self.answers) if answer is None]

    def refused(self) -> frozenset[int]:
        """Places of the rows that two models that learnt refused: the record is bad, and not they."""
        raised = [fault.place for fault in self.faults if fault.cause == "raised"]
        return frozenset(place for place in raised if raised.count(place) > 1)

    def take(self, tier: Tier, place: int, given: Given, cause: Cause | None) -> None:
        """Keep an answer that the guard of its seat lets pass, else the fault."""
        if cause is None:
            self.answers[place] = given  # type: ignore[index]  # rows are answered one by one in a list
            self.tiers[place] = tier
        else:
            bystander = isinstance(given, InterlockError) and given.facts.get("bystander") is True
            self.faults.append(Fault(place, tier, cause, bystander=bystander))

    def parts(self, counts: Sequence[int]) -> Iterator["Answered"]:
        """What became of the first so many rows, the next, and so on."""
        start = 0
        for count in counts:
            end = start + count
            faults = [fault._replace(place=fault.place - start) for fault in self.faults if start <= fault.place < end]
            yield Answered(self.answers[start:end], self.tiers[start:end], faults)
            start = end

    def settled(self) -> "Answered":
        """Say of each fault of champion and challenger whether another that learnt had an answer to the same row."""
        self.faults = [
            fault._replace(rescued=self.tiers[fault.place] in _RESCUERS[fault.tier])
            if fault.tier in _RESCUERS
            else fault
            for fault in self.faults
        ]
        return self


@dataclass(slots=True)
class Challenge:
    """The challenger of a release, loaded, and the records that it has drawn. ``is_on`` is off once it was dropped."""

    trial: Trial
    seat: Seat
    lots: Lots
    is_on: bool = True


@dataclass(slots=True)
class Live:
    """A release, loaded: what answers now. ``first`` is the seat that is asked first, in the place ``route``.

    ``columns`` are what a record must have, in the order of the rows. ``challenge``: who is tried beside the champion.
    """

    generation: int
    seats: tuple[Seat, ...]
    columns: tuple[Column, ...]
    route: int = 0
    challenge: Challenge | None = None
    first: Seat = field(init=False)

    def __post_init__(self) -> None:
        self.first = self.seats[self.route]

    def turn(self, route: int) -> None:
        """Ask the seat in this place first from now on."""
        self.route, self.first = route, self.seats[route]

    @property
    def gathers(self) -> bool:
        """Whether rows of several requests are better asked about together."""
        here = self.first.here
        return here is not None and here.gathers

    @property
    def everybody(self) -> tuple[Seat, ...]:
        """All seats, the challenger's too."""
        return self.seats if self.challenge is None else (*self.seats, self.challenge.seat)

    def seat_of(self, tier: Tier) -> Seat:
        """The seat of a tier that is there."""
        return next(seat for seat in self.everybody if seat.tier == tier)

    def drawn(self, rows: Sequence[Row], client: object) -> Sequence[int]:
        """Places of the rows of a client that the challenger is asked for first."""
        challenge = self.challenge
        if challenge is None or challenge.trial.shadow or not challenge.is_on:
            return ()
        return challenge.lots.drawn(rows, client)

    def answer_here(self, rows: Sequence[Row], drawn: Sequence[int] = ()) -> Answered | None:
        """Answers without waiting; None when a seat that is needed is in another process.

        The challenger is asked for the rows at the places ``drawn`` first.
        """
        if not rows:
            return Answered([], [])
        seat = self.first
        if self.challenge is not None and drawn:
            if len(drawn) < len(rows):
                course = self._course(rows, drawn)
                return _through(course, *next(course))
            seat = self.challenge.seat
        if seat.here is None:
            return None
        picked = rows if seat.pick is None else seat.picked(rows)
        given = seat.asked_here(picked) if drawn else seat.here.answers(picked)
        count = len(given)
        causes = seat.judged(picked, given) if count != 1 else [seat.judge(picked[0], given[0])]
        if causes.count(None) == count:
            return Answered(given, [seat.tier] * count)  # type: ignore[arg-type]
        course = self._course(rows, drawn)
        next(course)
        try:
            asked = course.send((given, causes))
        except StopIteration as end:
            answered: Answered = end.value
            return answered
        return _through(course, *asked)

    async def answer(self, rows: Sequence[Row], drawn: Sequence[int] = ()) -> Answered:
        """Answers, waiting for models in other processes where they are needed."""
        course = self._course(rows, drawn)
        try:
            seat, asked = next(course)
            while True:
                given = seat.asked_here(asked) if seat.here is not None else await seat.asked_elsewhere(asked)
                seat, asked = course.send((given, seat.judged(asked, given)))
        except StopIteration as end:
            answered: Answered = end.value
            return answered

    def _course(
        self, rows: Sequence[Row], drawn: Sequence[int] = ()
    ) -> Generator[tuple[Seat, Sequence[Row]], _Judged, Answered]:
        """The way through the tiers: yields whom to ask for which rows, is sent what was given and what is wrong."""
        answered = Answered([None] * len(rows), ["abstain"] * len(rows))
        if drawn and self.challenge is not None:
            yield from _stop(self.challenge.seat, rows, drawn, answered)
        for seat in self.seats[self.route :]:
            places = [place for place in answered.open() if seat.tier != "baseline" or place not in answered.refused()]
            if places:
                yield from _stop(seat, rows, places, answered)
        return answered.settled()


def _stop(
    seat: Seat, rows: Sequence[Row], places: Sequence[int], answered: Answered
) -> Generator[tuple[Seat, Sequence[Row]], _Judged, None]:
    """One stop on the way: a seat is asked for some of the rows."""
    wanted = taken(rows, places)
    given, causes = yield seat, seat.picked(wanted)
    for place, each, cause in zip(places, given, causes, strict=True):
        answered.take(seat.tier, place, each, cause)


def _through(
    course: Generator[tuple[Seat, Sequence[Row]], _Judged, Answered], seat: Seat, asked: Sequence[Row]
) -> Answered | None:
    """Go the way from a stop on, without waiting; None where that cannot be."""
    try:
        while seat.here is not None:
            given = seat.asked_here(asked)
            seat, asked = course.send((given, seat.judged(asked, given)))
    except StopIteration as end:
        answered: Answered = end.value
        return answered
    return None


def taken(rows: Sequence[Row], places: Sequence[int]) -> Sequence[Row]:
    """Some of the rows."""
    return rows.take(places) if isinstance(rows, Framed) else [rows[place] for place in places]


def picker(have: Sequence[Column], wanted: Signature) -> Callable[[Row], Row] | None:
    """What takes rows of ``have`` to rows of ``wanted``; None where they are the same. All wanted must be there."""
    names = [column.name for column in have]
    places = [names.index(name) for name in wanted.names]
    if places == list(range(len(names))):
        return None
    return taker(places)
