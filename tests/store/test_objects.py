import os
import sys
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from moto.s3.models import s3_backends

from infra.faulty_proxy import KINDS, FaultyProxy
from interlock.errors import SettingsError, StoreFault
from interlock.store import objects as module
from interlock.store.disk import TEMPORARY
from interlock.store.objects import ObjectBlobs
from interlock.store.patience import Patience
from interlock.testing.conformance import BlobsConformance


class TestObjectBlobs(BlobsConformance):
    @pytest.fixture(autouse=True)
    def _bucket(self, bucket):
        self.bucket = bucket

    def open(self, folder: Path) -> ObjectBlobs:
        return ObjectBlobs(f"s3://{self.bucket}/some/prefix")


class TestObjectBlobsAtTheRoot(TestObjectBlobs):
    def open(self, folder: Path) -> ObjectBlobs:
        return ObjectBlobs(f"s3://{self.bucket}")


# ---- objects -----------------------------------------------------------------------------------------------------


def test_the_emulator_honours_conditions(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")
    assert caught.value.response["Error"]["Code"] == "PreconditionFailed"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"1"


def test_objects_are_where_other_tools_look(s3, bucket):
    store = ObjectBlobs(f"s3://{bucket}/lake/")
    store.put("bundles/a b/é.bin", b"1")
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["lake/.interlock-tmp-conditional", "lake/bundles/a b/é.bin"]
    s3.put_object(Bucket=bucket, Key="lake/theirs", Body=b"2")
    s3.put_object(Bucket=bucket, Key="lake2/other", Body=b"3")
    assert store.get("theirs") == b"2"
    assert [info.key for info in store.list()] == ["bundles/a b/é.bin", "theirs"]


def test_many_objects_come_in_pages(bucket):
    store = ObjectBlobs(f"s3://{bucket}/p")
    server = s3_backends["123456789012"]["aws"]  # straight into the emulator: a thousand requests take long
    for number in range(1_005):
        server.put_object(bucket, f"p/k{number:04d}", b"")
    assert sum(1 for _ in store.list("k")) == 1_005


def test_a_bucket_that_is_not_there(s3):
    store = ObjectBlobs("s3://no-such-bucket-here/p")
    with pytest.raises(StoreFault) as caught:
        store.put("k", b"1")
    assert "s3://no-such-bucket-here/p" in caught.value.message
    assert "NoSuchBucket" in caught.value.message
    assert len(caught.value.message) < 600
    with pytest.raises(StoreFault):
        list(store.list())


def test_plain_http_only_to_this_machine(monkeypatch, bucket):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://192.0.2.1:9")  # TEST-NET-1: reserved, and never reached
    with pytest.raises(SettingsError, match="plain HTTP"):
        ObjectBlobs(f"s3://{bucket}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    ObjectBlobs(f"s3://{bucket}")


@pytest.mark.parametrize("name", ["PermissionDeniedError", "UnauthenticatedError", "GenericError", "PreconditionError"])
def test_errors_of_obstore_are_mapped(name):
    import obstore.exceptions

    with pytest.raises(StoreFault) as caught, module.object_faults("s3://b/k"):
        raise getattr(obstore.exceptions, name)("first line\nsecond line")
    assert "second" not in caught.value.message
    assert ("credentials" in caught.value.next_step) == (name in ("PermissionDeniedError", "UnauthenticatedError"))


@pytest.mark.parametrize("error", [OSError("x"), ValueError("")])
def test_built_in_errors_of_obstore_are_mapped(error):
    with pytest.raises(StoreFault), module.object_faults("s3://b/k"):
        raise error


# ---- faults ------------------------------------------------------------------------------------------------------

QUICK = Patience(request_s=0.4, sleep=lambda _seconds: None)


@pytest.fixture
def proxy(s3_endpoint, s3, monkeypatch):
    with FaultyProxy(s3_endpoint).running() as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


@pytest.fixture
def far(proxy, bucket):
    """A store behind the proxy that has seen that conditions are honoured; requests count from 1 again."""
    store = ObjectBlobs(f"s3://{bucket}/p", QUICK)
    store.require_conditions()
    proxy.reset()
    return store


@pytest.mark.parametrize("kind", KINDS)
def test_one_fault_is_survived_by_every_operation(far, proxy, tmp_path, kind):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"content" * 1000)
    steps = [
        (lambda: far.put("a/k", source), True),
        (lambda: far.get("a/k"), b"content" * 1000),
        (lambda: far.fetch("a/k", target), None),
        (lambda: far.exists("a/k"), True),
        (lambda: far.exists("a/absent"), False),
        (lambda: [info.key for info in far.list("a/")], ["a/k"]),
        (lambda: far.delete("a/k"), None),
        (lambda: far.exists("a/k"), False),
    ]
    for act, expected in steps:
        proxy.reset(lambda number: kind if number == 1 else None)
        assert act() == expected
        assert len(proxy.harmed) == 1
        assert 2 <= len(proxy.seen) <= 3  # asked again once, and read back where the reply to a put was lost
    assert target.read_bytes() == b"content" * 1000


def test_two_conditional_puts_at_once_are_told_apart(far, proxy):
    proxy.reset(lambda number: "409" if number == 1 else None)
    assert far.put("k", b"mine")
    assert [seen.method for seen in proxy.seen] == ["PUT", "PUT"]
    proxy.reset(lambda number: "409" if number == 1 else None)
    assert not far.put("k", b"theirs")


@pytest.mark.parametrize("kind", ["reset-after", "hang-after"])
def test_a_lost_reply_is_resolved_by_reading(far, proxy, kind):
    proxy.reset(lambda number: kind if number == 1 else None)
    assert far.put("k", b"mine")  # it was us
    assert [seen.method for seen in proxy.seen] == ["PUT", "PUT", "GET"]
    proxy.reset(lambda number: "reset-before" if number == 1 else None)
    assert not far.put("k", b"theirs")  # it was not: other bytes are there
    assert far.get("k") == b"mine"
    proxy.reset()
    assert not far.put("k", b"mine")  # an undisturbed answer is taken as it is
    assert len(proxy.seen) == 1


def test_what_nobody_can_tell_is_unknown_and_nothing_is_deleted(far, proxy):
    proxy.reset(lambda number: "reset-after" if number == 1 else "hang")
    with pytest.raises(StoreFault, match="Nobody can say") as caught:
        far.put("k", b"mine")
    assert caught.value.facts["outcome"] == "unknown"
    assert {seen.method for seen in proxy.seen} == {"PUT", "GET"}
    proxy.reset()
    assert far.get("k") == b"mine"
    proxy.reset(lambda number: "503" if proxy.seen[-1].method == "PUT" else None)
    assert far.put("k", b"mine")  # writing is impossible, but reading says that it is there
    assert not far.put("k", b"other")
    with pytest.raises(StoreFault) as caught:
        far.put("never", b"1")
    assert caught.value.facts["outcome"] == "unknown"


@pytest.mark.parametrize("kind", ["503", "hang", "reset-before", "truncated"])
def test_everything_ends(far, proxy, tmp_path, kind):
    proxy.reset(lambda _number: kind)
    for act in (
        lambda: far.get("k"),
        lambda: far.fetch("k", tmp_path / "x"),
        lambda: far.exists("k"),
        lambda: list(far.list()),
        lambda: far.delete("k"),
    ):
        with pytest.raises(StoreFault) as caught:
            act()
        assert caught.value.next_step
        assert "testing-secret" not in str(caught.value)
    assert len(proxy.seen) <= 5 * 7
    assert not (tmp_path / "x").exists()


def test_a_store_that_ignores_conditions_is_refused(proxy, bucket):
    proxy.reset(lambda _number: "ignore-conditions")
    store = ObjectBlobs(f"s3://{bucket}/p", QUICK)
    for _ in range(2):
        with pytest.raises(StoreFault, match="ignores If-None-Match"):
            store.put("k", b"1")
    proxy.reset()
    assert not store.exists("k")
    assert store.put("k", b"1")
    assert store.put("l", b"1")
    assert [seen.path.rpartition("/")[2] for seen in proxy.seen[1:]] == [f"{TEMPORARY}conditional", "k", "l"]
    store.read_probe()


def test_large_objects_come_in_pieces_of_one_version(far, proxy, s3, bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1000)
    content = os.urandom(2_500)
    far.put("k", content)
    proxy.reset(lambda number: "truncated" if number == 2 else None)
    far.fetch("k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == content
    assert len(proxy.seen) == 4
    far.put("even", content[:2_000])
    proxy.reset()
    assert far.get("even") == content[:2_000]
    assert len(proxy.seen) == 2

    def overwritten(number):
        if number == 2:
            s3.put_object(Bucket=bucket, Key="p/k", Body=os.urandom(2_500))

    proxy.reset(overwritten)
    with pytest.raises(StoreFault):
        far.get("k")


def test_a_put_that_is_too_large_is_refused_before_it_is_sent(far, proxy, monkeypatch):
    monkeypatch.setattr(module, "_LARGEST_PUT_BYTES", 10)
    with pytest.raises(StoreFault, match="one conditional put"):
        far.put("k", b"x" * 11)
    assert proxy.seen == []


def test_replies_that_repeat_a_key_are_not_told():
    import obstore.exceptions

    text = (
        "Generic S3 error: Error performing GET http://user:hidden@h/b in 3ms - Server returned non-2xx status code: "
        "403 Forbidden: <?xml?><Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIAX</AWSAccessKeyId></Error>"
    )
    with pytest.raises(StoreFault) as caught, module.object_faults("s3://b/k"):
        raise obstore.exceptions.PermissionDeniedError(text)
    assert "SignatureDoesNotMatch" in caught.value.message
    assert "AKIAX" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_without_the_extra_the_next_step_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(SettingsError) as caught:
        ObjectBlobs("s3://b/p")
    assert caught.value.next_step == "pip install 'interlock[s3]'"
