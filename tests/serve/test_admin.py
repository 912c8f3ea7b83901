"""The admin port: who may read and who may act, what is asked how, and what is recorded of it."""

import asyncio
import json

import pytest

from interlock.errors import StoreFault
from interlock.release.breaker import State
from interlock.release.standing import current
from interlock.serve.admin import MOST_BYTES, Admin, Here, strict
from interlock.serve.door import Reply
from interlock.serve.keys import SCOPES, Keyring, new_key
from serve.conftest import FORM, house_of, opened_bundle


class Office:
    """An admin port with a key for each scope."""

    def __init__(self, project):
        self.project = project
        made = {scope: new_key(f"who-{scope}", (scope,)) for scope in SCOPES}
        self.keys = {scope: text for scope, (text, _) in made.items()}
        here = Here(lambda: "state", lambda: State(model="here"), lambda _: Reply(200, b"metrics", b"1"))
        self.admin = Admin(project.parts, Keyring(tuple(key for _, key in made.values())), here)

    def ask(self, method, path, body=None, scope="operate", query=b"", kind=b"application/json", key=None):
        headers = [(b"content-type", kind)]
        shown = key if key is not None else self.keys.get(scope, "")
        headers += [(b"authorization", b"Bearer " + shown.encode())] if shown else []
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        sent = []

        async def receive():
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(message):
            sent.append(message)

        asked = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": query}
        asyncio.run(self.admin(asked, receive, send))
        start, end = sent
        kind = dict(start["headers"])[b"content-type"]
        return start["status"], json.loads(end["body"]) if kind == b"application/json" and end[
            "body"
        ] != b"metrics" else end["body"]


@pytest.fixture
def office(project, tmp_path):
    project.release_of(tmp_path, 2, last_good=opened_bundle(tmp_path / "good", FORM))
    return Office(project)


def test_every_route_has_a_scope_and_opens_to_that_alone(office):
    """Walk the router: without a key, with a wrong one, and with each scope."""
    assert {route.scope for route in office.admin.routes.values()} == {"read", "operate"}
    for (method, path), route in office.admin.routes.items():
        for key in ("", "ilk_nobody"):
            status, told = office.ask(method, path, {}, scope=None, key=key)
            assert (status, told["error"]["code"]) == (401, "NoKey")
        for scope in SCOPES:
            status, told = office.ask(method, path, {}, scope=scope)
            if scope == route.scope:
                assert status in (200, 400), (path, told)
            else:
                assert (status, told["error"]["code"]) == (403, "Forbidden")
        assert route.scope == ("read" if method == "GET" else "operate")


def test_the_public_port_has_none_of_them(office, project):
    """Walk both routers: what both have is /metrics."""
    house = house_of(project, Keyring(None))
    paths = {path for _, path in office.admin.routes}
    assert paths & house.app.routes == {"/metrics"}
    for method, path in office.admin.routes:
        if path != "/metrics":
            status, _, body = asyncio.run(house.ask(path, b'{"because": "x"}', method=method))
            assert (status, json.loads(body)["error"]["code"]) == (404, "NotFound")
    for path in house.app.routes - {"/metrics"}:
        for method in ("GET", "POST"):
            assert office.ask(method, path, {}, scope="read")[0] == 404


def test_what_is_live_is_read(office, project):
    status, told = office.ask("GET", "/release", scope="read")
    assert (status, told["source"], told["release"]["generation"]) == (200, "state", 2)
    status, told = office.ask("GET", "/history", scope="read")
    assert [release["generation"] for release in told["releases"]] == [2, 1]
    assert len(office.ask("GET", "/history", scope="read", query=b"limit=1")[1]["releases"]) == 1
    status, told = office.ask("GET", "/breaker", scope="read")
    assert (told["recorded"]["mode"], told["here"]["model"]) == ("closed", "here")
    assert office.ask("GET", "/metrics", scope="read") == (200, b"metrics")


@pytest.mark.parametrize("query", [b"limit=0", b"limit=1001", b"limit=x", b"limits=1", b"limit=\xff", b"limit=1.5"])
def test_a_query_that_is_none_is_refused(office, query):
    status, told = office.ask("GET", "/history", scope="read", query=query)
    assert (status, told["error"]["code"]) == (400, "DataRefused")


def test_a_trip_and_a_reset_are_recorded_with_who_asked(office, project):
    status, told = office.ask("POST", "/trip", {"because": "it lies"})
    assert (status, told["state"]["mode"], told["release"]["generation"]) == (200, "open", 3)
    assert current(project.parts.ledger).route == "last-good"
    status, told = office.ask("POST", "/reset", {"because": "mended"})
    assert (status, told["release"]["route"]) == (200, "champion")
    events = [event for event in project.parts.ledger.events() if event.kind.startswith("breaker.")]
    assert [event.facts["because"] for event in events] == [
        "it lies (asked by who-operate)",
        "mended (asked by who-operate)",
    ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/trip", b""),
        ("/trip", b"[]"),
        ("/trip", b"{}"),
        ("/trip", b'{"because": ""}'),
        ("/trip", b'{"because": 1}'),
        ("/trip", b'{"because": "x", "because": "y"}'),
        ("/trip", b'{"because": "x", "then": 1}'),
        ("/trip", b'{"because": "\xff"}'),
        ("/trip", b"[" * 10_000),
        ("/rollback", b'{"because": "x", "to": 0}'),
        ("/rollback", b'{"because": "x", "to": 1.5}'),
        ("/promote", b'{"because": "x"}'),
        ("/promote", b'{"because": "x", "entry": NaN}'),
    ],
)
def test_a_body_that_does_not_fit_is_refused_and_changes_nothing(office, project, path, body):
    before = project.parts.ledger.events()
    status, told = office.ask("POST", path, body)
    assert (status, told["error"]["code"]) == (400, "DataRefused")
    assert len(told["error"]["id"]) == 26
    assert project.parts.ledger.events() == before


def test_what_cannot_be_done_is_told_by_its_kind(office, project, monkeypatch):
    assert office.ask("POST", "/rollback", {"because": "x"})[0] == 409  # nothing to go back to
    assert office.ask("POST", "/rollback", {"because": "x", "to": 99})[0] == 404
    assert office.ask("POST", "/promote", {"because": "x", "entry": 99})[0] == 404
    assert office.ask("POST", "/trip", {"because": " "})[0] == 422
    assert office.ask("POST", "/trip", {"because": "x"}, kind=b"text/plain")[0] == 415
    assert office.ask("POST", "/trip", b" " * (MOST_BYTES + 1))[0] == 400
    status, told = office.ask("POST", "/release", {}, scope="operate")
    assert (status, told["error"]["code"]) == (405, "MethodNotAllowed")

    def away(*_, **__):
        raise StoreFault("The database is away.")

    monkeypatch.setattr(project.parts.ledger, "scan", away)
    assert office.ask("GET", "/release", scope="read")[0] == 503
    monkeypatch.setattr(project.parts.ledger, "scan", None)
    status, told = office.ask("GET", "/release", scope="read")
    assert (status, told["error"]["code"], told["error"]["message"]) == (
        500,
        "Fault",
        "Something broke inside the server.",
    )


def test_two_acts_at_once_are_told_apart(office, project):
    project.parts.ledger.acquire("operator", ttl_s=60.0)
    status, told = office.ask("POST", "/trip", {"because": "x"})
    assert (status, told["error"]["code"]) == (409, "LeaseHeld")


def test_strictness_is_that_of_the_form():
    assert strict(b'{"a": 1}', dict) == {"a": 1}
