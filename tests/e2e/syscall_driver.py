"""Let a system call of a turn go wrong, for every system call that changes a file; then run the next turn.

    python syscall_driver.py FOLDER FAULT [--turn first|second] [--shard 0/1] [--every 1] [--offset 0]

FAULT: ``kill`` (SIGKILL in place of the call), ``eio`` (a failing fsync), ``enospc`` (a failing write) or ``full``
(that write and all after it). ``second`` is a turn that ingests, trains, replaces the champion and publishes; ``first``
also creates the project's state. Prints one JSON object a line: the undisturbed turn, then a case each.

Forked children share the imports, so that a case costs two turns and no start-up. The calls of a turn on its scratch
folder, which the next turn deletes unread, are enumerated once for each kind of call.
"""

import argparse
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import deltalake  # noqa: F401  imported once, for all children
import pyarrow.parquet  # noqa: F401

from e2e.crash_driver import describe, second_file
from e2e.small_project import TRAIN, make_project
from infra.syscalls import ALL, KILL, SYNCS, WRITES, Call, Ended, Fault, under
from interlock.app import open_parts
from interlock.cli.progress import Silent
from interlock.configuration import load_settings
from interlock.errors import InterlockError
from interlock.loop import run_turn

FAULTS = {
    "kill": (ALL, KILL, False),
    "eio": (SYNCS, errno.EIO, False),
    "enospc": (WRITES, errno.ENOSPC, False),
    "full": (WRITES, errno.ENOSPC, True),
}
SCRATCH = ".interlock/work/"
WEAK = TRAIN.replace("values = np.asarray(X, dtype=float)", "values = np.asarray(X, dtype=float) * [1, -0.3]")


def turn(project: Path) -> dict[str, Any]:
    """Run a turn and tell what a person is told."""
    try:
        with open_parts(load_settings(project)) as parts:
            result = run_turn(parts, Silent())
    except InterlockError as error:
        return {"error": error.code, "message": error.message, "next_step": error.next_step, "exit": error.exit_code}
    problems = [f"{problem.step}: {problem.code}: {problem.message} {problem.next_step}" for problem in result.problems]
    return {"outcome": result.outcome, "sentence": result.sentence, "problems": problems}


def begin(folder: Path, which: str) -> Path:
    """A project before the turn that will go wrong."""
    project = make_project(folder / "begun")
    if which == "second":
        (project / "train.py").write_text(WEAK)
        first = under(None, lambda: turn(project))
        assert first.result is not None, "the first turn failed"
        assert not first.result["problems"], first.result
        (project / "train.py").write_text(TRAIN)
        second_file(project)
    return project


def chosen(calls: list[Call], every: int, offset: int) -> list[int]:
    """Numbers (from 1) of the calls to hit: every ``every``-th, and of those on scratch one of a kind."""
    known, numbers = set(), []
    for number, call in enumerate(calls, 1):
        if call.path.startswith(SCRATCH):
            if call.name in known:
                continue
            known.add(call.name)
        numbers.append(number)
    return numbers[offset % every :: every]


def case(begun: Path, place: Path, fault: Fault) -> dict[str, Any]:
    """One turn under the fault, one after it, and the end."""
    shutil.copytree(begun, place)
    hit: Ended = under(fault, lambda: turn(place))
    found = fault.calls[fault.at - 1] if fault.at is not None and fault.at <= len(fault.calls) else Call("none", "")
    after = under(None, lambda: turn(place))
    end = under(None, lambda: describe(place))
    shutil.rmtree(place)
    return {
        "at": fault.at,
        "name": found.name,
        "path": found.path,
        "killed": hit.killed,
        "told": hit.result,
        "status": hit.status,
        "next": after.result,
        "found": end.result,
    }


def main() -> None:
    """Enumerate the cases of one shard."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("fault", choices=FAULTS)
    parser.add_argument("--turn", choices=("first", "second"), default="second")
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--offset", type=int, default=0)
    given = parser.parse_args()
    shard, shards = map(int, given.shard.split("/"))
    kinds, what, lasting = FAULTS[given.fault]
    begun = begin(given.folder, given.turn)
    undisturbed = given.folder / "undisturbed"
    shutil.copytree(begun, undisturbed)
    count = Fault(undisturbed, kinds)
    told = under(count, lambda: turn(undisturbed))
    expected = under(None, lambda: describe(undisturbed))
    numbers = chosen(count.calls, given.every, given.offset)
    first = {"calls": count.calls, "cases": len(numbers), "told": told.result, "expected": expected.result}
    print(json.dumps(first), flush=True)
    for number in numbers[shard::shards]:
        place = given.folder / f"case-{number}"
        print(json.dumps(case(begun, place, Fault(place, kinds, number, what, lasting))), flush=True)


if __name__ == "__main__":
    main()
