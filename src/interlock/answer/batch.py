"""Files of the batch inbox become published predictions, by the release in force: staged, audited, published, recorded.

The final name of an answer file holds the digest of the file it answers and the generation of the release. So a turn
that was killed after publishing and before recording finds its own file again, and nothing is scored twice.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

import msgspec
import polars as pl

from interlock.answer.audit import PREDICTION, PROBABILITY, Staged, audit, measure_shift, next_step
from interlock.answer.intake import Layout
from interlock.answer.outlet import FolderOutlet, Outlet, open_outlet, set_aside
from interlock.answer.scoring import Job, Scored, score
from interlock.answer.staging import LINEAGE, Seal, read_staged
from interlock.answer.waiting import IMAGES, SEEN, Desk, Waiting, hold_file
from interlock.data.images import Known, Verdict
from interlock.data.opening import shown
from interlock.data.profile import Profile
from interlock.data.readers import Unreadable
from interlock.errors import Conflict, DataRefused, NotFound, NothingToServe, UserCodeFailed
from interlock.model.bundle import Opened, open_bundle
from interlock.model.predictor import Predictor, open_predictor
from interlock.model.runner import Runner
from interlock.ports import Parts, Turn
from interlock.records import BatchResult, Column, ColumnType, Record, Release, digest, facts_of, short, timestamp
from interlock.release.registry import current, mark_served
from interlock.settings import Settings

PROFILE_FILE = "profile.json"
_TOLD_EVERY_S = 2.0
_LASTING = ("raised", "nonsense")
"""Causes of a failure that the same bytes would meet again; a worker that was killed may be luckier next turn."""

RunnerFactory = Callable[[], Runner]


class _Rules(Record, frozen=True, kw_only=True):
    """Document ``batch_rules``: digest of the settings that a refusal rests on; others give the file another try."""

    rules: str


class _SourceColumns(Record, frozen=True, kw_only=True):
    """The part of the document ``columns`` that is read here."""

    columns: tuple[Column, ...] = ()


# ---- the two ways in ---------------------------------------------------------------------------------------------


def score_inbox(parts: Parts, turn: Turn, runner_factory: RunnerFactory) -> list[BatchResult]:
    """Score every file of ``batch.inbox`` that no release has answered yet; one result for each that was looked at.

    ``runner_factory`` is called when the model needs a worker process. Raises :class:`NothingToServe` when files wait
    and there is no release, and :class:`Conflict` when somebody else's file stands where the answers belong.
    """
    settings = parts.settings
    if not settings.batch.inbox:
        return []
    scratch = settings.home / "work" / turn.id / "batch"
    outlet = open_outlet(settings, settings.batch.output, turn.id, scratch)
    outlet.sweep()
    desk = Desk(parts, turn, scratch)
    results = []
    with _Scorer(parts, turn, runner_factory, outlet, scratch) as scorer:
        if settings.batch.files == "images":
            return _score_images(scorer, desk)
        for arrival in desk.arrivals():
            known = desk.known_digest(arrival)
            if known is not None and scorer.settled(known):
                continue
            with desk.hold(arrival) as file:
                result = _inbox_file(scorer, file) if file is not None else None
            if result is not None:
                turn.say(_told(result))
                results.append(result)
    return results


class _Pending(Record, frozen=True, kw_only=True):
    """Document ``pending`` of the batch inbox: the images that are being answered.

    After a kill their answers are found by this, though other images may have come and the groups be others.
    """

    digest: str = ""
    images: dict[str, Known] = msgspec.field(default_factory=dict)


def _score_images(scorer: "_Scorer", desk: Desk) -> list[BatchResult]:
    """Answer all images that wait, in groups; each group is one file of answers, with a row for each name."""
    results = []
    pending = scorer.parts.ledger.read("pending", SEEN, _Pending) or _Pending()
    if pending.digest:
        file = Waiting(name=IMAGES, path=Path(), digest=pending.digest, images=pending.images)
        found = scorer.found(file, _stem(file))
        if found is not None:
            _record(scorer, file, found, remember=True)
            results.append(found)
    for file in desk.images(scorer.verdict, scorer.rules):
        name = f"{_stem(file)}{scorer.release.generation}.parquet"
        with scorer.turn.transaction(scorer.parts.ledger) as t:
            t.put("pending", SEEN, _Pending(digest=file.digest, images=dict(file.images)))
        result = scorer.answer(file, name)
        if result is not None:
            _record(scorer, file, result, remember=True)
            scorer.turn.say(_told(result))
            results.append(result)
    return results


def score_file(parts: Parts, turn: Turn, path: Path, output: Path, runner_factory: RunnerFactory) -> BatchResult:
    """Score one file into ``output`` (Parquet) by the release in force, under the same audits as the inbox.

    Raises :class:`NotFound`, :class:`NothingToServe`, and :class:`Conflict` when ``output`` is something else.
    """
    if not path.is_file():
        raise NotFound(f"There is no file {path}.", next_step="Name a CSV, Parquet or JSON lines file.", path=str(path))
    scratch = parts.settings.home / "work" / turn.id / "batch"
    outlet = FolderOutlet(output.parent, parts.settings.root, turn.id)
    with _Scorer(parts, turn, runner_factory, outlet, scratch) as scorer:
        file = hold_file(path)
        result = scorer.found_at(file, output.name) or scorer.answer(file, output.name)
        if result is None:
            raise Conflict(f"{path} changed while it was scored.", next_step="Run again when it is whole.")
        _record(scorer, file, result, remember=False)
        return result


def _inbox_file(scorer: "_Scorer", file: Waiting) -> BatchResult | None:
    """Answer a file unless its bytes were answered before; None when there is nothing to tell."""
    if scorer.settled(file.digest):
        scorer.turn.say(f"{shown(file.name)}: the same bytes were scored before")
        with scorer.turn.transaction(scorer.parts.ledger) as t:
            t.put("seen", f"{SEEN}/{file.name}", file.seen)
        return None
    stem = _stem(file)
    result = scorer.found(file, stem)
    if result is None:
        result = scorer.answer(file, f"{stem}{scorer.release.generation}.parquet")
    if result is not None:
        _record(scorer, file, result, remember=True)
    return result


def _stem(file: Waiting) -> str:
    """What the names of all answers to this file begin with; the generation follows."""
    return f"{_safe_stem(file.name)}-{short(file.digest)}-r"


def _safe_stem(name: str) -> str:
    """The file's own name without its suffix, in characters that every file system and shell takes."""
    stem = Path(name).name.removesuffix(".gz").rpartition(".")[0]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).strip("._-")[:64] or "file"


def _told(result: BatchResult) -> str:
    if result.status == "published":
        rate = result.scored / result.seconds if result.seconds > 0 else 0.0
        return f"{shown(result.name)}: {result.scored:,} rows scored by {result.form} ({rate:,.0f} rows/s)"
    return f"{shown(result.name)}: {result.status}. {result.reason}"


def _record(scorer: "_Scorer", file: Waiting, result: BatchResult, *, remember: bool) -> None:
    """Write event, documents and the proof that the release served, in one transaction."""
    rate = result.rows / result.seconds if result.seconds > 0 else None
    facts = {**facts_of(result), "rows_per_second": rate}
    key = f"{result.digest}/{result.model}"
    with scorer.turn.transaction(scorer.parts.ledger) as t:
        event = t.append(f"batch.{result.status}", result.name, facts)
        if remember and scorer.lasting:
            t.put("batch", key, result)
            t.put("batch_rules", key, _Rules(rules=scorer.rules))
            if file.seen is not None:
                t.put("seen", f"{SEEN}/{file.name}", file.seen)
            for name, known in file.images.items():
                t.put("seen", f"{SEEN}/{name}", known)
        if file.images:
            t.put("pending", SEEN, _Pending())
        if result.status == "published":
            mark_served(t, result.generation, event.sequence)


# ---- the release in force, at work -------------------------------------------------------------------------------


class _Scorer:
    """Scores files by the release in force, whose bundle is opened and verified when the first file needs it.

    ``lasting``: whether the last result would be the same again, so that it is worth remembering.
    """

    def __init__(self, parts: Parts, turn: Turn, runner_factory: RunnerFactory, outlet: Outlet, scratch: Path) -> None:
        self.parts, self.turn = parts, turn
        self.lasting = True
        self._runner_factory, self._outlet, self._scratch = runner_factory, outlet, scratch
        self._stack = ExitStack()
        self._in_force = current(parts.ledger)
        self._said_s = parts.clock.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def release(self) -> Release:
        """The release in force; raises :class:`NothingToServe`."""
        if self._in_force is None:
            raise NothingToServe(
                "There is no release yet, so nothing can answer.",
                next_step="Let a turn release a model first: interlock run.",
            )
        return self._in_force

    @cached_property
    def rules(self) -> str:
        """Digest of the settings that a refusal may rest on."""
        settings = self.parts.settings
        batch = settings.batch
        nullable = sorted({name for source in settings.sources.values() for name in source.nullable})
        limits = [batch.max_bad_rows, batch.max_shift, batch.max_new_categories]
        return digest([limits, batch.keep, nullable, _key_columns(settings)])

    @cached_property
    def _opened(self) -> Opened:
        return open_bundle(self.parts, self.release.champion)

    @cached_property
    def _predictor(self) -> Predictor:
        runner = self._runner_factory() if self._opened.bundle.form == "native" else None
        predictor = open_predictor(self._opened, runner, self.parts.settings)
        self._stack.callback(predictor.close)
        return predictor

    @cached_property
    def _layout(self) -> Layout:
        settings, inputs = self.parts.settings, self._opened.bundle.signature.inputs
        names = [*settings.batch.keep, *_key_columns(settings)]
        known: dict[str, ColumnType] = {}
        for _, source in self.parts.ledger.scan("columns", _SourceColumns):
            known.update({column.name: column.type for column in source.columns})
        return Layout(
            inputs=inputs,
            nullable=frozenset(name for source in settings.sources.values() for name in source.nullable),
            keep=lambda present: _kept(settings, present),
            encoded=self._opened.bundle.form != "native",
            types={name: known.get(name, "str") for name in names},
        )

    def settled(self, file_digest: str) -> bool:
        """Tell whether a release answered this file, it was unreadable, or this model refused it under these rules."""
        return self.verdict(file_digest) != "open"

    def verdict(self, file_digest: str) -> Verdict:
        """Answered (or unreadable): done. Refused: by this model, under these rules."""
        ledger = self.parts.ledger
        found = ledger.scan("batch", BatchResult, prefix=f"{file_digest}/")
        if any(result.status in ("published", "unreadable") for _, result in found):
            return "done"
        key = f"{file_digest}/{self.release.champion}"
        rules = ledger.read("batch_rules", key, _Rules)
        return "refused" if rules is not None and rules.rules == self.rules else "open"

    def found(self, file: Waiting, stem: str) -> BatchResult | None:
        """Find what a killed turn published under ``stem`` and could not record: the footer says what it is."""
        for name, path in self._outlet.published(stem):
            if re.fullmatch(r"\d+\.parquet", name.removeprefix(stem)) is None:
                continue
            staged, seal = read_staged(path)
            if seal is not None and seal.file == file.digest and seal.tally is not None:
                return self._adopted(file, name, staged, seal)
        return None

    def found_at(self, file: Waiting, name: str) -> BatchResult | None:
        """Find the answers of this release under exactly ``name``; raises :class:`Conflict` for anything else there."""
        there = next((path for published, path in self._outlet.published(name) if published == name), None)
        if there is None:
            return None
        staged, seal = read_staged(there)
        if seal is None or seal.tally is None or (seal.file, seal.model) != (file.digest, self.release.champion):
            raise self._taken(name, file)
        return self._adopted(file, name, staged, seal)

    def _taken(self, name: str, file: Waiting) -> Conflict:
        return Conflict(
            f"{self._outlet.shown(name)} is there, and it is not what this release answers to {shown(file.name)}.",
            next_step="Move it away, or name another output.",
            output=self._outlet.shown(name),
        )

    def _adopted(self, file: Waiting, name: str, staged: Staged, seal: Seal) -> BatchResult:
        tally = seal.tally
        assert tally is not None
        return BatchResult(
            name=file.name,
            digest=file.digest,
            status="published",
            generation=seal.generation,
            model=seal.model,
            rows=tally.rows,
            scored=staged.rows,
            quarantined=tally.quarantined,
            output=self._outlet.shown(name),
            form=seal.form,
            reason="Published by a turn that ended before it could record this; recognised by its footer.",
            at=seal.at,
        )

    # ---- one file ----

    def answer(self, file: Waiting, name: str) -> BatchResult | None:
        """Score, audit and publish one file as ``name``; None when its bytes changed meanwhile."""
        self.lasting = True
        started = self.parts.clock.monotonic()
        at = timestamp(self.parts.clock.now())
        blank = BatchResult(
            name=file.name,
            digest=file.digest,
            status="refused",
            generation=self.release.generation,
            model=self.release.champion,
            rows=0,
            scored=0,
            quarantined=0,
            form=self._opened.bundle.form,
            at=at,
        )
        try:
            scored = score(self._job(file, name, at), self._answer_rows, self._progress(file, started))
        except Unreadable as error:
            result = msgspec.structs.replace(
                blank, status="unreadable", reason=error.message, next_step=error.next_step
            )
        except (DataRefused, UserCodeFailed) as error:
            self.lasting = error.facts.get("cause", "raised") in _LASTING
            result = msgspec.structs.replace(blank, reason=error.message, next_step=error.next_step)
        else:
            if not file.unchanged():
                _discard(scored)
                self.turn.say(f"{shown(file.name)} changed while it was scored and was left for the next turn")
                return None
            result = self._judged(blank, scored, file, name)
        return msgspec.structs.replace(result, seconds=self.parts.clock.monotonic() - started)

    def _answer_rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        return self._predictor.predict(frame, encoded=True)

    def _job(self, file: Waiting, name: str, at: str) -> Job:
        bundle = self._opened.bundle
        return Job(
            path=file.path,
            layout=replace(self._layout, bad=file.bad),
            signature=bundle.signature,
            keys=frozenset(_key_columns(self.parts.settings)),
            seed=bundle.seed,
            seal=Seal(
                name=file.name,
                file=file.digest,
                model=self.release.champion,
                generation=self.release.generation,
                form=self._predictor.form,
                at=at,
            ),
            stage=self._outlet.staging(name),
            quarantine=self._outlet.staging(_quarantine_name(name)),
            scratch=self._scratch,
        )

    def _judged(self, blank: BatchResult, scored: Scored, file: Waiting, name: str) -> BatchResult:
        """Hold the staged file against the audits; publish it, or set it aside."""
        shift = measure_shift(self._reference, scored.sample)
        output, rules = self._opened.bundle.signature.output, self.parts.settings.batch
        audits = audit(scored.tally, scored.staged, scored.columns, output, rules, shift)
        failed = [one for one in audits if not one.passed]
        counted = msgspec.structs.replace(
            blank,
            rows=scored.tally.rows,
            scored=scored.tally.scored,
            quarantined=scored.tally.quarantined,
            audits=audits,
        )
        if failed:
            kept_at = self._set_aside(scored, name)
            reason = "; ".join(f"{one.name}: {one.reason}" for one in failed[:3])
            return msgspec.structs.replace(counted, reason=f"{reason}.{kept_at}", next_step=next_step(failed))
        if scored.bad is not None:
            self._publish(scored.bad, _quarantine_name(name), file)
        assert scored.answers is not None, "a file without answers fails the audit of rows"
        self._publish(scored.answers, name, file)
        return msgspec.structs.replace(counted, status="published", output=self._outlet.shown(name))

    def _publish(self, staged: Path, name: str, file: Waiting) -> None:
        """Give the final name. A name that is taken is fine when a killed turn gave it to the same thing."""
        if self._outlet.publish(staged, name):
            return
        there = next(path for published, path in self._outlet.published(name) if published == name)
        seal = read_staged(there)[1]
        if seal is None or (seal.file, seal.model) != (file.digest, self.release.champion):
            raise self._taken(name, file)

    def _set_aside(self, scored: Scored, name: str) -> str:
        """Keep what was refused where nobody takes it for published; says where."""
        folder = self.parts.settings.home / "refused"
        pairs = ((scored.answers, name), (scored.bad, _quarantine_name(name)))
        kept = [set_aside(path, folder, called) for path, called in pairs if path is not None]
        return f" What was scored is kept in {kept[0].parent}." if kept else ""

    @cached_property
    def _reference(self) -> Profile | None:
        path = self._opened.path / PROFILE_FILE
        return msgspec.json.decode(path.read_bytes(), type=Profile) if path.is_file() else None

    def _progress(self, file: Waiting, started: float) -> Callable[[int, int | None], None]:
        def tell(rows: int, total: int | None) -> None:
            now = self.parts.clock.monotonic()
            if now - self._said_s >= _TOLD_EVERY_S:
                self._said_s = now
                of = f" of {total:,}" if total is not None else ""
                self.turn.say(f"{shown(file.name)}: {rows:,}{of} rows ({rows / (now - started):,.0f} rows/s)")

        self._said_s = started
        return tell


def _discard(scored: Scored) -> None:
    for path in (scored.answers, scored.bad):
        if path is not None:
            path.unlink(missing_ok=True)


def _quarantine_name(name: str) -> str:
    return f"{name.removesuffix('.parquet')}.quarantine.parquet"


# ---- columns to keep ---------------------------------------------------------------------------------------------


def _key_columns(settings: Settings) -> tuple[str, ...]:
    """Columns that name a row: the key of the split and those of the sources."""
    names = [*settings.data.holdout.key]
    for source in settings.sources.values():
        names += source.key
    return tuple(dict.fromkeys(names))


def _kept(settings: Settings, present: Sequence[str]) -> tuple[str, ...]:
    """Columns of a file to copy next to the answers: ``batch.keep``, by default the key columns that are there.

    Raises :class:`DataRefused` when one that was asked for is not there, or is called like an answer column.
    """
    wanted = settings.batch.keep or tuple(name for name in _key_columns(settings) if name in present)
    if settings.batch.files == "images":
        wanted = ("file", *wanted)
    missing = [name for name in wanted if name not in present]
    if missing:
        raise DataRefused(
            f"Column '{shown(missing[0])}' of batch.keep is not in the file.",
            next_step="Add it to the file, or take it out of batch.keep.",
            columns=missing[:20],
        )
    clashing = [name for name in wanted if name == PREDICTION or name.startswith(PROBABILITY) or name in LINEAGE]
    if clashing:
        raise DataRefused(
            f"Column '{shown(clashing[0])}' is called like a column of the answers and cannot be kept.",
            next_step="Rename it in the file, or list other columns in batch.keep.",
            columns=clashing[:20],
        )
    return tuple(dict.fromkeys(wanted))
