"""One project, one state, one lake."""

import shutil
from pathlib import Path

import pytest

from interlock.app import open_parts
from interlock.configuration import load_settings
from interlock.errors import SettingsError, StoreFault
from interlock.settings import Model, Settings, Store
from interlock.store.claim import COLLECTION, KEY, MARK, Owner, claim
from interlock.testing.clock import ManualClock
from interlock.testing.fakes import MemoryBlobs, MemoryLedger

BASE = '[model]\nname = "{name}"\ntask = "custom"\n[data]\ninbox = "in"\n[store]\nstate = "{state}"\n'


def settings_of(folder: Path, name: str, state: str, **more: str) -> Settings:
    folder.mkdir(exist_ok=True)
    rest = "".join(f'{key} = "{value}"\n' for key, value in more.items())
    (folder / "interlock.toml").write_text(BASE.format(name=name, state=state) + rest)
    return load_settings(folder)


def events_of(settings: Settings) -> int:
    with open_parts(settings) as parts:
        return len(parts.ledger.events())


@pytest.fixture(params=["sqlite", "postgres"])
def shared(request, tmp_path):
    """Address of a state that several projects could name."""
    return f"sqlite:///{tmp_path}/shared.db" if request.param == "sqlite" else request.getfixturevalue("pg").url


# ---- the state ---------------------------------------------------------------------------------------------------


def test_a_second_project_is_refused_with_both_names(tmp_path, shared):
    first = settings_of(tmp_path / "a", "first", shared)
    assert events_of(first) == 0
    with pytest.raises(SettingsError, match="belongs to project 'first', and this is 'second'") as caught:
        events_of(settings_of(tmp_path / "b", "second", shared))
    assert "store.schema" in caught.value.next_step
    assert shared not in str(caught.value) or shared.startswith("sqlite")
    assert events_of(first) == 0


def test_a_renamed_model_goes_on_under_its_old_name(tmp_path, shared):
    events_of(settings_of(tmp_path / "a", "old", shared))
    with pytest.raises(SettingsError, match=r"project 'old'") as caught:
        events_of(settings_of(tmp_path / "a", "new", shared))
    assert "store.project = 'old'" in caught.value.next_step
    assert events_of(settings_of(tmp_path / "a", "new", shared, project="old")) == 0


def test_the_state_in_a_projects_own_folder_is_its_own_under_any_name(tmp_path):
    for name in ("old", "new"):
        assert events_of(settings_of(tmp_path / "a", name, "sqlite")) == 0


def test_projects_in_two_schemas_share_a_database(tmp_path, pg):
    for name in ("first", "second", "first"):
        assert events_of(settings_of(tmp_path / name, name, pg.url, schema=name)) == 0
    names = pg.execute("SELECT nspname FROM pg_namespace WHERE nspname IN ('first', 'second', 'interlock') ORDER BY 1")
    assert names == [("first",), ("interlock",), ("second",)]


def test_who_comes_second_in_the_same_moment_takes_the_first_ones_word(tmp_path):
    class Late(MemoryLedger):
        """Another program writes between the look and the insert."""

        looks = 0

        def read(self, collection, key, type):
            self.looks += 1
            if self.looks == 1:
                with self.transaction() as t:
                    t.insert(COLLECTION, KEY, Owner(name="faster", token="other"))
                return None
            return super().read(collection, key, type)

    with pytest.raises(SettingsError, match="'faster'"):
        claim(Late(ManualClock()), MemoryBlobs(), settings_of(tmp_path / "a", "slower", "sqlite:///x.db"), "x.db")


# ---- the lake ----------------------------------------------------------------------------------------------------


def test_a_checkout_with_another_lake_is_refused_and_one_with_a_copy_is_not(tmp_path, shared):
    events_of(settings_of(tmp_path / "a", "same", shared))
    with pytest.raises(StoreFault, match="is not there, and the state tells of what it held"):
        events_of(settings_of(tmp_path / "b", "same", shared))
    shutil.copytree(tmp_path / "a" / ".interlock", tmp_path / "b" / ".interlock", dirs_exist_ok=True)
    assert events_of(settings_of(tmp_path / "b", "same", shared)) == 0


def remote(lake: str = "s3://b/p", name: str = "m") -> Settings:
    return Settings(model=Model(name=name, task="regression"), root=Path(), store=Store(lake=lake))


def test_the_first_state_has_the_lake_and_another_is_refused():
    blobs, ledger, other = MemoryBlobs(), MemoryLedger(ManualClock()), MemoryLedger(ManualClock())
    claim(ledger, blobs, remote(name="mine"), "here")
    claim(ledger, blobs, remote(name="mine"), "here")
    with pytest.raises(SettingsError, match="belongs to another state, that of project 'mine'"):
        claim(other, blobs, remote(name="theirs"), "there")
    claim(other, MemoryBlobs(), remote("s3://b/theirs", name="theirs"), "there")
    assert [info.key for info in blobs.list()] == [MARK]


def test_a_kill_between_state_and_lake_is_cured_by_opening_again():
    blobs, ledger = MemoryBlobs(), MemoryLedger(ManualClock())
    for known in (Owner(name="m", token="mine"), Owner(name="m", token="mine")):
        with ledger.transaction() as t:
            t.put(COLLECTION, KEY, known)  # killed before the lake had it; and before the state knew that it has
        claim(ledger, blobs, remote(), "here")
        assert ledger.read(COLLECTION, KEY, Owner) == Owner(name="m", token="mine", lake="s3://b/p")


def test_a_lake_in_a_bucket_is_looked_at_once_and_again_when_it_moves():
    class Counted(MemoryBlobs):
        gets = 0

        def get(self, key):
            self.gets += 1
            return super().get(key)

    blobs, ledger = Counted(), MemoryLedger(ManualClock())
    claim(ledger, blobs, remote(), "here")
    seen = blobs.gets
    claim(ledger, blobs, remote(), "here")
    assert blobs.gets == seen
    claim(ledger, blobs, remote("s3://copy/p"), "here")
    assert blobs.gets == seen + 1
    with pytest.raises(StoreFault, match="is not there"):
        claim(ledger, MemoryBlobs(), remote("s3://empty/p"), "here")


def test_a_mark_that_cannot_be_read():
    blobs = MemoryBlobs()
    blobs.put(MARK, b"{}")
    with pytest.raises(StoreFault, match="cannot be read"):
        claim(MemoryLedger(ManualClock()), blobs, remote(), "here")
