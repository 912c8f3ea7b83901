import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.model.worker import TRACEBACK_CHARS, Channel, place, summary, user_traceback


@contextmanager
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield Channel(near), far


values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.dictionaries(st.text(), values, max_size=4), min_size=1, max_size=5), st.integers(1, 40))
def test_messages_arrive_whole_and_in_order_however_they_are_cut(messages: list[dict[str, object]], step: int) -> None:
    with pair() as (channel, far), pair() as (sender, raw):
        for message in messages:
            sender.send(message)
        arrived: list[dict[str, object]] = []
        content = raw.recv(1 << 20)
        for start in range(0, len(content), step):
            far.sendall(content[start : start + step])
            channel.read()
            arrived += channel.ready()
        assert arrived == messages


@pytest.mark.parametrize(
    "content", [b"\xff" * 16, (3).to_bytes(8, "big") + b"[1]", (2).to_bytes(8, "big") + b"{x", bytes(8)]
)
def test_what_is_no_message_is_refused(content: bytes) -> None:
    with pair() as (channel, far):
        far.sendall(content)
        with pytest.raises(ValueError, match=r"."):
            channel.receive()


def test_the_end_is_an_end_even_in_the_middle() -> None:
    with pair() as (channel, far):
        far.sendall(b"\x00\x00")
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            channel.receive()


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def caught(action: object) -> BaseException:
    with pytest.raises(BaseException) as info:
        action()
    return info.value


def test_an_exception_that_cannot_be_shown_is_named() -> None:
    error = caught(lambda: exec("raise Hostile", {"Hostile": Hostile}))
    assert "Hostile" in summary(error)
    assert "Hostile" in user_traceback(error, [])


def test_tracebacks_are_bounded_whatever_their_depth() -> None:
    source = (
        "def down(n):\n    return down(n - 1) if n else other(n)\ndef other(n):\n    raise ValueError('x' * n * 9)\n"
    )
    scope: dict[str, object] = {}
    exec(compile(source, "/project/train.py", "exec"), scope)
    text = user_traceback(caught(lambda: scope["down"](900)), ["/project"])
    assert len(text) < TRACEBACK_CHARS + 100
    assert text.rstrip().endswith("ValueError")
    assert 'File "train.py", line 4, in other' in text
    long = user_traceback(ValueError("x" * 1_000_000), [])
    assert len(long) < TRACEBACK_CHARS + 100


def test_groups_and_causes_are_kept() -> None:
    group = ExceptionGroup("several", [ValueError("one"), KeyError("two")])
    text = user_traceback(group, [])
    assert "ValueError: one" in text
    assert "KeyError: 'two'" in text


def test_the_place_is_the_innermost_line_of_the_users_files() -> None:
    scope: dict[str, object] = {"json": json}
    exec(compile("def train():\n\n    json.loads('{')", "/project/sub/train.py", "exec"), scope)
    error = caught(scope["train"])
    assert place(error, ["/project"]) == " (sub/train.py, line 3)"
    assert place(error, ["/elsewhere"]) == ""
