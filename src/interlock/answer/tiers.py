"""Who answers: the champion, and while its bundle is damaged or cannot be loaded, who stands in for it.

Nothing is released by this: the champion stays the champion. That it is damaged, and who answered in its place, is a
fact of the ledger (``champion.damaged``, and ``champion.mended`` when it opens again), recorded once for each new
finding. A store that does not answer is no damage: then nobody knows, and the turn ends with that fault.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec

from interlock.errors import BundleCorrupt, InterlockError, NotFound, UserCodeFailed
from interlock.model.bundle import Opened, open_bundle
from interlock.model.predictor import Predictor, open_predictor
from interlock.model.runner import Runner
from interlock.ports import Parts, Turn
from interlock.records import Release, Tier, facts_of, short, timestamp
from interlock.release.standing import DAMAGE, Damage

RunnerFactory = Callable[[], Runner]


@dataclass(frozen=True, kw_only=True)
class OnDuty:
    """Who answers now. ``damage``: why it is not the champion."""

    tier: Tier
    opened: Opened
    predictor: Predictor
    damage: Damage | None = None

    @property
    def model(self) -> str:
        """Digest of the bundle that answers."""
        return self.opened.bundle.digest


def take_duty(parts: Parts, turn: Turn, release: Release, runner_factory: RunnerFactory, stack: ExitStack) -> OnDuty:
    """Open the first model of the release that can answer; its predictor is closed by ``stack``.

    A champion that the breaker has taken off duty is not asked. Raises what is wrong with the first that is asked
    (:class:`BundleCorrupt`, :class:`NotFound`, :class:`UserCodeFailed`) when no other can answer either.
    """
    failures: dict[Tier, InterlockError] = {}
    for tier, model in _tiers(parts, release):
        try:
            opened = open_bundle(parts, model)
            runner = runner_factory() if opened.bundle.form == "native" else None
            predictor = open_predictor(opened, runner, parts.settings)
            stack.callback(predictor.close)
            predictor.ready()
        except (BundleCorrupt, NotFound, UserCodeFailed) as problem:
            turn.withhold(problem.message, problem.recorded)
            turn.say(f"the {tier} model {short(model)} cannot answer: {problem.message}")
            failures[tier] = problem
            continue
        if tier == "champion":
            _mended(parts, turn, release)
        if tier == "champion" or release.route != "champion":
            return OnDuty(tier=tier, opened=opened, predictor=predictor)
        found = _note(parts, turn, release, failures, tier, model)
        return OnDuty(tier=tier, opened=opened, predictor=predictor, damage=found)
    if release.route == "champion":
        _note(parts, turn, release, failures, None, "")
    raise next(iter(failures.values()))


def _tiers(parts: Parts, release: Release) -> Iterator[tuple[Tier, str]]:
    """The models of a release, in the order in which they are asked."""
    models: dict[Tier, str | None] = {"last-good": release.last_good, "baseline": release.baseline}
    if release.route == "champion":
        yield "champion", release.champion
    elif release.last_good:
        yield "last-good", release.last_good
    for tier in dict.fromkeys(parts.settings.batch.fallback):
        model = models[tier]
        if model and model != release.champion and (tier, release.route) != ("last-good", "last-good"):
            yield tier, model


# ---- the fact ----------------------------------------------------------------------------------------------------


def _note(
    parts: Parts, turn: Turn, release: Release, failures: dict[Tier, InterlockError], tier: Tier | None, model: str
) -> Damage:
    """Record what was found, unless it is what is recorded."""
    problem = failures["champion"]
    found = Damage(
        generation=release.generation,
        what="cannot be loaded" if isinstance(problem, UserCodeFailed) else "is damaged",
        failures={name: each.recorded for name, each in failures.items()},
        tier=tier,
        model=model,
        next_step=_next_step(parts, release, problem, tier),
        at=timestamp(parts.clock.now()),
    )
    with turn.transaction(parts.ledger) as t:
        before = t.read(DAMAGE, release.champion, Damage)
        if before is not None and msgspec.structs.replace(found, at=before.at, entry=before.entry) == before:
            return before
        event = t.append("champion.damaged", release.champion, facts_of(found))
        found = msgspec.structs.replace(found, entry=event.sequence)
        t.put(DAMAGE, release.champion, found)
    return found


def _mended(parts: Parts, turn: Turn, release: Release) -> None:
    """Record that a champion that was damaged opens again."""
    before = parts.ledger.read(DAMAGE, release.champion, Damage)
    if before is None or before.mended:
        return
    with turn.transaction(parts.ledger) as t:
        t.append("champion.mended", release.champion, {"generation": release.generation, "damaged": before.entry})
        t.put(DAMAGE, release.champion, msgspec.structs.replace(before, mended=True))
    turn.note(f"the champion {short(release.champion)} can be opened again and answers")


def _next_step(parts: Parts, release: Release, problem: InterlockError, tier: Tier | None) -> str:
    """How the champion is mended, or else replaced."""
    if isinstance(problem, UserCodeFailed):
        mend = "Mend what keeps it from loading ('interlock doctor' looks at the environment)"
    else:
        mend = f"Restore {parts.settings.store.lake}/bundles/{release.champion} from a backup"
    if tier == "last-good":
        return f'{mend}, or release the last good model: interlock rollback --because "…".'
    return f"{mend}, or send new rows or change the code, and run 'interlock run' for another champion."
