"""A server as a process: started, awaited, measured with all its children, and ended."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_LOG = b"interlock.serve.clerk"


@dataclass
class Server:
    """How to start one, and how to know that it answers: ``request`` gets a 200."""

    name: str
    command: Sequence[str]
    request: bytes
    port: int
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    ready_within_s: float = 120.0


@dataclass
class Running:
    """A server that answers. ``cold_s``: from exec to its first 200."""

    server: Server
    process: "subprocess.Popen[bytes]"
    cold_s: float
    reply: bytes
    log: Path

    def pids(self) -> list[int]:
        """The process and all below it."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    parents.setdefault(int(fields[1]), []).append(int(entry.name))
        found = [self.process.pid]
        for pid in found:
            found += parents.get(pid, [])
        return found

    def cpu_s(self) -> tuple[float, float]:
        """Processor time of those that live, user and system, and of their children that have ended.

        The second is that of the process that makes rows of a prediction log, now and then; the first is all others.
        """
        ticks = [0, 0]
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                keeps = _LOG in Path(f"/proc/{pid}/cmdline").read_bytes()
                ticks[keeps] += sum(int(word) for word in fields[11:15])
        return ticks[0] / _TICKS, ticks[1] / _TICKS

    def spent_us(self, before: tuple[float, float], requests: float) -> tuple[float, float]:
        """What was spent since ``before``, in microseconds by request."""
        one, other = (now - then for now, then in zip(self.cpu_s(), before, strict=True))
        return one / max(requests, 1) * 1e6, other / max(requests, 1) * 1e6

    def pss_mb(self) -> float:
        """Memory, pages that are shared counted in parts."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
        return total / 1024

    def wait_for(self, what: str, within_s: float = 60.0) -> None:
        """Wait until it has said so."""
        until = time.monotonic() + within_s
        while what not in self.log.read_text(errors="replace"):
            if time.monotonic() > until:
                raise RuntimeError(f"{self.server.name} did not say '{what}'")
            time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def ask(port: int, request: bytes, timeout_s: float = 30.0, source: str = "") -> tuple[int, bytes]:
    """Send the bytes of a request on a connection of its own; the status, and all that came back."""
    with socket.create_connection(
        ("127.0.0.1", port), timeout=timeout_s, source_address=(source, 0) if source else None
    ) as to:
        to.sendall(request)
        found = b""
        while b"\r\n\r\n" not in found:
            part = to.recv(1 << 16)
            if not part:
                raise ConnectionError("closed before the reply was whole")
            found += part
        head, _, body = found.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length:
            part = to.recv(1 << 20)
            if not part:
                raise ConnectionError("closed before the reply was whole")
            body += part
        return int(head.split()[1]), head + b"\r\n\r\n" + body


@contextmanager
def running(server: Server, logs: Path) -> Iterator[Running]:
    """Start a server, wait for its first 200, and end it with all that it started."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{server.name.replace(' ', '-').replace('/', '-').replace(',', '')}.log"
    variables = {**os.environ, **server.env}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    with log.open("wb") as out:
        began = time.perf_counter()
        process = subprocess.Popen(
            server.command,
            cwd=server.cwd,
            env=variables,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        reply = _first_answer(server, process, log, began + server.ready_within_s)
        yield Running(server, process, time.perf_counter() - began, reply, log)
    finally:
        _end(process)


def _first_answer(server: Server, process: "subprocess.Popen[bytes]", log: Path, until_s: float) -> bytes:
    status, reply = 0, b""
    while time.perf_counter() < until_s:
        if process.poll() is not None:
            raise RuntimeError(
                f"{server.name} ended with {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}"
            )
        try:
            status, reply = ask(server.port, server.request)
            if status == 200:
                return reply
        except OSError:
            pass
        time.sleep(0.01)
    told = f"{status} {reply[-500:]!r}\n{log.read_text(errors='replace')[-3000:]}"
    raise RuntimeError(f"{server.name} was not ready in {server.ready_within_s:.0f} s: {told}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the session that was started, politely first."""
    for number, wait_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=wait_s)
            break
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what it left behind
