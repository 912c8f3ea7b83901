"""Pin the accepted rows, join and split them, and write what training and judging see: once for the same inputs.

The snapshot's digest is of what it is made from: the accepted files of each source in order, the query and the split.
So an unchanged project is known without opening a table. ``training_digest`` and ``holdout_digest`` are of the rows
themselves (names, types and values, in the order written), because one of the two often stays the same when
data arrives, and the same holdout asked again must be recognised as the same.

Rows are ordered by the hash of their key (by time first, in a split by time): an order that does not depend on when
rows arrived, and as good as shuffled for a learner that looks at them in turn.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from interlock.data.agreement import Held
from interlock.data.casting import DTYPES, logical
from interlock.data.content import rows_digest
from interlock.data.dedupe import newest_rows
from interlock.data.layout import Layout
from interlock.data.pinned import require_intact, snapshot_frame, snapshot_path
from interlock.data.query import View, run_query
from interlock.data.sources import HOLDOUT, source_of
from interlock.data.split import (
    MARK,
    described,
    feature_names,
    in_holdout_by_key,
    in_holdout_by_time,
    key_names,
    key_types,
    mark,
    window_start,
)
from interlock.errors import DataRefused, SettingsError
from interlock.ports import Parts, Turn
from interlock.records import FileResult, ReferenceRows, Snapshot, SourceVersion, digest, facts_of, timestamp
from interlock.settings import Settings
from interlock.units import seconds

__all__ = [
    "feature_names",
    "key_names",
    "make_snapshot",
    "require_intact",
    "snapshot_frame",
    "snapshot_path",
]

_FORMAT = 1
"""Part of the digest: raise it when the same inputs begin to give other rows."""


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What one source contributes: how often files were accepted, and the digest of them in order."""

    name: str
    files: int
    digest: str
    layout: Layout


def make_snapshot(parts: Parts, turn: Turn) -> Snapshot:
    """The snapshot of everything accepted so far; a recorded one is returned as it is.

    Raises :class:`DataRefused` when there is nothing to train on or to judge by, or the target is missing or of one
    class only, and :class:`SettingsError` when the query or a column name in the settings is wrong.
    """
    settings = parts.settings
    inputs = _inputs(parts)
    name = digest(_made_from(settings, inputs))
    recorded = parts.ledger.read("snapshot", name, Snapshot)
    if recorded and all(parts.blobs.exists(key) for key in _keys(recorded)):
        _check_names({"model.features": settings.model.features}, recorded.columns)  # not part of what it is made from
        return recorded
    for source in inputs.values():
        if source.files == 0:
            raise DataRefused(
                f"No rows were accepted yet from source '{source.name}'.",
                next_step=f"Put a file into {source_of(settings, source.name).inbox} and run again.",
                source=source.name,
            )
    base = settings.home / "work" / turn.id
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="snapshot-", dir=base) as scratch:
        snapshot = _made(_Making(parts=parts, turn=turn, inputs=inputs, name=name, scratch=Path(scratch)))
    with turn.transaction(parts.ledger) as t:
        t.append("snapshot.made", snapshot.digest, facts_of(snapshot))
        t.put("snapshot", snapshot.digest, snapshot)
    return snapshot


def _keys(snapshot: Snapshot) -> list[str]:
    """Keys of all blobs of a snapshot."""
    return [snapshot.training_key, snapshot.holdout_key, *(reference.key for reference in snapshot.references)]


# ---- what it is made from --------------------------------------------------------------------------------------------


def _inputs(parts: Parts) -> dict[str, _Inputs]:
    names = list(parts.settings.sources)
    if parts.settings.data.holdout.inbox:
        names.append(HOLDOUT)
    return {name: _input(parts, name) for name in names}


def _input(parts: Parts, name: str) -> _Inputs:
    files = [result for _, result in parts.ledger.scan("file", FileResult, prefix=f"{name}/") if result.accepted]
    files.sort(key=lambda result: result.sequence)
    told = [[result.digest, result.accepted, result.updated] for result in files]
    layout = parts.ledger.read("columns", name, Layout) or Layout()
    return _Inputs(name=name, files=len(files), digest=digest(told), layout=layout)


def _made_from(settings: Settings, inputs: Mapping[str, _Inputs]) -> dict[str, Any]:
    rules = {name: source_of(settings, name) for name in inputs}
    references = [name for name in inputs if rules[name].reference]
    return {
        **({"references": references} if references else {}),
        "format": _FORMAT,
        "sources": [[name, each.digest, rules[name].key, rules[name].on_duplicate] for name, each in inputs.items()],
        "query": settings.data.query,
        "split": msgspec.to_builtins(settings.data.holdout),
        "target": settings.model.target,
        "task": settings.model.task,
    }


# ---- making it -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Making:
    """One snapshot in the making."""

    parts: Parts
    turn: Turn
    inputs: Mapping[str, _Inputs]
    name: str
    scratch: Path

    @property
    def settings(self) -> Settings:
        return self.parts.settings

    def rows(self, source: str) -> pl.LazyFrame:
        """Current rows of a source, user columns and lineage."""
        layout, rules = self.inputs[source].layout, source_of(self.settings, source)
        stored = self.parts.tables.scan(f"sources/{source}")
        stored = stored.select(*(column.name for column in layout.columns), "_seq", "_row")
        key = _resolving_key(layout, rules.key)
        return newest_rows(stored, key, first=rules.on_duplicate == "keep-first") if key else stored


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """Joined rows with their mark, in a scratch file; the user's columns and the key that was hashed."""

    rows: pl.LazyFrame
    schema: dict[str, pl.DataType]
    key: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Training or holdout, written and counted."""

    path: Path
    rows: int
    digest: str


def _resolving_key(layout: Layout, key: Sequence[str]) -> tuple[str, ...]:
    """Give the key when some key may have several stored rows, else nothing."""
    return tuple(key) if key and (layout.mixed or layout.key != tuple(key)) else ()


def _made(making: _Making) -> Snapshot:
    settings, notes = making.settings, list[str]()
    rows = _prepared(making, "rows", notes)
    training_rows, holdout_rows = _split(making, rows, notes)
    order = _order(settings, rows)
    training = _written(making, "training", training_rows, order)
    holdout = _written(making, "holdout", holdout_rows, order)
    _refuse_hopeless(settings, training, holdout)
    keys = [f"snapshots/{making.name}/{part.path.name}" for part in (training, holdout)]
    for key, part in zip(keys, (training, holdout), strict=True):
        making.parts.blobs.put(key, part.path)
    return Snapshot(
        digest=making.name,
        sources=tuple(_version(making, name) for name in making.inputs),
        query=settings.data.query,
        columns=tuple(rows.schema),
        rows=training.rows + holdout.rows,
        training_rows=training.rows,
        holdout_rows=holdout.rows,
        training_key=keys[0],
        holdout_key=keys[1],
        training_digest=training.digest,
        holdout_digest=holdout.digest,
        split=described(settings.data.holdout, rows.key),
        references=tuple(_references(making)),
        join_notes=tuple(notes),
        contracts=_contracts(making),
        at=timestamp(making.parts.clock.now()),
    )


def _contracts(making: _Making) -> dict[str, str]:
    """Digests of the contracts that the sources were last held against; a source without one is not among them."""
    ledger = making.parts.ledger
    named = [name for name in making.inputs if source_of(making.settings, name).contract]
    held = {name: ledger.read("contract", name, Held) for name in named}
    return {name: each.digest for name, each in held.items() if each is not None}


def _references(making: _Making) -> Iterator[ReferenceRows]:
    """Pin the rows of every source for reference, ordered by their key (by all columns without one)."""
    for name, source in making.settings.sources.items():
        if source.reference:
            rows = making.rows(name).drop("_seq", "_row")
            path = making.scratch / f"reference-{name}.parquet"
            order = list(source.key) or rows.collect_schema().names()
            rows.sort(order).sink_parquet(path, compression="zstd", compression_level=1)
            key, written = f"snapshots/{making.name}/{path.name}", pl.scan_parquet(path, glob=False)
            making.parts.blobs.put(key, path)
            yield ReferenceRows(source=name, key=key, digest=rows_digest(written), rows=_count(written))


def _version(making: _Making, name: str) -> SourceVersion:
    version = making.parts.tables.version(f"sources/{name}")
    each = making.inputs[name]
    assert version is not None
    return SourceVersion(
        source=name, version=version, rows=_count(making.rows(name)), files=each.files, digest=each.digest
    )


def _count(rows: pl.LazyFrame) -> int:
    return int(rows.select(pl.len()).collect(engine="streaming").item())


# ---- joining ---------------------------------------------------------------------------------------------------------


def _prepared(making: _Making, name: str, notes: list[str], *, first: str | None = None) -> _Prepared:
    """Join the sources (``first`` in the place of the first one), check the columns, and mark every row."""
    joined = _joined(making, name, notes, first)
    schema = {column: DTYPES[logical(dtype) or "str"] for column, dtype in joined.collect_schema().items()}
    _check_columns(making.settings, schema)
    key = key_names(making.settings, list(schema))
    typed = joined.select(pl.col(column).cast(dtype) for column, dtype in schema.items())
    path = making.scratch / f"{name}.parquet"
    typed.with_columns(mark(key_types(schema, key))).sink_parquet(path, compression="lz4")
    return _Prepared(rows=pl.scan_parquet(path, glob=False), schema=schema, key=key)


def _joined(making: _Making, name: str, notes: list[str], first: str | None) -> pl.LazyFrame:
    settings = making.settings
    if not settings.data.query:
        if len(settings.row_sources) > 1:
            raise SettingsError(
                f"There are {len(settings.row_sources)} sources and no data.query.",
                next_step=f"Say in data.query how {', '.join(settings.row_sources)} become one table.",
            )
        return making.rows(first or next(iter(settings.row_sources))).drop("_seq", "_row")
    target = making.scratch / f"{name}-query.parquet"
    used = {source: source for source in settings.sources}
    if first:
        used[next(iter(settings.row_sources))] = first
    views = {source: _view(making, table) for source, table in used.items()}
    run_query(settings.data.query, views, target, deadline_s=seconds(settings.data.query_deadline))
    result = pl.scan_parquet(target, glob=False)
    notes += _join_notes(making, used, result)
    return result


def _view(making: _Making, source: str) -> View:
    layout, rules = making.inputs[source].layout, source_of(making.settings, source)
    return View(
        paths=making.parts.tables.paths(f"sources/{source}"),
        columns=layout.columns,
        key=_resolving_key(layout, rules.key),
        keep_first=rules.on_duplicate == "keep-first",
    )


def _join_notes(making: _Making, used: Mapping[str, str], result: pl.LazyFrame) -> list[str]:
    """What the query dropped or multiplied, source by source, where its key can be found in the result."""
    notes, rows = [], _count(result)
    names = result.collect_schema().names()
    for source in making.settings.row_sources:
        table = used[source]
        key, total = list(source_of(making.settings, table).key), _count(making.rows(table))
        if not key or not set(key) <= set(names):
            if rows != total:
                notes.append(f"{table}: {total:,} rows went into the query, {rows:,} came out")
            continue
        own = making.rows(table).select(key)
        present = _count(result.select(key).unique().join(own, on=key, how="semi"))
        if present < total:
            notes.append(f"{table}: {total - present:,} of {total:,} rows are not in the result of the query")
        if rows > present and source == next(iter(making.settings.row_sources)):
            notes.append(f"{table}: {present:,} rows became {rows:,} in the query")
    return notes


def _check_columns(settings: Settings, schema: Mapping[str, pl.DataType]) -> None:
    """Raise :class:`SettingsError` for a column that the settings name and the rows lack."""
    spec, target = settings.data.holdout, settings.model.target
    _require_key(settings, schema)
    named = {"model.features": settings.model.features, "data.holdout.key": spec.key, "model.target": (target,)}
    if spec.last is not None:
        if not spec.time:
            raise SettingsError("data.holdout.last needs a time column.", next_step="Set data.holdout.time.")
        named["data.holdout.time"] = (spec.time,)
        if schema.get(spec.time) not in (None, pl.Date(), pl.Datetime("us")):
            raise SettingsError(
                f"data.holdout.time names '{spec.time}', which is {logical(schema[spec.time])} and no date or time.",
                next_step="Name a date or datetime column, or set its type under 'types' of the source.",
            )
    _check_names(named, tuple(schema))
    if settings.model.task in ("regression", "forecast") and target and not schema[target].is_numeric():
        raise DataRefused(
            f"The target '{target}' is {logical(schema[target])}, and a {settings.model.task} needs numbers.",
            next_step="Set its type under 'types' of the source, or the task.",
            column=target,
        )


def _require_key(settings: Settings, schema: Mapping[str, pl.DataType]) -> None:
    """Raise :class:`SettingsError` for a query that loses the key: its rows would be split without regard to it."""
    key = next(iter(settings.row_sources.values())).key
    lost = [name for name in key if name not in schema]
    spec = settings.data.holdout
    if settings.data.query and lost and not spec.key and spec.last is None:
        raise SettingsError(
            f"data.query leaves out '{lost[0]}', and rows of one key must not be learnt from and judged by at once.",
            next_step="Select it too (a key is no feature), or name the columns to split by in data.holdout.key.",
            column=lost[0],
        )


def _check_names(named: Mapping[str, Sequence[str]], columns: Sequence[str]) -> None:
    """Raise :class:`SettingsError` for a name, by the setting that holds it, that is no column."""
    for setting, names in named.items():
        for name in names:
            if name and name not in columns:
                raise SettingsError(
                    f"{setting} names column '{name}', which the data does not have.",
                    next_step=f"Columns: {', '.join(columns[:12])}.",
                    column=name,
                )


# ---- splitting -------------------------------------------------------------------------------------------------------


def _split(making: _Making, every: _Prepared, notes: list[str]) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Rows to train on and rows to judge by; what is dropped on the way is told in ``notes``."""
    settings, spec = making.settings, making.settings.data.holdout
    rows = _with_target(settings, every.rows, notes, "rows")
    if spec.inbox is not None:
        apart = _prepared(making, "apart", notes, first=HOLDOUT)
        if set(apart.schema) != set(every.schema):
            odd = sorted(set(apart.schema) ^ set(every.schema))
            raise DataRefused(
                f"Training and holdout have different columns ('{odd[0]}').",
                next_step="Send both with the same columns.",
                columns=odd,
            )
        holdout = _with_target(settings, apart.rows, notes, "rows of the holdout")
        on = list(every.key or every.schema)
        apart_keys = apart.rows.select(pl.col(name).cast(every.schema[name]) for name in on)
        training = rows.join(apart_keys, on=on, how="anti", nulls_equal=True)
        shared = _count(rows) - _count(training)
        if shared:
            notes.append(f"{shared:,} rows were left out of training: their key is in the holdout")
        return training, holdout.select(*every.schema, MARK)
    if spec.last is not None and spec.time is not None:
        return _by_time(rows, spec.time, spec.last, notes)
    if spec.fraction is None:
        raise SettingsError("data.holdout says no rule.", next_step="Set fraction, or last and time, or inbox.")
    kept = in_holdout_by_key(spec.fraction)
    return rows.filter(~kept), rows.filter(kept)


def _with_target(settings: Settings, rows: pl.LazyFrame, notes: list[str], what: str) -> pl.LazyFrame:
    target = settings.model.target
    if not target:
        return rows
    empty = int(rows.select(pl.col(target).null_count()).collect(engine="streaming").item())
    if empty:
        notes.append(f"{empty:,} {what} without a target were left out")
    return rows.filter(pl.col(target).is_not_null()) if empty else rows


def _by_time(rows: pl.LazyFrame, time: str, last: str, notes: list[str]) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    when = pl.col(time).cast(pl.Datetime("us"))
    newest, empty = rows.select(when.max().alias("newest"), when.null_count().alias("empty")).collect().row(0)
    if newest is None:
        raise DataRefused(f"Column '{time}' holds no time at all.", next_step="Send rows with their time.", column=time)
    if empty:
        notes.append(f"{empty:,} rows without a {time} were left out")
        rows = rows.filter(when.is_not_null())
    start: datetime = window_start(newest, last)
    judged = in_holdout_by_time(time, start)
    notes.append(f"judged on {time} from {start.isoformat(sep=' ')} to {newest.isoformat(sep=' ')}")
    return rows.filter(~judged), rows.filter(judged)


# ---- writing ---------------------------------------------------------------------------------------------------------


def _order(settings: Settings, rows: _Prepared) -> list[str]:
    """Columns that put the rows into an order that does not depend on when they arrived."""
    spec = settings.data.holdout
    time = [spec.time] if spec.time and spec.time in rows.schema else []
    only = next(iter(settings.row_sources.values())).key
    unique = not rows.key or (not settings.data.query and set(only) <= set(rows.key) and bool(only))
    if rows.schema.get("image") == pl.Binary and "file" in rows.schema and not settings.data.query:
        return [*time, MARK, "file"]
    return [*time, MARK] if unique else [*time, MARK, *(name for name in rows.schema if name not in time)]


def _written(making: _Making, name: str, rows: pl.LazyFrame, order: Sequence[str]) -> _Part:
    path = making.scratch / f"{name}.parquet"
    rows.sort(order).drop(MARK).sink_parquet(path, compression="zstd", compression_level=1)
    written = pl.scan_parquet(path, glob=False)
    return _Part(path=path, rows=_count(written), digest=rows_digest(written))


def _refuse_hopeless(settings: Settings, training: _Part, holdout: _Part) -> None:
    """Raise :class:`DataRefused` when nothing can be learnt, or nothing judged."""
    for name, part in (("training", training), ("holdout", holdout)):
        if part.rows == 0:
            raise DataRefused(
                f"The {name} would have no rows ({training.rows:,} for training, {holdout.rows:,} for the holdout).",
                next_step="Send more rows, or change [data] holdout.",
                training=training.rows,
                holdout=holdout.rows,
            )
    target = settings.model.target
    if settings.model.task == "classification" and target:
        classes = pl.scan_parquet(training.path, glob=False).select(pl.col(target).n_unique()).collect().item()
        if classes < 2:
            raise DataRefused(
                f"The target '{target}' has one class only in the {training.rows:,} rows of training.",
                next_step="Send rows of the other classes too, or name another target.",
                column=target,
            )
