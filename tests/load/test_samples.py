"""Made records: they satisfy the signature, look like the training rows, and copy nothing of a person."""

import io
import string
from datetime import date, datetime

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from interlock.answer.reading import Reader
from interlock.data.profile import profile
from interlock.data.signature import check, drift_notes, infer
from interlock.load.samples import ImageKind, Samples, Source
from interlock.records import Column, Signature

SCHEMA = {
    "whole": pl.Int64,
    "part": pl.Float64,
    "name": pl.String,
    "flag": pl.Boolean,
    "day": pl.Date,
    "moment": pl.Datetime("us"),
}
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
ROW = st.fixed_dictionaries(
    {
        "whole": st.none() | st.integers(min_value=-(2**40), max_value=2**40),
        "part": st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32),
        "name": st.none() | TEXT,
        "flag": st.none() | st.booleans(),
        "day": st.none() | st.dates(min_value=date(1800, 1, 1), max_value=date(2200, 1, 1)),
        "moment": st.none() | st.datetimes(datetime.fromisoformat("1800-01-01"), datetime.fromisoformat("2200-01-01")),
    }
)


def samples(source: Source, count: int, seed: int) -> list[dict]:
    return Samples(source).made(count, seed)


def source_of(frame: pl.DataFrame, **given: object) -> Source:
    return Source(Signature(inputs=infer(frame)), profile(frame), **given)


def back(records: list[dict], columns: tuple[Column, ...]) -> pl.DataFrame:
    """The records as a server reads them."""
    reader = Reader(columns)
    rows = [reader.one(msgspec.json.encode(record)) for record in records]
    schema = {column.name: SCHEMA.get(column.name, pl.String) for column in columns}
    return pl.DataFrame(rows, schema=schema, orient="row")


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=40), st.integers(min_value=0, max_value=2**31))
def test_records_satisfy_the_signature_and_stay_within_what_was_seen(rows: list[dict], seed: int) -> None:
    frame = pl.DataFrame(rows, schema=SCHEMA)
    source = source_of(frame)
    made = back(samples(source, 20, seed), source.signature.inputs)
    assert check(made, source.signature.inputs).height == 0
    assert drift_notes(made, source.signature.inputs) == []


def test_the_same_seed_makes_the_same_records() -> None:
    frame = pl.DataFrame({"part": [0.5, 1.5, 9.0], "name": ["a", "b", "b"]})
    source = source_of(frame)
    assert samples(source, 50, 3) == samples(source, 50, 3)
    assert samples(source, 50, 3) != samples(source, 50, 4)


def test_categories_and_gaps_come_as_often_as_they_did() -> None:
    frame = pl.DataFrame({"name": ["a"] * 600 + ["b"] * 200 + [None] * 200, "part": [1.0, 2.0] * 500})
    made = samples(source_of(frame), 4_000, 1)
    share = {value: sum(row["name"] == value for row in made) / 4_000 for value in ("a", "b", None)}
    assert share == pytest.approx({"a": 0.6, "b": 0.2, None: 0.2}, abs=0.03)
    assert {row["part"] for row in made} == {1.0, 2.0}


def test_numbers_have_the_distribution_of_the_training_rows() -> None:
    values = [float(place**3) for place in range(1_000)]
    made = sorted(row["part"] for row in samples(source_of(pl.DataFrame({"part": values})), 4_000, 2))
    for quantile in (0.1, 0.5, 0.9):
        assert made[int(4_000 * quantile)] == pytest.approx(values[int(1_000 * quantile)], rel=0.15)


def test_text_without_categories_keeps_its_shape_and_none_of_its_words() -> None:
    names = [f"{first}{last}-{place:03d}é" for place in range(50) for first in "ABCDE" for last in "uvwxy"][:600]
    frame = pl.DataFrame({"name": names})
    source = source_of(frame)
    assert source.signature.inputs[0].categories is None
    made = [row["name"] for row in samples(source, 500, 5)]
    assert not set(made) & set(names)
    for text in made:
        assert text[0] in string.ascii_uppercase
        assert text[1] in string.ascii_lowercase
        assert text[2] == "-"
        assert text[3:6].isdigit()
        assert text[6:] == "é"


def test_text_that_cannot_be_made_otherwise_is_not_copied_either() -> None:
    seen = [str(place) for place in range(10)] + ["?!"] + [f"{place:04d}" for place in range(300)]
    source = source_of(pl.DataFrame({"name": seen}))
    kept = set(source.reference.column("name").categories)
    assert not {row["name"] for row in samples(source, 300, 5)} & kept


def test_without_a_profile_the_signature_is_enough() -> None:
    columns = (
        Column(name="part", type="float", nullable=False, low=3.0, high=4.0),
        Column(name="name", type="str", nullable=False, categories=("x", "y")),
        Column(name="other", type="str", nullable=False),
    )
    made = samples(Source(Signature(inputs=columns), None), 100, 0)
    assert all(3.0 <= row["part"] <= 4.0 and row["name"] in "xy" and row["other"] for row in made)


def test_images_are_noise_of_the_kind_that_was_seen() -> None:
    frame = pl.DataFrame({"image": [b"one", b"three"]})
    kinds = [ImageKind("PNG", 8, 5, "L"), ImageKind("JPEG", 7, 9, "RGB")]
    made = [row["image"] for row in samples(source_of(frame, images={"image": kinds}), 20, 0)]
    seen = set()
    for content in made:
        with Image.open(io.BytesIO(content)) as image:
            seen.add(ImageKind(image.format or "", image.width, image.height, image.mode))
    assert seen == set(kinds)
    assert len(set(made)) == 20


def test_bytes_that_are_no_image_have_the_sizes_that_were_seen() -> None:
    frame = pl.DataFrame({"image": [b"x" * 10, b"y" * 30]})
    assert {len(row["image"]) for row in samples(source_of(frame), 50, 0)} == {10, 30}


def test_a_forecast_is_asked_for_days_after_training() -> None:
    frame = pl.DataFrame({"day": [date(2020, 1, 1), date(2020, 6, 1)]})
    made = [date.fromisoformat(row["day"]) for row in samples(source_of(frame, ahead={"day": 30 * 86_400.0}), 200, 0)]
    assert min(made) > date(2020, 6, 1)
    assert max(made) <= date(2020, 7, 1)
