"""How often a key may ask: never more than its quota allows, in either lane."""

import asyncio
import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.errors import SettingsError
from interlock.serve import quota
from interlock.serve.keys import Keyring, new_key
from interlock.serve.lane import Lane, protocol_of
from interlock.serve.quota import Bucket, Shared
from serve.conftest import house_of
from serve.test_lane import exchanged, request

RECORD = {"x": 1.0, "n": 3, "colour": "red"}


class Hand:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now_s = 1_000.0

    def __call__(self):
        return self.now_s


def let_through(bucket):
    return bucket.take() == 0.0


def test_a_burst_and_then_one_at_a_time():
    hand = Hand()
    bucket = Bucket("4 per minute", hand)
    assert [let_through(bucket) for _ in range(6)] == [True] * 4 + [False] * 2
    assert bucket.take() == pytest.approx(15.0)
    hand.now_s += 14.9
    assert not let_through(bucket)
    hand.now_s += 0.2
    assert [let_through(bucket) for _ in range(2)] == [True, False]
    hand.now_s += 3_600.0
    assert [let_through(bucket) for _ in range(5)] == [True] * 4 + [False]


@given(st.lists(st.floats(0.0, 5.0), max_size=200), st.integers(1, 20))
def test_no_window_of_time_has_more_than_its_burst_and_its_rate(gaps, most):
    hand = Hand()
    bucket = Bucket(f"{most} per second", hand)
    passed = []
    for gap in gaps:
        hand.now_s += gap
        if let_through(bucket):
            passed.append(hand.now_s)
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= most + most * (passed[last] - passed[first]) + 1e-6


@given(st.integers(1, 10_000), st.sampled_from(["second", "minute", "hour", "day"]))
def test_whoever_waits_as_long_as_told_is_let_through(most, unit):
    hand = Hand()
    bucket = Bucket(f"{most} per {unit}", hand)
    while let_through(bucket):
        pass
    hand.now_s += bucket.take()
    assert let_through(bucket)


@pytest.mark.parametrize(
    "wrong", ["", "0 per day", "many", "5 per year", "1.5 per minute", "5 per minute ", "-1 per day"]
)
def test_what_is_no_quota_is_refused(wrong):
    with pytest.raises(SettingsError, match="is not a quota"):
        Bucket(wrong, Hand())


def house_with(project, quota):
    hand = Hand()
    text, key = new_key("shop", ("predict",), quota)
    other, free = new_key("free", ("predict",))
    return house_of(project, Keyring((key, free), hand)), hand, text, other


def test_beyond_it_is_429_with_the_time_to_wait(project):
    house, hand, text, other = house_with(project, "2 per minute")

    def ask(key):
        shown = ((b"authorization", b"Bearer " + key.encode()),)
        return asyncio.run(house.ask("/predict", json.dumps(RECORD).encode(), headers=shown))

    assert [ask(text)[0] for _ in range(2)] == [200, 200]
    status, headers, body = ask(text)
    error = json.loads(body)["error"]
    assert (status, headers[b"retry-after"], error["code"]) == (429, b"30", "QuotaUsed")
    assert error["message"] == "The quota of this key, 2 per minute, is used up."
    assert error["id"].encode() == headers[b"interlock-prediction-id"]
    assert ask(other)[0] == 200
    hand.now_s += 30.0
    assert [ask(text)[0] for _ in range(2)] == [200, 429]
    assert [served.status for served in house.served] == [200, 200, 429, 200, 200, 429]


@pytest.mark.parametrize("pieces", [1, 3])
def test_both_lanes_count_the_same(project, pieces):
    house, _, text, other = house_with(project, "5 per hour")
    lane = Lane(house.door, house.app)
    sent = request(headers=[f"authorization: Bearer {text}"])
    found, total = asyncio.run(exchanged(protocol_of(lane), house.app, [sent, sent + sent, *[sent] * 4], pieces))
    assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200"] * 5 + [b"429"] * 2
    assert total == 7
    assert (lane.answered > 0) == (pieces == 1)
    free = request(headers=[f"authorization: Bearer {other}"])
    found, _ = asyncio.run(exchanged(protocol_of(lane), house.app, [free] * 8))
    assert found.count(b"200 OK") == 8


def test_a_model_elsewhere_is_counted_once(project):
    house, _, text, _ = house_with(project, "3 per hour")

    class Slow:
        async def ask(self, rows):
            return [("yes", (0.0, 1.0))] * len(rows)

    lane = Lane(house.door, house.app)
    sent = request(headers=[f"authorization: Bearer {text}"])
    asyncio.run(exchanged(protocol_of(lane), house.app, [sent]))
    house.door.room.live.seats[0].here, house.door.room.live.seats[0].elsewhere = None, Slow()
    found, _ = asyncio.run(exchanged(protocol_of(lane), house.app, [sent] * 3))
    assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200", b"200", b"429"]


def test_new_keys_leave_what_was_used(project):
    hand = Hand()
    _, key = new_key("shop", ("predict",), "2 per hour")
    ring = Keyring((key,), hand)
    assert let_through(ring.bucket(key))
    ring.replace((key,))
    assert [let_through(ring.bucket(key)) for _ in range(2)] == [True, False]
    more = type(key)(name=key.name, sha256=key.sha256, scopes=key.scopes, quota="3 per hour")
    ring.replace((more,))
    assert [let_through(ring.bucket(more)) for _ in range(4)] == [True] * 3 + [False]


# ---- several processes -------------------------------------------------------------------------------------------

GREEDY = """
import sys, time
from pathlib import Path
from interlock.serve.quota import Bucket, Shared

shared = Shared(Path(sys.argv[1]))
bucket = Bucket("60000 per day", time.monotonic, shared.cell("a" * 64, "60000 per day"))
print("ready", flush=True)
sys.stdin.readline()
print(sum(bucket.take() == 0.0 for _ in range(60_000)), flush=True)
"""


def test_processes_that_ask_at_once_get_the_quota_together(tmp_path):
    asking = [
        subprocess.Popen(
            [sys.executable, "-c", GREEDY, str(tmp_path / "quotas")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        for each in asking:
            assert each.stdout.readline() == "ready\n"
        for each in asking:
            each.stdin.write("\n")
            each.stdin.flush()
        took = sum(int(each.stdout.readline()) for each in asking)
        # 0.7 a second come back meanwhile, and a process that is not scheduled for long costs a few; without locks half
        assert 60_000 <= took <= 60_600
    finally:
        for each in asking:
            each.kill()
            each.communicate(timeout=20)


def test_keys_have_places_of_their_own_and_a_new_quota_is_a_new_one(tmp_path):
    hand, path = Hand(), tmp_path / "quotas"
    one, two = Shared(path), Shared(path)
    bucket = Bucket("2 per day", hand, one.cell("a", "2 per day"))
    assert [let_through(bucket) for _ in range(3)] == [True, True, False]
    again = Bucket("2 per day", hand, two.cell("a", "2 per day"))
    assert not let_through(again)
    again.give_back()
    assert let_through(bucket)
    assert let_through(Bucket("3 per day", hand, two.cell("a", "3 per day")))
    assert let_through(Bucket("2 per day", hand, two.cell("b", "2 per day")))


def test_a_file_that_is_full_has_no_place(tmp_path, monkeypatch):
    monkeypatch.setattr(quota, "_SLOTS", 3)
    shared = Shared(tmp_path / "quotas")
    assert all(shared.cell(name, "1 per day") for name in "abc")
    assert shared.cell("d", "1 per day") is None
    assert shared.cell("b", "1 per day") is not None


def test_whoever_stops_with_a_lock_stops_nobody_else(tmp_path):
    path = tmp_path / "quotas"
    bucket = Bucket("5 per day", Hand(), Shared(path).cell("a", "5 per day"))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert let_through(bucket)
    finally:
        holder.kill()
        holder.communicate(timeout=20)


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""
