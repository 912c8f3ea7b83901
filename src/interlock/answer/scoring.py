"""One file through one model: read, checked, answered, counted and staged, in bounded memory."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from interlock.answer.audit import PREDICTION, PROBABILITY, Staged, Tally
from interlock.answer.intake import Layout, open_intake
from interlock.answer.overlap import ahead
from interlock.answer.staging import LINEAGE, Quarantine, Seal, Stage
from interlock.answer.tally import Counter, with_codes
from interlock.errors import UserCodeFailed
from interlock.model.answers import COMPANIED
from interlock.records import Signature

Predict = Callable[[pl.DataFrame], pl.DataFrame]
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to score and where to put it: ``stage`` and ``quarantine`` are paths of files that do not exist yet."""

    path: Path
    layout: Layout
    signature: Signature
    keys: frozenset[str]
    seed: int
    seal: Seal
    stage: Path
    quarantine: Path
    scratch: Path


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What came of it. ``columns`` are those that the file of answers must have; ``bad`` is None without bad rows."""

    tally: Tally
    staged: Staged
    columns: tuple[str, ...]
    sample: pl.DataFrame
    answers: Path | None
    bad: Path | None


def score(job: Job, predict: Predict, progress: Progress) -> Scored:
    """Score a file. ``progress`` is told the rows so far, and all rows where the file tells them.

    Raises :class:`~interlock.data.readers.Unreadable`, :class:`DataRefused` (a column is missing), and
    :class:`UserCodeFailed`; then nothing is left on the disk.
    """
    with ExitStack() as stack:
        intake = stack.enter_context(open_intake(job.path, job.seal.name, job.layout, job.scratch))
        quarantine = stack.enter_context(Quarantine(job.quarantine, job.seal))
        stage = stack.enter_context(Stage(job.stage, job.seal))
        counter: Counter | None = None
        columns: tuple[str, ...] = ()
        for chunk in ahead(intake.chunks()):
            counter = counter or Counter(
                job.signature, tuple(name for name in chunk.kept if name in job.keys), job.seed
            )
            quarantine.add(chunk.bad)
            counter.read_rows(chunk)
            if chunk.frame.height:
                answers, unknown = with_codes(_answered(predict, chunk.frame), job.signature.output)
                counter.add(chunk, answers, unknown)
                columns = columns or _expected(tuple(chunk.kept), answers.columns, job.signature)
                stage.add(chunk, answers)
            progress(counter.read, intake.rows)
        tally = counter.tally() if counter else Tally(rows=0, scored=0, quarantined=0)
        quarantine.finish()
        staged = stage.finish(tally)
        return Scored(
            tally=tally,
            staged=staged,
            columns=columns,
            sample=counter.sample() if counter else pl.DataFrame(),
            answers=job.stage if tally.scored else None,
            bad=quarantine.path,
        )


def _answered(predict: Predict, frame: pl.DataFrame) -> pl.DataFrame:
    """One answer per row, in order, or UserCodeFailed."""
    answers = predict(frame)
    if answers.height != frame.height or PREDICTION not in answers.columns:
        raise UserCodeFailed(
            f"The model gave {answers.height:,} answers for {frame.height:,} rows.",
            next_step="Let the inference function return one answer per row, in order.",
            cause="nonsense",
        )
    return answers


def _expected(kept: Sequence[str], answered: Sequence[str], signature: Signature) -> tuple[str, ...]:
    """Columns that the staged file must have, by the signature: all probabilities of the classes, or none.

    Rankings and text may come with columns of their own. Raises :class:`UserCodeFailed` when one is a kept column.
    """
    output = signature.output
    further = [name for name in answered if name.startswith(PROBABILITY)]
    if further and output is not None and output.classes is not None:
        further = [f"{PROBABILITY}{place}" for place in range(len(output.classes))]
    if output is not None and output.kind in COMPANIED:
        further = [name for name in answered if name != PREDICTION]
        for name in set(further) & set(kept):
            raise UserCodeFailed(
                f"The answer has a column '{name}', and so have the rows that it is published with.",
                next_step="Let the inference function call it something else, or change batch.keep.",
                cause="nonsense",
            )
    return (*kept, PREDICTION, *further, *LINEAGE)
