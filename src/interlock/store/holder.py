"""Who holds a lease, and whether it can still be alive.

A process is named by its host (boot id and process-id namespace where ``/proc`` has them, and the host name), its id
and its start time, because ids are used again. Only a process of the same boot and namespace can be looked up; of any
other we know nothing until its lease runs out.
"""

import os
import socket
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")


class Holder(NamedTuple):
    """One process on one host. ``started``: clock ticks since boot, or empty where ``/proc`` does not tell."""

    host: str
    pid: int
    started: str

    @property
    def label(self) -> str:
        """For people: host name and process id."""
        return f"{self.host.rsplit('/', 1)[-1]}:{self.pid}"


def this_process() -> Holder:
    """Name the running process."""
    pid = os.getpid()
    return Holder(_host(), pid, _started(pid) or "")


def surely_dead(holder: Holder) -> bool:
    """Tell that the process was on this host and is gone; False when it lives or cannot be known."""
    if holder.host != _host():
        return False
    if _proc_works():
        return _started(holder.pid) != holder.started
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _host() -> str:
    name = socket.gethostname().replace("/", "_")
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = (_PROC / "self/ns/pid").readlink()
    except OSError:
        return name
    return f"{boot}/{namespace}/{name}"


def _proc_works() -> bool:
    return (_PROC / "self" / "stat").exists()


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot (proc(5), field 22 of ``stat``); None when gone or a zombie."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    return None if state in "ZX" else rest[18]
