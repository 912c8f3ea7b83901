"""The same golden rows through every protocol and through batch scoring, by clients that nobody here wrote."""

import html
import io
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from infra.server import Served, serving

pytestmark = pytest.mark.slow

MLFLOW = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy, pandas
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
client = ScoringServerClient("127.0.0.1", int(sys.argv[1]))
client.ping()
frame = pandas.read_csv(sys.argv[2]).drop(columns="id").astype(object)
frame = frame.where(frame.notna(), None)
print(json.dumps([list(client.invoke(data).get_predictions(predictions_format="ndarray"))
                  for data in (frame, frame.to_dict("records"), frame.to_numpy())]))
"""


@pytest.fixture(scope="module")
def published(shades: Path) -> pl.DataFrame:
    """What the batch answered."""
    return pl.read_parquet(next((shades / "predictions").glob("*.parquet"))).sort("id")


def posted(served: Served, path: str, body: bytes, **headers: str) -> tuple[dict[str, str], bytes]:
    """POST as boto and others do; headers in lower case, and the body as it came."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(served.url + path, data=body, headers=told)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return {name.lower(): value for name, value in reply.headers.items()}, reply.read()


def shares(published: pl.DataFrame) -> list[tuple[float, ...]]:
    return published.select("probability_0", "probability_1").rows()


def test_golden_rows_get_the_same_bits_by_every_path(
    served: Served, published: pl.DataFrame, rows: pl.DataFrame
) -> None:
    """Nulls, whole numbers written as floats, unicode, quotes: by JSON, tables and tensors as by the batch."""
    assert rows["width"].null_count()
    assert "grün" in rows["colour"].to_list()
    floats = rows.with_columns(pl.col("rooms").cast(pl.Float64))
    arrow = io.BytesIO()
    floats.write_ipc_stream(arrow)
    lists = [list(row) for row in floats.rows()]
    split = {"dataframe_split": {"columns": rows.columns, "data": lists}}
    json_kind, csv_kind, arrow_kind = "application/json", "text/csv", "application/vnd.apache.arrow.stream"
    sent: list[tuple[str, bytes, str]] = [
        ("/batch", json.dumps({"instances": floats.to_dicts()}).encode(), json_kind),
        ("/invocations", json.dumps(split).encode(), json_kind),
        ("/invocations", json.dumps({"inputs": floats.to_dict(as_series=False)}).encode(), json_kind),
        ("/invocations", rows.write_csv().encode(), csv_kind),
        ("/invocations", floats.write_csv(include_header=False).encode(), csv_kind),
        ("/batch", arrow.getvalue(), arrow_kind),
    ]
    names = ["no", "yes"]
    for path, body, kind in sent:
        _, content = posted(served, f"{path}?probabilities=true", body, content_type=kind)
        found = json.loads(content)
        assert found["predictions"] == published["prediction"].to_list(), kind
        assert [tuple(each[name] for name in names) for each in found["probabilities"]] == shares(published), kind
        _, content = posted(served, f"{path}?probabilities=true", body, content_type=kind, accept=arrow_kind)
        table = pl.read_ipc_stream(io.BytesIO(content))
        assert table.equals(published.select(table.columns)), kind
        _, content = posted(served, f"{path}?probabilities=true", body, content_type=kind, accept=csv_kind)
        told = [line.split(",") for line in content.decode().splitlines()[-len(lists) :]]
        assert [(float(one), float(two)) for _, one, two in told] == shares(published), kind
    one_by_one = [served.ask("/predict?probabilities=true", row)[2] for row in rows.to_dicts()]
    assert [tuple(each["probabilities"][name] for name in names) for each in one_by_one] == shares(published)
    # more of them at once go another way through the model
    many = served.ask("/batch?probabilities=true", {"instances": rows.to_dicts() * 30})[2]
    assert [tuple(each[name] for name in names) for each in many["probabilities"]] == shares(published) * 30
    assert served.ask("/batch", {"instances": []})[2] == {"predictions": []}
    assert served.ask("/score", [])[2] == []


def inputs_of(rows: pl.DataFrame, *, binary: bool) -> list[Any]:
    """One tensor for each column, as a user of tritonclient makes them."""
    found = []
    types = {pl.Int64: "INT64", pl.Float64: "FP64", pl.Boolean: "BOOL"}
    for column in rows:
        datatype = types.get(type(column.dtype), "BYTES")
        values = np.array(column.to_list(), dtype=object) if datatype == "BYTES" else column.to_numpy()
        tensor = triton.InferInput(column.name, [len(column)], datatype)
        tensor.set_data_from_numpy(values, binary_data=binary)
        found.append(tensor)
    return found


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_the_same_bits(
    served: Served, published: pl.DataFrame, rows: pl.DataFrame, *, binary: bool
) -> None:
    keep = rows["width"].is_not_null()  # a tensor of floats has no missing value
    rows, published = rows.filter(keep), published.filter(keep)
    with triton.InferenceServerClient(served.url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("shades")
        assert client.is_model_ready("shades", "1")
        assert not client.is_model_ready("shades", "2")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        told = client.get_model_metadata("shades")
        assert [each["name"] for each in told["inputs"]] == rows.columns
        assert told["versions"] == ["1"]
        for version, outputs in (("", None), ("1", ["prediction", "probabilities"])):
            wanted = outputs and [triton.InferRequestedOutput(name, binary_data=binary) for name in outputs]
            result = client.infer(
                "shades", inputs_of(rows, binary=binary), model_version=version, outputs=wanted, request_id="7"
            )
            labels = result.as_numpy("prediction").tolist()
            assert [each.decode() if isinstance(each, bytes) else each for each in labels] == (
                published["prediction"].to_list()
            )
            assert list(map(tuple, result.as_numpy("probabilities").tolist())) == shares(published)
            assert result.get_response()["id"] == "7"
        with pytest.raises(InferenceServerException, match="Field 'at' is missing"):
            client.infer("shades", inputs_of(rows, binary=binary)[:-1])
        with pytest.raises(InferenceServerException, match="There is no such model or version"):
            client.infer("other", inputs_of(rows, binary=binary))


def test_mlflows_scoring_client_gets_the_same_answers(served: Served, shades: Path, published: pl.DataFrame) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MLFLOW, served.url.rsplit(":", 1)[1], str(shades / "to_score" / "b.csv")],
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    for found in json.loads(done.stdout.splitlines()[-1]):
        assert found == published["prediction"].to_list()


def test_sagemakers_requests_are_answered_as_its_containers_do(
    served: Served, published: pl.DataFrame, rows: pl.DataFrame
) -> None:
    """What ``invoke_endpoint`` sends to a container: ``/ping``, CSV without a header, the type of the reply."""
    assert served.ask("/ping")[0] == 200
    body = rows.write_csv(include_header=False).encode()
    headers, content = posted(served, "/invocations", body, content_type="text/csv", accept="text/csv")
    assert headers["content-type"].startswith("text/csv")
    assert content.decode().split() == published["prediction"].to_list()
    headers, content = posted(served, "/invocations", body, content_type="text/csv", accept="application/json")
    assert json.loads(content)["predictions"] == published["prediction"].to_list()


def test_people_are_greeted_with_a_page_that_needs_nothing_else(served: Served, rows: pl.DataFrame) -> None:
    assert served.ask("/")[2]["message"] == "Hello from shades"
    for path, shown in (("/", "curl -s"), ("/docs", "POST /v2/models/{name}/infer")):
        status, headers, page = served.ask(path, headers={"accept": "text/html,*/*;q=0.8"})
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert shown in page
        assert re.findall(r"(?:src|href)=\"(?!/)|<script|@import|url\(", page) == []
        assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    _, _, page = served.ask("/", headers={"accept": "text/html"})
    command = re.search(r"<code>(curl .*?)</code>", page, re.DOTALL)
    assert command is not None
    done = subprocess.run(
        ["bash", "-c", html.unescape(command[1])], capture_output=True, text=True, timeout=20, check=False
    )
    assert json.loads(done.stdout)["prediction"] in ("yes", "no"), done


def test_without_a_key_the_page_tells_nothing_of_the_columns(shades: Path) -> None:
    with serving(shades) as locked:
        status, _, page = locked.ask("/", headers={"accept": "text/html"})
        assert status == 200
        assert "colour" not in page
        assert locked.ask("/docs")[0] == 401
        key = locked.wait_for("this key opens every door").rsplit(" ", 1)[1]
        assert "colour" in locked.ask("/", headers={"accept": "text/html", "x-api-key": key})[2]
        for path in ("/v2", "/v2/models/shades", "/v2/models/shades/versions/1/ready"):
            assert locked.ask(path)[0] == 401
            assert locked.ask(path, headers={"x-api-key": key})[0] == 200
        assert locked.ask("/v2/health/live")[0] == 200
