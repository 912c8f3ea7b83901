"""What changed around user code while it ran: told, with nobody blamed."""

from pathlib import Path

import pytest

from interlock.model import surroundings
from interlock.model.surroundings import Surroundings
from interlock.settings import Batch, Data, HoldoutSpec, Model, Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in ("inbox/deep", "aside", "to_score"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("interlock.toml", "train.py", "inbox/a.csv", "inbox/deep/b.csv", "aside/c.csv", "to_score/d.csv"):
        (tmp_path / name).write_text("as it was")
    return Settings(
        model=Model(name="m", task="classification", target="y"),
        data=Data(inbox="inbox", holdout=HoldoutSpec(inbox="aside")),
        batch=Batch(inbox="to_score"),
        root=tmp_path,
    )


def test_nothing_changed(settings: Settings) -> None:
    around = Surroundings(settings, ["train.py"])
    (settings.root / "inbox" / "new.csv").write_text("somebody sent it meanwhile")
    (settings.root / "train.py").read_text()
    assert around.changes() == ""


@pytest.mark.parametrize(
    "name", ["interlock.toml", "train.py", "inbox/a.csv", "inbox/deep/b.csv", "aside/c.csv", "to_score/d.csv"]
)
def test_what_is_gone_or_changed_is_named(settings: Settings, name: str) -> None:
    around = Surroundings(settings, ["train.py"])
    (settings.root / name).write_text("something else")
    assert around.changes() == f"{name} (changed)"
    (settings.root / name).unlink()
    assert around.changes() == f"{name} (gone)"


def test_a_file_that_was_replaced_by_one_of_the_same_size_and_time_has_changed(settings: Settings) -> None:
    import os

    around = Surroundings(settings, [])
    path = settings.root / "inbox" / "a.csv"
    facts = path.stat()
    path.with_suffix(".tmp").write_text("as it wa5")
    os.utime(path.with_suffix(".tmp"), ns=(facts.st_atime_ns, facts.st_mtime_ns))
    path.with_suffix(".tmp").rename(path)
    assert around.changes() == "inbox/a.csv (changed)"


def test_a_file_that_was_never_there_is_nobodys_loss(settings: Settings) -> None:
    around = Surroundings(settings, ["not_there.py"])
    (settings.root / "not_there.py").write_text("x")
    assert around.changes() == ""


def test_a_few_are_named_and_the_rest_counted(settings: Settings) -> None:
    for number in range(1_200):
        (settings.root / "inbox" / f"{number:04}.csv").write_text("x")
    around = Surroundings(settings, [])
    for number in range(1_200):
        (settings.root / "inbox" / f"{number:04}.csv").unlink()
    assert around.changes().endswith(" and 1,195 more")
    assert around.changes().count("(gone)") == 5


def test_only_so_many_files_are_looked_at(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "_MOST_FILES", 0)
    around = Surroundings(settings, ["train.py"])
    for name in ("inbox/a.csv", "train.py"):
        (settings.root / name).unlink()
    assert around.changes() == "train.py (gone)", "the project's own are looked at first"
