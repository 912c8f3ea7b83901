"""Harm one request of a turn whose lake and output are on S3, for every request and kind of harm; describe the end.

The turn is a second one: it takes in a file, trains, judges against a weaker champion, promotes, and publishes.
An undisturbed one is counted first. A case is a copy of the project and of its bucket, the turn with the N-th request
harmed, a look at what readers see then, and another turn without harm.

    python fault_driver.py FOLDER SHARD SHARDS CHOICE      prints one JSON object a line

CHOICE is ``all`` for every request x kind, ``each`` for every request once with the kinds in turn, or ``some`` for one
request of each sort, likewise.
Turns run in forks of a process of their own, which has everything imported and no thread; the server and the proxy are
threads of this one.
"""

import ctypes
import io
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import boto3
import deltalake  # noqa: F401  imported once, before the forks
import numpy  # noqa: F401, ICN001
import obstore  # noqa: F401
import polars as pl
from moto.s3.models import s3_backends

from e2e.small_project import TOML, make_project, write_rows
from infra.faulty_proxy import KINDS, FaultyProxy, Seen
from infra.s3_server import VARIABLES, running
from infra.syscalls import under
from infra.warm_hosts import WarmHosts
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


def recover(project: Path) -> dict[str, Any]:
    """What readers find after a turn, and another turn, and what they find then."""
    return {"readers": describe(project), "later": turn(project), "found": describe(project)}


WORK: dict[str, Callable[[Path], Any]] = {"turn": turn, "describe": describe, "recover": recover}


class Turns:
    """A process without threads that does such work in forks of itself, while this one serves."""

    def __enter__(self) -> Self:
        near, far = socket.socketpair()
        self._process = os.fork()
        if self._process == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # with this process
            near.close()
            self._serve(far)
        far.close()
        self._door = near.makefile("rw")
        near.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._door.close()
        os.waitpid(self._process, 0)

    def ask(self, what: str, project: Path, url: str) -> Any:
        """Do it where the server is known by this URL; None when it died or hung."""
        print(json.dumps([what, str(project), url]), file=self._door, flush=True)
        return json.loads(self._door.readline())

    def _serve(self, door: socket.socket) -> None:
        try:
            with door.makefile("rw") as asked:
                for line in asked:
                    what, project, url = json.loads(line)
                    os.environ["AWS_ENDPOINT_URL"] = url
                    ended = under(None, lambda what=what, project=project: WORK[what](Path(project)))
                    print(json.dumps(ended.result), file=asked, flush=True)
        finally:
            os._exit(0)


class Stage:
    """A server, a proxy in front of it, and a project with its bucket after its first turn."""

    def __init__(self, folder: Path, direct: str, proxy: FaultyProxy, turns: Turns) -> None:
        self.folder, self.direct, self.proxy, self.turns = folder, direct, proxy, turns
        self.client = boto3.client("s3", endpoint_url=direct, region_name="us-east-1")
        self.begun = make_project(folder / "begun")
        good = (self.begun / "train.py").read_text()
        (self.begun / "train.py").write_text(
            good.replace("np.asarray(X, dtype=float)\n", "np.asarray(X) * [1.0, 0.0]\n")
        )
        self.client.create_bucket(Bucket="begun")
        settle_in(self.begun, "begun")
        assert turns.ask("turn", self.begun, direct) == [], "the first turn failed"
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

    def drop(self, name: str) -> None:
        """Forget a case."""
        shutil.rmtree(self.folder / name)
        server = s3_backends["123456789012"]["aws"]
        for key in list(server.get_bucket(name).keys):
            server.delete_object(name, key)
        server.delete_bucket(name)

    def case(self, number: int, kind: str) -> dict[str, Any]:
        """Harm one request of a turn; then look, run another turn, and look again."""
        name = f"case-{number}-{kind}"
        project = self.copy(name)
        began = time.monotonic()
        self.proxy.reset(lambda asked: kind if asked == number else None)
        problems = self.turns.ask("turn", project, self.proxy.url)
        harmed = [[*seen, harm] for seen, harm in self.proxy.harmed]
        asked = time.monotonic()
        after = self.turns.ask("recover", project, self.direct) or {"readers": None, "later": None, "found": None}
        self.drop(name)
        told = {"at": number, "kind": kind, "harmed": harmed, "ended": problems is not None, "problems": problems}
        times = [round(asked - began, 2), round(time.monotonic() - asked, 2)]
        return told | after | {"recovered": after["later"] == [], "seconds": times}


def main(folder: Path, shard: int, shards: int, choice: str) -> None:
    """Run the cases of this shard."""
    os.environ |= VARIABLES
    with WarmHosts(), Turns() as turns, running() as direct, FaultyProxy(direct).running() as proxy:
        stage = Stage(folder, direct, proxy, turns)
        undisturbed = stage.copy("undisturbed")
        before = turns.ask("describe", undisturbed, direct)
        assert turns.ask("turn", undisturbed, proxy.url) == [], "the undisturbed turn failed"
        seen = list(proxy.seen)
        expected = turns.ask("describe", undisturbed, direct)
        cases = chosen(seen, choice)
        sorts = sorted({sort_of(each) for each in seen})
        told = {"requests": len(seen), "sorts": sorts, "cases": len(cases), "before": before, "expected": expected}
        print(json.dumps(told), flush=True)
        for number, kind in cases[shard::shards]:
            print(json.dumps(stage.case(number, kind)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
