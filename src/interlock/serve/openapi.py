"""The OpenAPI 3.1 document of a server, typed from the signature of the release that answers."""

import base64
import csv
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, NamedTuple

from interlock import __version__
from interlock.answer.live import typical
from interlock.records import Column, Output, Signature
from interlock.serve.forms import ARROW, CSV, JSON
from interlock.serve.forms_tables import BYTES, TEXT
from interlock.serve.forms_v2 import datatype_of
from interlock.serve.protocols import INFER, INFER_VERSION, INVOCATIONS

_TYPES: Final[Mapping[str, dict[str, Any]]] = {
    "bool": {"type": "boolean"},
    "int": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "float": {"type": "number"},
    "str": {"type": "string"},
    "date": {"type": "string", "format": "date"},
    "datetime": {"type": "string", "format": "date-time"},
    "bytes": {"type": "string", "contentEncoding": "base64"},
}
_ERRORS: Final[Mapping[str, str]] = {
    "400": "The body is not of the type that it is said to be, or not of this route's form.",
    "401": "No valid key came with the request.",
    "403": "The key does not open this door.",
    "405": "The route takes another method.",
    "413": "The body, or its number of records, is too large.",
    "415": "The body is of a type that the route does not take, or compressed.",
    "422": "A record does not fit the signature, or every model that learnt refused it.",
    "429": "The quota of the key is used up; Retry-After says in how many seconds to ask again.",
    "503": "Nobody has an acceptable answer now.",
}
_PROTOCOL_ERRORS: Final[Mapping[str, str]] = {
    **{status: says for status, says in _ERRORS.items() if status not in ("413", "422")},
    "400": "The body is not of the protocol's form, too large, or does not fit the signature.",
    "404": "There is no such model or version.",
}
_HEADERS: Final[Mapping[str, str]] = {
    "Interlock-Tier": "Who answered: champion, challenger, last-good or baseline; of several records the lowest.",
    "Interlock-Release": "Generation of the release that answered.",
    "Interlock-Model": "First twelve digits of the bundle that answered.",
    "Interlock-Prediction-Id": "Name of this answer.",
}


@dataclass(frozen=True, kw_only=True)
class Described:
    """What the document tells of: the release that answers, and the types of body that each route takes.

    ``pages`` are the routes that are read, with what they say and whether they need a key.
    """

    name: str
    generation: int
    signature: Signature
    bodies: Mapping[str, Collection[str]]
    pages: Mapping[str, tuple[str, bool]]


def document(about: Described) -> dict[str, Any]:
    """Make the document."""
    signature = about.signature
    example = example_record(signature)
    routes = {**_own_routes(signature, example), **_foreign_routes(signature, example)}
    names = _names(about)
    paths: dict[str, Any] = {
        path: {"post": _prediction(routes[path], kinds, signature, example), **_parameters(path, names)}
        for path, kinds in about.bodies.items()
    }
    paths["/feedback"] = {"post": _feedback(signature.output)}
    for path, (says, needs_key) in about.pages.items():
        paths[path] = {"get": _page(says, path, needs_key=needs_key), **_parameters(path, names)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": about.name,
            "version": __version__,
            "description": f"Predictions of {about.name}, served by Interlock.",
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Record": _record(signature, example),
                "Row": _row(signature, example),
                "Prediction": _answer(signature.output),
                "Probabilities": _PROBABILITIES,
                "Error": _error(),
                "ProtocolError": _PROTOCOL_ERROR,
            },
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


class _Route(NamedTuple):
    summary: str
    body: dict[str, Any]
    example: Any
    reply: dict[str, Any]


def _own_routes(signature: Signature, example: dict[str, Any]) -> dict[str, _Route]:
    record = {"$ref": "#/components/schemas/Record"}
    given = {"anyOf": [record, {"$ref": "#/components/schemas/Row"}, *_alone(signature)]}
    several = {"type": "array", "items": given}
    one = _told("prediction", _ANSWER, _SHARES)
    many = _told("predictions", {"type": "array", "items": _ANSWER}, {"type": "array", "items": _SHARES})
    bare = {"anyOf": [{"type": "array", "items": _ANSWER}, {"type": "array", "items": one}]}
    batch = _object("instances", several)
    if len(signature.inputs) == 1 and signature.inputs[0].step is not None:
        ahead = _object("horizon", _HORIZON)
        ahead["properties"]["after"] = {"description": "Not the last time of training, but this later one."}
        batch = {"anyOf": [batch, ahead]}
        many["properties"]["times"] = {"type": "array", "description": "With a horizon: what the predictions are for."}
    return {
        "/predict": _Route("A bare record.", record, example, one),
        "/stream": _Route("One record.", _object("instance", given), {"instance": example}, one),
        "/batch": _Route("Several records.", batch, {"instances": [example]}, many),
        "/score": _Route("A bare array of records.", several, [example], bare),
    }


def _foreign_routes(signature: Signature, example: dict[str, Any]) -> dict[str, _Route]:
    several = {
        "anyOf": [{"$ref": "#/components/schemas/Record"}, {"$ref": "#/components/schemas/Row"}, *_alone(signature)]
    }
    list_ = {"type": "array", "items": several}
    split = {
        "type": "object",
        "properties": {
            "columns": {"type": "array", "items": {"type": "string"}},
            "index": {"type": "array"},
            "data": {"type": "array", "items": {"type": "array"}},
        },
        "required": ["data"],
        "additionalProperties": False,
    }
    records = {"type": "array", "items": {"$ref": "#/components/schemas/Record"}}
    forms: dict[str, dict[str, Any]] = {
        "dataframe_split": split,
        "dataframe_records": records,
        "instances": list_,
        "inputs": {"anyOf": [list_, {"type": "object"}]},
    }
    many = _told("predictions", {"type": "array", "items": _ANSWER}, {"type": "array", "items": _SHARES})
    body = {"anyOf": [_object(member, schema) for member, schema in forms.items()]}
    tensors = [
        {"name": column.name, "shape": [1], "datatype": datatype_of(column), "data": [example[column.name]]}
        for column in signature.inputs
    ]
    infer = _Route("Inference by the Open Inference Protocol, version 2.", _INFERENCE, {"inputs": tensors}, _INFERRED)
    return {
        INVOCATIONS: _Route(
            "Records as SageMaker and MLflow send them.",
            body,
            {"dataframe_split": {"columns": list(example), "data": [list(example.values())]}},
            many,
        ),
        INFER: infer,
        INFER_VERSION: infer,
    }


def _names(about: Described) -> dict[str, Any]:
    return {
        "name": {"type": "string", "enum": [about.name]},
        "version": {"type": "string", "enum": [str(about.generation)]},
    }


def _parameters(path: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """Those in the path."""
    found = [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in names.items()
        if f"{{{name}}}" in path
    ]
    return {"parameters": found} if found else {}


_ANSWER: Final = {"$ref": "#/components/schemas/Prediction"}
_SHARES: Final = {"$ref": "#/components/schemas/Probabilities"}
_FILE: Final = {"type": "string", "format": "binary"}
_PROBABILITIES: Final[dict[str, Any]] = {
    "type": ["object", "null"],
    "description": "Each class with its probability; null where the model that answered gives none.",
    "additionalProperties": {"type": "number"},
}
_PROTOCOL_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("error", "code", "id")},
    "required": ["error"],
}
_ASKING: Final[dict[str, Any]] = {
    "name": "probabilities",
    "in": "query",
    "description": "Whether the reply tells the probability of each class (models that give labels).",
    "schema": {"type": "boolean"},
}
_HORIZON: Final[dict[str, Any]] = {
    "type": "integer",
    "minimum": 1,
    "description": "So many steps after the last time that training saw.",
}
_MOST: Final[dict[str, Any]] = {
    "name": "k",
    "in": "query",
    "description": "So many at most of each ranking (models that answer with rankings).",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
}
_TENSOR: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    },
    "required": ["name", "shape", "datatype"],
}
_INFERENCE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "id": {"type": ["string", "null"]},
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {
            "type": ["array", "null"],
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
                "required": ["name"],
            },
        },
        "parameters": {"type": "object"},
    },
    "required": ["inputs"],
}
_INFERRED: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
    "required": ["model_name", "model_version", "outputs"],
}


def example_record(signature: Signature) -> dict[str, Any]:
    """A made record of ordinary values, as JSON has them."""
    return {column.name: _plain(value) for column, value in zip(signature.inputs, typical(signature), strict=True)}


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _column(column: Column) -> dict[str, Any]:
    schema: dict[str, Any] = dict(_TYPES[column.type])
    if column.type == "str" and not column.nullable:
        schema["minLength"] = 1
    if column.nullable:
        schema["type"] = [schema["type"], "null"]
    if column.categories:
        schema["examples"] = list(column.categories[:10])
    told = [f"training saw {column.low} to {column.high}"] if column.low is not None else []
    told += [f"{len(column.categories)} categories"] if column.categories else []
    told += ["may be missing"] if column.nullable else []
    if told:
        schema["description"] = "; ".join(told).capitalize() + "."
    return schema


def _record(signature: Signature, example: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {column.name: _column(column) for column in signature.inputs},
        "required": list(signature.names),
        "examples": [example],
    }


def _row(signature: Signature, example: dict[str, Any]) -> dict[str, Any]:
    columns = [_column(column) for column in signature.inputs]
    return {
        "type": "array",
        "prefixItems": columns,
        "minItems": len(columns),
        "maxItems": len(columns),
        "examples": [list(example.values())],
    }


def _alone(signature: Signature) -> list[dict[str, Any]]:
    """The value of the only column may come alone; null may not: it would say nothing."""
    if len(signature.inputs) != 1:
        return []
    only = dict(_column(signature.inputs[0]))
    only["type"] = _TYPES[signature.inputs[0].type]["type"]
    return [only]


def _answer(output: Output | None) -> dict[str, Any]:
    if output is None or output.kind == "any":
        return {}
    if output.kind == "label" and output.classes is not None:
        return {"enum": list(output.classes)}
    one = dict(_TYPES[output.type if output.kind != "number" else "float"])
    return {"type": "array", "items": one, "minItems": 1} if output.kind == "ranking" else one


def _object(member: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {member: schema}, "required": [member], "additionalProperties": False}


def _told(member: str, answer: dict[str, Any], shares: dict[str, Any]) -> dict[str, Any]:
    """A reply, with probabilities where they are asked for."""
    properties = {member: answer, "probabilities": shares}
    return {"type": "object", "properties": properties, "required": [member], "additionalProperties": False}


def _error() -> dict[str, Any]:
    text = {"type": "string"}
    properties = {
        **dict.fromkeys(("code", "message", "next_step", "id", "field"), text),
        "row": {"type": "integer", "minimum": 0},
    }
    told = {"type": "object", "properties": properties, "required": ["code", "message", "next_step", "id"]}
    return _object("error", told)


def _feedback(output: Output | None) -> dict[str, Any]:
    """Outcomes by id or key: each is taken or refused by itself, so the schema leaves open what an outcome is."""
    kind = "anything" if output is None else output.kind if output.type == "str" else f"{output.kind} ({output.type})"
    key = {
        "type": ["object", "null"],
        "additionalProperties": {"type": ["string", "number", "boolean"]},
        "minProperties": 1,
        "maxProperties": 20,
        "description": "Names the row where there is no id.",
    }
    name = {"type": ["string", "null"], "minLength": 1, "maxLength": 200, "description": "Interlock-Prediction-Id."}
    outcome = {
        "type": "object",
        "properties": {
            "id": name,
            "key": key,
            "outcome": {"description": f"What came true, as the model answers: {kind}. What does not fit is refused."},
            "at": {"type": ["string", "null"], "description": "When that became known (RFC 3339); default: now."},
        },
        "required": ["outcome"],
        "additionalProperties": False,
    }
    several = {"type": "array", "items": outcome}
    count = {"type": "integer", "minimum": 0}
    refusal = {"type": "object", "properties": {"entry": count, "message": {"type": "string"}}}
    reply = {
        "type": "object",
        "properties": {
            **dict.fromkeys(("accepted", "repeated", "refused"), count),
            "refusals": {"type": "array", "items": refusal, "description": "The first of those refused, and why."},
        },
        "required": ["accepted", "repeated", "refused"],
    }
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    counts = {"application/json": {"schema": reply}}
    errors = {status: {"description": says, "content": content} for status, says in _ERRORS.items()}
    errors["422"] = {"description": "Every outcome was refused.", "content": counts}
    return {
        "summary": "Outcomes of earlier predictions.",
        "security": [{"key": []}, {"header": []}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"anyOf": [_object("outcomes", several), several]}}},
        },
        "responses": {"200": {"description": "How many were taken.", "content": counts}, **errors},
    }


def _prediction(route: _Route, kinds: Collection[str], signature: Signature, example: dict[str, Any]) -> dict[str, Any]:
    headers = {name: {"description": says, "schema": {"type": "string"}} for name, says in _HEADERS.items()}
    is_v2 = route.body is _INFERENCE
    schema = "ProtocolError" if is_v2 else "Error"
    error = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    replies: dict[str, Any] = {JSON: {"schema": route.reply}}
    if ARROW in kinds:
        replies |= {CSV: {"schema": {"type": "string"}}, ARROW: {"schema": _FILE}}
    if is_v2:
        replies[BYTES] = {"schema": _FILE}
    bodies = {kind: _body(kind, signature, example) for kind in kinds if kind != JSON}
    told = _PROTOCOL_ERRORS if is_v2 else _ERRORS
    return {
        "summary": route.summary,
        "security": [{"key": []}, {"header": []}],
        "parameters": [
            _ASKING,
            *([_MOST] if signature.output is not None and signature.output.kind == "ranking" else []),
        ],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": route.body, "example": route.example}, **bodies},
        },
        "responses": {
            "200": {"description": "The answer.", "headers": headers, "content": replies},
            **{status: {"description": says, "content": error} for status, says in told.items()},
        },
    }


def _body(kind: str, signature: Signature, example: dict[str, Any]) -> dict[str, Any]:
    """A body that is not JSON."""
    if kind == CSV:
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([signature.names, list(example.values())])
        return {"schema": {"type": "string"}, "example": lines.getvalue()}
    return {"schema": {"type": "string"}} if kind == TEXT else {"schema": _FILE}


def _page(says: str, path: str, *, needs_key: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"200": {"description": says}}
    if needs_key:
        told |= {status: {"description": _ERRORS[status]} for status in ("401", "403")}
    if "{" in path:
        told["404"] = {"description": "There is no such model or version."}
    return {"summary": says, "security": [{"key": []}, {"header": []}] if needs_key else [], "responses": told}
