"""What a host remembers of a release: whole, as it was written, or refused."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from answer.kit import SIGNATURE
from interlock.errors import BundleCorrupt, NotFound, StoreFault
from interlock.model.bundle import Opened, open_folder
from interlock.model.forms import Constant
from interlock.model.manifest import FORMAT, Manifest, listed
from interlock.records import Release, canonical, digest
from interlock.release.breaker import State
from interlock.serve.last_known import LastKnown, Unrecorded, last_known_of
from interlock.testing.clock import ManualClock


def packed(folder, share=0.4) -> Opened:
    """A whole bundle in a folder."""
    form = Constant(value="no", shares=(1.0 - share, share))
    (folder / "fast").mkdir(parents=True)
    for name, content in form.files().items():
        (folder / "fast" / name).write_bytes(content)
    (folder / "signature.json").write_bytes(canonical(SIGNATURE))
    manifest = Manifest(
        format=FORMAT, name="demo", task="classification", kind="baseline", form="constant", snapshot="s" * 64, code="",
        params={}, seed=0, python="3.11", columns=(), native=None, files=listed(folder),
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(canonical(manifest))
    opened = open_folder(folder, digest(manifest))
    return Opened(bundle=replace(opened.bundle, at="2026-01-01T00:00:00.000000Z"), path=folder)


def release_of(champion, generation=1, last_good=None) -> Release:
    return Release(
        generation=generation,
        champion=champion.bundle.digest,
        last_good=last_good and last_good.bundle.digest,
        baseline="b" * 64,
        cause="gate",
        because="better",
    )


@pytest.fixture
def last_known(tmp_path):
    return LastKnown(tmp_path / "kept", ManualClock(), project="demo", state="postgresql://db/x", lake="s3://lake")


def test_a_host_that_never_served_remembers_nothing(last_known):
    assert last_known.release() is None
    assert last_known.duty() is None
    with pytest.raises(NotFound):
        last_known.open("a" * 64)


def test_a_release_and_its_bundles_are_kept_and_name_where_they_came_from(last_known, tmp_path):
    first, good = packed(tmp_path / "a"), packed(tmp_path / "b", 0.3)
    release = release_of(first, 7, good)
    last_known.keep_release(release, {each.bundle.digest: each for each in (first, good)})
    kept = last_known.release()
    assert kept.release == release
    assert (kept.project, kept.state, kept.lake) == ("demo", "postgresql://db/x", "s3://lake")
    assert kept.at == "2026-01-01T00:00:00.000000Z"
    found = last_known.open(first.bundle.digest)
    assert found.bundle == first.bundle
    assert found.path != first.path
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["bundles", "release.json"]
    assert len(list((tmp_path / "kept" / "bundles").iterdir())) == 2


def test_a_bundle_outlives_the_lake_and_a_disk_without_links(last_known, tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    first = packed(tmp_path / "a")
    last_known.keep_release(release_of(first), {first.bundle.digest: first})
    (tmp_path / "a" / "signature.json").write_text("{}")
    assert last_known.open(first.bundle.digest).bundle == first.bundle


def test_a_kept_bundle_that_was_changed_is_refused_and_replaced(last_known, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: Path("/nowhere").stat())
    first = packed(tmp_path / "a")
    opened = {first.bundle.digest: first}
    last_known.keep_release(release_of(first), opened)
    path = last_known.open(first.bundle.digest).path / "signature.json"
    path.write_bytes(path.read_bytes().replace(b"blue", b"bleu"))
    with pytest.raises(BundleCorrupt, match=r"signature\.json"):
        last_known.open(first.bundle.digest)
    last_known.keep_release(release_of(first), opened)
    assert last_known.open(first.bundle.digest).bundle == first.bundle


def test_a_source_that_changed_since_it_was_opened_is_not_kept(last_known, tmp_path):
    first = packed(tmp_path / "a")
    (tmp_path / "a" / "signature.json").write_text("{}")
    with pytest.raises(BundleCorrupt):
        last_known.keep_release(release_of(first), {first.bundle.digest: first})
    assert last_known.release() is None
    assert list((tmp_path / "kept" / "bundles").iterdir()) == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda raw: raw[:-10],
        lambda raw: b"",
        lambda raw: raw.replace(b'"generation":1', b'"generation":2'),
        lambda raw: raw.replace(b'"generation":1', b'"generation":"\xff"'),
        lambda raw: b"{}",
    ],
    ids=["torn", "empty", "changed", "no text", "another"],
)
def test_a_record_that_is_not_as_it_was_written_is_refused(last_known, tmp_path, harm):
    first = packed(tmp_path / "a")
    last_known.keep_release(release_of(first), {first.bundle.digest: first})
    path = tmp_path / "kept" / "release.json"
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(StoreFault, match="is not as this host wrote it") as caught:
        last_known.release()
    assert str(path) in caught.value.message
    assert caught.value.next_step


def test_bundles_that_no_release_needs_go_after_an_hour(tmp_path):
    clock = ManualClock()
    last_known = LastKnown(tmp_path / "kept", clock)
    first, second = packed(tmp_path / "a"), packed(tmp_path / "b", 0.3)
    for number, each in enumerate((first, second)):
        last_known.keep_release(release_of(each, number + 1), {each.bundle.digest: each})
    folder = tmp_path / "kept" / "bundles"
    os.utime(folder / first.bundle.digest, (clock.now().timestamp(),) * 2)
    last_known.keep_release(release_of(second, 3), {second.bundle.digest: second})
    assert {path.name for path in folder.iterdir()} == {first.bundle.digest, second.bundle.digest}
    clock.advance(3_601.0)
    last_known.keep_release(release_of(second, 4), {second.bundle.digest: second})
    assert {path.name for path in folder.iterdir()} == {second.bundle.digest}
    assert last_known.open(second.bundle.digest)


def test_where_the_breaker_stands_is_kept_with_what_the_ledger_does_not_know(last_known):
    state = State(model="m" * 64, mode="open", kind="model", cause="class", epoch=3)
    waiting = (Unrecorded(kind="breaker.tripped", facts={"cause": "class"}),)
    last_known.keep_duty(state, waiting)
    kept = last_known.duty()
    assert (kept.state, kept.unrecorded) == (state, waiting)
    last_known.keep_duty(state)
    assert last_known.duty().unrecorded == ()


def test_the_salt_is_kept_for_this_user_alone_and_mended(last_known, tmp_path):
    assert last_known.salt() is None
    last_known.keep_salt("ab" * 32)
    assert last_known.salt() == "ab" * 32
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    (tmp_path / "kept" / "salt.json").write_text("{")
    with pytest.raises(StoreFault):
        last_known.salt()
    last_known.keep_salt("ab" * 32)
    assert last_known.salt() == "ab" * 32


def test_two_states_of_one_project_are_not_mixed_up(project):
    settings = project.parts.settings
    first = last_known_of(settings, project.clock)
    store = replace(settings.store, state="postgresql://user:secret@127.0.0.1:5432/x")
    second = last_known_of(replace(settings, store=store), project.clock)
    first.keep_duty(State(model="m"))
    second.keep_duty(State(model="n"))
    assert first.duty().state.model == "m"
    second.keep_release(release_of(packed(project.root / "a")), {})
    assert second.release().state == "postgresql://127.0.0.1:5432/x"
    everything = b"".join(path.read_bytes() for path in (settings.home / "last-known").rglob("*") if path.is_file())
    assert b"secret" not in everything
