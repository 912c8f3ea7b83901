"""Logical types and the frames' types: infer them from text, and convert columns telling which cells do not fit.

The seven logical types of :data:`~interlock.records.ColumnType` have one Polars type each (``DTYPES``). Text becomes a
type only when *every* value of the column is of it; numbers with leading zeros (``007``) and whole numbers beyond
64 bits stay text, because they are names and not amounts. Empty cells are nulls.
"""

from collections.abc import Mapping

import polars as pl

from interlock.records import ColumnType

DTYPES: Mapping[ColumnType, pl.DataType] = {
    "bool": pl.Boolean(),
    "int": pl.Int64(),
    "float": pl.Float64(),
    "str": pl.String(),
    "date": pl.Date(),
    "datetime": pl.Datetime("us"),
    "bytes": pl.Binary(),
}
NOT_A: Mapping[ColumnType, str] = {
    "bool": "is not true or false",
    "int": "is not a whole number",
    "float": "is not a number",
    "str": "is not text",
    "date": "is not a date like 2026-11-21",
    "datetime": "is not a date and time like 2026-11-21T02:30:52",
    "bytes": "is not bytes",
}
_EXACT = 2**53
_TRUE_FALSE = ("true", "false")
_INT = r"^-?(?:0|[1-9][0-9]*)$"
_NAME_LIKE = r"^[+-]?(?:0[0-9]|[0-9]{19,}$)"
_LONG_INT = r"^[+-]?[0-9]{19,}$"
_DATE = r"^\d{4}-\d{2}-\d{2}$"
_DATETIME = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})?$"
_ZONED = r"(?:Z|[+-]\d{2}:?\d{2})$"


def logical(dtype: pl.DataType) -> ColumnType | None:
    """The logical type of a Polars type; None for one that no column can have here (lists, structs)."""
    if dtype.is_integer():
        return "int"
    if dtype.is_float() or dtype.is_decimal():
        return "float"
    if dtype == pl.Boolean:
        return "bool"
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return "str"
    if dtype in (pl.Date, pl.Binary):
        return "date" if dtype == pl.Date else "bytes"
    return "datetime" if dtype == pl.Datetime else None


def empty_as_null(text: pl.Series) -> pl.Series:
    """Text with empty cells as nulls."""
    empty = text == ""
    return text.set(empty.fill_null(value=False), None) if empty.any() else text


def infer_text(text: pl.Series) -> ColumnType:
    """Logical type of a text column, over all of its values; ``str`` when it has none."""
    values = text.drop_nulls()
    if values.is_empty():
        return "str"
    kind = _fits(values.head(1_000))
    if kind == "str" or values.len() <= 1_000:
        return kind
    # what the first rows rule out need not be asked of all: a column with a fraction is float or text
    return _float_or_text(values) if kind == "float" else _fits(values)


def _fits(values: pl.Series) -> ColumnType:
    def every(pattern: str) -> bool:
        return bool(values.str.contains(pattern).all())

    if not bool(values.str.contains(r"^[0-9+\-.tTfFnNiI]").all()):
        return "str"
    if every(_INT):
        return "int" if values.cast(pl.Int64, strict=False).null_count() == 0 else "str"
    if every(_DATE):
        return "date" if _dates(values).null_count() == 0 else "str"
    if every(_DATETIME):
        return "datetime" if _datetimes(values).null_count() == 0 else "str"
    if bool(values.str.to_lowercase().is_in(_TRUE_FALSE).all()):
        return "bool"
    return _float_or_text(values)


def _float_or_text(values: pl.Series) -> ColumnType:
    if like_names(values):
        return "str"
    numbers = values.cast(pl.Float64, strict=False)
    return "float" if numbers.null_count() == 0 and numbers.is_finite().any() else "str"


def like_names(values: pl.Series) -> bool:
    """Say whether any text looks like a name made of digits: with a leading zero, or of nineteen digits and more."""
    return bool(values.str.contains(_NAME_LIKE).any())


def convert(series: pl.Series, to: ColumnType) -> tuple[pl.Series, pl.Series | None]:
    """Convert a column to a logical type.

    Returns the typed column, with null where a value does not fit, and the boolean mask of those cells (None when
    every value fits). Whole numbers stored as floats are ints; a time of midnight is a date; nothing is rounded.
    """
    have = logical(series.dtype)
    if have == "str" and to == "str":
        return empty_as_null(series.cast(pl.String)), None
    result = _from_text(series.cast(pl.String), to) if have == "str" else _from_typed(series, have, to)
    if result.null_count() == series.null_count():
        return result, None
    failed = result.is_null() & series.is_not_null()
    if have == "str":
        failed = failed & (series.cast(pl.String).str.strip_chars() != "").fill_null(value=False)
    return result, (failed if failed.any() else None)


def fractional(series: pl.Series, failed: pl.Series) -> bool:
    """Do cells that are no whole numbers hold finite numbers all the same? Then the column may be widened to float."""
    cells = series.filter(failed)
    if logical(series.dtype) == "float":
        return bool(cells.cast(pl.Float64).is_finite().any())
    if logical(series.dtype) != "str":
        return False
    text = cells.cast(pl.String).str.strip_chars()
    numbers = text.filter(~text.str.contains(_LONG_INT)).cast(pl.Float64, strict=False).drop_nulls()
    return bool(numbers.is_finite().any())


def _from_text(text: pl.Series, to: ColumnType) -> pl.Series:
    if to in ("date", "datetime"):  # the costly ones: look without the blanks only where there may be some
        parse = _dates if to == "date" else _datetimes
        result = parse(text)
        return result if result.null_count() == text.null_count() else parse(text.str.strip_chars())
    stripped = text.str.strip_chars()
    if to == "int":
        return _ints(stripped)
    if to == "bytes":
        return pl.Series(text.name, [None], dtype=pl.Binary).new_from_index(0, text.len())
    if to == "float":
        return stripped.cast(pl.Float64, strict=False)
    words = {"true": True, "1": True, "false": False, "0": False}
    return stripped.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)


def _ints(text: pl.Series) -> pl.Series:
    direct = text.cast(pl.Int64, strict=False)
    if direct.null_count() == text.null_count():
        return direct
    return direct.fill_null(_whole(text.cast(pl.Float64, strict=False)))


def _whole(numbers: pl.Series) -> pl.Series:
    """Floats that are whole and exact as ints; others null."""
    whole = (numbers.abs() <= _EXACT) & (numbers == numbers.round())
    return numbers.set(~whole.fill_null(value=False), None).cast(pl.Int64)


def _dates(text: pl.Series) -> pl.Series:
    return text.str.to_date("%Y-%m-%d", strict=False, cache=False)


def _datetimes(text: pl.Series) -> pl.Series:
    """ISO text to UTC without a zone; a time with an offset is moved to UTC, one without is taken as UTC."""
    iso = text.str.replace(" ", "T", literal=True)
    result = iso.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="us")
    if result.null_count() == text.null_count():
        return result
    zoned = iso.str.contains(_ZONED) & iso.str.contains("T", literal=True)
    for pattern in ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z"):
        moved = iso.set(~zoned.fill_null(value=False), None).str.to_datetime(pattern, strict=False, time_unit="us")
        result = result.fill_null(moved.dt.convert_time_zone("UTC").dt.replace_time_zone(None))
    result = result.fill_null(iso.str.to_datetime("%Y-%m-%dT%H:%M", strict=False, time_unit="us"))
    return result.fill_null(iso.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")))


def _from_typed(series: pl.Series, have: ColumnType | None, to: ColumnType) -> pl.Series:
    nothing = pl.Series(series.name, [None], dtype=DTYPES[to]).new_from_index(0, series.len())
    if have is None:
        return nothing
    if have == "datetime":
        series = _utc(series)
    if have == to or (have, to) in {("int", "float"), ("date", "datetime")}:
        return series.cast(DTYPES[to], strict=False)
    if (have, to) == ("float", "int"):
        return _whole(series.cast(pl.Float64))
    if (have, to) == ("datetime", "date"):
        midnight = series == series.dt.truncate("1d")
        return series.set(~midnight.fill_null(value=False), None).cast(pl.Date)
    if (have, to) == ("bytes", "str"):
        return pl.Series(series.name, [_utf8(cell) for cell in series], dtype=pl.String)
    return series.cast(pl.String) if to == "str" else nothing


def _utf8(cell: bytes | None) -> str | None:
    try:
        return None if cell is None else cell.decode()
    except UnicodeDecodeError:
        return None


def _utc(series: pl.Series) -> pl.Series:
    if getattr(series.dtype, "time_zone", None) is not None:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return series.cast(pl.Datetime("us"))
