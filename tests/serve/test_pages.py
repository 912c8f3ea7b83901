"""Pages for people: whole, without scripts, and nothing of the request becomes markup or a shell word."""

import html
import json
import re
import shlex

import pytest
from jsonschema import Draft202012Validator

from interlock.records import Column, Output, Signature
from interlock.serve.forms import JSON
from interlock.serve.openapi import Described, document
from interlock.serve.pages import docs_page, greeting


def page_of(house, host=b"here:8080", *, may_predict=True):
    reply = greeting("demo & co", house.door.room.live, {b"host": host}, "state", may_predict=may_predict)
    return reply, reply.body.decode()


def test_the_greeting_shows_a_request_that_the_model_takes(house):
    reply, page = page_of(house)
    assert reply.status == 200
    assert "demo &amp; co" in page
    command = shlex.split(html.unescape(re.search(r"<code>(curl .*?)</code>", page)[1]))
    assert command[-1] == "http://here:8080/predict"
    record = json.loads(command[command.index("-d") + 1])
    assert list(record) == ["x", "n", "colour"]


def test_the_greeting_says_when_the_release_is_only_remembered(house):
    room = house.door.room
    told = [greeting("demo", room.live, {}, source, may_predict=False).body for source in ("state", "memory")]
    assert [b"The state cannot be read" in page for page in told] == [False, True]


@pytest.mark.parametrize("host", [b"", b"<script>", b"a b", b"x'; rm -rf /", b"\xff"])
def test_a_strange_host_is_not_repeated(house, host):
    _, page = page_of(house, host)
    assert "http://127.0.0.1/predict" in page
    assert "<script" not in page
    assert "rm -rf" not in page


def test_who_may_not_ask_sees_no_columns(house):
    _, page = page_of(house, may_predict=False)
    assert "colour" not in page
    assert "curl" not in page


@pytest.mark.parametrize(("kind", "names"), [("ranking", ["probabilities", "k"]), ("text", ["probabilities"])])
def test_only_of_a_ranking_the_first_k_can_be_asked_for(house, kind, names):
    signature = Signature(inputs=house.door.room.live.seats[0].signature.inputs, output=Output(kind=kind, type="str"))
    bodies = {path: tuple(forms) for path, forms in house.door.room.forms.routes.items()}
    told = document(Described(name="demo", generation=1, signature=signature, bodies=bodies, pages={}))
    assert [each["name"] for each in told["paths"]["/predict"]["post"]["parameters"]] == names


@pytest.mark.parametrize("columns", [1, 2])
def test_a_horizon_is_described_where_the_model_takes_only_time(house, columns):
    month = Column(name="month", type="date", nullable=False, high="2025-11-01", step="1mo")
    other = Column(name="price", type="float", nullable=False)
    signature = Signature(inputs=(month, other)[:columns], output=Output(kind="number", type="float"))
    bodies = {path: tuple(forms) for path, forms in house.door.room.forms.routes.items()}
    told = document(Described(name="demo", generation=1, signature=signature, bodies=bodies, pages={}))
    Draft202012Validator.check_schema(told["paths"]["/batch"]["post"]["requestBody"]["content"][JSON]["schema"])
    assert ("horizon" in json.dumps(told)) == (columns == 1)
    replies = told["paths"]["/batch"]["post"]["responses"]["200"]["content"][JSON]["schema"]["properties"]
    assert ("times" in replies) == (columns == 1)


def test_the_page_of_the_document_names_every_route_and_field(house):
    room = house.door.room
    about = Described(
        name="demo",
        generation=1,
        signature=room.live.seats[0].signature,
        bodies={path: tuple(forms) for path, forms in room.forms.routes.items()},
        pages={"/healthz": ("It runs.", False)},
    )
    told = document(about)
    reply = docs_page(told)
    page = reply.body.decode()
    assert set(told["paths"]) == {*room.forms.routes, "/healthz", "/feedback"}
    for path in told["paths"]:
        assert path in html.unescape(page)
    for name in ("x", "n", "colour"):
        assert f"<code>{name}</code>" in page
    policy = dict(reply.headers)[b"content-security-policy"]
    assert policy.startswith(b"default-src 'none'; style-src 'sha256-")
