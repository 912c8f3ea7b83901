"""A server of a project, as a person starts it: a process on a loopback port, ended by its pid."""

import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

_ANSWERS = re.compile(r"answers at (https?://127\.0\.0\.1:\d+)$")


@dataclass
class Served:
    """A running server. ``said``: what it printed so far."""

    url: str
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, timeout_s: float = 60.0
    ) -> tuple[int, dict[str, str], Any]:
        """POST a body as JSON, or GET without one; the status, headers (lower case) and the decoded reply."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, headers={"content-type": "application/json", **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as reply:
                status, told, content = reply.status, reply.headers, reply.read()
        except HTTPError as error:
            status, told, content = error.code, error.headers, error.read()
        found = {name.lower(): value for name, value in told.items()}
        decoded = json.loads(content) if found.get("content-type") == "application/json" else content.decode()
        return status, found, decoded

    def wait_for(self, what: str, within_s: float = 60.0) -> str:
        """Wait until it has printed a line with ``what``."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            for line in list(self.said):
                if what in line:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"it did not say '{what}' in {within_s} s: {self.said}")


@contextmanager
def serving(project: Path, *arguments: str, before: tuple[str, ...] = (), within_s: float = 90.0) -> Iterator[Served]:
    """Start ``interlock serve`` on a free port, and end it."""
    program = [sys.executable, "-W", "error::DeprecationWarning:interlock", "-m", "interlock"]
    process = subprocess.Popen(
        [*program, *before, "serve", "--port", "0", *arguments],
        cwd=project,
        env=dict(os.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    served = Served("", process)
    arrived: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            served.said.append(line.rstrip())
            found = _ANSWERS.search(line.rstrip())
            if found:
                arrived.put(found[1])
        arrived.put("")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        served.url = arrived.get(timeout=within_s)
        assert served.url, f"it ended: {served.said}"
        yield served
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=40.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10.0)
        reader.join(timeout=10.0)
        if process.stderr is not None:
            process.stderr.close()
