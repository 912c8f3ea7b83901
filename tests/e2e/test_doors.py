"""The doors of a running server: who gets in, what is told of it, how it is bounded, and how it ends."""

import http.client
import json
import re
import shutil
import signal
import ssl
import subprocess
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prometheus_client.parser import text_string_to_metric_families

from e2e.followed_project import turn
from e2e.linear_project import make_linear_project
from infra.otlp import facts, receiving
from infra.server import serving
from interlock.serve.keys import add_key

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released project whose champion answers inside the server."""
    folder = make_linear_project(tmp_path_factory.mktemp("doors") / "project")
    assert turn(folder).outcome == "released"
    return folder


def settings(**told: str) -> tuple[str, ...]:
    return tuple(part for name, value in told.items() for part in ("--set", f"serve.{name}={value}"))


def record(served) -> dict:
    document = served.ask("/openapi.json")[2]
    return document["components"]["schemas"]["Record"]["examples"][0]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for loopback that signs itself, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "interlock-test")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert, private


def test_what_a_server_does_is_counted_traced_and_logged(shades: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    log = tmp_path / "access.jsonl"
    with receiving() as receiver:
        told = settings(traces=receiver.url, traces_sample="1.0", access_log=str(log))
        with serving(shades, "--insecure", before=told) as served:
            one = record(served)
            names = [served.ask("/predict", one)[1]["interlock-prediction-id"] for _ in range(3)]
            client = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=30)
            for _ in range(5):
                client.request("POST", "/predict", json.dumps(one), {"content-type": "application/json"})
                reply = client.getresponse()
                names.append(reply.headers["interlock-prediction-id"])
                reply.read()
            client.close()
            _, headers, text = served.ask("/metrics")
            assert headers["content-type"].startswith("text/plain; version=0.0.4")
            found = {
                (sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
            assert found["interlock_requests_total", "/predict", "200"] == 8
            assert found["interlock_answers_total", "champion"] == found["interlock_records_total",] == 8
            assert found["interlock_lane_answers_total", "fast"] >= 3
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
    with serving(shades, "--insecure", before=settings(tls_cert=str(cert), tls_key=str(private))) as served:
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
        with pytest.raises(ssl.SSLCertVerificationError):
            served.ask("/ping")


@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        ("cert.pem", "", "serve.tls_cert and serve.tls_key come together"),
        ("cert.pem", "other.pem", "cannot be used: [X509] KEY_VALUES_MISMATCH"),
        ("nowhere.pem", "key.pem", "cannot be used: No such file or directory"),
        ("key.pem", "key.pem", "cannot be used: "),
    ],
)
def test_a_certificate_that_cannot_be_used_is_told(shades: Path, tmp_path: Path, cert, key, message) -> None:
    certificate(tmp_path)
    (tmp_path / "other").mkdir()
    certificate(tmp_path / "other")[1].rename(tmp_path / "other.pem")
    told = settings(tls_cert=str(tmp_path / cert), tls_key=str(tmp_path / key) if key else "")
    with pytest.raises(AssertionError) as caught, serving(shades, "--insecure", before=told):
        pass
    assert message in " ".join(str(caught.value).split())


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


@pytest.mark.parametrize(
    "kind",
    [("-H",), ("-B",), ("-X", "-n", "2", "-w", "1", "-y", "1", "-z", "1", "-k", "200")],
    ids=["headers", "body", "read"],
)
def test_slowhttptest_closes_no_door(shades: Path, tmp_path: Path, kind: tuple[str, ...]) -> None:
    """Two hundred slow clients: the service stays open to others, and all of them are ended."""
    if shutil.which("slowhttptest") is None:
        pytest.skip("slowhttptest is not installed (Debian: slowhttptest)")
    bounds = settings(request_timeout="2s", max_connections="250")
    with serving(shades, "--insecure", before=bounds) as served:
        route = "/openapi.json" if kind[0] == "-X" else "/predict"
        done = subprocess.run(
            ["slowhttptest", *kind, *"-c 200 -r 200 -i 1 -l 6 -p 2 -u".split(), served.url + route],
            capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False,
        )  # fmt: skip
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        assert "service available: YES" in " ".join(said.replace("\t", " ").split()), said[-2_000:]
        closed = [int(number) for number in re.findall(r"closed:\s+(\d+)", said)]
        assert max(closed) > 150
        assert served.ask("/ping")[0] == 200
