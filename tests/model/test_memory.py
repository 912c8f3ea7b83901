"""How much memory a session takes, with all that it started."""

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from interlock.model import memory
from interlock.model.memory import Watch, can_watch, members

pytestmark = pytest.mark.skipif(not can_watch(), reason="the memory of a process is read from /proc")
EATER = "import sys; kept = bytearray(b'x') * {size}; print('ready', flush=True); sys.stdin.read()"
PARENT = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=0, stdout=1); "
    "child.wait()"
)
MB = 1 << 20


@pytest.fixture
def eater() -> Iterator[int]:
    """Session of a process that has started another, which holds 120 MB."""
    command = [sys.executable, "-c", PARENT, EATER.format(size=120 * MB)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    try:
        yield process.pid
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


def test_a_session_is_all_that_it_started(eater: int) -> None:
    assert sorted(members(eater)) == sorted([eater, *(child.pid for child in psutil.Process(eater).children())])
    assert len(members(eater)) == 2


def test_what_is_taken_is_told_above_the_limit_only(eater: int) -> None:
    assert Watch(100 * MB).excess(eater) > 120 * MB
    assert Watch(1_000 * MB).excess(eater) == 0


def test_pages_that_a_fork_shares_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, sys, time; kept = bytearray(b'x') * (80 << 20); "
        "[os.fork() or (sys.stdin.read(), os._exit(0)) for _ in range(3)]; print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        cheap = sum(map(memory._resident, members(process.pid)))
        assert cheap > 320 * MB, "each of four processes holds the same 80 MB"
        assert Watch(200 * MB).excess(process.pid) == 0
        assert Watch(60 * MB).excess(process.pid) < 160 * MB
    finally:
        process.kill()
        process.wait(20)
        process.stdin.close()
        process.stdout.close()


def test_a_session_that_has_ended_takes_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    watch = Watch(1)
    watch.excess(process.pid)
    process.wait(20)
    assert watch.excess(process.pid) == 0
    assert members(process.pid) == []
