"""``data.query``: the user's SQL over the sources, run by DuckDB in a locked room.

The room sees the Parquet files of the sources as views and may write into one scratch folder; nothing else of the
disk, no network, no extensions, and the settings cannot be opened again from SQL. Exactly one SELECT is accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interlock.errors import SettingsError, bounded
from interlock.records import Column

if TYPE_CHECKING:
    import duckdb

_MEMORY = "1GB"


@dataclass(frozen=True, kw_only=True)
class View:
    """One source for the query: its Parquet files, columns, and the key of which only the newest (first) row counts."""

    paths: Sequence[str]
    columns: Sequence[Column]
    key: Sequence[str]
    keep_first: bool = False


def run_query(sql: str, views: Mapping[str, View], target: Path) -> None:
    """Write the result of ``sql`` over ``views`` to the Parquet file ``target``; its folder is also DuckDB's scratch.

    Raises :class:`SettingsError` with DuckDB's own words for SQL that is wrong, no SELECT, or reaches outside.
    """
    import duckdb

    with duckdb.connect(":memory:") as room:
        for name, view in views.items():
            room.execute(f"create view {quoted(name)} as {_view(view)}")
        _lock(room, views, target.parent)
        try:
            statements = room.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise SettingsError(
                    f"data.query must be one SELECT; it holds {len(statements)} statements.",
                    next_step="Write one SELECT (a WITH before it is fine) over the sources by name.",
                )
            result = room.sql(statements[0].query)
            _write(result, target)
        except duckdb.Error as error:
            raise SettingsError(
                f"data.query failed: {bounded(str(error), 600)}",
                next_step=f"Mend the SQL. Sources: {', '.join(views)}.",
                error=type(error).__name__,
            ) from error


def quoted(name: str) -> str:
    """Quote an identifier for SQL."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _text(value: str) -> str:
    escaped = value.replace("'", "''")
    return f"'{escaped}'"


def _view(view: View) -> str:
    columns = ", ".join(quoted(column.name) for column in view.columns)
    files = ", ".join(_text(path) for path in view.paths)
    rows = f"read_parquet([{files}], union_by_name = true)"
    if not view.key:
        return f"select {columns} from {rows}"  # noqa: S608  every part is quoted
    key = ", ".join(quoted(name) for name in view.key)
    way = "asc" if view.keep_first else "desc"
    newest = f"row_number() over (partition by {key} order by _seq {way}, _row {way}) = 1"
    return f"select {columns} from {rows} qualify {newest}"  # noqa: S608  every part is quoted


def _lock(room: "duckdb.DuckDBPyConnection", views: Mapping[str, View], scratch: Path) -> None:
    paths = ", ".join(_text(path) for view in views.values() for path in view.paths)
    room.execute(f"set memory_limit = '{_MEMORY}'")
    room.execute(f"set temp_directory = {_text(str(scratch))}")
    room.execute("set TimeZone = 'UTC'")
    room.execute("set preserve_insertion_order = false")
    room.execute("set autoinstall_known_extensions = false")
    room.execute("set autoload_known_extensions = false")
    room.execute("set python_enable_replacements = false")
    room.execute(f"set allowed_paths = [{paths}]")
    room.execute(f"set allowed_directories = [{_text(str(scratch))}]")
    room.execute("set enable_external_access = false")
    room.execute("set lock_configuration = true")


def _write(result: "duckdb.DuckDBPyRelation", target: Path) -> None:
    """Write with types that a column of Interlock can have: sums of ints are ints again, decimals are floats."""
    names = result.columns
    twice = sorted({name for name in names if [each.lower() for each in names].count(name.lower()) > 1})
    if twice:
        raise SettingsError(
            f"data.query gives column '{twice[0]}' more than once.",
            next_step="Name the columns you want, or join with 'using (...)'.",
            columns=twice,
        )
    cells = [_cell(name, str(kind)) for name, kind in zip(names, result.types, strict=True)]
    result.project(", ".join(cells)).write_parquet(str(target), compression="zstd")


def _cell(name: str, kind: str) -> str:
    column = quoted(name)
    if kind.endswith("[]") or kind.startswith(("STRUCT", "MAP", "UNION", "BIT", "LIST", "ARRAY")):
        raise SettingsError(
            f"data.query gives column '{name}' of type {bounded(kind, 60)}, which is no plain value.",
            next_step="Cast it to a number, text, boolean, date or timestamp in the query.",
        )
    if kind in ("HUGEINT", "UHUGEINT", "UBIGINT"):
        return f"cast({column} as bigint) as {column}"
    if kind.startswith("DECIMAL"):
        return f"cast({column} as double) as {column}"
    if kind.startswith(("TIMESTAMP", "DATETIME")):
        return f"cast({column} as timestamp) as {column}"
    plain = (
        "BOOLEAN",
        "TINYINT",
        "SMALLINT",
        "INTEGER",
        "BIGINT",
        "UTINYINT",
        "USMALLINT",
        "UINTEGER",
        "FLOAT",
        "DOUBLE",
    )
    return column if kind in (*plain, "DATE", "VARCHAR", "BLOB") else f"cast({column} as varchar) as {column}"
