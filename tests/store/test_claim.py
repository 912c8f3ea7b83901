"""One lake, one ledger."""

import pytest

from interlock.errors import SettingsError, StoreFault
from interlock.ports import Parts, Turn
from interlock.settings import Model, Settings, Store
from interlock.store.claim import OWNER, Claim, claim_lake
from interlock.testing.clock import ManualClock
from interlock.testing.fakes import MemoryBlobs, MemoryLedger, MemoryTables


def project(tmp_path, blobs, name="m", lake="s3://b/p", ledger=None):
    clock = ManualClock()
    ledger = ledger or MemoryLedger(clock)
    settings = Settings(model=Model(name=name, task="regression"), root=tmp_path, store=Store(lake=lake))
    parts = Parts(settings=settings, clock=clock, ledger=ledger, blobs=blobs, tables=MemoryTables(tmp_path))
    return parts, Turn(id="t", fence=ledger.acquire("turn", ttl_s=60))


def test_the_first_ledger_has_it_and_another_is_refused(tmp_path):
    blobs = MemoryBlobs()
    mine = project(tmp_path, blobs, "mine")
    claim_lake(*mine)
    claim_lake(*mine)
    with pytest.raises(SettingsError, match="belongs to another ledger, of the project 'mine'"):
        claim_lake(*project(tmp_path, blobs, "theirs"))
    assert len(list(blobs.list())) == 1


def test_a_kill_between_ledger_and_lake_is_cured_by_running_again(tmp_path):
    blobs = MemoryBlobs()
    parts, turn = project(tmp_path, blobs)
    with turn.transaction(parts.ledger) as t:
        t.put("lake", "claim", Claim(token="mine"))
    claim_lake(parts, turn)
    with turn.transaction(parts.ledger) as t:
        t.put("lake", "claim", Claim(token="mine"))  # killed before it could note that the lake has it
    claim_lake(parts, turn)
    assert parts.ledger.read("lake", "claim", Claim) == Claim(token="mine", location="s3://b/p")


def test_a_lake_that_has_moved_is_looked_at_again(tmp_path):
    parts, turn = project(tmp_path, MemoryBlobs())
    claim_lake(parts, turn)
    foreign = MemoryBlobs()
    claim_lake(*project(tmp_path, foreign, "theirs"))
    moved = Parts(
        settings=project(tmp_path, foreign, lake="s3://c/p")[0].settings,
        clock=parts.clock,
        ledger=parts.ledger,
        blobs=foreign,
        tables=parts.tables,
    )
    with pytest.raises(SettingsError):
        claim_lake(moved, turn)
    broken = MemoryBlobs()
    broken.put(OWNER, b"{}")
    with pytest.raises(StoreFault, match="cannot be read"):
        claim_lake(*project(tmp_path, broken))
