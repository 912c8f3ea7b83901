"""The page: self-contained, telling what was found, harmless whatever a server calls itself."""

import re
import xml.etree.ElementTree as ET

from interlock.load.outcome import found_in, judged
from interlock.load.page import Facing, page_of
from interlock.load.tally import Interval, Recorder
from interlock.load.target import Told
from interlock.report.page import to_html
from interlock.service_level import limit_of

HOSTILE = "</svg><script>alert(1)</script>"


def intervals(count: int = 5) -> list[Interval]:
    recorder = Recorder()
    found = []
    for place in range(count):
        for step in range(40):
            recorder.answer(0.001 * (1 + step % 7), "champion" if step else "last-good", "1" if place < 3 else "2")
        recorder.failure(HOSTILE)
        found.append(recorder.take(place + 1.0, 0.95))
    return found


def page(pieces: list[Interval], *conditions: str, open_loop: bool = True) -> str:
    found = found_in(pieces, 5.0)
    facing = Facing(
        name=HOSTILE,
        at="2026-11-21T02:30:52.123+00:00",
        before=Told(name="x", release=1, model="abc", tiers=("champion", "baseline")),
        after=Told(),
        settings=(("Server", HOSTILE),),
        open_loop=open_loop,
        records="They were made.",
    )
    return to_html(page_of(facing, found, judged(found, [limit_of(text) for text in conditions]), pieces))


def test_it_tells_what_was_found() -> None:
    told = page(intervals(), "p99 > 50ms", "errors > 0.1%")
    assert "service level missed" in told
    assert "Release 2 followed 1 between 3 s and 4 s." in told
    assert "release 1, model abc" in told
    assert "it did not say" in told
    assert "The sender itself used 95 %" in told
    for title in ("Requests a second", "Latency over time", "Latency by share of requests", "Who answered"):
        assert f">{title}</title>" in told
    assert "service level kept" in page(intervals(), "p99 > 50ms")
    assert "no service level" in page(intervals())


def test_it_says_how_latency_was_measured() -> None:
    assert "at which each request was due" in page(intervals())
    assert "a closed loop flatters latencies" in page(intervals(), open_loop=False)


def test_it_loads_nothing_and_runs_nothing() -> None:
    told = page(intervals())
    assert "default-src 'none'" in told
    assert "<script" not in told
    assert not re.search(r"(?:src|href)=\"(?!#)", told)
    for picture in re.findall(r"<svg.*?</svg>", told, re.DOTALL):
        ET.fromstring(picture)


def test_a_run_without_an_answer_has_a_page_too() -> None:
    recorder = Recorder()
    recorder.failure("connection refused")
    told = page([recorder.take(1.0, 0.1)], "errors > 1%")
    assert "connection refused" in told
    assert "The run was too short" in told
