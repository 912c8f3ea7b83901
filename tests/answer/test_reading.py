"""What a record may look like, and what a person is told about one that may not."""

import base64
import json
from datetime import date, datetime

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.answer.reading import Reader, bad_field, malformed
from interlock.data.casting import convert
from interlock.errors import DataRefused
from interlock.records import Column

COLUMNS = (
    Column(name="x", type="float", nullable=False),
    Column(name="n", type="int", nullable=True),
    Column(name="colour", type="str", nullable=False),
    Column(name="ok?", type="bool", nullable=True),
    Column(name="from", type="date", nullable=True),
    Column(name="a b", type="datetime", nullable=True),
    Column(name="raw", type="bytes", nullable=True),
)
READER = Reader(COLUMNS)
GOOD = {
    "x": 1.5,
    "n": 3,
    "colour": "red",
    "ok?": True,
    "from": "2026-11-21",
    "a b": "2026-11-21T02:30:52Z",
    "raw": "AAE=",
}


def said(body, read=READER.one):
    with pytest.raises(DataRefused) as caught:
        read(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value


def changed(**values):
    return {**GOOD, **{name.replace("_", " ") if name == "a_b" else name: value for name, value in values.items()}}


def test_a_record_becomes_a_row_in_the_order_of_the_columns():
    shuffled = dict(reversed(GOOD.items()))
    expected = (1.5, 3, "red", True, date(2026, 11, 21), datetime.fromisoformat("2026-11-21T02:30:52"), b"\0\1")
    assert READER.one(json.dumps(shuffled).encode()) == expected


def test_null_is_missing_where_the_signature_allows_it():
    row = READER.one(json.dumps({**dict.fromkeys(GOOD), "x": 1, "colour": "red"}).encode())
    assert row == (1.0, None, "red", None, None, None, None)
    assert type(row[0]) is float


def test_further_members_are_left_alone():
    assert READER.one(json.dumps({**GOOD, "id": {"deep": [1, {"x": 2}]}}).encode())[0] == 1.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"x": None}, "Field 'x' is null, and no row of training was."),
        ({"x": "1.5"}, "Field 'x' is not a number."),
        ({"x": True}, "Field 'x' is not a number."),
        ({"n": 3.5}, "Field 'n' is not a whole number."),
        ({"n": 2**63}, "Field 'n' is not a whole number."),
        ({"n": 1e300}, "Field 'n' is not a whole number."),
        ({"n": [1]}, "Field 'n' is not a whole number."),
        ({"colour": 3}, "Field 'colour' is not text."),
        ({"colour": ""}, "Field 'colour' is empty, and no row of training was."),
        ({"colour": None}, "Field 'colour' is null, and no row of training was."),
        ({"ok?": 1}, "Field 'ok?' is not true or false."),
        ({"from": "21.11.2026"}, "Field 'from' is not a date like 2026-11-21."),
        ({"from": "2026-02-30"}, "Field 'from' is not a date like 2026-11-21."),
        ({"a_b": "yesterday"}, "Field 'a b' is not a date and time like 2026-11-21T02:30:52."),
        ({"raw": "*"}, "Field 'raw' is not bytes."),
    ],
)
def test_a_bad_field_is_named_and_its_value_is_not(values, message):
    error = said(changed(**values))
    assert error.message == message
    assert error.next_step == "GET /openapi.json describes each field."
    assert error.facts["field"] == message.split("'")[1]
    assert not error.facts.get("malformed")


def test_a_missing_field_is_named():
    error = said({name: value for name, value in GOOD.items() if name != "n"})
    assert error.message == "Field 'n' is missing."


def test_of_many_records_the_number_is_told():
    body = json.dumps([GOOD, GOOD, changed(n="x")]).encode()
    assert said(body, READER.many).message == "Field 'n' of record 2 is not a whole number."
    body = json.dumps([GOOD, changed(n=0.5)]).encode()
    error = said(body, READER.many)
    assert (error.message, error.facts["row"]) == ("Field 'n' of record 1 is not a whole number.", 1)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"nonsense", b'{"x": NaN}', b'{"x": Infinity}', b'{"x": 01}', b'{"x": 1e999}', b"[1,]", b"\xff"),
        *(rb'{"x": "\ud800"}', b"[" * 100_000, b'{"x":' * 100_000, b"null", b"3", b'"text"', b"{}x"),
    ],
)
def test_what_is_no_json_is_malformed(body):
    error = said(body)
    assert error.facts.get("malformed") or error.facts.get("field")
    assert len(error.message) < 300


def test_a_name_that_is_there_twice_is_refused_wherever_it_is():
    once = json.dumps(GOOD)[1:-1]
    for extra in ('"x": 2', '"id": {"k": 1, "k": 2}', '"y": 1, "y": 1'):
        error = said(f"{{{once}, {extra}}}".encode())
        assert "is there twice in one object" in error.message
        assert error.facts["malformed"]
    assert READER.one(f'{{{once}, "id": ": {{\\"x\\": 1"}}'.encode())[0] == 1.5


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5), st.text(max_size=8) | st.integers() | st.lists(st.text(max_size=3)), max_size=4
    )
)
def test_texts_full_of_colons_and_quotes_are_no_names(extra):
    reader = Reader(COLUMNS[2:3])
    record = {**{name: value for name, value in extra.items() if name != "colour"}, "colour": ':"a":\\"b": {"x":1}'}
    assert reader.one(json.dumps(record).encode()) == (record["colour"],)


def test_arrays_are_read_in_the_order_of_the_columns():
    assert READER.listed(list(GOOD.values()))[:3] == (1.5, 3, "red")
    with pytest.raises(DataRefused, match="A record has 2 values, the model takes 7"):
        READER.listed([1, 2])
    with pytest.raises(DataRefused, match=r"Field 'n' of record 4 is not a whole number\."):
        READER.listed(["x" if name == "n" else value for name, value in GOOD.items()], None, 4)
    assert READER.listed(list(GOOD.values())[::-1], list(GOOD)[::-1])[0] == 1.5


# ---- the same as from a file -------------------------------------------------------------------------------------

TEXTS = st.sampled_from(
    ["2026-11-21", "2026-11-21T02:30:52", "2026-11-21 02:30:52", "2026-11-21T02:30", "2026-11-21T02:30:52.123456", "",
     "2026-11-21T02:30:52Z", "2026-11-21T02:30:52+01:00", "2026-11-21T02:30:52-0530", "2026-11-21T02:30+02:00",
     "2026-13-01", "2026-11-21T25:00:00", "21.11.2026", "now", "2026-11-21T02", "20261121", "2026-W47-6"]
)  # fmt: skip


@settings(deadline=None)
@given(TEXTS)
def test_times_are_read_as_those_of_a_file(text):
    typed, bad = convert(pl.Series([text]), "datetime")
    reader = Reader([Column(name="t", type="datetime", nullable=True)])
    body = json.dumps({"t": text}).encode()
    if bad is not None:
        said(body, reader.one)
    else:
        assert reader.one(body) == (typed[0],)


@settings(deadline=None)
@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**54), 2**54).map(float))
def test_whole_numbers_are_read_as_those_of_a_file(number):
    typed, bad = convert(
        pl.Series([number], dtype=pl.Float64 if isinstance(number, float) else None, strict=False), "int"
    )
    reader = Reader([Column(name="n", type="int", nullable=False)])
    body = msgspec.json.encode({"n": number})
    if bad is not None or not -(2**63) <= number < 2**63:
        said(body, reader.one)
    else:
        assert reader.one(body) == (typed[0],)
        assert type(reader.one(body)[0]) is int


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+03:04", "9999-12-31T23:59:59-00:01"])
def test_a_time_that_no_calendar_has_in_utc_is_refused(text):
    error = said({"t": text}, Reader([Column(name="t", type="datetime", nullable=True)]).one)
    assert error.message == "Field 't' is not a date and time like 2026-11-21T02:30:52."


def test_a_number_of_thousands_of_digits_in_a_member_left_alone_is_refused():
    reader = Reader([Column(name="x", type="float", nullable=False)])
    error = said(b'{"x": 1, "y": {"z": ' + b"1" * 5_000 + b"}}", reader.one)
    assert error.message == "The body holds a number that is too long."


def test_bytes_are_base64():
    reader = Reader([Column(name="image", type="bytes", nullable=False)])
    assert reader.one(json.dumps({"image": base64.b64encode(b"\x89PNG").decode()}).encode()) == (b"\x89PNG",)


def test_errors_have_their_words():
    assert malformed("No.").facts["malformed"] is True
    assert bad_field("x", "is bad", 3).message == "Field 'x' of record 3 is bad."


FEW = Reader([*COLUMNS[:3], Column(name="city", type="str", nullable=True)])
NUMBERS = st.sampled_from([3, -1, 3.0, 3.5, 2**63 - 1, 2**63, 1e300, None, 0])


def told(read):
    try:
        return repr(read())
    except DataRefused as refusal:
        return refusal.message, refusal.facts


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.just(1.5), NUMBERS, st.sampled_from(["red", "blue", ""]), st.sampled_from(["a", "b", "", None])),
        max_size=5,
    )
)
def test_many_records_are_read_as_each_is(values):
    records = [FEW.record(*each) for each in values]
    assert told(lambda: FEW.rows(records)) == told(lambda: [FEW.row(each, n) for n, each in enumerate(records)])


@pytest.mark.parametrize("city", ["a", "", None])
def test_a_record_of_texts_is_read_as_any(city):
    columns = [Column(name="x", type="float", nullable=False), Column(name="city", type="str", nullable=True)]
    reader = Reader(columns)
    assert reader.row(reader.record(1.5, city)) == (1.5, city or None)
    strict = Reader([columns[0], Column(name="city", type="str", nullable=False)])
    if city == "":
        with pytest.raises(DataRefused, match="is empty"):
            strict.row(strict.record(1.5, city))
