import os
from datetime import UTC, datetime

import pytest

from interlock.store.cache import Cache
from interlock.testing.clock import ManualClock

HOUR = 3600.0


def writing(size):
    return lambda path: path.write_bytes(b"x" * size)


def never(path):
    raise AssertionError(path)


@pytest.fixture
def clock():
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


def test_fetched_once(tmp_path, clock):
    cache = Cache(tmp_path, 1000, clock)
    path = cache.file("tables/t/part", writing(10))
    assert path.read_bytes() == b"x" * 10
    assert cache.file("tables/t/part", never, size_bytes=10) == path
    assert cache.file("tables/t/part", writing(11), size_bytes=11).stat().st_size == 11  # a copy of another size goes
    cache.drop("tables/t/part")
    cache.drop("tables/t/part")
    assert not path.exists()


def test_what_was_not_used_for_longest_goes_first(tmp_path, clock):
    cache = Cache(tmp_path, 1000, clock)
    for name in "abc":
        cache.file(name, writing(300))
        clock.advance(HOUR)
    bundle = tmp_path / "bundles" / "0a" / "model"
    bundle.mkdir(parents=True)
    (bundle / "weights").write_bytes(b"x" * 300)
    cache.used("bundles/0a")
    clock.advance(2 * HOUR)
    cache.used("a")
    clock.advance(2 * HOUR)
    cache.file("d", writing(300))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "bundles", "d"]
    clock.advance(2 * HOUR)
    cache.file("e", writing(900))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundles", "e"]
    assert list((tmp_path / "bundles").iterdir()) == []


def test_what_somebody_may_be_about_to_open_stays(tmp_path, clock):
    cache = Cache(tmp_path, 100, clock)
    for name in "abc":
        cache.file(name, writing(90))
    assert len(list(tmp_path.iterdir())) == 3
    now = clock.now().timestamp()
    os.utime(tmp_path / "a", (now - 2 * HOUR, now - 2 * HOUR))
    cache.trim()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]
