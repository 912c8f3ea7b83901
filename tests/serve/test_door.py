"""Rescue in the same request, as the client sees it."""

import asyncio
import json
import math

from msgspec.structs import replace

from interlock.model.bundle import Opened
from interlock.model.forms import CategoryTerm, Linear, NumberTerm
from interlock.records import Column
from interlock.serve.keys import Keyring
from serve.conftest import FORM, house_of, opened_bundle

RECORD = {"x": 1.0, "n": 3, "colour": "red"}
REFUSES = Linear(
    link="sigmoid",
    intercepts=(0.0,),
    terms=(
        NumberTerm(column="x", shift=0.0, weights=(1.0,)),
        CategoryTerm(column="colour", keys=("blue", "green", "red"), weights=((0.0,),) * 3, unknown=None, missing=None),
    ),
    classes=("no", "yes"),
)
NONSENSE = Linear(link="sigmoid", intercepts=(0.0,), terms=(), classes=("perhaps", "never"))


def asked(house, body):
    return asyncio.run(house.ask("/batch", json.dumps({"instances": body}).encode()))


def test_last_good_answers_for_a_champion_that_talks_nonsense(project, tmp_path):
    good = opened_bundle(tmp_path / "good", FORM)
    project.release_of(tmp_path, 2, last_good=good, form=NONSENSE)
    house = house_of(project, Keyring(None))
    status, headers, body = asked(house, [RECORD])
    assert (status, json.loads(body)) == (200, {"predictions": ["yes"]})
    assert headers[b"interlock-tier"] == b"last-good"
    assert headers[b"interlock-release"] == b"2"
    assert headers[b"interlock-model"] == good.bundle.digest[:12].encode()
    (fault,) = house.served[0].answered.faults
    assert (fault.cause, fault.rescued) == ("class", True)


def test_without_last_good_the_baseline_answers(project, tmp_path):
    project.release_of(tmp_path, 2, form=NONSENSE)
    status, headers, body = asked(house_of(project, Keyring(None)), [RECORD, RECORD])
    assert (status, json.loads(body)) == (200, {"predictions": ["no", "no"]})
    assert headers[b"interlock-tier"] == b"baseline"


def test_a_record_that_both_models_refuse_is_the_clients_to_mend(project, tmp_path):
    good = opened_bundle(tmp_path / "good", REFUSES)
    project.release_of(tmp_path, 2, last_good=good, form=REFUSES)
    house = house_of(project, Keyring(None))
    status, headers, body = asked(house, [RECORD, {**RECORD, "colour": "violet"}])
    error = json.loads(body)["error"]
    assert (status, error["code"], error["row"]) == (422, "RecordRefused", 1)
    assert "No model has an answer for 1 of 2 records" in error["message"]
    assert headers[b"interlock-tier"] == b"abstain"
    assert b"retry-after" not in headers
    assert asked(house, [RECORD])[0] == 200
    kinds = {"x": "FP64", "n": "INT64", "colour": "BYTES"}
    sent = {
        "inputs": [
            {"name": name, "shape": [1], "datatype": kind, "data": [{**RECORD, "colour": "violet"}[name]]}
            for name, kind in kinds.items()
        ]
    }
    status, _, body = asyncio.run(house.ask("/v2/models/demo/infer", json.dumps(sent).encode()))
    assert (status, house.served[-1].status) == (400, 400), (
        "as the Open Inference Protocol has it, and as it is counted"
    )
    assert json.loads(body)["code"] == "RecordRefused"


def test_where_nobody_has_an_answer_the_client_is_asked_to_come_again(project, tmp_path):
    project.release_of(tmp_path, 2, form=NONSENSE)
    house = house_of(project, Keyring(None))
    for seat in house.door.room.live.seats:
        seat.here = type("Mad", (), {"answers": lambda self, rows: [(math.nan, None)] * len(rows)})()
    status, headers, body = asked(house, [RECORD])
    assert (status, headers[b"retry-after"], json.loads(body)["error"]["code"]) == (503, b"1", "NoAnswer")
    assert b"NaN" not in body


def test_a_last_good_that_takes_other_columns_cannot_stand_in(project, tmp_path):
    good = opened_bundle(tmp_path / "good", FORM)
    further = Column(name="other", type="float", nullable=False)
    signature = replace(good.bundle.signature, inputs=(*good.bundle.signature.inputs, further))
    other = Opened(bundle=replace(good.bundle, signature=signature), path=good.path)
    project.release_of(tmp_path, 2, last_good=other)
    house = house_of(project, Keyring(None))
    assert [seat.tier for seat in house.door.room.live.seats] == ["champion", "baseline"]
    assert any("cannot stand in for them" in line for line in project.said)


def test_a_fault_of_ours_has_an_id_and_tells_nothing(project, caplog):
    house = house_of(project, Keyring(None))
    house.door.room.live.seats[0].here = type("Broken", (), {"answers": lambda self, rows: 1 / 0})()
    status, headers, body = asked(house, [RECORD])
    error = json.loads(body)["error"]
    assert (status, error["code"], error["id"].encode()) == (500, "Fault", headers[b"interlock-prediction-id"])
    assert "red" not in body.decode()
    assert error["id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text
