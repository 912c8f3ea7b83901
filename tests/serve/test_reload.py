"""A newer release is shown into the room; one that cannot be loaded is not."""

import threading
from dataclasses import replace

import msgspec
import pytest

from interlock.answer import live
from interlock.answer.guard import Limits
from interlock.answer.live import Loader
from interlock.errors import BundleCorrupt, NotFound, NothingToServe, SettingsError, StoreFault
from interlock.records import Release
from interlock.serve import reload
from interlock.serve.last_known import last_known_of
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


class Store:
    """Gives bundles but for those that are away."""

    def __init__(self, project, monkeypatch):
        self.away, self._project = set(), project
        monkeypatch.setattr(live, "open_bundle", self.open)

    def open(self, _, digest):
        if digest in self.away:
            raise StoreFault("The store is away.")
        return self._project.bundles[digest]


def test_a_model_that_the_store_did_not_give_is_asked_for_again(project, tmp_path, monkeypatch):
    store = Store(project, monkeypatch)
    follower, shown, said = follower_of(project)
    follower.first()
    good = project.bundles[project.parts.ledger.scan("release", Release)[0][1].champion]
    champion = project.release_of(tmp_path, 2, last_good=good).bundle.digest
    store.away = {champion}
    for _ in range(3):
        follower.look()
        project.clock.advance(6.0)
    assert [seat.tier for seat in shown[-1].live.seats] == ["last-good", "baseline"]
    assert (len(shown), sum("cannot be loaded" in line for line in said)) == (1, 1)
    store.away = set()
    follower.look()
    assert [seat.tier for seat in shown[-1].live.seats] == ["champion", "last-good", "baseline"]
    project.clock.advance(6.0)
    follower.look()
    assert len(shown) == 2


def test_a_release_of_which_the_store_gave_nothing_is_asked_for_again(project, tmp_path, monkeypatch):
    store = Store(project, monkeypatch)
    follower, shown, said = follower_of(project)
    follower.first()
    champion = project.release_of(tmp_path, 2).bundle.digest
    store.away = {champion}
    follower.look()
    assert (shown, follower.problem[:29]) == ([], "release 2 cannot be loaded, t")
    store.away = set()
    follower.look()
    assert shown == []  # not at once: the store has time to come back
    project.clock.advance(6.0)
    follower.look()
    assert [room.live.generation for room in shown] == [2]
    assert len(said) == 3


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


# ---- without the state -------------------------------------------------------------------------------------------


class Away:
    """A ledger that is away until it is brought back."""

    def __init__(self, ledger, error):
        self._ledger, self.error = ledger, error

    def __getattr__(self, name):
        if self.error is not None:
            raise self.error
        return getattr(self._ledger, name)


@pytest.fixture
def remembered(project):
    """A project whose release in force was kept by a server that is gone."""
    last_known = last_known_of(project.parts.settings, project.clock)
    release = project.parts.ledger.scan("release", Release)[0][1]
    last_known.keep_release(release, {})
    return last_known


@pytest.mark.parametrize("error", [StoreFault("The database is away."), NothingToServe("There is no state.")])
def test_a_server_starts_with_what_this_host_remembers_and_follows_again(project, tmp_path, remembered, error):
    away = Away(project.parts.ledger, error)
    project.parts = replace(project.parts, ledger=away)
    follower, shown, said = follower_of(project, last_known=remembered)
    back = []
    follower.on_back = back.append
    assert follower.first()[0].live.generation == 1
    assert follower.source == "memory"
    assert said[0] == f"the state cannot be read: {error.message}"
    assert said[1].startswith("ANSWERS FROM MEMORY: release 1 of ")
    assert f"read from {project.root}" in said[1]
    follower.look()
    assert (follower.source, back) == ("memory", [])
    away.error = None
    follower.look()
    assert (follower.source, follower.problem) == ("state", "")
    assert [release.generation for release in back] == [1]
    assert said[-1] == "the state can be read again: release 1 is in force"
    project.release_of(tmp_path, 2)
    follower.look()
    assert [room.live.generation for room in shown] == [2]


def test_a_state_that_tells_of_nothing_does_not_stop_what_is_remembered(project, remembered):
    follower, _, said = follower_of(project, last_known=remembered)
    follower._parts.ledger._state.documents.clear()
    assert follower.first()[1].generation == 1
    follower.look()
    assert follower.source == "memory"
    assert said[0] == "the state cannot be read: Nothing is live, so there is nothing to serve."


def test_a_memory_that_cannot_be_trusted_is_told_and_not_used(project, remembered):
    path = next((project.parts.settings.home / "last-known").rglob("release.json"))
    path.write_bytes(path.read_bytes().replace(b"better", b"butter"))
    project.parts = replace(project.parts, ledger=Away(project.parts.ledger, StoreFault("The database is away.")))
    follower, _, said = follower_of(project, last_known=remembered)
    with pytest.raises(StoreFault, match="The database is away"):
        follower.first()
    assert "is not as this host wrote it" in said[0]


def test_settings_that_are_wrong_are_no_lost_database(project, remembered):
    project.parts = replace(project.parts, ledger=Away(project.parts.ledger, SettingsError("Somebody else's.")))
    with pytest.raises(SettingsError):
        follower_of(project, last_known=remembered)[0].first()


def test_what_answers_is_kept_and_what_cannot_be_is_tried_again_later(project, tmp_path, monkeypatch):
    last_known = last_known_of(project.parts.settings, project.clock)
    kept, fails = [], [StoreFault("The disk is full.")]

    def keep(release, opened):
        if fails:
            raise fails.pop()
        kept.append((release.generation, len(opened)))

    monkeypatch.setattr(last_known, "keep_release", keep)
    follower, _, said = follower_of(project, last_known=last_known)
    follower.first()
    follower.look()
    follower.look()
    assert (kept, said) == ([], ["release 1 is not kept on this disk: The disk is full."])
    project.clock.advance(61.0)
    follower.look()
    follower.look()
    assert kept == [(1, 2)]
    project.release_of(tmp_path, 2)
    follower.look()
    assert [generation for generation, _ in kept] == [1, 2]


def test_a_bundle_is_opened_from_this_disk_and_else_from_the_lake(project):
    release, said = project.parts.ledger.scan("release", Release)[0][1], []
    spare = {release.champion: project.bundles.pop(release.champion)}
    problem = {}

    def kept(digest):
        if digest in problem:
            raise problem[digest]
        if digest not in spare:
            raise NotFound("none here")
        return spare[digest]

    def load():
        loader = Loader(project.parts, dict, limits=Limits(), workers=1, spare=kept)
        return [seat.tier for seat in loader.load(release, said.append).seats]

    assert load() == ["champion", "baseline"]
    assert said == []
    problem[release.champion] = BundleCorrupt("A byte was changed.")
    project.bundles |= spare
    assert load() == ["champion", "baseline"]
    assert said == [f"the copy of bundle {release.champion[:12]} on this disk is not used: A byte was changed."]


def test_a_challenger_is_not_tried_while_the_state_is_away(project, remembered, monkeypatch):
    release, said = project.parts.ledger.scan("release", Release)[0][1], []
    release = msgspec.structs.replace(release, challenger="c" * 64)
    monkeypatch.setattr(project.parts.ledger, "scan", None)
    project.parts = replace(project.parts, ledger=Away(project.parts.ledger, StoreFault("The database is away.")))
    loader = loader_of(project)
    found = loader.load(release, said.append)
    assert [seat.tier for seat in found.everybody] == ["champion", "baseline"]
    assert loader.is_away
    assert said == ["the challenger is not tried while the state cannot be read: The database is away."]
