"""What the prediction log costs: microseconds a record where answers are given, and the latency of requests.

The first table times ``Journal.append`` on a record with 12 features (8 numbers, 2 whole numbers, 2 texts), with its
writer at work. The second asks a server of a logistic regression over 12 columns, over loopback, by a client in a
process of its own, with the log off, on, and durable, in turn, several times over; the best of each, for on a shared
machine the neighbours are most of what is measured. Processor time is that of the server, without the clerk.

    python bench/log.py [--records 300000] [--seconds 6] [--rounds 3] [--connections 16]
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from e2e.followed_project import turn
from e2e.small_project import TOML
from infra.server import serving
from interlock.answer.predict import Answered, Live, Seat
from interlock.records import Column, Signature
from interlock.serve.door import Served
from interlock.serve.journal import Journal
from interlock.serving import Log
from interlock.store.clock import SystemClock

COLUMNS = [f"c{place}" for place in range(12)]
TRAIN = """from sklearn.linear_model import LogisticRegression


def train(X, y):
    return LogisticRegression().fit(X, y)
"""
MODES = {
    "off": ("--set", "serve.log.on=false"),
    "on": (),
    "durable": ("--set", "serve.log.durable=true"),
}


def append_us(records: int, log: Log) -> tuple[float, float, int]:
    """Microseconds of processor time a record, the median and p99 of blocks of 1,000, and how many were lost."""
    columns = tuple(Column(name=name, type="float", nullable=False) for name in COLUMNS)
    live = Live(1, (Seat("champion", "0" * 64, Signature(inputs=columns), lambda _: None),), columns)
    row = (0.1, 2.5, 3.25, -4.0, 5.5, 0.0, 1e-3, 12.75, 5, 17, "hotel", "category-3")
    names = [b"%026x" % number for number in range(records)]
    took: list[float] = []

    def served(name: bytes) -> Served:
        answered = Answered([("yes", (0.25, 0.75))], ["champion"])
        return Served("/predict", 200, None, (row,), "champion", 0.001, answered, name, live)

    async def main(folder: Path) -> int:
        journal = Journal(folder, log, SystemClock(), b"salt")
        journal.open(asyncio.get_running_loop())
        for first in range(0, records, 1_000):
            block = names[first : first + 1_000]
            began = time.thread_time()
            for name in block:
                journal.append(served(name))
            between = time.thread_time()
            for name in block:
                served(name)  # what there is without a log
            took.append((2 * between - began - time.thread_time()) * 1e3)
            await asyncio.sleep(0)
        journal.close()
        return journal.lost

    with tempfile.TemporaryDirectory() as folder:
        lost = asyncio.run(main(Path(folder) / "spool"))
    return statistics.median(took), sorted(took)[int(len(took) * 0.99)], lost


def make_project(folder: Path) -> Path:
    """A project whose champion answers inside the server."""
    draw = random.Random(1)
    (folder / "inbox").mkdir(parents=True)
    (folder / "interlock.toml").write_text(TOML[: TOML.index("[batch]")])
    (folder / "train.py").write_text(TRAIN)
    with (folder / "inbox" / "a.csv").open("w") as file:
        file.write(",".join(["part", *COLUMNS, "ok"]) + "\n")
        for number in range(2_000):
            values = [draw.gauss(0, 1) for _ in COLUMNS]
            label = "yes" if sum(values[:4]) + draw.gauss(0, 0.5) > 0 else "no"
            file.write(",".join([str(number), *(f"{value:.4f}" for value in values), label]) + "\n")
    assert turn(folder).outcome == "released"
    return folder


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, took: list[float]) -> None:
        self._request, self._took, self._began = request, took, 0.0
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._got.endswith(b"}"):  # the ordinary lane writes head and body one after the other
            return
        assert self._got.startswith(b"HTTP/1.1 200"), self._got
        self._got = b""
        self._took.append(time.perf_counter() - self._began)
        self._ask()


async def load(port: int, connections: int, seconds: float) -> None:
    """Closed loop; writes requests a second and latencies as JSON."""
    body = json.dumps(dict.fromkeys(COLUMNS, 0.5)).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    took: list[float] = []
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: _Client(head.encode() + body, took), "127.0.0.1", port)
    await asyncio.sleep(1.0)
    before = len(took)
    took.clear()
    await asyncio.sleep(seconds)
    took.sort()
    told = [1e3 * took[int(len(took) * share)] for share in (0.5, 0.99, 0.999)]
    sys.stdout.write(json.dumps([before + len(took), len(took) / seconds, *told]))
    sys.stdout.flush()
    os._exit(0)


def cpu_s(pid: int) -> float:
    """Processor time of a process, all its threads, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(project: Path, options: tuple[str, ...], connections: int, seconds: float) -> list[float]:
    """Processor time of the server in microseconds a request, requests a second, p50, p99 and p99.9 in milliseconds."""
    with serving(project, "--insecure", before=options) as served:
        port = served.url.rsplit(":", 1)[1]
        command = [sys.executable, __file__, "--load", port, str(connections), str(seconds)]
        began = cpu_s(served.process.pid)
        found: list[float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        found[0] = (cpu_s(served.process.pid) - began) / found[0] * 1e6
        lost = [line for line in served.said if "lost" in line]
    assert not lost, lost
    return found


def main() -> None:
    if sys.argv[1:2] == ["--load"]:
        port, connections, seconds = sys.argv[2:]
        asyncio.run(load(int(port), int(connections), float(seconds)))
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    asked = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores\n")
    print(
        "| Journal.append, 12 features | CPU us a record | p99 of blocks of 1,000 | lost |\n| --- | --- | --- | --- |"
    )
    logs = {
        "all features": Log(memory_mb=1_000.0),
        "no features": Log(keep="none", memory_mb=1_000.0),
        "6 of 12 features": Log(keep=tuple(COLUMNS[:6]), memory_mb=1_000.0),
        "2 of 12 hashed": Log(redact={COLUMNS[10]: "hash", COLUMNS[11]: "hash"}, memory_mb=1_000.0),
        "a sample of 0.1": Log(sample=0.1, memory_mb=1_000.0),
    }
    for name, log in logs.items() if asked.records else ():
        middle, worst, lost = append_us(asked.records, log)
        print(f"| {name} | {middle:.2f} | {worst:.1f} | {lost} |")
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder) / "project")
        runs: dict[str, list[list[float]]] = {name: [] for name in MODES}
        for _ in range(asked.rounds):
            for name, options in MODES.items():
                runs[name].append(measured(project, options, asked.connections, asked.seconds))
    told = f"log, {asked.connections} connections, best of {asked.rounds}"
    print(f"\n| {told} | CPU us | requests/s | p50 ms | p99 ms | p99.9 ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, found in runs.items():
        cpu, rate, *waits = zip(*found, strict=True)
        cells = " | ".join(f"{min(each):.2f}" for each in waits)
        print(f"| {name} | {min(cpu):.1f} | {max(rate):,.0f} | {cells} |")


if __name__ == "__main__":
    main()
