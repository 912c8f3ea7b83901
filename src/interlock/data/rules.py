"""Rules that the owner of data has agreed to, and the cells that break them.

A document (:mod:`interlock.data.odcs`) is read into a :class:`Contract`. A finding names the rule, never a value.
"""

from collections.abc import Collection, Sequence
from typing import Literal

import polars as pl

from interlock.data.casting import DTYPES, convert, logical
from interlock.data.opening import shown
from interlock.data.signature import CELL_SCHEMA
from interlock.errors import DataRefused
from interlock.records import ColumnType, Record

Kind = Literal[
    "required", "allowed", "forbidden", "at-least", "above", "at-most", "below", "shortest", "longest", "pattern",
    "multiple",
]  # fmt: skip


class Agreed(Record, frozen=True, kw_only=True):
    """One column of a contract: its place in the document, its type (None: left open), and whether it must be there."""

    name: str
    path: str
    type: ColumnType | None = None
    required: bool = False


class Rule(Record, frozen=True, kw_only=True):
    """A condition on every cell of a column; an empty cell breaks ``required`` and no other.

    value: a number or ISO text for a bound, texts for a list of values, a regular expression (found anywhere) for a
    ``pattern``, a number of characters or of a step. name: what messages call it.
    """

    column: str
    name: str
    kind: Kind
    value: int | float | str | tuple[str, ...] = 0


class Unique(Record, frozen=True, kw_only=True):
    """Columns that together hold no value twice; a row in which all of them are empty is let through."""

    columns: tuple[str, ...]
    name: str


class Contract(Record, frozen=True, kw_only=True):
    """What a document says of one source. ``notes``: what it says and nobody enforces, by JSON path."""

    file: str
    digest: str
    key: tuple[str, ...] = ()
    columns: tuple[Agreed, ...] = ()
    rules: tuple[Rule, ...] = ()
    unique: tuple[Unique, ...] = ()
    notes: tuple[str, ...] = ()

    def require(self, columns: Collection[str], file: str) -> None:
        """Raise :class:`DataRefused` when a required column is not among the columns of ``file``."""
        missing = [each for each in self.columns if each.required and each.name not in columns]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataRefused(
                f"Column '{shown(missing[0].name)}'{more} is missing from {shown(file)}, and {shown(self.file)} "
                f"requires it ({missing[0].path}). Nothing was ingested.",
                next_step="Send the file with it, or change the contract.",
                missing=[each.name for each in missing],
            )


def told(name: str) -> str:
    """Why a cell is bad, in words."""
    return f"breaks '{shown(name, 60)}' of the contract"


def check_rules(frame: pl.DataFrame, rules: Sequence[Rule]) -> pl.DataFrame:
    """Cells of ``frame`` that break a rule: frame (row UInt64 from 0, column, reason); the first rule broken counts."""
    masks = [(rule, _broken(rule, frame.schema[rule.column])) for rule in rules if rule.column in frame.columns]
    if not masks or not frame.height:
        return pl.DataFrame(schema=CELL_SCHEMA)
    times = frame.select(mask.sum().alias(str(place)) for place, (_, mask) in enumerate(masks)).row(0)
    found = [
        frame.select(mask.arg_true().cast(pl.UInt64).alias("row")).with_columns(
            column=pl.lit(rule.column), reason=pl.lit(told(rule.name))
        )
        for (rule, mask), broken in zip(masks, times, strict=True)
        if broken
    ]
    cells = pl.concat(found) if found else pl.DataFrame(schema=CELL_SCHEMA)
    return cells.unique(subset=["row", "column"], keep="first", maintain_order=True)


def _broken(rule: Rule, dtype: pl.DataType) -> pl.Expr:
    """True where a cell breaks the rule; never null."""
    cell = pl.col(rule.column)
    if rule.kind == "required":
        return cell.is_null()
    if isinstance(rule.value, tuple):
        known = cell.is_in(_typed(rule.value, dtype).implode())
        broken = ~known if rule.kind == "allowed" else known
    elif rule.kind in ("shortest", "longest", "pattern"):
        broken = _badly_written(cell.cast(pl.String), rule)
    elif rule.kind == "multiple":
        broken = cell % pl.lit(rule.value) != 0
    else:
        bound = _bound(rule.value, dtype)
        broken = {"at-least": cell < bound, "above": cell <= bound, "at-most": cell > bound, "below": cell >= bound}[
            rule.kind
        ]
    return broken.fill_null(value=False)


def _badly_written(text: pl.Expr, rule: Rule) -> pl.Expr:
    if rule.kind == "pattern":
        return ~text.str.contains(str(rule.value))
    length, bound = text.str.len_chars(), pl.lit(rule.value)
    return length < bound if rule.kind == "shortest" else length > bound


def _typed(values: Sequence[str], dtype: pl.DataType) -> pl.Series:
    """Values of a list as the column has them; one that could not stand in it is left out."""
    text = pl.Series("values", list(values), dtype=pl.String)
    kind = logical(dtype)
    return text if kind in (None, "str") else convert(text, kind)[0].drop_nulls().cast(dtype)


def _bound(value: float | str | tuple[str, ...], dtype: pl.DataType) -> pl.Expr:
    if not isinstance(value, str):
        return pl.lit(value)
    kind: ColumnType = "date" if logical(dtype) == "date" else "datetime"
    return pl.lit(convert(pl.Series([value]), kind)[0].item(), dtype=DTYPES[kind])
