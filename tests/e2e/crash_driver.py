"""Run a turn and kill it with SIGKILL at its N-th effect, for every N; then run the next turn and describe the end.

An *effect* is a call that changes what outlives the process: a rename or link of a file, a commit of a table, the
begin and the commit of a ledger transaction; and each call into a worker process. The kill comes before and after each.

    python crash_driver.py FOLDER SHARD SHARDS      prints one JSON object a line

Forked children share the imports, as the hosts of the user's code do, so that a case costs turns and no start-up.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from e2e.small_project import make_project, write_rows
from infra.warm_hosts import WarmHosts
from interlock.answer.batch import score_inbox  # noqa: F401  imported once, for all children
from interlock.app import open_parts
from interlock.cli.operate import verify_project
from interlock.cli.progress import Silent
from interlock.configuration import load_settings
from interlock.loop import run_turn
from interlock.model.bundle import pack  # noqa: F401
from interlock.model.runner import Runner
from interlock.release.judge import judge  # noqa: F401
from interlock.release.registry import record_decision  # noqa: F401
from interlock.store.ledger import SqlLedger
from interlock.store.tables import DeltaTables


class Countdown:
    """Counts effects, and kills this process when the count reaches ``at`` (never for None)."""

    def __init__(self, at: int | None) -> None:
        self.at, self.count, self.names = at, 0, []

    def effect(self, name: str) -> None:
        self.count += 1
        self.names.append(name)
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str) -> None:
        """Count before and after a call."""
        original: Callable[..., Any] = getattr(owner, name)

        def counted(*positional: Any, **named: Any) -> Any:
            self.effect(f"before {name}")
            result = original(*positional, **named)
            self.effect(f"after {name}")
            return result

        setattr(owner, name, counted)

    def around_transaction(self) -> None:
        """Count before a transaction, before its commit and after it."""
        original = SqlLedger.transaction

        @contextlib.contextmanager
        def counted(ledger: SqlLedger, *positional: Any, **named: Any) -> Iterator[Any]:
            self.effect("before transaction")
            with original(ledger, *positional, **named) as transaction:
                yield transaction
                self.effect("before commit")
            self.effect("after commit")

        SqlLedger.transaction = counted


def turn(project: Path, at: int | None) -> list[str]:
    """Run a turn in this process, killed at effect ``at``; returns the names of its effects."""
    countdown = Countdown(at)
    for name in ("rename", "replace", "link"):
        countdown.around(os, name)
    for name in ("append", "replace"):
        countdown.around(DeltaTables, name)
    countdown.around(Runner, "session")
    countdown.around_transaction()
    with open_parts(load_settings(project)) as parts:
        run_turn(parts, Silent())
    return countdown.names


def in_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Run ``work`` in a forked child; returns its wait status and what it returned, None when it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            with os.fdopen(writer, "w") as pipe:
                json.dump(work(), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return status, json.loads(text) if status == 0 else None


def describe(project: Path) -> dict[str, Any]:
    """What outlives a turn, without what may differ between two runs (times, ids)."""
    with open_parts(load_settings(project)) as parts:
        rows = parts.tables.scan("sources/data").select("part").collect()["part"]
        verified = verify_project(parts)
        releases = [item["champion"] for _, item in parts.ledger.scan("release", dict[str, Any])]
        kinds = [event.kind for event in parts.ledger.events()]
    published = sorted((project / "predictions").glob("*"))
    answers = [pl.read_parquet(path).drop("interlock_scored_at") for path in published]
    return {
        "rows": sorted(rows.to_list()) == list(range(len(rows))) and len(rows),
        "releases": releases,
        "problems": list(verified.problems),
        "published": [path.name for path in published],
        "answers": [frame.hash_rows(seed=1).sum() for frame in answers],
        "accepted": kinds.count("file.accepted"),
        "decisions": kinds.count("gate.decided"),
        "batches": kinds.count("batch.published"),
        "scratch": sorted(path.name for path in (project / ".interlock" / "work").glob("*")),
    }


def second_file(project: Path) -> None:
    """More rows, so that the killed turn has a champion to judge against."""
    write_rows(project / "inbox" / "b.csv", 400, 300)
    write_rows(project / "to_score" / "tomorrow.csv", 20_000, 30, labelled=False)


def main(folder: Path, shard: int, shards: int) -> None:
    """Enumerate every effect of a second turn of this shard."""
    begun = make_project(folder / "begun")
    status, _ = in_child(lambda: turn(begun, None))
    assert status == 0, "the first turn failed"
    second_file(begun)
    undisturbed = folder / "undisturbed"
    shutil.copytree(begun, undisturbed)
    status, names = in_child(lambda: turn(undisturbed, None))
    assert status == 0, "the undisturbed turn failed"
    _, expected = in_child(lambda: describe(undisturbed))
    print(json.dumps({"effects": names, "expected": expected}), flush=True)
    for at in range(1 + shard, len(names) + 1, shards):
        case = folder / f"case-{at}"
        shutil.copytree(begun, case)
        killed, _ = in_child(lambda case=case, at=at: turn(case, at))
        recovered, found = in_child(lambda case=case: turn(case, None) and describe(case))
        told = {"at": at, "name": names[at - 1], "killed": killed == signal.SIGKILL, "recovered": recovered == 0}
        print(json.dumps(told | {"found": found}), flush=True)
        shutil.rmtree(case)


if __name__ == "__main__":
    with WarmHosts():
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
