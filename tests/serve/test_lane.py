"""Both lanes answer alike, to the bit and to the header; and the fast one takes nothing that it does not know."""

import asyncio
import json
import re
import socket
from dataclasses import replace

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from interlock.serve import lane as lanes
from interlock.serve.keys import Keyring, new_key
from interlock.serve.lane import LINGER_S, MOST_DROPPED, Lane, protocol_of
from interlock.serve.shedding import FEWEST, SLICE_S, WHILE_S, Shedder
from serve.conftest import house_of

RECORD = {"x": 1.0, "n": 3, "colour": "red"}
_VARIES = re.compile(rb"(interlock-prediction-id: |\"id\":\")[0-9a-f]{26}")


def request(path="/predict", body=RECORD, method="POST", headers=(), version="1.1", length=None):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/{version}", "host: here", "content-type: application/json", *headers]
    if length is None:
        lines.append(f"content-length: {len(raw)}")
    elif length:
        lines.append(length)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def chunked(body):
    raw = json.dumps(body).encode()
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (raw[:9], raw[9:], b""))
    head = request(body=b"", length="transfer-encoding: chunked")
    return head + pieces


CASES = {
    "one": request(),
    "stream": request("/stream", {"instance": RECORD}),
    "many": request("/batch", {"instances": [RECORD] * 3}),
    "none": request("/batch", {"instances": []}),
    "split": request("/invocations", {"dataframe_split": {"data": [[1.0, 3, "red"]]}}),
    "an accepted table": request("/score", [[1.0, 3, "red"]], headers=["accept: text/csv"]),
    "anything accepted": request(headers=["accept: */*"]),
    "probabilities": request("/predict?probabilities=true"),
    "tensors": request("/v2/models/demo/infer", {"inputs": []}),
    "a template": request("/v2/models/{name}/infer", {"inputs": []}),
    "a wrong length": request(headers=["inference-header-content-length: x"]),
    "array": request("/score", [[1.0, 3, "red"]]),
    "unicode": request("/predict", {**RECORD, "colour": "größe 🙂"}),
    "a bad field": request(body={**RECORD, "x": "1"}),
    "a missing field": request(body={"x": 1.0}),
    "no json": request(body=b"{"),
    "no body": request(body=b""),
    "twice a name": request(body=b'{"x": 1, "x": 2, "n": 3, "colour": "red"}'),
    "too many records": request("/score", [[1.0, 3, "red"]] * 101),
    "too large": request(body=b" " * 10_001),
    "get": request(method="GET", body=b""),
    "head": request("/ping", method="HEAD", body=b"", length=""),
    "ping": request("/ping", method="GET", body=b"", length=""),
    "no route": request("/nowhere"),
    "a query": request("/predict?x=1"),
    "an escaped path": request("/%70redict"),
    "another type": request(headers=["content-encoding: gzip"]),
    "capitals": request(headers=["X-Request-ID: 7"]).replace(
        b"content-type: application/json", b"Content-Type: APPLICATION/json"
    ),
    "old": request(version="1.0"),
    "old, kept": request(version="1.0", headers=["connection: keep-alive"]),
    "closing": request(headers=["connection: close"]),
    "kept": request(headers=["connection: keep-alive"]),
    "chunks": chunked(RECORD),
    "continue": request(headers=["expect: 100-continue"]),
    "two lengths": request(headers=["content-length: 7"]),
    "no number": request(length="content-length: 7x"),
    "garbage": b"nonsense\r\n\r\n",
    "two at once": request() + request("/stream", {"instance": RECORD}),
    "three at once, one bad": request() + request(body=b"{") + request(),
    "then another route": request() + request("/ping", method="GET", body=b"", length=""),
    "half of the next": request() + request()[:-5],
    "a long header": request(headers=["x-long: " + "y" * 5_000]),
}


class Wire(asyncio.Transport):
    """One end of a connection: keeps what is written, and whether it was closed."""

    def __init__(self):
        super().__init__({"peername": ("127.0.0.1", 5), "sockname": ("127.0.0.1", 6)})
        self.found, self.closed = b"", False

    def write(self, data):
        assert not self.closed
        self.found += data

    def is_closing(self):
        return self.closed

    def close(self):
        if not self.closed:
            self.found += b"[closed]"
        self.closed = True

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


async def exchanged(kind, app, sent, pieces=1):
    """What comes back on one connection for these bytes, each in so many ``pieces``, and how many requests it was."""
    state = ServerState()
    state.default_headers = [(b"date", b"today")]
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="off")
    config.load()
    connection, wire = kind(config=config, server_state=state, app_state={}), Wire()
    connection.connection_made(wire)
    for raw in sent:
        size = -(-len(raw) // pieces)
        for start in range(0, len(raw), size):
            if not wire.closed:
                connection.data_received(raw[start : start + size])
            await settled()
    connection.connection_lost(None)
    await settled()
    return _VARIES.sub(rb"\1ID", wire.found), state.total_requests


async def settled():
    """Let every request that can be answered be answered: nothing here waits for anything but its turn."""
    for _ in range(40):
        await asyncio.sleep(0)


def gathering(house, monkeypatch, *, gathers):
    """Make it a model that is better asked about many rows at once, or one that is not; tell how many it was asked."""
    here = house.door.room.live.seats[0].here
    monkeypatch.setattr(type(here), "gathers", gathers)
    answers, calls = here.answers, []
    here.answers = lambda rows: calls.append(len(rows)) or answers(rows)
    return calls


class Crowd:
    """Several connections of one lane, each with a wire of its own."""

    def __init__(self, lane, app, count):
        state = ServerState()
        config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="off")
        config.load()
        kind = protocol_of(lane)
        self.connections = [kind(config=config, server_state=state, app_state={}) for _ in range(count)]
        self.wires = [Wire() for _ in range(count)]
        for connection, wire in zip(self.connections, self.wires, strict=True):
            connection.connection_made(wire)

    def send(self, *sent):
        for connection, raw in zip(self.connections, sent, strict=True):
            connection.data_received(raw)

    def found(self):
        found = [_VARIES.sub(rb"\1ID", wire.found) for wire in self.wires]
        for wire in self.wires:
            wire.found = b""
        return found


@pytest.fixture
def house(project):
    return house_of(project, Keyring(None))


@pytest.mark.parametrize("gathers", [False, True])
@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize("name", CASES)
def test_both_lanes_answer_alike(house, name, pieces, gathers, monkeypatch):
    gathering(house, monkeypatch, gathers=gathers)
    lane = Lane(house.door, house.app)
    sent = [CASES[name]] * 3
    plain, total = asyncio.run(exchanged(HttpToolsProtocol, house.app, sent, pieces))
    before = len(house.served)
    fast, fast_total = asyncio.run(exchanged(protocol_of(lane), house.app, sent, pieces))
    assert fast == plain
    assert fast_total == total
    assert [(each.route, each.status, len(each.rows), each.tier) for each in house.served[:before]] == [
        (each.route, each.status, len(each.rows), each.tier) for each in house.served[before:]
    ]


@pytest.mark.parametrize(
    ("name", "answered"),
    [("one", 2), ("many", 2), ("a bad field", 2), ("two at once", 3), ("capitals", 2), ("unicode", 2),
     ("three at once, one bad", 4), ("ping", 0), ("closing", 0), ("kept", 0), ("chunks", 0), ("old", 0),
     ("a query", 0), ("an escaped path", 2), ("two lengths", 0), ("too large", 0), ("continue", 0),
     ("another type", 0), ("a long header", 0), ("split", 2), ("an accepted table", 0), ("anything accepted", 2),
     ("probabilities", 0), ("tensors", 0), ("a template", 0), ("a wrong length", 0)],
)  # fmt: skip
@pytest.mark.parametrize("gathers", [False, True])
def test_what_the_fast_lane_takes(house, name, answered, gathers, monkeypatch):
    gathering(house, monkeypatch, gathers=gathers)
    lane = Lane(house.door, house.app)
    asyncio.run(exchanged(protocol_of(lane), house.app, [CASES[name]] * 3))
    assert lane.answered == answered


def test_a_key_is_asked_for_in_the_fast_lane_too(project):
    text, key = new_key("k", ("predict",))
    other, reader = new_key("r", ("read",))
    house = house_of(project, Keyring((key, reader)))
    lane = Lane(house.door, house.app)
    heads = [[f"authorization: Bearer {shown}"] for shown in (text, other, "wrong")]
    sent = [request(headers=head) for head in (*heads, [])] * 2
    found, _ = asyncio.run(exchanged(protocol_of(lane), house.app, sent))
    assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200", b"403", b"401", b"401"] * 2
    assert lane.answered == 1
    assert len(lane.heads) == 1
    lane.forget()
    assert not lane.heads


def test_a_model_elsewhere_is_waited_for_in_the_ordinary_lane(house):
    class Slow:
        async def ask(self, rows):
            await asyncio.sleep(0)
            return [("yes", (0.0, 1.0))] * len(rows)

    seat = house.door.room.live.seats[0]
    seat.here, seat.elsewhere = None, Slow()
    lane = Lane(house.door, house.app)
    found, total = asyncio.run(exchanged(protocol_of(lane), house.app, [CASES["two at once"]] * 2))
    assert found.count(b"HTTP/1.1 200 OK") == total == 4
    assert lane.answered == 0


def test_heads_do_not_pile_up(house, monkeypatch):
    monkeypatch.setattr(lanes, "MOST_HEADS", 3)
    lane = Lane(house.door, house.app)
    sent = [request(headers=[f"x-request-id: {number}"]) for number in range(10)]
    asyncio.run(exchanged(protocol_of(lane), house.app, sent))
    assert 1 <= len(lane.heads) <= 3


# ---- many at once ------------------------------------------------------------------------------------------------


def test_what_arrives_in_one_turn_of_the_loop_is_asked_together(house, monkeypatch):
    calls = gathering(house, monkeypatch, gathers=True)
    monkeypatch.setattr(lanes, "MOST_TOGETHER", 4)

    async def main():
        lane = Lane(house.door, house.app)
        crowd = Crowd(lane, house.app, 6)
        several = request("/batch", {"instances": [RECORD, RECORD]})
        sent = [request(), several, request(body={"x": "?"}), request(), request(), request()]
        crowd.send(*sent)  # each head is learnt in the ordinary lane
        await settled()
        crowd.send(*sent)
        await settled()
        first = crowd.found()
        calls.clear()
        crowd.send(*sent)
        assert not any(wire.found for wire in crowd.wires)
        await settled()
        return first, crowd.found()

    first, second = asyncio.run(main())
    assert calls == [4, 2]  # of the first four requests, one has two records and one cannot be read
    assert [each + each for each in second] == first
    assert second[2].startswith(b"HTTP/1.1 422")


def test_a_client_that_sends_on_or_leaves_meanwhile(house, monkeypatch):
    gathering(house, monkeypatch, gathers=True)

    async def main():
        lane = Lane(house.door, house.app)
        crowd = Crowd(lane, house.app, 3)
        crowd.send(*[request()] * 3)
        await settled()
        crowd.found()
        crowd.send(request(), request(), request())
        crowd.connections[0].data_received(request("/ping", method="GET", body=b"", length="")[:9])
        crowd.connections[0].data_received(request("/ping", method="GET", body=b"", length="")[9:])
        crowd.wires[1].closed = True
        crowd.connections[2].shutdown()
        closing = crowd.wires[2].found
        await settled()
        return crowd.found(), _VARIES.sub(rb"\1ID", closing)

    (first, second, third), closing = asyncio.run(main())
    assert first.count(b"HTTP/1.1 200") == 2
    assert first.endswith(b"pong")
    assert second == b""
    assert closing == third
    assert third.startswith(b"HTTP/1.1 200")
    assert third.endswith(b"[closed]")


def test_requests_gathered_for_a_model_that_turns_out_to_be_elsewhere_are_answered_all_the_same(house, monkeypatch):
    """The champion refuses a record, and last good lives in another process: nobody is answered for twice."""
    gathering(house, monkeypatch, gathers=True)

    class Slow:
        async def ask(self, rows):
            await asyncio.sleep(0)
            return [("yes", (0.0, 1.0))] * len(rows)

    async def main():
        lane = Lane(house.door, house.app)
        crowd = Crowd(lane, house.app, 3)
        crowd.send(*[request()] * 3)
        await settled()
        crowd.found()
        live = house.door.room.live
        champion, baseline = live.seats[0], live.seats[-1]
        beside = replace(champion, tier="last-good", here=None, elsewhere=Slow())
        house.door.room = house.door.room._replace(live=replace(live, seats=(champion, beside, baseline)))
        champion.check = lambda given: "range"
        before, fast = len(house.served), lane.answered
        crowd.send(*[request()] * 3)
        await settled()
        return crowd.found(), house.served[before:], lane.answered - fast

    found, served, answered = asyncio.run(main())
    assert all(b"interlock-tier: last-good" in each for each in found)
    assert [each.tier for each in served] == ["last-good"] * 3
    assert answered == 0


def test_a_question_that_breaks_is_put_again_one_by_one(house, monkeypatch):
    gathering(house, monkeypatch, gathers=True)
    here = house.door.room.live.seats[0].here
    answers = here.answers

    def breaking(rows):
        if len(rows) > 1:
            raise RuntimeError("too many")
        return answers(rows)

    here.answers = breaking

    async def main():
        crowd = Crowd(Lane(house.door, house.app), house.app, 3)
        crowd.send(*[request()] * 3)
        await settled()
        crowd.found()
        crowd.send(*[request()] * 3)
        await settled()
        return crowd.found()

    assert all(each.startswith(b"HTTP/1.1 200") for each in asyncio.run(main()))


def test_a_key_with_a_quota_is_answered_by_itself(project, monkeypatch):
    text, key = new_key("k", ("predict",), quota="3 per hour")
    house = house_of(project, Keyring((key,)))
    calls = gathering(house, monkeypatch, gathers=True)

    async def main():
        crowd = Crowd(Lane(house.door, house.app), house.app, 5)
        sent = [request(headers=[f"authorization: Bearer {text}"])] * 5
        crowd.send(*sent)
        await settled()
        return crowd.found()

    found = asyncio.run(main())
    assert sorted(each[9:12] for each in found) == [b"200"] * 3 + [b"429"] * 2
    assert calls == [1] * 3


@pytest.mark.parametrize("cut", [-1, -5, -20])
@pytest.mark.parametrize("meanwhile", ["nothing", "forget", "shutdown"])
def test_a_body_that_comes_in_pieces(house, cut, meanwhile):
    """It is waited for in the fast lane; the ordinary one takes over when heads are forgotten or the server ends."""
    raw, lane = request(), Lane(house.door, house.app)

    async def main():
        crowd = Crowd(lane, house.app, 1)
        (connection,), (wire,) = crowd.connections, crowd.wires
        connection.data_received(raw)  # the head is learnt
        await settled()
        (expected,) = crowd.found()
        connection.data_received(raw + raw[:cut])
        await settled()
        assert crowd.found() == [expected]
        before = lane.answered
        if meanwhile == "forget":
            lane.forget()
        if meanwhile == "shutdown":
            connection.shutdown()
            assert not wire.closed
        for place in range(len(raw) + cut, len(raw)):
            connection.data_received(raw[place : place + 1])
            await settled()
        (found,) = crowd.found()
        if meanwhile == "shutdown":
            assert b"200 OK" in found
            assert wire.closed
        else:
            assert found == expected
            connection.data_received(raw)
            await settled()
            assert crowd.found() == [expected]
        connection.connection_lost(None)
        return lane.answered - before

    assert asyncio.run(main()) == {"nothing": 2, "forget": 1, "shutdown": 0}[meanwhile]


def test_a_connection_on_which_a_body_arrives_is_not_idle(house):
    raw, lane = request(), Lane(house.door, house.app)

    async def main():
        crowd = Crowd(lane, house.app, 1)
        (connection,), (wire,) = crowd.connections, crowd.wires
        for _ in range(2):
            connection.data_received(raw)
            await settled()
        connection.timeout_keep_alive_handler()
        connection.data_received(raw[:-5])
        connection.timeout_keep_alive_handler()
        assert not wire.closed
        connection.data_received(raw[-5:])
        await settled()
        assert wire.found.count(b"200 OK") == 3
        connection.connection_lost(None)

    asyncio.run(main())


# ---- more than can be answered -----------------------------------------------------------------------------------


class Hand:
    """A clock that is turned by hand."""

    now_s = 100.0

    def __call__(self):
        return self.now_s


def shed_by(house, clock, most_s=0.2):
    made = Shedder(most_s, asyncio.get_running_loop().call_soon, clock)
    house.door.shedder = made
    return made


def overloaded(house):
    """A line that is full for hours."""
    clock = Hand()
    shedder = shed_by(house, clock)
    shedder.answered(1, 1_000.0)
    for _ in range(FEWEST):
        assert shedder.admits()
    assert shedder.promises()
    clock.now_s += WHILE_S
    assert not shedder.promises()
    return shedder


async def known(house, count):
    """Connections whose head is known."""
    lane = Lane(house.door, house.app)
    crowd = Crowd(lane, house.app, count)
    crowd.send(*[request()] * count)
    await settled()
    return lane, crowd, crowd.found()


@pytest.mark.parametrize("gathers", [False, True])
def test_what_comes_late_in_a_turn_waits_and_is_answered_in_order(house, gathers, monkeypatch):
    async def main():
        lane, crowd, first = await known(house, 6)
        gathering(house, monkeypatch, gathers=gathers)
        clock = Hand()
        shed_by(house, clock)
        order, settle = [], type(crowd.connections[0]).settled
        monkeypatch.setattr(
            type(crowd.connections[0]),
            "settled",
            lambda self, reply: order.append(crowd.connections.index(self)) or settle(self, reply),
        )
        for connection in crowd.connections:
            connection.data_received(request())
            clock.now_s += SLICE_S * 0.7
        at_once = [bool(wire.found) for wire in crowd.wires]
        await settled()
        return lane, order, at_once, first, crowd.found()

    lane, order, at_once, first, found = asyncio.run(main())
    waited = [not gathers and place < 2 for place in range(6)]
    assert at_once == waited
    assert order == [place for place in range(6) if not waited[place]]
    assert found == first
    assert lane.answered == 5 + 6  # the first one's head was learnt in the ordinary lane


def test_a_turn_answers_some_of_those_who_wait_and_then_looks_who_has_come(house, monkeypatch):
    async def main():
        lane, crowd, _ = await known(house, 6)
        clock = Hand()
        shed_by(house, clock)
        admitted = house.door.admitted

        def slowly(*given):
            clock.now_s += SLICE_S * 0.6
            return admitted(*given)

        monkeypatch.setattr(house.door, "admitted", slowly)
        crowd.send(*[request()] * 6)  # two are answered, and four wait
        told = []
        for _ in range(12):
            told.append(sum(bool(wire.found) for wire in crowd.wires))
            await asyncio.sleep(0)
        crowd.wires[0].found = b""
        return lane, told

    lane, told = asyncio.run(main())
    assert told[0] == 2
    assert sorted(set(told)) == [2, 4, 6]
    assert lane.answered == 5 + 6  # the first one's head was learnt in the ordinary lane


def test_who_left_while_waiting_is_not_answered(house):
    async def main():
        _, crowd, _ = await known(house, 3)
        clock = Hand()
        shed_by(house, clock)
        before = len(house.served)
        for connection in crowd.connections:
            connection.data_received(request())
            clock.now_s += 2 * SLICE_S
        crowd.wires[1].closed = True
        await settled()
        return len(house.served) - before, crowd.found()

    served, found = asyncio.run(main())
    assert served == 2
    assert found[1] == b""
    assert found[2].startswith(b"HTTP/1.1 200")


def test_an_overloaded_server_refuses_at_once_and_gives_the_quota_back(project):
    text, key = new_key("k", ("predict",), "5 per hour")
    house = house_of(project, Keyring((key,)))
    sent = request(headers=[f"authorization: Bearer {text}"])

    async def main():
        lane = Lane(house.door, house.app)
        crowd = Crowd(lane, house.app, 1)
        crowd.send(sent)
        await settled()
        shedder = overloaded(house)
        crowd.found()
        house.door.shedder.is_late = lambda: True
        for _ in range(20):
            crowd.send(sent)
        refused = crowd.found()[0]
        shedder.answered(FEWEST, 0.0)
        crowd.send(sent * 2)
        await settled()
        return refused, crowd.found()[0]

    refused, found = asyncio.run(main())
    assert refused.count(b"HTTP/1.1 503") == 20
    assert refused.count(b"retry-after: 1") == 20
    assert found.count(b"HTTP/1.1 200") == 2
    assert [served.status for served in house.served].count(503) == 20


def test_requests_that_are_asked_again_one_by_one_are_counted_once(house, monkeypatch):
    calls = gathering(house, monkeypatch, gathers=True)

    async def main():
        _, crowd, first = await known(house, 6)
        shedder = shed_by(house, Hand())
        counted = []
        monkeypatch.setattr(shedder, "admits", lambda **_: counted.append(1) or True)
        monkeypatch.setattr(shedder, "refuses", lambda: counted.append(2) or True)
        here = house.door.room.live.seats[0].here
        answers = here.answers

        def alone(rows):
            if len(rows) > 1:
                raise RuntimeError("together it cannot")
            return answers(rows)

        here.answers = alone
        calls.clear()
        crowd.send(*[request()] * 6)
        await settled()
        return counted, first, crowd.found()

    counted, first, found = asyncio.run(main())
    assert found == first
    assert counted == [1] * 6
    assert calls == [1] * 6


def large(size):
    """A request with a body of so many bytes, which is read as one record."""
    return request(body=json.dumps(RECORD).encode() + b" " * size)


@pytest.mark.parametrize("pieces", [2, 3, 50])
def test_the_head_of_a_large_body_is_enough_to_be_refused(project, pieces):
    house = house_of(project, Keyring(None), max_body=10_000_000)
    raw = large(100_000)

    async def main():
        lane = Lane(house.door, house.app)
        crowd = Crowd(lane, house.app, 1)
        crowd.send(raw)
        await settled()
        crowd.found()
        shedder = overloaded(house)
        size = -(-len(raw) // pieces)
        crowd.send(raw[:size])
        early = crowd.found()[0]
        told = len(house.served)
        for start in range(size, len(raw), size):
            crowd.send(raw[start : start + size])
        await settled()
        silent = crowd.found()[0]
        shedder.answered(FEWEST, 0.0)
        house.door.shedder = None
        crowd.send(request() + raw)
        await settled()
        return early, silent, house.served[told:], crowd.found()[0]

    early, silent, served, after = asyncio.run(main())
    assert early.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in early
    assert b"connection: close" not in early
    assert silent == b""
    assert [each.status for each in served] == [200, 200]
    assert after.count(b"HTTP/1.1 200") == 2


def test_a_request_behind_a_body_that_was_dropped_is_answered(project):
    house = house_of(project, Keyring(None), max_body=10_000_000)
    raw = large(1_000)

    async def main():
        crowd = Crowd(Lane(house.door, house.app), house.app, 1)
        crowd.send(raw)
        await settled()
        crowd.found()
        overloaded(house)
        crowd.send(raw[:500])
        refused = crowd.found()[0]
        house.door.shedder = None
        crowd.send(raw[500:] + raw)  # in one piece
        await settled()
        return refused, crowd.found()[0]

    refused, found = asyncio.run(main())
    assert refused.startswith(b"HTTP/1.1 503")
    assert found.startswith(b"HTTP/1.1 200")
    assert found.count(b"HTTP/1.1") == 1


async def turned_away(project, size):
    """A connection that sent the head of a body of so many bytes, its wire, and what is still to come."""
    house = house_of(project, Keyring(None), max_body=10_000_000)
    raw = large(size)
    lane = Lane(house.door, house.app)
    crowd = Crowd(lane, house.app, 1)
    crowd.send(raw)
    await settled()
    crowd.found()
    overloaded(house)
    crowd.send(raw[:1_000])
    return crowd.connections[0], crowd.wires[0], raw[1_000:]


def test_a_body_that_is_too_long_to_be_dropped_ends_its_connection_when_it_is_there(project):
    async def main():
        connection, wire, rest = await turned_away(project, MOST_DROPPED + 10_000)
        early = wire.found
        assert not wire.closed  # what the client still writes would be answered by a reset, and the reply lost
        connection.data_received(rest[:-1])
        assert not wire.closed
        connection.data_received(rest[-1:] + request())
        await settled()
        return early, wire.found

    early, found = asyncio.run(main())
    assert b"connection: close\r\n" in early
    assert found == early + b"[closed]"


def test_a_body_that_does_not_come_is_not_waited_for_and_nothing_more_is_told(project, monkeypatch):
    async def main():
        loop, later = asyncio.get_running_loop(), []
        call_later = loop.call_later
        monkeypatch.setattr(loop, "call_later", lambda *given: later.append(given) or call_later(*given))
        connection, wire, rest = await turned_away(project, 5_000)
        delay_s, act, *given = later[-1]
        early = wire.found
        connection.data_received(rest[:100])
        act(*given)
        return delay_s, early, wire.found

    delay_s, early, found = asyncio.run(main())
    assert delay_s == LINGER_S
    assert early.startswith(b"HTTP/1.1 503")
    assert found == early + b"[closed]"


def test_a_body_that_was_dropped_in_time_ends_nothing(project, monkeypatch):
    monkeypatch.setattr(lanes, "LINGER_S", 0.0)

    async def main():
        connection, wire, rest = await turned_away(project, 5_000)
        early = wire.found
        connection.data_received(rest)
        await settled()
        return early, wire.found

    early, found = asyncio.run(main())
    assert found == early


def test_the_end_of_the_server_waits_for_a_body_that_is_dropped(project):
    async def main():
        connection, wire, rest = await turned_away(project, 5_000)
        connection.shutdown()
        assert not wire.closed
        connection.data_received(rest)
        return wire.found

    assert asyncio.run(main()).endswith(b"[closed]")


def test_a_promised_body_is_answered_when_it_comes(project):
    house = house_of(project, Keyring(None), max_body=10_000_000)
    raw = large(5_000)

    async def main():
        crowd = Crowd(Lane(house.door, house.app), house.app, 1)
        crowd.send(raw)
        await settled()
        crowd.found()
        shedder = overloaded(house)
        shedder.answered(FEWEST, 0.0)
        crowd.send(raw[:1_000])
        house.door.shedder.is_late = lambda: True
        crowd.send(raw[1_000:])
        await settled()
        return crowd.found()[0]

    assert asyncio.run(main()).startswith(b"HTTP/1.1 200")


def test_large_bodies_of_the_ordinary_lane_keep_nobody_out(project):
    house = house_of(project, Keyring(None), max_body=10_000_000)

    async def main():
        clock = Hand()
        shed_by(house, clock).answered(1, 0.02)
        for number in range(200):
            headers = {b"content-length": b"100000", b"x-request-id": b"%d" % number}
            status, _, _ = await house.ask("/predict", json.dumps(RECORD).encode(), headers=headers)
            assert status == 200
            clock.now_s += 0.002

    asyncio.run(main())


@pytest.mark.parametrize("leaves", [False, True])
def test_large_bodies_that_come_or_never_do_leave_room_for_others(project, leaves):
    house = house_of(project, Keyring(None), max_body=10_000_000)
    raw = large(5_000)

    async def main():
        lane = Lane(house.door, house.app)
        crowd = Crowd(lane, house.app, 1)
        crowd.send(raw)
        await settled()
        clock = Hand()
        shedder = shed_by(house, clock)
        shedder.answered(1, 0.02)
        for _ in range(200):
            one = crowd if not leaves else Crowd(lane, house.app, 1)
            one.send(raw[:1_000])
            if leaves:
                one.connections[0].connection_lost(None)
            else:
                one.send(raw[1_000:])
            assert b"HTTP/1.1 503" not in one.wires[0].found
            clock.now_s += 0.005  # what it took
            await asyncio.sleep(0)

    asyncio.run(main())


def test_a_large_body_is_refused_by_its_head_in_the_ordinary_lane_too(project):
    house = house_of(project, Keyring(None), max_body=10_000_000)
    raw = large(200_000).replace(b"host: here", b"host: here\r\ntraceparent: 00-0-0-00")

    async def main():
        crowd = Crowd(Lane(house.door, house.app), house.app, 1)
        overloaded(house)
        crowd.send(raw[:1_000])
        await settled()
        early = crowd.found()[0]
        house.door.shedder = None
        crowd.send(raw[1_000:] + request())
        await settled()
        return early, crowd.found()[0]

    early, found = asyncio.run(main())
    assert early.startswith(b"HTTP/1.1 503")
    assert found.startswith(b"HTTP/1.1 200")
    assert found.count(b"HTTP/1.1") == 1
    assert [each.status for each in house.served] == [503, 200]


@pytest.mark.parametrize("size", [200_000, 20 * MOST_DROPPED])
def test_a_client_that_sends_all_before_it_reads_gets_the_refusal_over_a_socket(project, size):
    """Nothing of the reply is lost to a reset, whether the connection lives on or not."""
    house = house_of(project, Keyring(None), max_body=10_000_000)
    raw = large(size)

    def exchange(port, *sent):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(request(body=b"{"))  # another length: another head
            assert b" 400 " in client.recv(4_096)
            for each in sent:
                client.sendall(each)
            client.shutdown(socket.SHUT_WR)
            found = b""
            while more := client.recv(65_536):
                found += more
            return found

    async def main():
        lane = Lane(house.door, house.app)
        state = ServerState()
        config = uvicorn.Config(house.app, log_config=None, access_log=False, server_header=False, lifespan="off")
        config.load()
        kind = protocol_of(lane)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: kind(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assert b" 200 " in await asyncio.to_thread(exchange, port, raw)
        overloaded(house)
        found = await asyncio.to_thread(exchange, port, raw)
        server.close()
        await server.wait_closed()
        return found

    found = asyncio.run(main())
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert (b"connection: close" in head) == (size > MOST_DROPPED)
    assert json.loads(body)["error"]["code"] == "Overloaded"
