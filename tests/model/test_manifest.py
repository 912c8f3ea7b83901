import hashlib
from pathlib import Path

import msgspec
import pytest

from interlock.errors import BundleCorrupt
from interlock.model.manifest import FORMAT, Manifest, PackedFile, listed, read_manifest, verify
from interlock.records import canonical


def manifest_of(*files: PackedFile, **more) -> Manifest:
    fields = {
        "format": FORMAT,
        "name": "m",
        "task": "custom",
        "kind": "model",
        "form": "native",
        "snapshot": "s",
        "code": "c",
        "params": {},
        "seed": 0,
        "python": "3.11",
        "columns": (),
        "native": None,
        "files": files,
    }
    return Manifest(**{**fields, **more})


def read(manifest: object) -> Manifest:
    content = canonical(manifest)
    return read_manifest(content, hashlib.sha256(content).hexdigest())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("x = 1")
    (tmp_path / "MLmodel").write_text("")
    return tmp_path


def test_lists_and_verifies(folder):
    files = listed(folder)
    assert [file.path for file in files] == ["MLmodel", "code/train.py"]
    manifest = read(manifest_of(*files))
    assert manifest.files == files
    verify(folder, manifest, "d")


def test_byte_code_beside_the_sources_is_passed_over(folder):
    manifest = manifest_of(*listed(folder))
    (folder / "code" / "__pycache__").mkdir()
    (folder / "code" / "__pycache__" / "train.cpython-311.pyc").write_bytes(b"")
    verify(folder, manifest, "d")


def test_a_linked_folder_is_refused(folder, tmp_path_factory):
    manifest = manifest_of(*listed(folder))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "more").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(BundleCorrupt, match="'more' is a link"):
        verify(folder, manifest, "d")


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", "a/./b", "a\\b", "", "manifest.json", "a\nb"])
def test_unsafe_names(path):
    with pytest.raises(BundleCorrupt, match="outside"):
        read(manifest_of(PackedFile(path=path, digest="0" * 64, size_bytes=0)))


def test_names_twice():
    file = PackedFile(path="a", digest="0" * 64, size_bytes=0)
    with pytest.raises(BundleCorrupt, match="twice"):
        read(manifest_of(file, file))


def test_other_formats_and_strangers():
    with pytest.raises(BundleCorrupt, match="format 2"):
        read(manifest_of(format=2))
    with pytest.raises(BundleCorrupt, match="no manifest"):
        read({**msgspec.to_builtins(manifest_of()), "surprise": 1})
    with pytest.raises(BundleCorrupt, match="has the digest"):
        read_manifest(canonical(manifest_of()), "0" * 64)
    with pytest.raises(BundleCorrupt, match="more than any manifest"):
        read_manifest(b" " * (8 * 1024 * 1024 + 1), "0" * 64)
