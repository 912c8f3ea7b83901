"""What the suites share: a statement that something is refused, and a small document."""

from types import TracebackType

from interlock.errors import InterlockError
from interlock.records import Record


class refuses:  # noqa: N801  reads as a statement
    """Hold that the block raises ``kind``; our own errors must carry a message."""

    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Swallow the error that was asked for."""
        assert kind is not None, f"{self._kind.__name__} was not raised"
        assert not isinstance(error, InterlockError) or error.message
        return isinstance(error, self._kind)


class Note(Record, frozen=True, kw_only=True):
    """A document for the suites."""

    text: str
    number: int = 0


class BlockError(Exception):
    """Raised inside a block by a test."""
