"""Spans as a receiver gets them: who answered, and nothing of a record."""

import asyncio
import json
import socket
import subprocess
import sys

import pytest

from infra.otlp import facts, receiving
from interlock.errors import SettingsError
from interlock.serve.keys import Keyring, new_key
from interlock.serve.lane import Lane, protocol_of
from interlock.serve.tracing import Tracer
from serve.conftest import FORM, house_of, opened_bundle
from serve.test_door import NONSENSE
from serve.test_lane import exchanged, request

RECORD = {"x": 1.0, "n": 3, "colour": "red"}
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")


def asked(house, path="/predict", body=RECORD, parent=None, **options):
    headers = ((b"traceparent", parent.encode("latin-1")),) if parent else ()
    return asyncio.run(house.ask(path, json.dumps(body).encode(), headers=headers, **options))


def test_a_request_is_a_span_without_anything_of_its_record(project, tmp_path):
    good = opened_bundle(tmp_path / "good", FORM)
    project.release_of(tmp_path, 2, last_good=good, form=NONSENSE)
    said = []
    with receiving() as receiver:
        tracer = Tracer(receiver.url, "demo", 1.0, said.append)
        house = house_of(project, Keyring(None), on_served=tracer.saw)
        name = asked(house)[1][b"interlock-prediction-id"].decode()
        asked(house, body={**RECORD, "colour": 7})
        house.door.room.live.seats[0].here = None
        house.door.room.live.seats[0].elsewhere = type("Broken", (), {"ask": lambda self, rows: 1 / 0})()
        asked(house)
        tracer.close()
        assert receiver.paths[0] == "/v1/traces"
        assert receiver.service == "demo"
        one, two, three = receiver.spans
        assert facts(one) == {
            "http.route": "/predict",
            "http.response.status_code": 200,
            "interlock.prediction.id": name,
            "interlock.tier": "last-good",
            "interlock.release": 2,
            "interlock.model": good.bundle.digest[:12],
        }
        assert facts(two).keys() == {"http.route", "http.response.status_code", "interlock.prediction.id"}
        assert [facts(span)["http.response.status_code"] for span in (two, three)] == [422, 500]
        assert [span.status.code for span in (one, two, three)] == [0, 0, 2]
        assert one.end_time_unix_nano - one.start_time_unix_nano == pytest.approx(
            house.served[0].seconds * 1e9, abs=1e3
        )
        assert len({span.trace_id for span in receiver.spans}) == 3
        assert all(b"colour" not in body for body in receiver.raw)
    assert said == []


@pytest.mark.parametrize(
    ("parent", "sample", "sent"),
    [
        (f"00-{TRACE}-{SPAN}-01", 0.0, True),
        (f"00-{TRACE}-{SPAN}-00", 1.0, False),
        (f"00-{'0' * 32}-{SPAN}-01", 1.0, "new"),
        ("nonsense", 1.0, "new"),
        ("nonsense\xff", 0.0, False),
        (None, 1.0, "new"),
        (None, 0.0, False),
    ],
)
def test_a_trace_of_the_client_is_carried_on(project, parent, sample, sent):
    with receiving() as receiver:
        tracer = Tracer(receiver.url, "demo", sample, print)
        house = house_of(project, Keyring(None), on_served=tracer.saw)
        asked(house, parent=parent)
        tracer.close()
        assert len(receiver.spans) == bool(sent)
        if sent:
            (span,) = receiver.spans
            carried = (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
            assert carried == (sent is True)


def test_one_request_never_takes_the_trace_of_another(project):
    """Pipelined requests run in tasks that are started by each other, and the fast lane in none."""
    with receiving() as receiver:
        tracer = Tracer(receiver.url, "demo", 1.0, print)
        house = house_of(project, Keyring(None), on_served=tracer.saw)
        lane = Lane(house.door, house.app)
        traced = request(headers=[f"traceparent: 00-{TRACE}-{SPAN}-01"])
        asyncio.run(
            exchanged(protocol_of(lane), house.app, [traced + request() + traced, request(), traced, request()])
        )
        tracer.close()
        assert [span.trace_id.hex() == TRACE for span in receiver.spans] == [True, False, True, False, True, False]
        assert lane.answered == 1
        assert len(lane.heads) == 1


def test_pages_and_refusals_are_spans_too(project):
    with receiving() as receiver:
        tracer = Tracer(f"{receiver.url}/other/path", "demo", 1.0, print)
        house = house_of(project, Keyring((new_key("k", ("read",))[1],)), on_served=tracer.saw)
        asked(house)
        asked(house, "/nowhere")
        asked(house, "/ping", method="GET")
        tracer.close()
        assert receiver.paths == ["/other/path"]
        found = [(span.name, facts(span)["http.response.status_code"]) for span in receiver.spans]
        assert found == [("/predict", 401), ("other", 404), ("/ping", 200)]


def test_a_receiver_that_hangs_or_is_not_there_slows_nobody(project):
    said = []
    with receiving() as receiver:
        receiver.held.clear()
        tracer = Tracer(receiver.url, "demo", 1.0, said.append)
        house = house_of(project, Keyring(None), on_served=tracer.saw)
        asked(house)
        assert receiver.asked.wait(30)
        assert [asked(house)[0] for _ in range(50)] == [200] * 50
        assert max(served.seconds for served in house.served[1:]) < 0.5
        receiver.held.set()
        tracer.close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    tracer = Tracer(url, "demo", 1.0, said.append)
    house = house_of(project, Keyring(None), on_served=tracer.saw)
    assert asked(house)[0] == 200
    tracer.close()
    tracer._outbox._thread.join(30)
    assert said == ["the traces cannot be delivered, and answers go on without: Undelivered"]


def test_without_traces_nothing_of_them_is_imported():
    script = "import sys, interlock.serve.server; print([name for name in sys.modules if 'opentelemetry' in name])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_extra_the_next_step_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError) as caught:
        Tracer("http://127.0.0.1:1", "demo", 1.0, print)
    assert caught.value.next_step == "pip install 'interlock[telemetry]'"
