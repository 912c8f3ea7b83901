"""Outcomes at the door: strictly read, once, and only for those who may."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from interlock.errors import DataRefused
from interlock.records import Output
from interlock.serve.app import App, Intake
from interlock.serve.feedback import MOST_TOLD, Entry, Feedback, entries_of, outcome_of
from interlock.serve.keys import Keyring, new_key
from interlock.serve.outcomes import Outcomes
from serve.conftest import house_of

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
LABEL = Output(kind="label", type="str", classes=("no", "yes"))


@pytest.fixture
def house(project, tmp_path):
    house, outcomes = _opened(project, tmp_path, Keyring(None))
    yield house
    outcomes.close()


def _opened(project, folder, keyring):
    house = house_of(project, keyring)
    outcomes = Outcomes(folder / "outcomes")
    feedback = Feedback(outcomes, project.clock, output=lambda: LABEL, name=house.door.name, most=50)
    house.app = App(house.door, keyring, {}, max_body=10_000, intakes={"/feedback": Intake(feedback.reply, "feedback")})
    return house, outcomes


def told(house, body, **more):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, found = asyncio.run(house.ask("/feedback", raw, **more))
    return status, json.loads(found)


def test_it_counts_what_is_new_repeated_and_refused(house):
    body = {"outcomes": [{"id": "a", "outcome": "yes"}, {"id": "a", "outcome": "yes"}, {"id": "b", "outcome": 3}]}
    status, found = told(house, body)
    assert (status, found["accepted"], found["repeated"], found["refused"]) == (200, 1, 1, 1)
    assert found["refusals"] == [{"entry": 2, "message": "The outcome is not of the type that the model answers with."}]
    assert told(house, [{"id": "a", "outcome": "yes"}]) == (200, {"accepted": 0, "repeated": 1, "refused": 0})


def test_another_outcome_is_a_correction(house):
    assert told(house, [{"id": "a", "outcome": "yes"}])[1]["accepted"] == 1
    assert told(house, [{"id": "a", "outcome": "no"}])[1]["accepted"] == 1
    back = {"id": "a", "outcome": "yes", "at": "2026-01-01T00:00:00Z"}
    assert told(house, [back])[1]["accepted"] == 1
    assert told(house, [{**back, "at": "2026-01-01T01:00:00+01:00"}])[1]["repeated"] == 1


def test_a_key_is_the_same_in_any_order(house):
    assert told(house, [{"key": {"a": 1, "b": "x"}, "outcome": "yes"}])[1]["accepted"] == 1
    assert told(house, [{"key": {"b": "x", "a": 1}, "outcome": "yes"}])[1]["repeated"] == 1
    assert told(house, [{"key": {"a": "1", "b": "x"}, "outcome": "yes"}])[1]["accepted"] == 1


def test_where_all_are_refused_it_says_so(house):
    status, found = told(house, [{"id": "a", "outcome": None}] * 30)
    assert (status, found["refused"], len(found["refusals"])) == (422, 30, MOST_TOLD)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"3", 400),
        (b'{"outcomes": [], "more": 1}', 400),
        (b'[{"id": "a", "id": "b", "outcome": "yes"}]', 400),
        (b'[{"id": "a", "outcome": {"b": 1, "b": 2}}]', 400),
        (b'[{"id": "a", "outcome": NaN}]', 400),
        (b'[{"id": "a", "outcome": 1e999}]', 400),
        (b'[{"id": "", "outcome": "yes"}]', 400),
        (b'[{"id": "a"}]', 400),
        (json.dumps([{"id": "a", "outcome": "yes"}] * 51).encode(), 413),
        (b'[{"outcome": "yes"}]', 422),
        (b'[{"id": "a", "key": {"b": 1}, "outcome": "yes"}]', 422),
        (b'[{"key": {"a": null}, "outcome": "yes"}]', 400),
        (b"[]", 200),
    ],
)
def test_what_is_no_feedback_is_refused_and_never_a_fault(house, body, status):
    assert told(house, body)[0] == status


def test_it_is_for_those_who_may(project, tmp_path):
    text, key = new_key("shop", ("feedback",))
    other, asks = new_key("asks", ("predict",))
    house, outcomes = _opened(project, tmp_path, Keyring((key, asks)))
    body = [{"id": "a", "outcome": "yes"}]
    assert told(house, body)[0] == 401
    assert told(house, body, headers={b"x-api-key": other.encode()})[0] == 403
    assert told(house, body, headers={b"x-api-key": text.encode()})[0] == 200
    assert told(house, body, method="GET", headers={b"x-api-key": text.encode()})[0] == 405
    assert asyncio.run(house.ask("/predict", b"{}", headers={b"x-api-key": text.encode()}))[0] == 403
    outcomes.close()


def test_many_at_once_share_transactions_and_each_is_told_its_own(house, monkeypatch):
    calls = []
    real = Outcomes.add

    def counted(self, outcomes):
        outcomes = list(outcomes)
        calls.append(len(outcomes))
        return real(self, outcomes)

    monkeypatch.setattr(Outcomes, "add", counted)

    async def main():
        bodies = [json.dumps([{"id": f"p{number // 2}", "outcome": "yes"}]).encode() for number in range(60)]
        return await asyncio.gather(*(house.ask("/feedback", body) for body in bodies))

    found = [json.loads(body) for _, _, body in asyncio.run(main())]
    assert sum(each["accepted"] for each in found) == 30
    assert sum(each["repeated"] for each in found) == 30
    assert sum(calls) == 60


def test_what_cannot_be_kept_is_not_acknowledged(project, tmp_path):
    house, outcomes = _opened(project, tmp_path, Keyring(None))
    assert told(house, [{"id": "b", "outcome": "yes"}])[0] == 200
    outcomes._database.execute("drop table waiting")
    status, found = told(house, [{"id": "a", "outcome": "yes"}])
    assert (status, found["error"]["code"]) == (503, "NotKept")
    outcomes.close()


@pytest.mark.parametrize(
    ("output", "good", "bad"),
    [
        (LABEL, ["yes", "a class that the model never saw"], ["", 1, True, None, ["yes"]]),
        (Output(kind="label", type="int", classes=(0, 1)), [0, 7], ["0", True, 1.0, 2**63]),
        (Output(kind="label", type="bool", classes=(False, True)), [True], [1, "true"]),
        (Output(kind="number", type="float"), [1, 2.5, -3.0], ["2.5", True, 10**30]),
        (Output(kind="ranking", type="str"), ["a", ["a", "b"]], [[], [1], 3]),
        (Output(kind="text", type="str"), ["words"], [3, ["words"]]),
        (None, [{"any": ["thing"]}, 3], [None]),
    ],
)
def test_outcomes_are_of_the_type_of_the_answers(output, good, bad):
    for each in good:
        outcome_of(Entry(id="a", outcome=each), output, NOW, "")
    if output is None:
        with pytest.raises(DataRefused, match="too large"):
            outcome_of(Entry(id="a", outcome=10**400), output, NOW, "")
    for each in bad:
        with pytest.raises(DataRefused, match="type"):
            outcome_of(Entry(id="a", outcome=each), output, NOW, "")


@pytest.mark.parametrize("at", ["yesterday", "2026-13-01", "2026-11-23T00:00:00Z", "0001-01-01T00:00:00+14:00", ""])
def test_a_time_is_a_time_and_not_to_come(at):
    with pytest.raises(DataRefused, match="'at'"):
        outcome_of(Entry(id="a", outcome="yes", at=at), LABEL, NOW, "")


def test_an_outcome_has_its_value_as_text_and_number():
    number = Output(kind="number", type="float")
    (entry,) = entries_of(b'{"outcomes": [{"id": "a", "outcome": 2.50, "at": "2026-11-21T08:00:00"}]}', 10)
    found = outcome_of(entry, number, NOW, "shop")
    assert (found.outcome, found.value, found.sender) == ("2.5", 2.5, "shop")
    assert found.received - found.at == 3_600_000_000
