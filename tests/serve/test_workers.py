"""A parent, its children, and one port: small programs in place of the server."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from interlock.errors import Fault
from interlock.serve.workers import Inherited, inherited, open_port

PARENT = """
import sys
from interlock.errors import Fault
from interlock.serve.workers import Crew, open_port

port = open_port("127.0.0.1", 0)
crew = Crew([sys.executable, "-c", sys.argv[1]], 2, port, key="secret")
try:
    crew.run(lambda: print("ready", port.getsockname()[1], flush=True), lambda line: print(line, flush=True))
except Fault as error:
    print(error.message, flush=True)
    sys.exit(3)
print("ended", flush=True)
"""
CHILD = """
import os
from interlock.serve.workers import inherited

found = inherited()
listening = found.socket()
found.tell_ready()
while True:
    connection, _ = listening.accept()
    connection.sendall(f"{os.getpid()} {found.key}".encode())
    connection.close()
"""


@contextmanager
def crew(child: str) -> Iterator[subprocess.Popen[str]]:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, child], stdout=subprocess.PIPE, text=True)
    try:
        yield parent
    finally:
        if parent.poll() is None:
            parent.terminate()
        parent.wait(timeout=20)
        parent.stdout.close()


def said(parent: subprocess.Popen[str]) -> str:
    return parent.stdout.readline().strip()


def ask(port: int) -> tuple[int, str]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        pid, key = connection.recv(100).decode().split()
    return int(pid), key


def seen(port: int, count: int) -> set[int]:
    """Ask, several at a time, until so many different children have answered."""
    found: set[int] = set()
    end = time.monotonic() + 30
    while len(found) < count and time.monotonic() < end:
        asking = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(16)]
        found |= {int(connection.recv(100).split()[0]) for connection in asking}
        for connection in asking:
            connection.close()
    assert len(found) >= count
    return found


def test_children_share_a_port_and_a_key_and_one_that_dies_is_followed():
    with crew(CHILD) as parent:
        word, port = said(parent).split()
        assert word == "ready"
        pid, key = ask(int(port))
        assert key == "secret"
        os.kill(pid, signal.SIGKILL)
        assert said(parent) == f"a worker ended with -{signal.SIGKILL.value}; another is started"
        assert ask(int(port))[0] != pid
        found = seen(int(port), 2)
        assert pid not in found
        parent.terminate()
        assert said(parent) == "ended"
        assert parent.wait(timeout=20) == 0
        for child in found:
            with pytest.raises(ProcessLookupError):
                os.kill(child, 0)


def test_children_that_end_before_they_answer_end_the_parent():
    with crew("raise SystemExit(7)") as parent:
        assert said(parent) == "A worker of the server ended with 7 before it answered."
        assert parent.wait(timeout=20) == 3


def test_a_port_that_is_taken_is_told():
    with open_port("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Fault, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            open_port("127.0.0.1", port)


def test_a_process_that_is_no_child_inherits_nothing():
    assert inherited({}) is None
    told = '{"listening": 3, "ready": 4, "key": "k"}'
    assert inherited({"ILK_SERVE_INHERITED": told}) == Inherited(listening=3, ready=4, key="k")
