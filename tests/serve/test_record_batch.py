"""What is logged as columns becomes the very rows that it would have become one by one."""

import asyncio
import io
from datetime import date, datetime

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.answer.predict import Answered, Live, Seat
from interlock.data.casting import DTYPES
from interlock.model.framed import Framed, FramedAnswers
from interlock.records import Column, Signature
from interlock.serve import journal as module
from interlock.serve.clerk import as_number, as_text, frame_of
from interlock.serve.door import Served
from interlock.serve.journal import Journal, masked
from interlock.serve.record_batch import answer_columns, is_plain, json_rows, packed, unpacked
from interlock.serve.segment import adopt, blocks
from interlock.serving import Log
from interlock.testing.clock import ManualClock

encode = msgspec.json.encode
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ['",', '","', "null", "\x7f\x00\\"]
)
VALUES = {
    "bool": st.booleans(),
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "str": TEXTS,
    "date": st.dates(),
    "datetime": st.datetimes(),
    "bytes": st.binary(max_size=6),
}
COLUMNS = tuple(Column(name=f'a "{kind}"', type=kind, nullable=True) for kind in VALUES)
NAMES = [column.name for column in COLUMNS]
SCHEMA = {column.name: DTYPES[column.type] for column in COLUMNS}
ROWS = st.lists(st.tuples(*(st.none() | values for values in VALUES.values())), min_size=1, max_size=12)
LOGS = st.builds(
    Log,
    flush=st.just("1h"),
    sample=st.sampled_from([1.0, 0.5]),
    keep=st.sampled_from(["all", "none"]) | st.sets(st.sampled_from(NAMES)).map(tuple),
    redact=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["drop", "hash"])),
)
SHARES = st.floats(0.0, 1.0)
ANSWERS = st.sampled_from(["str", "int", "bool", "float"]).flatmap(
    lambda kind: st.integers(0, 3).flatmap(
        lambda width: st.lists(st.tuples(VALUES[kind], *[SHARES] * width), min_size=12, max_size=12).map(
            lambda rows: pl.DataFrame(
                rows,
                schema={
                    "prediction": DTYPES[kind],
                    **{f"probability_{place}": pl.Float64 for place in range(width)},
                },
                orient="row",
            )
        )
    )
)


def frame(rows):
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


@settings(max_examples=50, deadline=None)
@given(rows=ROWS)
def test_rows_are_told_to_the_letter_as_msgspec_tells_them(rows):
    found = json_rows(unpacked(bytes(packed(frame(rows)))))
    assert found.to_list() == [encode(dict(zip(NAMES, row, strict=True))).decode() for row in rows]


ORDINARY = st.floats(1e-3, 1e15, exclude_max=True) | st.just(0.0)


@settings(max_examples=100, deadline=None)
@given(numbers=st.lists(st.none() | ORDINARY | ORDINARY.map(lambda each: -each), min_size=1, max_size=50))
def test_ordinary_numbers_are_told_to_the_letter_as_msgspec_tells_them(numbers):
    assert json_rows(pl.DataFrame({"x": pl.Series(numbers, dtype=pl.Float64)})).to_list() == [
        encode({"x": number}).decode() for number in numbers
    ]


def test_so_are_very_many_numbers_and_those_at_the_edges():
    source = np.random.default_rng(7)
    numbers = np.exp(source.uniform(np.log(1e-3), np.log(1e15), 50_000))
    powers = 10.0 ** np.arange(-3, 16)
    edges = np.concatenate(
        [powers, np.nextafter(powers, 0), np.nextafter(powers, np.inf), [5e-324, 1e308, 1e16, 2.0**53]]
    )
    for each in (numbers, np.round(numbers, 4), *edges.reshape(-1, 1)):
        found = json_rows(pl.DataFrame({"x": each})).to_list()
        assert found == [encode({"x": number}).decode() for number in each.tolist()]


def test_every_character_is_told_as_msgspec_tells_it():
    texts = [chr(code) for code in range(0x11000) if not 0xD800 <= code < 0xE000]
    assert json_rows(pl.DataFrame({"x": texts})).to_list() == [encode({"x": text}).decode() for text in texts]
    for text in texts[:128]:
        assert json_rows(pl.DataFrame({"x": [text, None]})).to_list() == [encode({"x": text}).decode(), '{"x":null}']


@settings(max_examples=60, deadline=None)
@given(answers=ANSWERS)
def test_answers_are_told_as_one_by_one(answers):
    assert is_plain(answers)
    found = answer_columns(answers)
    values = answers["prediction"].to_list()
    assert found["prediction"].to_list() == [as_text(value) for value in values]
    assert found["value"].to_list() == [as_number(value) for value in values]
    shares = answers.drop("prediction").rows()
    assert found["probabilities"].to_list() == [list(row) or None for row in shares]


@pytest.mark.parametrize(
    "answers",
    [
        pl.DataFrame({"prediction": ["a"], "page": ["b"]}),
        pl.DataFrame({"prediction": [["a", "b"]]}),
        pl.DataFrame({"probability_0": [1.0], "prediction": ["a"]}),
    ],
)
def test_answers_of_other_kinds_are_not_plain(answers):
    assert not is_plain(answers)


def test_no_text_but_that_of_the_cells_is_packed():
    texts = pa.array(
        ["a text that is longer than twelve bytes", "another text that nobody asked about"], pa.string_view()
    )
    _, views, *held = texts.buffers()
    dragged = pa.Array.from_buffers(pa.string_view(), 1, [None, views.slice(0, 16), *held])
    frame = pl.DataFrame(pa.record_batch([dragged], names=["x"]))
    plain = io.BytesIO()
    frame.write_ipc_stream(plain)
    assert b"nobody" in plain.getvalue()  # so it would be with the views as they came
    assert b"nobody" not in bytes(packed(frame))


def test_columns_in_several_pieces_are_packed_whole():
    piece = pl.DataFrame({"x": [1, None], "c": ["a", None]})
    whole = pl.concat([piece, piece], rechunk=False)
    assert whole.n_chunks() == 2
    assert unpacked(bytes(packed(whole))).equals(whole)


@pytest.mark.parametrize("rows", [0, 1, 300, 5_000])
def test_few_and_many_come_back(rows):
    frame = pl.DataFrame(
        {"x": pl.Series(range(rows), dtype=pl.Float64), "c": pl.Series([None] * rows, dtype=pl.String)}
    )
    assert unpacked(bytes(packed(frame))).equals(frame)


# ---- through the journal -----------------------------------------------------------------------------------------


def logged(folder, log, *served):
    """The rows of the log, what was lost, and the bytes of its blocks."""
    journal = Journal(folder, log, ManualClock(), b"salt")
    for each in served:
        journal.append(each)
    journal.close()
    paths = adopt(folder)
    return *frame_of(paths), b"".join(block for path in paths for block in blocks(path)), journal


def served(rows, answers, name, generation=1):
    signature = Signature(inputs=COLUMNS)
    seat = Seat(tier="champion", model="c" * 64, signature=signature, check=lambda _: None)
    live = Live(generation, (seat,), COLUMNS)
    answered = Answered(answers, ["champion"] * len(answers))
    return Served("/batch", 200, None, rows, "champion", 0.002, answered, name, live)


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(ROWS, min_size=1, max_size=3), answers=ANSWERS, log=LOGS, mixed=st.booleans())
def test_a_table_is_logged_as_its_rows_are(tmp_path_factory, rows, answers, log, mixed):
    by_rows, by_columns = [], []
    for number, each in enumerate(rows):
        name, given = b"%026x" % number, answers[: len(each)]
        by_rows.append(served(each, list(FramedAnswers(given)), name, 1 + number // 2))
        table = served(Framed(frame(each)), FramedAnswers(given), name, 1 + number // 2)
        by_columns.append(by_rows[-1] if mixed and number == 1 else table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MANY", 1)
        expected, lost, _, first = logged(tmp_path_factory.mktemp("rows"), log, *by_rows)
        found, lost_too, content, second = logged(tmp_path_factory.mktemp("columns"), log, *by_columns)
    assert found.equals(expected)
    assert found.schema == expected.schema
    assert (lost, lost_too, first.problem, second.problem) == (0, 0, "", "")
    assert first.kept == second.kept == expected.height
    assert mixed or (b"probability" in content) == (expected.height > 0 and answers.width > 1)  # it went as columns


def many(count=300, **changes):
    row = (True, 1, 0.5, "a text that is nobody's business", date(2026, 1, 1), datetime(2026, 1, 1), b"bytes")  # noqa: DTZ001
    rows = Framed(frame([row] * count))
    return served(rows, FramedAnswers(pl.DataFrame({"prediction": ["yes"] * count})), **{"name": b"0" * 26, **changes})


def test_what_is_dropped_or_hidden_is_not_in_the_segment(tmp_path):
    secret = NAMES[3]
    for number, how in enumerate(("drop", "hash")):
        rows, _, content, _ = logged(tmp_path / str(number), Log(flush="1h", redact={secret: how}), many())
        assert b"business" not in content
        told = [msgspec.json.decode(each).get(secret) for each in rows["features"]]
        assert told == [masked("a text that is nobody's business", b"salt") if how == "hash" else None] * 300


def test_a_table_for_which_there_is_no_room_is_counted_row_by_row(tmp_path):
    rows, lost, _, journal = logged(tmp_path, Log(flush="1h", memory_mb=0.001), many(), many(), many(400))
    assert (rows.height, lost, journal.lost) == (300, 700, 700)


def test_a_table_that_cannot_be_packed_is_counted_and_costs_no_answer(tmp_path, monkeypatch):
    def fails(frame):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(module, "packed", fails)
        rows, lost, _, journal = logged(tmp_path, Log(flush="1h"), many())
    assert (rows.height, lost, journal.problem) == (0, 300, "a record cannot be packed (MemoryError)")


def test_a_table_waits_for_the_disk_like_any_other(tmp_path):
    async def main():
        journal = Journal(tmp_path, Log(flush="1h", durable=True), ManualClock())
        journal.open(asyncio.get_running_loop())
        journal.append(many())
        assert await journal.settled(b"0" * 26)
        found = frame_of([*tmp_path.iterdir()])[0]
        journal.close()
        return found

    assert asyncio.run(asyncio.wait_for(main(), 30)).height == 300


def test_tables_of_several_models_in_a_row_are_told_apart(tmp_path, monkeypatch):
    numbers = FramedAnswers(pl.DataFrame({"prediction": [1.5, 2.5] * 150}))
    shares = FramedAnswers(pl.DataFrame({"prediction": ["no"] * 300, "probability_0": [0.75] * 300}))
    rows = Framed(frame([(None,) * len(NAMES)] * 300))
    tables = [
        many(),
        served(rows, numbers, b"1" * 26, 2),
        served(rows, shares, b"2" * 26, 2),
        served(rows, shares, b"3" * 26, 3),
    ]
    found, _, _, _ = logged(tmp_path / "columns", Log(flush="1h"), *tables)
    logged(tmp_path / "answers", Log(flush="1h", keep="none"), *tables)
    both = frame_of([*adopt(tmp_path / "columns"), *adopt(tmp_path / "answers")])[0]
    monkeypatch.setattr(module, "_MANY", 10**9)
    expected, _, _, _ = logged(tmp_path / "rows", Log(flush="1h"), *tables)
    assert found.equals(expected)
    assert both.equals(pl.concat([expected, expected.with_columns(features=pl.lit(None, dtype=pl.String))]))
    assert found["release"].to_list() == [1] * 300 + [2] * 600 + [3] * 300


def test_few_and_odd_answers_are_logged_by_rows(tmp_path):
    few = many(3)
    pages = pl.DataFrame({"prediction": ["yes"] * 300, "page": ["p"] * 300})
    odd = served(Framed(frame([(None,) * len(NAMES)] * 300)), FramedAnswers(pages), b"1" * 26)
    mixed = many(name=b"2" * 26)
    mixed.answered.tiers[7] = "last-good"
    rows, lost, _, _ = logged(tmp_path, Log(flush="1h"), few, odd, mixed)
    assert (rows.height, lost) == (603, 0)
    assert rows["details"].to_list() == [None] * 3 + ['{"page":"p"}'] * 300 + [None] * 300
    assert rows["tier"].to_list().index("last-good") == 310
