"""What can go wrong, as one tree.

::

    InterlockError
    ├── Misuse                    exit 2: the person can mend it before anything runs
    │   ├── SettingsError         interlock.toml, --set or INTERLOCK_… is wrong
    │   ├── ContractError         the user's file does not offer what the loop needs
    │   └── NotFound              no such project, release, event or file
    ├── Refused                   exit 1: a decision said no; nothing is broken
    │   ├── DataRefused           rows or a file break the rules that their owner set
    │   ├── GateHeld              the candidate was not released
    │   ├── AuditFailed           a batch was not published
    │   └── NothingToServe        no release, or none to go back to
    └── Fault                     exit 3: something broke
        ├── UserCodeFailed        the user's function raised, hung, crashed or answered nonsense
        ├── BundleCorrupt         a bundle's bytes are not those that were recorded
        ├── ChampionDamaged       the champion cannot answer, and another model of the release does
        ├── LedgerBroken          the hash chain does not hold
        ├── Conflict              somebody else changed it first (compare-and-swap lost)
        ├── LeaseHeld             another turn is running
        ├── LeaseLost             this turn was overtaken and may not commit
        └── StoreFault            the database, the disk or the object store failed

Every error carries its facts as fields, a message of a few lines at most, and one next step.
"""

from typing import ClassVar

__all__ = [
    "AuditFailed",
    "BundleCorrupt",
    "ChampionDamaged",
    "Conflict",
    "ContractError",
    "DataRefused",
    "Fault",
    "GateHeld",
    "InterlockError",
    "LeaseHeld",
    "LeaseLost",
    "LedgerBroken",
    "Misuse",
    "NotFound",
    "NothingToServe",
    "Refused",
    "SettingsError",
    "StoreFault",
    "UserCodeFailed",
]

_MESSAGE_CHARS = 2_000


def bounded(text: str, limit: int = _MESSAGE_CHARS) -> str:
    """Shorten ``text`` to ``limit`` characters, saying how much was left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … ({len(text) - limit} more characters)"


class InterlockError(Exception):
    """Root of the tree: ``message`` (what is so), ``next_step`` (what to do), ``facts`` (the same as data).

    ``recorded`` is what may be kept of the message. It is another one where the message quotes somebody else's words
    (an exception of user code, an error of the user's SQL), which may hold values of the data.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, next_step: str = "", **facts: object) -> None:
        self.message = bounded(message)
        self.next_step = bounded(next_step)
        self.facts = facts
        self.recorded = self.message
        super().__init__(f"{self.message} {self.next_step}".rstrip())

    @property
    def code(self) -> str:
        """Stable name of the kind of error, for machines."""
        return type(self).__name__


class Misuse(InterlockError):
    """The person can mend it before anything runs."""

    exit_code = 2


class SettingsError(Misuse):
    """A configuration key or value is unknown or impossible."""


class ContractError(Misuse):
    """The user's file does not offer a function that the loop can call."""


class NotFound(Misuse):
    """What was named does not exist."""


class Refused(InterlockError):
    """A decision said no; nothing is broken."""

    exit_code = 1


class DataRefused(Refused):
    """Rows or a file break the rules that their owner set."""


class GateHeld(Refused):
    """The candidate was not released."""


class AuditFailed(Refused):
    """A batch was staged and audited, and was not published."""


class NothingToServe(Refused):
    """There is no release, or none to go back to."""


class Fault(InterlockError):
    """Something broke."""

    exit_code = 3


class UserCodeFailed(Fault):
    """The user's function raised, hung, crashed or answered nonsense. ``traceback`` holds their frames only.

    ``recorded_traceback`` is what may be kept of it: the frames and the type of the exception, without its words.
    """

    def __init__(self, message: str, *, next_step: str = "", traceback: str = "", **facts: object) -> None:
        super().__init__(message, next_step=next_step, **facts)
        self.traceback = traceback
        self.recorded_traceback = traceback


class BundleCorrupt(Fault):
    """A bundle's bytes are not those that were recorded."""


class ChampionDamaged(Fault):
    """The champion cannot answer; who could of the release in force has answered in its place."""


class LedgerBroken(Fault):
    """The hash chain does not hold."""


class Conflict(Fault):
    """A compare-and-swap lost: the record had changed."""


class LeaseHeld(Fault):
    """Another turn holds the lease."""


class LeaseLost(Fault):
    """The turn was overtaken; its fencing number is out of date and it may not commit."""


class StoreFault(Fault):
    """The database, the disk or the object store failed."""


def error_named(code: str) -> type[InterlockError]:
    """The class that :attr:`InterlockError.code` names; :class:`Fault` when there is none of that name."""
    found = globals().get(code)
    return found if isinstance(found, type) and issubclass(found, InterlockError) else Fault
