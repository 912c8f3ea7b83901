import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from interlock.errors import StoreFault
from interlock.model.runner import Runner
from interlock.ports import Parts
from interlock.report.following import (
    BATCH_EVENTS,
    LEASE,
    Follower,
    Position,
    behind,
    follow,
    forget,
    ledger_id,
    without_secrets,
)
from interlock.settings import Model, Settings
from interlock.store.clock import SystemClock
from interlock.testing.fakes import MemoryBlobs, MemoryLedger, MemoryTables

EVENTS = BATCH_EVENTS + 5


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    clock = SystemClock()
    ledger = MemoryLedger(clock)
    with ledger.transaction() as transaction:
        for number in range(EVENTS):
            transaction.append("done", str(number), {})
            transaction.append("other", str(number), {})
    settings = Settings(model=Model(name="m", task="custom"), root=tmp_path)
    return Parts(
        settings=settings, clock=clock, ledger=ledger, blobs=MemoryBlobs(clock), tables=MemoryTables(tmp_path / "t")
    )


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    with Runner(tmp_path, (), tmp_path) as found:
        yield found


def _follower(how: str, file: Path) -> Follower:
    return Follower(
        name="test",
        label="the test",
        destination="x",
        kinds=("done",),
        function="infra.sender:open_sender",
        arguments={"how": how, "file": str(file)},
        deadline_s=60.0,
        prepare=lambda parts, events: {},
    )


def _position(parts: Parts, follower: Follower) -> Position:
    return parts.ledger.read("followed", follower.key, Position) or Position()


def _lines(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.is_file() else []


def test_everything_is_told_in_bounded_batches_and_then_nothing(parts: Parts, runner: Runner, tmp_path: Path) -> None:
    follower = _follower("takes all", tmp_path / "told")
    said: list[str] = []
    done = follow(parts, follower, runner, deadline_s=60.0, say=said.append)
    assert (done.sent, done.waiting, done.problem) == (EVENTS, 0, "")
    assert done.note == f"{EVENTS} events told to the test"
    assert _lines(tmp_path / "told") == list(range(1, 2 * EVENTS, 2))
    assert _position(parts, follower) == Position(after=2 * EVENTS - 1, mark={"calls": 2})
    assert len(said) == 2
    assert not behind(parts, follower)
    forget(parts, follower)
    assert behind(parts, follower)


@pytest.mark.parametrize(
    ("how", "told", "problem"),
    [
        ("hangs when opened", 0, "did not answer within 1.5 s"),
        ("hangs", BATCH_EVENTS // 2, "did not answer within 1.5 s"),
        ("crashes after", BATCH_EVENTS, "ended its process with exit status 9"),
        ("not installed", 0, "its client is not installed"),
        ("answers nonsense", BATCH_EVENTS // 2, "inside Interlock"),
        ("raises", BATCH_EVENTS // 2, "what a client may raise"),
    ],
)
def test_what_goes_wrong_is_told_and_the_rest_is_caught_up(
    how: str, told: int, problem: str, parts: Parts, runner: Runner, tmp_path: Path
) -> None:
    file = tmp_path / "told"
    runner.start()
    deadline_s = 1.5 if how.startswith("hangs") else 60.0
    began = time.monotonic()
    broken = follow(parts, _follower(how, file), runner, deadline_s=deadline_s, say=lambda _: None)
    assert problem in broken.problem
    assert (broken.sent, broken.waiting) == (0, EVENTS)
    assert broken.note.endswith(f"; {EVENTS} events wait")
    assert time.monotonic() - began < 30
    assert len(_lines(file)) <= told
    after = follow(parts, _follower("takes all", file), runner, deadline_s=60.0, say=lambda _: None)
    assert (after.sent, after.problem) == (EVENTS, "")
    assert set(_lines(file)) == set(range(1, 2 * EVENTS, 2))


def test_what_was_taken_before_a_refusal_is_not_told_again(parts: Parts, runner: Runner, tmp_path: Path) -> None:
    file = tmp_path / "told"
    half = follow(parts, _follower("refuses half", file), runner, deadline_s=60.0, say=lambda _: None)
    assert (half.sent, half.waiting, half.problem) == (12, EVENTS - 12, "answered 500")
    slow = follow(parts, _follower("is slow", file), runner, deadline_s=60.0, say=lambda _: None)
    assert slow.problem == "had no more time"
    follow(parts, _follower("takes all", file), runner, deadline_s=60.0, say=lambda _: None)
    assert _lines(file) == list(range(1, 2 * EVENTS, 2))


def test_one_process_tells_at_a_time(parts: Parts, runner: Runner, tmp_path: Path) -> None:
    fence = parts.ledger.acquire(LEASE, ttl_s=60)
    held = follow(parts, _follower("takes all", tmp_path / "told"), runner, deadline_s=5, say=lambda _: None)
    assert "by another process" in held.problem
    assert (held.sent, held.waiting) == (0, EVENTS)
    parts.ledger.release(fence)
    assert follow(parts, _follower("takes all", tmp_path / "told"), runner, deadline_s=60, say=lambda _: None).sent


def test_a_fault_of_ours_while_preparing_is_a_note(parts: Parts, runner: Runner, tmp_path: Path) -> None:
    follower = _follower("takes all", tmp_path / "told")

    def broken(*_: object) -> dict[str, object]:
        raise StoreFault("the disk is gone")

    def worse(*_: object) -> dict[str, object]:
        raise ZeroDivisionError("a fault of ours")

    for prepare, words in ((broken, "the disk is gone"), (worse, "ZeroDivisionError inside Interlock")):
        ill = Follower(**{**vars(follower), "prepare": prepare})
        done = follow(parts, ill, runner, deadline_s=5, say=lambda _: None)
        assert words in done.problem
        assert done.waiting == EVENTS


def test_what_is_not_wanted_is_passed_over_without_a_process(parts: Parts, tmp_path: Path) -> None:
    follower = _follower("takes all", tmp_path / "told")
    nothing = Follower(**{**vars(follower), "wants": lambda event: False})
    assert not behind(parts, nothing)
    assert _position(parts, nothing).after == 2 * EVENTS - 1
    forget(parts, nothing)
    last = Follower(**{**vars(follower), "wants": lambda event: event.subject == str(EVENTS - 1)})
    assert behind(parts, last)
    assert _position(parts, last).after == 2 * BATCH_EVENTS - 1, "only whole batches are passed over"


def test_another_destination_begins_at_the_beginning(tmp_path: Path) -> None:
    here, there = _follower("", tmp_path), Follower(**{**vars(_follower("", tmp_path)), "destination": "y"})
    assert here.key != there.key


def test_urls_are_shown_without_secrets() -> None:
    assert without_secrets("https://me:secret@host:5000/a?token=1#x") == "https://host:5000/a"
    assert without_secrets("out/lineage.jsonl") == "out/lineage.jsonl"


def test_a_ledger_has_a_name_of_its_own(parts: Parts) -> None:
    assert ledger_id(parts) == parts.ledger.events(limit=1)[0].hash[:16]
    assert msgspec.to_builtins(Position()) == {"after": 0, "mark": {}}
