"""Whose state this is, so that two projects that point to one database cannot mix.

The first to open a state writes its name there, and the mark of the lake that goes with it; whoever comes later with
another name or another lake is refused before anything is read or written. The state that a project keeps in its own
folder (``store.state = "sqlite"``) is its own under any name: there a model may be renamed freely.
"""

import secrets

from interlock.errors import Conflict, NotFound, SettingsError
from interlock.ports import Blobs, Ledger
from interlock.records import Record
from interlock.settings import Settings

COLLECTION, KEY = "project", "owner"
MARK = "lake-mark"
"""Key of the blob that tells one lake from another, wherever it is copied or mounted."""


class Owner(Record, frozen=True, kw_only=True):
    """Who keeps the state here. ``lake``: mark of the lake whose rows and bundles the state tells of."""

    name: str
    lake: str


def claim(ledger: Ledger, blobs: Blobs, settings: Settings, place: str) -> Owner:
    """Make the state this project's own, or see that it is; ``place`` names it for people.

    Raises :class:`~interlock.errors.SettingsError` when it belongs to another project or goes with another lake.
    """
    owner = ledger.read(COLLECTION, KEY, Owner)
    if owner is None:
        owner = _first(ledger, Owner(name=settings.project, lake=_mark(blobs)))
    if owner.name != settings.project and settings.store.state != "sqlite":
        raise SettingsError(
            f"The state in {place} belongs to project '{owner.name}', and this is '{settings.project}'. "
            "Nothing was touched.",
            next_step="Give this project a state of its own: store.state, or store.schema on Postgres. "
            f"If it is the same one under a new name, set store.project = '{owner.name}'.",
            state=place,
            owner=owner.name,
            project=settings.project,
        )
    if owner.lake != _mark(blobs):
        raise SettingsError(
            f"The state in {place} tells of another lake than {settings.store.lake}: what it tells of is not there.",
            next_step="Point store.lake at the lake that goes with this state, or give this project its own state.",
            state=place,
            lake=settings.store.lake,
        )
    return owner


def _first(ledger: Ledger, owner: Owner) -> Owner:
    try:
        with ledger.transaction() as transaction:
            transaction.insert(COLLECTION, KEY, owner)
    except Conflict:  # somebody else was faster
        return ledger.read(COLLECTION, KEY, Owner) or owner
    return owner


def _mark(blobs: Blobs) -> str:
    """The mark of the lake, made by whoever comes first."""
    try:
        return blobs.get(MARK).decode()
    except NotFound:
        blobs.put(MARK, secrets.token_hex(16).encode())
    return blobs.get(MARK).decode()
