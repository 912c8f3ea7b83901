import os
import subprocess
import sys
from pathlib import Path

import pytest

from interlock.data import inbox as inbox_module
from interlock.data.inbox import FolderInbox, ObjectInbox, being_written, is_skipped, open_inbox
from interlock.errors import SettingsError
from interlock.settings import Model, Settings
from interlock.testing.fakes import MemoryBlobs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


def names(folder: Path, said: list[str] | None = None) -> list[str]:
    return [arrival.name for arrival in FolderInbox(folder).arrivals((said if said is not None else []).append)]


def test_files_come_in_name_order_from_all_levels(folder: Path) -> None:
    for name in ("b.csv", "a.csv", "2024/01/x.parquet", "10.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    assert names(folder) == ["10.jsonl", "2024/01/x.parquet", "a.csv", "b.csv"]


@pytest.mark.parametrize(
    "name",
    [".a.csv", "_a.csv", "a.csv.tmp", "a.csv.part", "a.csv.crdownload", ".a.csv.swp", "a.csv~", "_x/a.csv", ".x/a.csv"],
)
def test_hidden_and_unfinished_names_are_skipped(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    said: list[str] = []
    assert is_skipped(name)
    assert names(folder, said) == []
    assert said == []


def test_unknown_suffixes_are_told_once(folder: Path) -> None:
    for name in "abcdefg":
        (folder / f"{name}.txt").write_text("x")
    said: list[str] = []
    assert names(folder, said) == []
    assert len(said) == 1
    assert "a.txt" in said[0]
    assert "2 more" in said[0]


def test_links_that_leave_the_inbox_are_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x.csv").write_text("a\n1\n")
    (folder / "real.csv").write_text("a\n1\n")
    (folder / "out.csv").symlink_to(tmp_path / "secret.csv")
    (folder / "inside.csv").symlink_to("real.csv")
    (folder / "gone.csv").symlink_to("nowhere.csv")
    (folder / "dir").symlink_to(tmp_path / "more")
    said: list[str] = []
    assert names(folder, said) == ["inside.csv", "real.csv"]
    assert any("out.csv" in line for line in said)
    assert any("dir" in line for line in said)


def test_pipes_are_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "p.csv")
    said: list[str] = []
    assert names(folder, said) == []
    assert "not a regular file" in said[0]


def test_names_that_are_no_utf8_can_be_told(folder: Path) -> None:
    path = os.fsencode(folder) + b"/a\xff.csv"
    Path(os.fsdecode(path)).write_text("x")
    (found,) = names(folder)
    assert found.encode() == b"a\\xff.csv"


def test_a_copy_is_made_and_hashed(folder: Path, tmp_path: Path) -> None:
    (folder / "a.csv").write_bytes(b"abc")
    inbox = FolderInbox(folder)
    (arrival,) = inbox.arrivals(print)
    staged = inbox.stage(arrival, tmp_path / "copy", print)
    assert staged is not None
    assert staged.path.read_bytes() == b"abc"
    assert staged.digest == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    assert (folder / "a.csv").read_bytes() == b"abc"


@pytest.mark.skipif(sys.platform != "linux", reason="read leases are Linux")
def test_a_file_that_another_process_writes_is_left(folder: Path, tmp_path: Path) -> None:
    path = folder / "a.csv"
    path.write_text("a\n")
    inbox, said = FolderInbox(folder), list[str]()
    (arrival,) = inbox.arrivals(print)
    code = "import sys; f = open(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert inbox.stage(arrival, tmp_path / "copy", said.append) is None
        assert "still being written" in said[0]
    assert inbox.stage(arrival, tmp_path / "copy", said.append) is not None


def test_the_lease_is_given_back(folder: Path) -> None:
    path = folder / "a.csv"
    path.write_text("a\n")
    with path.open("rb") as reader:
        assert being_written(reader.fileno()) is False
        with path.open("ab"):  # would block until the lease is broken
            assert being_written(reader.fileno()) is (sys.platform == "linux")


def test_a_file_that_changes_meanwhile_is_left(folder: Path, tmp_path: Path) -> None:
    path = folder / "a.csv"
    path.write_text("a\n1\n")
    inbox, said = FolderInbox(folder), list[str]()
    (arrival,) = inbox.arrivals(print)
    path.write_text("a\n1\n2\n")
    assert inbox.stage(arrival, tmp_path / "copy", said.append) is None
    assert "changed" in said[0]
    path.unlink()
    assert inbox.stage(arrival, tmp_path / "copy", said.append) is None
    assert "ENOENT" in said[1]


def test_an_inbox_that_is_not_there_is_told(tmp_path: Path) -> None:
    settings = Settings(model=Model(name="m", task="regression"), root=tmp_path)
    with pytest.raises(SettingsError, match="does not exist") as caught:
        open_inbox(settings, "nowhere")
    assert "mkdir" in caught.value.next_step
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="not a folder"):
        open_inbox(settings, "file")


def test_object_stores_are_inboxes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = MemoryBlobs()
    for key in ("b.csv", "a/x.csv", "_hidden.csv", "notes.txt", "a/.part.csv"):
        blobs.put(key, b"abc")
    monkeypatch.setattr(inbox_module, "open_blobs", lambda location, settings: blobs)
    settings = Settings(model=Model(name="m", task="regression"), root=tmp_path)
    inbox, said = open_inbox(settings, "s3://bucket/prefix"), list[str]()
    assert isinstance(inbox, ObjectInbox)
    first, second = inbox.arrivals(said.append)
    assert (first.name, second.name) == ("a/x.csv", "b.csv")
    assert "notes.txt" in said[0]
    staged = inbox.stage(first, tmp_path / "copy", print)
    assert staged is not None
    assert staged.digest.startswith("6437b3ac")
    blobs.delete("b.csv")
    assert inbox.stage(second, tmp_path / "copy2", said.append) is None
    assert "gone" in said[-1]
