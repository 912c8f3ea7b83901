"""Publishing: whole or not at all, never over another's file, in a folder and in a bucket."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from interlock.answer.outlet import FolderOutlet, ObjectOutlet, Outlet, open_outlet, set_aside
from interlock.settings import Model, Settings
from interlock.testing.fakes import MemoryBlobs


def _folder(tmp_path: Path) -> Outlet:
    return FolderOutlet(tmp_path / "out", tmp_path, "turn-1")


def _bucket(tmp_path: Path) -> Outlet:
    return ObjectOutlet(MemoryBlobs(), "s3://bucket/out/", tmp_path / "scratch")


@pytest.fixture(params=[_folder, _bucket])
def outlet(request: pytest.FixtureRequest, tmp_path: Path) -> Outlet:
    make: Callable[[Path], Outlet] = request.param
    return make(tmp_path)


def publish(outlet: Outlet, name: str, content: bytes) -> bool:
    staged = outlet.staging(name)
    staged.write_bytes(content)
    written = outlet.publish(staged, name)
    assert not staged.exists()
    return written


def test_a_published_file_stands(outlet: Outlet) -> None:
    assert list(outlet.published("a")) == []
    assert publish(outlet, "a-1.parquet", b"one")
    assert not publish(outlet, "a-1.parquet", b"two")
    assert publish(outlet, "a-2.parquet", b"three")
    assert publish(outlet, "b.parquet", b"four")
    assert [(name, path.read_bytes()) for name, path in outlet.published("a-")] == [
        ("a-1.parquet", b"one"),
        ("a-2.parquet", b"three"),
    ]


def test_what_is_staged_is_not_published(outlet: Outlet) -> None:
    outlet.staging("a.parquet").write_bytes(b"half")
    assert list(outlet.published("a")) == []


def test_names_for_people(tmp_path: Path) -> None:
    assert _folder(tmp_path).shown("a.parquet") == "out/a.parquet"
    assert FolderOutlet(tmp_path / "out", tmp_path / "project", "t").shown("a") == str(tmp_path / "out" / "a")
    assert _bucket(tmp_path).shown("a.parquet") == "s3://bucket/out/a.parquet"


def test_dead_turns_are_swept_and_this_one_is_not(tmp_path: Path) -> None:
    dead = FolderOutlet(tmp_path / "out", tmp_path, "turn-0").staging("a.parquet")
    mine = _folder(tmp_path).staging("a.parquet")
    for path in (dead, mine, tmp_path / "out" / "published.parquet"):
        path.write_bytes(b"x")
    _folder(tmp_path).sweep()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([mine.name, "published.parquet"])


def test_sweeping_where_nothing_was_published(outlet: Outlet) -> None:
    outlet.sweep()


def test_a_file_system_without_links_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    outlet = _folder(tmp_path)
    assert publish(outlet, "a.parquet", b"one")
    assert not publish(outlet, "a.parquet", b"two")
    assert (tmp_path / "out" / "a.parquet").read_bytes() == b"one"


def test_where_the_setting_says(tmp_path: Path) -> None:
    settings = Settings(model=Model(name="m", task="classification"), root=tmp_path)
    assert isinstance(open_outlet(settings, "predictions", "t", tmp_path), FolderOutlet)
    outlet = open_outlet(settings, "predictions", "t", tmp_path)
    assert outlet.staging("x").parent == tmp_path / "predictions"


def test_what_was_refused_is_set_aside_over_an_older_one(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        (tmp_path / "s").write_bytes(content)
        kept = set_aside(tmp_path / "s", tmp_path / "refused", "a.parquet")
    assert kept.read_bytes() == b"new"
    assert not (tmp_path / "s").exists()
