"""Cut the power in a turn wherever that leaves another disk, and run the next turn on what is left.

    python power_driver.py FOLDER [--turn first|second] [--shard 0/1] [--every 1] [--offset 0]

The turn runs once, on a file system that logs what is written and what is made durable; each cut is then laid out on a
real disk. Prints one JSON object a line: the undisturbed turn, then a case each.
"""

import argparse
import json
import shutil
from itertools import islice
from pathlib import Path

from e2e.crash_driver import describe
from e2e.syscall_driver import SCRATCH, begin, turn
from infra.forgetful import cuts, load, mounted, read_tree, write_tree
from infra.syscalls import under


def main() -> None:
    """Enumerate the cuts of one shard."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--turn", choices=("first", "second"), default="second")
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--offset", type=int, default=0)
    given = parser.parse_args()
    shard, shards = map(int, given.shard.split("/"))
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
    found = cuts(start, log, ignore=SCRATCH)
    for cut in islice(found, given.offset + shard * given.every, None, given.every * shards):
        case = given.folder / f"case-{cut.at}-{cut.kind}"
        write_tree(cut.tree, case)
        after = under(None, lambda case=case: turn(case))
        end = under(None, lambda case=case: describe(case))
        change = [part if not isinstance(part, bytes) else len(part) for part in log[min(cut.at, len(log) - 1)]]
        print(
            json.dumps({"at": cut.at, "kind": cut.kind, "change": change, "next": after.result, "found": end.result}),
            flush=True,
        )
        shutil.rmtree(case)


if __name__ == "__main__":
    main()
