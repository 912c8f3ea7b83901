from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from answer.kit import FORM, SIGNATURE, Project, make_project, opened_bundle
from interlock.answer import live
from interlock.answer.guard import Limits
from interlock.answer.live import Loader
from interlock.records import Release
from interlock.serve.app import App, Page
from interlock.serve.door import Door, Reply, Served, room_of
from interlock.serve.keys import Keyring
from interlock.serve.pages import protocol_pages


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    found = make_project(tmp_path / "project")
    monkeypatch.setattr(live, "open_bundle", lambda _, wanted: found.bundles[wanted])
    found.release_of(tmp_path, 1)
    return found


@dataclass
class House:
    """A door with its application, asked as a server asks it."""

    door: Door
    app: App
    served: list[Served] = field(default_factory=list)

    async def ask(self, path, body=b"", method="POST", headers=(), pieces=(), query=b""):
        given = {b"content-type": b"application/json", **dict(headers)}
        scope = {"type": "http", "method": method, "path": path, "headers": list(given.items()), "query_string": query}
        parts = [*pieces] or [body]
        messages = [
            {"type": "http.request", "body": part, "more_body": place < len(parts) - 1}
            for place, part in enumerate(parts)
        ]
        sent = []

        async def receive():
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        await self.app(scope, receive, send)
        start, end = sent
        return start["status"], dict(start["headers"]), end["body"]


def loader_of(project: Project) -> Loader:
    def runner():
        raise AssertionError("no model of this project needs its own code")

    return Loader(project.parts, runner, limits=Limits(), workers=1)


def house_of(
    project: Project,
    keyring: Keyring,
    max_body: int = 10_000,
    max_rows: int = 100,
    on_served: Callable[[Served], None] | None = None,
    *,
    probabilities: bool = False,
) -> House:
    release = project.parts.ledger.scan("release", Release, newest_first=True, limit=1)[0][1]
    live = loader_of(project).load(release, project.said.append)
    room = room_of(live, most_rows=max_rows, name="demo", probabilities=probabilities)
    served: list[Served] = []

    def observe(found: Served) -> None:
        served.append(found)
        if on_served is not None:
            on_served(found)

    door = Door(room, observe)
    pages = {"/ping": Page(lambda _: Reply(200, b"pong"), None), "/metrics": Page(lambda _: Reply(200, b""), "read")}
    pages |= protocol_pages(door)
    return House(door, App(door, keyring, pages, max_body=max_body), served)


@pytest.fixture
def house(project: Project) -> House:
    return house_of(project, Keyring(None))


__all__ = ["FORM", "SIGNATURE", "house_of", "loader_of", "opened_bundle"]
