"""Three times the capacity: what is answered in time, what is refused and how soon, and does the breaker stay calm?

    python bench/serve/overload.py [--times 3] [--seconds 10] [--connections 512] [--cases slow,rows,one]

* slow: a model of the user's own code that takes 2 ms for each record; one record a request.
* rows: the compiled model, 1,000 records in JSON a request.
* one: the compiled model, one record a request. The client is on the same two cores and may not reach the rate.

The capacity is how many answers 200 wrk gets in a second (closed loop, median of three; 64 connections, 16 where a
request has 1,000 records, for 64 of those would be an overload themselves). Then the open-loop client asks so many
times as often over ``--connections``; a request that finds none free waits, and that is in its latency from when it was
due. Goodput: answers 200 within a second of being sent (and of being due), by second, beside the capacity. Refusals are
timed from when the request was sent. Trips and tiers are those of the server's own metrics.
"""

import json
from pathlib import Path
from typing import Any

from journal import Journal, about, middle, options, shown, table
from pacing import closed, opened
from process import Running, ask, running
from project import bearer, make_project
from servers import interlock_request, interlock_server

SLOW = """import time


def predict(model, data):
    time.sleep(0.002 * len(data))
    return model.predict(data)
"""
LABELS = {"slow": "own code, 2 ms a record", "rows": "compiled, 1,000 records", "one": "compiled, one record"}


def counted(port: int, key: dict[str, str], name: str) -> dict[str, float]:
    """A family of the metrics: the labels, and the number."""
    head = "".join(f"{word}: {value}\r\n" for word, value in key.items())
    _, page = ask(port, f"GET /metrics HTTP/1.1\r\nHost: a\r\n{head}\r\n".encode())
    lines = [line.rpartition(" ") for line in page.decode().splitlines() if line.startswith(name)]
    return {label[len(name) :]: float(value) for label, _, value in lines}


def good(found: dict[str, float]) -> float:
    """Answers 200 of a second of a closed loop."""
    return found["rps"] * (1 - found["errors"] / max(found["requests"], 1))


def measure(up: Running, journal: Journal, given: Any, key: dict[str, str], ready: int) -> dict[str, Any]:
    server = up.server
    closed(journal.folder, server.request, server.port, 16, 1)
    spent, rounds = up.cpu_s(), [closed(journal.folder, server.request, server.port, ready, 3) for _ in range(3)]
    answer_us, _ = up.spent_us(spent, sum(each["requests"] for each in rounds))
    capacity = middle(map(good, rounds))
    assert capacity
    spent = up.cpu_s()
    before = counted(server.port, key, "interlock_answers_total")
    found = opened(
        journal.folder,
        server.request,
        server.port,
        given.times * capacity,
        given.seconds,
        connections=given.connections,
    )
    overload_us, _ = up.spent_us(spent, 1)
    refusal_us = (overload_us - answer_us * found["good"]["count"]) / max(found["other"]["count"], 1)
    after = counted(server.port, key, "interlock_answers_total")
    tiers = {name: after[name] - before.get(name, 0.0) for name in after}
    trips = sum(counted(server.port, key, "interlock_breaker_trips_total").values())
    again = good(closed(journal.folder, server.request, server.port, min(32, ready), 2))
    costs = {"answer_us": answer_us, "refusal_us": refusal_us, "pss_mb": up.pss_mb()}
    return {"capacity": capacity, "open": found, "tiers": tiers, "trips": trips, "again": again, **costs}


def project_of(journal: Journal, case: str) -> Path:
    if case == "slow":
        return make_project(journal.folder / "project-slow", model='predict = "predict.py"', files={"predict.py": SLOW})
    return make_project(journal.folder / "project")


def main() -> None:
    wanted = options("overload", 20)
    wanted.add_argument("--times", type=float, default=3.0)
    wanted.add_argument("--seconds", type=float, default=10.0)
    wanted.add_argument("--connections", type=int, default=512)
    wanted.add_argument("--ready", type=int, default=64, help="connections that find the capacity")
    wanted.add_argument("--cases", default=",".join(LABELS))
    given = wanted.parse_args()
    journal, rows = Journal(given, "overload"), []
    for case in given.cases.split(","):
        project = project_of(journal, case)
        request = interlock_request(project, 1000 if case == "rows" else 1)

        def once(case: str = case, project: Path = project, request: bytes = request) -> dict[str, Any]:
            with running(interlock_server(project, request, f"overload-{case}"), journal.folder / "logs") as up:
                ready = given.ready // 4 if case == "rows" else given.ready
                return measure(up, journal, given, bearer(project), ready)

        found = journal.once(f"{case}/{given.times:g}/{given.connections}", once)
        if not found:
            continue
        load, capacity = found["open"], found["capacity"]
        good, late = (load[key] / max(load["seconds"], given.seconds) for key in ("in_time_from_sent", "in_time"))
        row = [
            LABELS[case],
            shown(capacity),
            shown(load["sent"] / given.seconds),
            f"{good / capacity:.0%}",
            f"{late / capacity:.0%}",
        ]
        row += [shown(load["good"].get("p99", 0) / 1000, 0), shown(load["good_from_sent"].get("p99", 0) / 1000, 0)]
        row += [
            f"{load['other']['count']:,}",
            *(shown(load["other_from_sent"].get(p, 0) / 1000, 1) for p in ("p50", "p99", "max")),
        ]
        rows.append(
            [
                *row,
                f"{load['due'] - load['answered']:,}",
                f"{found['trips']:g}",
                shown(found["again"] / capacity, 2, " x"),
            ]
        )
        print(
            f"{case}: {json.dumps(load['status'])}, tiers {json.dumps(found['tiers'])}, {found['pss_mb']:.0f} MB, "
            f"CPU {found['answer_us']:,.0f} us an answer, about {found['refusal_us']:,.0f} us a refusal"
        )
    heads = [
        "capacity, /s",
        "sent, /s",
        "goodput",
        "from due",
        "good p99 from due, ms",
        "from sent, ms",
        "refused",
        "p50, ms",
        "p99, ms",
        "most, ms",
    ]
    table([f"{given.times:g} x the capacity", *heads, "not answered", "trips", "capacity after"], rows)
    about()


if __name__ == "__main__":
    main()
