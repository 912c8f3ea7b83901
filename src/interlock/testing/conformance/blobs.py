"""The suite for blobs."""

import threading
from pathlib import Path

from interlock.errors import NotFound, StoreFault
from interlock.ports import Blobs
from interlock.testing.conformance.statements import refuses


class BlobsConformance:
    """What every :class:`interlock.ports.Blobs` must do."""

    def open(self, folder: Path) -> Blobs:
        """Open the store under test, empty for a new ``folder`` (override)."""
        raise NotImplementedError

    def test_put_once(self, tmp_path: Path) -> None:
        """The first writer wins; the bytes stay."""
        blobs = self.open(tmp_path / "blobs")
        assert blobs.put("a/b/c.bin", b"first")
        assert not blobs.put("a/b/c.bin", b"second")
        assert blobs.get("a/b/c.bin") == b"first"
        assert blobs.exists("a/b/c.bin")
        assert not blobs.exists("a/b")
        assert not blobs.exists("a/b/d")

    def test_files_in_and_out(self, tmp_path: Path) -> None:
        """A file of three MiB, an empty one, and local() when there is one."""
        blobs = self.open(tmp_path / "blobs")
        content = bytes(range(256)) * (3 << 12)
        source, target = tmp_path / "source", tmp_path / "deep" / "target"
        source.write_bytes(content)
        assert blobs.put("big", source)
        assert blobs.put("empty", b"")
        blobs.fetch("big", target)
        assert target.read_bytes() == content
        blobs.fetch("empty", target)
        assert target.read_bytes() == b""
        local = blobs.local("big")
        assert local is None or local.read_bytes() == content
        assert blobs.local("absent") is None

    def test_what_is_absent(self, tmp_path: Path) -> None:
        """NotFound to read, nothing to delete, and no half file left behind."""
        blobs = self.open(tmp_path / "blobs")
        blobs.put("here/x", b"x")
        for key in ("absent", "here", "here/x/y", "here/absent"):
            with refuses(NotFound):
                blobs.get(key)
            with refuses(NotFound):
                blobs.fetch(key, tmp_path / "target")
        assert not (tmp_path / "target").exists()
        blobs.delete("absent")
        blobs.delete("here/x")
        blobs.delete("here/x")
        assert not blobs.exists("here/x")
        assert blobs.put("here/x", b"y")

    def test_list_is_in_key_order(self, tmp_path: Path) -> None:
        """By prefix of the text, not of the folder."""
        blobs = self.open(tmp_path / "blobs")
        assert list(blobs.list()) == []
        keys = ["a-b", "a/b", "a/c/d", "ab", "b/a", "a b/ü"]
        for key in keys:
            blobs.put(key, key.encode())
        assert [info.key for info in blobs.list()] == sorted(keys)
        assert [info.key for info in blobs.list("a")] == ["a b/ü", "a-b", "a/b", "a/c/d", "ab"]
        assert [info.key for info in blobs.list("a/")] == ["a/b", "a/c/d"]
        assert [info.key for info in blobs.list("a/c")] == ["a/c/d"]
        assert list(blobs.list("none/such")) == []
        (info,) = blobs.list("b")
        assert info.size_bytes == 3
        assert info.modified.endswith("Z")
        assert info.version == next(iter(blobs.list("b"))).version

    def test_keys_that_could_leave_the_root(self, tmp_path: Path) -> None:
        """No user text becomes a path."""
        blobs = self.open(tmp_path / "blobs")
        for key in (
            "",
            "/",
            "/etc/x",
            "../x",
            "a/../x",
            "a//b",
            "a/",
            ".",
            "a/./b",
            "a\0b",
            "a\nb",
            "a\\b",
            "x" * 2000,
        ):
            for call in (blobs.get, blobs.exists, blobs.delete, blobs.local):
                with refuses(StoreFault):
                    call(key)
            with refuses(StoreFault):
                blobs.put(key, b"x")
        assert list(blobs.list()) == []

    def test_one_of_many_writers_wins(self, tmp_path: Path) -> None:
        """A race for one key."""
        blobs = self.open(tmp_path / "blobs")
        start = threading.Barrier(6)
        wins: list[int] = []

        def write(number: int) -> None:
            start.wait()
            if blobs.put("race/key", f"{number}".encode() * 50_000):
                wins.append(number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1
        assert blobs.get("race/key") == f"{wins[0]}".encode() * 50_000
        assert [info.key for info in blobs.list()] == ["race/key"]
