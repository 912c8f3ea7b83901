"""The doors of a running server: who gets in, what is told of it, how it is bounded, and how it ends."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.certificates import certificate
from infra.otlp import facts, receiving
from infra.server import serving
from interlock.serve.keys import add_key

pytestmark = pytest.mark.slow
SLOWLY = ["-c", "100", "-r", "100", "-i", "1", "-l", "8", "-p", "2", "-u"]


def settings(**told: str) -> tuple[str, ...]:
    return tuple(part for name, value in told.items() for part in ("--set", f"serve.{name}={value}"))


def record(served) -> dict:
    document = served.ask("/openapi.json")[2]
    return document["components"]["schemas"]["Record"]["examples"][0]


def whole(url: str, body: dict, count: int) -> list[str]:
    """Send requests one after the other on one connection, each in one piece; the ids of the replies."""
    host, _, port = url.removeprefix("http://").partition(":")
    raw, names = json.dumps(body).encode(), []
    head = b"POST /predict HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as client:
        for _ in range(count):
            client.sendall(head % len(raw) + raw)
            reply = http.client.HTTPResponse(client)
            reply.begin()
            assert reply.read().startswith(b'{"prediction"')
            names.append(reply.headers["interlock-prediction-id"])
    return names


def test_what_a_server_does_is_counted_traced_and_logged(shades: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    log = tmp_path / "access.jsonl"
    with receiving() as receiver:
        told = settings(traces=receiver.url, traces_sample="1.0", access_log=str(log))
        with serving(shades, "--insecure", before=told) as served:
            one = record(served)
            names = [served.ask("/predict", one)[1]["interlock-prediction-id"] for _ in range(3)]
            names += whole(served.url, one, 5)
            _, headers, text = served.ask("/metrics")
            assert headers["content-type"].startswith("text/plain; version=0.0.4")
            found = samples(text)
            assert found["interlock_requests_total", "/predict", "200"] == 8
            assert found["interlock_answers_total", "champion"] == found["interlock_records_total",] == 8
            assert found["interlock_lane_answers_total", "fast"] == 4
            assert found["interlock_release_generation",] == 1
            assert 0 < found["interlock_model_age_seconds",] < 600
            assert found["process_resident_memory_bytes",] > 1e6
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["id"] for line in lines if line["route"] == "/predict"] == names
        spans = [facts(span) for span in receiver.spans if span.name == "/predict"]
        assert [span["interlock.prediction.id"] for span in spans] == names
        assert {span["interlock.tier"] for span in spans} == {"champion"}


def test_a_key_has_its_quota_and_is_taken_back_while_the_server_runs(shades: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    text = add_key(path, "shop", ("predict",), "3 per day")
    with serving(shades, before=settings(keys_file=str(path))) as served:
        shown = {"authorization": f"Bearer {text}"}
        assert [served.ask("/predict", {}, shown)[0] for _ in range(5)] == [422] * 3 + [429] * 2
        headers = served.ask("/predict", {}, shown)[1]
        assert 0 < int(headers["retry-after"]) <= 28_800
        assert served.ask("/metrics", headers=shown)[0] == 403
        path.write_text("")
        began = time.monotonic()
        served.wait_for("0 keys open now", within_s=10)
        assert served.ask("/predict", {}, shown)[0] == 401
        assert time.monotonic() - began < 5.0  # 0.25 s, on a machine that has nothing else to do


def test_tls_from_files(shades: Path, tmp_path: Path) -> None:
    cert, private = certificate(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        admin = free.getsockname()[1]
    told = settings(tls_cert=str(cert), tls_key=str(private), admin_port=str(admin))
    with serving(shades, "--insecure", before=told) as served:
        assert served.url.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=str(cert))
        client = http.client.HTTPSConnection(served.url.removeprefix("https://"), timeout=30, context=trusted)
        found = []
        for _ in range(3):
            client.request("POST", "/predict", "{}", {"content-type": "application/json"})
            reply = client.getresponse()
            found.append((reply.status, json.loads(reply.read())["error"]["code"]))
        assert found == [(422, "DataRefused")] * 3
        assert client.sock.version() in ("TLSv1.2", "TLSv1.3")
        client.close()
        served.wait_for(f"the admin routes are at https://127.0.0.1:{admin}")
        client = http.client.HTTPSConnection("127.0.0.1", admin, timeout=30, context=trusted)
        client.request("GET", "/release")
        assert json.loads(client.getresponse().read())["release"]["generation"] == 1
        client.close()
        with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
            served.ask("/ping")


def test_it_ends_without_dropping_anybody(shades: Path) -> None:
    """SIGTERM: /readyz says so at once, requests are still answered and told to go, and then the program is gone."""
    with serving(shades, "--insecure", before=settings(linger="3s")) as served:
        assert served.ask("/readyz")[0] == 200
        one = json.dumps(record(served))
        client = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=30)
        for _ in range(3):
            client.request("POST", "/predict", one, {"content-type": "application/json"})
            assert client.getresponse().read().startswith(b'{"prediction"')
        served.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 2.5
        while (ready := served.ask("/readyz"))[0] == 200 and time.monotonic() < end:
            pass
        assert (ready[0], ready[1]["connection"], ready[2]) == (503, "close", "closing")
        assert served.ask("/healthz")[0] == 200
        client.request("POST", "/predict", one, {"content-type": "application/json"})
        reply = client.getresponse()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert served.process.wait(30) == 0


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4_096 / 1e6


def stuck(url: str) -> socket.socket:
    """A client with as little room for replies as the system allows."""
    host, _, port = url.removeprefix("http://").partition(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.connect((host, int(port)))
    client.setblocking(False)
    return client


def test_clients_that_pipeline_and_never_read_take_no_memory_and_nobody_s_time(shades: Path) -> None:
    """Nine connections stuffed with requests, in both lanes and for pages: a little memory each, then an end."""
    with serving(shades, "--insecure", before=settings(request_timeout="3s")) as served:
        one = json.dumps(record(served)).encode()
        head = b"POST %s HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        many = json.dumps({"instances": [json.loads(one)] * 30}).encode()
        known = head % (b"/predict", len(one)) + one
        odd = head % (b"/batch?probabilities=true", len(many)) + many
        page = b"GET /openapi.json HTTP/1.1\r\nhost: here\r\n\r\n"
        whole(served.url, json.loads(one), 100)
        before = resident_mb(served.process.pid)
        greedy = [stuck(served.url) for _ in range(9)]
        waiting = [b""] * len(greedy)
        most, sent, gone = before, 0, 0
        try:
            end = time.monotonic() + 40.0
            while gone < len(greedy) and time.monotonic() < end:
                gone = 0
                for number, client in enumerate(greedy):
                    waiting[number] = waiting[number] or (known, odd, page)[number % 3] * 400
                    try:
                        count = client.send(waiting[number])
                    except BlockingIOError:
                        continue
                    except OSError:
                        gone += 1
                    else:
                        sent, waiting[number] = sent + count, waiting[number][count:]
                most = max(most, resident_mb(served.process.pid))
                began = time.monotonic()
                assert served.ask("/predict", json.loads(one))[0] == 200
                assert time.monotonic() - began < 3.0
        finally:
            for client in greedy:
                client.close()
        assert gone == len(greedy)
        assert sent > 3_000_000
        assert most - before < 20.0


def test_a_quota_holds_for_all_workers_together_and_so_do_the_metrics(shades: Path, tmp_path: Path) -> None:
    """Two processes, many connections: not one request more, and any of them tells what both counted."""
    path = tmp_path / "keys.toml"
    shop = {"authorization": f"Bearer {add_key(path, 'shop', ('predict',), '30 per day')}"}
    ops = {"authorization": f"Bearer {add_key(path, 'ops', ('read',))}"}
    with serving(shades, before=settings(keys_file=str(path), workers="2")) as served:
        with ThreadPoolExecutor(8) as people:
            found = list(people.map(lambda _: served.ask("/predict", {}, shop), range(100)))
        statuses = [status for status, _, _ in found]
        assert (statuses.count(422), statuses.count(429)) == (30, 70)
        assert len({headers["interlock-prediction-id"][:16] for _, headers, _ in found}) == 2

        def told() -> dict[tuple[str, ...], float]:
            return samples(served.ask("/metrics", headers=ops)[2])

        def requests(found: dict[tuple[str, ...], float]) -> tuple[float, float]:
            return tuple(found.get(("interlock_requests_total", "/predict", code), 0.0) for code in ("422", "429"))

        end = time.monotonic() + 20.0
        while requests(told()) != (30.0, 70.0):
            assert time.monotonic() < end, requests(told())
        pages = [told() for _ in range(12)]
        assert {requests(page) for page in pages} == {(30.0, 70.0)}
        assert {page["interlock_workers",] for page in pages} == {2.0}
        tree = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
        os.kill(int(tree.read_text().split()[0]), signal.SIGKILL)
        served.wait_for("another is started")
        assert {requests(told()) for _ in range(6)} == {(30.0, 70.0)}
        assert served.ask("/predict", {}, shop)[0] == 429
        if shutil.which("promtool"):
            text = served.ask("/metrics", headers=ops)[2]
            done = subprocess.run(
                ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False
            )
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_slowhttptest_closes_no_door(shades: Path, tmp_path: Path) -> None:
    """A hundred slow clients of each kind: the server stays open to others, and those that it can end are ended."""
    if shutil.which("slowhttptest") is None:
        pytest.skip("slowhttptest is not installed (Debian: slowhttptest)")
    with serving(shades, "--insecure", before=settings(request_timeout="1s", max_connections="250")) as served:
        for kind in ("-H", "-B"):
            done = subprocess.run(
                ["slowhttptest", kind, *SLOWLY, served.url + "/predict"],
                capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False,
            )  # fmt: skip
            said = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).split())
            assert "Exit status: No open connections left" in said, said[-2_000:]
            assert "service available: NO" not in said
            assert served.ask("/ping")[0] == 200
