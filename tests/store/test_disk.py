import errno
import os
from pathlib import Path

import pytest

from interlock.store.disk import TEMPORARY, durable_write, make_folder


@pytest.fixture
def calls(monkeypatch):
    """What is fsynced and renamed, in order, by path."""
    seen = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor):
        seen.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        real_sync(descriptor)

    def replace(self, target):
        seen.append(("rename", Path(target).name))
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    return seen


def test_write_then_sync_then_name_then_sync_the_folder(tmp_path, calls):
    durable_write(tmp_path / "a" / "b" / "file", b"one")
    temporary = calls[3][1]
    assert temporary.startswith(TEMPORARY)
    assert calls == [
        ("fsync", tmp_path.parent.name),  # whoever made the folder that was there may have died before this
        ("fsync", tmp_path.name),
        ("fsync", "a"),
        ("fsync", temporary),
        ("rename", "file"),
        ("fsync", "b"),
    ]
    durable_write(tmp_path / "a" / "b" / "file", b"two")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"two"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    durable_write(tmp_path / "file", b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        durable_write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_make_folder_is_harmless_when_it_is_there(tmp_path, calls):
    make_folder(tmp_path)
    assert calls == [("fsync", tmp_path.parent.name)]  # whoever made it may have died before it was durable
    calls.clear()
    make_folder(tmp_path)
    assert calls == []
    make_folder(tmp_path / "x")
    assert calls == [("fsync", tmp_path.name)]
