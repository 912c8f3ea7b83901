"""Harm one request of a turn whose lake and output are on S3, for every request and kind of harm; describe the end.

The turn is a second one: it takes in a file, trains, judges against a weaker champion, promotes, and publishes.
An undisturbed one is counted first. A case is a copy of the project and of its bucket, the turn with the N-th request
harmed, a look at what readers see then, and another turn without harm.

    python fault_driver.py FOLDER SHARD SHARDS CHOICE      prints one JSON object a line

CHOICE is ``all`` for every request x kind, ``each`` for every request once with the kinds in turn, or ``some`` for one
request of each sort, likewise.
Turns run in forked children, which share the imports; the server and the proxy are threads of this process, which
itself uses nothing that starts threads of its own (Polars, obstore).
"""

import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import deltalake  # noqa: F401  imported once, before the forks
import numpy  # noqa: F401, ICN001
import obstore  # noqa: F401
import polars as pl
from moto.s3.models import s3_backends

from e2e.crash_driver import in_child
from e2e.small_project import TOML, make_project, write_rows
from infra.faulty_proxy import KINDS, FaultyProxy, Seen
from infra.s3_server import VARIABLES, running
from interlock.answer.batch import score_inbox  # noqa: F401
from interlock.app import open_parts
from interlock.cli.operate import verify_project
from interlock.cli.progress import Silent
from interlock.configuration import load_settings
from interlock.loop import run_turn
from interlock.model.bundle import pack  # noqa: F401
from interlock.release.judge import judge  # noqa: F401
from interlock.release.registry import record_decision  # noqa: F401
from interlock.store.places import open_blobs

TIMEOUT = "1s"


def settle_in(project: Path, bucket: str) -> None:
    """Have a project keep its lake in a bucket, and publish there."""
    toml = TOML.replace('output = "predictions"', f'output = "s3://{bucket}/predictions"')
    store = f'\n[store]\nlake = "s3://{bucket}/lake"\ntimeout = "{TIMEOUT}"\n'
    (project / "interlock.toml").write_text(toml + store)


def turn(project: Path) -> list[str]:
    """Run a turn; returns what went wrong in it."""
    with open_parts(load_settings(project)) as parts:
        done = run_turn(parts, Silent())
    return [f"{problem.step}: {problem.code}: {problem.message}" for problem in done.problems]


def describe(project: Path) -> dict[str, Any]:
    """What readers find, without what may differ between two runs (times, ids)."""
    settings = load_settings(project)
    with open_parts(settings) as parts:
        rows = parts.tables.scan("sources/data").select("part").collect()["part"]
        verified = verify_project(parts)
        releases = [item["champion"] for _, item in parts.ledger.scan("release", dict[str, Any])]
        kinds = [event.kind for event in parts.ledger.events()]
    out = open_blobs(settings.batch.output, settings)
    published = [info.key for info in out.list()]
    answers = [pl.read_parquet(io.BytesIO(out.get(name))).drop("interlock_scored_at") for name in published]
    return {
        "rows": sorted(rows.to_list()) == list(range(len(rows))) and len(rows),
        "releases": releases,
        "problems": list(verified.problems),
        "published": published,
        "answers": [frame.hash_rows(seed=1).sum() for frame in answers],
        "accepted": kinds.count("file.accepted"),
        "decisions": kinds.count("gate.decided"),
        "batches": kinds.count("batch.published"),
        "scratch": sorted(path.name for path in (project / ".interlock" / "work").glob("*")),
    }


def sort_of(seen: Seen) -> str:
    """The request without what differs between two of one sort: digests, numbers, bundled files."""
    path = re.sub(r"^/[^/?]+", "", seen.path)
    path = re.sub(r"(bundles/[0-9a-f]{64}/)(?!manifest.json).+", r"\1*", path)
    return f"{seen.method} {re.sub(r'[0-9a-f]{12,}|[0-9]{4,}', '*', path)[:120]}"


def chosen(seen: list[Seen], choice: str) -> list[tuple[int, str]]:
    """The cases: number of the request, and harm."""
    if choice == "all":
        return [(each.number, kind) for each in seen for kind in KINDS]
    first = {sort_of(each): each.number for each in reversed(seen)}
    numbers = [each.number for each in seen] if choice == "each" else sorted(first.values())
    return [(number, KINDS[place % len(KINDS)]) for place, number in enumerate(numbers)]


class Stage:
    """A server, a proxy in front of it, and a project with its bucket after its first turn."""

    def __init__(self, folder: Path, direct: str, proxy: FaultyProxy) -> None:
        self.folder, self.direct, self.proxy = folder, direct, proxy
        self.client = boto3.client("s3", endpoint_url=direct, region_name="us-east-1")
        self.begun = make_project(folder / "begun")
        good = (self.begun / "train.py").read_text()
        (self.begun / "train.py").write_text(
            good.replace("np.asarray(X, dtype=float)\n", "np.asarray(X) * [1.0, 0.0]\n")
        )
        self.client.create_bucket(Bucket="begun")
        settle_in(self.begun, "begun")
        assert self.through(direct, lambda: turn(self.begun)) == (0, []), "the first turn failed"
        (self.begun / "train.py").write_text(good)
        write_rows(self.begun / "inbox" / "b.csv", 400, 1_200)
        write_rows(self.begun / "to_score" / "tomorrow.csv", 20_000, 30, labelled=False)

    def copy(self, name: str) -> Path:
        """A copy of project and bucket, straight inside the emulator."""
        shutil.copytree(self.begun, self.folder / name)
        self.client.create_bucket(Bucket=name)
        server = s3_backends["123456789012"]["aws"]
        for key, item in list(server.get_bucket("begun").keys.items()):
            server.put_object(name, key, item.value)
        settle_in(self.folder / name, name)
        return self.folder / name

    def through(self, url: str, work: Callable[[], Any]) -> tuple[int, Any]:
        """Do it in a child that knows the server by this URL."""
        os.environ["AWS_ENDPOINT_URL"] = url
        return in_child(work)

    def drop(self, name: str) -> None:
        """Forget a case."""
        shutil.rmtree(self.folder / name)
        server = s3_backends["123456789012"]["aws"]
        for key in list(server.get_bucket(name).keys):
            server.delete_object(name, key)

    def case(self, number: int, kind: str) -> dict[str, Any]:
        """Harm one request of a turn; then look, run another turn, and look again."""
        name = f"case-{number}-{kind}"
        project = self.copy(name)
        began = time.monotonic()
        self.proxy.reset(lambda asked: kind if asked == number else None)
        ended, problems = self.through(self.proxy.url, lambda: turn(project))
        harmed = [[*seen, harm] for seen, harm in self.proxy.harmed]
        _, readers = self.through(self.direct, lambda: describe(project))
        recovered, later = self.through(self.direct, lambda: turn(project))
        _, found = self.through(self.direct, lambda: describe(project))
        self.drop(name)
        told = {"at": number, "kind": kind, "harmed": harmed, "ended": ended == 0, "problems": problems}
        seconds = round(time.monotonic() - began, 2)
        return told | {
            "readers": readers,
            "recovered": recovered == 0 and not later,
            "later": later,
            "found": found,
            "seconds": seconds,
        }


def main(folder: Path, shard: int, shards: int, choice: str) -> None:
    """Run the cases of this shard."""
    os.environ |= VARIABLES
    with running() as direct, FaultyProxy(direct).running() as proxy:
        stage = Stage(folder, direct, proxy)
        undisturbed = stage.copy("undisturbed")
        _, before = stage.through(direct, lambda: describe(undisturbed))
        assert stage.through(proxy.url, lambda: turn(undisturbed)) == (0, []), "the undisturbed turn failed"
        seen = list(proxy.seen)
        _, expected = stage.through(direct, lambda: describe(undisturbed))
        cases = chosen(seen, choice)
        sorts = sorted({sort_of(each) for each in seen})
        told = {"requests": len(seen), "sorts": sorts, "cases": len(cases), "before": before, "expected": expected}
        print(json.dumps(told), flush=True)
        for number, kind in cases[shard::shards]:
            print(json.dumps(stage.case(number, kind)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
