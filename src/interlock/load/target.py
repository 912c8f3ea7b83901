"""Whom a load test asks: an address that may be asked, what answers there, or a server that is started for it."""

import http.client
import importlib.util
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from interlock.errors import Fault, Misuse, SettingsError
from interlock.load.plan import Plan
from interlock.model.script import dying_with
from interlock.records import Record
from interlock.serve.keys import add_key
from interlock.serve.oidc import is_loopback
from interlock.settings import Settings

_ASKED_S: Final = 15.0
_STARTS_S: Final = 120.0
_ENDS_S: Final = 40.0
_LOOK_EVERY_S: Final = 0.05
_TRIED: Final = 5
"""So many of the bodies are sent before the run: what nobody answers is told at once."""


class Told(Record, frozen=True, kw_only=True):
    """What a server says of itself; None of what does not."""

    name: str = ""
    release: int | None = None
    model: str = ""
    tiers: tuple[str, ...] = ()


class _Greeting(msgspec.Struct):
    message: str = ""
    release: int | None = None
    model: str = ""
    tiers: tuple[str, ...] = ()


def require_locust() -> None:
    """Raise :class:`SettingsError` where locust is not installed; it is not imported here."""
    if importlib.util.find_spec("locust") is None:
        raise SettingsError("A load test needs locust.", next_step="pip install 'interlock[load]'")


def allowed(url: str, agreed: str) -> str:
    """The address without a path; raises :class:`Misuse` for one that is none, or is not agreed to.

    ``agreed``: the host of another machine that a person said may be put under load.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    plain = parts.path in ("", "/") and not parts.query and parts.username is None
    if parts.scheme not in ("http", "https") or not host or not plain:
        raise Misuse(f"'{url[:200]}' is no address of a server.", next_step="Write --url http://127.0.0.1:8080.")
    if not is_loopback(host) and agreed != host:
        raise Misuse(
            f"{host} is another machine, and a load test can bring it down.",
            next_step=f"If it is yours to test, add --yes-load {host}.",
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port is None else f":{port}")


# ---- asking ------------------------------------------------------------------------------------------------------


def ask(
    url: str, path: str, *, key: str = "", body: bytes | None = None, unverified: bool = False
) -> tuple[int, dict[str, str], bytes]:
    """One request, without a proxy: status, headers (lower case) and body; raises :class:`Fault`."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl._create_unverified_context() if unverified else ssl.create_default_context()  # noqa: S323, SLF001
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=_ASKED_S, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_ASKED_S)
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    try:
        connection.request("GET" if body is None else "POST", path, body, headers)
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise Fault(
            f"{url} does not answer: {error or type(error).__name__}.",
            next_step="Start the server with 'interlock serve', or leave --url out: it is started then.",
        ) from error
    finally:
        connection.close()


def told(plan: Plan) -> Told:
    """What answers at the address; raises :class:`Fault` when nothing does."""
    status, _, body = ask(plan.url, "/", unverified=plan.unverified)
    try:
        found = msgspec.json.decode(body, type=_Greeting) if status == 200 else _Greeting()
    except msgspec.DecodeError:
        found = _Greeting()
    return Told(
        name=found.message.removeprefix("Hello from "), release=found.release, model=found.model, tiers=found.tiers
    )


def require_answers(plan: Plan) -> None:
    """Send a few bodies. Raises :class:`Misuse` for a key that does not open, or records that are not taken.

    A server that is only ill just now (5xx, 429) is left to the run, which counts that.
    """
    seen: list[int] = []
    reason = ""
    for body in plan.bodies[:_TRIED]:
        status, _, reply = ask(plan.url, plan.route, key=plan.key, body=body, unverified=plan.unverified)
        if status in (401, 403):
            raise Misuse(
                f"{plan.url} does not open to this key (status {status}).",
                next_step="Give one for 'predict' with --key-file, or in the variable INTERLOCK_KEY.",
            )
        seen.append(status)
        reason = reason or (_reason(reply) if status != 200 else "")
    if all(400 <= status < 500 and status != 429 for status in seen):
        raise Misuse(
            f"{plan.url} takes none of the records (status {seen[0]}). {reason}".rstrip(),
            next_step="Is another model served there than is in force in this project?",
        )


class _Error(msgspec.Struct):
    message: str = ""


class _Refused(msgspec.Struct):
    error: _Error


def _reason(reply: bytes) -> str:
    try:
        return msgspec.json.decode(reply, type=_Refused).error.message[:300]
    except msgspec.DecodeError:
        return ""


# ---- a server of our own -----------------------------------------------------------------------------------------


class Own(Record, frozen=True, kw_only=True):
    """A server that was started for the run."""

    url: str
    key: str


@contextmanager
def own_server(settings: Settings, overrides: Sequence[str], scratch: Path) -> Iterator[Own]:
    """Start ``interlock serve`` of the project on a free loopback port, with a key of its own, and end it.

    Its breaker only observes and it keeps no log: a load test changes no release, and made records are no
    predictions. Raises :class:`Fault` when it does not answer.
    """
    key = add_key(scratch / "keys.toml", "load", ("predict",))
    ours = [f"serve.keys_file={scratch / 'keys.toml'}", "breaker.observe=true", "serve.log.on=false"]
    ours += ["serve.oidc.issuer="] if settings.serve.oidc.issuer else []
    command = [sys.executable, "-m", "interlock", "--project", str(settings.root)]
    command += ["--env", settings.environment] if settings.environment else []
    command += [word for each in (*overrides, *ours) for word in ("--set", each)]
    said = scratch / "server.log"
    with said.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [*command, "serve", "--host", "127.0.0.1", "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            preexec_fn=dying_with(os.getpid()),  # noqa: PLW1509 - it calls prctl only
        )
    try:
        yield Own(url=_address(process, said), key=key)
    finally:
        end(process, _ENDS_S)


def _address(process: "subprocess.Popen[bytes]", said: Path) -> str:
    until_s = time.monotonic() + _STARTS_S
    while time.monotonic() < until_s:
        ended = process.poll()
        for line in said.read_text("utf-8", errors="replace").splitlines():
            if " answers at http" in line:
                return line.rpartition(" answers at ")[2].strip()
        if ended is not None:
            break
        time.sleep(_LOOK_EVERY_S)
    tail = said.read_text("utf-8", errors="replace").strip().splitlines()[-5:]
    raise Fault(
        "The server that was started for the run does not answer: " + " ".join(tail)[:1_000],
        next_step="See that 'interlock serve' works by itself.",
    )


def end(process: "subprocess.Popen[bytes]", within_s: float) -> None:
    """End a process that we started: ask it, wait, then insist."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
