import contextlib
import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from interlock.data import images
from interlock.data import ingest as ingest_module
from interlock.data.images import MAX_PIXELS, fault, is_image, label_of
from interlock.data.ingest import ingest
from interlock.data.snapshot import make_snapshot
from interlock.data.split import feature_names, key_names
from interlock.errors import SettingsError
from interlock.records import FileResult
from interlock.settings import HoldoutSpec, Settings

LONG_AGO_S = 1_700_000_000.0


def picture(shade: int = 0, kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    """A small grey image of a format."""
    file = BytesIO()
    Image.new("L", size, shade).save(file, kind)
    return file.getvalue()


def put(project: Any, name: str, content: bytes | None = None, inbox: str = "in") -> Path:
    """An image that came long ago, so that its version can be trusted."""
    path: Path = project.put(name, picture(len(name)) if content is None else content, inbox)
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return path


@pytest.fixture
def pictures(project: Any) -> Any:
    project.set(files="images", max_bad_rows=0.5)
    project.model(target="label")
    return project


def run(project: Any) -> list[FileResult]:
    return ingest(project.parts, project.turn, "data")


def rows(project: Any) -> dict[str, tuple[str | None, bytes]]:
    """The current row of each name: label and bytes."""
    found = project.parts.tables.scan("sources/data").sort("_seq", "_row").collect()
    return {row["file"]: (row["label"], row["image"]) for row in found.to_dicts()}


def commits(project: Any) -> int:
    version = project.parts.tables.version("sources/data")
    return 0 if version is None else version + 1


# ---- is it an image?


@pytest.mark.parametrize("kind", images.FORMATS)
def test_every_format_is_an_image_until_it_is_cut_short(kind: str) -> None:
    noise = Image.frombytes("RGB", (40, 40), bytes(zlib.crc32(bytes([n % 251, n % 7])) % 256 for n in range(4_800)))
    file = BytesIO()
    noise.save(file, kind)
    whole = file.getvalue()
    assert fault(whole) == ""
    assert fault(whole[: len(whole) // 2]) != ""
    assert fault(whole[:-3]) != ""


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0" + bytes(40), b"RIFF1234WEBP"]
)
def test_what_is_no_image_is_told(content: bytes) -> None:
    assert fault(content) != ""


def test_a_bomb_is_not_unfolded() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    assert f"more than {MAX_PIXELS:,}" in fault(b"\x89PNG\r\n\x1a\n" + chunk + end)


def test_a_changed_byte_of_a_png_is_found_by_its_checksum() -> None:
    content = bytearray(picture(9))
    content[content.index(b"IDAT") + 6] ^= 1
    assert "damaged" in fault(bytes(content))


@given(st.binary(max_size=300), st.sampled_from(images.FORMATS), st.integers(0, 300))
def test_no_bytes_make_it_raise(noise: bytes, kind: str, at: int) -> None:
    content = picture(3, kind)
    assert isinstance(fault(noise), str)
    assert isinstance(fault(content[:at] + noise + content[at + len(noise) :]), str)


def test_names_say_what_is_an_image_and_the_folder_is_the_label() -> None:
    assert is_image("a/B.JPeG")
    assert not is_image("a.png.txt")
    assert (label_of("top.png"), label_of("cat/1.png"), label_of("a/dog/1.png")) == (None, "cat", "dog")


# ---- taken in


def test_images_are_rows_of_one_commit_and_are_not_read_again(pictures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat/1.png", "cat/2.jpg", "dog/1.gif", "größe/1.bmp", "top.webp"):
        kind = {"jpg": "JPEG"}.get(name[-3:], name.rpartition(".")[2].upper())
        put(pictures, name, picture(len(name), kind))
    put(pictures, "notes.txt", b"x")
    put(pictures, "cat/.hidden.png")
    put(pictures, "dog/2.png.part")
    (result,) = run(pictures)
    assert (result.status, result.rows, result.accepted, result.quarantined) == ("accepted", 5, 5, 0)
    found = rows(pictures)
    assert {name: label for name, (label, _) in found.items()} == {
        "cat/1.png": "cat",
        "cat/2.jpg": "cat",
        "dog/1.gif": "dog",
        "größe/1.bmp": "größe",
        "top.webp": None,
    }
    assert found["cat/1.png"][1] == picture(9)
    assert commits(pictures) == 1
    assert any("notes.txt" in line for line in pictures.said)
    monkeypatch.setattr("interlock.data.inbox.FolderInbox.stage", lambda *_: pytest.fail("read again"))
    assert run(pictures) == []


def test_many_images_are_few_commits(pictures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "GROUP_FILES", 4)
    monkeypatch.setattr(images, "GROUP_BYTES", 10_000)
    for number in range(10):
        put(pictures, f"a/{number}.png", picture(number))
    assert [result.accepted for result in run(pictures)] == [4, 4, 2]
    monkeypatch.setattr(images, "GROUP_BYTES", len(picture(0)) + len(picture(1)))
    for number in range(3):
        put(pictures, f"b/{number}.png", picture(number))
    assert [result.accepted for result in run(pictures)] == [2, 1]


def test_an_image_that_changes_there_and_back_is_a_newer_row_each_time(pictures: Any) -> None:
    for shade in (1, 2, 1, 2):
        path = put(pictures, "cat/1.png", picture(shade))
        os.utime(path, (LONG_AGO_S + commits(pictures), LONG_AGO_S + commits(pictures)))
        (result,) = run(pictures)
        assert result.status == "accepted"
        assert rows(pictures) == {"cat/1.png": ("cat", picture(shade))}
    assert commits(pictures) == 4


def test_a_touched_image_is_read_but_is_no_news(pictures: Any) -> None:
    path = put(pictures, "cat/1.png")
    run(pictures)
    os.utime(path, (LONG_AGO_S + 9, LONG_AGO_S + 9))
    assert run(pictures) == []
    assert commits(pictures) == 1


def test_a_folder_that_is_renamed_gives_its_images_another_label(pictures: Any) -> None:
    put(pictures, "cat/1.png", picture(1))
    put(pictures, "cat/2.png", picture(2))
    put(pictures, "dog/1.png", picture(3))
    run(pictures)
    (pictures.root / "in" / "cat").rename(pictures.root / "in" / "lynx")
    (result,) = run(pictures)
    assert (result.rows, result.accepted, result.updated) == (4, 4, 2)
    labels = {name: label for name, (label, _) in rows(pictures).items()}
    assert labels == {
        "cat/1.png": None,
        "cat/2.png": None,
        "dog/1.png": "dog",
        "lynx/1.png": "lynx",
        "lynx/2.png": "lynx",
    }, "the old names have no label, and are learnt from no more"
    assert run(pictures) == []
    (pictures.root / "in" / "lynx").rename(pictures.root / "in" / "cat")
    run(pictures)
    assert {name for name, (label, _) in rows(pictures).items() if label} == {"cat/1.png", "cat/2.png", "dog/1.png"}


def test_a_copy_whose_first_name_goes_later_is_a_move_too(pictures: Any) -> None:
    first = put(pictures, "cat/1.png", picture(1))
    put(pictures, "cat/2.png", picture(2))
    run(pictures)
    put(pictures, "dog/1.png", picture(1))
    run(pictures)
    assert rows(pictures)["cat/1.png"][0] == "cat"
    first.unlink()
    run(pictures)
    assert rows(pictures)["cat/1.png"][0] is None
    (pictures.root / "in" / "cat" / "2.png").unlink()
    assert run(pictures) == [], "an image that is only deleted stays, as the rows of a deleted table do"
    assert rows(pictures)["cat/2.png"][0] == "cat"


def test_the_same_bytes_under_two_names_are_two_rows_on_one_side_of_the_split(pictures: Any) -> None:
    for number in range(40):
        put(pictures, f"a/{number}.png", picture(number))
        put(pictures, f"b/{number}.png", picture(number))
    run(pictures)
    pictures.set(holdout=HoldoutSpec(fraction=0.5))
    made = make_snapshot(pictures.parts, pictures.turn)
    assert (made.rows, made.training_rows + made.holdout_rows) == (80, 80)
    files = {}
    for side, key in (("training", made.training_key), ("holdout", made.holdout_key)):
        files[side] = pl.read_parquet(pictures.parts.blobs.local(key))
    assert set(files["training"]["digest"]).isdisjoint(files["holdout"]["digest"])
    assert files["training"].schema["image"] == pl.Binary
    found = pictures.parts.settings
    assert key_names(found, made.columns) == ("digest",)
    assert feature_names(found, made.columns) == ("image",)


def test_an_image_of_the_holdout_inbox_never_trains_under_any_name(pictures: Any) -> None:
    (pictures.root / "test").mkdir()
    for number in range(6):
        put(pictures, f"{'ab'[number % 2]}/{number}.png", picture(number))
    put(pictures, "a/judged.png", picture(0), "test")
    pictures.set(holdout=HoldoutSpec(inbox="test"))
    run(pictures)
    ingest(pictures.parts, pictures.turn, "holdout")
    made = make_snapshot(pictures.parts, pictures.turn)
    assert (made.training_rows, made.holdout_rows) == (5, 1)
    assert any("their key is in the holdout" in note for note in made.join_notes)


# ---- what is no image


def test_what_is_no_image_is_quarantined_with_its_name_and_does_not_stop_the_others(pictures: Any) -> None:
    put(pictures, "cat/1.png")
    put(pictures, "cat/2.png", picture(2)[:-20])
    put(pictures, "dog/1.png", b"no image")
    put(pictures, "dog/2.png")
    (result,) = run(pictures)
    assert (result.rows, result.accepted, result.quarantined) == (4, 2, 2)
    assert set(rows(pictures)) == {"cat/1.png", "dog/2.png"}
    bad = pictures.parts.tables.scan("quarantine/data").collect()
    assert bad["column"].to_list() == ["image", "image"]
    assert "cat/2.png" in bad["reason"][0]
    assert "dog/1.png has no known image format" in bad["reason"][1]
    assert '"dog/1.png"' in bad["raw"][1]
    kept = [info.key for info in pictures.parts.blobs.list("quarantine/")]
    assert len(kept) == 2
    assert run(pictures) == [], "it is not looked at again"
    put(pictures, "dog/1.png", picture(7))
    (mended,) = run(pictures)
    assert (mended.accepted, mended.quarantined) == (1, 0)


def test_too_many_that_are_none_refuse_the_group_until_it_is_mended(pictures: Any) -> None:
    pictures.set(max_bad_rows=0.3)
    for number in range(3):
        put(pictures, f"a/{number}.png", picture(number))
    bad = [put(pictures, f"b/{number}.png", b"none") for number in range(2)]
    (result,) = run(pictures)
    assert result.status == "refused"
    assert "2 of 5 rows are bad" in result.reason
    assert "b/0.png" in result.reason
    assert run(pictures) == [], "the same images are not refused twice"
    bad[0].unlink()
    (result,) = run(pictures)
    assert (result.status, result.accepted, result.quarantined) == ("accepted", 3, 1)
    assert run(pictures) == []


def test_a_refused_group_is_tried_again_by_other_rules(pictures: Any) -> None:
    pictures.set(max_bad_rows=0.0)
    put(pictures, "a/1.png")
    put(pictures, "a/2.png", b"none")
    assert [result.status for result in run(pictures)] == ["refused"]
    pictures.set(max_bad_rows=0.9)
    assert [result.status for result in run(pictures)] == ["accepted"]
    assert run(pictures) == []


def test_a_huge_file_is_not_read(pictures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 200)
    put(pictures, "a/1.png")
    put(pictures, "a/2.png", picture(1) + bytes(300))
    (result,) = run(pictures)
    assert (result.accepted, result.quarantined) == (1, 1)
    assert run(pictures) == []


def test_links_and_pipes_are_left_alone(pictures: Any, tmp_path: Path) -> None:
    put(pictures, "a/1.png")
    outside = tmp_path / "outside.png"
    outside.write_bytes(picture(5))
    (pictures.root / "in" / "a" / "link.png").symlink_to(outside)
    os.mkfifo(pictures.root / "in" / "a" / "pipe.png")
    (result,) = run(pictures)
    assert result.rows == 1


def test_labels_may_be_numbers(pictures: Any) -> None:
    pictures.set(types={"label": "int"}, max_bad_rows=0.9)
    put(pictures, "3/1.png")
    put(pictures, "x/1.png")
    put(pictures, "top.png")
    (result,) = run(pictures)
    assert (result.accepted, result.quarantined) == (2, 1)
    assert {name: label for name, (label, _) in rows(pictures).items()} == {"3/1.png": 3, "top.png": None}


def test_changed_images_may_be_refused(pictures: Any) -> None:
    pictures.set(on_duplicate="refuse")
    put(pictures, "a/1.png", picture(1))
    run(pictures)
    path = put(pictures, "a/1.png", picture(2))
    os.utime(path, (LONG_AGO_S + 5, LONG_AGO_S + 5))
    (result,) = run(pictures)
    assert result.status == "refused"
    assert rows(pictures)["a/1.png"][1] == picture(1)
    assert run(pictures) == []


def test_an_object_store_is_an_inbox_of_images(pictures: Any, bucket: Any) -> None:
    pictures.set(inbox=f"s3://{bucket.name}/pictures")
    bucket.put_object(Key="pictures/cat/1.png", Body=picture(1))
    bucket.put_object(Key="pictures/dog/1.png", Body=picture(2))
    (result,) = run(pictures)
    assert result.accepted == 2
    assert rows(pictures)["dog/1.png"] == ("dog", picture(2))
    assert run(pictures) == []
    bucket.put_object(Key="pictures/dog/1.png", Body=picture(3))
    run(pictures)
    assert rows(pictures)["dog/1.png"] == ("dog", picture(3))


def test_an_image_that_was_spoilt_before_it_moved_leaves_no_label_behind(new_project: Any) -> None:
    project = new_project("spoilt", files="images", max_bad_rows=1.0)
    put(project, "a/1.png", picture(1))
    put(project, "a/2.png", picture(2))
    run(project)
    put(project, "a/1.png", b"none")
    run(project)
    assert rows(project)["a/1.png"] == ("a", picture(1))
    (project.root / "in" / "a" / "1.png").unlink()
    put(project, "b/1.png", picture(1))
    run(project)
    assert rows(project)["a/1.png"][0] is None
    assert rows(project)["b/1.png"] == ("b", picture(1))
    assert rows(project)["a/2.png"] == ("a", picture(2))
    assert run(project) == []


# ---- killed


class _KilledError(BaseException):
    pass


def test_a_kill_between_commit_and_record_is_cured_though_more_images_have_come(
    pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(pictures, "a/1.png")
    with monkeypatch.context() as patched:
        patched.setattr(ingest_module, "_record", lambda *_: (_ for _ in ()).throw(_KilledError))
        with pytest.raises(_KilledError):
            run(pictures)
    assert commits(pictures) == 1
    put(pictures, "a/0.png", picture(4))
    first, second = run(pictures)
    assert (first.accepted, second.accepted) == (1, 1)
    assert pictures.parts.tables.scan("sources/data").collect().height == 2
    assert run(pictures) == []


names = st.sampled_from([f"{folder}/{number}.png" for folder in "ab" for number in range(3)])
changes = st.lists(st.tuples(names, st.sampled_from([None, 1, 2, 3, "bad"])), max_size=6)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.tuples(changes, st.sampled_from(["", "", "commit", "record"])), min_size=1, max_size=5))
def test_each_image_is_there_exactly_once_whatever_comes_and_is_killed(
    turns: list[tuple[list[tuple[str, Any]], str]], new_project: Any, request: pytest.FixtureRequest
) -> None:
    number = getattr(request.node, "runs", 0)
    request.node.runs = number + 1
    project = new_project(f"p{number}", files="images", max_bad_rows=1.0)
    appends = 0
    clock = 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(images, "GROUP_FILES", 3)
        for changed, killed in turns:
            for name, shade in changed:
                clock += 1
                path = project.root / "in" / name
                if shade is None:
                    path.unlink(missing_ok=True)
                    continue
                put(project, name, b"none" if shade == "bad" else picture(shade))
                os.utime(path, (LONG_AGO_S + clock, LONG_AGO_S + clock))
            if killed:
                with pytest.MonkeyPatch.context() as dying:
                    if killed == "record":
                        dying.setattr(ingest_module, "_record", lambda *_: (_ for _ in ()).throw(_KilledError))
                    else:
                        dying.setattr(
                            project.parts.tables, "append", lambda *_, **__: (_ for _ in ()).throw(_KilledError)
                        )
                    with contextlib.suppress(_KilledError):
                        run(project)
            run(project)
            assert run(project) == [], "nothing is left to do"
            there = {
                path.relative_to(project.root / "in").as_posix(): path.read_bytes()
                for path in (project.root / "in").rglob("*.png")
            }
            good = {name: content for name, content in there.items() if content != b"none"}
            if project.parts.tables.version("sources/data") is None:
                assert good == {}
                continue
            found = rows(project)
            assert {name: found[name] for name in good} == {name: (name[0], good[name]) for name in good}
            gone = {name for name, (label, content) in found.items() if name not in there and content in good.values()}
            assert {found[name][0] for name in gone} <= {None}, "a name that was left has no label"
            stored = project.parts.tables.scan("sources/data").collect()
            assert stored.height >= appends
            appends = stored.height
            before: dict[str, Any] = {}
            for row in stored.sort("_seq", "_row").to_dicts():
                now = (row["label"], row["image"])
                assert before.get(row["file"]) != now, "no row says what the one before it said"
                before[row["file"]] = now


# ---- settings


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"files": "images", "label": "image"}, "label cannot be 'image'"),
        ({"files": "images", "key": ("id",)}, "names column 'id'"),
        ({"files": "images", "types": {"image": "str"}}, "not the type of that column"),
        ({"label": "digit"}, "its files are tables"),
    ],
)
def test_settings_that_do_not_fit_images_are_refused(project: Any, fields: dict[str, Any], words: str) -> None:
    from interlock.configuration import _coherent

    project.set(**fields)
    with pytest.raises(SettingsError, match=words):
        _coherent(project.parts.settings)
    project.set(files="tables", label="label", key=(), types={})
    assert isinstance(_coherent(project.parts.settings), Settings)


def test_bytes_cannot_come_as_text(project: Any) -> None:
    project.set(types={"x": "bytes"})
    project.put("a.csv", "id,x\n1,abc\n")
    (result,) = ingest(project.parts, project.turn, "data")
    assert result.status == "refused"
    assert "CSV and JSON cannot carry bytes" in result.reason


def test_bytes_of_a_parquet_file_are_a_column_like_any_other(project: Any) -> None:
    file = BytesIO()
    pl.DataFrame({"id": list(range(60)), "x": [b"\xff\x00", b"", None] * 20, "y": ["a", "b"] * 30}).write_parquet(file)
    project.put("a.parquet", file.getvalue())
    project.set(key=("id",))
    (first,) = ingest(project.parts, project.turn, "data")
    assert first.accepted == 60
    found = project.parts.tables.scan("sources/data").sort("id").collect()
    assert found["x"].to_list() == [b"\xff\x00", b"", None] * 20
    project.set(query="select id, x, y from data", types={"x": "str"})
    file = BytesIO()
    pl.DataFrame({"id": [400], "x": [b"\xfe"], "y": ["a"]}).write_parquet(file)
    project.put("c.parquet", file.getvalue())
    (result,) = ingest(project.parts, project.turn, "data")
    assert result.status == "refused", "stored bytes do not become text"
    project.set(types={}, query="select id, x, y from data")
    made = make_snapshot(project.parts, project.turn)
    assert made.rows == 60
