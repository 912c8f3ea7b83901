"""Keys that are added open, and keys that are taken out are shut, without a restart."""

import asyncio
import re
import threading

from interlock.serve.keyfile import LOOK_EVERY_S, KeyFile
from interlock.serve.keys import Keyring, add_key, read_keys
from interlock.serve.lane import Lane, protocol_of
from serve.conftest import house_of
from serve.test_lane import exchanged, request


def test_a_key_that_is_taken_out_is_shut_in_both_lanes(project, tmp_path):
    path = tmp_path / "keys.toml"
    text = add_key(path, "shop", ("predict",))
    ring, said = Keyring(read_keys(path)), []
    file = KeyFile(path, ring.replace, said.append)
    house = house_of(project, ring)
    lane = Lane(house.door, house.app)
    ring.on_change = lane.forget
    sent = request(headers=[f"authorization: Bearer {text}"])

    def statuses():
        return re.findall(rb"HTTP/1.1 (\d+)", asyncio.run(exchanged(protocol_of(lane), house.app, [sent] * 2))[0])

    assert statuses() == [b"200"] * 2
    assert lane.answered == 1
    file.look()
    assert (said, len(lane.heads)) == ([], 1)
    before = path.read_text()
    path.write_text("")
    file.look()
    assert statuses() == [b"401"] * 2
    path.write_text(before)
    file.look()
    assert statuses() == [b"200"] * 2
    assert said == ["0 keys open now", "1 keys open now"]


def test_a_file_that_is_broken_or_gone_leaves_the_keys_and_is_told_once(tmp_path):
    path = tmp_path / "keys.toml"
    add_key(path, "shop", ("predict",))
    shown, said = [], []
    file = KeyFile(path, shown.append, said.append)
    good = path.read_text()
    path.write_text("[[key]")
    file.look()
    file.look()
    path.unlink()
    file.look()
    file.look()
    assert shown == []
    assert len(said) == 2
    assert all(line.startswith("the keys that were read before go on opening: ") for line in said)
    path.write_text(good)
    file.look()
    assert [[key.name for key in keys] for keys in shown] == [["shop"]]


def test_it_looks_by_itself_well_within_a_second(tmp_path):
    path = tmp_path / "keys.toml"
    add_key(path, "shop", ("predict",))
    arrived = threading.Event()
    file = KeyFile(path, lambda _: arrived.set(), lambda _: None, look_every_s=0.01)
    file.start()
    add_key(path, "other", ("read",))
    assert arrived.wait(30)
    file.close()
    assert LOOK_EVERY_S < 0.5
