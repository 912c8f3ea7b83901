"""The OpenAPI 3.1 document of a server, typed from the signature of the release that answers."""

import base64
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final

from interlock import __version__
from interlock.answer.live import typical
from interlock.records import Column, Output, Signature

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
    "400": "The body is no JSON, or not of this route's form.",
    "401": "No valid key came with the request.",
    "403": "The key does not open this door.",
    "405": "The route takes another method.",
    "413": "The body, or its number of records, is too large.",
    "415": "The body is of another type, or compressed.",
    "422": "A record does not fit the signature, or every model that learnt refused it.",
    "429": "The quota of the key is used up; Retry-After says in how many seconds to ask again.",
    "503": "Nobody has an acceptable answer now.",
}
_HEADERS: Final[Mapping[str, str]] = {
    "Interlock-Tier": "Who answered: champion, last-good or baseline; of several records the lowest.",
    "Interlock-Release": "Generation of the release that answered.",
    "Interlock-Model": "First twelve digits of the bundle that answered.",
    "Interlock-Prediction-Id": "Name of this answer.",
}


def document(name: str, signature: Signature, *, open_routes: Mapping[str, str]) -> dict[str, Any]:
    """Make the document; ``open_routes`` are those that need no key, with what they say."""
    example = example_record(signature)
    record = {"$ref": "#/components/schemas/Record"}
    given = {"anyOf": [record, {"$ref": "#/components/schemas/Row"}, *_alone(signature)]}
    answer = {"$ref": "#/components/schemas/Prediction"}
    several = {"type": "array", "items": given}
    routes = {
        "/predict": ("A bare record.", record, example, _object("prediction", answer)),
        "/stream": ("One record.", _object("instance", given), {"instance": example}, _object("prediction", answer)),
        "/batch": (
            "Several records.",
            _object("instances", several),
            {"instances": [example]},
            _object("predictions", {"type": "array", "items": answer}),
        ),
        "/score": ("A bare array of records.", several, [example], {"type": "array", "items": answer}),
    }
    paths: dict[str, Any] = {path: {"post": _prediction(*route)} for path, route in routes.items()}
    paths |= {path: {"get": _open(says)} for path, says in open_routes.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": __version__, "description": f"Predictions of {name}, served by Interlock."},
        "paths": paths,
        "components": {
            "schemas": {
                "Record": _record(signature, example),
                "Row": _row(signature, example),
                "Prediction": _answer(signature.output),
                "Error": _error(),
            },
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
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


def _error() -> dict[str, Any]:
    text = {"type": "string"}
    properties = {
        **dict.fromkeys(("code", "message", "next_step", "id", "field"), text),
        "row": {"type": "integer", "minimum": 0},
    }
    told = {"type": "object", "properties": properties, "required": ["code", "message", "next_step", "id"]}
    return _object("error", told)


def _prediction(summary: str, body: dict[str, Any], example: Any, reply: dict[str, Any]) -> dict[str, Any]:
    headers = {name: {"description": says, "schema": {"type": "string"}} for name, says in _HEADERS.items()}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "summary": summary,
        "security": [{"key": []}, {"header": []}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body, "example": example}},
        },
        "responses": {
            "200": {
                "description": "The answer.",
                "headers": headers,
                "content": {"application/json": {"schema": reply}},
            },
            **{status: {"description": says, "content": error} for status, says in _ERRORS.items()},
        },
    }


def _open(says: str) -> dict[str, Any]:
    return {"summary": says, "security": [], "responses": {"200": {"description": says}}}
