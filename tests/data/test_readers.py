import csv
import gzip
import io
import json
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from interlock.data.delimited import first_ragged
from interlock.data.readers import Reading, Unreadable, read_file
from interlock.errors import DataRefused
from interlock.records import Column

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def read(tmp_path: Path, content: str | bytes, name: str = "a.csv", **more: Any) -> Reading:
    path = tmp_path / "file"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_file(path, name=name, **more)


def known(**types: str) -> list[Column]:
    return [Column(name=name, type=kind, nullable=True) for name, kind in types.items()]  # type: ignore[arg-type]


def values(reading: Reading, column: str) -> list[Any]:
    return reading.frame[column].to_list()


# ---- CSV


def test_first_file_is_typed_over_all_rows(tmp_path: Path) -> None:
    reading = read(tmp_path, "i,f,b,d,z,s\n1,2.5,true,2024-01-02,007,x\n,,,,,\n-3,4,False,2024-12-31,1,\n")
    assert dict(reading.frame.schema) == {
        "_row": pl.Int64(), "i": pl.Int64(), "f": pl.Float64(), "b": pl.Boolean(), "d": pl.Date(), "z": pl.String(),
        "s": pl.String(),
    }  # fmt: skip
    assert values(reading, "_row") == [1, 3]
    assert values(reading, "z") == ["007", "1"]
    assert values(reading, "d") == [date(2024, 1, 2), date(2024, 12, 31)]
    assert reading.notes == ("1 empty rows were skipped",)
    assert reading.bad.is_empty()


def test_declared_types_win(tmp_path: Path) -> None:
    reading = read(tmp_path, "a,b\n1,2\n", types={"a": "str", "b": "float"})
    assert reading.frame.row(0) == (1, "1", 2.0)


def test_names_with_quotes_and_delimiters_in_them(tmp_path: Path) -> None:
    names = ['a"b', '"', "c,d", "e\nf", '""']
    head = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    reading = read(tmp_path, f"{head}\n1,2,3,4,5\n")
    assert reading.frame.columns == ["_row", *names]
    assert reading.frame.row(0) == (1, 1, 2, 3, 4, 5)
    assert read(tmp_path, f"{head}\n1,2,3,4,5\n", columns=known(**dict.fromkeys(names, "int"))).frame.height == 1


@pytest.mark.parametrize("header", ["id,y,Y", "ID,x,id"])
def test_names_that_differ_in_case_only(tmp_path: Path, header: str) -> None:
    with pytest.raises(Unreadable, match="differ in case only"):
        read(tmp_path, f"{header}\n1,2,3\n")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    lines = [["a", "b b", "c"], ["1", "x,y;z|w\tv", "2.5"], ["2", 'say "hi"\nthere', "3"]]
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(lines)
    reading = read(tmp_path, out.getvalue())
    assert reading.columns == ("a", "b b", "c")
    assert values(reading, "b b") == [lines[1][1], lines[2][1]]


def test_a_known_layout_helps_to_find_the_delimiter(tmp_path: Path) -> None:
    assert read(tmp_path, "a;b,c\n1;2\n", columns=known(**{"a": "int", "b,c": "int"})).columns == ("a", "b,c")
    assert read(tmp_path, "a|b\n1|2\n", delimiter=",").columns == ("a|b",)
    assert read(tmp_path, "a,b\tc\n1\t2\n", name="x.tsv").columns == ("a,b", "c")


def test_bom_crlf_and_gzip(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbfa,b\r\n1,"x\r\ny"\r\n2,z'
    for name, data in (("a.csv", content), ("a.csv.gz", gzip.compress(content))):
        reading = read(tmp_path, data, name=name, scratch=tmp_path)
        assert reading.columns == ("a", "b")
        assert values(reading, "b") == ["x\r\ny", "z"]


def test_header_only_is_no_rows(tmp_path: Path) -> None:
    for content in ("a,b\n", "a,b"):
        reading = read(tmp_path, content)
        assert (reading.rows, reading.columns) == (0, ("a", "b"))
        assert read(tmp_path, content, columns=known(a="int", b="str")).rows == 0


def test_bad_cells_are_told_by_row_and_column_without_their_value(tmp_path: Path) -> None:
    content = "a,b,c\n1,1.5,x\nsecret,2,y\n3,hidden,z\n"
    reading = read(tmp_path, content, columns=known(a="int", b="float", c="str"))
    assert reading.bad.rows() == [(2, "a", "is not a whole number"), (3, "b", "is not a number")]
    assert values(reading, "a") == [1, None, 3]
    assert "secret" not in str(reading.bad.rows())
    assert json.loads(reading.raw.row(0)[1]) == {"a": "secret", "b": "2", "c": "y"}


def test_missing_and_extra_columns_are_named(tmp_path: Path) -> None:
    reading = read(tmp_path, "b,new\n1,5\n", columns=known(a="int", b="int"))
    assert (reading.missing, reading.extra) == (("a",), ("new",))
    assert values(reading, "new") == [5]


def test_fractions_widen_an_int_column_unless_it_was_declared(tmp_path: Path) -> None:
    reading = read(tmp_path, "a\n1\n2.5\nx\n4.0\n", columns=known(a="int"))
    assert reading.widened == ("a",)
    assert values(reading, "a") == [1.0, 2.5, None, 4.0]
    assert reading.bad.rows() == [(3, "a", "is not a number")]
    declared = read(tmp_path, "a\n1\n2.5\n4.0\n", columns=known(a="int"), types={"a": "int"})
    assert (declared.widened, values(declared, "a")) == ((), [1, None, 4])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n\n", "no header"),
        (b"\na,b\n1,2\n", "begins with an empty line"),
        (b"a,a\n1,2\n", "2 times"),
        (b"a,,c\n1,2,3\n", "Column 2 .* no name"),
        (b"a,b,c\n1,2,3\n4,5\n", "Row 2 .* 2 fields; its header has 3"),
        (b"a,b,c\n1,2,3\n4,5,6,7\n", "Row 2 .* 4 fields"),
        (b'a,b\n"x\ny",2\n\n1\n', "Row 3 .* 1 fields"),
        (b'a,b\n1,"x\n2,y\n', "malformed|fields"),
        (b"a,b\r1,2\r3,4", "carriage returns"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8|not text"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(Unreadable, match=words) as caught:
        read(tmp_path, content)
    assert caught.value.next_step


def test_reserved_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="_row"):
        read(tmp_path, "a,_row\n1,2\n")


def test_ragged_rows_are_found_across_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlock.data.delimited._SPAN_BYTES", 7)
    path = tmp_path / "x"
    path.write_bytes(b"a,b\n" + b'"q,\n""q",2\n' * 50 + b"1,\n" + b"only\n")
    assert first_ragged(path, ",", 2) == (52, 1)
    path.write_bytes(b"a,b\n" + b'"q,\n""q",2\n' * 50 + b"1,")
    assert first_ragged(path, ",", 2) is None


cell = st.one_of(
    st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=6), st.integers().map(str)
)


@same_folder
@given(rows=st.lists(st.tuples(cell, cell, cell), max_size=12), delimiter=st.sampled_from(",;\t|"))
def test_csv_round_trip(tmp_path: Path, rows: list[tuple[str | None, ...]], delimiter: str) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "b", "c"])
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    wanted = [tuple(value or None for value in row) for row in rows if any(row)]
    for columns in (None, known(a="str", b="str", c="str")):
        types = {"a": "str", "b": "str", "c": "str"}
        reading = read(tmp_path, out.getvalue(), delimiter=delimiter, columns=columns, types=types)
        assert reading.frame.drop("_row").rows() == wanted
        assert reading.bad.is_empty()


@same_folder
@given(
    rows=st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
            st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
            st.one_of(st.none(), st.booleans()),
            st.one_of(st.none(), st.dates(min_value=date(1600, 1, 1))),
        ),
        min_size=1,
        max_size=12,
    ),
    junk=st.booleans(),
)
def test_fast_and_careful_paths_agree(tmp_path: Path, rows: list[tuple[Any, ...]], junk: bool) -> None:
    frame = pl.DataFrame(rows, schema={"i": pl.Int64, "f": pl.Float64, "b": pl.Boolean, "d": pl.Date}, orient="row")
    lines = frame.write_csv() + ("x,1.0,true,2024-01-01\n" if junk else "")  # junk forces the careful path
    reading = read(tmp_path, lines, delimiter=",", columns=known(i="int", f="float", b="bool", d="date"))
    wanted = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    assert_frame_equal(reading.frame.drop("_row").head(wanted.height), wanted)
    assert reading.bad.height == int(junk)


# ---- Parquet


def test_parquet_types_become_logical(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"i": [1, None], "f": [1.5, 2.5], "c": ["x", "y"], "n": [None, None]},
        schema={"i": pl.Int8, "f": pl.Float32, "c": pl.Categorical, "n": pl.Null},
    )
    path = tmp_path / "a"
    frame.write_parquet(path)
    reading = read_file(path, name="a.parquet")
    assert reading.frame.dtypes == [pl.Int64, pl.Int64, pl.Float64, pl.String, pl.String]
    assert reading.frame.rows() == [(1, 1, 1.5, "x", None), (2, None, 2.5, "y", None)]


def test_parquet_against_a_known_layout(tmp_path: Path) -> None:
    path = tmp_path / "a"
    pl.DataFrame(
        {"i": [1.0, 2.5], "s": [1, 2], "big": [2**64 - 1, 1]}, schema_overrides={"big": pl.UInt64}
    ).write_parquet(path)
    reading = read_file(path, name="a.parquet", columns=known(i="int", s="str", big="int"))
    assert reading.widened == ("i",)
    assert reading.notes == ("column 's' came as int and was read as text",)
    assert reading.bad.rows() == [(1, "big", "is not a whole number")]


def test_nested_parquet_is_refused_where_it_matters(tmp_path: Path) -> None:
    path = tmp_path / "a"
    pl.DataFrame({"i": [1], "deep": [[1, 2]]}).write_parquet(path)
    with pytest.raises(Unreadable, match="deep"):
        read_file(path, name="a.parquet")
    reading = read_file(path, name="a.parquet", columns=known(i="int"))
    assert reading.extra == ("deep",)
    assert "left out" in reading.notes[0]


@pytest.mark.parametrize("cut", [4, 40, -1])
def test_parquet_cut_short(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a"
    pl.DataFrame({"i": list(range(1000))}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(Unreadable, match="Parquet"):
        read_file(path, name="a.parquet")


# ---- JSON lines


def test_json_lines(tmp_path: Path) -> None:
    content = '{"a": 1, "s": "x", "f": 1, "b": true}\n\n{"a": 2, "f": 2.5, "s": "2024-01-02"}\n'
    for name, data in (("a.jsonl", content.encode()), ("a.ndjson.gz", gzip.compress(content.encode()))):
        reading = read(tmp_path, data, name=name, scratch=tmp_path)
        assert reading.frame.rows() == [(1, 1, "x", 1.0, True), (3, 2, "2024-01-02", 2.5, None)]


def test_json_is_strict(tmp_path: Path) -> None:
    lines = [
        '{"a": 1}', '{"a": NaN}', '{"a": 1, "a": 2}', "[1]", "{", '{"a": 1e999}', '{"a": {"b": 1}}', '{"a": Infinity}',
        '{"a": "5:\\":6"}', '{"a"\t: 1, "a" :2}',
    ]  # fmt: skip
    reading = read(tmp_path, "\n".join(lines), name="a.jsonl")
    reasons = {row: reason for row, _, reason in reading.bad.rows()}
    assert set(reasons) == {2, 3, 4, 5, 6, 7, 8, 10}
    assert "twice" in reasons[3]
    assert "twice" in reasons[10]
    assert "NaN" in reasons[2]
    assert "object" in reasons[4]
    assert "list" in reasons[7]
    assert reading.rows == len(lines)
    assert set(reading.raw["row"]) == set(reasons)


def test_json_that_is_no_lines(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="array"):
        read(tmp_path, '[\n{"a": 1}\n]', name="a.json")
    with pytest.raises(Unreadable, match="no JSON object"):
        read(tmp_path, "hello\n", name="a.json")
    with pytest.raises(Unreadable, match="no name"):
        read(tmp_path, '{"": 1}\n', name="a.json")


def test_json_against_a_known_layout(tmp_path: Path) -> None:
    content = '{"a": 1, "b": "2024-01-02"}\n{"a": "x", "b": 5}\n{"a": 99999999999999999999, "b": null}\n'
    reading = read(tmp_path, content, name="a.jsonl", columns=known(a="int", b="date"))
    assert values(reading, "a") == [1, None, None]
    assert values(reading, "b") == [date(2024, 1, 2), None, None]
    assert reading.bad["row"].to_list() == [2, 3, 2]


scalar = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.text(st.characters(codec="utf-8"), max_size=5), st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4).filter(
    lambda key: key.strip() and key[0] != "_" and key == key.casefold() and "\0" not in key
)


@same_folder
@given(
    st.lists(st.dictionaries(keys, scalar, max_size=4), min_size=1, max_size=8).filter(any),
    st.sampled_from([(",", ":"), (", ", ": ")]),
)
def test_json_objects_without_doubled_keys_are_never_bad(
    tmp_path: Path, records: list[dict[str, Any]], separators: tuple[str, str]
) -> None:
    content = "\n".join(json.dumps(record, separators=separators, ensure_ascii=False) for record in records)
    reading = read(tmp_path, content, name="a.jsonl")
    assert reading.bad.is_empty()
    assert reading.frame.height == len(records)


def test_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="suffix"):
        read(tmp_path, "a", name="a.xlsx")
