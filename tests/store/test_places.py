from pathlib import Path

import pytest

from interlock.errors import SettingsError
from interlock.settings import Model, Settings, Store
from interlock.store.blobs import LocalBlobs
from interlock.store.objects import ObjectBlobs
from interlock.store.places import cache_of, open_blobs, patience_of


def settings(root: Path, **store) -> Settings:
    return Settings(model=Model(name="m", task="regression"), root=root, store=Store(**store))


def test_open_blobs(tmp_path, bucket):
    local = open_blobs(".interlock/lake", settings(tmp_path))
    local.put("k", b"1")
    assert (tmp_path / ".interlock" / "lake" / "k").read_bytes() == b"1"
    elsewhere = open_blobs(str(tmp_path / ".interlock" / "lake"), settings(Path("/elsewhere")))
    assert isinstance(elsewhere, LocalBlobs)
    assert elsewhere.get("k") == b"1"
    assert isinstance(open_blobs(f"s3://{bucket}/x", settings(tmp_path)), ObjectBlobs)
    for bad in ("gs://bucket", "ftp://x", "s3://", "s3:///x"):
        with pytest.raises(SettingsError):
            open_blobs(bad, settings(tmp_path))


def test_what_the_settings_say(tmp_path):
    found = settings(tmp_path, timeout="1500ms", cache_gb=0.5)
    assert patience_of(found).request_s == 1.5
    assert patience_of(found).total_s == 6.0
    assert cache_of(found).path("a/b") == tmp_path / ".interlock" / "cache" / "a" / "b"
