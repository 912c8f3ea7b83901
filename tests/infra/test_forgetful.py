"""First test the disk that forgets, then trust a test built on it."""

from pathlib import Path

import pytest

from infra.forgetful import Log, Tree, available, cuts, load, mounted
from interlock.store import disk as durable
from interlock.store.ledger import SqlLedger
from interlock.store.schema import open_database
from interlock.testing.clock import ManualClock

pytestmark = pytest.mark.skipif(not available(), reason="needs /dev/fuse and fusermount3 (apt: fuse3)")


def after(start: Tree, log: Log, kind: str = "strict") -> Tree:
    """What is left by a power cut at the end."""
    disk = load(start)
    for change in log:
        disk.apply(change)
    return disk.after(kind)


def test_what_was_not_fsynced_is_forgotten(tmp_path: Path) -> None:
    start: Tree = {"old": b"old", "folder": None}
    place = tmp_path / "disk"
    with mounted(start, place) as log:
        (place / "unsynced").write_bytes(b"x")
        (place / "content").write_bytes(b"synced")
        durable.sync_file(place / "content")
        (place / "folder" / "name").write_bytes(b"lost")
        durable.sync_folder(place / "folder")
        (place / "folder" / "both").write_bytes(b"kept")
        durable.sync_file(place / "folder" / "both")
        durable.sync_folder(place / "folder")
        (place / "old").write_bytes(b"newer")
        (place / "old").rename(place / "renamed")
        assert (place / "renamed").read_bytes() == b"newer"
        assert sorted(path.name for path in place.iterdir()) == ["content", "folder", "renamed", "unsynced"]
    assert after(start, log) == {"old": b"old", "folder": None, "folder/name": b"", "folder/both": b"kept"}
    live = after(start, log, "names")
    assert live["content"] == b"synced"
    assert live["unsynced"] == b""
    assert live["renamed"] == b"old"
    assert after(start, log, "bytes")["old"] == b"newer"
    kinds = {cut.kind for cut in cuts(start, log, ignore="none/")}
    assert kinds >= {"strict", "names", "bytes"}


@pytest.mark.parametrize("kind", ["strict", "names"])
def test_what_is_written_durably_is_kept(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "disk"
    with mounted({}, place) as log:
        (place / "made").mkdir()  # by a process that was killed before it made the name durable
        durable.durable_write(place / "made" / "deep" / "file", b"1")
        durable.durable_write(place / "made" / "deep" / "file", b"2")
    assert after({}, log, kind)["made/deep/file"] == b"2"


def test_a_transaction_that_was_acknowledged_is_kept(tmp_path: Path) -> None:
    place, clock = tmp_path / "disk", ManualClock()
    with mounted({}, place) as log:
        ledger = SqlLedger(open_database(place / "state.db"), clock)
        with ledger.transaction() as transaction:
            transaction.append("kind", "acknowledged", {})
        ledger.close()
    for kind in ("strict", "names", "bytes"):
        left = tmp_path / kind
        left.mkdir()
        for name, content in after({}, log, kind).items():
            (left / name).write_bytes(content or b"")
        again = SqlLedger(open_database(left / "state.db"), clock)
        assert [event.subject for event in again.events()] == ["acknowledged"]
        again.close()
