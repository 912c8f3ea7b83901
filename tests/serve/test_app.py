"""Every door: what it takes, what it gives, and who may pass."""

import asyncio
import json

import pytest

from interlock.serve.app import App
from interlock.serve.keys import SCOPES, Keyring, new_key
from interlock.serve.metrics import Metrics
from interlock.serve.server import _pages
from serve.conftest import House, house_of

RECORD = {"x": 1.0, "n": 3, "colour": "red"}
ROW = [1.0, 3, "red"]
SECRET = {**RECORD, "x": "secret"}


def asked(house, path, body=None, **options):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, headers, content = asyncio.run(house.ask(path, raw, **options))
    assert int(headers[b"content-length"]) == len(content) or options.get("method") == "HEAD"
    return status, headers, content


@pytest.mark.parametrize(
    ("path", "body", "reply"),
    [
        ("/stream", {"instance": RECORD}, {"prediction": "yes"}),
        ("/stream", {"instance": ROW}, {"prediction": "yes"}),
        ("/predict", RECORD, {"prediction": "yes"}),
        ("/batch", {"instances": [RECORD, {**RECORD, "x": -4}]}, {"predictions": ["yes", "no"]}),
        ("/batch", {"instances": [ROW, RECORD]}, {"predictions": ["yes", "yes"]}),
        ("/batch", {"instances": []}, {"predictions": []}),
        ("/score", [RECORD, ROW], ["yes", "yes"]),
        ("/score", [], []),
    ],
)
def test_each_route_has_its_form(house, path, body, reply):
    status, headers, content = asked(house, path, body)
    assert (status, json.loads(content)) == (200, reply)
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"interlock-tier"] == b"champion"
    assert headers[b"interlock-release"] == b"1"
    assert headers[b"interlock-model"] == house.door.room.live.seats[0].model[:12].encode()
    assert len(headers[b"interlock-prediction-id"]) == 26


def test_every_answer_has_an_id_of_its_own(house):
    names = {asked(house, "/predict", RECORD)[1][b"interlock-prediction-id"] for _ in range(50)}
    assert len(names) == 50


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "message"),
    [
        ("/stream", b"nonsense", 400, "DataRefused", "The body is no JSON"),
        ("/stream", {"instance": {"x": 1}}, 422, "DataRefused", "Field 'n' is missing."),
        ("/stream", {"instances": [RECORD]}, 400, "DataRefused", "The body is not what this route takes: Object"),
        ("/stream", {}, 400, "DataRefused", "The body lacks 'instance'."),
        ("/stream", {"instance": 3}, 400, "DataRefused", "A record is one value, the model takes 3."),
        ("/batch", {"instances": [RECORD, SECRET]}, 422, "DataRefused", "Field 'x' of record 1 is not a number."),
        ("/batch", {"instances": [ROW] * 101}, 413, "DataRefused", "The request has 101 records, 100 are allowed."),
        ("/score", [[1.0, 3]], 400, "DataRefused", "A record has 2 values, the model takes 3."),
        ("/score", RECORD, 400, "DataRefused", "The body is not what this route takes"),
        ("/predict", [RECORD], 400, "DataRefused", "The body is not what this route takes"),
        ("/nowhere", RECORD, 404, "NotFound", "There is no such route."),
        ("/ping", RECORD, 405, "MethodNotAllowed", "/ping is read with GET."),
    ],
)  # fmt: skip
def test_what_is_refused_is_told_with_an_id_and_no_echo(house, path, body, status, code, message):
    got, headers, content = asked(house, path, body)
    error = json.loads(content)["error"]
    assert (got, error["code"]) == (status, code)
    assert error["message"].startswith(message)
    assert error["id"].encode() == headers[b"interlock-prediction-id"]
    assert b"secret" not in content


def test_the_other_method_is_refused_with_the_one_that_is_right(house):
    status, headers, _ = asked(house, "/stream", RECORD, method="GET")
    assert (status, headers[b"allow"]) == (405, b"POST")


def test_head_is_get_without_a_body(house):
    status, headers, content = asked(house, "/ping", b"", method="HEAD")
    assert (status, headers[b"content-length"], content) == (200, b"4", b"")


@pytest.mark.parametrize("headers", [((b"content-type", b"text/html"),), ((b"content-encoding", b"gzip"),)])
def test_other_types_and_compressed_bodies_are_refused(house, headers):
    assert asked(house, "/predict", RECORD, headers=headers)[0] == 415


@pytest.mark.parametrize("kind", [b"application/json", b"application/json; charset=utf-8", b"Application/JSON"])
def test_json_is_known_by_its_names(house, kind):
    assert asked(house, "/predict", RECORD, headers=((b"content-type", kind),))[0] == 200


def test_a_body_that_is_too_large_is_refused_before_it_is_read(project):
    house = house_of(project, Keyring(None), max_body=100)
    told = ((b"content-length", b"101"),)
    assert asked(house, "/predict", b"", headers=told)[0] == 413
    assert asked(house, "/predict", b"", pieces=[b"x" * 60] * 2)[0] == 413
    assert (
        asked(house, "/predict", b"", pieces=[json.dumps(RECORD).encode()[:9], json.dumps(RECORD).encode()[9:]])[0]
        == 200
    )


# ---- keys --------------------------------------------------------------------------------------------------------


def test_without_a_key_every_route_but_those_said_to_be_open_is_shut(project):
    house = house_of(project, Keyring(()))
    for path in house.app.routes:
        for method in ("GET", "POST", "HEAD", "PUT", "DELETE"):
            status = asked(house, path, RECORD, method=method)[0]
            assert (status == 401) == (path not in house.app.open_routes), path
    assert house.app.open_routes == {"/ping", "/v2/health/live", "/v2/health/ready"}
    status, headers, _ = asked(house, "/predict", RECORD)
    assert (status, headers[b"www-authenticate"]) == (401, b"Bearer")
    assert all(served.answered is None for served in house.served)


def test_the_doors_of_the_program_are_shut_but_for_six(project):
    """The routes that ``interlock serve`` opens, and not those of this file."""
    door = house_of(project, Keyring(())).door
    pages = _pages(door, project.parts.settings, Keyring(()), Metrics(project.clock, lambda: door.room, None))
    app = App(door, Keyring(()), pages, max_body=1_000)
    house = House(door, app)
    assert app.open_routes == {"/", "/ping", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
    assert "/metrics" in app.routes
    for path in app.routes - app.open_routes:
        for method in ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"):
            assert asked(house, path, RECORD, method=method)[0] == 401, path
    for path in app.open_routes:
        assert asked(house, path, b"", method="GET")[0] == 200


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_opens_what_it_is_for(project, scope):
    text, key = new_key("k", (scope,))
    house = house_of(project, Keyring((key,)))
    shown = ((b"authorization", b"Bearer " + text.encode()),)
    assert asked(house, "/predict", RECORD, headers=shown)[0] == (200 if scope == "predict" else 403)
    assert asked(house, "/metrics", b"", method="GET", headers=shown)[0] == (200 if scope == "read" else 403)


# ---- what is told of each request --------------------------------------------------------------------------------


def test_each_request_is_told_once(house):
    asked(house, "/batch", {"instances": [RECORD] * 3})
    asked(house, "/batch", b"nonsense")
    one, two = house.served
    assert (one.route, one.status, len(one.rows), one.tier) == ("/batch", 200, 3, "champion")
    assert (two.status, len(two.rows), two.tier) == (400, 0, "abstain")
    assert one.seconds >= 0
