"""A model that cannot be compiled: its own predict.py answers in a runner process; beside the usual service.

    python bench/serve/native.py [--rounds 5] [--seconds 3]

The project's predict.py is called for every answer, so nothing is compiled. One worker with one runner, and with two;
wrk at 1, 16 and 64 connections. The usual service calls the same pipeline in its thread pool.
"""

import sys
from typing import Any

from journal import Journal, about, middle, options, shown, table, versions
from pacing import closed
from process import Running, running
from project import OWN, make_project
from servers import PACKAGES, catalogue, interlock_request, interlock_server, python_of

CONNECTIONS = (1, 16, 64)
LABELS = {
    "interlock": "Interlock, 1 runner",
    "interlock-2": "Interlock, 2 runners",
    "usual": "FastAPI + pandas + pickle",
}


def measure(up: Running, journal: Journal, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    closed(journal.folder, up.server.request, up.server.port, 4, 1)
    for connections in CONNECTIONS:
        before = up.cpu_s()
        got = closed(journal.folder, up.server.request, up.server.port, connections, seconds)
        got["cpu_us"], got["log_us"] = up.spent_us(before, got["requests"])
        found[str(connections)] = got
    found["pss_mb"] = up.pss_mb()
    return found


def collect(journal: Journal, rounds: int, seconds: float, names: list[str]) -> None:
    own = make_project(journal.folder / "project-own", model='predict = "predict.py"', files={"predict.py": OWN})
    usual = catalogue(journal.folder, ["usual"])["usual"]
    for number in range(rounds):
        for name in names:
            key = f"{name}/{number}"
            if key in journal.found or journal.is_over:
                continue
            runners = 2 if name.endswith("-2") else 1
            ours = interlock_server(own, interlock_request(own, 1), f"native-{name}", f"serve.runners={runners}")
            with running(usual(1) if name == "usual" else ours, journal.folder / "logs") as up:
                journal.keep(key, measure(up, journal, seconds))
            print(f"{key} is done", file=sys.stderr, flush=True)


def main() -> None:
    wanted = options("native", 30)
    wanted.add_argument("--rounds", type=int, default=5)
    wanted.add_argument("--seconds", type=float, default=3.0)
    wanted.add_argument("--servers", default=",".join(LABELS))
    given = wanted.parse_args()
    names = given.servers.split(",")
    journal = Journal(given, "native")
    collect(journal, given.rounds, given.seconds, names)
    base = {c: middle(found[str(c)]["rps"] for found in journal.under("interlock/")) for c in CONNECTIONS}
    rows = []
    for name in names:
        every = journal.under(f"{name}/")
        if not every:
            continue
        row = [LABELS[name]]
        for connections in CONNECTIONS:
            rps, p99 = (middle(found[str(connections)][key] for found in every) for key in ("rps", "p99_us"))
            ours = base[connections]
            row += [shown(rps), shown(ours / rps, 1, " x") if ours and rps else "", shown(p99 and p99 / 1000, 1)]
        cpu = middle(found["16"]["cpu_us"] for found in every)
        errors = sum(found[str(c)]["errors"] for found in every for c in CONNECTIONS)
        rows.append([*row, shown(cpu), shown(middle(found["pss_mb"] for found in every)), f"{errors:,.0f}"])
    heads = [head for c in CONNECTIONS for head in (f"{c} connections, /s", "Interlock is", "p99, ms")]
    table(["server", *heads, "CPU at 16, us", "memory (PSS), MB", "errors"], rows)
    about(*([versions(python_of("services"), PACKAGES["services"])] if "usual" in names else []))


if __name__ == "__main__":
    main()
