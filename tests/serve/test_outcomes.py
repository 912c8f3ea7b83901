"""Outcomes are kept once, and moved once."""

import hashlib

import pytest

from interlock.errors import StoreFault
from interlock.serve import outcomes as module
from interlock.serve.outcomes import OUTCOMES, Outcome, Outcomes, has_waiting, move
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
    outcomes = Outcomes(tmp_path)
    assert outcomes.add([outcome("a"), outcome("a"), outcome("b")]) == [True, False, True]
    assert outcomes.add([outcome("a"), outcome("a", "no")]) == [False, True]
    outcomes.close()
    outcomes = Outcomes(tmp_path)
    assert outcomes.add([outcome("b")]) == [False]
    outcomes.close()


def test_what_was_moved_is_still_known(tmp_path, tables):
    outcomes = Outcomes(tmp_path)
    outcomes.add([outcome("a"), outcome("b", "no")])
    assert has_waiting(tmp_path)
    assert move(tmp_path, tables) == 2
    assert not has_waiting(tmp_path)
    assert outcomes.add([outcome("a"), outcome("c")]) == [False, True]
    outcomes.close()
    assert move(tmp_path, tables) == 1
    assert rows(tables) == [("a", "yes"), ("b", "no"), ("c", "yes")]
    (first,) = tables.scan(OUTCOMES).filter(id="a").collect().to_dicts()
    assert (first["time"].timestamp(), first["received"].timestamp(), first["sender"]) == (1e-6, 5e-6, "shop")
    assert first["digest"] == outcome("a").digest.hex()


class Died(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("committed", [False, True])
def test_nothing_is_moved_twice_after_a_death(tmp_path, tables, monkeypatch, committed):
    outcomes = Outcomes(tmp_path)
    outcomes.add([outcome("a")])
    real = tables.append

    def dies(*given, **named):
        if committed:
            real(*given, **named)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(tables, "append", dies)
        with pytest.raises(Died):
            move(tmp_path, tables)
    outcomes.add([outcome("b")])  # it came between the commit and the second try
    outcomes.close()
    move(tmp_path, tables)
    assert rows(tables) == [("a", "yes"), ("b", "yes")]


def test_many_are_moved_in_groups(tmp_path, tables, monkeypatch):
    monkeypatch.setattr(module, "_MOST_ROWS", 2)
    outcomes = Outcomes(tmp_path)
    outcomes.add([outcome(name) for name in "abcde"])
    outcomes.close()
    assert move(tmp_path, tables) == 5
    assert tables.version(OUTCOMES) == 2
    assert len(rows(tables)) == 5


def test_nothing_of_a_call_that_failed_is_kept(tmp_path):
    outcomes = Outcomes(tmp_path)
    with pytest.raises(StoreFault, match=r"outcomes\.db"):
        outcomes.add([outcome("a"), outcome("b")._replace(outcome=None)])
    assert outcomes.add([outcome("a")]) == [True]
    outcomes.close()


def test_no_file_is_made_by_looking(tmp_path, tables):
    assert not has_waiting(tmp_path)
    assert move(tmp_path, tables) == 0
    assert list(tmp_path.iterdir()) == []
