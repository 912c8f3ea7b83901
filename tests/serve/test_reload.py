"""A newer release is shown into the room; one that cannot be loaded is not."""

import threading

import pytest

from interlock.errors import BundleCorrupt, NothingToServe, StoreFault
from interlock.records import Release
from interlock.serve import reload
from interlock.serve.reload import Follower
from serve.conftest import FORM, loader_of, opened_bundle


def follower_of(project, **options):
    shown, said = [], []
    show = lambda room, _: shown.append(room)  # noqa: E731
    return Follower(project.parts, loader_of(project), show, said.append, **options), shown, said


def test_a_newer_release_is_shown_once(project, tmp_path):
    follower, shown, said = follower_of(project)
    assert follower.first()[0].live.generation == 1
    follower.look()
    assert shown == []
    project.release_of(tmp_path, 2)
    follower.look()
    follower.look()
    assert [room.live.generation for room in shown] == [2]
    assert said == ["release 2 answers now"]


def test_a_release_that_cannot_be_loaded_leaves_the_one_before(project, tmp_path):
    follower, shown, said = follower_of(project)
    follower.first()
    broken = project.release_of(tmp_path, 2)
    (broken.path / "fast" / "form.json").write_text("{")
    follower.look()
    follower.look()
    assert shown == []
    assert len(said) == 2
    assert said[0].startswith("champion ")
    assert said[1].startswith("release 2 cannot be loaded, the one before goes on answering: form.json is not a form")
    assert follower.problem == said[1]
    project.release_of(tmp_path, 3)
    follower.look()
    assert [room.live.generation for room in shown] == [3]
    assert follower.problem == ""


def test_a_champion_that_cannot_be_loaded_leaves_its_last_good(project, tmp_path):
    good = opened_bundle(tmp_path / "good", FORM)
    broken = project.release_of(tmp_path, 2, last_good=good)
    (broken.path / "fast" / "form.json").write_text("{")
    follower, _, said = follower_of(project)
    assert [seat.tier for seat in follower.first()[0].live.seats] == ["last-good", "baseline"]
    assert "cannot be loaded" in said[0]


def test_at_the_start_the_baseline_answers_when_nothing_else_can(project, tmp_path):
    broken = project.release_of(tmp_path, 2)
    (broken.path / "fast" / "form.json").write_text("{")
    follower, _, _ = follower_of(project)
    assert [seat.tier for seat in follower.first()[0].live.seats] == ["baseline"]
    (project.bundles[project.parts.ledger.scan("release", Release)[1][1].baseline].path / "fast/form.json").write_text(
        "{"
    )
    with pytest.raises(BundleCorrupt):
        follower_of(project)[0].first()


def test_models_are_loaded_once_and_kept_while_needed(project, tmp_path):
    loader = loader_of(project)
    follower = Follower(project.parts, loader, lambda *_: None, lambda _: None)
    first = follower.first()[0].live.seats
    good = project.bundles[first[0].model]
    project.release_of(tmp_path, 2, last_good=good)
    follower.look()
    assert set(loader._models) >= {first[0].model}
    assert first[1].model not in loader._models


def test_a_state_that_cannot_be_read_is_told_once_and_nothing_stops(project, tmp_path, monkeypatch):
    follower, shown, said = follower_of(project)
    follower.first()

    def fail(ledger):
        raise StoreFault("The database is away.")

    with monkeypatch.context() as patch:
        patch.setattr(reload, "current", fail)
        follower.look()
        follower.look()
    assert said == ["the state cannot be read, the release in memory goes on answering: The database is away."]
    follower.look()
    assert follower.problem == ""
    project.release_of(tmp_path, 2)
    follower.look()
    assert [room.live.generation for room in shown] == [2]


def test_without_a_release_there_is_nothing_to_serve(project):
    follower, _, _ = follower_of(project)
    follower._parts.ledger._state.documents.clear()
    with pytest.raises(NothingToServe, match="Nothing is live"):
        follower.first()


def test_it_looks_in_a_thread_of_its_own(project, tmp_path):
    arrived = threading.Event()
    follower = Follower(project.parts, loader_of(project), lambda *_: arrived.set(), lambda _: None, look_every_s=0.01)
    follower.first()
    follower.start()
    project.release_of(tmp_path, 2)
    assert arrived.wait(10)
    follower.close()
