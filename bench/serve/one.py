"""One record at a time: Interlock beside the servers that others use, the same pipeline and the same record.

    python bench/serve/one.py [--rounds 5] [--seconds 3] [--servers interlock,usual,…] [--rates 100,500,2000,10000]

One server is up at a time, with one worker, on loopback; rounds go around all servers, so that no server has the quiet
minutes alone. In each round it is started (time to its first 200), asked by 4 connections to get warm, by wrk with one
thread at 1, 16 and 64 connections (closed loop), and, in the first ``--open`` rounds, at fixed rates (open loop:
latency from when a request was due; a rate that it cannot bear is left out from there on). Processor time is that of
the server and all its children, by request. Interlock checks the key, reads and validates the record, guards the
answer, counts metrics and evidence, and writes the prediction log where it has one. Found figures are kept in
``--folder``: run it again to go on; ``--fresh`` to forget. Needs ``make servers`` for the peers, wrk, gcc, and nginx.
"""

import sys
from pathlib import Path
from typing import Any

from journal import Journal, about, middle, options, shown, table, versions
from pacing import closed, opened
from process import Running, running
from servers import LABELS, PACKAGES, catalogue, nginx_version, python_of

CONNECTIONS = (1, 16, 64)
NEEDS = {
    "usual": "services",
    "litserve": "services",
    "bentoml": "services",
    "mlflow": "services",
    "mlserver": "mlserver",
}


def measure(up: Running, folder: Path, seconds: float, rates: list[float]) -> dict[str, Any]:
    """All figures of one round of one server."""
    server = up.server
    closed(folder, server.request, server.port, 4, min(1.0, seconds))
    found: dict[str, Any] = {"cold_s": up.cold_s, "reply": up.reply.rpartition(b"\r\n\r\n")[2][:200].decode()}
    for connections in CONNECTIONS:
        before = up.cpu_s()
        got = closed(folder, server.request, server.port, connections, seconds)
        got["cpu_us"], got["log_us"] = up.spent_us(before, got["requests"])
        found[f"c{connections}"] = got
    found["pss_mb"] = up.pss_mb()
    for rate in rates:
        got = opened(folder, server.request, server.port, rate, seconds)
        found[f"open{rate:g}"] = got
        if not bears(got):
            break
    return found


def bears(got: dict[str, Any]) -> bool:
    """Whether a server keeps up with a rate: nearly all requests are answered within a second of being due."""
    return bool(got["in_time"] >= 0.95 * got["due"])


def collect(journal: Journal, given: Any, names: list[str]) -> None:
    makers = catalogue(journal.folder, names)
    rates = [float(rate) for rate in given.rates.split(",") if rate]
    for number in range(given.rounds):
        for name in names:
            key = f"{name}/{number}"
            if key in journal.found or journal.is_over:
                continue
            try:
                with running(makers[name](1), journal.folder / "logs") as up:
                    found = measure(up, journal.folder, given.seconds, rates if number < given.open else [])
            except RuntimeError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            journal.keep(key, found)
            print(f"{key}: {found['c64']['rps']:,.0f}/s at 64 connections", file=sys.stderr, flush=True)


def value(journal: Journal, name: str, part: str, key: str) -> float | None:
    return middle(found[part][key] for found in journal.under(f"{name}/"))


def report(journal: Journal, names: list[str], rates: list[str]) -> None:
    rows = []
    for name in names:
        if not journal.under(f"{name}/"):
            continue
        row = [LABELS[name]]
        for connections in CONNECTIONS:
            rps, ours = (
                value(journal, name, f"c{connections}", "rps"),
                value(journal, "interlock", f"c{connections}", "rps"),
            )
            times = "" if not rps or not ours else shown(ours / rps, 1 if ours < 20 * rps else 0, " x")
            row += [shown(rps), times]
        errors = sum(
            found[f"c{connections}"]["errors"] for found in journal.under(f"{name}/") for connections in CONNECTIONS
        )
        rows.append([*row, f"{errors:,.0f}"])
    heads = [head for connections in CONNECTIONS for head in (f"{connections} connections, /s", "Interlock is")]
    print("\nClosed loop (wrk, 1 thread), medians")
    table(["server", *heads, "errors"], rows)
    rows = []
    for name in names:
        every = journal.under(f"{name}/")
        if not every:
            continue
        latencies = [value(journal, name, f"c{c}", f"p{p}_us") for c in CONNECTIONS for p in (50, 99)]
        cpu, log = (value(journal, name, "c64", key) for key in ("cpu_us", "log_us"))
        least = value(journal, "interlock", "c64", "cpu_us")
        times = shown(cpu / least, 1 if cpu < 20 * least else 0, " x") if cpu and least else ""
        memory, cold = (middle(found[key] for found in every) for key in ("pss_mb", "cold_s"))
        rows.append(
            [
                LABELS[name],
                *(shown(each) for each in latencies),
                shown(cpu, 1),
                times,
                shown(log or None, 1),
                shown(memory),
                shown(cold, 2),
            ]
        )
    heads = [f"p{p} at {c}, us" for c in CONNECTIONS for p in (50, 99)]
    table(
        [
            "server",
            *heads,
            "CPU at 64, us",
            "Interlock is",
            "… of the log's process",
            "memory (PSS), MB",
            "first answer, s",
        ],
        rows,
    )
    rows = []
    for name in names:
        row = [LABELS[name]]
        for rate in rates:
            got = [
                found[f"open{float(rate):g}"] for found in journal.under(f"{name}/") if f"open{float(rate):g}" in found
            ]
            borne = [each for each in got if bears(each)]
            p50, p99 = (middle(each["good"][p] for each in borne) for p in ("p50", "p99"))
            row.append(f"{shown(p50)} / {shown(p99)}" if borne else "cannot" if got else "")
        if any(row[1:]):
            rows.append(row)
    print("\nOpen loop at fixed rates: p50 / p99 in us, from when a request was due")
    table(["server", *(f"{float(rate):,.0f}/s" for rate in rates)], rows)


def main() -> None:
    wanted = options("one", 120)
    wanted.add_argument("--rounds", type=int, default=5)
    wanted.add_argument("--open", type=int, default=1, help="rounds with open loop")
    wanted.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    wanted.add_argument("--servers", default=",".join(LABELS))
    wanted.add_argument("--rates", default="100,500,2000,10000,40000")
    given = wanted.parse_args()
    names = given.servers.split(",")
    journal = Journal(given, "one")
    collect(journal, given, names)
    report(journal, names, [rate for rate in given.rates.split(",") if rate])
    print(
        "\nAnswers: "
        + ", ".join(
            f"{name} {journal.under(f'{name}/')[0]['reply'][:60]!r}" for name in names if journal.under(f"{name}/")
        )
    )
    apart = sorted({NEEDS[name] for name in names if name in NEEDS})
    further = [f"{which}: {versions(python_of(which), PACKAGES[which])}" for which in apart]
    about(*further, *([f"nginx {nginx_version()}"] if "nginx" in names else []))


if __name__ == "__main__":
    main()
