"""A cut file holds the same records as the whole one."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interlock.answer import pieces as module
from interlock.answer.pieces import pieces

TEXT = st.text(st.sampled_from('ab",\n;ü '), max_size=12)


def _records(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_text("utf-8"), newline="")))


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=30), st.integers(20, 80))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_of_csv_are_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: list[tuple[str, str]], size: int
) -> None:
    path = tmp_path / "f.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([("a", "b"), *records])
    monkeypatch.setattr(module, "PIECE_BYTES", size)
    found: list[list[str]] = []
    with pieces(path, "f.csv", tmp_path / "scratch") as parts:
        for part in parts:
            header, *rest = _records(part.path)
            assert header == ["a", "b"]
            assert part.before == len(found)
            found += rest
    assert found == [list(record) for record in records]
    assert list((tmp_path / "scratch").glob("*")) == []


def test_json_lines_are_cut_at_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.jsonl"
    lines = [f'{{"a": "{"x" * (number % 7)}\\"", "n": {number}}}' for number in range(50)]
    path.write_text("\n".join(lines))
    monkeypatch.setattr(module, "PIECE_BYTES", 100)
    with pieces(path, "f.jsonl", tmp_path / "scratch") as parts:
        found = [(part.before, part.path.read_text()) for part in parts]
    assert "".join(text for _, text in found) == "\n".join(lines)
    assert [before for before, _ in found] == [
        sum(text.count("\n") for _, text in found[:place]) for place in range(len(found))
    ]
    assert len(found) > 5


def test_a_small_file_is_its_own_piece(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("a\n1\n")
    with pieces(path, "f.csv", tmp_path / "scratch") as parts:
        assert [(part.path, part.before) for part in parts] == [(path, 0)]
    assert not (tmp_path / "scratch").exists()
