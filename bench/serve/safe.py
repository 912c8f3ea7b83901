"""No detectably bad answer: a model that fails in every way, under load, and every answer looked at by the client.

    python bench/serve/safe.py [--requests 1000000] [--repeats 2000] [--minutes 60]

* *Answers*: requests from 32 connections to a model (regression, then classification) that is healthy for two thirds
  of them, gives NaN, infinity, another type or class, a row too few, None or an exception for nearly a third, and
  hangs, loops, exits, crashes or takes all memory for one in two thousand. The breaker only observes, so that the
  failing model is asked to the end. What comes back must be, to the bit, what the model that the header names
  answers rightly: the champion for a record that it is healthy for, else last good. Anything else with status 200 is
  a bad answer.
* *Constant*: a model that has begun to give one answer to everybody is noticed by the run; how long that takes.
* *Rescue*: 16 connections, all records healthy, then all failing (NaN): p99 of both.
* *Flip*: requests until the route flips when 100, 10 or 5 % fail, by the evidence alone with a vote for each request
  (``--repeats``), and a few times over HTTP, each request from an address of its own in 127.0.0.0/8.
* *Workers*: two workers, failures sent to one of them; when each flips, as seen by clients of both.

Answers are counted in chunks that are kept in ``--folder``: run it again to go on.
"""

import asyncio
import contextlib
import json
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from client import Answer, Connection
from faulty import CONSTANT, QUICK, SLOW, body, make_faulty, right_answers
from journal import Journal, about, options, shown, table
from process import ask, running
from project import bearer, http, interlock
from servers import interlock_server

from interlock.answer.guard import constancy_limit
from interlock.release.evidence import Detector, threshold
from interlock.serve.duty import Terms

TASKS = ("regression", "classification")
CHUNK = 5_000
CONNECTIONS = 32
FAILING, DEADLY = 0.3, 0.0005
STREAK = 100
"""So many answers of last good in a row are a flip, and no rescues: a call that is late holds those of all probes."""


def mode_of(task: str, source: random.Random) -> str:
    drawn = source.random()
    if drawn < DEADLY:
        return source.choice(SLOW)
    return source.choice(QUICK[task]) if drawn < DEADLY + FAILING else "healthy"


def verdict(mode: str, values: list[float], answer: Answer, right: dict[str, Any]) -> str:
    """What became of a request: ``bad …`` where what came back is not what it should be."""
    if answer.status != 200:
        return f"{answer.status} {json.loads(answer.body)['error']['code']}"
    tier = answer.headers[b"interlock-tier"].decode()
    found = json.loads(answer.body)["prediction"]
    if tier == "champion":
        return "champion" if mode == "healthy" and found == right["champion"](values) else f"bad champion ({mode})"
    if tier == "last-good":
        return "last-good" if found == right["last-good"](values) else f"bad last-good ({mode})"
    return tier


async def assault(port: int, task: str, key: dict[str, str], seed: int, right: dict[str, Any]) -> dict[str, Any]:
    """One chunk of requests; what became of them, by mode."""
    source = random.Random(seed)
    jobs = [([round(source.gauss(0, 1), 4) for _ in range(3)], mode_of(task, source)) for _ in range(CHUNK)]
    counts: Counter[str] = Counter()
    by_mode: Counter[str] = Counter()
    waiting = iter(jobs)

    async def client() -> None:
        connection = Connection(port)
        for values, mode in waiting:
            try:
                answer = await asyncio.wait_for(connection.ask(http("/predict", body(values, mode), key)), 60.0)
                told = verdict(mode, values, answer, right)
            except (ConnectionError, TimeoutError) as error:
                told = type(error).__name__
            counts[told] += 1
            by_mode[mode] += 1
            if told.startswith("bad"):
                print(f"BAD: {task} {told} {values} {answer}", file=sys.stderr, flush=True)
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return {"told": dict(counts), "modes": dict(by_mode), "seconds": time.perf_counter() - began}


def answers(journal: Journal, project: Path, task: str, requests: int) -> None:
    chunks = [number for number in range(requests // CHUNK) if f"answers/{task}/{number}" not in journal.found]
    if not chunks or journal.is_over:
        return
    right, key = right_answers(project), bearer(project)
    request = http("/predict", body([0.1, 0.2, 0.3], "healthy"), key)
    with running(
        interlock_server(project, request, f"safe-{task}", "breaker.observe=true"), journal.folder / "logs"
    ) as up:
        for number in chunks:
            if journal.is_over:
                break
            found = asyncio.run(assault(up.server.port, task, key, number, right))
            assert up.process.poll() is None, "the server ended"
            journal.keep(f"answers/{task}/{number}", {**found, "pss_mb": up.pss_mb()})
            print(f"{task} {number}: {found['told']} in {found['seconds']:.1f} s", file=sys.stderr, flush=True)


# ---- a model that has become constant ----------------------------------------------------------------------------


def constant(journal: Journal, project: Path, task: str) -> dict[str, Any]:
    """Ask with different records, one after the other, until last good answers."""
    key, right, source = bearer(project), right_answers(project), random.Random(9)
    request = http("/predict", body([0.1, 0.2, 0.3], "healthy"), key)
    wanted = ("breaker.observe=true",)

    async def main(port: int) -> dict[str, Any]:
        connection, before, wrong = Connection(port), 0, 0
        for number in range(3_000):
            values = [round(source.gauss(0, 1), 4) for _ in range(3)]
            answer = await connection.ask(http("/predict", body(values, "constant"), key))
            found, tier = json.loads(answer.body)["prediction"], answer.headers[b"interlock-tier"]
            if tier == b"champion":
                before = number + 1
                wrong += found != CONSTANT[task]
            else:
                wrong += found != right["last-good"](values)
        connection.close()
        return {"before": before, "wrong": wrong, "asked": 3_000}

    with running(interlock_server(project, request, f"constant-{task}", *wanted), journal.folder / "logs") as up:
        return asyncio.run(main(up.server.port)) | {"limit": limit_of(project)}


def limit_of(project: Path) -> int | None:
    """How many equal answers are too many, by the champion's answers on its holdout."""
    from interlock.app import open_parts
    from interlock.configuration import load_settings
    from interlock.model.bundle import open_bundle
    from interlock.release.standing import current

    with open_parts(load_settings(project)) as parts:
        release = current(parts.ledger)
        assert release is not None
        return constancy_limit(open_bundle(parts, release.champion).reference())


# ---- what a rescue costs -----------------------------------------------------------------------------------------


def rescue(journal: Journal, project: Path, seconds: float) -> dict[str, Any]:
    """Latency of healthy records and of records that are rescued, in turns of a second."""
    key = bearer(project)
    request = http("/predict", body([0.1, 0.2, 0.3], "healthy"), key)
    times: dict[str, list[float]] = {"healthy": [], "nan": []}
    odd: Counter[str] = Counter()

    async def turn(port: int, mode: str) -> None:
        until = time.perf_counter() + 1.0

        async def client() -> None:
            connection = Connection(port)
            while time.perf_counter() < until:
                answer = await connection.ask(http("/predict", body([0.1, 0.2, 0.3], mode), key))
                wanted = b"champion" if mode == "healthy" else b"last-good"
                odd[mode] += answer.headers[b"interlock-tier"] != wanted  # a healthy one was too slow for its deadline
                times[mode].append(answer.ended_s - answer.began_s)
            connection.close()

        await asyncio.gather(*(client() for _ in range(16)))

    with running(interlock_server(project, request, "rescue", "breaker.observe=true"), journal.folder / "logs") as up:
        asyncio.run(turn(up.server.port, "healthy"))
        times["healthy"].clear()
        odd.clear()
        for _ in range(max(1, round(seconds))):
            for mode in times:
                asyncio.run(turn(up.server.port, mode))
    points = {mode: statistics.quantiles(each, n=100) for mode, each in times.items()}
    found: dict[str, Any] = {f"{mode}_p{p}_ms": points[mode][p - 1] * 1000 for mode in times for p in (50, 99)}
    return {
        **found,
        **{f"{mode}_other_tier": odd[mode] for mode in times},
        "asked": {m: len(t) for m, t in times.items()},
    }


# ---- how soon it flips -------------------------------------------------------------------------------------------


def flips(share: float, repeats: int) -> list[int]:
    """Requests until the alarm, by the evidence alone, each of a client of its own."""
    terms, source, found = Terms(), random.Random(4), []
    alarm = 2.0 * threshold(terms.false_trips_per_year, terms.votes_per_s)
    for _ in range(repeats):
        detector, count = Detector(terms.tolerated, alarm), 0
        while True:
            count += 1
            if detector.vote(failed=source.random() < share):
                break
        found.append(count)
    return found


def breaker_of(port: int, key: dict[str, str]) -> str:
    """The state of the breaker, from the metrics."""
    head = "".join(f"{name}: {value}\r\n" for name, value in key.items())
    _, page = ask(port, f"GET /metrics HTTP/1.1\r\nHost: a\r\n{head}\r\n".encode())
    return next(
        line.split('"')[1]
        for line in page.decode().splitlines()
        if line.startswith("interlock_breaker_state") and line.endswith(" 1.0")
    )


def flips_over_http(journal: Journal, project: Path, share: float, repeats: int) -> list[int]:
    """Requests until the breaker is open, each from an address of its own, at most 80 a second."""
    key, source = bearer(project), random.Random(2)
    request, found = http("/predict", body([0.1, 0.2, 0.3], "healthy"), key), []
    with running(interlock_server(project, request, "flips"), journal.folder / "logs") as up:
        for number in range(repeats):
            count = 0
            while breaker_of(up.server.port, key) == "closed" and count < 1_000:
                count += 1
                mode = "nan" if source.random() < share else "healthy"
                place = number * 1_000 + count
                status, _ = ask(
                    up.server.port,
                    http("/predict", body([0.1, 0.2, 0.3], mode), {**key, "Connection": "close"}),
                    source=f"127.{1 + place // 62_500}.{place // 250 % 250}.{1 + place % 250}",
                )
                assert status == 200
                time.sleep(1 / 80)
            found.append(count)
            interlock(project, "reset", "--because", "the next repeat")
            until = time.monotonic() + 10.0
            while breaker_of(up.server.port, key) != "closed" and time.monotonic() < until:
                time.sleep(0.05)
    return found


def workers_flip(journal: Journal, project: Path) -> dict[str, Any]:
    """Two workers; the failures go to one. Milliseconds from the first worker's flip to the last one's, as seen."""
    key = bearer(project)
    request = http("/predict", body([0.1, 0.2, 0.3], "healthy"), key)

    async def main(port: int) -> dict[str, Any]:
        streaks: dict[bytes, list[float]] = {}
        probes = [Connection(port, f"127.0.1.{1 + number}") for number in range(48)]
        told = await asyncio.gather(*(probe.ask(request) for probe in probes))
        workers = [answer.headers[b"interlock-prediction-id"][:16] for answer in told]
        assert len(set(workers)) == 2, "all connections went to one worker"
        ends, all_flipped = asyncio.Event(), asyncio.Event()

        async def watch(probe: Connection, worker: bytes) -> None:
            while not ends.is_set():
                await asyncio.sleep(0.01)
                answer = await probe.ask(request)
                if answer.headers[b"interlock-tier"] == b"champion":
                    streaks.pop(worker, None)  # what was before was a rescue
                    continue
                streaks.setdefault(worker, []).append(answer.ended_s)
                if len(streaks) == 2 and min(map(len, streaks.values())) >= STREAK:
                    all_flipped.set()

        watching = [asyncio.create_task(watch(*each)) for each in zip(probes, workers, strict=True)]
        bad = http("/predict", body([0.1, 0.2, 0.3], "nan"), key)
        for number in range(500):
            attacker = Connection(port, f"127.0.2.{1 + number}" if number < 250 else f"127.0.3.{number - 249}")
            answer = await attacker.ask(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")  # an id, and no vote
            if answer.headers[b"interlock-prediction-id"][:16] == workers[0]:
                await attacker.ask(bad)
            attacker.close()
            if len(streaks.get(workers[0], ())) >= STREAK:
                break
            await asyncio.sleep(0.02)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(all_flipped.wait(), 5.0)
        ends.set()
        await asyncio.gather(*watching)
        for probe in probes:
            probe.close()
        flips = [streak[0] for streak in streaks.values() if len(streak) >= STREAK]
        return {"workers": len(flips), "ms": (max(flips) - min(flips)) * 1000 if len(flips) == 2 else None}

    with running(interlock_server(project, request, "workers", "serve.workers=2"), journal.folder / "logs") as up:
        up.wait_for("2 workers, answers at")
        found = asyncio.run(main(up.server.port))
    interlock(project, "reset", "--because", "the next repeat")
    return found


# ---- the report --------------------------------------------------------------------------------------------------


def report(journal: Journal) -> None:
    rows = []
    for task in TASKS:
        chunks = journal.under(f"answers/{task}/")
        told: Counter[str] = Counter()
        modes: Counter[str] = Counter()
        for chunk in chunks:
            told.update(chunk["told"])
            modes.update(chunk["modes"])
        bad = sum(count for what, count in told.items() if what.startswith("bad"))
        other = {
            what: count
            for what, count in told.items()
            if what not in ("champion", "last-good") and not what.startswith("bad")
        }
        seconds, memory = sum(chunk["seconds"] for chunk in chunks), [chunk["pss_mb"] for chunk in chunks]
        if chunks:
            ends = f"{memory[0]:.0f} / {memory[-1]:.0f}"
            asked = sum(told.values())
            row = [f"{asked:,}", f"{told['champion']:,}", f"{told['last-good']:,}", json.dumps(other), f"{bad:,}"]
            rows.append([task, *row, f"{asked / seconds:,.0f}", ends])
            print(f"{task}: " + ", ".join(f"{mode} {count:,}" for mode, count in sorted(modes.items())))
    table(["task", "requests", "champion", "last good", "other", "bad answers", "/s", "memory first / last, MB"], rows)
    for task in TASKS:
        for found in journal.under(f"constant/{task}"):
            seen = f"noticed after {found['before']} answers (limit {found['limit']})"
            print(f"constant, {task}: {seen}; wrong besides: {found['wrong']}")
    for found in journal.under("rescue"):
        table(
            ["rescue", "p50, ms", "p99, ms"],
            [
                [mode, shown(found[f"{mode}_p50_ms"], 2), shown(found[f"{mode}_p99_ms"], 2)]
                for mode in ("healthy", "nan")
            ],
        )
    rows = []
    for share in (1.0, 0.1, 0.05):
        for how in ("evidence", "HTTP"):
            for found in journal.under(f"flip/{how}/{share}"):
                ordered = sorted(found)
                p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
                rows.append(
                    [
                        f"{share:.0%}, {how}",
                        f"{len(found):,}",
                        str(statistics.median_low(found)),
                        str(p99),
                        str(ordered[-1]),
                    ]
                )
    table(["failing", "repeats", "requests until the flip: median", "p99", "most"], rows)
    times = [found["ms"] for found in journal.under("workers/")]
    known = [each for each in times if each is not None]
    if known:
        times_ms = f"median {statistics.median(known):.0f} ms, most {max(known):.0f} ms after the first"
        print(f"\nworkers: {len(known)} of {len(times)} times all flipped; {times_ms}")


def main() -> None:
    wanted = options("safe", 60)
    wanted.add_argument("--requests", type=int, default=1_000_000)
    wanted.add_argument("--repeats", type=int, default=2_000, help="of the evidence alone")
    wanted.add_argument("--http", type=int, default=5, help="repeats over HTTP")
    wanted.add_argument("--seconds", type=float, default=10.0, help="of the rescue")
    wanted.add_argument("--only", default="flip,rescue,workers,constant,answers")
    given = wanted.parse_args()
    journal, parts = Journal(given, "safe"), given.only.split(",")
    project = {task: make_faulty(journal.folder / f"faulty-{task}", task) for task in TASKS}
    if "flip" in parts:
        for share in (1.0, 0.1, 0.05):
            journal.once(f"flip/evidence/{share}", lambda share=share: flips(share, given.repeats))
            if given.http:
                journal.once(
                    f"flip/HTTP/{share}",
                    lambda share=share: flips_over_http(journal, project["regression"], share, given.http),
                )
    if "rescue" in parts:
        journal.once("rescue", lambda: rescue(journal, project["regression"], given.seconds))
    if "workers" in parts:
        for number in range(given.http):
            journal.once(f"workers/{number}", lambda: workers_flip(journal, project["regression"]))
    for task in TASKS:
        if "constant" in parts:
            journal.once(f"constant/{task}", lambda task=task: constant(journal, project[task], task))
        if "answers" in parts:
            answers(journal, project[task], task, given.requests // len(TASKS))
    report(journal)
    about()


if __name__ == "__main__":
    main()
