"""Tokens: what is signed by the provider, in time and meant for us opens a door, and nothing else does."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from interlock.errors import SettingsError
from interlock.serve.keys import Keyring, new_key
from interlock.serve.lane import Lane, protocol_of
from interlock.serve.oidc import LEEWAY_S, Issuer, reader_of
from interlock.serving import Oidc
from serve.conftest import house_of
from serve.test_lane import exchanged, request

SETTINGS = Oidc(issuer="https://id.example", audience="interlock", jwks="jwks.json")
RSA, OTHER = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())


def jwk(key, kid, **more):
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**json.loads(kind.to_jwk(key.public_key())), "kid": kid, **more}


SECRET = {"kty": "oct", "k": base64.urlsafe_b64encode(b"k" * 32).decode(), "kid": "secret"}
PUBLISHED = [
    jwk(RSA, "r"), jwk(EC, "e"), jwk(P384, "big"), jwk(SMALL, "small"), jwk(OTHER, "enc", use="enc"), SECRET,
    {"kty": "??"}, 7,
]  # fmt: skip


def jwks(*keys):
    return json.dumps({"keys": keys or PUBLISHED}).encode()


def token(key=RSA, kid="r", algorithm="RS256", headers=None, **claims):
    now = time.time()
    whole = {
        "iss": "https://id.example", "aud": "interlock", "sub": "a shop/1", "exp": now + 9e4, "scope": "predict openid",
        **claims,
    }  # fmt: skip
    left = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(left, key, algorithm=algorithm, headers={**({"kid": kid} if kid else {}), **(headers or {})})


@pytest.fixture
def issuer():
    found = Issuer(SETTINGS, jwks, print)
    assert found.look()
    return found


def forged(head, claims, sign=lambda _: b""):
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, claims)]
    body = b".".join(parts)
    return body + b"." + base64.urlsafe_b64encode(sign(body)).rstrip(b"=")


def by_public_key(body):
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hmac.new(pem, body, hashlib.sha256).digest()


def signed_by(key):
    return lambda body: key.sign(body, PKCS1v15(), SHA256())


CLAIMS = {"iss": "https://id.example", "aud": "interlock", "sub": "x", "exp": 4e9, "scope": "predict"}


@pytest.mark.parametrize("good", [token(), token(EC, "e", "ES256"), token(kid=None), token(EC, None, "ES256"),
    token(aud=["other", "interlock"]), token(scope=["predict", 7]), token(nbf=time.time() - 5),
    lambda: token(exp=time.time() - LEEWAY_S + 20), lambda: token(nbf=time.time() + LEEWAY_S - 20)])  # fmt: skip
def test_a_token_of_the_provider_opens(issuer, good):
    good = good() if callable(good) else good  # those that depend on the time are made when they are asked about
    key = issuer.find(good.encode())
    assert (key.name, key.scopes, key.quota) == ("oidc-a_shop_1", ("predict",), None)
    assert issuer.find(good.encode()) is key


BAD = {
    "signed by another": token(OTHER),
    "of another key's name": token(RSA, "e"),
    "of an unknown key": token(OTHER, "new"),
    "ended": token(exp=time.time() - LEEWAY_S - 1),
    "not begun": token(nbf=time.time() + 9e3),
    "made in the future": token(iat=time.time() + 9e3),
    "without an end": token(exp=None),
    "of another issuer": token(iss="https://id.example.evil"),
    "without an issuer": token(iss=None),
    "for another": token(aud="shop"),
    "for nobody": token(aud=None),
    "of nobody": token(sub=None),
    "PS256": token(algorithm="PS256"),
    "RS512": token(algorithm="RS512"),
    "ES384": token(P384, "big", "ES384"),
    "a small key": forged({"alg": "RS256", "kid": "small"}, CLAIMS, signed_by(SMALL)),
    "a key for secrets": token(OTHER, "enc"),
    "a published secret": token(b"k" * 32, "secret", "HS256"),
    "critical": token(headers={"crit": ["exp2"], "exp2": 1}),
    "none": forged({"alg": "none", "kid": "r"}, CLAIMS),
    "None": forged({"alg": "None", "kid": "r"}, CLAIMS),
    "no algorithm": forged({"kid": "r"}, CLAIMS),
    "a public key as a secret": forged({"alg": "HS256", "kid": "r"}, CLAIMS, by_public_key),
    "a public key as a secret, said to be RS256": forged({"alg": "RS256", "kid": "r"}, CLAIMS, by_public_key),
    "its own key": token(OTHER, None, headers={"jwk": jwk(OTHER, "r")}),
    "a name that is none": forged({"alg": "RS256", "kid": ["r"]}, CLAIMS),
    "cut": token()[:-5],
    "no token": b"a.b.c",
    "no text": b"\xff.\xff.\xff",
    "long": b"a." + b"b" * 10_000 + b".c",
    "empty": b"",
}


@pytest.mark.parametrize("name", BAD)
def test_nothing_else_does(issuer, name):
    bad = BAD[name]
    assert issuer.find(bad if isinstance(bad, bytes) else bad.encode()) is None


def test_what_is_forged_would_open_were_it_signed_well(issuer):
    assert issuer.find(forged({"alg": "RS256", "kid": "r"}, CLAIMS, signed_by(RSA))) is not None


def test_a_token_that_was_good_is_looked_at_again_when_it_ends(issuer):
    now = [time.time()]
    issuer._now_s = lambda: now[0]
    good = token(exp=now[0] + 5).encode()
    assert issuer.find(good) is not None
    issuer._keys = {}
    assert issuer.find(good) is not None
    now[0] += 5 + LEEWAY_S + 1
    assert issuer.find(good) is None


def test_a_key_that_the_provider_takes_back_opens_no_more(issuer):
    good = token().encode()
    assert issuer.find(good) is not None
    issuer._read = lambda: jwks(jwk(EC, "e"))
    assert issuer.look()
    assert issuer.find(good) is None
    issuer._read = lambda: jwks(jwk(OTHER, "r"))
    assert issuer.look()
    assert issuer.find(good) is None
    assert issuer.find(token(OTHER).encode()) is not None
    issuer._read = jwks
    assert issuer.look()
    assert issuer.find(token(OTHER).encode()) is None


def test_a_provider_that_is_away_leaves_its_keys_and_is_asked_ever_less(issuer):
    said = []
    issuer._say = said.append
    for wrong in (OSError, ValueError):
        issuer._read = lambda wrong=wrong: (_ for _ in ()).throw(wrong())
        assert not issuer.look()
    assert issuer._wait_s == 4.0
    issuer._read = lambda: b"[]"
    for _ in range(10):
        assert not issuer.look()
    assert issuer._wait_s == 60.0
    assert issuer.find(token().encode()) is not None
    assert said == ["the keys of https://id.example cannot be read: OSError"]
    issuer._read = jwks
    assert issuer.look()
    assert issuer._wait_s == 1.0


def test_an_unknown_key_is_fetched_without_waiting_for_it():
    keys, asked = [jwk(RSA, "r")], threading.Semaphore(0)

    def read():
        asked.release()
        return jwks(*keys)

    issuer = Issuer(SETTINGS, read, print)
    issuer.start()
    assert asked.acquire(timeout=30)
    keys[:] = [jwk(OTHER, "new")]
    fresh = token(OTHER, "new").encode()
    end = time.monotonic() + 30
    while issuer.find(fresh) is None and time.monotonic() < end:
        asked.acquire(timeout=0.05)
    assert issuer.find(fresh) is not None
    issuer.close()
    assert not issuer._thread.is_alive()


def test_the_fast_lane_learns_no_token(project, issuer):
    text, key = new_key("k", ("predict",))
    ring = Keyring((key,))
    ring.tokens = issuer.find
    house = house_of(project, ring)
    lane = Lane(house.door, house.app)
    sent = [request(headers=[f"authorization: Bearer {shown}"]) for shown in (token(), token(), text)]
    other = request(headers=[f"authorization: Bearer {token(scope='read')}"])
    found, _ = asyncio.run(exchanged(protocol_of(lane), house.app, [*sent, *sent, other]))
    assert found.count(b"200 OK") == 6
    assert found.count(b"403 Forbidden") == 1
    assert (lane.answered, len(lane.heads)) == (1, 1)
    assert house.served[0].client[0] == "oidc-a_shop_1"


def test_keys_are_read_from_an_address(tmp_path):
    class Provider(BaseHTTPRequestHandler):
        def do_GET(self):
            moved = self.path == "/moved"
            self.send_response(302 if moved else 200)
            self.send_header("location", "/jwks")
            self.end_headers()
            self.wfile.write(b"" if moved else jwks())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        read, refresh_s = reader_of(Oidc(issuer="i", audience="a", jwks=f"{url}/jwks"), tmp_path.joinpath)
        assert json.loads(read())["keys"]
        assert refresh_s == 300.0
        read, _ = reader_of(Oidc(issuer="i", audience="a", jwks=f"{url}/moved"), tmp_path.joinpath)
        with pytest.raises(OSError, match="302"):
            read()
    finally:
        server.shutdown()
        server.server_close()
    (tmp_path / "jwks.json").write_bytes(jwks())
    assert reader_of(SETTINGS, tmp_path.joinpath)[0]() == jwks()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Oidc(issuer="i", jwks="f"), "serve.oidc.audience is not set."),
        (Oidc(issuer="i", audience="a"), "serve.oidc.jwks is not set."),
        (Oidc(issuer="i", audience="a", jwks="http://id.example/jwks"), "serve.oidc.jwks is not encrypted."),
        (Oidc(issuer="i", audience="a", jwks="file:///etc/passwd"), "serve.oidc.jwks is not encrypted."),
    ],
)
def test_settings_that_would_open_too_much_are_refused(tmp_path, settings, message):
    with pytest.raises(SettingsError) as caught:
        reader_of(settings, tmp_path.joinpath)
    assert caught.value.message == message
    assert caught.value.next_step
