from datetime import UTC

from interlock.store.clock import SystemClock


def test_the_system_clock_is_in_utc_and_never_runs_backwards():
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() <= clock.monotonic()
