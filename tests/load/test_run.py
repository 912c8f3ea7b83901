"""The bodies of a load test, and that its tool stays out of every other process."""

import base64
import json
import subprocess
import sys
from io import BytesIO

import msgspec
import polars as pl
import pytest
from PIL import Image

from interlock.data.profile import profile
from interlock.data.signature import infer
from interlock.errors import Misuse, NothingToServe
from interlock.load.run import _image_kind, bodies_of, fit
from interlock.load.samples import ImageKind, Source
from interlock.records import Release, Signature


def source() -> Source:
    frame = pl.DataFrame({"x": [1.0, 2.5, 9.0], "picture": [b"a", b"bb", b"ccc"]})
    return Source(Signature(inputs=infer(frame)), profile(frame))


def test_a_body_is_a_record_or_a_batch_of_them() -> None:
    record = json.loads(bodies_of(source(), 1, 0)[0])
    assert list(record) == ["x", "picture"]
    assert 1 <= len(base64.b64decode(record["picture"])) <= 3
    batch = json.loads(bodies_of(source(), 3, 0)[0])
    assert [list(each) for each in batch["instances"]] == [["x", "picture"]] * 3
    with pytest.raises(Misuse):
        bodies_of(source(), 0, 0)


def test_bodies_follow_from_the_seed_and_differ() -> None:
    assert bodies_of(source(), 2, 5) == bodies_of(source(), 2, 5)
    assert set(bodies_of(source(), 2, 5)).isdisjoint(bodies_of(source(), 2, 6))
    assert len(set(bodies_of(source(), 2, 5))) == 1_000


def test_bodies_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlock.load.run._BODY_BYTES", 10_000)
    assert len(bodies_of(source(), 1, 0)) < 500
    assert len(bodies_of(source(), 100, 0)) == 16


@pytest.mark.parametrize(("format_", "mode"), [("PNG", "RGB"), ("JPEG", "L"), ("PNG", "P")])
def test_of_an_image_the_header_is_read(format_: str, mode: str) -> None:
    out = BytesIO()
    Image.new(mode, (6, 4)).save(out, format=format_)
    assert _image_kind(out.getvalue()) == ImageKind(format_, 6, 4, mode)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_has_no_kind(content: bytes) -> None:
    assert _image_kind(content) is None


def test_made_records_are_no_evidence_for_a_challenger() -> None:
    release = Release(generation=1, champion="c", last_good=None, baseline="b", cause="gate", because="")
    tried = msgspec.structs.replace(release, challenger="d")
    assert fit(release, own_server=True) == release
    assert fit(tried, own_server=False) == tried
    with pytest.raises(Misuse, match="on trial"):
        fit(tried, own_server=True)
    with pytest.raises(NothingToServe):
        fit(None, own_server=True)


def test_locust_is_in_no_process_but_its_own() -> None:
    program = (
        "import sys, interlock.cli.main, interlock.cli.loading, interlock.serve.server, interlock.load.run\n"
        "print(sorted({'locust', 'gevent', 'flask', 'geventhttpclient', 'interlock.load.users'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
    program = "import sys, interlock.serve.server; print([m for m in sys.modules if m.startswith('interlock.load')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
