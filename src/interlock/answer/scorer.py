"""The release in force at work: one file is found answered, or scored, audited and published under its final name."""

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

from interlock.answer.audit import PROBABILITY, Staged, audit, measure_shift, next_step
from interlock.answer.intake import Layout
from interlock.answer.kept import kept_columns, key_columns
from interlock.answer.outlet import Outlet, set_aside
from interlock.answer.scoring import Job, Scored, score
from interlock.answer.staging import Seal, read_staged
from interlock.answer.tiers import OnDuty, RunnerFactory, take_duty
from interlock.answer.waiting import Waiting
from interlock.data.images import Verdict
from interlock.data.opening import shown
from interlock.data.profile import Profile
from interlock.data.readers import Unreadable
from interlock.errors import Conflict, DataRefused, NothingToServe, UserCodeFailed
from interlock.ports import Parts, Turn
from interlock.records import BatchResult, Column, ColumnType, Output, Record, Release, digest, timestamp
from interlock.release.standing import current

_TOLD_EVERY_S = 2.0
_LASTING = ("raised", "nonsense")
"""Causes of a failure that the same bytes would meet again; a worker that was killed may be luckier next turn."""


class Rules(Record, frozen=True, kw_only=True):
    """Document ``batch_rules``: digest of the settings that a refusal rests on; others give the file another try."""

    rules: str


class _SourceColumns(Record, frozen=True, kw_only=True):
    """The part of the document ``columns`` that is read here."""

    columns: tuple[Column, ...] = ()


class Scorer:
    """Scores files by the release in force; who answers is opened and verified when the first file needs it.

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
        return digest([limits, batch.keep, nullable, key_columns(settings)])

    @cached_property
    def on_duty(self) -> OnDuty:
        """Who answers; raises what is wrong with the champion when nobody can."""
        return take_duty(self.parts, self.turn, self.release, self._runner_factory, self._stack)

    @cached_property
    def _layout(self) -> Layout:
        settings, inputs = self.parts.settings, self.on_duty.opened.bundle.signature.inputs
        names = [*settings.batch.keep, *key_columns(settings)]
        known: dict[str, ColumnType] = {}
        for _, source in self.parts.ledger.scan("columns", _SourceColumns):
            known.update({column.name: column.type for column in source.columns})
        return Layout(
            inputs=inputs,
            nullable=frozenset(name for source in settings.sources.values() for name in source.nullable),
            keep=lambda present: kept_columns(settings, present),
            encoded=self.on_duty.opened.bundle.form != "native",
            types={name: known.get(name, "str") for name in names},
        )

    def settled(self, file_digest: str) -> bool:
        """Tell whether a release answered this file, it was unreadable, or this model refused it under these rules."""
        return self.verdict(file_digest) != "open"

    def verdict(self, file_digest: str) -> Verdict:
        """Answered (or unreadable): done. Refused: by the champion, or by who is on duty, under these rules."""
        found = dict(self.parts.ledger.scan("batch", BatchResult, prefix=f"{file_digest}/"))
        if any(result.status in ("published", "unreadable") for result in found.values()):
            return "done"
        if self._refused(file_digest, self.release.champion):
            return "refused"
        others = {self.release.last_good, self.release.baseline} - {self.release.champion, None}
        if any(f"{file_digest}/{model}" in found for model in others):  # else nobody has to be opened to tell
            return "refused" if self._refused(file_digest, self.on_duty.model) else "open"
        return "open"

    def _refused(self, file_digest: str, model: str) -> bool:
        rules = self.parts.ledger.read("batch_rules", f"{file_digest}/{model}", Rules)
        return rules is not None and rules.rules == self.rules

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
        if seal is None or seal.tally is None or not self._is_ours(seal, file):
            raise self._taken(name, file)
        return self._adopted(file, name, staged, seal)

    def _is_ours(self, seal: Seal, file: Waiting) -> bool:
        """Tell whether it is what is answered to this file now: by the champion, or by who is on duty."""
        if seal.file != file.digest:
            return False
        return seal.model == self.release.champion or (
            seal.generation == self.release.generation and seal.model == self.on_duty.model
        )

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
            tier=seal.tier,
            rows=tally.rows,
            scored=staged.rows,
            quarantined=tally.quarantined,
            output=self._outlet.shown(name),
            form=seal.form,
            classes=seal.classes,
            reason="Published by a turn that ended before it could record this; recognised by its footer.",
            at=seal.at,
        )

    # ---- one file ----

    def answer(self, file: Waiting, name: str) -> BatchResult | None:
        """Score, audit and publish one file as ``name``; None when its bytes changed meanwhile."""
        self.lasting = True
        started = self.parts.clock.monotonic()
        at = timestamp(self.parts.clock.now())
        duty = self.on_duty
        blank = BatchResult(
            name=file.name,
            digest=file.digest,
            status="refused",
            generation=self.release.generation,
            model=duty.model,
            tier=duty.tier,
            rows=0,
            scored=0,
            quarantined=0,
            form=duty.opened.bundle.form,
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
            self.turn.withhold(error.message, error.recorded)
            result = msgspec.structs.replace(blank, reason=error.message, next_step=error.next_step)
        else:
            if not file.unchanged():
                _discard(scored)
                self.turn.say(f"{shown(file.name)} changed while it was scored and was left for the next turn")
                return None
            result = self._judged(blank, scored, file, name)
        return msgspec.structs.replace(result, seconds=self.parts.clock.monotonic() - started)

    def _answer_rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        return self.on_duty.predictor.predict(frame, encoded=True)

    def _job(self, file: Waiting, name: str, at: str) -> Job:
        duty = self.on_duty
        bundle = duty.opened.bundle
        return Job(
            path=file.path,
            layout=replace(self._layout, bad=file.bad),
            signature=bundle.signature,
            keys=frozenset(key_columns(self.parts.settings)),
            seed=bundle.seed,
            seal=Seal(
                name=file.name,
                file=file.digest,
                model=duty.model,
                generation=self.release.generation,
                tier=duty.tier,
                form=duty.predictor.form,
                classes=tuple((bundle.signature.output and bundle.signature.output.classes) or ()),
                at=at,
            ),
            stage=self._outlet.staging(name),
            quarantine=self._outlet.staging(_quarantine_name(name)),
            scratch=self._scratch,
        )

    def _judged(self, blank: BatchResult, scored: Scored, file: Waiting, name: str) -> BatchResult:
        """Hold the staged file against the audits; publish it, or set it aside."""
        shift = measure_shift(self._reference, scored.sample)
        output, rules = self.on_duty.opened.bundle.signature.output, self.parts.settings.batch
        audits = audit(scored.tally, scored.staged, scored.columns, output, rules, shift)
        failed = [one for one in audits if not one.passed]
        counted = msgspec.structs.replace(
            blank,
            rows=scored.tally.rows,
            scored=scored.tally.scored,
            quarantined=scored.tally.quarantined,
            classes=_classes(scored.columns, output),
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
        published = msgspec.structs.replace(counted, status="published", output=self._outlet.shown(name))
        damage = self.on_duty.damage
        if damage is None:
            return published
        told = damage.told(self.release.champion)
        return msgspec.structs.replace(published, reason=told, next_step=damage.next_step)

    def _publish(self, staged: Path, name: str, file: Waiting) -> None:
        """Give the final name. A name that is taken is fine when a killed turn gave it to the same thing."""
        if self._outlet.publish(staged, name):
            return
        there = next(path for published, path in self._outlet.published(name) if published == name)
        seal = read_staged(there)[1]
        if seal is None or (seal.file, seal.model) != (file.digest, self.on_duty.model):
            raise self._taken(name, file)

    def _set_aside(self, scored: Scored, name: str) -> str:
        """Keep what was refused where nobody takes it for published; says where."""
        folder = self.parts.settings.home / "refused"
        pairs = ((scored.answers, name), (scored.bad, _quarantine_name(name)))
        kept = [set_aside(path, folder, called) for path, called in pairs if path is not None]
        return f" What was scored is kept in {kept[0].parent}." if kept else ""

    @cached_property
    def _reference(self) -> Profile | None:
        return self.on_duty.opened.reference()

    def _progress(self, file: Waiting, started: float) -> Callable[[int, int | None], None]:
        def tell(rows: int, total: int | None) -> None:
            now = self.parts.clock.monotonic()
            if now - self._said_s >= _TOLD_EVERY_S:
                self._said_s = now
                of = f" of {total:,}" if total is not None else ""
                self.turn.say(f"{shown(file.name)}: {rows:,}{of} rows ({rows / (now - started):,.0f} rows/s)")

        self._said_s = started
        return tell


def _classes(columns: Sequence[str], output: Output | None) -> tuple[str | int | bool, ...]:
    """Labels that the columns of probabilities are for, in their order; none when there are no such columns."""
    return tuple((output and output.classes) or ()) if any(name.startswith(PROBABILITY) for name in columns) else ()


def _discard(scored: Scored) -> None:
    for path in (scored.answers, scored.bad):
        if path is not None:
            path.unlink(missing_ok=True)


def _quarantine_name(name: str) -> str:
    return f"{name.removesuffix('.parquet')}.quarantine.parquet"
