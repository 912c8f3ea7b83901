"""On what kind of file system a path lies: SQLite's locks do not hold on a network share.

See https://www.sqlite.org/howtocorrupt.html, section 2.1: "Filesystems with broken or missing lock implementations".
"""

import os
import re
from pathlib import Path

from interlock.errors import SettingsError

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    (
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ncpfs",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "beegfs",
        "gpfs",
        "orangefs",
    )
)
_NETWORK_FUSE = frozenset(
    ("sshfs", "s3fs", "s3backer", "gcsfuse", "rclone", "blobfuse", "blobfuse2", "mount-s3", "goofys", "juicefs", "ceph")
)
"""Types in Linux's mount table behind which another host can be."""


def file_system(path: Path) -> str:
    """Type of the file system that holds ``path``, or will hold it, as Linux names it; empty where nobody knows."""
    real = os.path.realpath(path)
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, found = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split()[4])
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):  # of several on one folder the last is the one seen
            best, found = mount, after.split()[0]
    return found


def require_local(path: Path, *, allowed: bool) -> None:
    """Raise :class:`~interlock.errors.SettingsError` when the state lies on a network share, unless ``allowed``."""
    kind = "" if allowed else file_system(path)
    if kind in _NETWORK or (kind.startswith("fuse.") and kind.removeprefix("fuse.") in _NETWORK_FUSE):
        raise SettingsError(
            f"The state database {path} is on a network file system ({kind}): its locks do not hold there, and two "
            "hosts can destroy it. Nothing was touched.",
            next_step='Set store.state = "sqlite:///…" on a disk of this machine, or a postgresql:// server. If only '
            'this host ever opens it, store.network_disk = "allow".',
            path=str(path),
            file_system=kind,
        )
