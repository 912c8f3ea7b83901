"""Let a system call of a turn go wrong, for every system call that changes a file; then run the next turn.

    python syscall_driver.py FOLDER FAULT [--turn first|second] [--jobs 1] [--every 1] [--offset 0]

FAULT: ``kill`` (SIGKILL in place of the call), ``eio`` (a failing fsync), ``enospc`` (a failing write) or ``full``
(that write and all after it). ``second`` is a turn that ingests, trains, replaces the champion and publishes; ``first``
also creates the project's state. Prints one JSON object a line: the undisturbed turn, then a case each.

Forked children share the imports, and so do the hosts of the user's code, so that a case costs two turns and no
start-up. The calls of a turn on its scratch folder, which the next turn deletes unread, are enumerated once for each
kind of call. Polars and DuckDB are imported here and never used: a fork of a process with threads may hang.
"""

import argparse
import ctypes
import errno
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deltalake  # noqa: F401  imported once, for all children
import pyarrow.parquet  # noqa: F401

from e2e.crash_driver import describe, second_file
from e2e.small_project import TRAIN, make_project
from infra.syscalls import ALL, KILL, SYNCS, WRITES, Call, Fault, under
from infra.warm_hosts import WarmHosts
from interlock.answer.batch import score_inbox  # noqa: F401
from interlock.app import open_parts
from interlock.cli.progress import Silent
from interlock.configuration import load_settings
from interlock.errors import InterlockError
from interlock.loop import run_turn
from interlock.model.bundle import pack  # noqa: F401
from interlock.release.judge import judge  # noqa: F401
from interlock.release.registry import record_decision  # noqa: F401

FAULTS = {
    "kill": (ALL, KILL, False),
    "eio": (SYNCS, errno.EIO, False),
    "enospc": (WRITES, errno.ENOSPC, False),
    "full": (WRITES, errno.ENOSPC, True),
}
SCRATCH = f"{Path('.interlock', 'work')}/"
ATTEMPTS = 20
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


def next_turn(project: Path) -> dict[str, Any]:
    """The turn after, and how things stand then; in a fresh process."""
    ended = under(None, lambda: {"next": turn(project), "found": describe(project)})
    return ended.result or {"next": {"error": "it hung" if ended.hung else "it died"}, "found": None}


def case(begun: Path, place: Path, fault: Fault) -> dict[str, Any]:
    """One turn under the fault, one after it, and the end.

    Two turns do not make quite the same number of calls; a turn that ends before the call is run again.
    """
    began = time.monotonic()
    assert fault.at is not None
    for _ in range(ATTEMPTS):
        fault.calls.clear()
        shutil.copytree(begun, place)
        hit = under(fault, lambda: turn(place))
        if fault.at <= len(fault.calls):
            break
        shutil.rmtree(place)
    else:
        raise AssertionError(f"no turn of {ATTEMPTS} came to call {fault.at}")
    name, path = fault.calls[fault.at - 1]
    before = fault.calls[fault.at - 2].path if fault.at > 1 else ""
    claims = hit.result is not None and not hit.result.get("problems") and "error" not in hit.result
    kept = under(None, lambda: describe(place)).result if claims else None
    after = next_turn(place)
    shutil.rmtree(place)
    told = {"at": fault.at, "name": name, "path": path, "before": before, "kept": kept}
    told |= {"killed": hit.killed, "hung": hit.hung}
    return told | {"told": hit.result, "status": hit.status, "seconds": time.monotonic() - began} | after


def options() -> argparse.ArgumentParser:
    """What both drivers are told: the folder, and which cases to run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--turn", choices=("first", "second"), default="second")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--offset", type=int, default=0)
    return parser


def spread(folder: Path, jobs: int, work: Callable[[int], Iterator[dict[str, Any]]]) -> None:
    """Do it in so many forks, each told its number; prints what they yield, a JSON object a line."""
    forks = []
    for job in range(jobs):
        fork = os.fork()
        if fork == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # with this process
            status = 1
            try:
                with (folder / f"job-{job}").open("w") as file:
                    file.writelines(f"{json.dumps(each)}\n" for each in work(job))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        forks.append(fork)
    assert [os.waitpid(fork, 0)[1] for fork in forks] == [0] * jobs
    for job in range(jobs):
        sys.stdout.write((folder / f"job-{job}").read_text())


def enumerate_cases(given: argparse.Namespace) -> None:
    """Count the calls of a turn, and let each go wrong."""
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

    def some(job: int) -> Iterator[dict[str, Any]]:
        for number in numbers[job :: given.jobs]:
            place = given.folder / f"case-{number}"
            yield case(begun, place, Fault(place, kinds, number, what, lasting))

    spread(given.folder, given.jobs, some)


if __name__ == "__main__":
    parser = options()
    parser.add_argument("fault", choices=FAULTS)
    with WarmHosts():
        enumerate_cases(parser.parse_args())
