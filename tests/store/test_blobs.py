import errno
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from interlock.errors import NotFound, StoreFault
from interlock.store import blobs as module
from interlock.store.blobs import LocalBlobs, check_key
from interlock.store.disk import TEMPORARY
from interlock.testing.conformance import BlobsConformance


class TestLocalBlobs(BlobsConformance):
    def open(self, folder: Path) -> LocalBlobs:
        return LocalBlobs(folder)


class TestLocalBlobsWithoutHardLinks(BlobsConformance):
    @pytest.fixture(autouse=True)
    def _no_links(self, monkeypatch):
        def refuse(self, target):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", refuse)

    def open(self, folder: Path) -> LocalBlobs:
        return LocalBlobs(folder)


# ---- files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    return LocalBlobs(tmp_path / "blobs")


def test_everything_is_durable_before_put_returns(store, tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def sync(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    store.put("a/b", b"x")
    root = tmp_path / "blobs"
    assert synced[:2] == [tmp_path, root]  # the names of the new folders
    assert synced[2].name.startswith(TEMPORARY)  # the content, before it has its name
    assert synced[-1] == root / "a"  # the name
    synced.clear()
    assert not store.put("a/b", b"y")  # whoever put it may have died before it was durable
    assert synced == [root / "a" / "b", root / "a"]


def test_a_failed_put_leaves_nothing(store, tmp_path, monkeypatch):
    store.put("a/x", b"x")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFault, match="No space left") as caught:
        store.put("a/y", b"y")
    assert caught.value.facts["cause"] == "ENOSPC"
    assert "Free some space" in caught.value.next_step
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "blobs" / "a").iterdir()] == ["x"]


def test_links_do_not_lead_out(store, tmp_path):
    store.put("in/x", b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    root = tmp_path / "blobs"
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    (root / "within").symlink_to(root / "in" / "x")
    for key in ("link", "folder/secret"):
        for call in (store.get, store.exists, store.local, store.delete, lambda key: store.put(key, b"new")):
            with pytest.raises(StoreFault, match="symbolic link"):
                call(key)
    with pytest.raises(StoreFault, match="symbolic link"):
        store.put("folder/new/file", b"x")
    assert not (tmp_path / "new").exists()
    assert store.get("within") == b"inside"
    assert [info.key for info in store.list()] == ["in/x"]


def test_a_version_changes_with_the_file(store, tmp_path):
    store.put("x", b"1")
    (before,) = store.list()
    path = tmp_path / "blobs" / "x"
    status = path.stat()
    path.write_bytes(b"2")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size, same time, same inode: ctime tells
    (after,) = store.list()
    assert after.version != before.version


def test_stale_temporary_files_are_hidden_and_swept(store, tmp_path):
    store.put("a/x", b"x")
    now = datetime(2026, 1, 10, tzinfo=UTC)
    for name, age in (("old", timedelta(days=2)), ("new", timedelta(hours=1))):
        path = tmp_path / "blobs" / f"{TEMPORARY}{name}"
        path.write_bytes(b"half")
        os.utime(path, ((now - age).timestamp(),) * 2)
    assert [info.key for info in store.list()] == ["a/x"]
    with pytest.raises(StoreFault):
        store.get(f"{TEMPORARY}old")
    assert store.sweep(now) == 1
    assert sorted(path.name for path in (tmp_path / "blobs").iterdir()) == [f"{TEMPORARY}new", "a"]
    assert LocalBlobs(tmp_path / "none").sweep(now) == 0


def test_fetch_leaves_the_old_target_when_it_fails(store, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(NotFound):
        store.fetch("absent", target)
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("code", "step"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space"),
        (errno.EACCES, "who may read"),
        (errno.EPERM, "who may read"),
        (errno.EROFS, "can be written"),
        (errno.EIO, "Check the disk"),
        (errno.ENAMETOOLONG, "shorter"),
        (errno.EMFILE, "interlock doctor"),
    ],
)
def test_every_disk_error_has_a_next_step(code, step):
    with pytest.raises(StoreFault) as caught, module.disk_faults(Path("/x")):
        raise OSError(code, os.strerror(code))
    assert step in caught.value.next_step
    assert caught.value.facts == {"path": "/x", "cause": errno.errorcode[code]}


def test_keys():
    for key in ("a", "a/b.c", "bundles/0a/model (1).bin", "ü/x"):
        assert check_key(key) == key
    for key in ("a\x7fb", "a\u202eb", f"a/{TEMPORARY}x", "é" * 128, "\ud800"):
        with pytest.raises(StoreFault) as caught:
            check_key(key)
        str(caught.value).encode()


def test_obstore_is_imported_only_for_buckets():
    code = "import sys, interlock.store.blobs; assert 'obstore' not in sys.modules and 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_killed_writer_leaves_nothing_beside_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    store = LocalBlobs(tmp_path)
    store.put("bundle/one", b"1")
    monkeypatch.setattr(Path, "hardlink_to", killed)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # a kill runs no clean-up
    with pytest.raises(KeyboardInterrupt):
        store.put("bundle/two", b"2")
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["one"]
