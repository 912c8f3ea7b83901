from interlock.testing.clock import ManualClock


def test_time_moves_only_when_told():
    clock = ManualClock()
    start = clock.now()
    assert clock.now() == start
    clock.advance(1.5)
    assert (clock.now() - start).total_seconds() == clock.monotonic() == 1.5
    clock.jump(-100)
    assert (clock.now() - start).total_seconds() == -98.5
    assert clock.monotonic() == 1.5
