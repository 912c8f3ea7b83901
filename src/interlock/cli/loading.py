"""A load test as a person starts it: where the key comes from, and how the run is seen."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interlock.cli.context import Invocation
from interlock.cli.progress import one_line, progress_for
from interlock.errors import Misuse
from interlock.load.run import Asked, LoadResult, load_test
from interlock.service_level import limits_of


def key_of(given: str, file: Path | None) -> str:
    """The key: what was given, else what the file holds, else the variable INTERLOCK_KEY; raises :class:`Misuse`."""
    if given or file is None:
        return given or os.environ.get("INTERLOCK_KEY", "")
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"The key in {file} cannot be read.", next_step="Name a file that holds the key alone.") from error


def start(invocation: Invocation, conditions: Sequence[str], *, web: bool, **asked: Any) -> LoadResult:
    """Run it, with progress on standard error."""

    def tell(address: str) -> None:
        sys.stderr.write(f"The page of locust: {address}\n")
        sys.stderr.flush()

    with invocation.parts() as parts, progress_for(invocation.json) as progress:
        wanted = Asked(
            limits=limits_of(parts.settings.load, conditions),
            web=tell if web else None,
            overrides=invocation.overrides,
            say=lambda line: progress.say(one_line(line)),
            **asked,
        )
        progress.begin("load")
        result = load_test(parts, wanted)
        progress.end("load", _note(result), result.found.seconds, failed=not result.passed)
    return result


def _note(result: LoadResult) -> str:
    return f"{result.found.requests:,} requests, {result.found.answered:,} answered"
