"""Files of the batch inbox become published predictions, by the release in force: staged, audited, published, recorded.

The final name of an answer file holds the digest of the file it answers and the generation of the release. So a turn
that was killed after publishing and before recording finds its own file again, and nothing is scored twice.
"""

from collections.abc import Callable
from pathlib import Path

from interlock.answer.outlet import FolderOutlet, open_outlet
from interlock.answer.waiting import SEEN, Desk, Waiting, hold_file
from interlock.errors import NotFound
from interlock.model.runner import Runner
from interlock.ports import Parts, Turn
from interlock.records import BatchResult, Column, Record, short

PROFILE_FILE = "profile.json"
_TOLD_EVERY_S = 2.0
_LASTING = ("raised", "nonsense")
"""Causes of a user's failure that the same bytes would meet again; a worker that was killed may be luckier next turn."""

RunnerFactory = Callable[[], Runner]


class _Rules(Record, kw_only=True):
    """Document ``batch_rules``: digest of the settings that a refusal rests on; others give the file another try."""

    rules: str


class _SourceColumns(Record, kw_only=True):
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
        result = scorer.adopt(file, output.name, output.name) or scorer.answer(file, output.name)
        _record(parts, turn, result, file, rules=None)
        return result


def _inbox_file(scorer: "_Scorer", file: Waiting) -> BatchResult | None:
    """Answer a file unless its bytes were answered before; None when there is nothing to tell."""
    if scorer.settled(file.digest):
        with scorer.turn.transaction(scorer.parts.ledger) as t:
            t.put("seen", f"{SEEN}/{file.name}", file.seen)
        return None
    stem = f"{_safe_stem(file.name)}-{short(file.digest)}-r"
    result = scorer.adopt(file, stem, None)
    if result is None:
        result = scorer.answer(file, f"{stem}{scorer.release.generation}.parquet")
    if not file.unchanged():
        return None
    _record(scorer.parts, scorer.turn, result, file, rules=scorer.rules)
    return result
