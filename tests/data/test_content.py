import polars as pl

from interlock.data.content import rows_digest


def of(values: list[bytes | None]) -> str:
    return rows_digest(pl.LazyFrame({"x": pl.Series(values, dtype=pl.Binary)}))


def test_bytes_are_part_of_the_name_of_rows() -> None:
    assert of([b"a\xff", b"b", None]) == of([b"a\xff", b"b", None])
    others = [[b"a", b"\xffb", None], [b"a\xff", b"b", b""], [b"b", b"a\xff", None], [b"a\xff", b"c", None]]
    assert len({of([b"a\xff", b"b", None]), *map(of, others)}) == 5


def test_bytes_are_not_text() -> None:
    assert of([b"a"]) != rows_digest(pl.LazyFrame({"x": ["a"]}))
