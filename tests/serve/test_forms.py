"""Every form of every protocol: the same rows, the same answers, whichever way they came."""

import asyncio
import dataclasses
import io
import json
import math
import struct

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from answer.kit import SIGNATURE, rows
from interlock.answer.predict import Answered, Live, Seat
from interlock.answer.reading import Reader
from interlock.errors import DataRefused
from interlock.model.rows import MANY, Framed, FramedAnswers
from interlock.records import Column, Output, Signature
from interlock.serve.forms import ARROW, CSV, JSON, PLAIN, How, share_columns
from interlock.serve.keys import Keyring
from interlock.serve.protocols import INFER, forms_of, how_of, place_of
from serve.conftest import house_of

RECORD = {"x": 1.0, "n": 3, "colour": "red"}
GOLDEN = [
    {"x": 1.0, "n": 3, "colour": "red"},
    {"x": -4, "n": None, "colour": "grün 🙂"},
    {"x": 0.1, "n": 3.0, "colour": 'a "quoted", one'},
    {"x": 1e-300, "n": -0, "colour": "blue"},
]
NAMES = list(SIGNATURE.names)


def asked(house, path, body=None, kind=JSON, accept=None, query=b"", **headers):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = {"content-type": kind, **({"accept": accept} if accept else {}), **headers}
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in told.items()]
    return asyncio.run(house.ask(path, raw, headers=given, query=query))


def columns_of(records):
    return {name: [record[name] for record in records] for name in NAMES}


def csv_of(records, *, header=True):
    frame = pl.DataFrame(columns_of(records), schema={"x": pl.Float64, "n": pl.Float64, "colour": pl.String})
    return frame.write_csv(include_header=header).encode()


def arrow_of(records):
    body = io.BytesIO()
    types = {"x": pl.Float64, "n": pl.Float64, "colour": pl.String}
    pl.DataFrame(columns_of(records), schema=types).write_ipc_stream(body)
    return body.getvalue()


def tensors_of(records):
    types = {"x": "FP64", "n": "INT64", "colour": "BYTES"}
    return {
        "inputs": [
            {"name": name, "shape": [len(records)], "datatype": types[name], "data": values}
            for name, values in columns_of(records).items()
        ]
    }


def bodies(records):
    """Each way of sending the records, with the path that takes it."""
    lists = [[record[name] for name in NAMES] for record in records]
    return {
        "batch": ("/batch", {"instances": records}, JSON),
        "score": ("/score", lists, JSON),
        "split": ("/invocations", {"dataframe_split": {"columns": NAMES, "index": [7], "data": lists}}, JSON),
        "split without columns": ("/invocations", {"dataframe_split": {"data": lists}}, JSON),
        "records": ("/invocations", {"dataframe_records": records}, JSON),
        "instances": ("/invocations", {"instances": lists}, JSON),
        "inputs": ("/invocations", {"inputs": records}, JSON),
        "columns": ("/invocations", {"inputs": columns_of(records), "params": None}, JSON),
        "csv": ("/invocations", csv_of(records), CSV),
        "csv to batch": ("/batch", csv_of(records), CSV),
        "csv to score": ("/score", csv_of(records), CSV),
        "csv without a header": ("/invocations", csv_of(records, header=False), CSV),
        "arrow": ("/batch", arrow_of(records), ARROW),
        "arrow to invocations": ("/invocations", arrow_of(records), ARROW),
        "arrow to score": ("/score", arrow_of(records), ARROW),
        "tensors": ("/v2/models/demo/infer", tensors_of(records), JSON),
        "tensors, versioned": ("/v2/models/demo/versions/1/infer", tensors_of(records), JSON),
    }  # fmt: skip


def predictions(content):
    told = json.loads(content)
    if isinstance(told, list):
        return told, None
    if "outputs" in told:
        outputs = {output["name"]: output["data"] for output in told["outputs"]}
        return outputs["prediction"], outputs.get("probabilities")
    return told["predictions"], told.get("probabilities")


@pytest.mark.parametrize("name", bodies(GOLDEN))
@pytest.mark.parametrize("times", [1, MANY // len(GOLDEN)])
def test_the_same_rows_get_the_same_answers_to_the_bit(project, name, times):
    house = house_of(project, Keyring(None), max_rows=2_000, max_body=1_000_000)
    records = GOLDEN * times
    path, body, kind = bodies(records)[name]
    _, _, expected = asked(house, "/batch", {"instances": GOLDEN}, query=b"probabilities=true")
    labels, shares = predictions(expected)
    status, headers, content = asked(house, path, body, kind, query=b"probabilities=true")
    assert status == 200, content
    assert headers[b"interlock-tier"] == b"champion"
    told = json.loads(content)
    if path == "/score":
        assert (
            told
            == [{"prediction": label, "probabilities": share} for label, share in zip(labels, shares, strict=True)]
            * times
        )
    elif path.startswith("/v2"):
        assert predictions(content)[0] == labels * times
        assert predictions(content)[1] == [p for share in shares * times for p in share.values()]
    else:
        assert told == {"predictions": labels * times, "probabilities": shares * times}
    assert isinstance(house.served[-1].rows, Framed) == (times > 1 or kind != JSON or path.startswith("/v2"))


@pytest.mark.parametrize("times", [1, MANY // len(GOLDEN)])
@pytest.mark.parametrize("asking", ["arrow", "csv"])
def test_many_rows_of_a_table_come_back_as_few_do(project, times, asking):
    house = house_of(project, Keyring(None), max_rows=2_000, max_body=1_000_000)
    labels, shares = predictions(asked(house, "/batch", {"instances": GOLDEN}, query=b"probabilities=1")[2])
    expected = [(label, *share.values()) for label, share in zip(labels, shares, strict=True)] * times
    path, body, kind = bodies(GOLDEN * times)[asking]
    _, _, content = asked(house, path, body, kind, accept=ARROW, query=b"probabilities=true")
    assert pl.read_ipc_stream(io.BytesIO(content)).rows() == expected
    _, _, content = asked(house, path, body, kind, accept=ARROW)
    assert pl.read_ipc_stream(io.BytesIO(content)).rows() == [(label,) for label, *_ in expected]
    _, _, content = asked(house, path, body, kind, accept="text/csv", query=b"probabilities=true")
    lines = content.decode().splitlines()[-len(expected) :]
    assert lines == [",".join([label, *map(repr, rest)]) for label, *rest in expected]
    assert isinstance(house.served[-1].answered.answers, FramedAnswers) == (times > 1)


@pytest.mark.parametrize("times", [1, MANY // len(GOLDEN)])
@pytest.mark.parametrize(
    ("field", "cell", "why"), [("colour", "", "is empty"), ("x", None, "is empty"), ("x", math.inf, "is not a finite")]
)
def test_one_cell_of_a_table_that_may_not_be_there_is_named(project, times, field, cell, why):
    house = house_of(project, Keyring(None), max_rows=2_000, max_body=1_000_000)
    columns = columns_of(GOLDEN * times)
    columns["x"] = [float(value) for value in columns["x"]]
    columns[field][2] = cell
    body = io.BytesIO()
    pl.DataFrame(columns, schema={"x": pl.Float64, "n": pl.Float64, "colour": pl.String}).write_ipc_stream(body)
    status, _, content = asked(house, "/batch", body.getvalue(), ARROW)
    error = json.loads(content)["error"]
    assert (status, error["field"], error["row"]) == (422, field, 2)
    assert why in error["message"]


def test_probabilities_are_taken_by_columns_only_where_these_are_those_of_the_classes(house):
    live = house.door.room.live
    seat = live.seats[0]
    turned = dataclasses.replace(
        seat,
        tier="last-good",
        signature=msgspec.structs.replace(
            SIGNATURE, output=msgspec.structs.replace(SIGNATURE.output, classes=("yes", "no"))
        ),
    )
    live = dataclasses.replace(live, seats=(seat, turned))
    frame = pl.DataFrame({"prediction": ["no", "yes"], "probability_0": [0.75, 0.5], "probability_1": [0.25, 0.5]})
    answers = FramedAnswers(frame)
    found = share_columns(Answered(answers, ["champion"] * 2), live)
    assert [column.to_list() for column in found] == [[0.75, 0.5], [0.25, 0.5]]
    assert share_columns(Answered(answers, ["last-good"] * 2), live) is None
    assert share_columns(Answered(answers, ["champion", "last-good"]), live) is None
    assert share_columns(Answered(list(answers), ["champion"] * 2), live) is None
    assert share_columns(Answered(FramedAnswers(frame[["prediction"]]), ["champion"] * 2), live) is None


@pytest.mark.parametrize(
    "name", ["batch", "score", "split", "records", "instances", "inputs", "csv", "arrow", "arrow to invocations"]
)
def test_no_rows_get_no_answers(house, name):
    path, body, kind = bodies([])[name]
    status, _, content = asked(house, path, body, kind)
    assert (status, json.loads(content)) == (200, [] if path == "/score" else {"predictions": []})


@pytest.mark.parametrize("path", ["/batch", "/score", "/invocations"])
def test_tables_come_back_where_they_are_accepted(house, path):
    labels, shares = predictions(asked(house, "/batch", {"instances": GOLDEN}, query=b"probabilities=1")[2])
    body = [list(record.values()) for record in GOLDEN]
    body = body if path == "/score" else {"instances": body}
    _, headers, content = asked(house, path, body, accept="text/html, text/csv;q=0.8, */*;q=0.1")
    assert headers[b"content-type"] == b"text/csv; charset=utf-8"
    assert content.decode().splitlines() == [*(["prediction"] if path != "/invocations" else []), *labels]
    _, headers, content = asked(house, path, body, accept=ARROW, query=b"probabilities=true")
    assert headers[b"content-type"] == ARROW.encode()
    found = pl.read_ipc_stream(io.BytesIO(content))
    assert found.columns == ["prediction", "probability_0", "probability_1"]
    assert found.rows() == [(label, *share.values()) for label, share in zip(labels, shares, strict=True)]


def test_probabilities_come_where_they_are_asked_for_or_set(project):
    house = house_of(project, Keyring(None))
    _, _, plain = asked(house, "/predict", RECORD)
    assert json.loads(plain) == {"prediction": "yes"}
    told = json.loads(asked(house, "/predict", RECORD, query=b"probabilities=true")[2])
    assert told["probabilities"].keys() == {"no", "yes"}
    assert sum(told["probabilities"].values()) == 1.0
    assert json.loads(asked(house, "/stream", {"instance": RECORD}, query=b"probabilities=true")[2]) == told
    always = house_of(project, Keyring(None), probabilities=True)
    assert json.loads(asked(always, "/predict", RECORD)[2]) == told
    assert asked(always, "/predict", RECORD, query=b"probabilities=false")[2] == plain
    for words in (b"probabilities=maybe", b"probabilities=", b"probabilities=true&probabilities=true"):
        assert asked(house, "/predict", RECORD, query=words)[0] == 400
    assert asked(house, "/predict", RECORD, query=b"else=x")[0] == 200


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        ({}, JSON, 400, "The body has 0 of the members"),
        ({"instances": [RECORD], "inputs": [RECORD]}, JSON, 400, "The body has 2 of the members"),
        ({"rows": [RECORD]}, JSON, 400, "The body is not what this route takes"),
        ({"instances": [RECORD], "params": {"k": 1}}, JSON, 400, "The model takes no 'params'"),
        ({"dataframe_split": {"columns": NAMES, "data": [[1.0, 3]]}}, JSON, 400, "Record 0 has 2 values"),
        ({"dataframe_split": {"columns": ["x", "x", "n"], "data": []}}, JSON, 400, "'columns' names one twice"),
        ({"dataframe_split": {"columns": ["x", "n"], "data": [[1, 2]]}}, JSON, 422, "Field 'colour' of record 0 is"),
        ({"inputs": {"x": [1.0], "n": [3, 4], "colour": ["red"]}}, JSON, 400, "The columns of 'inputs' are"),
        ({"inputs": {"x": [1.0], "n": 3, "colour": ["red"]}}, JSON, 400, "Some columns of 'inputs' are lists"),
        ({"inputs": {"x": ["secret"], "n": [3], "colour": ["red"]}}, JSON, 422, "Field 'x' of record 0 is not a"),
        (b'{"instances": [], "instances": []}', JSON, 400, "The name 'instances' is there twice"),
        (b'{"inputs": {"x": [1], "n": [1], "x": [2], "colour": ["a"]}}', JSON, 400, "The name 'x' is there"),
        ({"instances": [RECORD] * 101}, JSON, 413, "The request has 101 records"),
        ({"dataframe_split": {"data": [[1, 3, "red"]] * 101}}, JSON, 413, "The request has 101 records"),
        ({"inputs": {"x": [1] * 101, "n": [1] * 101, "colour": ["a"] * 101}}, JSON, 413, "The request has 101"),
        (csv_of(GOLDEN * 26), CSV, 413, "The request has 104 records"),
        (arrow_of(GOLDEN * 26), ARROW, 413, "The request has 104 records"),
        (b"", CSV, 400, "The body begins with an empty line, or holds nothing"),
        (b"x,n\n1,2\n", CSV, 400, "The first record has 2 fields"),
        (b"x,n,colour\n1,secret,red\n", CSV, 422, "Field 'n' of record 0 is not a whole number"),
        (b"x,n,colour\n1,2,red\n,2,red\n", CSV, 422, "Field 'x' of record 1 is empty"),
        (b"x,n,colour\n1,2,red\n\n1,2,red\n", CSV, 400, "A record is empty"),
        (b"x,n,colour,x\n1,2,red,3\n", CSV, 400, "The header names a column twice"),
        (b"x,n,colour\n1,2\n", CSV, 400, "Row 1 of the body has 2 fields"),
        (b"x,n,colour\n1,2,\xff\n", CSV, 400, "The body is not UTF-8"),
        (b"x,n,colour\n1,2,\0\n", CSV, 400, "The body holds a NUL"),
        (b"1e400,2,red\n", CSV, 422, "Field 'x' of record 0 is not a finite number"),
        (b"secret", ARROW, 400, "The body is no Arrow IPC stream"),
        (arrow_of(GOLDEN)[:200], ARROW, 400, "The body is no Arrow IPC stream"),
    ],
)  # fmt: skip
def test_what_is_refused_is_told_without_its_values(house, body, kind, status, message):
    got, _, content = asked(house, "/invocations", body, kind)
    assert got == status, content
    assert json.loads(content)["error"]["message"].startswith(message)
    assert b"secret" not in content


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_arrow_stream_is_refused_before_it_unfolds(house, compression):
    table = pa.table({"x": [0.0] * 50, "n": [1] * 50, "colour": pa.array(["red"] * 50).dictionary_encode()})
    body = io.BytesIO()
    with pa.ipc.new_stream(body, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as stream:
        stream.write_table(table)
    status, _, content = asked(house, "/batch", body.getvalue(), ARROW)
    assert (status, json.loads(content)["error"]["message"]) == (400, "The Arrow stream is compressed.")


def test_a_frame_that_lacks_a_column_or_holds_lists_is_told_by_its_name(house):
    for frame, message in (
        (pl.DataFrame({"x": [1.0], "n": [1]}), "Field 'colour' is missing."),
        (pl.DataFrame({"x": [[1.0]], "n": [1], "colour": ["red"]}), "Field 'x' holds lists or structs"),
    ):
        body = io.BytesIO()
        frame.write_ipc_stream(body)
        status, _, content = asked(house, "/batch", body.getvalue(), ARROW)
        assert status == 422
        assert json.loads(content)["error"]["message"].startswith(message)


def test_one_bad_answer_among_many_is_mended_alone(project, tmp_path):
    """Rows of a frame that the champion refuses go to the next tier; the others keep its answers."""
    house = house_of(project, Keyring(None), max_rows=2_000, max_body=1_000_000)
    live = house.door.room.live
    whole = rows(MANY).drop("id")
    records = whole.to_dicts()
    before = json.loads(asked(house, "/batch", {"instances": records})[2])["predictions"]
    champion = live.seats[0].here

    class Partly:
        def answers(self, given):
            found = champion.answers(given)
            return [("perhaps", None) if place == 7 else each for place, each in enumerate(found)]

    live.seats[0].here = Partly()
    status, headers, content = asked(house, "/batch", {"instances": records})
    assert (status, headers[b"interlock-tier"]) == (200, b"baseline")
    after = json.loads(content)["predictions"]
    assert after[7] == "no"
    assert after[:7] + after[8:] == before[:7] + before[8:]
    (fault,) = house.served[-1].answered.faults
    assert (fault.place, fault.cause) == (7, "class")


# ---- the Open Inference Protocol ---------------------------------------------------------------------------------


def packed(records, outputs=None, **parameters):
    """The binary extension: JSON, then the bytes of each tensor."""
    texts = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in (r["colour"] for r in records))
    raw = {
        "x": ("FP32", np.array([r["x"] for r in records], "<f4").tobytes()),
        "n": ("INT16", np.array([r["n"] for r in records], "<i2").tobytes()),
        "colour": ("BYTES", texts),
    }
    inputs = [
        {"name": name, "shape": [len(records), 1], "datatype": kind, "parameters": {"binary_data_size": len(data)}}
        for name, (kind, data) in raw.items()
    ]
    head = {"id": "7", "inputs": inputs, "parameters": parameters}
    if outputs:
        head["outputs"] = outputs
    told = json.dumps(head).encode()
    return told + b"".join(data for _, data in raw.values()), str(len(told))


def test_tensors_may_be_bytes_both_ways(house):
    records = [{"x": 0.5, "n": 3, "colour": "red"}, {"x": -2.5, "n": 4, "colour": "grün"}]
    labels, shares = predictions(asked(house, "/batch", {"instances": records}, query=b"probabilities=1")[2])
    body, length = packed(records, binary_data_output=True)
    status, headers, content = asked(
        house, "/v2/models/demo/infer", body, "application/octet-stream", inference_header_content_length=length
    )
    assert (status, headers[b"content-type"]) == (200, b"application/octet-stream")
    size = int(headers[b"inference-header-content-length"])
    head, tail = json.loads(content[:size]), content[size:]
    assert (head["id"], head["model_name"], head["model_version"]) == ("7", "demo", "1")
    one, two = head["outputs"]
    assert (one["name"], one["datatype"], one["shape"]) == ("prediction", "BYTES", [2])
    expected = b"".join(struct.pack("<I", len(label)) + label.encode() for label in labels)
    assert tail[: one["parameters"]["binary_data_size"]] == expected
    assert (two["name"], two["shape"], two["parameters"]["binary_data_size"]) == ("probabilities", [2, 2], 32)
    assert np.frombuffer(tail[len(expected) :], "<f8").tolist() == [p for share in shares for p in share.values()]


def test_outputs_are_those_that_were_asked_for(house):
    body, length = packed([RECORD], outputs=[{"name": "prediction", "parameters": {"binary_data": False}}])
    told = json.loads(asked(house, "/v2/models/demo/infer", body, inference_header_content_length=length)[2])
    assert told["outputs"] == [{"name": "prediction", "datatype": "BYTES", "shape": [1], "data": ["yes"]}]
    body, length = packed([RECORD], outputs=[{"name": "score"}])
    status, _, content = asked(house, "/v2/models/demo/infer", body, inference_header_content_length=length)
    assert (status, json.loads(content)["error"]) == (
        400, "There is no output 'score'. GET /v2/models/{name} lists them."
    )  # fmt: skip


def changed(place, **members):
    body = tensors_of([RECORD])
    body["inputs"][place] |= members
    return body


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "The body lacks 'inputs'"),
        ({"inputs": []}, "Field 'x' is missing"),
        ({"inputs": tensors_of([RECORD])["inputs"][:2]}, "Field 'colour' is missing"),
        ({"inputs": tensors_of([RECORD])["inputs"] * 2}, "The input 'x' is there twice"),
        (changed(0, data=[1.0, 2.0]), "The input 'x' has another number of values"),
        (changed(0, shape=[]), "The input 'x' has a shape that no such tensor has"),
        (changed(0, shape=[-1]), "The input 'x' has a shape that no such tensor has"),
        (changed(0, shape=[1] * 2_000), "The input 'x' has a shape that no such tensor has"),
        (b'{"inputs": [], "x": ' + b"1" * 5_000 + b"}", "The body"),
        (changed(0, shape=[10**12]), "The request has 1,000,000,000,000 records"),
        (changed(0, shape=[2], data=[1.0, 2.0]), "The tensors are not of one length"),
        (changed(0, shape=[1, 2], data=[[1.0, 2.0]]), "The input 'x' is to have the shape (n) or (n, 1)"),
        (changed(0, datatype="COMPLEX"), "The input 'x' is of a type that is not taken"),
        (changed(0, data=["secret"]), "Field 'x' of record 0 is not of the type FP64"),
        (changed(0, data=[None]), "Field 'x' of record 0 is empty"),
        (changed(1, data=[1.5]), "Field 'n' of record 0 is not of the type INT64"),
        (changed(1, data=[2**70]), "Field 'n' holds a number of more than 64 bits"),
        (changed(2, data=[3]), "Field 'colour' of record 0 is not text"),
        (changed(0, parameters={"binary_data_size": 8}), "The input 'x' has data twice"),
        (b'{"inputs": [], "inputs": []}', "The name 'inputs' is there twice"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_in_one_text(house, body, message):
    status, _, content = asked(house, "/v2/models/demo/infer", body)
    assert status == house.served[-1].status == 400, content
    assert json.loads(content)["error"].startswith(message)
    assert b"secret" not in content


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_binary_tensors_that_are_cut_short_or_too_long_are_refused(house, cut):
    body, length = packed(GOLDEN[:1])
    for wrong in (body[:-cut], body + b"x" * cut):
        status, _, content = asked(house, "/v2/models/demo/infer", wrong, inference_header_content_length=length)
        assert status == 400, content
    assert asked(house, "/v2/models/demo/infer", body, inference_header_content_length="99999")[0] == 400
    assert asked(house, "/v2/models/demo/infer", body, inference_header_content_length="x")[0] == 400


@pytest.mark.parametrize("path", ["/v2/models/other/infer", "/v2/models/demo/versions/2/infer", "/v2/models/demo/else"])
def test_another_model_or_version_is_not_there(house, path):
    status, _, content = asked(house, path, tensors_of([RECORD]))
    assert status == 404
    assert isinstance(json.loads(content)["error"], str)


# ---- heads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "how"),
    [
        ({}, PLAIN),
        ({b"accept": b"*/*"}, PLAIN),
        ({b"accept": b"application/json, text/csv;q=0.5"}, PLAIN),
        ({b"accept": b"text/csv"}, How(accept=CSV)),
        ({b"accept": b"text/csv;q=0"}, PLAIN),
        ({b"accept": b"text/csv;q=nonsense"}, PLAIN),
        ({b"content-type": b"Text/CSV; header=absent"}, How(kind=CSV, header=False)),
        ({b"content-type": b"image/png"}, How(kind="image/*")),
        ({b"inference-header-content-length": b"12"}, How(json_bytes=12)),
    ],
)
def test_what_a_head_says(headers, how):
    assert how_of(headers) == how


def test_paths_with_names_in_them():
    assert place_of("/v2/models/a b/infer") == (INFER, {"name": "a b"})
    assert place_of("/v2/models/a/versions/3") == (
        "/v2/models/{name}/versions/{version}",
        {"name": "a", "version": "3"},
    )
    assert place_of("/v2/models/a/b/infer") == ("/v2/models/a/b/infer", {})
    assert place_of("/predict") == ("/predict", {})


# ---- models of other columns -------------------------------------------------------------------------------------


def forms_for(*columns, output=None, **options):
    """The forms of a model that takes these columns."""
    seat = Seat(
        tier="champion", model="m" * 64, signature=Signature(inputs=columns, output=output), check=lambda _: None
    )
    live = Live(5, (seat,), columns)
    return forms_of(Reader(columns), live, most_rows=100, name="m", probabilities=False), live


def column(name, kind, *, nullable=False):
    return Column(name=name, type=kind, nullable=nullable)


@pytest.mark.parametrize("path", ["/predict", "/invocations"])
def test_the_value_of_the_only_column_may_come_as_it_is(path):
    forms, _ = forms_for(column("picture", "bytes"))
    for kind in ("image/*", "application/octet-stream"):
        assert list(forms.read(path, b"\x89PNG\0", How(kind=kind)).rows) == [(b"\x89PNG\0",)]
    with pytest.raises(DataRefused, match="Field 'picture' is empty"):
        forms.read(path, b"", How(kind="image/*"))
    texts, _ = forms_for(column("text", "str", nullable=True))
    assert list(texts.read(path, "grün\n".encode(), How(kind="text/plain")).rows) == [("grün\n",)]
    assert list(texts.read(path, b"", How(kind="text/plain")).rows) == [(None,)]
    with pytest.raises(DataRefused, match="not UTF-8"):
        texts.read(path, b"\xff", How(kind="text/plain"))
    assert "text/plain" not in forms.routes[path]
    assert set(forms_for(column("a", "str"), column("b", "str"))[0].routes["/predict"]) == {JSON}


def test_bytes_come_as_tensors_raw_or_in_base64():
    forms, _ = forms_for(column("picture", "bytes"))
    given = {"name": "picture", "shape": [2], "datatype": "BYTES", "data": ["iVA=", "AA=="]}
    assert list(forms.read(INFER, json.dumps({"inputs": [given]}).encode(), PLAIN).rows) == [(b"\x89P",), (b"\0",)]
    with pytest.raises(DataRefused, match="Field 'picture' of record 0 is not UTF-8, or not base64"):
        forms.read(INFER, json.dumps({"inputs": [given | {"data": ["§", "AA=="]}]}).encode(), PLAIN)


@pytest.mark.parametrize("data", [[1, 2.5, 3, 4.5], [[1, 2.5], [3, 4.5]]])
def test_one_tensor_of_all_columns_where_all_are_numbers(data):
    forms, _ = forms_for(column("a", "int"), column("b", "float"))
    given = {"name": "input-0", "shape": [2, 2], "datatype": "FP64", "data": data}
    rows = [(1, 2.5), (3, 4.5)]
    assert list(forms.read(INFER, json.dumps({"inputs": [given]}).encode(), PLAIN).rows) == rows
    raw = np.array(rows, "<f4").tobytes()
    head = given | {"datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
    del head["data"]
    told = json.dumps({"inputs": [head]}).encode()
    assert list(forms.read(INFER, told + raw, How(json_bytes=len(told))).rows) == rows
    with pytest.raises(DataRefused, match="Field 'a' of record 1 is not a whole number"):
        forms.read(INFER, json.dumps({"inputs": [given | {"data": [1, 2, 3.5, 4]}]}).encode(), PLAIN)
    texts, _ = forms_for(column("a", "int"), column("b", "str"))
    with pytest.raises(DataRefused, match="for models that take numbers only"):
        texts.read(INFER, json.dumps({"inputs": [given]}).encode(), PLAIN)


@pytest.mark.parametrize(
    ("output", "answers", "datatype", "data"),
    [
        (Output(kind="number", type="float"), [0.1], "FP64", [0.1]),
        (Output(kind="label", type="int", classes=(0, 1)), [1], "INT64", [1]),
        (Output(kind="label", type="bool", classes=(False, True)), [True], "BOOL", [True]),
        (Output(kind="ranking", type="str"), [["a", "ü"]], "BYTES", ['["a","ü"]']),
        (Output(kind="text", type="str"), ["told"], "BYTES", ["told"]),
        (None, [{"x": 1}], "BYTES", ['{"x":1}']),
    ],
)
def test_answers_of_every_kind_are_tensors_and_tables(output, answers, datatype, data):
    forms, live = forms_for(column("x", "float"), output=output)
    asked_ = forms.read(INFER, b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[1]}]}', PLAIN)
    answered = Answered([(answer, None) for answer in answers], ["champion"] * len(answers))
    (found,) = json.loads(asked_.write(answered, live).body)["outputs"]
    assert (found["datatype"], found["data"]) == (datatype, data)
    for accept in (CSV, ARROW):
        written = forms.read("/batch", b'{"instances":[1]}', How(accept=accept)).write(answered, live)
        if accept == ARROW:
            (told,) = pl.read_ipc_stream(io.BytesIO(written.body))["prediction"].to_list()
            assert told == answers[0] or json.loads(told) == answers[0]
        else:
            assert written.body.decode().startswith("prediction\n")


def test_probabilities_are_told_by_the_classes_of_who_answered():
    forms, live = forms_for(column("x", "float"), output=Output(kind="label", type="bool", classes=(False, True)))
    other = Signature(inputs=live.columns, output=Output(kind="label", type="bool", classes=(True, False)))
    live.seats += (Seat(tier="last-good", model="o" * 64, signature=other, check=lambda _: None),)
    answered = Answered(
        [(True, (0.25, 0.75)), (True, (0.5, 0.5)), (True, None)], ["champion", "last-good", "last-good"]
    )
    asked_ = forms.read("/batch", b'{"instances":[1, 2, 3]}', How(probabilities=True))
    assert json.loads(asked_.write(answered, live).body)["probabilities"] == [
        {"false": 0.25, "true": 0.75},
        {"true": 0.5, "false": 0.5},
        None,
    ]
    table = forms.read("/batch", b'{"instances":[1, 2, 3]}', How(probabilities=True, accept=ARROW))
    frame = pl.read_ipc_stream(io.BytesIO(table.write(answered, live).body))
    assert frame.rows() == [(True, 0.25, 0.75), (True, 0.5, 0.5), (True, None, None)]
    told = forms.read(
        INFER,
        b'{"inputs":[{"name":"x","shape":[3],"datatype":"FP64","data":[1,2,3]}],"outputs":[{"name":"probabilities"}]}',
        PLAIN,
    )
    with pytest.raises(DataRefused, match="gives no probabilities"):
        told.write(answered, live)


@pytest.mark.parametrize(
    ("route", "body", "how", "told"),
    [
        ("/predict", b'{"x": 1}', How(k=2), b'{"prediction":["a","b"]}'),
        ("/batch", b'{"instances": [1]}', How(k=1), b'{"predictions":[["a"]]}'),
        ("/score", b"[1]", How(k=9), b'[["a","b","c"]]'),
        ("/batch", b'{"instances": [1]}', How(k=2, accept=CSV), b'prediction\n"[""a"",""b""]"\n'),
    ],
)
def test_so_many_of_a_ranking_as_are_asked_for(route, body, how, told):
    forms, live = forms_for(column("x", "float"), output=Output(kind="ranking", type="str"))
    answered = Answered([(["a", "b", "c"], None)], ["champion"])
    assert forms.read(route, body, how).write(answered, live).body == told
    assert answered.answers == [(["a", "b", "c"], None)]  # what is logged is what was answered


def test_k_is_for_rankings_and_a_whole_number():
    forms, _ = forms_for(column("x", "float"), output=Output(kind="number", type="float"))
    with pytest.raises(DataRefused, match="'k' is for models that answer with a ranking"):
        forms.read("/predict", b'{"x": 1}', How(k=2))
    assert how_of({}, b"k=12&probabilities=false") == How(k=12, probabilities=False)
    for query in (b"k=0", b"k=", b"k=-1", b"k=1.0", b"k=1&k=2", b"k=x", b"k=1234567890"):
        with pytest.raises(DataRefused, match="'k' is no whole number from 1 on"):
            how_of({}, query)


# ---- forecasts ---------------------------------------------------------------------------------------------------

MONTH = Column(name="month", type="date", nullable=False, low="2020-01-01", high="2025-11-01", step="1mo")
AHEAD = ["2025-12-01", "2026-01-01", "2026-02-01"]


def forecasting(*columns):
    """The route of a forecast whose answer is the month, and what it reads of a body."""

    class Months:
        gathers = False

        def answers(self, rows):
            return [(float(row[0].month), None) for row in rows]

    signature = Signature(inputs=columns, output=Output(kind="number", type="float"))
    seat = Seat(tier="champion", model="m" * 64, signature=signature, check=lambda _: None, here=Months())
    live = Live(1, (seat,), columns)
    forms = forms_of(Reader(columns), live, most_rows=100, name="demo", probabilities=False)

    def answer(body, how=PLAIN):
        asked = forms.read("/batch", json.dumps(body).encode(), how)
        return asked.rows, asked.write(live.answer_here(asked.rows), live)

    return answer


def test_a_horizon_is_the_steps_after_training_and_the_reply_names_them():
    answer = forecasting(MONTH)
    made, written = answer({"horizon": 3})
    assert json.loads(written.body) == {"times": AHEAD, "predictions": [12.0, 1.0, 2.0]}
    assert written.kind == b"application/json"
    sent, told = answer({"instances": AHEAD})
    assert list(made) == list(sent)
    assert json.loads(told.body) == {"predictions": [12.0, 1.0, 2.0]}
    _, table = answer({"horizon": 3}, How(accept=CSV))
    assert table.kind.startswith(b"text/csv")
    assert table.body.split() == [b"prediction", b"12.0", b"1.0", b"2.0"]


def test_steps_may_begin_after_a_later_time():
    _, written = forecasting(MONTH)({"horizon": 2, "after": "2026-03-20"})
    assert json.loads(written.body) == {"times": ["2026-04-01", "2026-05-01"], "predictions": [4.0, 5.0]}


def test_many_steps_go_the_way_of_many_rows():
    made, written = forecasting(MONTH)({"horizon": 100})
    assert isinstance(made, Framed) == (len(made) >= MANY)
    assert json.loads(written.body)["predictions"][11::12] == [11.0] * 8


@pytest.mark.parametrize(
    ("columns", "body", "message"),
    [
        ((MONTH,), {"horizon": 0}, "The body is not what this route takes: Expected `int` >= 1"),
        ((MONTH,), {"horizon": 3, "instances": []}, "The body has 'instances' and 'horizon'."),
        ((MONTH,), {}, "The body lacks 'instances'."),
        ((MONTH,), {"after": "2026-01-01"}, "The body lacks 'horizon'."),
        ((MONTH,), {"instances": [], "after": "2026-01-01"}, "The body lacks 'horizon'."),
        ((MONTH,), {"horizon": 3, "after": "2025-10-31"}, "'after' is before the end of training, 2025-11-01."),
        ((MONTH,), {"horizon": 101}, "The request has 101 records, 100 are allowed."),
        (
            (MONTH, Column(name="price", type="float", nullable=False)),
            {"horizon": 3},
            "What comes does not follow from 'month' alone: the model takes 'price'.",
        ),
        (
            (Column(name="month", type="date", nullable=False),),
            {"horizon": 3},
            "'horizon' is for forecasts whose times in training had a regular step.",
        ),
        (
            (Column(name="month", type="date", nullable=False, high="9999-11-01", step="1mo"),),
            {"horizon": 3},
            "'month' has no 3 steps before the calendar ends.",
        ),
    ],
)
def test_a_horizon_that_cannot_be_looked_over_is_refused_with_the_reason(columns, body, message):
    with pytest.raises(DataRefused) as refused:
        forecasting(*columns)(body)
    assert refused.value.message.startswith(message)
    assert refused.value.facts.get("malformed") or refused.value.facts.get("too_large")


def test_a_name_twice_beside_a_horizon_is_refused():
    forms, _ = forms_for(MONTH)
    with pytest.raises(DataRefused, match="twice"):
        forms.read("/batch", b'{"horizon": 3, "horizon": 4}', PLAIN)
