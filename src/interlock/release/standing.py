"""What is live, read from the documents of the ledger: the light half of the registry, which every turn needs."""

from datetime import datetime
from typing import Literal

import msgspec

from interlock.errors import NotFound
from interlock.ports import Ledger, Transaction
from interlock.records import Receipt, Record, Release, Tier, facts_of, short, timestamp
from interlock.release.canary import Ended, Tally, Trial

TRIAL = "trial"
"""Collection of the documents :class:`~interlock.release.canary.Trial`, by the generation that began each."""
TALLY = "tally"
"""Collection of the documents :class:`~interlock.release.canary.Tally`, by trial and server."""
DAMAGE = "damage"
"""Collection of the documents :class:`Damage`, by the digest of the champion."""
_NAMED = {
    "champion": "the champion",
    "challenger": "the challenger",
    "last-good": "the last good model",
    "baseline": "the baseline",
}


class Served(Record, frozen=True, kw_only=True):
    """A release that really served, told by the ledger entry ``sequence``: a batch, or the end of a canary."""

    sequence: int


class Damage(Record, frozen=True, kw_only=True):
    """A champion that cannot answer: since when, why, and who answers batches in its place.

    ``failures`` says by tier what is wrong with each that was asked. ``tier`` and ``model`` are who could answer, None
    and empty when nobody could. ``entry`` is the ledger entry that tells of it; ``mended`` when it opened again.
    """

    generation: int
    what: Literal["is damaged", "cannot be loaded"]
    failures: dict[str, str]
    tier: Tier | None
    model: str = ""
    next_step: str = ""
    at: str = ""
    entry: int = 0
    mended: bool = False

    def told(self, champion: str) -> str:
        """The finding in words, for the champion with this digest."""
        named = f"The champion {short(champion)} of release {self.generation}"
        told = [f"{named} {self.what}: {self.failures['champion']}"]
        told += [f"So with {_NAMED[tier]}: {why}" for tier, why in self.failures.items() if tier != "champion"]
        if self.tier is None:
            return " ".join([*told, "Nobody answers."])
        return " ".join([*told, f"{named_tier(self.tier).capitalize()} {short(self.model)} answers in its place."])


def named_tier(tier: Tier) -> str:
    """A tier in words."""
    return _NAMED[tier]


def damage_of(ledger: Ledger, release: Release | None) -> Damage | None:
    """Read what is known to be wrong with the champion of a release; None when nothing is, as of its last opening."""
    found = ledger.read(DAMAGE, release.champion, Damage) if release is not None else None
    return None if found is None or found.mended else found


def generation_key(generation: int) -> str:
    """Make the document key of a generation, which sorts as text."""
    return f"{generation:010d}"


def current(ledger: Ledger) -> Release | None:
    """Read the release in force, or None."""
    found = ledger.scan("release", Release, newest_first=True, limit=1)
    return found[0][1] if found else None


def releases(ledger: Ledger) -> list[Release]:
    """Read all releases, newest first."""
    return [release for _, release in ledger.scan("release", Release, newest_first=True)]


def release_at(ledger: Ledger, moment: datetime) -> Release | None:
    """Find the release that was in force at a time (timezone-aware), or None before the first."""
    asked = timestamp(moment)
    return next((release for release in releases(ledger) if release.at <= asked), None)


def taken_back(ledger: Ledger) -> frozenset[str]:
    """Find the models that were rolled back, or dropped as challengers, and not released again since, by digest."""
    taken: set[str] = set()
    before: Release | None = None
    for release in reversed(releases(ledger)):
        if before is not None and release.cause == "rollback" and release.champion != before.champion:
            taken.add(before.champion)
        if before is not None and before.challenger and release.cause in ("rollback", "canary"):
            taken.add(before.challenger)
        taken -= {release.champion, release.challenger or release.champion}
        before = release
    return frozenset(taken)


def receipt_at(ledger: Ledger, sequence: int) -> Receipt:
    """Read the receipt of ledger entry ``sequence``; raises :class:`NotFound` when that is no decision."""
    found = ledger.events(kinds=["gate.decided"], after=sequence - 1, limit=1)
    if not found or found[0].sequence != sequence:
        raise NotFound(
            f"Entry {sequence} of the ledger is not a decision.",
            next_step="Entries of the kind gate.decided are in 'interlock history --events'.",
            sequence=sequence,
        )
    return msgspec.convert(found[0].facts, Receipt)


def that_served(ledger: Ledger) -> frozenset[int]:
    """Generations that really served: they published an audited batch, or answered a canary to its end."""
    return frozenset(int(key) for key, _ in ledger.scan("served", Served))


def mark_served(transaction: Transaction, generation: int, sequence: int) -> None:
    """Note, with the entry that proves it, that a release really served. The first proof stays."""
    key = generation_key(generation)
    if transaction.read("served", key, Served) is None:
        transaction.insert("served", key, Served(sequence=sequence))


def make_release(transaction: Transaction, release: Release) -> None:
    """Write a release and its event; raises :class:`Conflict` when that generation exists."""
    transaction.insert("release", generation_key(release.generation), release)
    transaction.append("release.made", str(release.generation), facts_of(release))


# ---- the challenger ----------------------------------------------------------------------------------------------


def trial_of(ledger: Ledger, release: Release | None) -> Trial | None:
    """Read the trial of the challenger of a release in force; None where it has none, or a newer one has begun."""
    if release is None or release.challenger is None:
        return None
    found = ledger.scan(TRIAL, Trial, newest_first=True, limit=1)
    return found[0][1] if found and found[0][1].challenger == release.challenger else None


def tallies_of(ledger: Ledger, trial: Trial) -> tuple[Tally, ...]:
    """Read what every server saw of a trial."""
    return tuple(tally for _, tally in ledger.scan(TALLY, Tally, prefix=f"{generation_key(trial.began)}/"))


def end_trial(transaction: Transaction, ended: Ended) -> int:
    """Write the receipt of a trial's end; its entry."""
    return transaction.append("canary.ended", ended.trial.challenger, facts_of(ended)).sequence


def ended_at(ledger: Ledger, sequence: int) -> Ended | None:
    """Read the receipt of a trial's end that is ledger entry ``sequence``; None when that is another."""
    found = ledger.events(kinds=["canary.ended"], after=sequence - 1, limit=1)
    return msgspec.convert(found[0].facts, Ended) if found and found[0].sequence == sequence else None
