"""Many records in a request: 1,000 in JSON and Arrow beside others, and Interlock in both from 1,000 to 100,000.

    python bench/serve/many.py [--rounds 5] [--seconds 3] [--rows 1000,10000,100000]

The same project, peers and order of measuring as ``one.py``; wrk with 4 connections. MLServer reads JSON only over
HTTP (each column a tensor, decoded as a pandas frame); it has no Arrow IPC. Processor time is by record; that
of the process that makes rows of the prediction log, now and then, is not in it.
"""

import sys
from typing import Any

from journal import Journal, about, middle, options, shown, table, versions
from pacing import closed
from process import Running, Server, running
from project import make_project
from servers import LABELS, PACKAGES, catalogue, has_log, interlock_request, interlock_server, python_of

CONNECTIONS = 4
PEERS = ("usual", "mlserver", "mlflow")
OURS = ("interlock", "interlock-bare")
"""With the prediction log, and without."""
SETTINGS = ("serve.max_rows=200000", "serve.max_body_mb=100")


def measure(up: Running, journal: Journal, seconds: float, request: bytes) -> dict[str, Any]:
    closed(journal.folder, request, up.server.port, CONNECTIONS, 1)
    before = up.cpu_s()
    got = closed(journal.folder, request, up.server.port, CONNECTIONS, seconds)
    got["cpu_us"], got["log_us"] = up.spent_us(before, got["requests"])
    return got


def ours(journal: Journal, which: str) -> Server:
    project = make_project(journal.folder / "project")
    more = ("serve.log.on=false",) if which.endswith("bare") and has_log() else ()
    return interlock_server(project, interlock_request(project, 1), which, *SETTINGS, *more)


def collect(journal: Journal, given: Any) -> None:
    project = make_project(journal.folder / "project")
    makers = catalogue(journal.folder, list(PEERS))
    sizes = [int(rows) for rows in given.rows.split(",")]
    for number in range(given.rounds):
        for which in OURS:
            keys = [f"{which}-{kind}/{rows}/{number}" for rows in sizes for kind in ("json", "arrow")]
            if all(key in journal.found for key in keys) or journal.is_over:
                continue
            with running(ours(journal, which), journal.folder / "logs") as up:
                for key in keys:
                    kind, rows = key.removeprefix(f"{which}-").split("/")[:2]
                    request = interlock_request(project, int(rows), kind)
                    journal.once(key, lambda request=request: measure(up, journal, given.seconds, request))
        for name in given.peers.split(","):
            key = f"{name}/1000/{number}"
            if not name or key in journal.found or journal.is_over:
                continue
            try:
                server = makers[name](1000)
                with running(server, journal.folder / "logs") as up:
                    journal.keep(key, measure(up, journal, given.seconds, server.request))
            except RuntimeError as error:
                print(f"{name}: {error}", file=sys.stderr)
        print(f"round {number} is done", file=sys.stderr, flush=True)


def row_of(journal: Journal, name: str, rows: int, base: dict[str, float | None]) -> list[str] | None:
    found = journal.under(f"{name}/{rows}/")
    if not found:
        return None
    rps, p99, cpu = (middle(each[key] for each in found) for key in ("rps", "p99_us", "cpu_us"))
    assert rps
    assert cpu
    assert p99
    times = [shown(each / rps, 1, " x") if each else "" for each in base.values()]
    errors = sum(each["errors"] for each in found)
    return [shown(rps), shown(rps * rows), shown(p99 / 1000, 1), shown(cpu / rows, 2), *times, f"{errors:,.0f}"]


def report(journal: Journal, given: Any) -> None:
    told = {"interlock": "Interlock", "interlock-bare": "Interlock, no prediction log"}
    kinds = {"json": "JSON", "arrow": "Arrow IPC"}
    labels = {f"{which}-{kind}": f"{told[which]}, {kinds[kind]}" for which in OURS for kind in kinds} | LABELS
    base = {
        kind: middle(found["rps"] for found in journal.under(f"interlock-{kind}/1000/")) for kind in ("json", "arrow")
    }
    heads = [
        "requests/s",
        "records/s",
        "p99, ms",
        "CPU by record, us",
        "Interlock JSON is",
        "Interlock Arrow is",
        "errors",
    ]
    names = [*(f"{which}-{kind}" for which in OURS for kind in kinds), *PEERS]
    rows = [(name, row_of(journal, name, 1000, base)) for name in names]
    print(f"\n1,000 records a request, {CONNECTIONS} connections")
    table(["server", *heads], [[labels[name], *row] for name, row in rows if row])
    for which in OURS:
        print(f"\n{told[which]}, JSON beside Arrow IPC")
        beside(journal, which, [int(size) for size in given.rows.split(",")])


def beside(journal: Journal, which: str, sizes: list[int]) -> None:
    """The table of one of ours, from few records to many."""
    lines = []
    for size in sizes:
        pair = {
            kind: middle(found["rps"] for found in journal.under(f"{which}-{kind}/{size}/"))
            for kind in ("json", "arrow")
        }
        if pair["json"] and pair["arrow"]:
            rates = [shown(rps * size / 1e6, 2) for rps in pair.values() if rps]
            bodies = [
                shown(len(interlock_request(journal.folder / "project", size, kind)) / 1e6, 2)
                for kind in ("json", "arrow")
            ]
            lines.append([f"{size:,}", *rates, shown(pair["arrow"] / pair["json"], 1, " x"), *bodies])
    table(["records", "JSON, M records/s", "Arrow, M records/s", "Arrow is", "JSON body, MB", "Arrow body, MB"], lines)


def main() -> None:
    wanted = options("many", 60)
    wanted.add_argument("--rounds", type=int, default=5)
    wanted.add_argument("--seconds", type=float, default=3.0)
    wanted.add_argument("--rows", default="1000,10000,100000")
    wanted.add_argument("--peers", default=",".join(PEERS))
    given = wanted.parse_args()
    journal = Journal(given, "many")
    collect(journal, given)
    report(journal, given)
    apart = {"mlserver": "mlserver", "usual": "services", "mlflow": "services"}
    which = sorted({apart[name] for name in given.peers.split(",") if name})
    about(*(f"{each}: {versions(python_of(each), PACKAGES[each])}" for each in which))


if __name__ == "__main__":
    main()
