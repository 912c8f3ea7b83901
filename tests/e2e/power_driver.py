"""Cut the power in a turn wherever that leaves another disk, and run the next turn on what is left.

    python power_driver.py FOLDER [--turn first|second] [--jobs 1] [--every 1] [--offset 0]

The turn runs once, on a file system that logs what is written and what is made durable; each cut is then laid out on a
real disk. Prints one JSON object a line: the undisturbed turn, then a case each.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from e2e.crash_driver import describe
from e2e.syscall_driver import SCRATCH, begin, next_turn, options, spread, turn
from infra.forgetful import cuts, load, mounted, read_tree, write_tree
from infra.syscalls import under
from infra.warm_hosts import WarmHosts


def enumerate_cuts(given: argparse.Namespace) -> None:
    """Run the turn once, and every cut of it."""
    start = read_tree(begin(given.folder, given.turn))
    place = given.folder / "mounted"
    with mounted(start, place) as log:
        told = under(None, lambda: turn(place))
        expected = under(None, lambda: describe(place))
    # what the turn said it did must be there after a cut right at its end, without any further turn
    disk = load(start)
    for change in log:
        disk.apply(change)
    write_tree(disk.after("strict"), given.folder / "end")
    kept = under(None, lambda: describe(given.folder / "end"))
    first = {"changes": len(log), "told": told.result, "expected": expected.result, "kept": kept.result}
    print(json.dumps(first), flush=True)

    def some(job: int) -> Iterator[dict[str, Any]]:
        found = cuts(start, log, ignore=SCRATCH)
        for cut in islice(found, given.offset + job * given.every, None, given.every * given.jobs):
            began = time.monotonic()
            case = given.folder / f"case-{cut.at}-{cut.kind}"
            write_tree(cut.tree, case)
            after = next_turn(case)
            change = [part if not isinstance(part, bytes) else len(part) for part in log[min(cut.at, len(log) - 1)]]
            shutil.rmtree(case)
            yield {"at": cut.at, "kind": cut.kind, "change": change, "seconds": time.monotonic() - began} | after

    spread(given.folder, given.jobs, some)


if __name__ == "__main__":
    with WarmHosts():
        enumerate_cuts(options().parse_args())
