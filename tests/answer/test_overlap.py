"""Threads that overlap: order, bounds, errors, and no thread left behind."""

import threading
from collections.abc import Iterator

import pytest

from interlock.answer.overlap import Behind, ahead


def _alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("interlock-")]


def test_ahead_keeps_order_and_ends_its_thread() -> None:
    assert list(ahead(iter(range(100)))) == list(range(100))
    assert _alive() == []


def test_ahead_is_bounded() -> None:
    made: list[int] = []
    reached = threading.Event()

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            if number == 2:
                reached.set()
            yield number

    stream = ahead(items(), depth=3)
    assert next(stream) == 0
    assert reached.wait(5)
    assert len(made) <= 3, "the first item is still held, so two more may be made"
    stream.close()  # type: ignore[attr-defined]
    assert _alive() == []
    assert len(made) <= 4


def test_ahead_carries_the_error_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken page")

    stream = ahead(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken page"):
        next(stream)
    assert _alive() == []


def test_behind_consumes_everything_in_order_before_the_block_ends() -> None:
    taken: list[int] = []
    with Behind(taken.append) as sink:
        for number in range(100):
            sink.put(number)
    assert taken == list(range(100))
    assert _alive() == []


def test_behind_raises_what_the_consumer_raised_and_consumes_no_more() -> None:
    taken: list[int] = []

    def consume(number: int) -> None:
        if number == 3:
            raise OSError("disk full")
        taken.append(number)

    def put_all() -> None:
        with Behind(consume) as sink:
            for number in range(100):
                sink.put(number)

    with pytest.raises(OSError, match="disk full"):
        put_all()
    assert taken == [0, 1, 2]
    assert _alive() == []


def test_behind_raises_at_the_end_when_the_last_item_fails() -> None:
    def consume(_: int) -> None:
        raise OSError("disk full")

    sink = Behind(consume)
    sink.__enter__()
    sink.put(1)
    with pytest.raises(OSError, match="disk full"):
        sink.__exit__(None, None, None)


def test_behind_keeps_the_first_error_when_the_block_fails() -> None:
    def fail() -> None:
        with Behind[int](lambda _: None) as sink:
            sink.put(1)
            raise KeyError("the block's own")

    with pytest.raises(KeyError):
        fail()
    assert _alive() == []
