"""What is live, read from the documents of the ledger: the light half of the registry, which every turn needs."""

from datetime import datetime

import msgspec

from interlock.errors import NotFound
from interlock.ports import Ledger, Transaction
from interlock.records import Receipt, Record, Release, timestamp


class Served(Record, frozen=True, kw_only=True):
    """A release that published an audited batch, told by the ledger entry ``sequence``."""

    sequence: int


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
    """Find the champions that were rolled back and not released again since, by digest."""
    taken: set[str] = set()
    before: Release | None = None
    for release in reversed(releases(ledger)):
        if before is not None and release.cause == "rollback":
            taken.add(before.champion)
        taken.discard(release.champion)
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
    """Generations that really published an audited batch."""
    return frozenset(int(key) for key, _ in ledger.scan("served", Served))


def mark_served(transaction: Transaction, generation: int, sequence: int) -> None:
    """Note, with the batch that proves it, that a release really served. The first proof stays."""
    key = generation_key(generation)
    if transaction.read("served", key, Served) is None:
        transaction.insert("served", key, Served(sequence=sequence))
