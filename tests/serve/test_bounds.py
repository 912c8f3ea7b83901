"""Clients that are slow, greedy or too many, on real sockets; and clients that wait for us, who are none of these."""

import asyncio
import json
import re
from contextlib import suppress

import pytest
import uvicorn
from uvicorn.server import ServerState

from interlock.serve.bounds import MOST_HEAD_BYTES, Bounds
from interlock.serve.keys import Keyring
from interlock.serve.lane import Lane, protocol_of
from serve.conftest import house_of
from serve.test_lane import request

QUICK = Bounds(timeout_s=0.15, connections=50)
LONG_S = 30.0


@pytest.fixture
def house(project):
    return house_of(project, Keyring(None), max_body=10_000_000)


def talking(house, client, bounds=QUICK):
    """Run ``client(connect)`` against a server; ``connect`` gives a reader and a writer."""

    async def run():
        state = ServerState()
        config = uvicorn.Config(house.app, log_config=None, access_log=False, server_header=False, lifespan="off")
        config.load()
        lane = Lane(house.door, house.app)
        house.app.keyring.on_change = lane.forget
        kind = protocol_of(lane, bounds)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: kind(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        writers = []

        async def connect(**options):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
            writers.append(writer)
            return reader, writer

        connect.state = state
        try:
            return await asyncio.wait_for(client(connect), LONG_S)
        finally:
            for writer in writers:
                writer.transport.abort()
            server.close()
            for connection in list(state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)

    return asyncio.run(run())


def code(raw):
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert len(error["id"]) == 26
    return int(head.split()[1]), error["code"]


async def dribbled(reader, writer, raw, every_s=0.03):
    """Send byte after byte, until the server has had enough; what it said."""
    for place in range(len(raw)):
        writer.write(raw[place : place + 1])
        try:
            found = await asyncio.wait_for(reader.read(1), every_s)
        except TimeoutError:
            continue
        return found + await reader.read()
    return b"it took all of it"


BODY = request()
HEAD_END = BODY.index(b"\r\n\r\n") + 4


@pytest.mark.parametrize("known", [False, True], ids=["first", "after a good one"])
@pytest.mark.parametrize(
    ("at_once", "then"),
    [
        (b"", BODY),
        (BODY[:HEAD_END], BODY[HEAD_END:]),
        (b"POST /predict HTTP/1.1\r\n", b"x-a: b\r\n" * 50),
        (b"", b"\r\n" * 100),
        (b"POST /predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 50),
    ],
    ids=["all", "body", "headers", "empty lines", "chunks"],
)
def test_a_request_that_dribbles_is_ended(house, at_once, then, known):
    async def client(connect):
        reader, writer = await connect()
        if known:
            writer.write(BODY)
            await reader.readuntil(b"}")
        writer.write(at_once)
        return await dribbled(reader, writer, then)

    for _ in range(10):
        with suppress(ConnectionError):  # what was on its way when the server closed can cost the client the reply
            assert code(talking(house, client)) == (408, "TooSlow")
            return
    raise AssertionError("it never said why")


def test_a_client_that_says_nothing_is_ended(house):
    async def client(connect):
        reader, _ = await connect()
        return await reader.read()

    assert code(talking(house, client)) == (408, "TooSlow")


def test_a_kept_connection_may_rest_for_longer_than_a_request(house):
    async def client(connect):
        reader, writer = await connect()
        found = b""
        for _ in range(3):
            writer.write(BODY)
            found += await reader.readuntil(b"}")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), QUICK.timeout_s * 2)
        return found

    assert talking(house, client).count(b"200 OK") == 3


def test_whoever_waits_for_us_is_not_slow(house):
    """A model that takes longer than a request may, with another request behind it that is not whole yet."""
    gate = asyncio.Event()

    class Slow:
        async def ask(self, rows):
            await gate.wait()
            return [("yes", (0.0, 1.0))] * len(rows)

    seat = house.door.room.live.seats[0]
    seat.here, seat.elsewhere = None, Slow()

    async def client(connect):
        reader, writer = await connect()
        writer.write(BODY + BODY[:-5])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), QUICK.timeout_s * 3)
        gate.set()
        writer.write(BODY[-5:])
        return await reader.readuntil(b"}") + await reader.readuntil(b"}")

    assert talking(house, client).count(b"200 OK") == 2


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "head",
    [
        b"POST /predict HTTP/1.1\r\n" + b"x-a: b\r\n" * 102,
        b"POST /predict HTTP/1.1\r\nx-a: " + b"b" * MOST_HEAD_BYTES + b"\r\n",
        b"POST /predict?" + b"b" * MOST_HEAD_BYTES * 2 + b" HTTP/1.1\r\n",
        b"POST /predict HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (n, b"b" * 1_000) for n in range(40)),
    ],
    ids=["many", "long", "path", "together"],
)
def test_a_head_that_is_too_large_is_refused(house, head, whole):
    async def client(connect):
        reader, writer = await connect(limit=2**20)
        writer.write(head + (b"content-length: 0\r\n\r\n" if whole else b""))
        return await reader.read()

    found = talking(house, client, Bounds(timeout_s=10.0))
    assert code(found) == (431, "HeadTooLarge")
    assert [served.status for served in house.served] == [431]


def test_a_hundred_headers_are_no_offence(house):
    async def client(connect):
        reader, writer = await connect()
        writer.write(request(headers=[f"x-{number}: {'b' * 50}" for number in range(97)]))
        return await reader.readuntil(b"}")

    assert b"200 OK" in talking(house, client)


def test_one_connection_too_many_is_told_so(house):
    async def client(connect):
        for _ in range(2):
            reader, writer = await connect()
            writer.write(BODY)
            assert b"200 OK" in await reader.readuntil(b"}")
        refused = await (await connect())[0].read()
        writer.close()
        await writer.wait_closed()
        while True:
            reader, writer = await connect()
            writer.write(BODY)
            try:
                if b"200 OK" in await reader.readuntil(b"}"):
                    return refused
            except (asyncio.IncompleteReadError, ConnectionError):
                continue

    assert code(talking(house, client, Bounds(timeout_s=10.0, connections=2))) == (503, "TooManyConnections")


@pytest.mark.parametrize("lane", ["fast", "ordinary"])
def test_a_client_that_never_reads_is_taken_no_more_from_and_then_let_go(house, lane):
    body = {"instances": [[1.0, 3, "red"]] * 100}
    raw = request("/batch", body, headers=[] if lane == "fast" else ["x-a: b", "x-a: b"])

    async def client(connect):
        reader, writer = await connect(limit=1)
        reader._transport.pause_reading()
        sent = 0
        try:
            while sent < 200_000_000:
                writer.write(raw * 100)
                sent += len(raw) * 100
                await writer.drain()
        except ConnectionError:
            return sent
        return sent

    assert talking(house, client) < 100_000_000


PING = b"GET /ping HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.mark.parametrize("kind", ["fast", "ordinary", "alternating", "pages"])
@pytest.mark.parametrize("reads", ["nothing", "slowly", "all"])
def test_what_a_connection_holds_is_bounded(house, kind, reads):
    """A client that sends requests without end, in both lanes: replies, waiting requests and unread bytes stay few."""
    odd = request(headers=["x-a: b", "x-a: b"])
    raw = {"fast": BODY, "ordinary": odd, "alternating": odd + BODY * 40, "pages": PING}[kind] * 500
    most = []

    async def client(connect):
        reader, writer = await connect(limit=2**16)
        writer.write(BODY)
        await reader.readuntil(b"}")
        (connection,) = connect.state.connections
        if reads == "nothing":
            reader._transport.pause_reading()
        pump = asyncio.create_task(read_on(reader)) if reads == "all" else None
        for turn in range(120):
            if writer.transport.get_write_buffer_size() < 2_000_000:
                writer.write(raw)
            if reads == "slowly" and turn % 4 == 0:
                await reader.read(5_000)
            await asyncio.sleep(0)
            most.append((connection.transport.get_write_buffer_size(), len(connection._held), len(connection.pipeline)))
        if pump is not None:
            pump.cancel()

    async def read_on(reader):
        while await reader.read(1_000_000):
            pass

    talking(house, client, Bounds(timeout_s=10.0))
    written, held, queued = (max(each) for each in zip(*most, strict=True))
    assert written < 80_000  # the transport's limit, and a reply
    assert held < 600_000  # two reads
    assert queued <= 32 + 8_192 // len(PING)


@pytest.mark.parametrize("kind", ["ordinary", "alternating", "pages"])
def test_every_request_of_a_long_line_is_answered_once_and_in_order(house, kind):
    """What was held is not forgotten, doubled or mixed up."""
    count = 700
    bodies = [{"x": place / 100, "n": 3, "colour": "red"} for place in range(count)]
    odd = ["x-a: b", "x-a: b"]
    sent = b"".join(
        PING if kind == "pages" else request(body=body, headers=odd if kind == "ordinary" or place % 3 else [])
        for place, body in enumerate(bodies)
    )

    async def client(connect):
        reader, writer = await connect()
        writer.write(sent)
        found = b""
        while found.count(b"HTTP/1.1 200 OK") < count or not found.endswith((b"}", b"pong")):
            found += await reader.readexactly(1)
            found += await reader.read(100_000)
        return found

    found = talking(house, client, Bounds(timeout_s=20.0))
    assert found.count(b"HTTP/1.1 200 OK") == count
    if kind == "pages":
        assert found.count(b"pong") == count
    else:
        given = re.findall(rb'{"prediction":"(\w+)"}', found)
        expected = [
            json.loads(asyncio.run(house.ask("/predict", json.dumps(body).encode()))[2])["prediction"]
            for body in bodies
        ]
        assert [each.decode() for each in given] == expected
        assert len(set(expected)) == 2


def test_at_the_end_each_reply_says_so(house):
    async def client(connect):
        reader, writer = await connect()
        for _ in range(2):
            writer.write(BODY)
            assert b"connection" not in await reader.readuntil(b"}")
        house.door.is_closing = True
        house.app.keyring.on_change()
        writer.write(BODY)
        return await reader.read()

    with_lane = talking(house, client)
    assert re.search(rb"HTTP/1.1 200 OK\r\n(?:.*\r\n)*connection: close\r\n", with_lane)
