"""The parts of the record, wired."""

import asyncio
import json

import pytest
from msgspec.structs import replace

from interlock.errors import SettingsError, StoreFault
from interlock.ports import Parts
from interlock.serve.clerk import PREDICTIONS, log_folder
from interlock.serve.door import Door
from interlock.serve.keys import Keyring
from interlock.serve.last_known import last_known_of
from interlock.serve.recording import Recording, kept_salt_of, salt_of
from interlock.serve.segment import adopt
from interlock.serving import Log, Serve
from serve.conftest import house_of

RECORD = {"x": 1.0, "n": 3, "colour": "red"}


def parts_with(project, **log):
    given = project.parts
    settings = replace(given.settings, serve=replace(Serve(), log=Log(**log)))
    return Parts(settings=settings, clock=given.clock, ledger=given.ledger, blobs=given.blobs, tables=given.tables)


def test_the_salt_is_made_once(project):
    found = salt_of(project.parts.ledger)
    assert len(found) == 32
    assert salt_of(project.parts.ledger) == found


def test_the_salt_is_remembered_where_the_state_is_away(project, monkeypatch):
    last_known = last_known_of(project.parts.settings, project.clock)
    ledger = project.parts.ledger

    def away(*_):
        raise StoreFault("The database is away.")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "read", away)
        with pytest.raises(StoreFault):
            kept_salt_of(ledger, last_known)
    found = kept_salt_of(ledger, last_known)
    assert found == salt_of(ledger)
    monkeypatch.setattr(ledger, "read", away)
    assert kept_salt_of(ledger, last_known) == found


def test_without_a_log_nothing_is_written_and_feedback_is_still_taken(project):
    parts = parts_with(project, on=False, durable=True)
    room = house_of(project, Keyring(None)).door.room
    recording = Recording(parts, room, project.said.append)
    assert recording.settled is None
    assert recording.tally() is None
    assert recording.watchers == []
    door = Door(room, lambda served: None)
    assert door.now("/predict", json.dumps(RECORD).encode()).status == 200
    assert list(recording.intakes(door)) == ["/feedback"]
    recording.close()
    assert not (log_folder(parts.settings) / PREDICTIONS).exists()


def test_a_loss_is_told(project, monkeypatch):
    parts = parts_with(project, memory_mb=0.0001)
    room = house_of(project, Keyring(None)).door.room
    recording = Recording(parts, room, project.said.append)
    monkeypatch.setattr(recording._clerk, "close", lambda: None)
    monkeypatch.setattr(recording._clerk, "tick", lambda: None)
    door = Door(room, recording.watchers[0])

    async def main():
        loop = asyncio.get_running_loop()
        recording.open(loop)
        for _ in range(20):
            door.now("/predict", json.dumps(RECORD).encode())
        recording.tick(loop)
        recording.tick(loop)

    asyncio.run(main())
    recording.close()
    lost = recording.tally().lost
    assert lost > 10
    told = f"the prediction log lost {lost} records: there is no room in memory"
    assert [line for line in project.said if "lost" in line] == [told]
    assert len(adopt(log_folder(parts.settings) / PREDICTIONS)) == 1


def test_columns_that_are_not_there_are_told_before_anything_is_served(project):
    room = house_of(project, Keyring(None)).door.room
    with pytest.raises(SettingsError, match="'size'"):
        Recording(parts_with(project, keep=("size",)), room, print)
