"""All that a server writes down of its answers and their outcomes: journal, outcomes and the clerk behind them."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from interlock.errors import Conflict, NothingToServe, StoreFault
from interlock.ports import Ledger, Parts
from interlock.serve.app import Intake
from interlock.serve.clerk import PREDICTIONS, Clerk, log_folder
from interlock.serve.door import Door, Room, Served
from interlock.serve.feedback import Feedback
from interlock.serve.journal import Journal, Tally, check_columns
from interlock.serve.last_known import LastKnown
from interlock.serve.outcomes import Outcomes

_SALT = ("log", "salt")


class Recording:
    """Opened before the first request, closed after the last. Raises :class:`SettingsError` for unknown columns."""

    def __init__(
        self, parts: Parts, room: Room, say: Callable[[str], None], last_known: LastKnown | None = None
    ) -> None:
        settings, log = parts.settings, parts.settings.serve.log
        folder = log_folder(settings)
        check_columns(log, room.live.columns)
        self._parts = parts
        self._say = say
        self._told = 0
        self._outcomes = Outcomes(folder)
        self._clerk = Clerk(settings, parts.clock)
        salt = kept_salt_of(parts.ledger, last_known) if "hash" in log.redact.values() else b""
        self.journal = Journal(folder / PREDICTIONS, log, parts.clock, salt) if log.on else None

    @property
    def watchers(self) -> list[Callable[[Served], None]]:
        """What takes the record of each answer, if anything does."""
        return [] if self.journal is None else [self.journal.append]

    @property
    def settled(self) -> Callable[[bytes], Awaitable[bool]] | None:
        """What an answer waits for before it is sent; None where it need not."""
        return self.journal.settled if self.journal is not None and self.journal.durable else None

    def tally(self) -> Tally | None:
        """What became of records so far; None without a log."""
        return None if self.journal is None else self.journal.tally()

    def intakes(self, door: Door) -> dict[str, Intake]:
        """The route for outcomes."""
        feedback = Feedback(
            self._outcomes,
            self._parts.clock,
            output=lambda: door.room.live.seats[0].signature.output,
            name=door.name,
            most=self._parts.settings.serve.max_rows,
        )
        return {"/feedback": Intake(feedback.reply, "feedback")}

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to write in time."""
        if self.journal is not None:
            self.journal.open(loop)

    def tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell what was lost, and look after the clerk, in another thread."""
        self._tell()
        loop.run_in_executor(None, self._clerk.tick)

    def close(self) -> None:
        """Write what is left, and let the clerk take it to the lake."""
        if self.journal is not None:
            self.journal.close()
        self._tell()
        self._outcomes.close()
        self._clerk.close()

    def _tell(self) -> None:
        if self.journal is not None and self.journal.lost > self._told:
            lost, self._told = self.journal.lost - self._told, self.journal.lost
            self._say(f"the prediction log lost {lost} records: {self.journal.problem}")


def kept_salt_of(ledger: Ledger, last_known: LastKnown | None) -> bytes:
    """The salt as the state has it, kept on this host; where the state is away, as it is kept here."""
    try:
        found = salt_of(ledger)
    except (StoreFault, NothingToServe):
        kept = None if last_known is None else last_known.salt()
        if kept is None:
            raise
        return bytes.fromhex(kept)
    if last_known is not None:
        last_known.keep_salt(found.hex())
    return found


def salt_of(ledger: Ledger) -> bytes:
    """The salt of the project's hashed columns, random, made once; the same on all servers of one state."""
    found = ledger.read(*_SALT, str)
    if found is None:
        try:
            with ledger.transaction() as t:
                t.insert(*_SALT, secrets.token_hex(32))
        except Conflict:
            pass  # another server was faster
        found = ledger.read(*_SALT, str)
    assert found is not None
    return bytes.fromhex(found)
