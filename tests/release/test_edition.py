"""Receipts that were written before bounds knew skewness and keys: they replay by the rules of their day."""

from pathlib import Path

import msgspec
import pytest

from interlock.records import Receipt, canonical
from interlock.release import judge as room
from interlock.release.gate import decide
from interlock.testing.fakes import MemoryBlobs

RECEIPTS = Path(__file__).parent / "receipts"
NAMES = ("r2-not-better", "log-loss-better", "roc-auc-not-better")


class Shelf:
    """The part of a project that replay reads."""

    def __init__(self) -> None:
        self.blobs = MemoryBlobs()


def read(name):
    receipt = msgspec.json.decode((RECEIPTS / f"{name}.json").read_bytes(), type=Receipt)
    shelf = Shelf()
    shelf.blobs.put(receipt.evaluation.evidence_key, (RECEIPTS / f"{name}.parquet").read_bytes())
    return receipt, shelf


def leaves(value):
    """Flatten plain data."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {"": value}
    return {f"{key}.{inner}": leaf for key, part in value.items() for inner, leaf in leaves(part).items()}


def same(one, other):
    """Floats agree to twelve digits (other processors add in other orders), all else exactly."""
    mine, theirs = leaves(msgspec.to_builtins(one)), leaves(msgspec.to_builtins(other))
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        expected = pytest.approx(theirs[key], rel=1e-12, abs=1e-12) if isinstance(value, float) else theirs[key]
        assert value == expected, key
    return True


@pytest.mark.parametrize("name", NAMES)
def test_an_old_receipt_replays(name):
    receipt, shelf = read(name)
    assert receipt.evaluation.edition == 1
    again = room.reassess(shelf, receipt)
    assert same(again, receipt.evaluation)
    assert canonical(decide(receipt.evaluation, receipt.policy)) == canonical(receipt.decision)


@pytest.mark.parametrize("name", NAMES)
def test_by_the_rules_of_today_the_bound_is_more_cautious(name):
    receipt, shelf = read(name)
    today = msgspec.structs.replace(receipt, evaluation=msgspec.structs.replace(receipt.evaluation, edition=2))
    again = room.reassess(shelf, today)
    for old, new in zip(receipt.evaluation.comparisons, again.comparisons, strict=True):
        assert new.low <= old.low + 1e-12
        assert new.gain == pytest.approx(old.gain)
    moved = {
        c.against
        for c, o in zip(again.comparisons, receipt.evaluation.comparisons, strict=True)
        if c.low < o.low - 1e-9
    }
    assert moved
    assert again.units == (60 if name.startswith("r2") else 120)
