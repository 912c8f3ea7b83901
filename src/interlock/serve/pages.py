"""Routes that are read: pages for people, without scripts or anything from elsewhere, and the protocol's own facts."""

import base64
import functools
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from interlock.answer.predict import Live
from interlock.records import short
from interlock.serve.app import Page
from interlock.serve.door import Door, Fixed, Reply
from interlock.serve.forms import encode
from interlock.serve.forms_v2 import model_metadata, server_metadata
from interlock.serve.openapi import example_record
from interlock.serve.reload import Source

_FOLDER: Final = Path(__file__).parent / "templates"
_HOST = re.compile(r"[A-Za-z0-9.\-]+(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?")
_HTML: Final = b"text/html; charset=utf-8"


def greeting(name: str, live: Live, headers: Mapping[bytes, bytes], source: Source, *, may_predict: bool) -> Reply:
    """The page of ``GET /``. ``source``: whence the release is known.

    What the model takes is shown only to those who may ask it.
    """
    host = headers.get(b"host", b"").decode("latin-1")
    url = f"http://{host if _HOST.fullmatch(host) else '127.0.0.1'}/predict"
    record = json.dumps(example_record(live.seats[0].signature), ensure_ascii=False)
    command = (
        f"curl -s -H 'content-type: application/json' -H 'authorization: Bearer KEY' -d {shlex.quote(record)} {url}"
    )
    facts = {
        "name": name,
        "generation": live.generation,
        "source": source,
        "seats": [(seat.tier, short(seat.model)) for seat in live.everybody],
        "asked_first": live.first.tier,
        "command": command if may_predict else None,
    }
    return _page("greeting.html.j2", facts)


def docs_page(document: Mapping[str, Any]) -> Reply:
    """The page of ``GET /docs``: the OpenAPI document for people."""
    schemas = document["components"]["schemas"]
    routes = [
        {"method": method.upper(), "path": path, **_route(operation)}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method in ("get", "post")
    ]
    fields = [
        {
            "name": name,
            "type": _type(schema),
            "says": schema.get("description", ""),
            "examples": schema.get("examples", ()),
        }
        for name, schema in schemas["Record"]["properties"].items()
    ]
    answer = _pretty(schemas["Prediction"])
    facts = {"info": document["info"], "routes": routes, "fields": fields, "answer": answer}
    return _page("docs.html.j2", facts)


def _route(operation: Mapping[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    example = next((each["example"] for each in content.values() if "example" in each), None)
    replies = operation["responses"]
    return {
        "summary": operation["summary"],
        "needs_key": bool(operation["security"]),
        "bodies": list(content),
        "example": None if example is None else _pretty(example),
        "gives": list(replies["200"].get("content", {})),
        "errors": {status: reply["description"] for status, reply in replies.items() if status != "200"},
    }


def _type(schema: Mapping[str, Any]) -> str:
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    told = schema.get("format") or ("base64" if "contentEncoding" in schema else "")
    return " or ".join(kinds) + (f" ({told})" if told else "")


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def protocol_pages(door: Door) -> dict[str, Page]:
    """What the Open Inference Protocol reads."""

    def told(facts: Callable[[], dict[str, Any]]) -> Callable[[Mapping[bytes, bytes]], Reply]:
        return lambda _: Reply(200, encode(facts()))

    def model() -> dict[str, Any]:
        return model_metadata(door.room.name, door.room.live)

    def ready() -> dict[str, Any]:
        return {"name": door.room.name, "ready": True}

    named = {
        f"/v2/models/{{name}}{version}{rest}": Page(told(facts), "predict")
        for version in ("", "/versions/{version}")
        for rest, facts in (("", model), ("/ready", ready))
    }
    return {
        "/v2": Page(told(server_metadata), "predict"),
        "/v2/health/live": Page(told(lambda: {"live": True}), None),
        "/v2/health/ready": Page(told(lambda: {"ready": True}), None),
        **named,
    }


# ---- HTML --------------------------------------------------------------------------------------------------------


def _page(template: str, facts: Mapping[str, Any]) -> Reply:
    style, policy = _style()
    body = _environment().get_template(template).render(style=style, **facts)
    return Reply(200, body.encode(), fixed=policy, content_type=_HTML)


@functools.cache
def _style() -> tuple[Any, Fixed]:
    """The style sheet, and headers that let a page have it and nothing else."""
    from markupsafe import Markup

    style = (_FOLDER / "pages.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = (
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"vary", b"accept"),
    )
    return Markup(style), Fixed(headers)  # noqa: S704 - our own file


@functools.cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
