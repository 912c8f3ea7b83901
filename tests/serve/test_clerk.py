"""Segments become rows once, whatever interrupts it."""

import itertools
import threading

import msgspec
import polars as pl
import pytest

from interlock.errors import StoreFault
from interlock.serve import clerk
from interlock.serve.clerk import PREDICTIONS, as_number, as_text, frame_of, take_away
from interlock.serve.journal import Preface, Room
from interlock.serve.segment import SEALED, Segment
from interlock.testing.fakes import MemoryTables

pack = msgspec.msgpack.encode
_numbers = itertools.count()


def segment(folder, *names, lost=0, **room):
    """A sealed segment with a record for each name."""
    preface = Preface(Room(**{"generation": 1, "models": {"champion": "c" * 64}, "features": ["x"], **room}), lost)
    records = [(name.encode(), 1e9, 0.002, "/predict", ["champion"], [(1.5,)], [("yes", (0.2, 0.8))]) for name in names]
    made = Segment(folder, float(next(_numbers)))
    made.write(pack((preface, records)))
    made.seal()


def ids(tables):
    return sorted(tables.scan(PREDICTIONS).collect()["id"])


@pytest.fixture
def tables(tmp_path):
    return MemoryTables(tmp_path / "tables")


@pytest.fixture
def spool(tmp_path):
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def test_all_segments_become_rows_of_one_commit(spool, tables):
    segment(spool, "a", "b")
    segment(spool, "c", lost=7)
    assert take_away(spool, tables) == 1
    assert ids(tables) == ["a", "b", "c"]
    assert tables.version(PREDICTIONS) == 0
    assert [path.name for path in spool.iterdir()] == ["lock"]
    assert take_away(spool, tables) == 0


def test_the_commit_tells_what_was_lost(spool, tables):
    segment(spool, "a", lost=2)
    segment(spool, "b", lost=3)
    seen = []
    real = tables.append
    tables.append = lambda *given, **named: (seen.append(named["facts"]), real(*given, **named))[1]
    take_away(spool, tables)
    assert seen == [{"segments": 2, "rows": 2, "lost": 5, "cut_off_bytes": 0}]


class Died(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("when", ["before the commit", "after the commit", "between the deletions", "before the group"])
def test_nothing_is_there_twice_after_a_death(spool, tables, monkeypatch, when):
    segment(spool, "a")
    segment(spool, "b")
    with monkeypatch.context() as patch:
        if when == "before the commit":
            patch.setattr(tables, "append", _dies())
        elif when == "after the commit":
            patch.setattr(tables, "append", _dies(tables.append))
        elif when == "between the deletions":
            removed = type(spool).unlink
            patch.setattr(type(spool), "unlink", _dies(removed))
        else:
            patch.setattr(clerk, "durable_write", _dies(clerk.durable_write))
        with pytest.raises(Died):
            take_away(spool, tables)
    segment(spool, "c")
    take_away(spool, tables)
    assert ids(tables) == ["a", "b", "c"]
    assert not list(spool.glob(f"*{SEALED}"))


def _dies(after=None):
    def dies(*given, **named):
        if after is not None:
            after(*given, **named)
        raise Died

    return dies


def test_a_lake_that_does_not_answer_costs_nothing(spool, tables, monkeypatch):
    segment(spool, "a")

    def fails(*given, **named):
        raise StoreFault("The bucket does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "append", fails)
        with pytest.raises(StoreFault):
            take_away(spool, tables)
    take_away(spool, tables)
    assert ids(tables) == ["a"]


def test_two_do_not_work_on_one_folder(spool, tables, monkeypatch):
    segment(spool, "a")
    real, others = tables.append, []

    def meanwhile(*given, **named):
        others.append(take_away(spool, tables))
        return real(*given, **named)

    monkeypatch.setattr(tables, "append", meanwhile)
    assert take_away(spool, tables) == 1
    assert others == [0]


def test_the_last_one_waits_for_another_and_finds_what_that_one_missed(spool, tables):
    segment(spool, "a")
    second = threading.Thread(target=lambda: take_away(spool, tables, wait=True))
    with clerk._alone(spool, wait=False) as alone:
        assert alone
        second.start()
        segment(spool, "b")
    second.join(timeout=30.0)
    assert ids(tables) == ["a", "b"]


def test_large_segments_make_several_groups(spool, tables, monkeypatch):
    for name in "abc":
        segment(spool, name)
    monkeypatch.setattr(clerk, "_MOST_BYTES", 1)
    assert take_away(spool, tables) == 3
    assert ids(tables) == ["a", "b", "c"]


def test_a_segment_that_was_cut_off_gives_its_whole_blocks(spool, tables):
    segment(spool, "a")
    (path,) = spool.glob(f"*{SEALED}")
    path.write_bytes(path.read_bytes() + b"ILK1 and then the power went")
    take_away(spool, tables)
    assert ids(tables) == ["a"]


def test_blocks_of_different_models_go_into_one_table(spool):
    segment(spool, "a")
    segment(spool, "b", generation=2, features=["width"])
    rows, _ = frame_of(sorted(spool.glob(f"*{SEALED}")))
    assert rows["features"].to_list() == ['{"x":1.5}', '{"width":1.5}']
    assert rows["release"].to_list() == [1, 2]
    assert rows.schema["probabilities"] == pl.List(pl.Float64)


@pytest.mark.parametrize(
    ("value", "text", "number"),
    [
        ("yes", "yes", None),
        (2.5, "2.5", 2.5),
        (3, "3", 3.0),
        (True, "true", 1.0),
        (["a", "b"], '["a","b"]', None),
        (None, None, None),
    ],
)
def test_an_answer_is_text_and_where_it_can_be_a_number(value, text, number):
    assert (as_text(value), as_number(value)) == (text, number)
