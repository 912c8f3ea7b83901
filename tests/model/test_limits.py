"""What user code is held to, from the settings; what this system cannot keep is said before anything runs."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import SettingsError
from interlock.model import limits
from interlock.model.limits import limits_of, size_bytes
from interlock.settings import Data, HoldoutSpec, Model, Settings, Source, Store


def settings(root: Path, store: Store | None = None, data: Data | None = None, **model: Any) -> Settings:
    return Settings(
        model=Model(name="m", task="classification", target="y", **model),
        data=data or Data(inbox="inbox"),
        store=store or Store(),
        root=root,
    )


def test_without_settings_there_are_none(tmp_path: Path) -> None:
    assert limits_of(settings(tmp_path)) == limits.Limits()


@pytest.mark.parametrize(
    ("size", "found"), [("500MB", 500_000_000), ("4GB", 4_000_000_000), ("1.5GB", 1_500_000_000), ("2TB", 2 * 10**12)]
)
def test_sizes(size: str, found: int) -> None:
    assert size_bytes(size) == found


@given(st.text(max_size=8))
def test_what_is_no_size_is_said(text: str) -> None:
    if text[-2:] in ("MB", "GB", "TB") and text[:-2].isascii():
        return
    with pytest.raises(SettingsError) as caught:
        size_bytes(text)
    assert caught.value.next_step == "Write a number with MB, GB or TB: 500MB, 4GB."


def test_memory_is_taken_from_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings(tmp_path, memory="600MB")
    monkeypatch.setattr(limits, "can_watch", lambda: True)
    assert limits_of(asked).memory_bytes == 600_000_000
    monkeypatch.setattr(limits, "can_watch", lambda: False)
    with pytest.raises(SettingsError) as caught:
        limits_of(asked)
    assert caught.value.message == (
        "model.memory cannot be kept here: the memory of a process is watched on Linux only."
    )
    assert caught.value.next_step == "Take model.memory out, or run on Linux."


def test_hidden_are_inboxes_with_rows_the_lake_the_state_and_what_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "landlock_version", lambda: 1)
    data = Data(
        sources={"a": Source(inbox="in/a"), "b": Source(inbox="s3://bucket/b")}, holdout=HoldoutSpec(inbox="aside")
    )
    store = Store(lake="lake", state=f"sqlite:///{tmp_path}/away/s.db")
    found = limits_of(settings(tmp_path, store, data, confined=True)).hidden
    expected = [".interlock", "aside", "away/s.db", "away/s.db-journal", "in/a", "lake"]
    assert found == tuple(sorted(str(tmp_path.resolve() / name) for name in expected))


def test_a_place_is_hidden_where_a_link_to_it_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "landlock_version", lambda: 1)
    (tmp_path / "real").mkdir()
    (tmp_path / "inbox").symlink_to("real")
    found = limits_of(settings(tmp_path, confined=True)).hidden
    assert found is not None
    assert str((tmp_path / "real").resolve()) in found


def test_where_the_kernel_cannot_the_project_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "landlock_version", lambda: 0)
    with pytest.raises(SettingsError) as caught:
        limits_of(settings(tmp_path, confined=True))
    assert caught.value.message == (
        "model.confined cannot be kept here: it needs Linux 5.13 or newer with Landlock switched on."
    )
    assert caught.value.next_step == "Take model.confined out, or run on such a system."
    assert msgspec.json.decode(msgspec.json.encode(limits.Limits(memory_bytes=1)), type=limits.Limits).hidden is None
