"""What is known to be wrong with the champion in force, in words."""

import pytest

from interlock.records import Release
from interlock.release.standing import DAMAGE, Damage, damage_of
from interlock.testing.clock import ManualClock
from interlock.testing.fakes import MemoryLedger

RELEASE = Release(generation=2, champion="c" * 64, last_good="a" * 64, baseline="b" * 64, cause="gate", because="x")
FOUND = Damage(generation=2, what="is damaged", failures={"champion": "It is short."}, tier="last-good", model="a" * 64)


def test_who_answers_is_named():
    assert FOUND.told("c" * 64) == (
        "The champion cccccccccccc of release 2 is damaged: It is short. "
        "The last good model aaaaaaaaaaaa answers in its place."
    )


def test_all_that_were_asked_are_told():
    nobody = Damage(
        generation=2,
        what="cannot be loaded",
        failures={"champion": "No library.", "last-good": "Gone.", "baseline": "Gone too."},
        tier=None,
    )
    assert nobody.told("c" * 64) == (
        "The champion cccccccccccc of release 2 cannot be loaded: No library. So with the last good model: Gone. "
        "So with the baseline: Gone too. Nobody answers."
    )


@pytest.mark.parametrize("mended", [False, True])
def test_damage_is_that_of_the_champion_in_force(mended):
    ledger = MemoryLedger(ManualClock())
    with ledger.transaction() as transaction:
        transaction.put(DAMAGE, "c" * 64, FOUND if not mended else Damage(**{**_fields(FOUND), "mended": True}))
    assert damage_of(ledger, RELEASE) == (None if mended else FOUND)
    assert damage_of(ledger, None) is None
    other = Release(generation=3, champion="a" * 64, last_good=None, baseline="b" * 64, cause="rollback", because="x")
    assert damage_of(ledger, other) is None


def _fields(found):
    return {name: getattr(found, name) for name in found.__struct_fields__}
