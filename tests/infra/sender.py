"""Senders of a follower for tests: they run in a worker process, and append what they are told to a file."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from interlock.errors import Misuse


def open_sender(arguments: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """As ``arguments["how"]`` says; ``file`` takes one line for each event."""
    how, file = arguments["how"], Path(arguments["file"])
    if how == "hangs when opened":
        time.sleep(600)
    if how == "not installed":
        raise Misuse("cannot be told: its client is not installed.", next_step="pip install it")

    def send(batch: Mapping[str, Any]) -> Any:
        told = [event["sequence"] for event in batch["events"]]
        taken = told if how in ("takes all", "crashes after") else told[: len(told) // 2]
        with file.open("a") as lines:
            lines.writelines(f"{number}\n" for number in taken)
        if how == "hangs":
            time.sleep(600)
        if how == "crashes after":
            os._exit(9)
        if how == "answers nonsense":
            return {"done": "all of them"}
        if how == "raises":
            raise ValueError("what a client may raise")
        problem = "" if how in ("takes all", "is slow") else "answered 500"
        return {
            "done": taken[-1] if taken else 0,
            "problem": problem,
            "mark": {"calls": batch["mark"].get("calls", 0) + 1},
        }

    return send
