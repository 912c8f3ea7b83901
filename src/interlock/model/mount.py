"""Start a program that sees a folder of ours at ``/opt/ml``, and nobody else does, by a mount namespace of its own.

Run as ``python -I mount.py FOLDER WORKING_FOLDER PROGRAM ARGUMENT …``; it becomes the program. It imports nothing of
ours. What is in ``/opt`` already stays visible. Exit status 97 says that the system has no such namespaces for this
user; only Linux has them.
"""

import ctypes
import os
import sys

REFUSED = 97
PLACE = "/opt/ml"
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 0x40000


def _mount(libc: ctypes.CDLL, source: str, target: str, kind: str, flags: int) -> None:
    if libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None):
        number = ctypes.get_errno()
        raise OSError(number, f"mounting on {target}: {os.strerror(number)}")


def _separate(libc: ctypes.CDLL) -> None:
    """Leave the mounts of everybody else; without the right to, in a user namespace with the same user in it."""
    if libc.unshare(_NEW_MOUNTS) == 0:
        return
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_MOUNTS | _NEW_USER):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - the kernel wants one plain write
            file.write(text)
    libc.prctl(1, 9)  # PR_SET_PDEATHSIG, which the change of namespace has undone


def _make_place(libc: ctypes.CDLL, stage: str) -> None:
    """Make ``/opt/ml`` where there is none: a copy of ``/opt`` made of mounts, so that the real one stays as it is."""
    _mount(libc, "/opt", stage, "", _BIND | _RECURSIVE)
    _mount(libc, "none", "/opt", "tmpfs", 0)
    for name in os.listdir(stage):  # noqa: PTH208 - this program imports as little as it can
        source, target = f"{stage}/{name}", f"/opt/{name}"
        if os.path.islink(source):  # noqa: PTH114
            os.symlink(os.readlink(source), target)  # noqa: PTH115, PTH211
            continue
        if os.path.isdir(source):  # noqa: PTH112
            os.mkdir(target)  # noqa: PTH102
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        _mount(libc, source, target, "", _BIND | _RECURSIVE)
    os.mkdir(PLACE)  # noqa: PTH102


def main(folder: str, where: str, command: list[str]) -> None:
    """Mount ``folder``, go to ``where`` and become ``command``."""
    libc = ctypes.CDLL(None, use_errno=True)
    stage = f"{folder}/output/intermediate"
    try:
        _separate(libc)
        _mount(libc, "none", "/", "", _PRIVATE | _RECURSIVE)
        if not os.path.isdir(PLACE):  # noqa: PTH112
            _make_place(libc, stage)
        _mount(libc, folder, PLACE, "", _BIND)
        os.chdir(where)
    except (OSError, AttributeError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(REFUSED)
    os.execv(command[0], command)  # noqa: S606 - our own interpreter


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
