"""The hash chain of the ledger, as pure functions.

hash(n) = SHA-256 of the canonical JSON of event n without its ``hash``; it contains ``previous`` = hash(n - 1), so that
a change anywhere changes every hash after it (Haber and Stornetta, "How to Time-Stamp a Digital Document", Journal of
Cryptology 3, 1991, section 5.1).
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from interlock.errors import StoreFault, bounded
from interlock.records import Event, Verification, canonical, timestamp

GENESIS = "0" * 64
"""``previous`` of the first event."""

_text = msgspec.json.Encoder().encode
_facts = msgspec.json.Decoder(dict[str, Any])


def check_text(*texts: str) -> None:
    """Raise :class:`~interlock.errors.StoreFault` for a name that not every database can hold.

    Postgres has no NUL in text, and half a surrogate pair is no Unicode.
    """
    for text in texts:
        if "\0" in text or not _is_unicode(text):
            raise StoreFault(
                f"The name {bounded(ascii(text), 200)} holds a NUL or half a character; no ledger can keep it.",
                next_step="Rename what it stands for.",
            )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Row(NamedTuple):
    """An event as it is stored: ``facts`` is the canonical JSON text itself, so that checking it needs no decoding."""

    sequence: int
    at: str
    kind: str
    subject: str
    turn: str
    facts: str
    previous: str
    hash: str


class Head(NamedTuple):
    """The end of the chain: last sequence (0 when empty) and its hash."""

    sequence: int = 0
    hash: str = GENESIS


def chained(head: Head, moment: datetime, turn: str, kind: str, subject: str, facts: Mapping[str, Any]) -> Row:
    """Link the next event to ``head``; raises :class:`~interlock.errors.StoreFault` when it holds NaN or NUL."""
    check_text(turn, kind, subject)
    text = canonical(dict(facts)).decode()
    row = Row(head.sequence + 1, timestamp(moment), kind, subject, turn, text, head.hash, "")
    return row._replace(hash=_hash(row))


def event_of(row: Row | tuple[Any, ...]) -> Event:
    """Decode a stored row."""
    sequence, at, kind, subject, turn, facts, previous, digest = row
    return Event(
        sequence=sequence,
        at=at,
        kind=kind,
        subject=subject,
        turn=turn,
        facts=_facts.decode(facts),
        previous=previous,
        hash=digest,
    )


def check_chain(rows: Iterable[Row | tuple[Any, ...]]) -> Verification:
    """Recompute every hash of ``rows`` (in order of sequence) and name the first that does not hold.

    An end that was cut off cannot be seen from the chain alone: compare ``head`` with one noted elsewhere.
    """
    head = Head()
    for raw in rows:
        row = Row(*raw)
        reason = _broken(head, row)
        if reason:
            return Verification(
                events=head.sequence, head=head.hash, broken_at=head.sequence + 1, reason=bounded(reason, 300)
            )
        head = Head(row.sequence, row.hash)
    return Verification(events=head.sequence, head=head.hash)


def _broken(head: Head, row: Row) -> str:
    expected = head.sequence + 1
    if row.sequence != expected:
        return f"Event {expected} is missing: {row.sequence} follows {head.sequence}."
    if row.previous != head.hash:
        return f"Event {expected} ({row.kind}) does not follow the one before it: its 'previous' is another hash."
    if row.hash != _hash(row):
        return f"Event {expected} ({row.kind}) was changed after it was written."
    return ""


def _hash(row: Row) -> str:
    """Hash a row; joins the canonical JSON by hand (keys in order) because ``facts`` is canonical text already."""
    parts = (
        b'{"at":', _text(row.at), b',"facts":', str(row.facts).encode(), b',"kind":', _text(row.kind),
        b',"previous":', _text(row.previous), b',"sequence":', _text(row.sequence), b',"subject":', _text(row.subject),
        b',"turn":', _text(row.turn), b"}",
    )  # fmt: skip
    return hashlib.sha256(b"".join(parts)).hexdigest()
