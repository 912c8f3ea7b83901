"""Files of the batch inbox become published predictions, by the release in force: staged, audited, published, recorded.

The final name of an answer file holds the digest of the file it answers and the generation of the release. So a turn
that was killed after publishing and before recording finds its own file again, and nothing is scored twice. While the
champion is damaged, another model of the release answers (:mod:`interlock.answer.tiers`), and what is written says so.
"""

import re
from pathlib import Path

import msgspec

from interlock.answer.outlet import FolderOutlet, open_outlet
from interlock.answer.scorer import Rules, Scorer
from interlock.answer.tiers import RunnerFactory
from interlock.answer.waiting import IMAGES, SEEN, Desk, Waiting, hold_file
from interlock.data.images import Known
from interlock.data.opening import shown
from interlock.errors import Conflict, NotFound
from interlock.ports import Parts, Turn
from interlock.records import BatchResult, Record, facts_of, short
from interlock.release.standing import current, damage_of, mark_served, named_tier

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
    with Scorer(parts, turn, runner_factory, outlet, scratch) as scorer:
        if damage_of(parts.ledger, current(parts.ledger)) is not None:
            _ = scorer.on_duty  # it may be mended since
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


def _score_images(scorer: Scorer, desk: Desk) -> list[BatchResult]:
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
    with Scorer(parts, turn, runner_factory, outlet, scratch) as scorer:
        file = hold_file(path)
        result = scorer.found_at(file, output.name) or scorer.answer(file, output.name)
        if result is None:
            raise Conflict(f"{path} changed while it was scored.", next_step="Run again when it is whole.")
        _record(scorer, file, result, remember=False)
        return result


def _inbox_file(scorer: Scorer, file: Waiting) -> BatchResult | None:
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
        by = result.form if result.tier == "champion" else f"{named_tier(result.tier)} ({result.form})"
        return f"{shown(result.name)}: {result.scored:,} rows scored by {by} ({rate:,.0f} rows/s)"
    return f"{shown(result.name)}: {result.status}. {result.reason}"


def _record(scorer: Scorer, file: Waiting, result: BatchResult, *, remember: bool) -> None:
    """Write event, documents and the proof that the release served, in one transaction."""
    rate = result.rows / result.seconds if result.seconds > 0 else None
    kept = msgspec.structs.replace(result, reason=scorer.turn.recordable(result.reason))
    facts = {**facts_of(kept), "rows_per_second": rate}
    key = f"{result.digest}/{result.model}"
    with scorer.turn.transaction(scorer.parts.ledger) as t:
        event = t.append(f"batch.{result.status}", result.name, facts)
        if remember and scorer.lasting:
            t.put("batch", key, kept)
            t.put("batch_rules", key, Rules(rules=scorer.rules))
            if file.seen is not None:
                t.put("seen", f"{SEEN}/{file.name}", file.seen)
            for name, known in file.images.items():
                t.put("seen", f"{SEEN}/{name}", known)
        if file.images:
            t.put("pending", SEEN, _Pending())
        if result.status == "published" and result.tier == "champion":
            mark_served(t, result.generation, event.sequence)
