"""Every prediction route with the bodies that it takes, and what the head of a request says about body and reply."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs

from interlock.answer.predict import Live
from interlock.answer.reading import Reader, malformed
from interlock.serve.forms import ARROW, CSV, JSON, PLAIN, Form, Forms, How, Pen, Records, json_forms
from interlock.serve.forms_invocations import invocation_form
from interlock.serve.forms_tables import BYTES, accepting, bare_forms, table_forms
from interlock.serve.forms_v2 import v2_form

INVOCATIONS: Final = "/invocations"
INFER: Final = "/v2/models/{name}/infer"
INFER_VERSION: Final = "/v2/models/{name}/versions/{version}/infer"
_MODEL = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<rest>/[a-z]+)?")
_OF_BODIES: Final = frozenset((413, 422))
_WORDS: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}


def forms_of(reader: Reader, live: Live, *, most_rows: int, name: str, probabilities: bool) -> Forms:
    """The forms of every route, for the records of ``reader`` and the model ``name``."""
    records = Records(reader, most_rows)
    output = live.seats[0].signature.output
    pen = Pen(output is not None and output.kind == "label" and output.classes is not None, probabilities)
    routes: dict[str, Mapping[str, Form]] = {path: {JSON: form} for path, form in json_forms(records, pen).items()}
    routes["/predict"] = {**routes["/predict"], **bare_forms(reader, pen, "prediction")}
    for path, shape in (("/batch", "predictions"), ("/score", "array")):
        tables = table_forms(records, pen, shape, header=True)  # type: ignore[arg-type]
        routes[path] = {JSON: accepting(routes[path][JSON], pen, shape, header=True), **tables}  # type: ignore[arg-type]
    routes[INVOCATIONS] = {
        JSON: accepting(invocation_form(records, pen), pen, "predictions", header=False),
        **table_forms(records, pen, "predictions", header=False),
        **bare_forms(reader, pen, "predictions"),
    }
    infer = v2_form(records, pen, name)
    routes[INFER] = routes[INFER_VERSION] = {JSON: infer, BYTES: infer}
    return Forms(routes, ranks=output is not None and output.kind == "ranking")


def place_of(path: str) -> tuple[str, Mapping[str, str]]:
    """The route of a path: itself, or one with names in it, and what stands in their places.

    ``/v2/`` is ``/v2``: the protocol's text has the one, its OpenAPI file the other.
    """
    found = _MODEL.fullmatch(path)
    if found is None:
        return "/v2" if path == "/v2/" else path, {}
    version = "" if found["version"] is None else "/versions/{version}"
    named = {name: found[name] for name in ("name", "version") if found[name] is not None}
    return f"/v2/models/{{name}}{version}{found['rest'] or ''}", named


def status_in(route: str, status: int) -> int:
    """A status as the protocol of the route has it: in the Open Inference Protocol a body that is wrong is 400."""
    return 400 if status in _OF_BODIES and route.startswith("/v2") else status


def kind_of(headers: Mapping[bytes, bytes]) -> tuple[str, str]:
    """The media type of the body, all images as one, and its parameters."""
    kind, _, rest = headers.get(b"content-type", b"application/json").decode("latin-1").partition(";")
    kind = kind.strip().lower()
    return ("image/*" if kind.startswith("image/") else kind), rest


def how_of(headers: Mapping[bytes, bytes], query: bytes = b"") -> How:
    """What a head says; raises :class:`DataRefused` for what cannot be meant."""
    kind, rest = kind_of(headers)
    length = headers.get(b"inference-header-content-length")
    if length is not None and not (length.isdigit() and len(length) < 16):
        raise malformed("Inference-Header-Content-Length is no whole number.", "Send the length of the JSON in bytes.")
    asked = parse_qs(query.decode("latin-1"), keep_blank_values=True) if query else {}
    words, counts = asked.get("probabilities", []), asked.get("k", [])
    if len(words) > 1 or any(word not in _WORDS for word in words):
        raise malformed("'probabilities' is neither true nor false.", "Ask with ?probabilities=true.")
    if len(counts) > 1 or any(re.fullmatch(r"[1-9]\d{0,8}", count) is None for count in counts):
        raise malformed("'k' is no whole number from 1 on.", "Ask with ?k=5.")
    how = How(
        kind=kind,
        accept=_accepted(headers.get(b"accept", b"").decode("latin-1")),
        probabilities=_WORDS[words[0]] if words else None,
        header=_header(rest),
        json_bytes=None if length is None else int(length),
        k=int(counts[0]) if counts else None,
    )
    return PLAIN if how == PLAIN else how


def _header(parameters: str) -> bool | None:
    """The parameter ``header`` of RFC 4180."""
    told = re.search(r"header\s*=\s*\"?(present|absent)", parameters.lower())
    return None if told is None else told[1] == "present"


def _accepted(accept: str) -> str:
    """The type of the reply: of those that are known the one of the highest weight, else JSON."""
    best, weight = JSON, 0.0
    for each in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in each.split(";"))
        told = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        q = float(told) if re.fullmatch(r"[01](\.\d{0,3})?", told) else 0.0
        known = JSON if kind in ("*/*", "application/*") else kind
        if known in (JSON, CSV, ARROW) and q > weight:
            best, weight = known, q
    return best
