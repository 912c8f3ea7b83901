"""How a person sees a turn while it runs: a live line on a terminal, plain lines elsewhere, nothing with ``--json``."""

import sys
import time
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from interlock import loop

_WIDTH = 9
_MESSAGE = 100


def seconds_text(seconds: float) -> str:
    """A duration for people: 0.04 s, 3.2 s, 4 min 05 s."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def one_line(message: str) -> str:
    """The message without line breaks or control characters, so that a user's output cannot drive the terminal."""
    text = "".join(letter if letter.isprintable() else " " for letter in message)
    return text if len(text) <= _MESSAGE else f"{text[:_MESSAGE]}…"


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class Plain:
    """One line when a step ends; long steps say something now and then. Writes to standard error."""

    def __init__(self, every_s: float = 10.0) -> None:
        self._every_s = every_s
        self._last = time.monotonic()

    def begin(self, step: str) -> None:
        """Start the clock of the step's news."""
        del step
        self._last = time.monotonic()

    def say(self, message: str) -> None:
        """Print news, at most once in a while."""
        now = time.monotonic()
        if now - self._last >= self._every_s:
            self._last = now
            _tell(f"  {'…':<{_WIDTH}} {one_line(message)}")

    def end(self, step: str, note: str, seconds: float, *, failed: bool) -> None:
        """Print what became of the step."""
        mark = "x" if failed else "."
        _tell(f"{mark} {step:<{_WIDTH}} {one_line(note)}  [{seconds_text(seconds)}]")


class Silent:
    """Says nothing."""

    def begin(self, step: str) -> None:
        """Nothing."""

    def say(self, message: str) -> None:
        """Nothing."""

    def end(self, step: str, note: str, seconds: float, *, failed: bool) -> None:
        """Nothing."""


class Live:
    """A spinner with the running step, the time it took so far and its latest news; finished steps stay above it."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None

    def begin(self, step: str) -> None:
        """Show the step."""
        from rich import progress

        columns = (
            progress.SpinnerColumn(),
            progress.TextColumn("[bold]{task.description:<9}[/bold]"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("[dim]{task.fields[news]}[/dim]"),
        )
        self._bar = progress.Progress(*columns, console=self._console, transient=True)
        self._bar.add_task(step, total=None, news="")
        self._bar.start()

    def say(self, message: str) -> None:
        """Show news behind the step."""
        from rich.markup import escape

        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], news=escape(one_line(message)))

    def end(self, step: str, note: str, seconds: float, *, failed: bool) -> None:
        """Leave one line behind."""
        from rich.markup import escape

        self.close()
        mark = "[red]✗[/red]" if failed else "[green]✓[/green]"
        text = f"{mark} [bold]{step:<{_WIDTH}}[/bold] {escape(note)} [dim]{seconds_text(seconds)}[/dim]"
        self._console.print(text, soft_wrap=True)

    def close(self) -> None:
        """Take the spinner away, also when the turn ends by an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def progress_for(json: bool) -> "AbstractContextManager[loop.Progress]":
    """The right one for where standard error goes."""
    if json:
        return nullcontext(Silent())
    if not sys.stderr.isatty():
        return nullcontext(Plain())
    return closing(Live())
