"""``interlock load`` against a server of its own and a running one."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.followed_project import opened, turn
from e2e.small_project import make_project, write_rows
from infra.certificates import certificate
from infra.program import exit_of, interlock
from infra.server import Served, serving
from interlock.cli.operate import operator_turn
from interlock.errors import Fault, Misuse
from interlock.load.run import Asked, LoadResult, load_test
from interlock.release.registry import approve
from interlock.service_level import limit_of

pytestmark = pytest.mark.slow
QUICK = ("load", "--duration", "1s", "--users", "4", "--rate", "60")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a release."""
    folder = make_project(tmp_path_factory.mktemp("load") / "project")
    assert turn(folder).outcome == "released"
    return folder


@pytest.fixture(scope="module")
def served(project: Path) -> Iterator[Served]:
    """Its server, open to everybody."""
    with serving(project, "--insecure") as found:
        yield found


def run(folder: Path, **given: Any) -> LoadResult:
    """A short run from this process."""
    told = {"duration": "1s", "users": 4, "rate": 60.0, "say": lambda _: None, **given}
    with opened(folder) as parts:
        return load_test(parts, Asked(**told))


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that name a project."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if str(folder) in words:
                found.append(words)
    return found


def test_it_starts_a_server_keeps_to_the_level_and_leaves_nothing_behind(project: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = interlock(project, *QUICK, "--fail-if", "p99 > 10s", "--fail-if", "errors > 1%", "--out", str(page))
    assert (found["passed"], found["own_server"], found["page"]) == (True, True, str(page))
    figures = found["found"]
    assert figures["requests"] == figures["answered"] == figures["tiers"]["champion"] == 60
    assert figures["error_kinds"] == {}
    assert figures["releases"] == {"1": 60}
    assert found["before"]["release"] == found["after"]["release"] == 1
    assert list(figures["latency_ms"]) == ["p50", "p90", "p95", "p99", "p999", "max"]
    assert sorted(figures["latency_ms"].values()) == list(figures["latency_ms"].values())
    told = page.read_text()
    assert "service level kept" in told
    assert "Load test of parts" in told
    for picture in re.findall(r"<svg.*?</svg>", told, re.DOTALL):
        ET.fromstring(picture)
    assert processes_of(project) == []


def test_a_missed_level_is_a_decision(project: Path, served: Served) -> None:
    with (project / "interlock.toml").open("a") as file:
        file.write('\n[load]\np50 = "0.001ms"\n')
    try:
        found = interlock(project, *QUICK, "--url", served.url, "--rows-per-request", "3", code=1)
    finally:
        toml = (project / "interlock.toml").read_text()
        (project / "interlock.toml").write_text(toml.partition("\n[load]")[0])
    assert not found["passed"]
    assert [each["holds"] for each in found["level"]] == [False]
    assert found["level"][0]["condition"] == "p50 > 0.001 ms"
    assert "service level missed" in Path(found["page"]).read_text()


def test_a_closed_loop_asks_as_fast_as_it_is_answered_also_over_tls(project: Path, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    found = run(project, users=2, rate=None, overrides=(f"serve.tls_cert={cert}", f"serve.tls_key={key}"))
    assert found.url.startswith("https://")
    assert found.found.requests > 20
    assert (found.rate, found.found.error_kinds) == (None, {})


def test_a_swap_in_the_middle_is_seen(project: Path) -> None:
    write_rows(project / "inbox" / "more.csv", 400, 4_000, noise=0.1)
    assert turn(project, "gate.approval=true").outcome == "held"
    with serving(project, "--insecure") as served, opened(project) as parts:
        entry = parts.ledger.events(kinds=["gate.decided"], newest_first=True, limit=1)[0].sequence
        ran: list[dict] = []
        command = ("load", "--url", served.url, "--duration", "4s", "--users", "2", "--rate", "50")
        runner = threading.Thread(target=lambda: ran.append(interlock(project, *command)))
        before = answered(served)
        runner.start()
        wait_for_traffic(served, before)
        with operator_turn(parts) as by:
            approve(parts, by, entry, because="to see it swap")
        runner.join(90)
        interlock(project, "trip", "--because", "to see who stands in")
        wait_for_tier(served, "last-good")
        off_duty = run(project, url=served.url, limits=(limit_of("fallback > 1%"), limit_of("errors > 0%")))
    assert off_duty.found.tiers == {"last-good": 60}
    assert [each.holds for each in off_duty.level] == [False, True]
    (found,) = ran
    assert found["found"]["error_kinds"] == {}
    assert sorted(found["found"]["releases"]) == ["1", "2"]
    assert (found["before"]["release"], found["after"]["release"]) == (1, 2)
    assert "Release 2 followed 1" in Path(found["page"]).read_text()


def test_a_slow_server_is_measured_from_when_a_request_was_due(project: Path, served: Served) -> None:
    """Stopped for a second: a closed loop would count one slow request for each user, and no more."""
    ran: list[dict] = []
    command = ("load", "--url", served.url, "--duration", "3s", "--users", "2", "--rate", "40")
    runner = threading.Thread(target=lambda: ran.append(interlock(project, *command)))
    before = answered(served)
    runner.start()
    wait_for_traffic(served, before)
    served.process.send_signal(signal.SIGSTOP)
    time.sleep(1.0)  # how long the server is away is what is measured
    served.process.send_signal(signal.SIGCONT)
    runner.join(60)
    (found,) = ran
    figures = found["found"]
    assert figures["requests"] == 120
    assert figures["error_kinds"] == {}
    slow = figures["latency_ms"]
    assert slow["max"] > 900
    assert slow["p90"] > 200, "some forty requests were due meanwhile, and each waited"


def answered(served: Served) -> float:
    """How many records the server has been asked about."""
    found = re.search(r"^interlock_records_total (\S+)", served.ask("/metrics")[2], re.MULTILINE)
    assert found is not None
    return float(found[1])


def wait_for_traffic(served: Served, before: float) -> None:
    """Wait until the server has answered some more."""
    until = time.monotonic() + 30
    while answered(served) < before + 20:
        assert time.monotonic() < until, "nobody asked"
        time.sleep(0.02)


def wait_for_tier(served: Served, tier: str) -> None:
    """Wait until the server answers by it."""
    until = time.monotonic() + 30
    while served.ask("/predict", {"width": 1.0, "weight": 1.0})[1]["interlock-tier"] != tier:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_key_opens_and_another_does_not(project: Path) -> None:
    with serving(project) as locked:
        with pytest.raises(Misuse, match="does not open"):
            run(project, url=locked.url, key="ilk_wrong")
        key = locked.wait_for("this key opens").rpartition(" ")[2]
        assert run(project, url=locked.url, key=key).found.answered == 60


def test_nobody_there_is_a_fault(project: Path, unused: int) -> None:
    with pytest.raises(Fault, match="does not answer"):
        run(project, url=f"http://127.0.0.1:{unused}")


def test_another_machine_is_not_asked(project: Path) -> None:
    code, told = exit_of(project, "load", "--url", "http://example.com", "--duration", "1s")
    assert (code, told["error"]["code"]) == (2, "Misuse")


@pytest.fixture
def unused() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_the_page_of_locust_answers_on_loopback_and_stops(project: Path, served: Served) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "interlock", *QUICK, "--duration", "2s", "--url", served.url, "--web", "--json"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    address = process.stderr.readline().strip().rpartition(" ")[2]
    assert address.startswith("http://127.0.0.1:")
    page = fetched(address)
    assert "<html" in page
    assert "locust" in page.lower()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["found"]["answered"] == 120
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=2)


def fetched(address: str) -> str:
    until = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as reply:
                return reply.read().decode()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_stopped_early_it_still_tells_what_it_saw(project: Path, served: Served) -> None:
    before = answered(served)
    process = subprocess.Popen(
        [sys.executable, "-m", "interlock", "load", "--rate", "30", "--duration", "60s", "--url", served.url, "--json"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_traffic(served, before)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert found["stopped"]
    assert 0 < found["found"]["seconds"] < 50
