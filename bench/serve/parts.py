"""What each part of a request costs inside the server, in microseconds of processor time.

    python bench/serve/parts.py [--blocks 400]

The server of ``one.py`` with everything on, assembled as ``interlock serve`` does it, but for the sockets: 64 different
requests are handed to the connections of the fast lane in turn, and each part is asked by itself with what the parts
before it made. A block is 64 calls; the median of all blocks is told, and the quickest tenth, for neighbours of a
shared machine only ever add. What is not named is calls between the parts.
"""

import asyncio
import contextlib
import inspect
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from journal import about, options, shown, table
from project import bearer, encoded, http, make_project, records
from uvicorn.server import ServerState

import interlock.serve.listening as listening
from interlock.cli.main import main as interlock_main
from interlock.serve.app import App
from interlock.serve.door import Served
from interlock.serve.forms import PLAIN
from interlock.serve.keys import presented
from interlock.serve.lane import Lane, protocol_of

CONNECTIONS = 64
_PEER = ("127.0.0.1", 1_234)


class _Nowhere(asyncio.Transport):
    """Takes what is written, and sends it nowhere."""

    def write(self, data: Any) -> None:
        self.last = data

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": _PEER, "sockname": ("127.0.0.1", 80)}.get(name, default)

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass


async def timed(blocks: int, call: Callable[..., Any], given: Sequence[tuple[Any, ...]]) -> tuple[float, float]:
    """Microseconds a call: the median of all blocks, and of the quickest tenth."""
    took = []
    for _ in range(blocks):
        began = time.thread_time()
        for each in given:
            call(*each)
        took.append((time.thread_time() - began) / len(given) * 1e6)
        await asyncio.sleep(0.001)  # the log writes, and a turn of the loop ends
    took.sort()
    return statistics.median(took), statistics.median(took[: max(1, len(took) // 10)])


async def measure(lane: Lane, app: App, connections: list[Any], requests: list[bytes], blocks: int) -> None:
    """Print the table."""
    door, room = lane.door, lane.door.room
    bodies = [request.partition(b"\r\n\r\n")[2] for request in requests]
    known = next(iter(lane.heads.values()))
    headers = {b"authorization": requests[0].partition(b"Authorization: ")[2].partition(b"\r\n")[0]}
    tell, told = door.tell, list[Served]()
    door.tell = told.append
    replies = [door.now("/predict", body, known.client) for body in bodies]
    door.tell = tell
    seat = room.live.first
    assert seat.here is not None
    assert all(reply is not None and reply.status == 200 for reply in replies)
    asked = [room.forms.read("/predict", body, PLAIN) for body in bodies]
    answered = [served.answered for served in told]
    watchers = inspect.getclosurevars(tell).nonlocals["watchers"]
    parts: list[tuple[str, Callable[..., Any], Sequence[tuple[Any, ...]]]] = [
        ("a request, whole", lambda to, data: to.data_received(data), list(zip(connections, requests, strict=True))),
        ("know the head again: path, key, length", _known, [(lane, request) for request in requests]),
        ("… look the key up, where it is new", lambda: app.keyring.find(presented(headers)), [()] * CONNECTIONS),
        (
            "read the record: JSON, strictly, by the signature",
            room.forms.read,
            [("/predict", b, PLAIN) for b in bodies],
        ),
        ("the model", seat.here.answers, [(each.rows,) for each in asked]),
        ("guard", seat.judge, [(a.rows[0], b.answers[0]) for a, b in zip(asked, answered, strict=True) if b]),
        ("write the answer", lambda a, b: a.write(b, room.live), list(zip(asked, answered, strict=True))),
        ("the bytes of the reply", connections[0].written, [(reply,) for reply in replies]),
        ("tell all who watch", tell, [(served,) for served in told]),
    ]
    for watcher in watchers:
        name = watcher.__qualname__.partition(".<")[0]
        parts.append((f"… {_WATCHERS.get(name, name)}", watcher, [(served,) for served in told]))
    rows = []
    for name, call, given in parts:
        median, quick = await timed(blocks, call, given)
        rows.append([name, shown(median, 2), shown(quick, 2)])
    table(["part", "us, median", "us, quickest tenth"], rows)


_WATCHERS = {
    "Journal.append": "prediction log",
    "Metrics.saw": "metrics",
    "_voting": "evidence of the breaker",
    "Canary.saw": "canary",
}


def _known(lane: Lane, data: bytes) -> object:
    return lane.heads.get(data[: data.find(b"\r\n\r\n", 0, 4_096) + 4])


def main() -> None:
    wanted = options("parts", 5)
    wanted.add_argument("--blocks", type=int, default=400)
    given = wanted.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    project = make_project(given.folder / "project")
    requests = [http("/predict", encoded(each), bearer(project)) for each in records(CONNECTIONS)]

    def listen(app: App, lane: Lane, _: Any, way: listening.Way, *__: Any) -> None:
        config = uvicorn.Config(app, http=protocol_of(lane), log_config=None, lifespan="off")
        config.load()

        async def answer() -> None:
            way.ready("nowhere")
            state = ServerState()
            connections: list[Any] = []
            for _ in range(CONNECTIONS):
                made: Any = config.http_protocol_class(config=config, server_state=state, app_state={})
                made.connection_made(_Nowhere())
                connections.append(made)
            for request in requests:  # the first of each head takes the ordinary lane
                connections[0].data_received(request)
                await asyncio.sleep(0.01)
            await measure(lane, app, connections, requests, given.blocks)

        with asyncio.Runner(loop_factory=config.get_loop_factory()) as loops:
            loops.run(answer())

    listening.listen = listen  # type: ignore[assignment]
    sys.argv = ["interlock", "--project", str(project), "serve"]
    with contextlib.suppress(SystemExit):
        interlock_main()
    about()


if __name__ == "__main__":
    main()
