"""Load on a server: closed loop by wrk, open loop by a small client that is compiled when it is first needed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_SCRIPT = """
wrk.method = "POST"
wrk.path = "{path}"
{headers}
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %.1f %.1f\\n", summary.requests, summary.duration, e.status,
    e.connect + e.read + e.write + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


def compiled(folder: Path, name: str) -> Path:
    """A program of this folder in C, compiled with gcc."""
    source, program = HERE / f"{name}.c", folder / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        if shutil.which("gcc") is None:
            sys.exit("gcc is needed: apt-get install gcc")
        subprocess.run(["gcc", "-O2", "-o", str(program), str(source)], check=True)
    return program


def closed(folder: Path, request: bytes, port: int, connections: int, seconds: float) -> dict[str, float]:
    """One round of wrk, with one thread: requests/s, errors, p50 and p99 in microseconds."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed: apt-get install wrk")
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = [line.split(": ", 1) for line in lines if not line.startswith(("Host", "Content-Length"))]
    (folder / "wrk-body").write_bytes(body)
    script = folder / "wrk.lua"
    script.write_text(
        _SCRIPT.format(
            path=first.split()[1],
            headers="\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers),
            body=folder / "wrk-body",
        )
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", "-s", str(script)]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True, timeout=seconds + 60
    )
    told = next(line for line in done.stdout.splitlines() if line.startswith("RESULT")).split()
    requests, micros, bad, broken = (int(word) for word in told[1:5])
    return {
        "requests": requests,
        "rps": requests / (micros / 1e6),
        "errors": bad + broken,
        "p50_us": float(told[5]),
        "p99_us": float(told[6]),
    }


def opened(
    folder: Path,
    request: bytes,
    port: int,
    rate: float,
    seconds: float,
    *,
    connections: int = 64,
    grace_s: float = 5.0,
    limit_s: float = 1.0,
) -> dict[str, Any]:
    """Open loop at a fixed rate; see ``openloop.c``."""
    (folder / "open-request").write_bytes(request)
    words = [rate, seconds, connections, folder / "open-request", grace_s, limit_s]
    done = subprocess.run(
        [str(compiled(folder, "openloop")), "127.0.0.1", str(port), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + grace_s + 60,
    )
    if done.returncode:
        raise RuntimeError(f"openloop: {done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
