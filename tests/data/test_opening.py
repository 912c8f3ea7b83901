import gzip
from pathlib import Path

import pytest

from interlock.data import opening
from interlock.data.opening import Unreadable, check_names, inspect_text, kind_of, plain, shown
from interlock.errors import DataRefused


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", ("csv", False)),
        ("a.CSV.GZ", ("csv", True)),
        ("a.tsv", ("csv", False)),
        ("a.parquet", ("parquet", False)),
        ("a.parquet.gz", None),
        ("a.ndjson.gz", ("json", True)),
        ("a.json", ("json", False)),
        ("a.txt", None),
        ("csv", None),
    ],
)
def test_the_suffix_names_the_format(name: str, kind: object) -> None:
    assert kind_of(name) == kind


def test_shown_names_fit_on_one_line() -> None:
    assert "\n" not in shown("a\nb\u202ec\x1b[31m")
    assert len(shown("x" * 500)) < 130


@pytest.mark.parametrize("split", [0, 1, 2])
def test_wrong_utf8_is_named_by_its_offset(tmp_path: Path, split: int) -> None:
    lead = b"x" * (2**20 - split) + "é".encode() + b"\n"
    path = tmp_path / "a.csv"
    path.write_bytes(lead + b"ab\xff\n")
    with pytest.raises(Unreadable) as caught:
        inspect_text(path, "a.csv")
    assert caught.value.facts["byte_offset"] == len(lead) + 2
    path.write_bytes(lead)
    inspect_text(path, "a.csv")


def test_a_character_cut_in_half_at_the_end_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n" + "é".encode()[:1])
    with pytest.raises(Unreadable, match="offset 2"):
        inspect_text(path, "a.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\n".encode("utf-16"), "UTF-16"),
        (b"a,b\n\x00", "byte 4 is NUL"),
        (b"PAR1....", "Parquet"),
        (gzip.compress(b"a,b\n", mtime=0), "gzip"),
    ],
)
def test_what_is_no_text(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=words):
        inspect_text(path, "a.csv")


def test_an_endless_line_is_refused_and_a_long_file_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_LINE_BYTES", 3 * 2**20)
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n" + b"x" * (3 * 2**20 - 10) + b"\n" + b"y" * (3 * 2**20 - 10) + b"\nz")
    inspect_text(path, "a.csv")
    path.write_bytes(b"a\n" + b"x" * (3 * 2**20 + 10))
    with pytest.raises(Unreadable, match="longer"):
        inspect_text(path, "a.csv")


def test_gzip_bombs_and_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "FREE_BYTES", 2**20)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"0" * (3 * 2**20)))
    with pytest.raises(Unreadable, match="bomb"), plain(path, "a.csv.gz", gz=True, scratch=tmp_path):
        pass
    whole = gzip.compress(b"a,b\n1,2\n" * 1000)
    for content, words in (
        (whole[:-12], "cut short"),
        (whole[:20] + b"xx" + whole[22:], "damaged"),
        (b"abc", "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(Unreadable, match=words), plain(path, "a.csv.gz", gz=True, scratch=tmp_path):
            pass
    path.write_bytes(whole)
    with plain(path, "a.csv.gz", gz=True, scratch=tmp_path) as file:
        assert file.read_bytes() == b"a,b\n1,2\n" * 1000
    assert [each.name for each in tmp_path.iterdir()] == ["a.csv.gz"]


@pytest.mark.parametrize("name", ["_file", "_row", "_seq", "prediction", "Prediction", "probability_3", "interlock_x"])
def test_reserved_names_are_refused(name: str) -> None:
    with pytest.raises(DataRefused, match="itself writes") as caught:
        check_names(["a", name], "f.csv")
    assert not isinstance(caught.value, Unreadable)


@pytest.mark.parametrize("names", [[], ["a", ""], ["a", " "], ["a", "b", "a"]])
def test_impossible_headers(names: list[str]) -> None:
    with pytest.raises(Unreadable):
        check_names(names, "f.csv")
    check_names(["a", "b", "predictions", "_filed"], "f.csv")
