"""SQLite's locks do not hold on a network share, so the state may not lie there."""

from pathlib import Path

import pytest

from interlock.errors import SettingsError
from interlock.store import mounts
from interlock.store.mounts import file_system, require_local


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lines = [
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
        f"22 21 0:40 / {str(tmp_path).replace(' ', chr(92) + '040')}/share rw - nfs4 server:/x rw",
        f"23 22 0:41 / {tmp_path}/share/a{chr(92)}040b rw shared:3 - tmpfs tmpfs rw",
        f"24 21 0:42 / {tmp_path}/over rw - ext4 /dev/sdb rw",
        f"25 24 0:43 / {tmp_path}/over rw - fuse.sshfs host: rw",
    ]
    path = tmp_path / "mountinfo"
    path.write_text("\n".join(lines))
    monkeypatch.setattr(mounts, "_MOUNTS", path)
    return tmp_path


def test_the_innermost_and_last_mount_decides(table: Path) -> None:
    assert file_system(table / "state.db") == "ext4"
    assert file_system(table / "share" / "state.db") == "nfs4"
    assert file_system(table / "shared" / "state.db") == "ext4"
    assert file_system(table / "share" / "a b" / "c" / "state.db") == "tmpfs"
    assert file_system(table / "over") == "fuse.sshfs"


def test_a_network_share_is_refused_with_what_to_do(table: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        require_local(table / "share" / "state.db", allowed=False)
    assert "network file system (nfs4)" in caught.value.message
    assert "postgresql://" in caught.value.next_step
    assert 'store.network_disk = "allow"' in caught.value.next_step
    require_local(table / "share" / "state.db", allowed=True)
    require_local(table / "state.db", allowed=False)


def test_a_link_is_followed(table: Path) -> None:
    (table / "share").mkdir()
    (table / "link").symlink_to(table / "share")
    with pytest.raises(SettingsError):
        require_local(table / "link" / "state.db", allowed=False)


def test_where_there_is_no_such_table_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "none")
    require_local(tmp_path / "state.db", allowed=False)
