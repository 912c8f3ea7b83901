import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from PIL import Image

from answer.kit import Project, make_project
from interlock.answer import batch, tiers
from interlock.data import images
from interlock.data.profile import profile
from interlock.model.bundle import Opened
from interlock.records import Bundle, Column, Output, Signature, canonical, digest

LONG_AGO_S = 1_700_000_000.0
SIGNATURE = Signature(
    inputs=(Column(name="image", type="bytes", nullable=False),),
    output=Output(kind="label", type="str", classes=("dark", "light")),
)


def picture(shade: int) -> bytes:
    file = BytesIO()
    Image.new("L", (4, 4), shade).save(file, "PNG")
    return file.getvalue()


class Eye:
    """Answers by the shade of the first pixel, as a user's predict function would."""

    form = "native"
    signature = SIGNATURE

    def ready(self) -> None:
        return

    def predict(self, frame: pl.DataFrame, *, encoded: bool = False) -> pl.DataFrame:
        shades = [Image.open(BytesIO(cell)).getpixel((0, 0)) for cell in frame["image"]]
        return pl.DataFrame({"prediction": ["light" if shade > 127 else "dark" for shade in shades]})

    def close(self) -> None:
        return


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    found = make_project(tmp_path / "project")
    data = msgspec.structs.replace(found.parts.settings.data, files="images", key=())
    found.parts = replace(found.parts, settings=msgspec.structs.replace(found.parts.settings, data=data))
    found.set(files="images", max_bad_rows=0.4)
    monkeypatch.setattr(tiers, "open_bundle", lambda _, wanted: found.open(wanted))
    monkeypatch.setattr(tiers, "open_predictor", lambda *_: Eye())
    found.release(eye_bundle(tmp_path / "bundle"), 1)
    return found


def eye_bundle(folder: Path) -> Opened:
    folder.mkdir()
    answers = pl.DataFrame({"prediction": np.repeat(["dark", "light"], 500)})
    (folder / "profile.json").write_bytes(canonical(profile(answers)))
    bundle = Bundle(
        digest=digest(str(folder)),
        name="demo",
        task="classification",
        kind="model",
        form="native",
        size_bytes=1,
        snapshot="s" * 64,
        code="c" * 64,
        signature=SIGNATURE,
    )
    return Opened(bundle=bundle, path=folder)


def put(project: Project, name: str, content: bytes) -> Path:
    path = project.root / "to_score" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return path


def answers(project: Project) -> list[tuple[str, str]]:
    """Names and answers of everything that is published, sorted."""
    frames = [frame for name, frame in project.published().items() if "quarantine" not in name]
    return sorted((row["file"], row["prediction"]) for frame in frames for row in frame.to_dicts())


def test_images_are_answered_together_once_and_later_ones_alone(project: Project) -> None:
    put(project, "a.png", picture(0))
    put(project, "sub/b.png", picture(255))
    (result,) = project.run()
    assert (result.status, result.rows, result.scored) == ("published", 2, 2)
    assert answers(project) == [("a.png", "dark"), ("sub/b.png", "light")]
    project.next_turn()
    assert project.run() == []
    put(project, "c.png", picture(200))
    project.next_turn()
    (result,) = project.run()
    assert result.rows == 1
    assert answers(project) == [("a.png", "dark"), ("c.png", "light"), ("sub/b.png", "light")]
    assert len(project.published()) == 2


def test_the_same_bytes_under_another_name_are_answered_under_that_name(project: Project) -> None:
    put(project, "a.png", picture(0))
    project.run()
    put(project, "b.png", picture(0))
    project.next_turn()
    project.run()
    assert answers(project) == [("a.png", "dark"), ("b.png", "dark")]


def test_what_is_no_image_is_set_apart_with_its_name(project: Project) -> None:
    for number in range(3):
        put(project, f"{number}.png", picture(number))
    put(project, "bad.png", b"none")
    (result,) = project.run()
    assert (result.status, result.rows, result.scored, result.quarantined) == ("published", 4, 3, 1)
    (bad,) = [frame for name, frame in project.published().items() if "quarantine" in name]
    assert bad["column"].to_list() == ["image"]
    assert "bad.png has no known image format" in bad["reason"][0]
    project.next_turn()
    assert project.run() == []


def test_a_refused_group_waits_and_is_answered_when_it_is_mended(project: Project) -> None:
    put(project, "good.png", picture(0))
    bad = put(project, "bad.png", b"none")
    (result,) = project.run()
    assert result.status == "refused"
    project.next_turn()
    assert project.run() == []
    bad.unlink()
    project.next_turn()
    (result,) = project.run()
    assert result.status == "published"
    assert answers(project) == [("good.png", "dark")]


class _KilledError(BaseException):
    pass


def test_a_kill_between_publishing_and_recording_answers_no_image_twice(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(project, "b.png", picture(0))
    with monkeypatch.context() as patched:
        patched.setattr(batch, "_record", lambda *_, **__: (_ for _ in ()).throw(_KilledError))
        with pytest.raises(_KilledError):
            project.run()
    assert answers(project) == [("b.png", "dark")]
    put(project, "a.png", picture(255))
    project.next_turn()
    assert [result.rows for result in project.run()] == [1, 1]
    assert answers(project) == [("a.png", "light"), ("b.png", "dark")]
    project.next_turn()
    assert project.run() == []


def test_many_are_several_files(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "GROUP_FILES", 2)
    for number in range(5):
        put(project, f"{number}.png", picture(number))
    assert [result.rows for result in project.run()] == [2, 2, 1]
    assert len(answers(project)) == 5


def test_kept_columns_may_be_the_folder(project: Project) -> None:
    project.set(keep=("label",))
    put(project, "cat/1.png", picture(0))
    project.run()
    (frame,) = project.published().values()
    assert frame.select("file", "label").row(0) == ("cat/1.png", "cat")
