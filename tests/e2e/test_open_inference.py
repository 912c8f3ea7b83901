"""The Open Inference Protocol's own OpenAPI file against a running server.

The file is MLServer's (``make .venv/oip.stamp`` fetches its wheel). The protocol's text, where they differ, is
https://github.com/kserve/open-inference-protocol, ``specification/protocol/inference_rest.md``.
"""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from infra.server import Served

pytestmark = pytest.mark.slow

FILE = Path(__file__).resolve().parents[2] / ".venv" / "oip" / "mlserver" / "rest" / "openapi" / "dataplane.json"
MODEL: Final = "/v2/models/{model_name}"
VERSION: Final = f"{MODEL}/versions/{{model_version}}"
REQUIRED: Final = {
    ("get", "/v2/health/live"),
    ("get", "/v2/health/ready"),
    ("get", "/v2"),
    *(("get", f"{place}{rest}") for place in (MODEL, VERSION) for rest in ("", "/ready")),
    *(("post", f"{place}/infer") for place in (MODEL, VERSION)),
}
NOT_OFFERED: Final = {
    "infer_stream": "in no text of the protocol; a model here answers a request whole, so there is nothing to stream",
    "generate": "for models that continue a text, which the protocol's text does not know",
    "generate_stream": "as both above",
}
CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def mended(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its four faults put right; each is asserted, so that a better file is noticed."""
    found = copy.deepcopy(document)
    # 1. OpenAPI has no 'components.enums'.
    text = json.dumps(found).replace("#/components/enums/", "#/components/schemas/")
    found = json.loads(text)
    found["components"]["schemas"] |= found["components"].pop("enums")
    # 2. JSON Schema has no type 'bytes', and JSON none to send.
    assert found["components"]["schemas"]["TensorData"]["oneOf"] == [{"type": "array"}, {"type": "bytes"}]
    # 3. In OpenAPI 3.0 an array says what it holds; the text: values of one type, flat or nested.
    found["components"]["schemas"]["TensorData"] = {"type": "array", "items": {}}
    # 4. A model that is not there is not ready: the file has 200 only, KServe says "a 4xx status code indicates false".
    for path in (f"{MODEL}/ready", f"{VERSION}/ready"):
        replies = found["paths"][path]["get"]["responses"]
        assert set(replies) == {"200"}
        replies["404"] = found["paths"][MODEL]["get"]["responses"]["404"]
    return found


def about(document: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The document narrowed to the model that is served: what it allows, the whole one allows too."""
    found = copy.deepcopy(document)
    schemas = found["components"]["schemas"]
    of_one = [
        {
            "name": {"type": "string", "enum": [name]},
            "shape": {"type": "array", "items": {"type": "integer"}, "enum": [[2], [2, 1]]},
            "datatype": {"type": "string", "enum": [datatype]},
            "data": {"type": "array", "items": _ITEMS[datatype], "minItems": 2, "maxItems": 2},
        }
        for name, datatype in columns.items()
    ]
    members = ["name", "shape", "datatype", "data"]
    schemas["RequestInput"] = {"oneOf": [{"type": "object", "properties": one, "required": members} for one in of_one]}
    schemas["RequestOutput"]["properties"]["name"]["enum"] = ["prediction", "probabilities"]
    return found


_ITEMS: Final[Mapping[str, Any]] = {
    "BOOL": {"type": "boolean"},
    "INT64": {"type": "integer"},
    "FP64": {"type": "number"},
    "BYTES": {"type": "string"},
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    if not FILE.exists():
        pytest.skip(f"there is no {FILE}: make .venv/oip.stamp")
    return mended(json.loads(FILE.read_text("utf-8")))


@pytest.fixture(scope="module")
def columns(served: Served) -> dict[str, str]:
    """Datatypes of the model's inputs."""
    return {each["name"]: each["datatype"] for each in served.ask("/v2/models/shades")[2]["inputs"]}


def operations(document: dict[str, Any]) -> dict[tuple[str, str], APIOperation[Any, Any, Any, Any]]:
    found = [result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations()]
    return {(operation.method, operation.path): operation for operation in found}


def drive(
    operation: APIOperation[Any, Any, Any, Any],
    served: Served,
    count: int,
    completed: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body,
) -> list[int]:
    """Ask ``count`` made requests, half of them of the model that is there; the statuses of the replies."""
    statuses: list[int] = []

    @seed(7)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(), known=st.booleans())
    def ask(case: Case, *, known: bool) -> None:
        if known:
            named = {"model_name": "shades", "model_version": "1"}
            case.path_parameters = {name: named[name] for name in case.path_parameters or ()}
            if isinstance(case.body, dict):
                case.body = completed(case.body)
        reply = case.call(base_url=served.url)
        case.validate_response(reply, checks=CHECKS)
        statuses.append(reply.status_code)

    ask()
    return statuses


def test_the_file_has_what_is_required_and_what_is_said_not_to_be_offered(
    document: dict[str, Any], served: Served
) -> None:
    every = set(operations(document))
    others = {("post", f"{place}/{name}") for place in (MODEL, VERSION) for name in NOT_OFFERED}
    assert every == REQUIRED | others
    for _, path in others:
        status, _, told = served.ask(path.format(model_name="shades", model_version="1"), {"inputs": []})
        assert (status, next(iter(told))) == (404, "error")


@pytest.mark.parametrize(("method", "path"), sorted(REQUIRED))
def test_replies_to_made_requests_are_those_of_the_file(
    document: dict[str, Any], served: Served, method: str, path: str
) -> None:
    """Any request that the file allows: a status and a body that it describes."""
    statuses = drive(operations(document)[method, path], served, 40 if method == "post" else 15)
    if method == "post":
        assert set(statuses) == {400, 404}  # nobody guesses the columns of the model
    else:
        assert set(statuses) == ({200, 404} if "{" in path else {200})


@pytest.mark.parametrize("path", [f"{MODEL}/infer", f"{VERSION}/infer"])
def test_requests_made_for_the_model_are_answered_as_the_file_says(
    document: dict[str, Any], served: Served, rows: pl.DataFrame, columns: dict[str, str], path: str
) -> None:
    """Made values of the types of the columns, texts that are no times, tensors left out or twice."""
    known = {each["name"]: each for each in tensors(rows.head(2), columns, nested=False)}

    def completed(body: dict[str, Any]) -> dict[str, Any]:
        made = {each["name"]: each for each in body["inputs"]}
        if not made or len(made) < len(body["inputs"]):
            return body
        return body | {"inputs": list((known | made).values())}

    statuses = drive(operations(about(document, columns))["post", path], served, 60, completed)
    assert set(statuses) == {200, 400, 404}


def tensors(rows: pl.DataFrame, columns: Mapping[str, str], *, nested: bool) -> list[dict[str, Any]]:
    """One tensor for each column, flat or of the shape (n, 1)."""
    found = []
    for name, datatype in columns.items():
        values = rows[name].to_list()
        shape, data = ([len(values), 1], [[value] for value in values]) if nested else ([len(values)], values)
        found.append({"name": name, "shape": shape, "datatype": datatype, "data": data})
    return found


@pytest.mark.parametrize("place", ["/v2/models/shades", "/v2/models/shades/versions/1"])
@pytest.mark.parametrize("nested", [False, True])
def test_golden_requests_get_the_batchs_answers_in_the_files_form(
    document: dict[str, Any], served: Served, shades: Path, rows: pl.DataFrame, place: str, *, nested: bool
) -> None:
    published = pl.read_parquet(next((shades / "predictions").glob("*.parquet"))).sort("id")
    columns = {each["name"]: each["datatype"] for each in served.ask(place)[2]["inputs"]}
    asked = {"id": "42", "inputs": tensors(rows, columns, nested=nested), "parameters": {"content_type": "np"}}
    valid(document, "InferenceRequest", asked)
    for outputs in (None, ["prediction"], ["probabilities", "prediction"]):
        wanted = {} if outputs is None else {"outputs": [{"name": name} for name in outputs]}
        status, _, told = served.ask(f"{place}/infer", asked | wanted)
        assert status == 200, told
        valid(document, "InferenceResponse", told)
        assert (told["id"], told["model_name"], told["model_version"]) == ("42", "shades", "1")
        found = {each["name"]: each for each in told["outputs"]}
        assert list(found) == (outputs or ["prediction", "probabilities"])
        assert found["prediction"]["data"] == published["prediction"].to_list()
        if "probabilities" in found:
            shares = [share for row in published.select("probability_0", "probability_1").rows() for share in row]
            assert (found["probabilities"]["data"], found["probabilities"]["shape"]) == (shares, [len(rows), 2])


def test_what_the_server_and_the_model_say_of_themselves_is_complete(document: dict[str, Any], served: Served) -> None:
    for path in ("/v2", "/v2/"):  # the protocol's text has the one, KServe's file the other
        told = served.ask(path)[2]
        valid(document, "MetadataServerResponse", told)
        assert told["name"] == "interlock"
    for path in ("/v2/models/shades", "/v2/models/shades/versions/1"):
        told = served.ask(path)[2]
        valid(document, "MetadataModelResponse", told)
        assert (told["name"], told["versions"]) == ("shades", ["1"])  # optional in the file
        assert [each["name"] for each in told["outputs"]] == ["prediction", "probabilities"]
        status, _, ready = served.ask(f"{path}/ready")
        assert (status, ready) == (200, {"name": "shades", "ready": True})
    for path in ("/v2/models/other", "/v2/models/shades/versions/2", "/v2/models/shades/versions/2/ready"):
        status, _, told = served.ask(path)
        assert status == 404
        valid(document, "MetadataModelErrorResponse", told)


def test_the_files_own_example_and_everything_wrong_with_a_body_is_a_bad_request(
    document: dict[str, Any], served: Served, columns: dict[str, str]
) -> None:
    example = document["components"]["schemas"]["InferenceRequest"]["x-examples"]["Example 1"]
    known = [{"name": name, "shape": [1], "datatype": kind, "data": [None]} for name, kind in columns.items()]
    many = [{"name": "width", "shape": [10**9], "datatype": "FP64", "data": []}]
    for body in (example, {"inputs": known}, {"inputs": many}, b"{", b""):
        status, _, told = served.ask("/v2/models/shades/infer", body)
        assert status == 400, told
        valid(document, "InferenceErrorResponse", told)
        assert told["error"]


def valid(document: dict[str, Any], schema: str, body: Any) -> None:
    """Raise where a body does not fit a schema of the document."""
    Draft4Validator({"$ref": f"#/components/schemas/{schema}", "components": document["components"]}).validate(body)
