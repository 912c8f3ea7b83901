"""Releases swapped under steady load: does any request fail, or get an answer of another model than its header names?

    python bench/serve/swaps.py [--swaps 100] [--every 0.5] [--rate 500] [--workers 1] [--native]

Two models that give every record other probabilities are released in turns by another process, as a person would by
`interlock promote`; each is loaded, verified and warmed anew, for none is last good of the other. Meanwhile 4
connections ask as fast as they are answered and compare every reply, byte for byte, with what the model of its header
answers, and the release of its header with the model; an open-loop client at ``--rate`` measures latency from when a
request was due. The same load before and after, without swaps, is the steady state. From when a release is recorded
(its promotion has returned) until a worker first answers by it is told too, for each worker that was asked.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from client import Connection
from journal import Journal, about, middle, options, shown, table
from pacing import opened
from process import Running, ask, running
from project import OWN, bearer, encoded, http, make_project, records
from servers import interlock_server

ROWS = 16
CONNECTIONS = 4


def swap(project: Path, count: int, every_s: float) -> None:
    """The other process: release the two models in turns; prints generation, digest and time of each."""
    from interlock.app import open_parts
    from interlock.cli.operate import operator_turn
    from interlock.configuration import load_settings
    from interlock.release.registry import current, promote_person, releases

    with open_parts(load_settings(project)) as parts:
        models = sorted({release.champion for release in releases(parts.ledger)})
        before = {str(each.generation): each.champion for each in releases(parts.ledger)}
        print(json.dumps(before), time.perf_counter(), flush=True)
        for _ in range(count):
            sys.stdin.readline()
            in_force = current(parts.ledger)
            assert in_force is not None
            (other,) = [model for model in models if model != in_force.champion]
            with operator_turn(parts) as turn:
                made = promote_person(parts, turn, other, "a swap of the benchmark")
            print(json.dumps({str(made.generation): made.champion}), time.perf_counter(), flush=True)
            time.sleep(every_s)


class Swapper:
    """The other process, told when to swap. ``made``: generation to digest, of all releases so far."""

    def __init__(self, project: Path, count: int, every_s: float) -> None:
        words = [sys.executable, __file__, "--child", str(project), "--swaps", str(count), "--every", str(every_s)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.made: dict[str, str] = {}
        self.made_s: dict[str, float] = {}
        self.swaps = 0
        self.learn()

    def learn(self) -> None:
        assert self._process.stdout is not None
        told, _, at_s = self._process.stdout.readline().rpartition("} ")
        made: dict[str, str] = json.loads(told + "}")
        self.made |= made
        self.made_s |= dict.fromkeys(made, float(at_s))

    def swap(self) -> None:
        """One swap, waited for."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.learn()
        self.swaps += 1

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


async def learnt(port: int, requests: list[bytes], model: str) -> list[bytes]:
    """What a model answers, once it does."""
    connection, until = Connection(port), time.monotonic() + 30.0
    while time.monotonic() < until:
        answers = [await connection.ask(request) for request in requests]
        if all(model.startswith(answer.headers[b"interlock-model"].decode()) for answer in answers):
            connection.close()
            return [answer.body for answer in answers]
        await asyncio.sleep(0.05)
    raise RuntimeError(f"{model} never answered")


def watched(
    port: int,
    requests: list[bytes],
    right: dict[str, list[bytes]],
    made: dict[str, str],
    stop: threading.Event,
    seen_s: dict[tuple[str, str], float],
) -> "Counter[str]":
    """Ask until told to stop; what became of the requests. ``seen_s``: first answer of a release, by worker."""
    counts: Counter[str] = Counter()

    async def client(offset: int) -> None:
        connection, number = Connection(port), offset
        while not stop.is_set():
            place = number % len(requests)
            number += 1
            try:
                answer = await asyncio.wait_for(connection.ask(requests[place]), 30.0)
            except (ConnectionError, TimeoutError) as error:
                counts[f"failed: {type(error).__name__}"] += 1
                continue
            if answer.status != 200:
                counts[f"failed: {answer.status}"] += 1
                continue
            model, release = (answer.headers[name].decode() for name in (b"interlock-model", b"interlock-release"))
            seen_s.setdefault((release, answer.headers[b"interlock-prediction-id"][:16].decode()), answer.ended_s)
            digest = next((each for each in right if each.startswith(model)), "")
            await asyncio.sleep(0)
            fits = bool(digest) and right[digest][place] == answer.body and made.get(release, digest) == digest
            counts["right" if fits else "mixed"] += 1
            counts["champion" if answer.headers[b"interlock-tier"] == b"champion" else "other tier"] += 1

    async def main() -> None:
        await asyncio.gather(*(client(offset) for offset in range(CONNECTIONS)))

    asyncio.run(main())
    return counts


def measured(up: Running, journal: Journal, given: Any, seconds: float, request: bytes) -> dict[str, Any]:
    return opened(journal.folder, request, up.server.port, given.rate, seconds, connections=32)


def run(journal: Journal, given: Any, project: Path, requests: list[bytes]) -> dict[str, Any]:
    server = interlock_server(
        project, requests[0], "swaps", f"serve.workers={given.workers}", "serve.probabilities=true"
    )
    seconds = given.swaps * (given.every + 0.1)
    swapper = Swapper(project, given.swaps + 2, given.every)
    try:
        with running(server, journal.folder / "logs") as up:
            right: dict[str, list[bytes]] = {}
            for _ in range(2):
                swapper.swap()
                model = swapper.made[max(swapper.made, key=int)]
                right[model] = asyncio.run(learnt(up.server.port, requests, model))
                time.sleep(given.every)
            one, other = right.values()
            assert all(mine != theirs for mine, theirs in zip(one, other, strict=True)), "the models answer alike"
            stop, found = threading.Event(), []
            seen_s: dict[tuple[str, str], float] = {}
            looking = threading.Thread(
                target=lambda: found.append(watched(up.server.port, requests, right, swapper.made, stop, seen_s)),
                daemon=True,
            )
            looking.start()
            steady = [measured(up, journal, given, min(seconds, 10.0), requests[0])]
            latencies: list[dict[str, Any]] = []
            under_load = threading.Thread(
                target=lambda: latencies.append(measured(up, journal, given, seconds, requests[0])), daemon=True
            )
            under_load.start()
            before = set(swapper.made)
            for _ in range(given.swaps):
                swapper.swap()
            under_load.join()
            steady.append(measured(up, journal, given, min(seconds, 10.0), requests[0]))
            stop.set()
            looking.join(timeout=60.0)
            page = metrics(up.server.port, bearer(project))
        live_s = [at_s - swapper.made_s[made] for (made, _), at_s in seen_s.items() if made not in before]
        told = {"told": dict(found[0]), "workers": len({worker for _, worker in seen_s}), "live_s": live_s}
        return {"swaps": given.swaps, "steady": steady, "swapping": latencies[0], "trips": page, **told}
    finally:
        swapper.close()


def metrics(port: int, key: dict[str, str]) -> float:
    head = "".join(f"{name}: {value}\r\n" for name, value in key.items())
    _, page = ask(port, f"GET /metrics HTTP/1.1\r\nHost: a\r\n{head}\r\n".encode())
    lines = [line for line in page.decode().splitlines() if line.startswith("interlock_breaker_trips_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def main() -> None:
    wanted = options("swaps", 20)
    wanted.add_argument("--swaps", type=int, default=100)
    wanted.add_argument("--every", type=float, default=0.5, help="seconds from one swap to the next")
    wanted.add_argument("--rate", type=float, default=500.0)
    wanted.add_argument("--workers", type=int, default=1)
    wanted.add_argument("--native", action="store_true", help="a model that is not compiled")
    wanted.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = wanted.parse_args()
    if given.child:
        swap(given.child, given.swaps, given.every)
        return
    journal = Journal(given, "swaps")
    if given.native:
        project = make_project(
            journal.folder / "project-own", model='predict = "predict.py"', files={"predict.py": OWN}
        )
    else:
        project = make_project(journal.folder / "project")
    key = bearer(project)
    requests = [http("/predict", encoded(row), key) for row in records(ROWS, seed=21)]
    name = f"{'native' if given.native else 'compiled'}/{given.workers}/{given.swaps}/{given.rate:g}"
    found = journal.once(name, lambda: run(journal, given, project, requests))
    if found:
        told = found["told"]
        failed = sum(count for what, count in told.items() if what.startswith("failed")) + found["swapping"]["lost"]
        odd = sum(count for status, count in found["swapping"]["status"].items() if status != "200")
        steady = {p: middle(each["good"][p] for each in found["steady"]) for p in ("p50", "p99", "max")}
        rows = [["steady", *(shown(each and each / 1000, 2) for each in steady.values())]]
        rows.append(["swapping", *(shown(found["swapping"]["good"][p] / 1000, 2) for p in steady)])
        compared, timed = sum(told.values()) // 2, found["swapping"]["answered"]
        print(f"{name}: {found['swaps']} swaps, {compared:,} answers compared, {timed:,} timed")
        print(f"failed {failed + odd}, mixed {told.get('mixed', 0)}, by another tier {told.get('other tier', 0)}")
        print(f"trips {found['trips']:g}")
        if found.get("live_s"):
            middle_ms, most_ms = middle(found["live_s"]) * 1000, max(found["live_s"]) * 1000
            print(f"live in each of {found['workers']} workers after {middle_ms:.0f} ms, {most_ms:.0f} at most")
        table([f"{given.rate:g}/s, open loop", "p50, ms", "p99, ms", "most, ms"], rows)
        print(f"p99 while swapping is {found['swapping']['good']['p99'] / (steady['p99'] or 1):.2f} x the steady one")
    about()


if __name__ == "__main__":
    main()
