"""Outcomes are kept once, and moved once."""

import hashlib

import pytest

from interlock.errors import StoreFault
from interlock.serve import outbox as module
from interlock.serve.outbox import OUTCOMES, Outbox, Outcome, has_waiting, move
from interlock.testing.fakes import MemoryTables


def outcome(name, truth="yes", at=1):
    digest = hashlib.sha256(f"{name} {truth}".encode()).digest()
    return Outcome(name, None, truth, None, at, 5, "shop", digest)


@pytest.fixture
def tables(tmp_path):
    return MemoryTables(tmp_path / "tables")


def rows(tables):
    return tables.scan(OUTCOMES).collect().sort("id", "outcome").select("id", "outcome").rows()


def test_each_outcome_is_taken_once(tmp_path):
    outbox = Outbox(tmp_path)
    assert outbox.add([outcome("a"), outcome("a"), outcome("b")]) == [True, False, True]
    assert outbox.add([outcome("a"), outcome("a", "no")]) == [False, True]
    outbox.close()
    outbox = Outbox(tmp_path)
    assert outbox.add([outcome("b")]) == [False]
    outbox.close()


def test_what_was_moved_is_still_known(tmp_path, tables):
    outbox = Outbox(tmp_path)
    outbox.add([outcome("a"), outcome("b", "no")])
    assert has_waiting(tmp_path)
    assert move(tmp_path, tables) == 2
    assert not has_waiting(tmp_path)
    assert outbox.add([outcome("a"), outcome("c")]) == [False, True]
    outbox.close()
    assert move(tmp_path, tables) == 1
    assert rows(tables) == [("a", "yes"), ("b", "no"), ("c", "yes")]
    (first,) = tables.scan(OUTCOMES).filter(id="a").collect().to_dicts()
    assert (first["time"].timestamp(), first["received"].timestamp(), first["sender"]) == (1e-6, 5e-6, "shop")
    assert first["digest"] == outcome("a").digest.hex()


class Died(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("committed", [False, True])
def test_nothing_is_moved_twice_after_a_death(tmp_path, tables, monkeypatch, committed):
    outbox = Outbox(tmp_path)
    outbox.add([outcome("a")])
    real = tables.append

    def dies(*given, **named):
        if committed:
            real(*given, **named)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(tables, "append", dies)
        with pytest.raises(Died):
            move(tmp_path, tables)
    outbox.add([outcome("b")])  # it came between the commit and the second try
    outbox.close()
    move(tmp_path, tables)
    assert rows(tables) == [("a", "yes"), ("b", "yes")]


def test_many_are_moved_in_groups(tmp_path, tables, monkeypatch):
    monkeypatch.setattr(module, "_MOST_ROWS", 2)
    outbox = Outbox(tmp_path)
    outbox.add([outcome(name) for name in "abcde"])
    outbox.close()
    assert move(tmp_path, tables) == 5
    assert tables.version(OUTCOMES) == 2
    assert len(rows(tables)) == 5


def test_nothing_of_a_call_that_failed_is_kept(tmp_path):
    outbox = Outbox(tmp_path)
    with pytest.raises(StoreFault, match=r"outcomes\.db"):
        outbox.add([outcome("a"), outcome("b")._replace(outcome=None)])
    assert outbox.add([outcome("a")]) == [True]
    outbox.close()


def test_no_file_is_made_by_looking(tmp_path, tables):
    assert not has_waiting(tmp_path)
    assert move(tmp_path, tables) == 0
    assert list(tmp_path.iterdir()) == []
