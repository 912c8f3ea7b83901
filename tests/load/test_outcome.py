"""Figures and verdict from what was counted."""

import msgspec
import pytest

from interlock.load.outcome import Found, found_in, judged
from interlock.load.tally import Interval, Recorder
from interlock.service_level import limit_of


def run(answers: int = 90, *, fallbacks: int = 5, errors: int = 5) -> list[Interval]:
    recorder = Recorder()
    for place in range(answers):
        recorder.answer(0.001 * (place + 1), "champion", "1")
    for _ in range(fallbacks):
        recorder.answer(0.002, "last-good", "1")
    first = recorder.take(1.0, 0.2)
    for _ in range(errors):
        recorder.failure("status 503")
    return [first, recorder.take(2.4, 0.4)]


def test_the_figures() -> None:
    found = found_in(run(), 2.0)
    assert (found.requests, found.answered, found.seconds) == (100, 95, 2.0)
    assert found.rps == pytest.approx(47.5)
    assert found.errors == pytest.approx(0.05)
    assert found.fallback == pytest.approx(5 / 95)
    assert found.latency_ms["max"] == pytest.approx(90.0)
    assert found.error_kinds == {"status 503": 5}


def test_conditions_are_held_against_them() -> None:
    found = found_in(run(), 2.0)
    conditions = ["p99 > 85ms", "p50 > 80ms", "errors > 5%", "errors > 4%", "fallback > 1%", "rps < 40", "rps < 60"]
    held = judged(found, [limit_of(text) for text in conditions])
    assert [each.holds for each in held] == [False, True, True, False, False, True, False]
    assert "MISSED" in held[0].line()


def test_nothing_holds_where_nothing_was_asked() -> None:
    found = found_in([], 5.0)
    assert found.requests == 0
    assert not any(each.holds for each in judged(found, [limit_of("p99 > 1s"), limit_of("errors > 100%")]))


def test_a_stopped_run_is_as_long_as_it_was() -> None:
    (first, _) = run()
    assert found_in([first], 30.0).seconds == 1.0


def test_a_sender_that_is_busy_or_late_blurs_the_figures() -> None:
    def blurred(busy: float, late_ms: int) -> bool:
        pieces = run()
        changed = {"busy": busy, "late_us": late_ms * 1_000}
        return found_in([msgspec.structs.replace(each, **changed) for each in pieces], 2.0).is_blurred

    assert [blurred(0.2, 5), blurred(0.9, 5), blurred(0.2, 40), blurred(0.2, 60)] == [False, True, False, True]


def test_every_measure_of_a_service_level_is_there() -> None:
    found = found_in(run(), 2.0)
    assert isinstance(found, Found)
    for name in ("p50", "p90", "p95", "p99", "p999", "max", "errors", "fallback", "rps"):
        assert found.measure(name) > 0
