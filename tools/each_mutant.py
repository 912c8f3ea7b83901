"""A plugin of pytest: the tests are collected once, and run for each mutant in a fork of the process that has them.

Where the tests are quick, the start of pytest is most of what a mutant costs; a fork costs a few milliseconds. First
the tests run as they are, which tells which functions each of them calls and how long it takes. Each mutant is then
given the tests that call its function, quick ones first, up to the first that fails. A mutant that takes ten times the
processor time of all these tests is stopped: that is noticed as well.

``MUTANTS`` in the environment names a file with one mutant a line, ``OUTCOMES`` the file to write: JSON, name ->
killed, survived, timeout, or no tests.
"""

import gc
import json
import math
import os
import resource
import signal
import sys
import time
from pathlib import Path

import hypothesis
import pytest
from _pytest.runner import runtestprotocol
from mutmut.mutation import trampoline

# A busy machine is no fault of the code: no deadlines. One failure is enough: no time is spent on making it small.
hypothesis.settings.register_profile(
    "mutants",
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    report_multiple_bugs=False,
)
hypothesis.settings.load_profile("mutants")
AT_ONCE = 2
WALL = 30
"""A mutant that waits for ever is stopped after so many times its limit of processor time."""


def passed(item: pytest.Item, following: pytest.Item | None) -> bool:
    """Run one test; whether no part of it failed."""
    failed = [report for report in runtestprotocol(item, log=False, nextitem=following) if report.failed]
    for report in failed:
        if os.environ["MUTANT_UNDER_TEST"] == "stats":
            sys.stderr.write(f"{report.longreprtext}\n")
    return not failed


def watched(items: list[pytest.Item], found: Path) -> None:
    """Run the tests as they are and write, for each, its seconds and the functions that it calls."""
    told = []
    os.environ["MUTANT_UNDER_TEST"] = "stats"
    for place, item in enumerate(items):
        called: set[str] = set()
        trampoline.record_trampoline_hit = lambda name, called=called, **_: called.add(name)
        started = time.process_time()
        if not passed(item, items[place + 1] if place + 1 < len(items) else None):
            sys.stderr.write(f"{item.nodeid} fails without any change\n")
            os._exit(1)
        told.append((time.process_time() - started, sorted(called)))
    found.write_text(json.dumps(told))
    os._exit(0)


def tried(name: str, items: list[pytest.Item], limit: int) -> None:
    """Run tests on one mutant, up to the first that fails."""
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(WALL * limit)
    os.environ["MUTANT_UNDER_TEST"] = name
    for place, item in enumerate(items):
        if not passed(item, items[place + 1] if place + 1 < len(items) else None):
            os._exit(1)
    os._exit(0)


def outcome(status: int) -> str:
    """What an exit status tells."""
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL) else "killed"
    return "survived" if os.WEXITSTATUS(status) == 0 else "killed"


def pytest_runtestloop(session: pytest.Session) -> bool:
    """Take the place of pytest's own loop."""
    report = Path(os.environ["OUTCOMES"])
    if os.fork() == 0:
        watched(session.items, report)
    if os.wait()[1]:
        raise pytest.UsageError("The tests fail without any change.")
    told = json.loads(report.read_text())
    gc.collect()
    gc.freeze()  # what is never looked at again is not copied into each fork
    outcomes: dict[str, str] = {}
    running: dict[int, str] = {}

    def wait(room: int) -> None:
        """Until no more than so many run; what is known is written at once, for whoever stops us."""
        while len(running) > room:
            pid, status = os.wait()
            outcomes[running.pop(pid)] = outcome(status)
            report.write_text(json.dumps(outcomes))

    report.write_text("{}")
    for name in Path(os.environ["MUTANTS"]).read_text().split():
        function = name.rpartition("__mutmut_")[0]
        due = sorted((seconds, place) for place, (seconds, called) in enumerate(told) if function in called)
        if not due:
            outcomes[name] = "no tests"
            continue
        wait(AT_ONCE - 1)
        pid = os.fork()
        if pid == 0:
            tried(name, [session.items[place] for _, place in due], math.ceil(5 + 10 * sum(s for s, _ in due)))
        running[pid] = name
    wait(0)
    report.write_text(json.dumps(outcomes))
    return True
